"""What each part of the method is worth: conversions of real models with one part left out at a time. Prints CSV.

    python tests/bench/ablation.py build/cli/onnx-mpq [--seeds 1,2,3] [--only resnet20,kws] [--parts refining,tuning]
        [--sizes 12.5%,10%] [--folder DIR] [-- further options of convert]

One row a model, seed, size and variant, with columns as in accuracy.py; `loss` is on held-back samples. What needs
no tuning of its own comes from the checkpoint of `all`:

    uniform N          one width for all layers, refined as the others are: what a mixed allocation of no more bytes
                       has to beat
    after STRATEGY     loss of the search's best after each of its strategies, before refining
    coupled N, alone N one width for all layers, of the family tuned together and tuned for itself, neither refined

The baselines get the widest single width that fits. Models and data as in accuracy.py.
"""
import csv
import re
import subprocess
import sys

from accuracy import CASES, FIELDS, SHARED, arguments, convert, folder_of

TUNED = {  # each tuned by itself
    "all": [],
    "scheduler": ["--no-freeze"],
    "alignment": ["--no-align"],
    "second-order": ["--no-round"],
    "codebook": ["--no-codebook"],
    "equalizing": ["--no-equalize"],
    "tuning": ["--effort", "none"],
    "corrections": ["--effort", "none", "--no-round", "--no-refine", "--no-codebook", "--no-equalize"],
    "baseline-rtn": ["--baseline", "rtn"],
    "baseline-mse": ["--baseline", "mse"],
    "baseline-rounded": ["--baseline", "rounded"],
}
PARTS = [*TUNED, "refining", "uniform", "strategies", "coupling"]
WIDTHS = (2, 3, 4)


class Bench:
    """One model and seed. A checkpoint a variant; the first conversion that asks for it tunes it."""

    def __init__(self, parsed, model, seed, folder):
        self.parsed, self.model, self.seed, self.folder = parsed, model, seed, folder
        self.sizes = (parsed.sizes or CASES[model][-1]).split(",")

    def checkpoint(self, part):
        return self.folder / f"{self.model}_{self.seed}_{part.replace(' ', '_')}.npz"

    def row(self, name, part, size, options):
        """[name, ...]: converted from the checkpoint of `part`; short where nothing fits the size."""
        out = self.folder / f"{self.model}_{self.seed}_{name.replace(' ', '_')}_{size.rstrip('%')}.onnx"
        for old in (out, out.with_suffix(".csv"), out.with_suffix(".summary.csv")):
            old.unlink(missing_ok=True)
        if "baseline" not in part and "--effort" not in TUNED.get(part, []):
            options = [*options, "--checkpoint", self.checkpoint(part)]
        try:
            return [name, *convert(self.parsed.tool, self.model, self.seed, size, out,
                                   [*self.parsed.convert, *options])]
        except subprocess.CalledProcessError as error:
            if error.returncode != 4:  # 4: nothing fits that size
                raise
            return [name, self.model, self.seed, size]

    def tuned(self, part):
        for size in self.sizes:
            yield self.row(part, part, size, TUNED[part])

    def refining(self):
        for size in self.sizes:
            yield self.row("refining", "all", size, ["--no-refine"])

    def uniform(self):
        for bits in WIDTHS:
            yield self.row(f"uniform {bits}", "all", "100%", [f"--lock=.*={bits}"])

    def coupling(self):
        for bits in WIDTHS:
            yield self.row(f"coupled {bits}", "all", "100%", [f"--lock=.*={bits}", "--no-refine"])
            yield self.row(f"alone {bits}", f"alone {bits}", "100%", ["--bits", str(bits), "--no-refine"])

    def strategies(self):
        data, calib, _, preprocess, _ = CASES[self.model]
        for size in self.sizes:
            out = self.folder / f"{self.model}_{self.seed}_strategies.onnx"
            command = [self.parsed.tool, "convert", SHARED / "models" / f"{self.model}.onnx", "--data",
                       SHARED / "data" / data / calib, *preprocess, "--size", size, "--seed", self.seed, "-o", out,
                       "-v", "--no-refine", "--checkpoint", self.checkpoint("all"), *self.parsed.convert]
            log = subprocess.run(command, check=True, capture_output=True, text=True).stderr
            for name, loss in re.findall(r"after (\w+), loss ([\d.]+)", log):
                row = dict.fromkeys(FIELDS, "") | {"model": self.model, "seed": self.seed, "size": size, "loss": loss}
                yield [f"after {name}", *row.values()]
            for old in (out, out.with_suffix(".csv"), out.with_suffix(".summary.csv")):
                old.unlink()

    def rows(self):
        for part in self.parsed.parts.split(",") if self.parsed.parts else PARTS:
            yield from self.tuned(part) if part in TUNED else getattr(self, part)()


def more_arguments(parser):
    parser.add_argument("--parts", default="", help="some of: " + ", ".join(PARTS))
    parser.add_argument("--sizes", help="instead of those each model has")


def main():
    parsed = arguments(__doc__.splitlines()[0], more_arguments)
    table = csv.writer(sys.stdout)
    table.writerow(["without", *FIELDS])
    with folder_of(parsed) as folder:
        for model in parsed.models:
            for seed in parsed.seeds.split(","):
                for row in Bench(parsed, model, seed, folder).rows():
                    table.writerow(row)
                    sys.stdout.flush()


if __name__ == "__main__":
    main()
