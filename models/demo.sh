#!/bin/sh
# Builds onnx-mpq and converts the digit classifier of this folder. On Debian it installs what the
# build needs first; elsewhere it names it. Output goes to build/demo/.
set -eu
CDPATH='' cd -- "$(dirname -- "$0")/.."
. tests/debian.sh

need_for_build
install_missing

mkdir -p build/demo
echo "Building; the log is build/demo/build.log" >&2
if ! {
    cmake --preset release -DMPQ_TESTS=OFF &&
        cmake --build --preset release --target onnx-mpq --parallel "$(nproc)"
} >build/demo/build.log 2>&1; then
    cat build/demo/build.log >&2
    exit 1
fi

set -- build/cli/onnx-mpq convert models/digits_cnn.onnx --data models/digits_calib.npz \
    --preprocess unit --eval models/digits_eval.npz --size 15% --effort quick \
    --output build/demo/digits_cnn.mpq.onnx --overwrite
echo "\$ $*"
"$@"

echo
echo "\$ ls -l"
ls -l models/digits_cnn.onnx build/demo/digits_cnn.mpq.onnx
echo
echo "\$ head -n 5 build/demo/digits_cnn.mpq.csv"
head -n 5 build/demo/digits_cnn.mpq.csv
