"""Accuracy of real models over file sizes, as a user gets it: tuned on calib, judged on eval. Prints CSV.

    python tests/bench/accuracy.py build/cli/onnx-mpq [--seeds 1,2,3] [--only resnet20] [--sizes 10%,8%] [--bits 8]
        [--folder DIR] [-- further options of convert]

Looks for models and data in ../shared, which are not part of the project, and says so where it is absent. A model
and seed is tuned once; its other sizes come from the checkpoint. Where a checkpoint is in --folder, nothing is
tuned. --bits gives all weights one width, whatever the size. Language models are judged by perplexity, by ONNX
Runtime. Needs numpy, and onnxruntime for those.
"""
import argparse
import contextlib
import csv
import pathlib
import subprocess
import sys
import tempfile
import time

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared"
VIT = ["--preprocess", "unit", "--mean", "0.4914,0.4822,0.4465", "--std", "0.2023,0.1994,0.2010"]

# model: data folder, calibration, evaluation, options, sizes
CASES = {
    "cifar10_resnet20": ("cifar10", "calib.npz", "eval_jpeg.npz", ["--preprocess", "imagenet"], "10%,8%"),
    "cifar10_mobilenetv2_probe128": ("cifar10", "calib.npz", "eval_jpeg.npz", ["--preprocess", "imagenet"],
                                     "12.5%,9%"),
    "cifar10_resnet8_mlperf": ("cifar10", "calib.npz", "eval_jpeg.npz", [], "12.5%,10%"),
    "imagenet_squeezenet1_1": ("imagenet", "calib", "eval", ["--preprocess", "imagenet"], "15%,12.5%,10%,30%"),
    "imagenet_mobilenetv1_025": ("imagenet", "calib", "eval", ["--preprocess", "imagenet-tf"], "20%"),
    "kws_dscnn_mlperf": ("kws", "calib.npz", "eval.npz", [], "20%"),
    "cifar10_vit_ibp_3_3_8": ("cifar10", "calib.npz", "eval_jpeg.npz", VIT, "20%"),
    "filetype_magika_v3_3": ("filetype", "calib.npz", "eval.npz", [], "10%"),
    "llm_aidreams260k": ("llm", "calib.npz", "eval.npz", [], "15%"),
}
FIELDS = ["model", "seed", "size", "bytes", "share", "top1_float", "top1", "drop", "agreement", "kl", "loss",
          "uniform_bits", "uniform_loss", "perplexity_rise", "average_bits", "seconds"]  # loss: on held-back samples


def perplexity(model, tokens):
    import numpy as np
    import onnxruntime as ort
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    logits = session.run(None, {session.get_inputs()[0].name: tokens})[0].astype(np.float64)[:, :-1]
    logits -= logits.max(-1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return float(np.exp(-np.take_along_axis(log_p, tokens[:, 1:, None], -1).mean()))


def perplexity_rise(source, out, data):
    import numpy as np
    tokens = np.load(data)["input_ids"]
    return f"{perplexity(out, tokens) / perplexity(source, tokens) - 1:.4f}"


def convert(tool, model, seed, size, out, options):
    """Runs the tool for that size, of a file or, as "8 bits", of all weights; its row of the table. Files at `out`
    must not exist."""
    data, calib, evaluation, preprocess, _ = CASES[model]
    data = SHARED / "data" / data
    source = SHARED / "models" / f"{model}.onnx"
    limit = ["--bits", size.removesuffix(" bits"), "--size", "100%"] if size.endswith("bits") else ["--size", size]
    start = time.monotonic()
    subprocess.run([tool, "convert", source, "--data", data / calib, "--eval", data / evaluation, *preprocess, *limit,
                    "--seed", seed, "-o", out, "-q", *options], check=True)
    seconds = time.monotonic() - start
    summary = dict(csv.reader(open(out.with_suffix(".summary.csv"), newline="")))
    rise = perplexity_rise(source, out, data / evaluation) if model.startswith("llm") else ""
    keys = ["metric_float", "metric_quantized", "drop", "agreement", "kl", "decide_loss", "uniform_bits",
            "uniform_loss"]
    return [model, seed, size, out.stat().st_size, f"{out.stat().st_size / source.stat().st_size:.4f}",
            *(summary.get(key, "") for key in keys), rise, summary["average_weight_bits"], f"{seconds:.1f}"]


def tuned_once(tool, model, seed, size, folder, options):
    """The same, tuned where the folder has no checkpoint of this model and seed, which is never overwritten. One
    width needs none."""
    name = f"{model}_{seed}_{size.rstrip('%').replace(' ', '')}"
    out = folder / f"{name}.onnx"
    for old in (out, out.with_suffix(".csv"), out.with_suffix(".summary.csv")):
        old.unlink(missing_ok=True)
    if not size.endswith("bits"):
        options = [*options, "--checkpoint", folder / f"{model}_{seed}.npz"]
    return convert(tool, model, seed, size, out, options)


def arguments(description, more=lambda parser: None):
    """The options that benches of models share; exits where there are no models."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("tool", type=lambda p: pathlib.Path(p).resolve())
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--only", default="", help="part of a model's name; several joined by commas")
    parser.add_argument("--folder", type=pathlib.Path, help="keep files and checkpoints here")
    more(parser)
    own, _, for_convert = (" ".join(sys.argv[1:]) + " -- ").partition(" -- ")
    parsed = parser.parse_args(own.split())
    parsed.convert = for_convert.removesuffix(" -- ").split()
    if not SHARED.is_dir():
        print(f"skipped: there is no {SHARED}", file=sys.stderr)
        sys.exit(77)
    parsed.models = [m for m in CASES if any(part in m for part in parsed.only.split(","))]
    return parsed


@contextlib.contextmanager
def folder_of(parsed):
    """That of --folder, or one that is gone afterwards."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = parsed.folder or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        yield folder


def main():
    def more(parser):
        parser.add_argument("--sizes", help="instead of those each model has")
        parser.add_argument("--bits", help="all weights of this width, instead of sizes; several joined by commas")

    parsed = arguments(__doc__.splitlines()[0], more)
    widths = [f"{bits} bits" for bits in parsed.bits.split(",")] if parsed.bits else []
    table = csv.writer(sys.stdout)
    table.writerow(FIELDS)
    with folder_of(parsed) as folder:
        for model in parsed.models:
            for seed in parsed.seeds.split(","):
                for size in widths or (parsed.sizes or CASES[model][-1]).split(","):
                    table.writerow(tuned_once(parsed.tool, model, seed, size, folder, parsed.convert))
                    sys.stdout.flush()


if __name__ == "__main__":
    main()
