"""`onnx-mpq lint` finds what it should in files made for each rule, and nothing in clean ones.

    python3 tests/e2e/test_lint.py ONNX-MPQ MODELS SCRATCH
"""

import pathlib
import re
import shutil
import subprocess
import sys
import unittest

try:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process
except ImportError as error:
    print(f"Skipped: {error}. sh tests/run.sh installs what is needed.")
    sys.exit(77)

PROGRAM, MODELS, SCRATCH = (pathlib.Path(argument).resolve() for argument in sys.argv[1:4])
TYPES = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "uint4": TensorProto.UINT4,
         "int4": TensorProto.INT4, "uint2": TensorProto.UINT2, "int2": TensorProto.INT2}


def lint(path, *options):
    """{rule: [lines]} of warnings and errors, and the exit code."""
    result = subprocess.run([str(PROGRAM), "lint", str(path), *options], capture_output=True, text=True,
                            check=False)
    found = {}
    for line in result.stdout.splitlines():
        match = re.match(re.escape(str(path)) + r": (note|warning|error) (\S+): (.*)", line)
        if not match:
            raise AssertionError(line)
        if match[1] != "note" or "--notes" in options:
            found.setdefault(match[2], []).append(match[3])
    if result.returncode not in (0, 5):
        raise AssertionError(result.stderr)
    return found, result.returncode


