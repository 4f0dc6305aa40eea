"""Converts real models and judges the files by ONNX Runtime; prints CSV.

    python tests/bench/shared_models.py build/cli/onnx-mpq [--seeds 1,2,3] [--only resnet20] [--folder DIR]

Looks for models and data in ../shared, which are not part of the project, and says so where it is absent.
Needs onnx, onnxruntime, numpy, pillow. Tuned once a model and seed: further budgets come from the
checkpoint, as all do where --folder has one already. Takes about ten minutes a seed on two cores.
"""
import argparse
import collections
import csv
import pathlib
import re
import subprocess
import sys
import tempfile
import time

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# name, data folder, calibration, evaluation, preset, budgets
CASES = [
    ("kws_dscnn_mlperf", "kws", "calib.npz", "eval.npz", "raw", ["30%"]),
    ("cifar10_resnet20", "cifar10", "calib.npz", "eval_jpeg.npz", "imagenet", ["15%", "30%"]),
    ("imagenet_squeezenet1_1", "imagenet", "calib", "eval", "imagenet", ["17%", "30%"]),
]
FIELDS = ["model", "seed", "size", "bytes", "share", "top1_float", "top1", "drop", "agreement", "seconds",
          "peak_mb", "qlinearconv", "same_argmax_as_ort", "same_bits_as_ort", "mean_difference_to_ort"]


def pictures(folder):
    """What the imagenet preset crops, by Pillow."""
    import numpy as np
    from PIL import Image
    crops = []
    for path in sorted(folder.glob("*.jpg")):
        image = Image.open(path).convert("RGB")
        w, h = image.size
        size = (256, 256 * h // w) if w < h else (256 * w // h, 256)
        image = image.resize(size, Image.BILINEAR)
        left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
        crops.append(np.asarray(image.crop((left, top, left + 224, top + 224))))
    return np.stack(crops)


def inputs(data, name, preset):
    import numpy as np
    if data.is_dir():
        x = pictures(data)
    else:
        arrays = np.load(data)
        if name in arrays.files:
            return arrays[name]
        x = arrays["images"]
    if preset == "imagenet":
        x = (x / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
    return np.ascontiguousarray(x.astype(np.float32).transpose(0, 3, 1, 2))


def judge(tool, model, data, preset, folder):
    """QLinearConv nodes of the optimized graph, and our outputs against ONNX Runtime's."""
    import numpy as np
    import onnx
    import onnxruntime as ort
    ours = folder / "ours.npz"
    subprocess.run([tool, "eval", model, "--data", data, "--preprocess", preset, "--outputs", ours, "--overwrite"],
                   check=True, capture_output=True)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    operators = collections.Counter(n.op_type for n in onnx.load(folder / "optimized.onnx").graph.node)
    name = session.get_inputs()[0].name
    x = inputs(data, name, preset)
    y = np.concatenate([session.run(None, {name: x[i:i + 50]})[0] for i in range(0, len(x), 50)])
    arrays = np.load(ours)
    z = arrays[arrays.files[0]].reshape(y.shape)
    same = float((y.argmax(-1) == z.argmax(-1)).mean())
    bits = float((y == z).reshape(len(y), -1).all(1).mean())
    return operators["QLinearConv"], same, bits, float(np.abs(y - z).mean())


def convert(tool, case, seed, size, folder):
    model, data, calib, evaluation, preset, _ = case
    out = folder / f"{model}_{seed}_{size.rstrip('%')}.onnx"
    source = SHARED / "models" / f"{model}.onnx"
    for old in (out, out.with_suffix(".csv"), out.with_suffix(".summary.csv")):
        old.unlink(missing_ok=True)  # --overwrite would tune anew
    start = time.monotonic()
    subprocess.run([tool, "convert", source, "--data", SHARED / "data" / data / calib, "--eval",
                    SHARED / "data" / data / evaluation, "--preprocess", preset, "--size", size,
                    "--seed", str(seed), "--checkpoint", folder / f"{model}_{seed}.npz", "-o", out, "-q"],
                   check=True)
    seconds = time.monotonic() - start
    summary = dict(csv.reader(open(out.with_suffix(".summary.csv"), newline="")))
    peak = max(float(v) for k, v in summary.items() if re.search("peak_rss", k))
    convs, same, bits, difference = judge(tool, out, SHARED / "data" / data / evaluation, preset, folder)
    return [model, seed, size, out.stat().st_size, f"{out.stat().st_size / source.stat().st_size:.4f}",
            summary["metric_float"], summary["metric_quantized"], summary["drop"], summary["agreement"],
            f"{seconds:.1f}", f"{peak / 1e6:.0f}", convs, f"{same:.4f}", f"{bits:.4f}", f"{difference:.3g}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tool", type=lambda p: pathlib.Path(p).resolve())
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--only", default="")
    parser.add_argument("--folder", type=pathlib.Path, help="keep files and checkpoints here")
    arguments = parser.parse_args()
    if not SHARED.is_dir():
        print(f"skipped: there is no {SHARED}", file=sys.stderr)
        return 77
    table = csv.writer(sys.stdout)
    table.writerow(FIELDS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for case in CASES:
            for seed in arguments.seeds.split(",") if arguments.only in case[0] else []:
                for size in case[-1]:
                    table.writerow(convert(arguments.tool, case, seed, size, folder))
                    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
