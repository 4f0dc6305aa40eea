"""Operators on 8-bit tensors against ONNX Runtime's kernels: every byte must be the same.

    test_quantized_operators.py NODE_RUNNER [--only SUBSTRING] [--seed N]

One-node models with random inputs, over the mixtures of types and granularities that ONNX Runtime
has kernels for, are run by it and by node_runner. Models of a single quantized operator are left
alone by its optimizer, so its result is the kernel's.
"""
import argparse
import itertools
import os
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

MICROSOFT = "com.microsoft"
RANGE = {np.uint8: (0, 255), np.int8: (-128, 127)}


class Case:
    """A model of one node; inputs in order, those marked constant as initializers."""

    def __init__(self, op, domain, inputs, output, **attributes):
        self.op, self.domain, self.inputs, self.output = op, domain, inputs, output
        self.attributes = attributes

    def model(self):
        names = ["" if x is None else f"x{i}" for i, (x, _) in enumerate(self.inputs)]
        values, constants = [], []
        for name, (x, constant) in zip(names, self.inputs):
            if x is not None and constant:
                constants.append(numpy_helper.from_array(x, name))
            elif x is not None:
                values.append(helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape))
        node = helper.make_node(self.op, names, ["y"], domain=self.domain, **self.attributes)
        output = helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(np.dtype(self.output)), None)
        graph = helper.make_graph([node], "case", values, [output], constants)
        return helper.make_model(graph, ir_version=8, opset_imports=[
            helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)])

    def feeds(self):
        return {f"x{i}": x for i, (x, constant) in enumerate(self.inputs) if x is not None and not constant}


def codes(rng, dtype, shape):
    low, high = RANGE[dtype]
    return rng.integers(low, high + 1, shape).astype(dtype)


def scale(rng, low=1e-3, high=1e-1, n=None):
    return np.asarray(np.exp(rng.uniform(np.log(low), np.log(high), n)), np.float32)


def quantization(rng, dtype, n=None, zero=True):
    """A scale and a zero point, constant both."""
    point = codes(rng, dtype, n or ()) if zero else np.zeros(n or (), dtype)
    return (scale(rng, n=n), True), (np.asarray(point, dtype), True)


def spread(rng, sums, y_dtype):
    """A scale of the output for which sums of that size use the range but exceed it now and then."""
    return (np.asarray(sums / 100 * np.exp(rng.uniform(-0.5, 0.5)), np.float32), True)


TYPES = [(np.uint8, np.uint8), (np.uint8, np.int8), (np.int8, np.int8)]


