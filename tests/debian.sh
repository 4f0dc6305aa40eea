# Debian's packages that a build needs. Sourced by tests/run.sh and models/demo.sh; installs only what
# is missing, so a machine that has everything needs neither network nor root.

# Threads that wait yield: on a machine that is busy otherwise, spinning costs many times the work.
export OMP_WAIT_POLICY=passive

missing=

# need PACKAGE COMMAND...: the command succeeds where the package is installed.
need()
{
    package=$1
    shift
    if ! "$@" >/dev/null 2>&1; then
        missing="$missing $package"
    fi
}

has_header()
{
    printf '#include <%s>\n' "$@" | cc -E -x c -
}

need_for_build()
{
    need build-essential sh -c 'cc --version && make --version'
    need cmake cmake --version
    need pkg-config pkg-config --version
    need protobuf-c-compiler protoc-c --version
    need libprotobuf-c-dev pkg-config --exists libprotobuf-c
    need libopenblas-openmp-dev pkg-config --exists openblas
    need liblapacke-dev has_header lapacke.h
    need libzip-dev pkg-config --exists libzip
    need libpng-dev pkg-config --exists libpng
    need libjpeg-dev pkg-config --exists libjpeg
    need libcsv-dev has_header stdio.h csv.h
}

install_missing()
{
    if [ -z "$missing" ]; then
        return 0
    fi
    if ! command -v apt-get >/dev/null; then
        echo "These Debian packages, or what they are called here, are needed:$missing" >&2
        return 1
    fi
    as_root=
    if [ "$(id -u)" != 0 ]; then
        as_root=sudo
    fi
    echo "Installing$missing" >&2
    $as_root apt-get update -qq
    # shellcheck disable=SC2086 # one word a package
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing \
        >/dev/null
    missing=
}
