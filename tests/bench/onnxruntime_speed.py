"""Time to load and to run our files in ONNX Runtime, against what they replace; prints a table.

    build/venv/bin/python tests/bench/onnxruntime_speed.py build/cli/onnx-mpq [--bits 2,3,4,5,6]
        [--python build/matrix/venv-1.19.2/bin/python]

load     a session of the `ort` file is created against one of the `int8` file, in ms a million weights: of a stack
         of six 3x3 convolutions of 256 channels, and of one of 60 convolutions of 64, whose weights are stored
         another way.
latency  the 3-bit file against the int8 file of onnxruntime.quantization, and the 3-bit file of weights only against
         the float file.

CPU time of one thread, both sides by turns in one process; the lower quartile of many, which a busy machine moves
least.

--python: an interpreter with another version of ONNX Runtime (tests/e2e/version_matrix.py makes such) that loads
and runs the files. The models of ../shared are left out where it is absent. A few minutes on one core.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared"
MODELS = [("resnet20", "cifar10_resnet20"), ("squeezenet1_1", "imagenet_squeezenet1_1")]
STACKS = [("stack", 256, 6), ("small", 64, 60)]  # name, channels, layers
SIDE = 14


# ---- in the interpreter that is measured ----

def session_of(path):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def by_turns(sides, n):
    """Lower quartile of n calls of each, in turn."""
    times = [[] for _ in sides]
    for _ in range(n):
        for side, list_ in zip(sides, times):
            list_.append(side())
    return [statistics.quantiles(list_, n=4)[0] for list_ in times]


def load_ms(path):
    start = time.process_time()
    session_of(path)
    return 1000 * (time.process_time() - start)


def runner(path):
    import numpy as np
    session = session_of(path)
    value = session.get_inputs()[0]
    shape = [d if isinstance(d, int) and d > 0 else 1 for d in value.shape]
    x = {value.name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    for _ in range(3):
        session.run(None, x)

    def run_ms():
        start = time.process_time()
        session.run(None, x)
        return 1000 * (time.process_time() - start)
    return run_ms


def worker():
    import onnxruntime
    jobs = json.load(sys.stdin)
    for job in jobs:
        if job["kind"] == "load":
            result = by_turns([lambda path=path: load_ms(path) for path in job["files"]], 15)
        else:
            result = by_turns([runner(path) for path in job["files"]], 60)
        print(json.dumps(result), flush=True)
    print(json.dumps(onnxruntime.__version__))


# ---- files ----

def make_stack(path, channels, layers):
    """Convolutions with Relu between; returns the number of weights."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    rng = np.random.default_rng(0)
    nodes, constants = [], []
    value = "x"
    for i in range(layers):
        w = rng.standard_normal((channels, channels, 3, 3)) * (2 / (9 * channels)) ** 0.5
        constants.append(numpy_helper.from_array(w.astype(np.float32), f"w{i}"))
        constants.append(numpy_helper.from_array(np.zeros(channels, np.float32), f"b{i}"))
        nodes.append(helper.make_node("Conv", [value, f"w{i}", f"b{i}"], [f"c{i}"], f"conv{i}", pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], f"relu{i}"))
        value = f"r{i}"
    shape = ["N", channels, SIDE, SIDE]
    graph = helper.make_graph(nodes, "stack", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
                              [helper.make_tensor_value_info(value, TensorProto.FLOAT, shape)], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), path)
    return layers * 9 * channels * channels


def make_inputs(model, path, n=8):
    import numpy as np
    import onnx
    value = onnx.load(model).graph.input[0]
    shape = [d.dim_value for d in value.type.tensor_type.shape.dim][1:]
    np.savez(path, **{value.name: np.random.default_rng(1).standard_normal((n, *shape)).astype(np.float32)})
    return value.name


def quantize_int8(model, inputs, name, out):
    import numpy as np
    import onnxruntime.quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(q.CalibrationDataReader):
        def __init__(self):
            self.samples = iter(np.load(inputs)[name])

        def get_next(self):
            x = next(self.samples, None)
            return None if x is None else {name: x[None]}
    prepared = f"{out}.prepared.onnx"
    quant_pre_process(str(model), prepared, skip_symbolic_shape=True)
    q.quantize_static(prepared, str(out), Reader(), quant_format=q.QuantFormat.QDQ, per_channel=True,
                      activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8)


def convert(tool, model, out, *options):
    subprocess.run([tool, "convert", model, "--size", "100%", "-q", "--overwrite", "-o", out, *map(str, options)],
                   check=True)
    return str(out)


def main():
    if sys.argv[1:] == ["--worker"]:
        return worker()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tool", type=lambda p: pathlib.Path(p).resolve())
    parser.add_argument("--bits", default="2,3,4,5,6")
    parser.add_argument("--python", default=sys.executable)
    arguments = parser.parse_args()
    jobs, labels = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        sources, n_weight = [], {}
        for name, channels, layers in STACKS:
            sources.append((name, folder / f"{name}.onnx"))
            n_weight[name] = make_stack(sources[-1][1], channels, layers)
        if SHARED.is_dir():
            sources += [(name, SHARED / "models" / f"{file}.onnx") for name, file in MODELS]
        for name, model in sources:
            inputs = folder / f"{name}.npz"
            value = make_inputs(model, inputs)
            made = ["--data", inputs, "--effort", "none"]
            if name != "small":
                int8, ours = folder / f"{name}.int8.onnx", folder / f"{name}.3.onnx"
                quantize_int8(model, inputs, value, int8)
                three = convert(arguments.tool, model, ours, "--bits", 3, *made)
                weights = convert(arguments.tool, model, folder / f"{name}.w3.onnx", "--bits", 3, "--weights-only")
                jobs += [{"kind": "latency", "files": [three, str(int8)]},
                         {"kind": "latency", "files": [weights, str(model)]}]
                labels += [(f"latency of {name}, 3 bits / int8 of onnxruntime.quantization", 0),
                           (f"latency of {name}, 3 bits, weights only / float", 0)]
            if name not in n_weight:
                continue
            plain = convert(arguments.tool, model, folder / "plain.onnx", "--bits", 8, "--target", "int8", *made)
            for bits in arguments.bits.split(","):
                packed = convert(arguments.tool, model, folder / f"{name}.load.{bits}.onnx", "--bits", bits, *made)
                jobs.append({"kind": "load", "files": [packed, plain]})
                labels.append((f"load of {name}, {bits} bits, ms a million weights over int8", n_weight[name] / 1e6))
        done = subprocess.run([arguments.python, __file__, "--worker"], input=json.dumps(jobs), stdout=subprocess.PIPE,
                              text=True, check=True)
    *results, version = [json.loads(line) for line in done.stdout.splitlines()]
    print(f"ONNX Runtime {version}")
    for (label, millions), (ours, theirs) in zip(labels, results):
        if millions:
            print(f"{label:72} {(ours - theirs) / millions:8.2f}   ({ours:.1f} and {theirs:.1f} ms)")
        else:
            print(f"{label:72} {ours / theirs:8.3f}   ({ours:.2f} and {theirs:.2f} ms)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
