"""Layers that have no integer kernels, at every width, judged by ONNX Runtime and the ONNX reference.

    python3 tests/e2e/test_layers.py ONNX-MPQ SCRATCH

Each file must pass the checker, have all its unpacking folded when a session is created, and please
the reference evaluator where it knows the operators. Its outputs must be those of a file with a byte
a weight, which holds the same weights in plain form, and come closer to the float model's with every
bit.
"""

import pathlib
import subprocess
import sys

try:
    import numpy as np
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    import check_export
except ImportError as error:
    print(f"Skipped: {error}. sh tests/run.sh installs what is needed.")
    sys.exit(77)

RNG = np.random.default_rng(11)


def weight(name, *shape):
    scale = 1 / np.sqrt(shape[-1])
    return numpy_helper.from_array((scale * RNG.standard_normal(shape)).astype(np.float32), name)


def node(op_type, inputs, output, **attributes):
    return helper.make_node(op_type, inputs.split(), [output], name=f"{output} by {op_type}", **attributes)


def model(rank, nodes, inputs, initializers):
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)
    graph = helper.make_graph(nodes, "layers", inputs, [y], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def x(*shape, dtype=TensorProto.FLOAT):
    return [helper.make_tensor_value_info("x", dtype, shape)]


# Odd counts everywhere, and some beyond what small layers share (65536).
MODELS = {
    "embedding": model(3, [node("Gather", "table x", "e"), node("MatMul", "e w", "y")],
                       x(5, 9, dtype=TensorProto.INT64), [weight("table", 333, 37), weight("w", 37, 29)]),
    "tied": model(2, [node("Gather", "table x", "e"), node("Transpose", "e", "t", perm=[1, 0]),
                   node("MatMul", "table t", "y")],
                  x(9, dtype=TensorProto.INT64), [weight("table", 333, 37)]),
    "head": model(3, [node("Gather", "table x", "e"), node("Transpose", "table", "t", perm=[1, 0]),
                      node("MatMul", "e t", "y")],
                  x(5, 9, dtype=TensorProto.INT64), [weight("table", 450, 37)]),
    "lstm": model(4, [node("LSTM", "x w r", "y", hidden_size=33)], x(6, 2, 31),
                  [weight("w", 1, 132, 31), weight("r", 1, 132, 33)]),
    "gru": model(4, [node("GRU", "x w r", "y", hidden_size=160, linear_before_reset=1,
                       direction="bidirectional")], x(6, 2, 47),
                 [weight("w", 2, 480, 47), weight("r", 2, 480, 160)]),
    "deconvolution": model(4, [node("ConvTranspose", "x w", "a", strides=[2, 2]),
                            node("ConvTranspose", "a v", "y", group=5)], x(2, 15, 4, 4),
                           [weight("w", 15, 35, 3, 3), weight("v", 35, 7, 3, 3)]),
    "left": model(4, [node("MatMul", "w x", "a"), node("Einsum", "a v", "y", equation="bij,kjl->bkil")],
                  x(3, 45, 31), [weight("w", 27, 45), weight("v", 3, 31, 17)]),
}
# Two directions are not; ConvTranspose with groups of several outputs fails there.
NOT_IN_REFERENCE = {"gru", "deconvolution"}


def run(command):
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"


def outputs(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Beyond this level a DequantizeLinear is fused into kernels that quantize their inputs.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (value,) = session.get_inputs()
    rng = np.random.default_rng(5)
    data = rng.standard_normal(value.shape).astype(np.float32)
    if value.type == "tensor(int64)":
        data = rng.integers(0, 333, value.shape)
    return session.run(None, {"x": data})[0]


def judge(file, by_reference):
    onnx.checker.check_model(file, full_check=True)
    check_export.check_program_folded(file, check_export.optimized_ops(file))
    if by_reference:
        check_export.check_reference(file, check_export.random_inputs(check_export.session_of(file)))


def check_size(file, source, bits):
    """Every weight is there once, in its number of bits: the rest is names, scales and levels."""
    n_weight = sum(np.prod(t.dims) for t in source.graph.initializer)
    n_row = sum(np.prod(t.dims[:-1]) for t in source.graph.initializer)
    size = pathlib.Path(file).stat().st_size
    assert size < n_weight * bits / 8 + 2 * n_row + 2500, f"{file}: {size} bytes"


def check(program, name, scratch):
    source = str(scratch / f"{name}.onnx")
    onnx.save(MODELS[name], source)
    want, before = outputs(source), np.inf
    for bits in range(2, 9):
        files = [str(scratch / f"{name}.{bits}.{target}.onnx") for target in ("ort", "int8")]
        for file, target in zip(files, ("ort", "int8"), strict=True):
            run([program, "convert", source, "--weights-only", "--bits", bits, "--size", "100%", "-q",
                 "--overwrite", "--target", target, "-o", file])
        judge(files[0], name not in NOT_IN_REFERENCE)
        got, plain = (outputs(file) for file in files)
        assert np.abs(got - plain).max() <= 1e-5 * np.abs(want).max(), f"{name}, {bits} bits"
        error = np.square(got - want).mean() / np.square(want).mean()
        assert error < before / 2, f"{name}: relative error {error:g} at {bits} bits, {before:g} before"
        before = error
        check_size(files[0], MODELS[name], bits)
    assert before < 1e-3, f"{name}: relative error {before:g} at 8 bits"
    print(f"{name}: relative error {before:.2g} at 8 bits")


def main():
    program, scratch = sys.argv[1], pathlib.Path(sys.argv[2])
    scratch.mkdir(parents=True, exist_ok=True)
    for name in MODELS:
        check(program, name, scratch)


if __name__ == "__main__":
    main()
