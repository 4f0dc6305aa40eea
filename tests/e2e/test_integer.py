"""Quantized files of several tools give the same bits by `onnx-mpq eval` and by ONNX Runtime.

    python3 tests/e2e/test_integer.py ONNX-MPQ MODELS SCRATCH

The files are of models/digits_cnn.onnx and of a network made here of operators that it lacks:
by our convert, and by onnxruntime.quantization in its two formats, by tensor and by channel.
"""

import pathlib
import shutil
import subprocess
import sys
import unittest

try:
    import numpy as np
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process
except ImportError as error:
    print(f"Skipped: {error}. sh tests/run.sh installs what is needed.")
    sys.exit(77)

if "vnni" not in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8"):
    print("Skipped: without VNNI instructions ONNX Runtime's products of uint8 and int8 saturate.")
    sys.exit(77)

PROGRAM, MODELS, SCRATCH = (pathlib.Path(argument).resolve() for argument in sys.argv[1:4])


def images(name):
    x = np.load(MODELS / f"digits_{name}.npz")["images"].astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


CALIB, EVAL = images("calib")[:100], images("eval")[:200]


class Reader(CalibrationDataReader):
    def __init__(self):
        self.feeds = iter([{"image": CALIB[i:i + 1]} for i in range(len(CALIB))])

    def get_next(self):
        return next(self.feeds, None)


def session_of(path, optimized=None):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if optimized:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(*arguments):
    command = [str(argument) for argument in (PROGRAM, *arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise AssertionError(f"{' '.join(command)}\n{result.stdout}{result.stderr}")


def every_operator(path):
    """Concat, Mul, Add, both average pools, Sigmoid, LeakyRelu, depthwise and 1x1 Conv, MatMul."""
    rng = np.random.default_rng(5)
    weights = {"w0": (8, 1, 3, 3), "b0": (8,), "w1": (8, 1, 3, 3), "b1": (8,), "w2": (8, 8, 1, 1), "w3": (16, 10)}
    arrays = [numpy_helper.from_array((rng.standard_normal(s) * 0.4).astype(np.float32), n)
              for n, s in weights.items()]
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1]), node("Relu", ["c0"], ["a"]),
        node("Conv", ["a", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], group=8),
        node("LeakyRelu", ["c1"], ["l"], alpha=0.1),
        node("Conv", ["l", "w2"], ["c2"]), node("Sigmoid", ["c2"], ["gate"]),
        node("Mul", ["l", "gate"], ["m"]), node("Add", ["m", "a"], ["sum"]),
        node("Concat", ["sum", "gate"], ["joined"], axis=1),
        node("AveragePool", ["joined"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
        node("MaxPool", ["small"], ["smaller"], kernel_shape=[2, 2], strides=[1, 1]),
        node("GlobalAveragePool", ["smaller"], ["pooled"]), node("Flatten", ["pooled"], ["flat"]),
        node("MatMul", ["flat", "w3"], ["scores"]),
    ]
    side = CALIB.shape[2]
    graph = helper.make_graph(
        nodes, "every", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, side, side])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 10])], arrays)
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path)


class SameBits(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        np.savez(SCRATCH / "eval.npz", image=EVAL)
        every_operator(SCRATCH / "every.onnx")
        quant_pre_process(MODELS / "digits_cnn.onnx", SCRATCH / "digits.onnx", skip_symbolic_shape=True)

    def check(self, path, least=10):
        optimized = SCRATCH / "optimized.onnx"
        want = session_of(path, optimized).run(None, {"image": EVAL})[0]
        run("eval", path, "--data", SCRATCH / "eval.npz", "--outputs", SCRATCH / "outputs.npz", "--overwrite")
        with np.load(SCRATCH / "outputs.npz") as outputs:
            got = outputs[outputs.files[0]].reshape(want.shape)
        integer = [n.op_type for n in onnx.load(optimized).graph.node
                   if n.op_type.startswith("Q") or n.op_type == "MatMulIntegerToFloat"]
        self.assertGreaterEqual(len(integer), least, integer)
        np.testing.assert_array_equal(got, want)

    def test_files_of_convert(self):
        path = SCRATCH / "digits.ours.onnx"
        for bits in ("8", "2,3,4,5,6,7"):
            run("convert", SCRATCH / "digits.onnx", "--data", MODELS / "digits_calib.npz", "--preprocess", "unit",
                "--bits", bits, "--size", "300kB", "--effort", "none", "--output", path, "--overwrite",
                "--threads", "1")
            with self.subTest(bits=bits):
                self.check(path)

    def test_files_of_onnxruntime(self):
        for name in ("digits", "every"):
            for form in (QuantFormat.QDQ, QuantFormat.QOperator):
                for per_channel in (False, True):
                    path = SCRATCH / f"{name}.theirs.onnx"
                    quantize_static(SCRATCH / f"{name}.onnx", path, Reader(), quant_format=form,
                                    per_channel=per_channel, activation_type=QuantType.QUInt8,
                                    weight_type=QuantType.QInt8)
                    with self.subTest(model=name, form=form.name, per_channel=per_channel):
                        self.check(path)

    def test_signed_activations(self):
        """Which it runs as uint8 where one node reads them, and leaves alone elsewhere."""
        path = SCRATCH / "signed.onnx"
        for per_channel in (False, True):
            quantize_static(SCRATCH / "digits.onnx", path, Reader(), quant_format=QuantFormat.QDQ,
                            per_channel=per_channel, activation_type=QuantType.QInt8, weight_type=QuantType.QInt8)
            with self.subTest(per_channel=per_channel):
                self.check(path, 7)


if __name__ == "__main__":
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir(parents=True)
    unittest.main(argv=sys.argv[:1])
