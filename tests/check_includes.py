"""Holds the source tree to its layers: who includes whom, where third-party headers may appear, what
lies at the top, and that each folder says in a few lines what it is for.

    python3 tests/check_includes.py ROOT

Prints one line a violation and exits 1, or exits 0. ROOT is the folder of the top CMakeLists.txt.
"""

import pathlib
import re
import sys

BASE = {"quantcore/base"}
IR = BASE | {"quantcore/ir"}
QUANT = IR | {"quantcore/quant"}
OPS = QUANT | {"quantcore/ops"}
PASS = OPS | {"quantcore/pass"}
ENGINE = PASS | {"quantcore/engine"}

# The folders of the tree, and which others each may include.
MAY_INCLUDE = {
    "quantcore/base": set(),
    "quantcore/ir": BASE,
    "quantcore/quant": IR,
    "quantcore/ops": QUANT,
    "quantcore/pass": OPS,
    "quantcore/engine": PASS,
    "quantcore/supernet": ENGINE,
    "quantcore/search": BASE | {"quantcore/quant"},
    "proto": BASE,
    "importer": IR | {"proto", "quantcore/ops"},
    "exporter": OPS | {"proto"},
    "calibration": ENGINE,
    "cli": ENGINE | {"quantcore/supernet", "quantcore/search", "importer", "exporter", "calibration"},
}
MAY_INCLUDE["tests"] = set(MAY_INCLUDE)

# Third-party headers and the only files, or folders, that may include them.
FENCES = [
    (r"protobuf-c|\.pb-c\.h", ["proto/", "importer/", "exporter/"]),
    (r"cblas|openblas", ["quantcore/ops/kernel/gemm.c"]),
    (r"lapack", ["quantcore/ops/kernel/linear_algebra.c"]),
    (r"\bcsv\.h", ["calibration/csv.c", "exporter/report_csv.c"]),
    (r"\bomp\.h", ["quantcore/base/thread.c"]),
    (r"jpeglib\.h|turbojpeg\.h", ["calibration/picture_jpeg.c", "tests/unit/data_files.c"]),
    (r"\bpng\.h", ["calibration/picture_png.c", "tests/unit/data_files.c"]),
    (r"\bzip\.h", ["calibration/npz.c", "tests/unit/data_files.c"]),
    (r"cmocka\.h", ["tests/"]),
]

TOP = {"CMakeLists.txt", "CMakePresets.json", "README.md", "LICENSE", "CHANGELOG.md", "proto", "importer",
       "quantcore", "exporter", "calibration", "cli", "tests", "models"}
README_LINES = 40

INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]*)"|<([^>]*)>)')


def folder_of(path):
    """The folder of MAY_INCLUDE that a path from the root belongs to, or None."""
    parts = path.split("/")
    name = "/".join(parts[:2]) if parts[0] == "quantcore" else parts[0]
    return name if name in MAY_INCLUDE else None


def is_inside(path, places):
    return any(path == p or p.endswith("/") and path.startswith(p) for p in places)


def check_include(root, path, quoted, name):
    """What is wrong with this one include of the file at `path`, or None."""
    is_ours = quoted and not name.endswith(".pb-c.h")
    for pattern, places in FENCES:
        if not is_ours and re.search(pattern, name) and not is_inside(path, places):
            return f"<{name}> may be included only in {', '.join(places)}"
    if not is_ours:
        return None
    here, there = folder_of(path), folder_of(name)
    if there is None or not (root / name).is_file():
        return f'"{name}" is not a file of ours, written from the root'
    if there != here and there not in MAY_INCLUDE[here]:
        return f'{here} may not include "{name}"'
    return None


def check_sources(root):
    for file in sorted(root.rglob("*.[ch]")) + sorted(root.rglob("*.inc")):
        path = file.relative_to(root).as_posix()
        if path.startswith(("build", ".")):
            continue
        if folder_of(path) is None:
            yield f"{path}: lies in no folder of the table in {sys.argv[0]}"
            continue
        for number, line in enumerate(file.read_text().splitlines(), 1):
            match = INCLUDE.match(line)
            wrong = match and check_include(root, path, match[1] is not None, match[1] or match[2])
            if re.match(r"\s*#\s*pragma\s+omp", line) and path != "quantcore/base/thread.c":
                wrong = "OpenMP stays in quantcore/base/thread.c; use mpq_parallel_for()"
            if wrong:
                yield f"{path}:{number}: {wrong}"


def check_top(root):
    for entry in sorted(root.iterdir()):
        if entry.name not in TOP and not entry.name.startswith((".", "build")):
            yield f"{entry.name}: does not belong at the top"


def check_readmes(root):
    for folder in sorted({*MAY_INCLUDE, "quantcore", "models"}):
        if not (root / folder / "README.md").is_file():
            yield f"{folder}/README.md: is missing"
    for readme in sorted(root.glob("*/**/README.md")):
        path = readme.relative_to(root).as_posix()
        n = sum(1 for line in readme.read_text().splitlines() if line and not line.startswith("|"))
        if n > README_LINES and not path.startswith(("build", ".")):
            yield f"{path}: {n} lines of text, at most {README_LINES}"


def main():
    root = pathlib.Path(sys.argv[1]).resolve()
    wrong = [*check_sources(root), *check_top(root), *check_readmes(root)]
    print("\n".join(wrong))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