def conv_cases(rng):
    shapes = [  # x, w, attributes
        ((2, 3, 9, 11), (5, 3, 3, 3), {"pads": [1, 1, 1, 1]}),
        ((1, 64, 7, 7), (33, 64, 3, 3), {"pads": [1, 0, 1, 0], "strides": [2, 1]}),
        ((1, 520, 5, 5), (16, 520, 3, 3), {"pads": [1, 1, 1, 1]}),  # sums beyond 2^24
        ((3, 16, 8, 8), (16, 1, 3, 3), {"group": 16, "pads": [1, 1, 1, 1]}),
        ((1, 12, 8, 8), (8, 3, 3, 3), {"group": 4, "dilations": [2, 2]}),
        ((2, 40, 6, 6), (24, 40, 1, 1), {}),
        ((1, 4, 1100), (3, 4, 301), {"strides": [7]}),
        ((1, 2, 5, 6, 7), (3, 2, 2, 3, 2), {}),
        ((1, 14, 6, 9), (10, 7, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    ]
    for x_type, w_type in TYPES:
        for (x_shape, w_shape, attributes), has_zero in itertools.product(shapes, (True, False)):
            for channels in (None, w_shape[0]):
                x_scale, x_zero = quantization(rng, x_type, zero=has_zero)
                zero = w_type == np.uint8 and channels is None
                w_scale, w_zero = quantization(rng, w_type, channels, zero)
                k = int(np.prod(w_shape[1:]))
                sums = float(x_scale[0] * np.mean(w_scale[0])) * 74 * 74 * k ** 0.5
                y_scale = spread(rng, sums, x_type)
                y_zero = (np.asarray(codes(rng, x_type, ())), True)
                bias = rng.integers(-74 * 74, 74 * 74, w_shape[0]).astype(np.int32)
                inputs = [(codes(rng, x_type, x_shape), False), x_scale, x_zero,
                          (codes(rng, w_type, w_shape), True), w_scale, w_zero, y_scale, y_zero]
                if channels is None:
                    yield Case("ConvInteger", "", [inputs[0], inputs[3], x_zero, w_zero], np.int32, **attributes)
                yield Case("QLinearConv", "", inputs, x_type, **attributes)
                yield Case("QLinearConv", "", inputs + [(bias, True)], x_type, **attributes)


def matmul_cases(rng):
    shapes = [((7, 12), (12, 9)), ((2, 3, 5, 8), (8, 6)), ((2, 3, 5, 8), (2, 3, 8, 6)),
              ((4, 1500), (1500, 31)), ((1, 300), (300, 1000))]
    for a_type, b_type in TYPES:
        for a_shape, b_shape in shapes:
            for columns in (None, b_shape[-1]) if len(b_shape) == 2 else (None,):
                a_scale, a_zero = quantization(rng, a_type)
                b_scale, b_zero = quantization(rng, b_type, columns, b_type == np.uint8)
                sums = float(a_scale[0] * np.mean(b_scale[0])) * 74 * 74 * a_shape[-1] ** 0.5
                y_scale, y_zero = spread(rng, sums, a_type), (np.asarray(codes(rng, a_type, ())), True)
                a, b = (codes(rng, a_type, a_shape), False), (codes(rng, b_type, b_shape), True)
                yield Case("QLinearMatMul", "", [a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero], a_type)
                yield Case("MatMulIntegerToFloat", MICROSOFT, [a, b, a_scale, b_scale, a_zero, b_zero], np.float32)
                if len(a_shape) == 2:
                    c = (rng.integers(-9999, 9999, b_shape[-1]).astype(np.int32), True)
                    for trans in (0, 1):
                        inputs = [a, a_scale, a_zero, (b[0].T.copy(), True) if trans else b, b_scale, b_zero]
                        yield Case("QGemm", MICROSOFT, inputs + [c, y_scale, y_zero], a_type, transB=trans)
                        yield Case("QGemm", MICROSOFT, inputs + [c], np.float32, transB=trans)
                        yield Case("QGemm", MICROSOFT, inputs + [(None, True), y_scale, y_zero], a_type,
                                   transB=trans, alpha=0.7)


def binary_cases(rng):
    shapes = [((2, 5, 7, 9), (2, 5, 7, 9)), ((2, 5, 7, 9), (5, 1, 1)), ((1, 5, 1, 1), (2, 5, 7, 9)),
              ((3, 100), (100,)), ((64,), ()), ((2, 1, 33), (4, 1)), ((3, 1), (1, 40))]
    for dtype in (np.uint8, np.int8):
        for a_shape, b_shape in shapes * 3:
            a_scale, a_zero = quantization(rng, dtype)
            b_scale, b_zero = quantization(rng, dtype)
            y_zero = (np.asarray(codes(rng, dtype, ())), True)
            inputs = [(codes(rng, dtype, a_shape), False), a_scale, a_zero,
                      (codes(rng, dtype, b_shape), False), b_scale, b_zero]
            y_scale = (np.float32(a_scale[0] + b_scale[0]), True)
            yield Case("QLinearAdd", MICROSOFT, inputs + [y_scale, y_zero], dtype)
            y_scale = (np.float32(a_scale[0] * b_scale[0] * 100), True)
            yield Case("QLinearMul", MICROSOFT, inputs + [y_scale, y_zero], dtype)


def other_cases(rng):
    for dtype in (np.uint8, np.int8):
        for _ in range(4):
            x_scale, x_zero = quantization(rng, dtype)
            y_zero = (np.asarray(codes(rng, dtype, ())), True)
            y_scale = (np.float32(x_scale[0] * rng.uniform(0.3, 1.5)), True)
            image = (codes(rng, dtype, (2, 5, 12, 13)), False)
            yield Case("QLinearGlobalAveragePool", MICROSOFT, [image, x_scale, x_zero, y_scale, y_zero], dtype)
            for attributes in ({"kernel_shape": [3, 3]}, {"kernel_shape": [2, 3], "strides": [2, 2]},
                               {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
                               {"kernel_shape": [3, 3], "pads": [1, 0, 1, 1], "count_include_pad": 1},
                               {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}):
                yield Case("QLinearAveragePool", MICROSOFT, [image, x_scale, x_zero, y_scale, y_zero], dtype,
                           **attributes)
            every = (np.arange(RANGE[dtype][0], RANGE[dtype][1] + 1).astype(dtype).reshape(4, 64), False)
            yield Case("QLinearLeakyRelu", MICROSOFT, [every, x_scale, x_zero, y_scale, y_zero], dtype, alpha=0.13)
            low = np.asarray(RANGE[dtype][0], dtype)
            steps = [(np.float32(1 / 256), True), (low, True)]
            wide = (np.float32(rng.uniform(0.01, 0.1)), True)
            yield Case("QLinearSigmoid", MICROSOFT, [every, wide, x_zero] + steps, dtype)
            yield Case("QLinearSoftmax", MICROSOFT, [every, wide, x_zero] + steps, dtype, axis=-1, opset=13)
            yield Case("QLinearSoftmax", MICROSOFT, [image, wide, x_zero] + steps, dtype, axis=1, opset=13)
            parts = [part for n in (3, 5, 1)
                     for part in ((codes(rng, dtype, (2, n, 6)), False),) + quantization(rng, dtype)]
            parts += [(codes(rng, dtype, (2, 2, 6)), False), y_scale, y_zero]
            yield Case("QLinearConcat", MICROSOFT, [y_scale, y_zero] + parts, dtype, axis=1)
    rows = codes(rng, np.uint8, (2, 3, 8, 9))
    yield Case("MaxPool", "", [(rows, False)], np.uint8, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    yield Case("MaxPool", "", [(rows.view(np.int8), False)], np.int8, kernel_shape=[2, 2], strides=[2, 2])


def run(runner, case, folder):
    """'PASS' or why not; None where ONNX Runtime has no such kernel."""
    model = case.model()
    path = os.path.join(folder, "model.onnx")
    onnx.save(model, path)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        want = session.run(None, case.feeds())[0]
    except Exception as error:  # its exceptions have no common type
        if "NOT_IMPLEMENTED" in str(error) or "Could not find an implementation" in str(error) or \
                "not supported" in str(error):
            return None
        return f"ONNX Runtime: {error}"
    arguments = [runner, path, "0", "0", str(len(case.feeds()))]
    for name, data in list(case.feeds().items()) + [("y", want)]:
        arguments.append(os.path.join(folder, f"{name}.pb"))
        with open(arguments[-1], "wb") as file:
            file.write(numpy_helper.from_array(data).SerializeToString())
    result = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)
    return result.stdout.strip() or f"exit status {result.returncode} {result.stderr[:2000]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("runner")
    parser.add_argument("--only", default="")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    passed, absent, failed = {}, {}, []
    with tempfile.TemporaryDirectory() as folder:
        for cases in (conv_cases, matmul_cases, binary_cases, other_cases):
            for case in cases(rng):
                if arguments.only not in case.op:
                    continue
                result = run(arguments.runner, case, folder)
                count = absent if result is None else passed
                count[case.op] = count.get(case.op, 0) + (result is None or result == "PASS")
                if result not in (None, "PASS"):
                    kinds = [x.dtype.name + str(list(x.shape)) for x, _ in case.inputs if x is not None]
                    failed.append(f"seed={arguments.seed} {case.op} {' '.join(kinds)} {case.attributes}: {result}")
    for op in sorted(passed):
        print(f"{op:26} {passed[op]:4} the same, {absent.get(op, 0)} without a kernel")
    print("\n".join(failed[:40]))
    print(f"{len(failed)} differ")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
