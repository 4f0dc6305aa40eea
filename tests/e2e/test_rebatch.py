"""Files that fix the batch at 1 run at larger ones in the tool: one width of these, on one thread and several.

    test_rebatch.py ONNX_MPQ

A Reshape to a fixed shape gets a target of its own for that, so the graph that runs has values that the plan of the
activations does not know.
"""
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

RANDOM = np.random.default_rng(1)
N_RESHAPE = 21


def model():
    """A pool, convolutions, reshapes there and back, a product."""
    shapes = {"w0": (8, 8, 3, 3), "w1": (8, 8, 3, 3), "w2": (512, 10)}
    arrays = {name: (RANDOM.normal(size=shape) / 12).astype(np.float32) for name, shape in shapes.items()}
    nodes = [helper.make_node("MaxPool", ["x"], ["h"], kernel_shape=[1, 1])]
    last = "h"
    for i in range(2):
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        last = f"r{i}"
    for i in range(N_RESHAPE):
        arrays[f"s{i}"] = np.array([1, 8, 8, 8] if i % 2 else [1, 512])
        nodes.append(helper.make_node("Reshape", [last, f"s{i}"], [f"f{i}"]))
        last = f"f{i}"
    nodes.append(helper.make_node("MatMul", [last, "w2"], ["y"]))
    graph = helper.make_graph(nodes, "fixed", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 8, 8])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
                              [numpy_helper.from_array(array, name) for name, array in arrays.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def outputs(path, samples):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": x[None]})[0] for x in samples])


def main():
    tool = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        path, data, small = (pathlib.Path(folder) / name for name in ("a.onnx", "a.npz", "a.mpq.onnx"))
        samples = RANDOM.normal(size=(40, 8, 8, 8)).astype(np.float32)
        onnx.save(model(), path)
        np.savez(data, x=samples)
        want = outputs(path, samples)
        for threads in ("1", "2"):
            done = subprocess.run([tool, "convert", path, "--data", data, "--bits", "8", "--size", "90%", "--effort",
                                   "none", "--threads", threads, "-o", small, "--overwrite", "-q"],
                                  capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{threads} threads: {done.returncode} {done.stderr}"
            error = np.abs(outputs(small, samples) - want).max() / np.ptp(want)
            assert error < 2e-2, f"{threads} threads: outputs differ by {error:.3g} of their range"


if __name__ == "__main__":
    main()
