"""Judge an exported file by programs that are not ours.

    python3 check_export.py FILE.onnx [INT8-STORAGE.onnx] [--qlinearconv N] [--reference]

The file passes onnx.checker with full shape inference and loads in ONNX Runtime, which must have
folded all of the storage program: of its operators none is left in the optimized graph, every
operator of the optimized graph of the int8-storage file occurs as often, and both files give the
same bits for random inputs. --qlinearconv: so many convolutions run on integers. --reference: the
ONNX reference evaluator (slow) gives what ONNX Runtime gives without integer kernels, whose
rounding differs by single steps; within 1 % of the largest output.
"""

import argparse
import collections
import tempfile

import numpy as np
import onnx
import onnx.inliner
import onnxruntime

PROGRAM_OPS = {"Mod", "MatMulInteger", "Range", "Split", "Cast", "Round", "Expand", "ScatterElements", "CumSum"}


LEVELS = onnxruntime.GraphOptimizationLevel


def session_of(path, optimized=None, level=LEVELS.ORT_ENABLE_EXTENDED):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = level
    if optimized:
        options.optimized_model_filepath = optimized
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def optimized_ops(path):
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        session_of(path, file.name)
        nodes = onnx.load(file.name).graph.node
    return collections.Counter(node.op_type for node in nodes)


def random_inputs(session):
    rng = np.random.default_rng(0)
    inputs = {}
    for value in session.get_inputs():
        shape = [d if isinstance(d, int) and d > 0 else 1 for d in value.shape]
        if value.type == "tensor(float)":
            inputs[value.name] = rng.standard_normal(shape).astype(np.float32)
        else:
            dtype = value.type[len("tensor("):-1]
            inputs[value.name] = np.zeros(shape, np.dtype(dtype))
    return inputs


def same_bits(a, b):
    return all(x.dtype == y.dtype and np.array_equal(x, y, equal_nan=x.dtype.kind == "f")
               for x, y in zip(a, b, strict=True))


def check_program_folded(path, ops):
    """An operator of the program may remain only as often as the network itself has it. The
    program's nodes are the nameless ones that depend on no graph input."""
    graph = onnx.inliner.inline_local_functions(onnx.load(path)).graph
    variable = {value.name for value in graph.input}
    own = collections.Counter()
    for node in graph.node:
        if variable & set(node.input):
            variable |= set(node.output)
            own[node.op_type] += 1
    for op in PROGRAM_OPS:
        assert ops[op] <= own[op], f"{ops[op] - own[op]} {op} of the storage program are not folded"


def check_reference(path, inputs):
    from onnx.reference import ReferenceEvaluator

    model = onnx.inliner.inline_local_functions(onnx.load(path))
    # The evaluator knows DequantizeLinear from opset 19 on, which means the same.
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = max(opset.version, 19)
    wanted = ReferenceEvaluator(model).run(None, inputs)
    outputs = session_of(path, level=LEVELS.ORT_DISABLE_ALL).run(None, inputs)
    for value, y, ref in zip(model.graph.output, outputs, wanted, strict=True):
        error = float(np.abs(y - ref).max())
        limit = 1e-2 * float(np.abs(ref).max())
        assert error <= limit, f"output '{value.name}' is {error:g} from the reference evaluator's"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("file")
    parser.add_argument("int8_file", nargs="?")
    parser.add_argument("--qlinearconv", type=int)
    parser.add_argument("--reference", action="store_true")
    args = parser.parse_args()

    onnx.checker.check_model(args.file, full_check=True)
    ops = optimized_ops(args.file)
    check_program_folded(args.file, ops)
    if args.qlinearconv is not None:
        assert ops["QLinearConv"] == args.qlinearconv, f"{ops['QLinearConv']} QLinearConv"
    session = session_of(args.file)
    inputs = random_inputs(session)
    outputs = session.run(None, inputs)
    if args.reference:
        check_reference(args.file, inputs)
    if args.int8_file:
        onnx.checker.check_model(args.int8_file, full_check=True)
        other = optimized_ops(args.int8_file)
        assert ops == other, f"{dict(ops - other)} against {dict(other - ops)} with int8 storage"
        assert same_bits(outputs, session_of(args.int8_file).run(None, inputs)), "outputs differ"
    print(f"{args.file}: {dict(sorted(ops.items()))}")


if __name__ == "__main__":
    main()
