#!/bin/sh
# What the program says and returns: exit codes, sentences, and that a failure writes nothing.
#
#     run.sh ONNX-MPQ MAKE-INPUTS FOLDER
#
# FOLDER is made anew. Prints one line a case that differs, and exits 1 if any did.
set -u
program=$1
make_inputs=$2
folder=$3
rm -rf "$folder"
mkdir -p "$folder/out" "$folder/empty"
cd "$folder" || exit 1
"$make_inputs" . || exit 1
n_case=0
n_failed=0

complain()
{
    n_failed=$((n_failed + 1))
    printf 'FAILED: onnx-mpq %s\n  %s\n' "$arguments" "$1"
    sed 's/^/  | /' stdout stderr
}

# expect CODE TEXT ARGUMENT...: the exit code, and a part of stdout or stderr ('' for none).
expect()
{
    code=$1
    text=$2
    shift 2
    arguments=$*
    n_case=$((n_case + 1))
    "$program" "$@" >stdout 2>stderr </dev/null
    got=$?
    if [ "$got" -ne "$code" ]; then
        complain "exit code $got, expected $code"
    elif [ -n "$text" ] && ! cat stdout stderr | grep -qF -e "$text"; then
        complain "does not say: $text"
    fi
}

# refuse CODE TEXT ARGUMENT...: fails with one sentence on stderr, nothing on stdout, no file.
refuse()
{
    expect "$@"
    if [ -s stdout ]; then
        complain "prints to stdout"
    elif [ "$(grep -c '^onnx-mpq: ' stderr)" -ne "$(wc -l <stderr)" ]; then
        complain "a line does not begin with onnx-mpq:"
    elif [ "$(grep -vc '^onnx-mpq: warning: ' stderr)" -ne 1 ]; then
        complain "is not one sentence"
    elif [ -n "$(ls -A out)" ]; then
        complain "left something behind: $(ls -A out)"
        rm -rf out
        mkdir out
    fi
}

# refuse_convert CODE TEXT MODEL ARGUMENT...: refuse, of a conversion.
refuse_convert()
{
    code=$1
    text=$2
    model=$3
    shift 3
    refuse "$code" "$text" convert "$model" -o out/a.onnx --effort none "$@"
}

# ---- the command line ----
expect 2 'usage: onnx-mpq COMMAND'
expect 0 'usage: onnx-mpq COMMAND' --help
expect 0 'exit codes: 0 done' -h
expect 0 'BLAS' --version
for command in convert eval inspect lint; do
    expect 0 "usage: onnx-mpq $command MODEL.onnx" "$command" --help
done
expect 0 'usage: onnx-mpq search CHECKPOINT' search --help
expect 0 'usage: onnx-mpq apply CHECKPOINT PLAN.csv' apply --help
expect 0 'Default: 20%.' convert --help
expect 0 'Default: what the' search --help
refuse 2 "'transmogrify' is not a command" transmogrify
refuse 2 'did you mean inspect?' inspct
refuse 2 'convert needs a model' convert
refuse 2 'did you mean --size?' convert good.onnx --sise 15%
refuse 2 'is not a size' convert good.onnx --size lots
refuse 2 '--size is not an option of inspect' inspect good.onnx --size 15%
refuse 2 '--size is not an option of lint' lint good.onnx --size 15%
refuse 2 'eval needs samples' eval good.onnx
refuse 2 'none|quick|default|thorough' convert good.onnx --effort some
refuse 2 'default|paper' convert good.onnx --recipe own
refuse 2 '--size does not go with --recipe paper' convert good.onnx --recipe paper --size 15%
refuse 2 '--no-augment does not go with --recipe default' convert good.onnx --no-augment
refuse 2 'writes for --target ort' convert good.onnx --recipe paper --target qnn
refuse 2 'ort|int8|onnx|openvino|tensorrt|qnn|qnn16' convert good.onnx --target gpu

