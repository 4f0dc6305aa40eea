"""Run ONNX's own cases for each operator, as the onnx package generates them, through node_runner.

    run_node_tests.py NODE_RUNNER [--only SUBSTRING] [--verbose] [--keep FOLDER] [--folder FOLDER]

Prints passed/total for each operator we have. Fails where a case fails, or is refused for a reason
that UNSUPPORTED does not know. Inputs that models hold constant (shapes, axes and the like: CONSTANT)
are made initializers first.
"""

import argparse
import collections
import os
import pathlib
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
    "AffineGrid": [1], "BlackmanWindow": [0], "CenterCropPad": [1], "Col2Im": [1, 2], "Compress": [1],
    "DFT": [1, 2], "HammingWindow": [0], "HannWindow": [0], "MaxUnpool": [2], "MelWeightMatrix": [0, 1, 2, 3, 4],
    "Unique": [0],
    "ConstantOfShape": [0], "CumSum": [1], "Dropout": [1, 2], "Expand": [1], "NonZero": [0], "OneHot": [1],
    "Pad": [1, 2, 3], "Range": [0, 1, 2], "Reshape": [1], "Resize": [1, 2, 3],
    "Slice": [1, 2, 3, 4], "Split": [1], "Squeeze": [1], "Tile": [1], "TopK": [1], "Trilu": [1],
    "Unsqueeze": [1], "Upsample": [1], "CumProd": [1],
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
    r"tf_half_pixel_for_nn",
)]

# Cases whose expectation we do not share, and why.
DIFFERENT = {
    # align_corners divides by length_resized - 1, "the length of the resized tensor" in the specification, and so do
    # ONNX Runtime and PyTorch; what generates the cases takes length * scale instead, which is no integer here.
    "test_resize_downsample_scales_linear_align_corners",
    "test_resize_downsample_scales_cubic_align_corners",
}
OPSET_MIN, OPSET_MAX = 13, 28  # what the importer reads; cases outside of it mean the same inside


def rows(source):
    """Names of the operators in quantcore/ops/op_list.inc."""
    with open(os.path.join(source, "quantcore", "ops", "op_list.inc"), encoding="ascii") as file:
        return set(re.findall(r"MPQ_OP\((\w+),", file.read()))


def fix_constants(model, inputs, is_expanded):
    """Make initializers of the inputs that must be constant; the inputs that are left."""
    constant = set()
    if is_expanded:  # sizes, shapes and axes that what is computed inside depends on
        constant |= {v.name for v in model.graph.input if v.type.tensor_type.elem_type in (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
                     and len(v.type.tensor_type.shape.dim) < 2}
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


class FolderCase:
    """A case as a folder holds it: model.onnx, test_data_set_*/input_*.pb and output_*.pb."""

    def __init__(self, folder):
        self.name, self.rtol, self.atol = folder.name, 1e-3, 1e-7
        self.model = onnx.load(folder / "model.onnx")
        graph = self.model.graph
        values = {"input": graph.input, "output": graph.output}
        self.data_sets = [tuple([self.read(data / f"{kind}_{i}.pb", value) for i, value in enumerate(values[kind])]
                                for kind in values)
                          for data in sorted(folder.glob("test_data_set_*"))]

    @staticmethod
    def read(path, value):
        try:
            tensor = onnx.load_tensor(path)
            if value.type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16:
                tensor.data_type = onnx.TensorProto.BFLOAT16  # older packages wrote its bits as uint16
            is_known = tensor.data_type < onnx.TensorProto.FLOAT16
            return numpy_helper.to_array(tensor) if is_known else tensor
        except Exception:  # a sequence or an optional
            return None


def cases_in(folder):
    """Debian's libonnx-testdata has them in /usr/share/libonnx-testdata/data/node."""
    return [FolderCase(path.parent) for path in sorted(pathlib.Path(folder).glob("*/model.onnx"))]


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
    inputs = fix_constants(model, inputs, "_expanded" in case.name)
    path = os.path.join(folder, "model.onnx")
    onnx.save(model, path)
    # We round bfloat16 once, at the end; an expanded function in bfloat16 rounds at every node.
    rounds = any(v.type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16 for v in model.graph.output)
    # The expectation of DFT is computed in float, ours in double.
    atol = 1e-6 if any(node.op_type == "DFT" for node in model.graph.node) else case.atol
    rtol = max(case.rtol, 2**-6) if rounds else case.rtol
    arguments = [runner, path, str(rtol), str(atol), str(len(inputs))]
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
    parser.add_argument("--folder", help="run the cases in a folder instead of those of the package")
    arguments = parser.parse_args()
    known = rows(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = cases_in(arguments.folder) if arguments.folder else collect_testcases(None)
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
