"""Files for every --target, judged by onnx.checker, the ONNX reference evaluator and ONNX Runtime.

    python3 tests/e2e/test_targets.py ONNX-MPQ MODELS SCRATCH
"""

import collections
import csv
import pathlib
import shutil
import subprocess
import sys
import unittest

try:
    import numpy as np
    import onnx
    import onnx.inliner
    import onnxruntime
    from onnx import TensorProto, numpy_helper
    from onnx.reference import ReferenceEvaluator
except ImportError as error:
    print(f"Skipped: {error}. sh tests/run.sh installs what is needed.")
    sys.exit(77)

PROGRAM, MODELS, SCRATCH = (pathlib.Path(argument).resolve() for argument in sys.argv[1:4])
SOURCE = MODELS / "digits_cnn.onnx"
N_CONV = 10
LEVELS = onnxruntime.GraphOptimizationLevel


def run(*arguments):
    command = [str(argument) for argument in (PROGRAM, *arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise AssertionError(f"{' '.join(command)}\n{result.stdout}{result.stderr}")
    return result.stdout


def convert(name, *options):
    path = SCRATCH / f"{name}.onnx"
    run("convert", SOURCE, "--data", MODELS / "digits_calib.npz", "--preprocess", "unit", "--size", "100%",
        "--effort", "none", "--threads", 1, "--overwrite", "-o", path, *options)
    return path


def images():
    x = np.load(MODELS / "digits_eval.npz")["images"].astype(np.float32) / np.float32(255)
    return x.transpose(0, 3, 1, 2)


def our_outputs(path):
    file = SCRATCH / "outputs.npz"
    run("eval", path, "--data", MODELS / "digits_eval.npz", "--preprocess", "unit", "--outputs", file,
        "--overwrite", "--threads", 1)
    with np.load(file) as outputs:
        return outputs[outputs.files[0]]


def session_of(path, level=LEVELS.ORT_ENABLE_ALL):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(SCRATCH / "optimized.onnx")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def onnxruntime_outputs(path, level=LEVELS.ORT_ENABLE_ALL):
    session = session_of(path, level)
    return session.run(None, {session.get_inputs()[0].name: images()})[0]


def optimized_ops():
    return collections.Counter(n.op_type for n in onnx.load(SCRATCH / "optimized.onnx").graph.node)


def load(path):
    """With calls of local functions written out."""
    return onnx.inliner.inline_local_functions(onnx.load(path))


def initializers(path):
    return {t.name: t for t in onnx.load(path).graph.initializer}


def dequantized(model, op_types):
    """The integer weight, as an initializer, of each node of these types whose weight is one."""
    constant = {t.name: t for t in model.graph.initializer}
    producer = {o: n for n in model.graph.node for o in n.output}
    for node in model.graph.node:
        if node.op_type in op_types and producer.get(node.input[1]):
            dq = producer[node.input[1]]
            if dq.op_type == "DequantizeLinear" and dq.input[0] in constant:
                yield node, constant[dq.input[0]]


class Targets(unittest.TestCase):
    """Lowest opset and IR for 8 bits and for 3; types of 3-bit weights; type of activations; convolutions
    that ONNX Runtime runs on integers."""
    rows = {
        "ort": ((13, 7), (13, 7), None, TensorProto.UINT8, N_CONV),
        "int8": ((13, 7), (13, 7), TensorProto.INT8, TensorProto.UINT8, N_CONV),
        "openvino": ((13, 7), (13, 7), TensorProto.INT8, TensorProto.UINT8, None),
        "tensorrt": ((13, 7), (13, 7), TensorProto.INT8, TensorProto.INT8, None),
        "onnx": ((13, 7), (21, 10), TensorProto.INT4, TensorProto.UINT8, 0),
        "qnn": ((13, 7), (21, 10), TensorProto.INT4, TensorProto.UINT8, 0),
        "qnn16": ((21, 10), (21, 10), TensorProto.INT4, TensorProto.UINT16, 0),
    }

    def check(self, path, versions, weight_type, activation_type):
        onnx.checker.check_model(path, full_check=True)
        model = load(path)
        source = onnx.load(SOURCE)
        self.assertEqual(max(versions[0], source.opset_import[0].version), model.opset_import[0].version)
        self.assertEqual(max(versions[1], source.ir_version), model.ir_version)
        if weight_type:
            weights = {t.data_type for _, t in dequantized(model, ("Conv", "Gemm"))}
            self.assertEqual(weights, {weight_type})
        constant = {t.name: t for t in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "QuantizeLinear":
                self.assertEqual(constant[node.input[2]].data_type, activation_type)
                if activation_type == TensorProto.INT8:
                    self.assertEqual(numpy_helper.to_array(constant[node.input[2]]), 0)

    def test_every_target_at_every_width(self):
        for target, (eight, three, weight_type, activation_type, _) in self.rows.items():
            for bits in (2, 3, 5, 8):
                with self.subTest(target=target, bits=bits):
                    path = convert(f"{target}.{bits}", "--target", target, "--bits", bits)
                    is_small = bits <= 4 and weight_type == TensorProto.INT4
                    expected_type = weight_type if is_small or target == "ort" else TensorProto.INT8
                    if target == "ort" and bits == 8:
                        expected_type = TensorProto.INT8
                    self.check(path, three if is_small else eight, expected_type, activation_type)
                    ours, theirs = our_outputs(path), onnxruntime_outputs(path)
                    step = np.ptp(theirs) / 255
                    self.assertLessEqual(np.abs(ours - theirs).mean(), step / 2)
                    self.assertGreaterEqual(np.mean(ours.argmax(1) == theirs.argmax(1)), 0.99)

    def test_integer_convolutions(self):
        for target, row in self.rows.items():
            if row[4] is None:
                continue
            with self.subTest(target=target):
                session_of(convert(f"{target}.3", "--target", target, "--bits", 3))
                self.assertEqual(optimized_ops()["QLinearConv"], row[4])

    def test_float_outputs(self):
        """What the last layer makes goes to the outside as it is, unless the target wants integers."""
        for target in self.rows:
            with self.subTest(target=target):
                graph = load(convert(f"{target}.8", "--target", target, "--bits", 8)).graph
                last = next(n for n in graph.node if graph.output[0].name in n.output)
                self.assertEqual(last.op_type, "DequantizeLinear" if target.startswith("qnn") else "Gemm")

    def test_reference_evaluator(self):
        """It knows DequantizeLinear from opset 19 on, which means the same."""
        for target in self.rows:
            with self.subTest(target=target):
                path = convert(f"{target}.3", "--target", target, "--bits", 3)
                model = load(path)
                model.opset_import[0].version = max(19, model.opset_import[0].version)
                x = {model.graph.input[0].name: images()[:4]}
                wanted = ReferenceEvaluator(model).run(None, x)[0]
                session = session_of(path, LEVELS.ORT_DISABLE_ALL)
                got = session.run(None, x)[0]
                self.assertLessEqual(np.abs(got - wanted).max(), 2 * np.ptp(wanted) / 255)


class NarrowActivations(unittest.TestCase):
    """Activations of fewer than 8 bits are a Clip of uint8: integer kernels stay, and compute what our
    engine does."""

    def test_every_width(self):
        for bits in range(2, 8):
            with self.subTest(bits=bits):
                path = convert(f"narrow{bits}", "--bits", 8, "--act-bits", bits)
                onnx.checker.check_model(path, full_check=True)
                ours, theirs = our_outputs(path), onnxruntime_outputs(path)
                ops = optimized_ops()
                self.assertEqual((ops["QLinearConv"], ops["QGemm"]), (N_CONV, 1))
                self.assertFalse(ops["Relu"] + ops["Conv"], ops)
                # A tie that falls the other way is a step of a layer, which is large here.
                step = np.ptp(theirs) / 2**bits
                self.assertLessEqual((np.abs(ours - theirs) > step / 2).mean(), 0.02)


def products(node, weight):
    """A weight as [channels, products in the order of ONNX Runtime's x86 kernels], or None where the
    kernel adds in 32 bits."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Conv":
        if weight.shape[1] == 1 and attributes.get("group", 1) == weight.shape[0]:
            return None
        return weight.reshape(*weight.shape[:2], -1).transpose(0, 2, 1).reshape(len(weight), -1)
    return weight if attributes.get("transB") else weight.T


def multiply_saturating(x, w):
    """x uint8 [products], w int8 [channels, products], as vpmaddubsw and vpmaddwd do it."""
    pad = len(x) % 2
    x = np.pad(x.astype(np.int64), (0, pad))
    w = np.pad(w.astype(np.int64), ((0, 0), (0, pad)))
    pairs = (x * w).reshape(len(w), -1, 2).sum(2)
    return np.clip(pairs, -32768, 32767).sum(1)


def saturating_channels(path):
    """By the worst inputs of each channel and sign, and by random ones."""
    rng = np.random.default_rng(0)
    counts = {}
    for node, tensor in dequantized(load(path), ("Conv", "Gemm", "MatMul")):
        w = products(node, numpy_helper.to_array(tensor))
        if w is None:
            counts[node.name] = 0
            continue
        exact = w.astype(np.int64)
        wrong = np.zeros(len(w), bool)
        worst = [255 * (sign * row > 0).astype(np.uint8) for row in exact for sign in (1, -1)]
        for x in [*worst, *rng.integers(0, 256, (20, w.shape[1]), dtype=np.uint8)]:
            wrong |= multiply_saturating(x, w) != exact @ x.astype(np.int64)
        counts[node.name] = int(wrong.sum())
    return counts


class Saturation(unittest.TestCase):
    def report(self, path):
        with open(path.with_suffix(".csv"), newline="", encoding="utf-8") as file:
            layers = {r["node"]: int(r["saturating_channels"]) for r in csv.DictReader(file)}
        with open(path.with_suffix(".summary.csv"), newline="", encoding="utf-8") as file:
            return layers, dict(csv.reader(file))

    def test_the_report_counts_what_an_emulation_finds_and_the_repair_is_complete(self):
        for bits in (4, 5, 6, 8):
            with self.subTest(bits=bits):
                path = convert("unsafe", "--target", "int8", "--bits", bits)
                layers, summary = self.report(path)
                found = saturating_channels(path)
                self.assertEqual(layers, found)
                self.assertEqual(int(summary["saturating_channels"]), sum(found.values()))
                self.assertEqual(sum(found.values()) > 0, bits > 4)
                safe = convert("safe", "--target", "int8", "--bits", bits, "--saturation-safe")
                layers, summary = self.report(safe)
                self.assertEqual(sum(layers.values()), 0)
                self.assertEqual(sum(saturating_channels(safe).values()), 0)
                self.assertEqual(int(summary["saturation_repaired_channels"]), sum(found.values()))
                labels = np.load(MODELS / "digits_eval.npz")["labels"]
                right = (onnxruntime_outputs(safe).argmax(1) == labels).sum()
                self.assertGreaterEqual(right, 594)  # 598 in float


if __name__ == "__main__":
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir(parents=True)
    unittest.main(argv=sys.argv[:1], verbosity=2)
