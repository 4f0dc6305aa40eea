/* The options, and --help, which is printed from them. */
#include "cli/option_table.h"

#include <string.h>

#define CONVERT       MPQ_COMMAND_CONVERT
#define EVAL          MPQ_COMMAND_EVAL
#define SEARCH        MPQ_COMMAND_SEARCH
#define APPLY         MPQ_COMMAND_APPLY
#define LINT          MPQ_COMMAND_LINT
#define ANY           MPQ_COMMAND_ANY
#define FROM          (SEARCH | APPLY) /* commands that begin with a checkpoint            */
#define MADE          (CONVERT | FROM)
#define KEPT          MPQ_OPTION_KEPT
#define FIELD(member) offsetof(struct mpq_options, member)
#define TYPED(member) offsetof(struct mpq_options, typed.member)

#define A_FILE      mpq_parse_text, "a file name"
#define A_TEXT      mpq_parse_text, "NAME=SIZES"
#define A_SWITCH    mpq_parse_switch, "a switch"
#define A_CHOICE    mpq_parse_choice, NULL
#define PER_CHANNEL "one number, or one a channel, as a,b,c"

const struct mpq_option_row mpq_option_table[] = {
    {"output", 'o', CONVERT | APPLY, "FILE", A_FILE, FIELD(output), NULL, "MODEL.mpq.onnx",
     "Write the quantized model here."},
    {"output", 'o', SEARCH, "FILE", A_FILE, FIELD(output), NULL, "MODEL.mpq.onnx",
     "Name of the files written, each with its budget before .onnx: MODEL.mpq.15pct.onnx."},
    {"report", 0, SEARCH, "FILE", A_FILE, FIELD(report), NULL, "MODEL.mpq.budgets.csv",
     "Write one CSV row a budget here."},
    {"model", 0, FROM, "FILE", A_FILE, FIELD(model), NULL, "the one that was tuned",
     "The float model, where it has moved."},
    {"report", 0, CONVERT | APPLY, "FILE", A_FILE, FIELD(report), NULL,
     "the output's name with .csv",
     "Write one CSV row a layer here, and key,value rows about the whole run beside it to the same "
     "name with .summary.csv."},
    {"overwrite", 0, MADE | EVAL, NULL, A_SWITCH, FIELD(overwrite), "no", NULL,
     "Replace output files that exist."},
    {"data", 0, MADE | KEPT, "PATH", A_FILE, FIELD(data), NULL, "synthetic samples",
     "Samples to calibrate and tune on, no labels needed: .npz with arrays named like the model's "
     "inputs, or with `images` (uint8 NHWC) to be preprocessed; .npy; or a folder of JPEG and PNG "
     "pictures."},
    {"eval", 0, MADE | KEPT, "PATH", A_FILE, FIELD(eval), NULL, "none",
     "Other samples, of the same kinds, on which the float and the quantized model are compared."},
    {"labels", 0, MADE | KEPT, "FILE", A_FILE, FIELD(labels), NULL, "those in the samples' file",
     "Labels of --eval, or of --data where there is no --eval: CSV with file,label or one label a "
     "row, or .npy."},
    {"data", 0, EVAL, "PATH", A_FILE, FIELD(data), NULL, NULL,
     "Samples to run: .npz with arrays named like the model's inputs, or with `images` (uint8 "
     "NHWC) to be preprocessed; .npy; or a folder of JPEG and PNG pictures. Required."},
    {"labels", 0, EVAL, "FILE", A_FILE, FIELD(labels), NULL, "those in the samples' file",
     "Labels of --data: CSV with file,label or one label a row, or .npy."},
    {"reference", 0, EVAL, "MODEL", A_FILE, FIELD(reference), NULL, "none",
     "Run this model on the same samples and compare with it."},
    {"outputs", 0, EVAL, "FILE", A_FILE, FIELD(outputs), NULL, "none",
     "Write all outputs to this .npz, arrays named like the model's outputs."},

    {"input-shape", 0, ANY | KEPT, "NAME=SIZES", A_TEXT, FIELD(input_shape), NULL,
     "those of the data, where there are any",
     "Sizes of one sample for an input that leaves some open, as NAME=1x3x224x224; several joined "
     "by commas. The file written leaves them open, too."},

    {"input-value", 0, ANY | KEPT, "NAME=INTEGER", mpq_parse_text, "NAME=INTEGER",
     FIELD(input_value), NULL, "none",
     "Value of an input of one integer or bool that chooses branches of If; several joined by "
     "commas. The file written has the branch taken alone."},

    {"size", 0, CONVERT, "SIZE", mpq_parse_size,
     "a size: N% of the float file up to 100%, or N[k|M]B", FIELD(size), NULL, MPQ_DEFAULT_SIZE,
     "Largest size of the file written: N% of the float file, or bytes as 150kB, 1.5MB, 64KiB "
     "(k = 1000, Ki = 1024). With another of the limits that follow, or one width in --bits, "
     "none."},
    {"size", 0, SEARCH, "SIZES", mpq_parse_sizes, "a list of sizes as 10%,15%,150kB", FIELD(sizes),
     NULL, "none", "Sizes of the files, a search each, joined by commas."},
    {"pareto", 0, SEARCH, "N", mpq_parse_pareto, "a number of files from 2 to 64", FIELD(pareto),
     NULL, "none",
     "As many sizes, evenly apart in proportion, from the smallest file to the largest."},
    {"avg-bits", 0, CONVERT | SEARCH, "X", mpq_parse_avg_bits, "a number from 2 to 8",
     FIELD(avg_bits), NULL, "no limit", "Largest average width of the weights."},
    {"bitops", 0, CONVERT | SEARCH, "N", mpq_parse_bitops,
     "a number of BitOPs, as 3e9 or 1.5G, a share of those at 8 bits, as 25%, or those of one "
     "width, as W4A4",
     FIELD(bitops), NULL, "no limit",
     "Most bit operations a sample: MACs * weight bits * activation bits, summed over the layers."},
    {"latency", 0, CONVERT | SEARCH, "FILE", A_FILE, FIELD(latency), NULL, "none",
     "CSV of measured times, with a header and columns node, weight_bits, seconds, and "
     "activation_bits where they matter. A width without a row takes the time of the next wider "
     "one that has."},
    {"max-latency", 0, CONVERT | SEARCH, "TIME", mpq_parse_time, "a time, as 3.5ms, 800us or 0.1s",
     FIELD(max_latency), NULL, "no limit", "Largest sum of the layers' times by --latency."},
    {"max-drop", 0, CONVERT | SEARCH, "POINTS", mpq_parse_points,
     "a number of points from 0.01 to 100", FIELD(max_drop), NULL, "no limit",
     "The smallest file whose top-1 drops by no more than that, in percent of the samples, with a "
     "confidence of 80 %. Half of the samples that measure choose it, the other half report. "
     "Without labels, another answer than that of the float model counts as lost."},
    {"exclude", 0, CONVERT | SEARCH | KEPT, "PATTERNS", mpq_parse_text, "a pattern", FIELD(exclude),
     NULL, "none",
     "Layers that stay float: names of nodes, operator types, or extended regular expressions that "
     "match one of them as a whole; several joined by commas."},
    {"lock", 0, CONVERT | SEARCH | KEPT, "PATTERN=BITS", mpq_parse_text, "PATTERN=BITS",
     FIELD(lock), NULL, "none",
     "Layers whose weights get this width, one of --bits; several joined by commas."},
    {"bits", 0, CONVERT | SEARCH | KEPT, "LIST", mpq_parse_bits,
     "a list of widths from 2 to 8, as 2,4,8", FIELD(bits), "2,3,4,5,6,8", NULL,
     "Weight widths a layer may get."},
    {"target", 0, MADE | KEPT, MPQ_TARGET_NAMES, mpq_parse_target, NULL, FIELD(target), "ort", NULL,
     "Who runs the file. ort: ONNX Runtime, each weight in its own number of bits, unpacked by "
     "standard operators when the model is loaded; int8: a byte a weight, for whatever reads 8-bit "
     "QDQ; onnx: the types int2, int4 and int8 of opsets 25, 21 and 13; openvino; tensorrt: signed "
     "types, zero point 0; qnn: weights in int4 and int8, activations of 8 bits, or with qnn16 of "
     "16."},
    {"target", 0, LINT, MPQ_TARGET_NAMES, mpq_parse_target, NULL, FIELD(reader), NULL, "anyone",
     "Who runs the file: only what matters there is said, and whatever it does not take is an "
     "error."},
    {"act-bits", 0, CONVERT | SEARCH | KEPT, "LIST", mpq_parse_bits,
     "a list of widths from 2 to 8, as 4,8", FIELD(act_bits), NULL, "that of --target",
     "Widths activations may have. More than one are searched, which pays with a limit on BitOPs "
     "or latency: the file does not shrink."},
    {"float-macs", 0, CONVERT, "N%", mpq_parse_share, "a share from 0% to 100%", FIELD(float_macs),
     "20%", NULL,
     "Most multiplications that may run in float for accuracy: layers between activations that "
     "lose far more to quantization than others do. Their weights get few bits as all do. None "
     "are left float with a limit on BitOPs or latency, with --act-bits below 8, or where the "
     "target has no float operators."},
    {"weights-only", 0, CONVERT, NULL, A_SWITCH, FIELD(weights_only), "no", NULL,
     "Do not run the model: choose widths by the weights alone, leave activations in float and "
     "carry everything else through, unknown operators included. Needs no data."},
    {"names", 0, MADE | KEPT, "all|nodes|layers|none", A_CHOICE, FIELD(names), "layers", NULL,
     "Names that the file keeps. nodes: inner values, weights among them, get a letter or two, "
     "which small files have better use for, and nodes that come many times in a row are a local "
     "function for --target ort; layers: of nodes only those that are layers keep names; none: no "
     "node does. Inputs and outputs keep theirs."},
    {"saturation-safe", 0, MADE | KEPT, NULL, A_SWITCH, FIELD(saturation_safe), "no", NULL,
     "Change the channels whose weights could make 8-bit kernels saturate on x86 processors "
     "without VNNI; the report counts them in any case."},
    {"recipe", 0, CONVERT, "default|paper", A_CHOICE, FIELD(recipe), "default", NULL,
     "paper: the supernet as published (arXiv 2401.01543), for models with BatchNormalization and "
     "labelled data: learned steps, weights and inputs of convolutions in 2 to 6 bits each, "
     "within --bitops alone (default W4A4, counted as published)."},
    {"effort", 0, CONVERT, "none|quick|default|thorough", A_CHOICE, FIELD(effort), "default", NULL,
     "How long to tune the weights before the search; none: not at all."},
    {"steps", 0, CONVERT, "N", mpq_parse_count, "a number of steps", FIELD(steps), NULL,
     "as --effort says", "Tuning steps."},
    {"no-freeze", 0, CONVERT, NULL, A_SWITCH, FIELD(no_freeze), "no", NULL,
     "Do not freeze widths during tuning."},
    {"no-align", 0, CONVERT, NULL, A_SWITCH, FIELD(no_align), "no", NULL,
     "Do not align the features of narrow paths with those of the widest."},
    {"no-augment", 0, CONVERT, NULL, A_SWITCH, FIELD(no_augment), "no", NULL,
     "With --recipe paper, train on the pictures as they are: neither moved by a few pixels nor "
     "mirrored, which is otherwise done where the float model's answers survive it."},
    {"no-refine", 0, MADE, NULL, A_SWITCH, FIELD(no_refine), "no", NULL,
     "Do not round the weights again for the allocation found, nor tune them for it alone."},
    {"no-round", 0, CONVERT, NULL, A_SWITCH, FIELD(no_round), "no", NULL,
     "Do not round to second order before tuning."},
    {"no-codebook", 0, CONVERT, NULL, A_SWITCH, FIELD(no_codebook), "no", NULL,
     "Integers instead of learned levels, at every width."},
    {"no-equalize", 0, CONVERT, NULL, A_SWITCH, FIELD(no_equalize), "no", NULL,
     "Do not bring the channels of activations to one range."},
    {"baseline", 0, CONVERT, "none|rtn|mse|rounded", A_CHOICE, FIELD(baseline), "none", NULL,
     "What there is to beat: the widest single width that fits for all layers, integers, no "
     "tuning. "
     "rtn: to the nearest, min-max ranges; mse: ranges of least squared error, corrected biases; "
     "rounded: the same with second-order rounding."},
    {"checkpoint", 0, CONVERT, "FILE", A_FILE, FIELD(checkpoint), NULL, "none",
     "Tuned state: where FILE exists, resume from it without calibrating or tuning; else (or with "
     "--overwrite) save it there."},
    {"seed", 0, CONVERT | KEPT, "N", mpq_parse_unsigned, "a whole number of at most 64 bits",
     FIELD(seed), "1", NULL,
     "Key of all random numbers. Same command, seed and threads: same bytes."},

    {"preprocess", 0, MADE | EVAL | KEPT, "imagenet|imagenet-tf|unit|raw", A_CHOICE, TYPED(preset),
     "raw", NULL,
     "From a picture x (0..255) to the input, y = (x * scale - mean) / std. imagenet: short side "
     "to 8/7 of the crop, centre crop, scale 1/255, mean .485,.456,.406, std .229,.224,.225; "
     "imagenet-tf: the same crop, scale 1/127.5, mean 1, std 1; unit: resized, scale 1/255; raw: "
     "resized, 0..255."},
    {"mean", 0, MADE | EVAL | KEPT, "A,B,C", mpq_parse_channels, PER_CHANNEL, TYPED(mean), NULL,
     "the preset's", "Mean a channel, in the model's channel order and after --scale."},
    {"std", 0, MADE | EVAL | KEPT, "A,B,C", mpq_parse_std, PER_CHANNEL ", above 0", TYPED(std),
     NULL, "the preset's", "Standard deviation a channel."},
    {"scale", 0, MADE | EVAL | KEPT, "X", mpq_parse_scale, "a number above 0", TYPED(scale), NULL,
     "the preset's", "Factor of 0..255."},
    {"resize", 0, MADE | EVAL | KEPT, "N", mpq_parse_positive, "a number of pixels", TYPED(resize),
     NULL, "the preset's",
     "Short side in pixels before the crop, of picture files; pictures of an array are resized as "
     "a whole."},
    {"crop", 0, MADE | EVAL | KEPT, "N", mpq_parse_positive, "a number of pixels", TYPED(crop),
     NULL, "the input's size", "Side of the centre crop in pixels, of picture files."},
    {"channel-order", 0, MADE | EVAL | KEPT, "rgb|bgr", A_CHOICE, TYPED(channel_order), "rgb", NULL,
     "Channel order of the model."},

    {"threads", 0, MADE | EVAL, "N", mpq_parse_threads, "a number of threads from 1 to 1024",
     FIELD(threads), "all", NULL, "Threads to use; all: one a core."},
    {"max-memory", 0, MADE | EVAL, "SIZE", mpq_parse_memory, "a size as 500MB or 2G",
     FIELD(max_memory), NULL, "no limit",
     "What the process may take at most: samples are run fewer at a time, and tuning computes "
     "again what it then does not keep. Needs --data. --verbose prints the plan. Where it cannot "
     "be kept the "
     "least that can is named."},
    {"quiet", 'q', ANY, NULL, A_SWITCH, FIELD(quiet), "no", NULL,
     "Print nothing but errors and what was asked for."},
    {"verbose", 'v', ANY, NULL, A_SWITCH, FIELD(verbose), "no", NULL, "Say what is being done."},
    {"help", 'h', ANY, NULL, A_SWITCH, FIELD(help), NULL, NULL, "Print this and exit."},
};
_Static_assert(MPQ_COUNT(mpq_option_table) <= MPQ_MAX_OPTIONS, "raise MPQ_MAX_OPTIONS");

