"""Real models on real inputs, our engine against ONNX Runtime; and what convert makes of them. Prints CSV.

    python tests/bench/float_models.py build/cli/onnx-mpq [--only NAME] [--convert 30%] [--effort none]

Looks for models and data in ../shared, which are not part of the project. `error` is the largest difference of any
output of the float model, relative to its range. With --convert: the file's share of the float one, whether ONNX
Runtime runs it, and the worst output's SQNR in dB and agreement of the largest class with the float model, both
sides run by ONNX Runtime. Needs onnxruntime, numpy, pillow.
"""
import argparse
import csv
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime as ort
from PIL import Image

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared"
DATA = SHARED / "data"
MEAN, STD = np.float32((0.485, 0.456, 0.406)), np.float32((0.229, 0.224, 0.225))
N = 8  # samples


def npz(name, part="eval"):
    arrays = np.load(DATA / name / f"{part}.npz")
    return {key: arrays[key][:N] for key in arrays.files if key != "labels"}


def images(name, part="eval"):
    return npz(name, part)["images"].astype(np.float32)


def pictures(folder, size, crop=None):
    """The first pictures of a folder in RGB, resized (or short side resized and cropped)."""
    made = []
    for path in sorted((DATA / folder).glob("*.jpg"))[:N]:
        picture = Image.open(path).convert("RGB")
        if crop:
            w, h = picture.size
            scale = size / min(w, h)
            picture = picture.resize((round(w * scale), round(h * scale)), Image.BILINEAR)
            left, top = (picture.size[0] - crop) // 2, (picture.size[1] - crop) // 2
            picture = picture.crop((left, top, left + crop, top + crop))
        else:
            picture = picture.resize(size, Image.BILINEAR)
        made.append(np.asarray(picture, np.float32))
    return np.stack(made)


def nchw(x):
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2), np.float32)


def imagenet(x):
    return (x / 255 - MEAN) / STD


def enlarged():
    x = np.load(DATA / "cifar10" / "eval_lossless.npz")["images"][:N]
    return np.stack([np.asarray(Image.fromarray(p).resize((128, 128), Image.BILINEAR), np.float32) for p in x])


def cifar():
    return images("cifar10", "eval_lossless")


def photographs():
    return pictures("imagenet/eval", 256, 224)


def grey():
    return pictures("imagenet/eval", 256, 224).mean(-1, keepdims=True)


# Model -> what its first input is fed, or all inputs by name.
FEEDS = {
    "cifar10_marabou_large": lambda: cifar() / 255,
    "cifar10_mobilenetv2_probe128": lambda: nchw(imagenet(enlarged())),
    "cifar10_resnet20": lambda: nchw(imagenet(cifar())),
    "cifar10_resnet8_mlperf": cifar,
    "cifar10_vit_ibp_3_3_8": lambda: nchw((cifar() / 255 - np.float32((.4914, .4822, .4465)))
                                          / np.float32((.2023, .1994, .2010))),
    "cifar10_vnn_resnet4b": lambda: nchw(imagenet(cifar())),
    "cifar10_winml_tutorial": lambda: nchw(cifar() / 127.5 - 1),
    "denoise_dtln_1": lambda: npz("dtln"),
    "denoise_nsnet2": lambda: npz("nsnet2"),
    "edge_squeezenet1_1_fp16": lambda: nchw(photographs()[..., ::-1] - np.float32((104, 117, 123))),
    "face_ultraface_rfb320": lambda: nchw((pictures("faces", (320, 240)) - 127) / 128),
    "face_yunet_n": lambda: nchw(pictures("faces", (320, 320))[..., ::-1]),
    "filetype_magika_v3_3": lambda: npz("filetype"),
    "imagenet_mobilenetv1_025": lambda: photographs() / 127.5 - 1,
    "imagenet_squeezenet1_1": lambda: nchw(imagenet(photographs())),
    "kws_dscnn_mlperf": lambda: npz("kws"),
    "llm_aidreams260k": lambda: npz("llm"),
    "mnist_cnn": lambda: nchw(images("mnist")),
    "mnist_mlp_sigmoid": lambda: nchw(images("mnist") / 255),
    "music_basic_pitch": lambda: npz("basic_pitch"),
    "ocr_cls_ppocrv2": lambda: nchw((images("ocr_direction") / 255 - 0.5) / 0.5),
    "seg_deeplabv3_mnv2_voc": lambda: nchw(pictures("coco", (513, 513))[:2] / 127.5 - 1),
    "sr_x3_pytorch": lambda: nchw(grey()[:2] / 255),
    "vad_silero": lambda: npz("vad"),
    "vww_mobilenetv1_mlperf": lambda: pictures("coco", (96, 96)) / 255,
    "yolox_nano": lambda: nchw(pictures("coco", (416, 416))[:2, :, :, ::-1]),
}
OPTIONS = {"vad_silero": ["--input-value", "sr=16000"]}
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64,
         "tensor(int32)": np.int32}


