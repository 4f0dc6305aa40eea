"""Converts every model of ../shared and compares each file with its float model in ONNX Runtime; prints CSV.

    python tests/bench/every_model.py build/cli/onnx-mpq [--only vad] [--size 30%] [-- options of convert]

Looks for models and data in ../shared, which are not part of the project, and says so where it is absent. Few
samples and, unless told otherwise, no tuning: the question is whether the file runs and answers alike, not how
well it could be made. SQNR is that of the first output, agreement that of its argmax where it has several
values; eval_off is the largest difference, of the output's range, between what onnx-mpq eval and ONNX Runtime make
of the file; columns behind count what the runtime's optimized graph computes with. --only: parts of names, joined
by commas. Needs onnx, onnxruntime, numpy, pillow.
"""
import argparse
import collections
import csv
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx
import onnxruntime as ort
from PIL import Image

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared"
DATA = SHARED / "data"
MEAN, STD = np.float32((0.485, 0.456, 0.406)), np.float32((0.229, 0.224, 0.225))
N_CALIB, N_EVAL = 48, 48


def arrays(folder, **rows):
    """Samples of an npz whose arrays are the inputs; `rows` limits their number."""
    def read(which):
        archive = np.load(DATA / folder / f"{which}.npz")
        n = rows.get("n", N_EVAL)
        return {name: archive[name][:n] for name in archive.files if name != "labels"}
    return read


def pictures(folder, name, change, calib="calib", evaluation="eval"):
    """Samples made of the pictures of an npz."""
    def read(which):
        x = np.load(DATA / folder / f"{calib if which == 'calib' else evaluation}.npz")["images"]
        return {name: np.stack([change(image.astype(np.float32)) for image in x[:N_EVAL]])}
    return read


