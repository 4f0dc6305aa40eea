"""Run ONNX's own cases for each operator, as the onnx package generates them, through node_runner.

    run_node_tests.py NODE_RUNNER [--only SUBSTRING] [--verbose] [--keep FOLDER]

Prints passed/total for each operator we have. Fails where a case fails, or is refused for a reason
that UNSUPPORTED does not know. Inputs that models hold constant (shapes, axes and the like: CONSTANT)
are made initializers first.
"""

import argparse
import collections
import os
import re
import subprocess
import sys
import tempfile
import warnings

try:
    import numpy as np
    import onnx
    from onnx import numpy_helper
    from onnx.backend.test.case.node import collect_testcases
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

# Operator -> inputs that must be constant.
CONSTANT = {
    "ConstantOfShape": [0], "CumSum": [1], "Dropout": [1, 2], "Expand": [1], "NonZero": [0], "OneHot": [1],
    "Pad": [1, 2, 3], "Range": [0, 1, 2], "Reshape": [1], "Resize": [1, 2, 3],
    "Slice": [1, 2, 3, 4], "Split": [1], "Squeeze": [1], "Tile": [1], "TopK": [1], "Trilu": [1],
    "Unsqueeze": [1], "Upsample": [1],
}
REDUCE = re.compile("Reduce")

# Why a case may be refused; any other reason is a failure.
UNSUPPORTED = [re.compile(reason) for reason in (
    r"values that are no tensors",
    r"is (float16|bfloat16|double|string|complex64|uint8|bool), only float is computed",
    r"cast from .* to .* is not supported",
    r"(de)?quantizing (to )?(float\w+) is not supported",
    r"element type \w+ is not supported",
    r"output_dtype|precision",
    r"scale is float16|input 1 is (float16|bfloat16)",
    r"training",
    r"reduction .* is not supported",
    r"antialias is not supported",
    r"'tf_crop_and_resize' is not supported",
    r"is not constant",  # computed inside of an expanded function
)]

# Cases whose expectation we do not share, and why.
DIFFERENT = {
    # The sampled length is in * scale, not rounded down; ONNX Runtime and PyTorch use the length.
    "test_resize_downsample_scales_linear_align_corners",
    "test_resize_downsample_scales_cubic_align_corners",
}
# Operators whose cases come in double without need: they are run in float.
IN_DOUBLE = {"Einsum", "ReduceLogSumExp"}
OPSET_MIN, OPSET_MAX = 13, 26  # what the importer reads; cases outside of it mean the same inside


def rows(source):
    """Names of the operators in quantcore/ops/op_list.inc."""
    with open(os.path.join(source, "quantcore", "ops", "op_list.inc"), encoding="ascii") as file:
        return set(re.findall(r"MPQ_OP\((\w+),", file.read()))


def fix_constants(model, inputs):
    """Make initializers of the inputs that must be constant; the inputs that are left."""
    constant = set()
    for node in model.graph.node:
        places = [1] if REDUCE.match(node.op_type) else CONSTANT.get(node.op_type, [])
        constant |= {node.input[i] for i in places if i < len(node.input)}
    left_values, left_inputs = [], []
    for value, data in zip(list(model.graph.input), inputs):
        if value.name in constant and isinstance(data, (np.ndarray, np.generic)):
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(data), value.name))
        else:
            left_values.append(value)
            left_inputs.append(data)
    del model.graph.input[:]
    model.graph.input.extend(left_values)
    return left_inputs


def to_float(model, tensors):
    """The tensors in float instead of double, which the model's inputs and outputs then are, too."""
    for value in list(model.graph.input) + list(model.graph.output):
        if value.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return [np.asarray(data, np.float32) if getattr(data, "dtype", None) == np.float64 else data
            for data in tensors]


def write_tensor(path, data):
    tensor = data if isinstance(data, onnx.TensorProto) else numpy_helper.from_array(np.asarray(data))
    with open(path, "wb") as file:
        file.write(tensor.SerializeToString())


def run_case(runner, folder, case, inputs, outputs):
    """'PASS', 'FAIL why' or 'UNSUPPORTED why'."""
    os.makedirs(folder, exist_ok=True)
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    for opset in model.opset_import:
        if opset.domain == "" and (opset.version > OPSET_MAX or opset.version < 7):
            opset.version = OPSET_MAX if opset.version > OPSET_MAX else OPSET_MIN
    if any(node.op_type in IN_DOUBLE for node in model.graph.node):
        inputs, outputs = to_float(model, inputs), to_float(model, outputs)
    inputs = fix_constants(model, inputs)
    path = os.path.join(folder, "model.onnx")
    onnx.save(model, path)
    # We round bfloat16 once, at the end; an expanded function in bfloat16 rounds at every node.
    rounds = any(v.type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16 for v in model.graph.output)
    rtol = max(case.rtol, 2**-6) if rounds else case.rtol
    arguments = [runner, path, str(rtol), str(case.atol), str(len(inputs))]
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for i, data in enumerate(tensors):
            if not isinstance(data, (np.ndarray, np.generic, onnx.TensorProto)):
                return "UNSUPPORTED values that are no tensors"
            arguments.append(os.path.join(folder, f"{kind}_{i}.pb"))
            write_tensor(arguments[-1], data)
    result = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)
    if result.returncode not in (0, 1) or not result.stdout:
        return f"FAIL exit status {result.returncode} {result.stderr[:2000]}"
    return result.stdout.strip()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("runner")
    parser.add_argument("--only", default="")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--keep")
    arguments = parser.parse_args()
    known = rows(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    passed, total, failed = collections.Counter(), collections.Counter(), []
    reasons = collections.Counter()
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.keep or temporary
        for case in cases:
            operators = {node.op_type for node in case.model.graph.node}
            name = next(iter(operators)) if len(operators) == 1 else "(functions)"
            if not operators or not operators <= known | {"Constant"}:
                continue
            if arguments.only not in case.name:
                continue
            total[name] += 1
            for inputs, outputs in case.data_sets:
                result = run_case(arguments.runner, os.path.join(root, case.name), case, inputs,
                                  outputs)
                if result != "PASS":
                    break
            if result == "PASS":
                passed[name] += 1
            elif case.name in DIFFERENT:
                reasons[f"{name}: other expectation"] += 1
            elif result.startswith("UNSUPPORTED") and any(r.search(result) for r in UNSUPPORTED):
                reasons[f"{name}: {result.split(': ')[-1]}"] += 1
            else:
                failed.append(f"{case.name}: {result}")
            if arguments.verbose:
                print(case.name, result)
    for name in sorted(total):
        print(f"{name:24} {passed[name]:4} / {total[name]}")
    print(f"{'':24} {sum(passed.values()):4} / {sum(total.values())}")
    if arguments.verbose:
        for reason, count in sorted(reasons.items()):
            print(f"unsupported {count:3}  {reason}")
    for line in failed:
        print(line)
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