size_t mpq_option_count(void)
{
    return MPQ_COUNT(mpq_option_table);
}

const char *mpq_option_name(size_t i)
{
    MPQ_ASSERT(i < MPQ_COUNT(mpq_option_table));
    return mpq_option_table[i].name;
}

/* ---- help ---- */

#define HELP_COLUMN 6
#define HELP_WIDTH  80

/* Words of `text` from the given column on, wrapped; returns the column after them. */
static int print_wrapped(FILE *file, const char *text, int column)
{
    while (*text) {
        int n = (int)strcspn(text, " ");
        if (column > HELP_COLUMN && column + 1 + n > HELP_WIDTH) {
            fprintf(file, "\n%*s", HELP_COLUMN, "");
            column = HELP_COLUMN;
        } else if (column > HELP_COLUMN) {
            fputc(' ', file);
            column++;
        }
        fprintf(file, "%.*s", n, text);
        column += n;
        text += n + (text[n] == ' ');
    }
    return column;
}

void mpq_options_help(FILE *file, unsigned commands)
{
    for (size_t i = 0; i < MPQ_COUNT(mpq_option_table); i++) {
        const struct mpq_option_row *row = &mpq_option_table[i];
        if ((row->commands & commands) != commands)
            continue;
        fputs("  ", file);
        if (row->letter)
            fprintf(file, "-%c, ", row->letter);
        fprintf(file, "--%s", row->name);
        if (row->argument)
            fprintf(file, " %s", row->argument);
        fprintf(file, "\n%*s", HELP_COLUMN, "");
        int column = print_wrapped(file, row->help, HELP_COLUMN);
        const char *value = row->note ? row->note : row->argument ? row->initial : NULL;
        if (!(commands & ~(unsigned)FROM) && row->commands & KEPT && value)
            value = "what the checkpoint has";
        if (value) {
            char text[128];
            snprintf(text, sizeof text, "Default: %s.", value);
            print_wrapped(file, text, column);
        }
        fputc('\n', file);
    }
}