# ---- models ----
for command in 'inspect' 'lint' 'eval --data good.npz' 'convert -o out/a.onnx --effort none'; do
    # shellcheck disable=SC2086  # the words of $command
    {
        refuse 1 'missing.onnx' $command missing.onnx
        refuse 1 'text.onnx' $command text.onnx
        refuse 1 'empty.onnx' $command empty.onnx
        refuse 1 'truncated.onnx' $command truncated.onnx
        refuse 1 'nan.onnx' $command nan.onnx
        refuse 1 'empty' $command empty
    }
done
refuse 3 'unknown.onnx: 1 node cannot be run' eval unknown.onnx --data good.npz
refuse_convert 3 '(Blur of ai.onnx, opset 13)' unknown.onnx --data good.npz --recipe paper \
    --bitops W4A4
refuse 2 "the model has no input 'q'" inspect good.onnx --input-shape q=1x3
refuse 2 'is no shape of one sample' inspect good.onnx --input-shape x=1x3
refuse 2 'is not NAME=SIZExSIZE' inspect good.onnx --input-shape x=3x
refuse 2 'is no input of one integer or bool' inspect good.onnx --input-value x=1
refuse 2 'is not NAME=INTEGER' inspect good.onnx --input-value x
expect 0 'Blur' inspect unknown.onnx
expect 0 "carried as they are: 'pool' (Blur), 'flat' (Flatten), 'y' (Gemm)" inspect unknown.onnx
expect 0 '2 layers can be quantized' inspect good.onnx
expect 0 '[64,1,3,3]' inspect good.onnx

# ---- data ----
for data in 'wide.npz' 'named.npz' 'nan.npz' 'label.npz' 'empty' 'missing.npz' 'text.onnx'; do
    refuse 1 "$data" eval good.onnx --data "$data"
    refuse_convert 1 "$data" good.onnx --data "$data"
    [ "$data" = empty ] || refuse_convert 1 "$data" good.onnx --data good.npz --eval "$data"
done
expect 0 'top-1' eval good.onnx --data good.npz
expect 0 '40 samples' eval good.onnx --data good.npz
expect 0 'same top-1 100.00 %' eval good.onnx --data good.npz --reference good.onnx
expect 0 'not distinguishable' eval good.onnx --data good.npz --reference good.onnx
expect 0 'top-1' eval good.onnx --data good.npz --outputs y.npz
refuse 1 'exists already' eval good.onnx --data good.npz --outputs y.npz
expect 0 'top-1' eval good.onnx --data good.npz --outputs y.npz --overwrite

# ---- budgets and outputs ----
ln -s good.onnx link.onnx
cksum good.onnx good.npz >before
refuse 2 'the model and --output are the same file' convert good.onnx -o good.onnx
for name in ./good.onnx link.onnx out/../good.onnx; do
    refuse 2 'the model and --output are the same file' convert good.onnx -o $name --data good.npz --overwrite
done
refuse 2 'the model and --report' convert good.onnx -o out/a.onnx --report ./good.onnx --overwrite
refuse 2 'the model and the checkpoint' convert good.onnx -o out/a.onnx --checkpoint ./good.onnx --overwrite
refuse 2 '--data and --output' convert good.onnx -o ./good.npz --data good.npz --overwrite
refuse 2 '--output and --report' convert good.onnx -o out/a.onnx --report out/./a.onnx
refuse 2 'the checkpoint and --output' convert good.onnx -o out/a.npz --checkpoint out/./a.npz
refuse 2 'the checkpoint and --report' convert good.onnx -o out/a.onnx --checkpoint out/a.csv
refuse 2 '--data and --outputs' eval good.onnx --data good.npz --outputs ./good.npz --overwrite
refuse 1 'none/c.npz: cannot be written' convert good.onnx -o out/a.onnx --checkpoint none/c.npz
cksum good.onnx good.npz | cmp -s - before || complain "changed what it reads"
refuse 3 'nothing to search' convert good.onnx -o out/a.onnx --recipe paper --data good.npz
refuse_convert 4 'smallest' good.onnx --data good.npz --size 1%
refuse 1 'cannot be written' convert good.onnx -o none/a.onnx --data good.npz --effort none \
    --size 90%
: >out/a.onnx
expect 1 'exists already' convert good.onnx -o out/a.onnx --data good.npz --effort none --size 90%
[ -s out/a.onnx ] && complain "replaced an existing file"
expect 0 'file bytes' convert good.onnx -o out/a.onnx --data good.npz --effort none --size 90% \
    --overwrite
