"""What ONNX Runtime's own quantizer makes of the models of accuracy.py, calibrated on the same samples. Prints CSV.

    python tests/bench/onnxruntime_int8.py build/cli/onnx-mpq [--only resnet20] [--folder DIR]

quantize_static as its documentation recommends: quant_pre_process, QDQ, int8 weights a channel, uint8 activations,
min-max; and the same with int4 weights. Judged by `onnx-mpq eval` beside the float model (language models by
perplexity, in ONNX Runtime). Models and data as in accuracy.py. Needs onnx, onnxruntime, numpy.
"""
import csv
import re
import subprocess
import sys

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from accuracy import CASES, SHARED, arguments, folder_of, perplexity_rise

FIELDS = ["model", "weights", "bytes", "share", "top1_float", "top1", "drop", "agreement", "kl", "perplexity_rise"]
MOST = 1000  # samples that calibrate
WEIGHTS = {"int8": QuantType.QInt8, "int4": QuantType.QInt4}


class Reader(CalibrationDataReader):
    def __init__(self, arrays):
        n = min([MOST, *map(len, arrays.values())])
        self.feeds = iter([{name: array[i:i + 1] for name, array in arrays.items()} for i in range(n)])

    def get_next(self):
        return next(self.feeds, None)


def preprocessed(tool, source, data, options, folder):
    """{input: samples} as the float model gets them: what a model that only passes its inputs on answers."""
    graph = onnx.load(source).graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    outputs = [onnx.helper.make_value_info(f"{value.name}_", value.type) for value in inputs]
    nodes = [onnx.helper.make_node("Identity", [value.name], [f"{value.name}_"]) for value in inputs]
    passing = onnx.helper.make_model(onnx.helper.make_graph(nodes, "inputs", inputs, outputs),
                                     opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(passing, folder / "inputs.onnx")
    subprocess.run([tool, "eval", folder / "inputs.onnx", "--data", data, *options, "--outputs",
                    folder / "inputs.npz", "--overwrite"], check=True, capture_output=True)
    arrays = np.load(folder / "inputs.npz")
    return {value.name: arrays[f"{value.name}_"] for value in inputs}


def judged(tool, source, quantized, data, options):
    """Top-1 of the float model and of the other, agreement in percent and KL, as `eval` prints them."""
    text = subprocess.run([tool, "eval", quantized, "--reference", source, "--data", data, *options], check=True,
                          capture_output=True, text=True).stdout
    top1, top1_float = re.search(r"top-1 +([\d.]+) %, reference ([\d.]+) %", text).groups()
    agreement, kl = re.search(r"same top-1 ([\d.]+) %, KL ([\d.e-]+)", text).groups()
    return [top1_float, top1, f"{float(top1_float) - float(top1):.2f}", agreement, kl, ""]


def quantized(parsed, model, folder):
    """A row for each type of weights; none, and a message, where it or its file fails."""
    data, calib, evaluation, options, _ = CASES[model]
    options = [option for option in options if option not in ("--names", "none")]
    source, data = SHARED / "models" / f"{model}.onnx", SHARED / "data" / data
    arrays = preprocessed(parsed.tool, source, data / calib, options, folder)
    quant_pre_process(source, folder / "prepared.onnx", skip_symbolic_shape=True)
    for name, weights in WEIGHTS.items():
        out = folder / f"{model}_{name}.onnx"
        try:
            quantize_static(folder / "prepared.onnx", out, Reader(arrays), per_channel=True, weight_type=weights,
                            activation_type=QuantType.QUInt8)
            if model.startswith("llm"):
                answers = [""] * 5 + [perplexity_rise(source, out, data / evaluation)]
            else:
                answers = judged(parsed.tool, source, out, data / evaluation, options)
        except (ValueError, subprocess.CalledProcessError) as error:
            print(f"{model}, {name} weights: {getattr(error, 'stderr', None) or error}", file=sys.stderr)
            continue
        size = out.stat().st_size
        yield [model, name, size, f"{size / source.stat().st_size:.4f}", *answers]


def main():
    parsed = arguments(__doc__.splitlines()[0])
    table = csv.writer(sys.stdout)
    table.writerow(FIELDS)
    with folder_of(parsed) as folder:
        for model in parsed.models:
            for row in quantized(parsed, model, folder):
                table.writerow(row)
                sys.stdout.flush()


if __name__ == "__main__":
    main()
