"""What each part of the method is worth: conversions of real models with one part left out at a time. Prints CSV.

    python tests/bench/ablation.py build/cli/onnx-mpq [--seeds 1,2,3] [--only resnet20,kws] [--parts refining,tuning]
        [-- further options of convert]

One row a model, seed, size and variant, with columns as in accuracy.py. The baselines get the widest single width that
fits. `coupled` and `alone` compare widths of one family, tuned together, with widths tuned each for itself, at one
width for all layers. Models and data as in accuracy.py; a tuning a row, so choose models and parts.
"""
import csv
import pathlib
import subprocess
import sys
import tempfile

from accuracy import CASES, FIELDS, arguments, convert

PARTS = {
    "all": [],
    "scheduler": ["--no-freeze"],
    "alignment": ["--no-align"],
    "tuning": ["--effort", "none"],
    "second order": ["--no-round"],
    "refining": ["--no-refine"],
    "codebook": ["--no-codebook"],
    "equalizing": ["--no-equalize"],
    "corrections": ["--effort", "none", "--no-round", "--no-refine", "--no-codebook", "--no-equalize"],
    "baseline rtn": ["--baseline", "rtn"],
    "baseline mse": ["--baseline", "mse"],
    "baseline rounded": ["--baseline", "rounded"],
}
WIDTHS = (2, 3, 4)


def coupling(tool, model, seed, folder, options):
    """Rows of one width for all layers: from the family of all widths, and from a family of that width alone."""
    def only(bits):
        return [f"--lock=.*={bits}", "--no-refine", *options]
    checkpoint = folder / f"{model}_{seed}.npz"
    for bits in WIDTHS:
        out = folder / f"{model}_{seed}_coupled_{bits}.onnx"
        yield f"coupled {bits}", convert(tool, model, seed, "100%", out, [*only(bits), "--checkpoint", checkpoint])
        out = folder / f"{model}_{seed}_alone_{bits}.onnx"
        yield f"alone {bits}", convert(tool, model, seed, "100%", out, ["--bits", str(bits), "--no-refine", *options])


def rows(parsed, model, seed, folder):
    for part in parsed.parts.split(",") if parsed.parts else [*PARTS, "coupling"]:
        if part == "coupling":
            yield from coupling(parsed.tool, model, seed, folder, parsed.convert)
            continue
        for size in CASES[model][-1].split(","):
            out = folder / f"{model}_{seed}_{part.replace(' ', '_')}_{size.rstrip('%')}.onnx"
            try:
                yield part, convert(parsed.tool, model, seed, size, out, [*parsed.convert, *PARTS[part]])
            except subprocess.CalledProcessError as error:
                if error.returncode != 4:  # 4: nothing fits that size
                    raise
                yield part, [model, seed, size]


def main():
    parsed = arguments(__doc__.splitlines()[0], lambda p: p.add_argument(
        "--parts", default="", help="some of: " + ", ".join([*PARTS, "coupling"])))
    table = csv.writer(sys.stdout)
    table.writerow(["without", *FIELDS])
    for model in parsed.models:
        for seed in parsed.seeds.split(","):
            with tempfile.TemporaryDirectory() as folder:
                for part, row in rows(parsed, model, seed, pathlib.Path(folder)):
                    table.writerow([part, *row])
                    sys.stdout.flush()


if __name__ == "__main__":
    main()