for file in out/a.onnx out/a.csv out/a.summary.csv; do
    [ -s "$file" ] || complain "did not write $file"
done
cp out/a.onnx first.onnx
expect 0 '' convert good.onnx -o out/a.onnx --data good.npz --effort none --size 90% --overwrite -q
cmp -s out/a.onnx first.onnx || complain "is not the same file twice"
[ -s stdout ] || [ -s stderr ] && complain "is not quiet"
expect 0 'top-1' eval out/a.onnx --data good.npz --reference good.onnx

# ---- a model that ends in nodes that cannot be run ----
rm -f out/*
expect 0 'carried       3 nodes not run, as before' convert unknown.onnx --data good.npz --effort none \
    --size 100% -o out/a.onnx
expect 3 'cannot be run' eval out/a.onnx --data good.npz
expect 0 'carried       3 nodes not run, as before' convert unknown.onnx --effort none --size 100% \
    -o out/a.onnx --overwrite

# ---- weights only: a model that cannot be run, and without data ----
rm -f out/*
refuse 2 'data does not go with --weights-only' convert good.onnx --weights-only --data good.npz
expect 0 'weight bits' convert unknown.onnx --weights-only --size 60% -o out/a.onnx
expect 0 'Blur' inspect out/a.onnx
expect 0 'file bytes' convert good.onnx --weights-only --size 60% -o out/a.onnx --overwrite
expect 0 'top-1' eval out/a.onnx --data good.npz --reference good.onnx
rm -f out/*
expect 0 'file bytes' convert good.onnx --data good.npz --effort none --size 90% --names none \
    -o out/a.onnx
expect 0 'top-1' eval out/a.onnx --data good.npz --reference good.onnx
expect 0 'file bytes' convert good.onnx --weights-only --names none --size 60% -o out/a.onnx \
    --overwrite
rm -f out/*
refuse 4 'smallest' convert good.onnx --weights-only --size 1% -o out/a.onnx

# ---- baselines ----
for baseline in rtn mse rounded; do
    rm -f out/*
    expect 0 'file bytes' convert good.onnx -o out/a.onnx --data good.npz --size 100% --baseline "$baseline"
done
rm -f out/*
refuse 4 'no single width' convert good.onnx -o out/a.onnx --data good.npz --size 1B \
    --baseline rtn

# ---- targets: each gives a file; what was tuned for one is refused by another ----
for target in ort int8 onnx openvino tensorrt qnn qnn16; do
    rm -f out/*
    expect 0 'file bytes' convert good.onnx -o out/a.onnx --data good.npz --effort none \
        --size 100% --bits 4,8 --target $target
    expect 0 'top-1' eval out/a.onnx --data good.npz --reference good.onnx
done
rm -f out/*
expect 0 '' convert good.onnx -o out/a.onnx --data good.npz --effort none --size 100% -q \
    --checkpoint out/tuned.npz
expect 0 '' convert good.onnx -o out/b.onnx --data good.npz --effort none --size 100% -q \
    --checkpoint out/tuned.npz --target int8
expect 3 'were not made for --target tensorrt' convert good.onnx -o out/c.onnx --data good.npz \
    --effort none --size 100% -q --checkpoint out/tuned.npz --target tensorrt
expect 3 'they were made for another --target' convert good.onnx -o out/c.onnx --data good.npz \
    --effort none --size 100% --bits 4 -q --checkpoint out/tuned.npz --target onnx
expect 1 'or was made for another --target' convert good.onnx -o out/c.onnx --data good.npz \
    --effort none --size 100% -q --checkpoint out/tuned.npz --target qnn

# ---- limits and layers picked ----
convert_again()
{
    code=$1
    text=$2
    shift 2
    expect "$code" "$text" convert good.onnx -o out/a.onnx --data good.npz --effort none --overwrite \
        "$@"
}
printf 'node,weight_bits,seconds\n"conv",8,0.002\n"conv",4,0.001\n"y",8,0.001\n' >latency.csv
printf 'node,weight_bits,seconds\n"conv",8,0.002\n' >short.csv
printf 'node,weight_bits,seconds\n"conv",9,0.002\n' >wide.csv
printf 'node,weight_bits,seconds\n"conv",3.5,0.002\n' >half.csv
printf 'node,weight_bits,seconds\n"other",8,0.002\n' >other.csv
printf 'node,seconds\n"conv",8\n' >column.csv
convert_again 0 'average width ' --avg-bits 4
convert_again 0 'BitOPs ' --bitops W4A4 --act-bits 4,8
convert_again 0 'BitOPs ' --bitops 50%
convert_again 0 'latency 2 of 2.5 ms' --latency latency.csv --max-latency 2.5ms
convert_again 0 'latency 2 of 2.5 ms' --exclude y --latency latency.csv --max-latency 2.5ms
convert_again 0 'binds' --bitops 60% --avg-bits 5 --size 90%
grep -q '^"binding_limits",' out/a.summary.csv || complain "does not say which limit binds"
convert_again 0 'file bytes' --size 90% --exclude 'Gemm'
grep -q '^"y"' out/a.csv && complain "quantized an excluded layer"
convert_again 0 'file bytes' --size 90% --lock 'c.*=5'
grep -q '^"conv","Conv",[0-9]*,[0-9]*,5,.*"lock"$' out/a.csv || complain "did not lock the layer"
rm -f out/*
refuse_convert 4 'no allocation fits BitOPs' good.onnx --data good.npz --bitops 10
refuse_convert 4 'no allocation fits latency of 1.5 ms; the smallest needs 2 ms' good.onnx \
    --data good.npz --latency latency.csv --max-latency 1.5ms
refuse_convert 4 'no allocation fits average width' good.onnx --data good.npz --avg-bits 3 \
    --lock '.*=4'
refuse_convert 1 "no row of the layer 'y'" good.onnx --data good.npz --latency short.csv \
    --max-latency 1s
refuse_convert 1 "row 2: weight_bits is '9'" good.onnx --data good.npz --latency wide.csv \
    --max-latency 1s
refuse_convert 1 "row 2: weight_bits is 3.5, not an integer" good.onnx --data good.npz --latency half.csv \
    --max-latency 1s
refuse_convert 1 "no layer is named 'other'" good.onnx --data good.npz --latency other.csv \
    --max-latency 1s
refuse_convert 1 "no column 'weight_bits'" good.onnx --data good.npz --latency column.csv \
    --max-latency 1s
refuse_convert 2 'go together' good.onnx --data good.npz --max-latency 1s
refuse_convert 2 'is not a time' good.onnx --data good.npz --max-latency 1
refuse_convert 2 'is not a number of BitOPs' good.onnx --data good.npz --bitops W9A4
refuse_convert 2 'is not a number from 2 to 8' good.onnx --data good.npz --avg-bits 9
refuse_convert 2 "'nothing' matches no layer" good.onnx --data good.npz --exclude nothing
refuse_convert 2 'is no regular expression' good.onnx --data good.npz --exclude '(conv'
refuse_convert 3 'all layers are excluded' good.onnx --data good.npz --exclude '.*'
grep -q weights-only stderr && complain "advises what would not help"
refuse_convert 2 'is not PATTERN=BITS' good.onnx --data good.npz --lock conv
refuse_convert 2 '7 is not one of the widths' good.onnx --data good.npz --lock conv=7
expect 0 'file bytes' convert good.onnx -o out/a.onnx --data good.npz --effort none --size 90%

rm -f out/*
expect 0 'within 50.00 points with a confidence of' convert good.onnx -o out/a.onnx --data good.npz \
    --effort none --max-drop 50
rm -f out/*
refuse_convert 4 'no file is within a drop of 0.1 points' good.onnx --data good.npz --max-drop 0.1
refuse_convert 2 '--max-drop needs samples' good.onnx --max-drop 1
refuse_convert 2 'is not a number of points' good.onnx --data good.npz --max-drop 0

# ---- one tuning, many budgets ----
rm -f out/*
expect 0 '' convert good.onnx -o a.onnx --data good.npz --effort none --size 90% --checkpoint t.npz \
    --bits 2,4,8 --act-bits 4,8 -q --overwrite
[ -s t.npz ] || complain "saved no checkpoint"
expect 0 'top1' search t.npz --size 60%,90% -o out/n.onnx
for file in out/n.60pct.onnx out/n.60pct.csv out/n.90pct.onnx out/n.budgets.csv; do
    [ -s "$file" ] || complain "did not write $file"
done
[ "$(wc -l <out/n.budgets.csv)" -eq 3 ] || complain "has not one row a budget"
cmp -s a.onnx out/n.90pct.onnx || complain "is not what convert wrote"
expect 1 'exists already' search t.npz --size 60% -o out/n.onnx
expect 0 'top1' search t.npz --size 60%,60% -o out/n.onnx --overwrite
[ "$(wc -l <out/n.budgets.csv)" -eq 2 ] || complain "makes one file twice"
rm -f out/*
expect 0 'top1' search t.npz --pareto 3 -o out/n.onnx
[ "$(ls out/*.onnx | wc -l)" -eq 3 ] || complain "did not write three files"
rm -f out/*
expect 0 'top1' search t.npz --pareto 3 --lock '.*=4' -o out/n.onnx
[ "$(ls out/*.onnx | wc -l)" -eq 1 ] || complain "wrote the one file there is more than once"
rm -f out/*
expect 0 'out/n.onnx' search t.npz --bitops W4A4 -o out/n.onnx
rm -f out/*
expect 0 'resumed       from t.npz' apply t.npz a.csv -o out/p.onnx
cmp -s a.onnx out/p.onnx || complain "is not what convert wrote"
rm -f out/*
sed 's/^"conv","Conv",\([0-9]*\),\([0-9]*\),[0-9]*/"conv","Conv",\1,\2,2/' a.csv >two.csv
sed 's/^"y","Gemm",\([0-9]*\),\([0-9]*\),[0-9]*/"y","Gemm",\1,\2,32/' a.csv >float.csv
sed 's/^"conv","Conv",\([0-9]*\),\([0-9]*\),[0-9]*/"conv","Conv",\1,\2,5/' a.csv >five.csv
sed 's/^\("[^"]*","[^"]*",[0-9]*,[0-9]*\),[0-9]*/\1,32/' a.csv >all.csv
sed 's/"conv"/"cone"/' a.csv >cone.csv
sed 's/,/;/g; s/"//g' a.csv >semicolons.csv
awk 'BEGIN { printf "\357\273\277" } { printf "%s\r\n", $0 } END { printf ",,\r\n\"\",,,\r\n" }' a.csv >sheet.csv
sed '$d' a.csv >less.csv
sed '$p' a.csv >more.csv
sed '1s/weight_bits/bits/' a.csv >header.csv
printf 'node,weight_bits\n"conv,8\n' >quote.csv
expect 0 'file bytes' apply t.npz sheet.csv -o out/p.onnx
cmp -s a.onnx out/p.onnx || complain "does not read what a spreadsheet saves"
expect 0 'file bytes' apply t.npz two.csv -o out/p.onnx --overwrite
grep -q '^"conv","Conv",[0-9]*,[0-9]*,2,.*"plan"$' out/p.csv || complain "did not take the width"
expect 0 'file bytes' apply t.npz float.csv -o out/p.onnx --overwrite
grep -q '^"y"' out/p.csv && complain "quantized a layer that should stay float"
rm -f out/*
refuse 1 'row 2: no layer is named' apply t.npz cone.csv -o out/p.onnx
refuse 1 'a width that the checkpoint has not got' apply t.npz five.csv -o out/p.onnx
refuse 1 'has no row of the layer' apply t.npz less.csv -o out/p.onnx
refuse 1 'is there already' apply t.npz more.csv -o out/p.onnx
refuse 1 "no column 'node' (commas part columns)" apply t.npz semicolons.csv -o out/p.onnx
refuse 1 "no column 'weight_bits'" apply t.npz header.csv -o out/p.onnx
refuse 1 'quote' apply t.npz quote.csv -o out/p.onnx
refuse 3 'all.csv: leaves all 2 layers in float' apply t.npz all.csv -o out/p.onnx
refuse 1 'missing.csv' apply t.npz missing.csv -o out/p.onnx
cksum t.npz a.csv >before
for name in ./t.npz ./a.csv good.npz good.onnx; do
    refuse 2 'are the same file' apply t.npz a.csv -o $name --overwrite
    [ $name = ./a.csv ] ||
        refuse 2 'are the same file' search t.npz --size 90% -o out/n.onnx --report $name --overwrite
done
cksum t.npz a.csv | cmp -s - before || complain "changed what it reads"
for name in out/n.90pct.onnx ./out/n.95pct.csv out/n.90pct.summary.csv; do
    refuse 2 'are the same file' search t.npz --size 90%,95% -o out/n.onnx --report $name --overwrite
done
expect 0 '' convert good.onnx -o e.onnx --data good.npz --effort none --size 100% --exclude conv --checkpoint e.npz -q
refuse 1 'e.npz: is a checkpoint of another model' search e.npz --exclude y --size 90% -o out/n.onnx
grep -q overwrite stderr && complain "offers to overwrite what is only read"
refuse_convert 1 '(--overwrite replaces it)' good.onnx --data good.npz --size 90% --exclude y --checkpoint e.npz
refuse 2 'apply needs a plan' apply t.npz
refuse 2 'needs a checkpoint' search --size 10%
refuse 2 'search needs a budget' search t.npz
refuse 2 'exclude each other' search t.npz --size 10% --pareto 3
refuse 2 '--max-drop finds the size' search t.npz --size 10% --max-drop 3
refuse 2 'is not a list of sizes' search t.npz --size 10%,
refuse 2 'from 2 to 64' search t.npz --pareto 1
refuse 4 'the smallest needs' search t.npz --size 90%,2% -o out/n.onnx
refuse 1 'good.npz: is no checkpoint, or one of --recipe paper' search good.npz --size 90% -o out/n.onnx
refuse 1 'moved.onnx' search t.npz --model moved.onnx --size 90% -o out/n.onnx
refuse 1 'no activations of 6 bits' search t.npz --act-bits 6,8 --size 90% -o out/n.onnx
refuse 1 'no array' search t.npz --bits 3,8 --size 90% -o out/n.onnx
expect 0 'file bytes' convert good.onnx -o out/a.onnx --data good.npz --effort none --size 90%

# ---- fewer threads than asked: all the work is done by those that there are ----
arguments='convert, one thread where two were asked for'
n_case=$((n_case + 1))
rm -f out/*
OMP_THREAD_LIMIT=1 timeout -s KILL 60 "$program" convert good.onnx -o out/a.onnx --data good.npz --bits 8 \
    --size 90% --effort none --threads 2 >stdout 2>stderr
got=$?
[ "$got" -eq 0 ] || complain "exit code $got, expected 0"
grep -q '^"threads",1$' out/a.summary.csv || complain "does not report one thread"

# ---- interruption: one signal ends it at the next step, with nothing written; until then its idle
# threads sleep, though nobody has asked for it ----
arguments='convert, interrupted'
n_case=$((n_case + 1))
rm -f out/*
unset OMP_WAIT_POLICY GOMP_SPINCOUNT
"$program" convert good.onnx -o out/a.onnx --data good.npz --size 90% --steps 100000000 \
    >stdout 2>stderr &
sleep 1
if [ -r "/proc/$!/environ" ]; then
    tr '\0' '\n' <"/proc/$!/environ" | grep -qx 'OMP_WAIT_POLICY=passive' || complain "spins"
    [ "$(cat "/proc/$!/comm")" = onnx-mpq ] || complain "shows as $(cat "/proc/$!/comm")"
fi
kill -TERM $!
wait $!
got=$?
[ "$got" -eq 130 ] || complain "exit code $got, expected 130"
grep -q '^onnx-mpq: interrupted' stderr || complain "does not say that it was interrupted"
[ -z "$(ls -A out)" ] || complain "left something behind: $(ls -A out)"

echo "$n_case cases, $n_failed failed"
[ "$n_failed" -eq 0 ]
