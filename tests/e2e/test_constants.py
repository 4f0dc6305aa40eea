"""Constants that are no layer's weights take two bytes an element in files for ONNX Runtime, where that costs nothing.

    test_constants.py ONNX_MPQ

Two networks: in one a normalization, positions and a class token are rounded, whatever way the file is made, and the
runtime fuses what it did; in the other large constants that cancel would take the signal with them, so a few samples
say that they must stay.
"""
import collections
import pathlib
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

N = 64
RANDOM = np.random.default_rng(1)


def save(path, nodes, arrays):
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5, N])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "rows", N])],
                              [numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def normal(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def transformer(path):
    """Layer normalization as nodes, as exporters of opsets before 17 write it, between two products."""
    arrays = {"w0": normal(N, N) / 8, "w1": normal(N, N) / 8, "bias": normal(N), "token": normal(1, 1, N),
              "positions": normal(6, N), "scale": normal(N), "shift": normal(N), "two": np.float32(2),
              "epsilon": np.float32(1e-5), "one": np.array([1])}
    make = helper.make_node
    nodes = [make("MatMul", ["x", "w0"], ["m"]), make("Add", ["m", "bias"], ["b"]),
             make("Shape", ["b"], ["s"], start=0, end=1), make("Concat", ["s", "one", "one"], ["to"], axis=0),
             make("Expand", ["token", "to"], ["tokens"]), make("Concat", ["tokens", "b"], ["c"], axis=1),
             make("Add", ["c", "positions"], ["p"]), make("ReduceMean", ["p"], ["mean"], axes=[-1]),
             make("Sub", ["p", "mean"], ["d"]), make("Pow", ["d", "two"], ["square"]),
             make("ReduceMean", ["square"], ["variance"], axes=[-1]), make("Add", ["variance", "epsilon"], ["v"]),
             make("Sqrt", ["v"], ["deviation"]), make("Div", ["d", "deviation"], ["n"]),
             make("Mul", ["n", "scale"], ["k"]), make("Add", ["k", "shift"], ["l"]),
             make("MatMul", ["l", "w1"], ["y"])]
    save(path, nodes, arrays)
    return N * (1 + 1 + 6 + 2)


def cancelling(path):
    arrays = {"w0": normal(N, N) / 8, "w1": normal(N, N) / 8, "up": np.full(N, 1000.3, np.float32) + normal(N) / 9,
              "other": normal(N)}
    arrays["down"] = arrays["up"] + normal(N) / 1000
    nodes = [helper.make_node("MatMul", ["x", "w0"], ["m"]), helper.make_node("Relu", ["m"], ["r"]),
             helper.make_node("Mul", ["r", "other"], ["o"]), helper.make_node("Add", ["o", "up"], ["a"]),
             helper.make_node("Sub", ["a", "down"], ["s"]), helper.make_node("MatMul", ["s", "w1"], ["y"])]
    save(path, nodes, arrays)


def run(path, samples, optimized=None):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if optimized:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, {"x": samples})[0]


def convert(tool, path, small, *options):
    done = subprocess.run([tool, "convert", path, "--size", "100%", "--bits", "8", "-o", small, "--overwrite", "-v",
                           *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{options}: {done.returncode} {done.stderr}"
    graph = onnx.load(small).graph
    halves = sum(int(np.prod(t.dims)) for t in graph.initializer if t.data_type == TensorProto.FLOAT16)
    return halves, done.stderr


def operators(path):
    return collections.Counter(node.op_type for node in onnx.load(path).graph.node)


def main():
    tool = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        path, small, fused, plain = (folder / name for name in ("a.onnx", "a.mpq.onnx", "fused.onnx", "plain.onnx"))
        samples = normal(24, 5, N)
        np.savez(folder / "x.npz", x=samples)
        tuned = ["--data", folder / "x.npz", "--effort", "none"]
        n_short = transformer(path)
        want = run(path, samples)
        convert(tool, path, small, *tuned, "--target", "int8")
        run(small, samples, plain)
        for names in ("all", "layers"):
            halves, log = convert(tool, path, small, *tuned, "--names", names)
            assert halves == n_short, f"{names}: {halves} elements in float16, not {n_short}\n{log}"
            onnx.checker.check_model(onnx.load(small), full_check=True)
            error = np.abs(run(small, samples, fused) - want).max() / np.ptp(want)
            assert error < 2e-2, f"outputs differ by {error:.3g} of their range"
            assert operators(fused) == operators(plain), f"{operators(fused)}, and of int8 {operators(plain)}"
        names = {t.name for t in onnx.load(path).graph.initializer}
        convert(tool, path, small, *tuned, "--names", "all")
        made = {name for node in onnx.load(small).graph.node for name in node.output}
        assert {"positions", "scale", "shift", "bias"} <= made & names, "names are lost"
        halves, _ = convert(tool, path, small, "--weights-only")
        assert halves == N * (1 + 2), f"{halves} elements in float16 without samples"
        halves, _ = convert(tool, path, small, *tuned, "--target", "int8")
        assert halves == 0, "a target that computes nothing at load has constants to be computed"

        cancelling(path)
        halves, log = convert(tool, path, small, *tuned)
        assert halves == 0 and "left as they are" in log, f"{halves} elements in float16\n{log}"
        want = run(path, samples)
        error = np.abs(run(small, samples) - want).max() / np.ptp(want)
        assert error < 5e-2, f"outputs differ by {error:.3g} of their range"


if __name__ == "__main__":
    main()
