#!/bin/sh
# Builds and runs every test: first with AddressSanitizer and UndefinedBehaviorSanitizer (build-dev/),
# without the tests labelled "release", which take too long there, then all of them in release
# (build/). Warnings are errors in both. On Debian it installs what is missing first. The Python tests
# need packages from PyPI; where it cannot be reached they say so and are skipped.
set -eu
CDPATH='' cd -- "$(dirname -- "$0")/.."
. tests/debian.sh

make_venv()
{
    if cmp -s tests/requirements.txt build/venv/requirements.txt; then
        return 0
    fi
    rm -rf build/venv
    mkdir -p build
    echo "Installing the packages of tests/requirements.txt into build/venv" >&2
    if python3 -m venv build/venv >build/venv.log 2>&1 &&
        build/venv/bin/python -m pip install --disable-pip-version-check \
            -r tests/requirements.txt >>build/venv.log 2>&1; then
        cp tests/requirements.txt build/venv/
    else
        echo "They could not be installed (build/venv.log), so the Python tests are skipped." >&2
    fi
}

# check PRESET CTEST-ARGUMENT...: configure, build, test.
check()
{
    preset=$1
    shift
    cmake --preset "$preset" -DMPQ_TESTS=ON -DMPQ_WERROR=ON
    cmake --build --preset "$preset" --parallel "$jobs"
    ctest --preset "$preset" --parallel "$jobs" "$@" || failed="$failed $preset"
}

need_for_build
need libcmocka-dev has_header stdarg.h stddef.h stdint.h setjmp.h cmocka.h
need python3 python3 --version
need python3-venv python3 -c 'import ensurepip, venv'
install_missing
make_venv

jobs=$(nproc)
failed=
export UBSAN_OPTIONS=print_stacktrace=1
check dev --label-exclude '^release$'
check release
if [ -n "$failed" ]; then
    echo "Tests failed in:$failed" >&2
    exit 1
fi