class Net:
    """A graph in the making; q(), dq(), weight() add nodes and return names."""

    def __init__(self, opset=25, ir_version=13):
        self.nodes, self.constants, self.opset, self.ir_version = [], [], opset, ir_version

    def constant(self, array, kind=None):
        name = f"k{len(self.constants)}"
        array = np.asarray(array)
        if kind:
            tensor = helper.make_tensor(name, TYPES[kind], array.shape, array.astype(np.int64).flatten())
        else:
            tensor = numpy_helper.from_array(array, name)
        self.constants.append(tensor)
        return name

    def node(self, op, inputs, **attributes):
        out = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [out], name=out + ".node", **attributes))
        return out

    def q(self, x, kind="uint8", zero=0, scale=np.float32(0.05)):
        pair = [self.constant(scale), self.constant(zero, kind)]
        return self.node("DequantizeLinear", [self.node("QuantizeLinear", [x] + pair)] + pair)

    def weight(self, shape, kind="int8", scale=np.float32(0.02), zero=False, high=1, **attributes):
        values = np.random.default_rng(0).integers(0, high + 1, shape)
        inputs = [self.constant(values, kind), self.constant(scale)]
        if zero:
            inputs.append(self.constant(np.zeros(np.shape(scale), np.int64), kind))
        return self.node("DequantizeLinear", inputs, **attributes)

    def save(self, name, output, shape, ints=None):
        values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
        graph = helper.make_graph(self.nodes, name, values,
                                  [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
                                  self.constants)
        path = SCRATCH / f"{name}.onnx"
        onnx.save(helper.make_model(graph, ir_version=self.ir_version,
                                    opset_imports=[helper.make_opsetid("", self.opset)]), path)
        return path


IMAGE = [1, 8, 6, 6]


class Landmines(unittest.TestCase):
    def finds(self, rule, path, exit_code=5):
        found, code = lint(path)
        self.assertIn(rule, found)
        self.assertIn(".node'", found[rule][0])
        self.assertEqual(code, exit_code)

    def test_l1(self):
        net = Net()
        y = net.node("Conv", [net.q("x"), net.weight((4, 8, 3, 3), "int2")])
        self.finds("L1", net.save("l1", net.q(y, zero=128), IMAGE))

    def test_l2(self):
        net = Net()
        y = net.node("Conv", [net.q("x", "uint4"), net.weight((4, 8, 3, 3))])
        self.finds("L2", net.save("l2", net.q(y), IMAGE))

    def test_l3(self):
        for op, kind, attributes in (("MaxPool", "uint4", {"kernel_shape": [2, 2]}),
                                     ("Sigmoid", "uint2", {})):
            net = Net()
            y = net.node(op, [net.q("x", kind)], **attributes)
            self.finds("L3", net.save("l3", net.q(y, kind), IMAGE))

    def test_l4(self):
        net = Net()
        y = net.node("Relu", [net.node("Conv", [net.q("x"), net.weight((4, 8, 3, 3), "int4")])])
        self.finds("L4", net.save("l4", net.q(y, "uint4", 5), IMAGE))

    def test_l4_not_at_the_least_integer(self):
        net = Net()
        y = net.node("Relu", [net.node("Conv", [net.q("x"), net.weight((4, 8, 3, 3), "int4")])])
        self.assertNotIn("L4", lint(net.save("l4_clean", net.q(y, "int4", -8), IMAGE))[0])

    def test_l5(self):
        net = Net()
        y = net.node("MatMul", ["x", net.weight((16, 10), "int2")])
        self.finds("L5", net.save("l5", y, [2, 16]))
        net = Net()
        y = net.node("MatMul", ["x", net.weight((16, 12), "int2")])
        self.assertNotIn("L5", lint(net.save("l5_clean", y, [2, 16]))[0])

    def test_l6(self):
        net = Net()
        w = net.weight((32, 8), "int2", np.full((2, 8), 0.1, np.float32), axis=0, block_size=16)
        path = net.save("l6", net.node("MatMul", ["x", w]), [2, 32])
        notes = subprocess.run([str(PROGRAM), "lint", path], capture_output=True, text=True, check=False)
        self.assertIn("note L6", notes.stdout)

    def test_l7(self):
        net = Net(opset=23, ir_version=11)
        found, code = lint(net.save("l7", net.q("x"), IMAGE))
        self.assertIn("L7", found)
        self.assertEqual(code, 0)
        self.assertNotIn("L7", lint(Net(opset=21, ir_version=10).save_clean())[0])

    def test_l8(self):
        net = Net(opset=23, ir_version=11)
        y = net.node("DequantizeLinear", [net.node("QuantizeLinear", ["x", net.constant(np.float16(0.1))]),
                                          net.constant(np.float16(0.1))], output_dtype=TensorProto.FLOAT)
        self.finds("L8", net.save("l8", y, IMAGE))

    def test_l9(self):
        net = Net()
        w = net.weight((1024, 8), "int4", np.full((2, 8), 0.1, np.float32), axis=0, block_size=512)
        self.finds("L9", net.save("l9", net.node("MatMul", ["x", w]), [2, 1024]))

    def test_l10(self):
        net = Net(opset=13, ir_version=7)
        y = net.node("Conv", [net.q("x", "int8"), net.weight((4, 8, 3, 3), "uint8")])
        self.finds("L10", net.save("l10", net.q(y, "int8"), IMAGE), 0)

    def test_l11(self):
        for op, shape, axis, size in (("Conv", (8, 8, 3, 3), 1, IMAGE), ("Gemm", (8, 8), 0, [2, 8])):
            net = Net(opset=13, ir_version=7)
            scale = np.linspace(0.1, 0.2, 8, dtype=np.float32)
            y = net.node(op, [net.q("x"), net.weight(shape, "int8", scale, axis=axis)])
            self.finds("L11", net.save("l11", net.q(y, zero=128), size))
            net = Net(opset=13, ir_version=7)
            y = net.node(op, [net.q("x"), net.weight(shape, "int8", scale, axis=1 - axis)])
            self.assertEqual(lint(net.save("l11_clean", net.q(y, zero=128), size)), ({}, 0))


def save_clean(net):
    y = net.node("Conv", [net.q("x"), net.weight((4, 8, 3, 3), scale=np.full(4, 0.1, np.float32), axis=0)])
    return net.save("clean", net.q(y, zero=3), IMAGE)


Net.save_clean = save_clean


class Others(unittest.TestCase):
    def test_saturation(self):
        for high, expected in ((127, True), (63, False)):
            net = Net(opset=13, ir_version=7)
            y = net.node("Conv", [net.q("x"), net.weight((4, 8, 3, 3), high=high)])
            found, code = lint(net.save("saturation", net.q(y), IMAGE))
            self.assertEqual("saturation" in found, expected)
            self.assertEqual(code, 0)

    def test_layers_that_stay_float(self):
        net = Net(opset=13, ir_version=7)
        y = net.node("Conv", [net.q("x"), net.weight((4, 8, 3, 3))])
        found, _ = lint(net.save("float", net.node("Abs", [y]), IMAGE))
        self.assertIn("not quantized", found["float"][0])
        net = Net(opset=21, ir_version=10)
        y = net.node("Conv", [net.q("x"), net.weight((4, 8, 3, 3), "int4")])
        self.assertIn("8 bits", lint(net.save("four", net.q(y), IMAGE))[0]["float"][0])

    def test_signed_activations_that_several_read(self):
        net = Net(opset=13, ir_version=7)
        x = net.q("x", "int8")
        parts = [net.q(net.node("Conv", [x, net.weight((4, 8, 3, 3))]), "int8") for _ in range(2)]
        found, _ = lint(net.save("signed", net.q(net.node("Add", parts), "int8"), IMAGE))
        self.assertEqual(len(found["float"]), 2)
        self.assertIn("read by several", found["float"][0])

    def test_weights_alone(self):
        net = Net(opset=13, ir_version=7)
        path = net.save("alone", net.node("Conv", ["x", net.weight((4, 8, 3, 3))]), IMAGE)
        self.assertIn("weight-only", lint(path)[0])

    def test_bias_in_other_units(self):
        net = Net(opset=13, ir_version=7)
        bias = net.node("DequantizeLinear", [net.constant(np.arange(4, dtype=np.int32)),
                                             net.constant(np.float32(0.5))])
        y = net.node("Conv", [net.q("x"), net.weight((4, 8, 3, 3)), bias])
        self.assertIn("bias-scale", lint(net.save("bias", net.q(y), IMAGE))[0])

    def test_float_models_have_a_version_alone(self):
        result = subprocess.run([str(PROGRAM), "lint", MODELS / "digits_cnn.onnx"], capture_output=True, text=True,
                                check=True)
        self.assertEqual(len(result.stdout.splitlines()), 1)
        self.assertNotIn("integers", result.stdout)

    def test_clean_by_hand(self):
        self.assertEqual(lint(save_clean(Net(opset=13, ir_version=7))), ({}, 0))

    def test_notes_name_versions_and_runtimes(self):
        path = save_clean(Net(opset=13, ir_version=7))
        text = subprocess.run([str(PROGRAM), "lint", path], capture_output=True, text=True, check=True).stdout
        for expected in ("QLinearConv 1", "1.7 and later", "not TensorRT", "OpenVINO takes"):
            self.assertIn(expected, text)
        quiet = subprocess.run([str(PROGRAM), "lint", path, "-q"], capture_output=True, text=True, check=True)
        self.assertEqual(quiet.stdout, "")


class Reader(CalibrationDataReader):
    def __init__(self):
        x = np.load(MODELS / "digits_calib.npz")["images"][:50].astype(np.float32) / np.float32(255)
        self.feeds = iter([{"image": np.ascontiguousarray(v.transpose(2, 0, 1))[None]} for v in x])

    def get_next(self):
        return next(self.feeds, None)


class Files(unittest.TestCase):
    def test_ours_are_clean(self):
        for name in ("digits_cnn", "digits_mlp"):
            for target in ("ort", "int8", "qnn"):
                path = SCRATCH / f"{name}.{target}.onnx"
                result = subprocess.run(
                    [str(PROGRAM), "convert", MODELS / f"{name}.onnx", "--data", MODELS / "digits_calib.npz",
                     "--preprocess", "unit", "--size", "60%", "--effort", "none", "--threads", "1", "--target", target,
                     "--saturation-safe", "-o", path], capture_output=True, text=True, check=False)
                self.assertEqual(result.returncode, 0, result.stderr)
                with self.subTest(model=name, target=target):
                    self.assertEqual(lint(path), ({}, 0))

    def test_ours_are_clean_for_their_target(self):
        """Without --saturation-safe: a warning remains where the clipping would be."""
        for target, expected in (("ort", {"saturation"}), ("openvino", {"saturation"}), ("tensorrt", set()),
                                 ("qnn", set()), ("qnn16", set())):
            path = SCRATCH / f"own.{target}.onnx"
            subprocess.run([str(PROGRAM), "convert", MODELS / "digits_cnn.onnx", "--data", MODELS / "digits_calib.npz",
                            "--preprocess", "unit", "--size", "100%", "--bits", "4,8", "--effort", "none",
                            "--threads", "1", "--target", target, "-q", "-o", path], check=True)
            with self.subTest(target=target):
                found, code = lint(path, "--target", target)
                self.assertEqual((set(found), code), (expected, 0))
                if target == "openvino":  # convolutions, too, though ONNX Runtime would run them on floats
                    self.assertGreater(len([f for f in found["saturation"] if "(Conv)" in f]), 5)

    def test_only_what_matters_to_the_target(self):
        net = Net()
        y = net.node("Conv", [net.q("x", "int8"), net.weight((4, 8, 3, 3), "int2")])
        path = net.save("one_target", net.q(y, "int8"), IMAGE)
        found, code = lint(path, "--target", "ort")
        self.assertIn("L1", found)
        self.assertNotIn("refused", found)
        self.assertEqual(code, 5)
        found, code = lint(path, "--target", "tensorrt")
        self.assertEqual((list(found), code), (["refused"], 5))
        self.assertIn("weights of 2 bits", found["refused"][0])
        path = save_clean(Net(opset=13, ir_version=7))
        self.assertEqual(lint(path, "--target", "ort"), ({}, 0))
        self.assertEqual(lint(path, "--target", "openvino"), ({}, 0))
        found, code = lint(path, "--target", "tensorrt")
        self.assertEqual((len(found["refused"]), code), (4, 5))
        self.assertIn("node 'quantizelinear0.node' (QuantizeLinear)", found["refused"][0])
        notes = subprocess.run([str(PROGRAM), "lint", path, "--target", "openvino"], capture_output=True, text=True,
                               check=True).stdout
        self.assertIn("OpenVINO takes", notes)
        self.assertNotIn("TensorRT", notes)
        self.assertNotIn("QLinearConv", notes)

    def test_those_of_onnxruntime(self):
        quant_pre_process(MODELS / "digits_cnn.onnx", SCRATCH / "pre.onnx", skip_symbolic_shape=True)
        for reduce_range, per_channel, kind, expected in (
                (False, True, QuantType.QInt8, "saturation"), (True, True, QuantType.QInt8, None),
                (True, False, QuantType.QInt8, None), (False, True, QuantType.QInt4, "float")):
            path = SCRATCH / "theirs.onnx"
            quantize_static(SCRATCH / "pre.onnx", path, Reader(), quant_format=QuantFormat.QDQ,
                            per_channel=per_channel, reduce_range=reduce_range, weight_type=kind,
                            activation_type=QuantType.QUInt8)
            found, code = lint(path)
            with self.subTest(reduce_range=reduce_range, per_channel=per_channel, kind=kind.name):
                self.assertEqual(set(found), {expected} if expected else set())
                self.assertEqual(code, 0)


if __name__ == "__main__":
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir(parents=True)
    unittest.main(argv=sys.argv[:1])