def photographs(folder, name, size, change):
    """Samples made of the pictures in a folder, or in its folders calib and eval."""
    def read(which):
        files = sorted((DATA / folder / which).glob("*.jpg")) or sorted((DATA / folder).glob("*.jpg"))
        images = [Image.open(file).convert("RGB").resize(size, Image.BILINEAR) for file in files[:N_EVAL // 2]]
        return {name: np.stack([change(np.asarray(image, np.float32)) for image in images])}
    return read


def planes(x):
    return np.ascontiguousarray(x.transpose(2, 0, 1), dtype=np.float32)


def imagenet(x):
    return planes((x / 255 - MEAN) / STD)


def enlarged(x):
    image = Image.fromarray(x.astype(np.uint8)).resize((128, 128), Image.BILINEAR)
    return imagenet(np.asarray(image, np.float32))


def luminance(x):
    return (x @ np.float32((0.299, 0.587, 0.114)) / 255)[None].astype(np.float32)


def cifar(name, change):
    return pictures("cifar10", name, change, evaluation="eval_lossless")


CASES = {
    "cifar10_marabou_large": cifar("x:0", lambda x: x / 255),
    "cifar10_mobilenetv2_probe128": cifar("input", enlarged),
    "cifar10_resnet20": cifar("input", imagenet),
    "cifar10_resnet8_mlperf": cifar("input", lambda x: x),
    "cifar10_vit_ibp_3_3_8": cifar("input", lambda x: planes((x / 255 - np.float32((0.4914, 0.4822, 0.4465))) /
                                                             np.float32((0.2023, 0.1994, 0.2010)))),
    "cifar10_vnn_resnet4b": cifar("input.1", imagenet),
    "cifar10_winml_tutorial": cifar("modelInput", lambda x: planes(x / 127.5 - 1)),
    "denoise_dtln_1": arrays("dtln"),
    "denoise_nsnet2": arrays("nsnet2", n=8),
    "edge_har_svm": lambda which: {"X": np.random.default_rng(0).standard_normal((N_EVAL, 72)).astype(np.float32)},
    "edge_squeezenet1_1_fp16": photographs("imagenet", "data_0", (224, 224),
                                           lambda x: imagenet(x).astype(np.float16)),
    "face_ultraface_rfb320": photographs("faces", "input", (320, 240), lambda x: planes((x - 127) / 128)),
    "face_yunet_n": photographs("faces", "input", (320, 320), lambda x: planes(x[..., ::-1])),
    "filetype_magika_v3_3": arrays("filetype"),
    "imagenet_mobilenetv1_025": photographs("imagenet", "input", (224, 224), lambda x: x / 127.5 - 1),
    "imagenet_squeezenet1_1": photographs("imagenet", "data", (224, 224), imagenet),
    "kws_dscnn_mlperf": arrays("kws"),
    "llm_aidreams260k": arrays("llm", n=24),
    "mnist_cnn": pictures("mnist", "Input3", planes),
    "mnist_mlp_sigmoid": pictures("mnist", "input", lambda x: planes(x / 255)),
    "music_basic_pitch": arrays("basic_pitch", n=4),
    "ocr_cls_ppocrv2": pictures("ocr_direction", "x", lambda x: planes((x / 255 - 0.5) / 0.5)),
    "seg_deeplabv3_mnv2_voc": photographs("coco", "input", (513, 513), lambda x: planes(x / 127.5 - 1)),
    "sr_x3_pytorch": photographs("imagenet", "input", (224, 224), luminance),
    "vad_silero": arrays("vad"),
    "vww_mobilenetv1_mlperf": photographs("coco", "input", (96, 96), lambda x: x / 255),
    "yolox_nano": photographs("coco", "images", (416, 416), lambda x: planes(x[..., ::-1])),
}
OPTIONS = {"vad_silero": ["--input-value", "sr=16000"]}  # of convert and eval
CONVERT = {"music_basic_pitch": ["--names", "none"]}  # 36 % of the file are names
COUNTED = ("QLinearConv", "QLinearMatMul", "MatMulIntegerToFloat", "QGemm", "Conv", "FusedConv", "MatMul", "Gemm", "DequantizeLinear")
FIELDS = ["model", "status", "bytes", "share", "average_bits", "sqnr_db", "agreement", "eval_off", "seconds", *COUNTED]


def feed(session, samples, i):
    """Sample i: a row of each array, which is what the input holds or one row of it."""
    inputs = {}
    for value in session.get_inputs():
        x = np.asarray(samples[value.name][i])
        inputs[value.name] = x if x.ndim == len(value.shape) else x[None]
    return inputs


def run(path, samples, optimized=None):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if optimized:
        options.optimized_model_filepath = str(optimized)
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    n = len(next(iter(samples.values())))
    return [session.run(None, feed(session, samples, i))[0].astype(np.float64) for i in range(n)]


def compare(want, got):
    error = sum(((a - b) ** 2).sum() for a, b in zip(want, got, strict=True))
    power = sum((a ** 2).sum() for a in want)
    same = [np.mean(a.argmax(-1) == b.argmax(-1)) for a, b in zip(want, got, strict=True) if a.shape[-1] > 1]
    return f"{10 * np.log10(power / max(error, 1e-30)):.1f}", f"{np.mean(same):.4f}" if same else ""


def eval_off(tool, model, file, samples, folder, theirs):
    """Largest difference of our first output to ONNX Runtime's, relative to its range."""
    np.savez(folder / "eval.npz", **samples)
    subprocess.run([tool, "eval", file, "--data", folder / "eval.npz", "--outputs", folder / "outputs.npz", "-q",
                    "--overwrite", *OPTIONS.get(model, [])], check=True, capture_output=True)
    name = onnx.load(file, load_external_data=False).graph.output[0].name
    ours, theirs = np.load(folder / "outputs.npz")[name].ravel(), np.concatenate([x.ravel() for x in theirs])
    return f"{np.abs(ours - theirs).max() / np.ptp(theirs):.1e}"


def convert(tool, model, size, folder, options):
    source, out = SHARED / "models" / f"{model}.onnx", folder / f"{model}.onnx"
    samples = CASES[model]("eval")
    np.savez(folder / "calib.npz", **{k: v[:N_CALIB] for k, v in CASES[model]("calib").items()})
    start = time.monotonic()
    result = subprocess.run([tool, "convert", source, "--data", folder / "calib.npz", "--size", size, "-o", out,
                             "-q", "--overwrite", *OPTIONS.get(model, []), *CONVERT.get(model, []), *options],
                            capture_output=True, text=True, check=False)
    seconds = f"{time.monotonic() - start:.1f}"
    if result.returncode:
        return [model, f"exit {result.returncode}: {result.stderr.strip().splitlines()[-1]}"]
    summary = dict(csv.reader(open(out.with_suffix(".summary.csv"), newline="")))
    answers = run(out, samples, folder / "optimized.onnx")
    sqnr, agreement = compare(run(source, samples), answers)
    off = eval_off(tool, model, out, samples, folder, answers)
    operators = collections.Counter(n.op_type for n in onnx.load(folder / "optimized.onnx").graph.node)
    return [model, "ok", out.stat().st_size, f"{out.stat().st_size / source.stat().st_size:.4f}",
            f"{float(summary['average_weight_bits']):.2f}", sqnr, agreement, off, seconds,
            *(operators[name] for name in COUNTED)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tool", type=lambda p: pathlib.Path(p).resolve())
    parser.add_argument("--only", default="")
    parser.add_argument("--size", default="30%")
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options = sys.argv[split + 1:] or ["--effort", "none"]
    arguments = parser.parse_args(sys.argv[1:split])
    if not SHARED.is_dir():
        print(f"skipped: there is no {SHARED}", file=sys.stderr)
        return 77
    table = csv.writer(sys.stdout)
    table.writerow(FIELDS)
    with tempfile.TemporaryDirectory() as folder:
        for model in CASES:
            if any(part in model for part in arguments.only.split(",")):
                table.writerow(convert(arguments.tool, model, arguments.size, pathlib.Path(folder), options))
                sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
