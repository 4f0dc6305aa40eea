"""A network one of whose activations cannot be quantized well: the digit network with a channel that reaches a
thousand and that nobody needs.

    python3 tests/e2e/test_leave_float.py ONNX-MPQ MODELS SCRATCH
"""

import collections
import csv
import sys
import unittest

from test_digits import MODELS, SCRATCH, convert, n_correct, onnxruntime_outputs, run

import numpy as np  # test_digits has checked that they are there
import onnx
import onnxruntime
from onnx import numpy_helper

WIDE = SCRATCH / "wide.onnx"
AROUND = {"/layer1/conv1/Conv", "/layer1/conv2/Conv"}
OPTIONS = "--no-equalize", "--effort", "none", "--bits", "8", "--size", "100%", "--overwrite"


MILD = SCRATCH / "mild.onnx"  # the same, reaching so far only that little is lost
BOTH = SCRATCH / "both.onnx"  # with a second one
MOST = SCRATCH / "most.onnx"  # with a second one that costs less
RARE = SCRATCH / "rare.onnx"
EXTREME = 40  # what a rare value reaches there


def make_wide(path, reach, cheap_reach=None):
    """The cheap one is what the last layer reads, a thousandth of the products."""
    model = onnx.load(MODELS / "digits_cnn.onnx")
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if tensor.name == "layer1.bn1.bias":
            array[0] = reach
        if tensor.name == "layer1.conv2.weight":
            array[:, 0] = 0
        if cheap_reach and tensor.name == "bn_head.bias":
            array[0] = cheap_reach
        if cheap_reach and tensor.name == "fc.weight":
            array[:, 0] = 0
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, path)


def make_rare(path, samples):
    """Of 8192 values small ones that hardly matter, and one that is far away in every third sample and decides there."""
    random = np.random.default_rng(1)
    x = random.uniform(0, 1, (400, 16)).astype(np.float32)
    number = np.arange(len(x))
    x[:, 0] = np.where(number % 3, 0, np.where(number % 4, random.uniform(0.9, 1, len(x)), 1))
    np.savez(samples, x=x)
    first = random.uniform(-0.5, 0.5, (16, 8192)).astype(np.float32)
    first[:, 0] = first[0] = 0
    first[0, 0] = EXTREME
    last = random.normal(0, 1e-4, (8192, 2)).astype(np.float32)
    last[0] = 1, -1
    bias = np.float32([-0.97 * EXTREME, 0.97 * EXTREME])
    helper = onnx.helper
    nodes = [helper.make_node("MatMul", ["x", "first"], ["h"]), helper.make_node("Relu", ["h"], ["r"]),
             helper.make_node("Gemm", ["r", "last", "bias"], ["y"])]
    graph = helper.make_graph(nodes, "rare", [helper.make_tensor_value_info("x", 1, ["n", 16])],
                              [helper.make_tensor_value_info("y", 1, ["n", 2])],
                              [numpy_helper.from_array(array, name) for array, name in
                               ((first, "first"), (last, "last"), (bias, "bias"))])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def scales(path):
    """Of the activations, by what QuantizeLinear nodes name."""
    model = onnx.load(path)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return [float(constants[node.input[1]]) for node in model.graph.node if node.op_type == "QuantizeLinear"]


def summary(path):
    with open(path.with_suffix(".summary.csv"), newline="", encoding="utf-8") as file:
        return dict(csv.reader(file))


def float_layers(path):
    with open(path.with_suffix(".csv"), newline="", encoding="utf-8") as file:
        return {row["node"] for row in csv.DictReader(file) if row["activation_bits"] == "32"}


