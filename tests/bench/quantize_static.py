"""`onnx-mpq convert --effort none --bits 8` beside onnxruntime.quantization.quantize_static.

    python tests/bench/quantize_static.py build/cli/onnx-mpq MODEL.onnx PICTURES [THREADS]

Same pictures (short side 256, centre crop 224, ImageNet mean and deviation), QDQ, 8-bit weights a
channel, process start and decoding included on both sides; needs onnx, onnxruntime, numpy, pillow.
CSV on stdout: seconds (elapsed, and of the processor) and peak resident megabytes of each. Ours marks
its peak a stage, so the system's mark is that of the last; the report has them all.
"""

import csv
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

STATIC = """
import sys, pathlib
import numpy as np
from PIL import Image
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
model, folder, out = sys.argv[1:4]
def load(path):
    image = Image.open(path).convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.BILINEAR)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    x = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255
    x = (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return x.transpose(2, 0, 1)[None].astype(np.float32)
class Reader(CalibrationDataReader):
    def __init__(self):
        self.paths = iter(sorted(pathlib.Path(folder).glob("*.jpg")))
    def get_next(self):
        path = next(self.paths, None)
        return None if path is None else {"data": load(path)}
quantize_static(model, out, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8)
"""


def run(command, environment):
    start, before = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    text = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(text.decode())
    return time.time() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def peak_of_stages(summary):
    return max(float(value) for key, value in csv.reader(open(summary, newline="")) if "peak_rss" in key) / 2**20


def main():
    program, model, folder = sys.argv[1:4]
    threads = sys.argv[4] if len(sys.argv) > 4 else "1"
    environment = dict(os.environ, OMP_NUM_THREADS=threads)
    with tempfile.TemporaryDirectory() as name:
        out = pathlib.Path(name)
        ours = [program, "convert", model, "--overwrite", "--data", folder, "--preprocess", "imagenet", "--effort", "none",
                "--bits", "8", "--size", "100%", "--threads", threads, "-o", str(out / "ours.onnx")]
        theirs = [sys.executable, "-c", STATIC, model, folder, str(out / "theirs.onnx")]
        if threads == "1":
            theirs = ["taskset", "-c", "0", *theirs]
        print("side,seconds,processor_seconds,peak_mb")
        for side, command in (("ours", ours), ("quantize_static", theirs)) * 2:
            seconds, processor, peak = run(command, environment)
            if side == "ours":
                peak = max(peak, peak_of_stages(out / "ours.summary.csv"))
            print(f"{side},{seconds:.2f},{processor:.2f},{peak:.0f}", flush=True)


if __name__ == "__main__":
    main()