def run(path, feeds):
    """Names and, stacked over the samples, values of the outputs."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    results = []
    for i in range(len(next(iter(feeds.values())))):
        feed = {}
        for value in session.get_inputs():
            x = feeds[value.name]
            whole = x.ndim > len(value.shape) or not value.shape
            feed[value.name] = np.asarray(x[i] if whole else x[i:i + 1], TYPES[value.type])
        results.append(session.run(None, feed))
    return {value.name: np.stack([np.asarray(r[k], np.float64) for r in results])
            for k, value in enumerate(session.get_outputs())}


def eval_outputs(tool, path, data, folder, options):
    out = folder / "outputs.npz"
    done = subprocess.run([tool, "eval", path, "--data", data, "--outputs", out, "--overwrite", *options],
                          capture_output=True, text=True, check=False)
    return np.load(out) if done.returncode == 0 else done.stderr.strip()


def float_error(ours, theirs):
    return max(np.abs(np.asarray(ours[name], np.float64).reshape(y.shape) - y).max() / max(np.ptp(y), 1e-9)
               for name, y in theirs.items())


def fidelity(before, after):
    sqnr, agreement = np.inf, ""
    for name, y in before.items():
        noise = np.square(after[name] - y).sum()
        sqnr = min(sqnr, 10 * np.log10(np.square(y).sum() / noise) if noise else np.inf)
    first = next(iter(before))
    if before[first].shape[-1] > 1:
        agreement = f"{(before[first].argmax(-1) == after[first].argmax(-1)).mean():.4f}"
    return f"{sqnr:.1f}", agreement


def convert(arguments, path, data, folder, theirs, feeds, options):
    small = folder / "small.onnx"
    done = subprocess.run([arguments.tool, "convert", path, "--data", data, "--size", arguments.convert, "--effort",
                           arguments.effort, "-o", small, "--overwrite", "-q", *options],
                          capture_output=True, text=True, check=False)
    if done.returncode:
        return [done.stderr.strip().splitlines()[-1][:160], "", "", ""]
    share = f"{small.stat().st_size / path.stat().st_size:.4f}"
    try:
        return ["ok", share, *fidelity(theirs, run(small, feeds))]
    except Exception as error:  # whatever ONNX Runtime does not like is a result
        return [f"ONNX Runtime: {error}"[:160], share, "", ""]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tool", type=lambda p: pathlib.Path(p).resolve())
    parser.add_argument("--only", default="")
    parser.add_argument("--convert")
    parser.add_argument("--effort", default="none")
    arguments = parser.parse_args()
    if not SHARED.is_dir():
        print(f"skipped: there is no {SHARED}", file=sys.stderr)
        return 77
    table = csv.writer(sys.stdout)
    table.writerow(["model", "error"] + (["result", "share", "sqnr", "agreement"] if arguments.convert else []))
    for path in sorted((SHARED / "models").glob("*.onnx")):
        if arguments.only not in path.stem:
            continue
        with tempfile.TemporaryDirectory() as folder:
            folder, options = pathlib.Path(folder), OPTIONS.get(path.stem, [])
            if path.stem not in FEEDS:
                done = subprocess.run([arguments.tool, "convert", path, "-o", folder / "x.onnx"], capture_output=True,
                                      text=True, check=False)
                table.writerow([path.stem, done.stderr.strip()])
                continue
            feeds = FEEDS[path.stem]()
            if not isinstance(feeds, dict):
                feeds = {ort.InferenceSession(str(path)).get_inputs()[0].name: feeds}
            data = folder / "data.npz"
            np.savez(data, **feeds)
            theirs = run(path, feeds)
            ours = eval_outputs(arguments.tool, path, data, folder, options)
            row = [path.stem, ours if isinstance(ours, str) else f"{float_error(ours, theirs):.2g}"]
            if arguments.convert:
                row += convert(arguments, path, data, folder, theirs, feeds, options)
            table.writerow(row)
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