def optimized_ops(path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(SCRATCH / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return collections.Counter(n.op_type for n in onnx.load(SCRATCH / "optimized.onnx").graph.node)


class LeaveFloat(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        make_wide(WIDE, 1000)
        make_wide(MILD, 300)
        make_wide(BOTH, 700, 1000)
        make_wide(MOST, 1000, 700)
        make_rare(RARE, RARE.with_suffix(".npz"))

    def quantize(self, name, *options, model=WIDE):
        path = SCRATCH / f"{name}.onnx"
        convert(model, path, *OPTIONS, *options)
        return path, summary(path)

    def test_layers_around_it_stay_float(self):
        path, left = self.quantize("left", "--float-macs", "50%")
        all_quantized, none = self.quantize("none", "--float-macs", "0%")
        self.assertEqual(float_layers(path), AROUND)
        self.assertEqual((left["left_float_layers"], none["left_float_layers"]), ("2", "0"))
        self.assertEqual(float_layers(all_quantized), set())
        self.assertLess(float(left["kl"]), float(none["kl"]) / 20)
        self.assertGreaterEqual(n_correct(onnxruntime_outputs(path)), 594)
        ops = optimized_ops(path)
        self.assertEqual((ops["QLinearConv"], ops["Conv"] + ops["FusedConv"]), (8, 2))

    def test_excluded_layers_are_float_in_onnx_runtime(self):
        """It would quantize their weights itself, one scale a tensor, where a DequantizeLinear feeds them."""
        for target in "ort", "int8":
            path, _ = self.quantize(f"excluded_{target}", "--exclude", "/layer2/conv1/Conv", "--target", target,
                                    "--float-macs", "0%", model=MODELS / "digits_cnn.onnx")
            ops = optimized_ops(path)
            self.assertEqual((ops["QLinearConv"], ops["Conv"] + ops["FusedConv"]), (9, 1))

    def test_what_takes_most(self):
        """There is room for the layers around the first one and no more."""
        path, _ = self.quantize("both_left", "--float-macs", "41.74%", model=BOTH)
        self.assertIn("/fc/Gemm", float_layers(path))
        self.assertTrue(AROUND.isdisjoint(float_layers(path)))
        path, _ = self.quantize("most_left", "--float-macs", "41.74%", model=MOST)
        self.assertEqual(float_layers(path), AROUND)

    def test_a_range_does_not_cut_off_what_decides(self):
        path = SCRATCH / "rare_quantized.onnx"
        run("convert", RARE, "--data", RARE.with_suffix(".npz"), *OPTIONS, "--float-macs", "0%", "--names", "all", "-o",
            path, "--threads", 1)
        self.assertGreater(max(scales(path)) * 255, 0.99 * EXTREME)
        self.assertLess(float(summary(path)["kl"]), 0.01)

    def test_not_where_that_is_too_much(self):
        for options in (("--float-macs", "2%"), ("--bitops", "W8A8"), ("--target", "qnn")):
            with self.subTest(options=options):
                self.assertEqual(self.quantize("barred", *options)[1]["left_float_layers"], "0")

    def test_little_is_lost_by_one_activation(self):
        path, left = self.quantize("mild_left", "--float-macs", "50%", model=MILD)
        _, none = self.quantize("mild_none", "--float-macs", "0%", model=MILD)
        self.assertLess(float(none["kl"]), 0.01)
        self.assertEqual(float_layers(path), AROUND)
        self.assertLess(float(left["kl"]), float(none["kl"]) / 10)

    def test_equalizing_where_little_is_lost_needs_wide_weights(self):
        for bits, state in (("8", "kept"), ("4", "left out")):
            with self.subTest(bits=bits):
                path = SCRATCH / "equal.onnx"
                convert(MILD, path, *OPTIONS[1:], "--float-macs", "0%", "--bits", bits)
                self.assertEqual(summary(path)["equalizing"], state)

    def test_a_checkpoint_goes_on_from_there(self):
        state = SCRATCH / "wide.npz"
        state.unlink(missing_ok=True)
        first, _ = self.quantize("first", "--float-macs", "50%", "--checkpoint", state)
        run("search", state, "--size", "100%", "-o", SCRATCH / "s.onnx", "--threads", 1, "--overwrite")
        again = SCRATCH / "s.100pct.onnx"
        self.assertEqual(float_layers(again), AROUND)
        self.assertEqual(again.read_bytes(), first.read_bytes())


if __name__ == "__main__":
    SCRATCH.mkdir(parents=True, exist_ok=True)
    unittest.main(argv=sys.argv[:1], verbosity=2)
