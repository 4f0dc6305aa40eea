"""Files of every target and width, on many versions of ONNX Runtime and on OpenVINO.

    build/venv/bin/python tests/e2e/version_matrix.py build/cli/onnx-mpq
        [--versions 1.17.3,1.19.2,...,openvino] [--models resnet20,...] [--targets ...] [--widths 2,3,...]
        [--csv build/matrix/results.csv] [--table]

Makes a virtual environment for each version in build/matrix/ (pip downloads what is missing), converts the
models of ../shared, runs the files there on a few samples and compares with what onnx-mpq itself computes.
Says of each file that is not right what happened, and exits 1 if there is any. Hours on two busy cores, so it
is no part of ctest (tests/e2e/test_targets.py is, with the version installed) and runs in pieces: each model
appends its verdicts to the CSV, later rows count, and files newer than the tool are not converted again.
At the end all of the CSV is printed as a Markdown table, a row a model and target, a column a version; --table
does nothing else. A cell has the widths that are right, in parentheses those that are close, then what is wrong
with others, or that the runtime refused them (the CSV has its words); "-": the version cannot know the file.

A file is right where 99 % of the outputs lie within one quantization step of ours (0.5 % of the largest output
where that is more, or where outputs are not quantized), close where they are 30 dB from ours: a float kernel sums
in another order, a tie falls the other way, and what follows moves. A file of the storage program must also give
the bits that int8 weights give, where no float kernel runs (it is another one for weights that are constants), and
as many layers must run on integers.
"""

import argparse
import collections
import csv
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
FOLDER = ROOT / "build" / "matrix"
VERSIONS = ["1.17.3", "1.18.1", "1.19.2", "1.20.1", "1.22.1", "1.23.2", "1.24.4", "1.27.0", "1.30.0", "1.32.0",
            "openvino"]
# name, file, data
MODELS = [("resnet20", "cifar10_resnet20", "cifar10"), ("squeezenet1_1", "imagenet_squeezenet1_1", "imagenet"),
          ("mobilenetv2", "cifar10_mobilenetv2_probe128", "cifar10"), ("vit", "cifar10_vit_ibp_3_3_8", "cifar10"),
          ("nsnet2", "denoise_nsnet2", "nsnet2"), ("dtln_1", "denoise_dtln_1", "dtln"),
          ("llm", "llm_aidreams260k", "llm")]
TARGETS = ["ort", "int8", "openvino", "tensorrt", "onnx", "qnn", "qnn16"]
N_SAMPLE = 8
# What a version cannot load: opsets, IR versions and types that came after it.
MAX_OPSET = {"1.17": 20, "1.18": 21, "1.19": 21, "1.20": 21, "1.21": 22, "1.22": 22, "1.23": 23}
INTEGER_OPS = ("QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat", "DynamicQuantizeMatMul")
FLOAT_OPS = ("Conv", "FusedConv", "ConvTranspose", "MatMul", "FusedMatMul", "MatMulNBits", "Gemm", "FusedGemm", "LSTM",
             "GRU")


# ---- the other side: runs in the environment of one version, without onnx ----

def worker():
    import numpy as np
    jobs = json.load(sys.stdin)
    for job in jobs:
        result = {"file": job["file"]}
        try:
            with np.load(job["inputs"]) as arrays:
                inputs = {name: arrays[name] for name in arrays.files}
            outputs = (run_openvino if job["runtime"] == "openvino" else run_onnxruntime)(job, inputs)
            np.savez(job["outputs"], **{f"o{i}": o for i, o in enumerate(outputs)})
        except Exception as error:  # whatever the runtime throws is the result
            result["error"] = " ".join(str(error).split())[:300]
        print(json.dumps(result), flush=True)


def samples(inputs, ranks):
    for i in range(len(next(iter(inputs.values())))):
        yield {name: x[i] if x[i].ndim == ranks[name] else x[i:i + 1] for name, x in inputs.items()}


def run_onnxruntime(job, inputs):
    import numpy as np
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = job["optimized"]
    # Its 2-, 4- and 8-bit MatMul kernels round activations to 8 bits unless told not to.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(job["file"], options, providers=["CPUExecutionProvider"])
    ranks = {i.name: len(i.shape) for i in session.get_inputs()}
    runs = [session.run(None, sample) for sample in samples(inputs, ranks)]
    return [np.stack(o) for o in zip(*runs)]


def run_openvino(job, inputs):
    import numpy as np
    import openvino
    core = openvino.Core()
    model = core.read_model(job["file"])
    compiled = core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"})
    ranks = {i.any_name: len(i.partial_shape) for i in model.inputs}
    runs = [[np.array(y) for y in compiled(sample).values()] for sample in samples(inputs, ranks)]
    return [np.stack(o) for o in zip(*runs)]


# ---- this side ----

def environment(version):
    folder = FOLDER / f"venv-{version}"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        # Older wheels were built against numpy 1.
        packages = ["openvino"] if version == "openvino" else [f"onnxruntime=={version}"]
        packages.append("numpy" if version == "openvino" or version_number(version) >= (1, 20) else "numpy<2")
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def version_number(version):
    return tuple(int(part) for part in version.split(".")[:2])


def make_inputs(file, data):
    """A few samples, ready to be fed, as [n, ...]."""
    import numpy as np
    import onnx
    path = FOLDER / f"{file}.npz"
    if path.exists():
        return path
    graph = onnx.load(SHARED / "models" / f"{file}.onnx").graph
    value = graph.input[0]
    if data == "imagenet":
        from PIL import Image
        pictures = sorted((SHARED / "data" / data / "calib").glob("*.jpg"))[:N_SAMPLE]
        x = np.stack([np.asarray(Image.open(p).convert("RGB").resize((224, 224))) for p in pictures])
    else:
        arrays = np.load(SHARED / "data" / data / "calib.npz")
        if value.name in arrays.files:
            # Spread out: frames of a recording that follow each other are alike.
            n = len(arrays[value.name])
            at = np.arange(N_SAMPLE) * n // N_SAMPLE
            np.savez(path, **{i.name: arrays[i.name][at] for i in graph.input})
            return path
        x = arrays["images"][:N_SAMPLE]
    x = ((x / np.float32(255) - np.float32(0.45)) / np.float32(0.23)).transpose(0, 3, 1, 2)
    factor = value.type.tensor_type.shape.dim[2].dim_value // x.shape[2]
    np.savez(path, **{value.name: x.repeat(factor, 2).repeat(factor, 3).astype(np.float32)})
    return path


def convert(tool, name, file, inputs, target, bits):
    out = FOLDER / f"{name}.{target}.{bits}.onnx"
    ours = out.with_suffix(".npz")
    if ours.exists() and out.stat().st_mtime > tool.stat().st_mtime:
        return out
    subprocess.run([tool, "convert", SHARED / "models" / f"{file}.onnx", "--data", inputs, "--effort", "none",
                    "--no-round", "--no-refine", "--size", "100%", "--bits", str(bits), "--target", target, "-q",
                    "--overwrite", "-o", out], check=True)
    subprocess.run([tool, "eval", out, "--data", inputs, "--outputs", ours, "--overwrite", "-q"],
                   check=True, capture_output=True)
    return out


def output_steps(model):
    """The quantization step of each output, or None."""
    from onnx import numpy_helper
    constant = {t.name: t for t in model.graph.initializer}
    producer = {o: n for n in model.graph.node for o in n.output}
    steps = []
    for output in model.graph.output:
        node = producer.get(output.name)
        scale = node is not None and node.op_type == "DequantizeLinear" and constant.get(node.input[1])
        steps.append(float(numpy_helper.to_array(scale)) if scale else None)
    return steps


def compare(file, outputs):
    """'right', 'close' or a sentence about what is wrong."""
    import numpy as np
    import onnx
    import onnx.inliner
    model = onnx.inliner.inline_local_functions(onnx.load(file))
    verdict = "right"
    with np.load(file.with_suffix(".npz")) as ours, np.load(outputs) as theirs:
        for i, (value, step) in enumerate(zip(model.graph.output, output_steps(model))):
            a, b = ours[value.name].ravel(), theirs[f"o{i}"].ravel()
            if a.size != b.size:
                return f"{value.name} has {b.size} elements, not {a.size}"
            largest = float(np.abs(a).max())
            off = np.abs(a.astype(np.float64) - b)
            db = 10 * np.log10(np.square(a.astype(np.float64)).sum() / max(np.square(off).sum(), 1e-30))
            if not db >= 30:
                return f"{value.name} is {db:.1f} dB from ours, up to {100 * off.max() / largest:.3g} % of the largest"
            if (off > max(1.001 * (step or 0), 0.005 * largest)).mean() > 0.01:
                verdict = "close"
    return verdict


def count(path, operators):
    import onnx
    ops = collections.Counter(n.op_type for n in onnx.load(path).graph.node)
    return sum(ops[op] for op in operators)


def is_too_new(file, version):
    """Whether a version cannot know the opset, IR version or a type."""
    import onnx
    model = onnx.load(file, load_external_data=False)
    if version == "openvino":
        return False
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    types = {t.data_type for t in model.graph.initializer}
    small = {onnx.TensorProto.INT4, onnx.TensorProto.UINT4}
    return opset > MAX_OPSET.get(version, MAX_OPSET.get(version.rsplit(".", 1)[0], 99)) or \
        (bool(types & small) and version_number(version) < (1, 19))


def same_outputs(a, b):
    import numpy as np
    with np.load(a) as x, np.load(b) as y:
        return all(np.array_equal(x[name], y[name]) for name in x.files)


def run_version(version, files, inputs_of, report):
    python = environment(version)
    by_model = collections.defaultdict(list)
    for (name, target, bits), file in files.items():
        stem = FOLDER / f"{file.stem}.{version}"
        by_model[name].append({
            "key": (name, target, bits), "file": str(file), "inputs": str(inputs_of[name]),
            "outputs": f"{stem}.npz", "optimized": f"{stem}.optimized.onnx",
            "runtime": "openvino" if version == "openvino" else "onnxruntime"})
    verdict = {}
    for jobs in by_model.values():
        done = subprocess.run([python, __file__, "--worker"], input=json.dumps(jobs), capture_output=True, text=True,
                              check=False)
        results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        for i, job in enumerate(jobs):
            name, target, bits = job["key"]
            error = results[i].get("error") if i < len(results) else "the process ended"
            file = pathlib.Path(job["file"])
            if error and is_too_new(file, version):
                verdict[job["key"]] = "new"
                continue
            result = f"refused: {error}" if error else compare(file, job["outputs"])
            plain = FOLDER / f"{name}.int8.{bits}.{version}"
            if result in ("right", "close") and target == "ort" and version != "openvino" and \
                    pathlib.Path(f"{plain}.npz").exists():
                optimized, plain_optimized = job["optimized"], f"{plain}.optimized.onnx"
                if count(optimized, INTEGER_OPS) != count(plain_optimized, INTEGER_OPS):
                    result = "other integer layers than with int8 weights"
                elif not count(optimized, FLOAT_OPS) and not same_outputs(job["outputs"], f"{plain}.npz"):
                    result = "other bits than with int8 weights"
            verdict[job["key"]] = result
            if result not in ("right", "close"):
                report(f"{version}: {name}, {target}, {bits} bits: {result}")
    return verdict


COLUMNS = ["model", "target", "width", "version", "verdict"]


def ranges(widths):
    """2, 3, 4, 6 -> "2-4, 6"."""
    runs = []
    for width in sorted(widths):
        if runs and runs[-1][1] == width - 1:
            runs[-1][1] = width
        else:
            runs.append([width, width])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def cell(verdicts):
    """Of {width: verdict}."""
    by_verdict = collections.defaultdict(list)
    for width, verdict in sorted(verdicts.items()):
        db = re.search(r" is (\d+)\.\d dB from ours", verdict)
        by_verdict[f"{db[1]} dB" if db else verdict.split(":")[0]].append(width)
    parts = [ranges(by_verdict.pop("right", []))]
    close, new = by_verdict.pop("close", []), by_verdict.pop("new", [])
    if close:
        parts.append(f"({ranges(close)})")
    parts += [f"{ranges(widths)}: {reason}" for reason, widths in by_verdict.items()]
    return " ".join(part for part in parts if part) or ("-" if new else "")


def print_table(path):
    with open(path, newline="", encoding="utf-8") as file:
        verdicts = {tuple(row[c] for c in COLUMNS[:4]): row["verdict"] for row in csv.DictReader(file)}
    versions = [v for v in VERSIONS if any(key[3] == v for key in verdicts)]
    print("| model | target | " + " | ".join(versions) + " |")
    print("|---|---|" + "---|" * len(versions))
    for name, _, _ in MODELS:
        for target in TARGETS:
            if any(key[:2] == (name, target) for key in verdicts):
                cells = [cell({int(key[2]): verdict for key, verdict in verdicts.items()
                               if key[:2] == (name, target) and key[3] == version}) for version in versions]
                print(f"| {name} | `{target}` | " + " | ".join(cells) + " |")


def append(path, version, verdicts):
    is_new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(COLUMNS)
        writer.writerows([name, target, bits, version, verdict] for (name, target, bits), verdict in verdicts.items())


def main():
    if sys.argv[1:] == ["--worker"]:
        return worker()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tool", type=lambda p: pathlib.Path(p).resolve())
    parser.add_argument("--versions", default=",".join(VERSIONS))
    parser.add_argument("--models", default=",".join(m[0] for m in MODELS))
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--widths", default="2,3,4,5,6,7,8")
    parser.add_argument("--csv", type=pathlib.Path, default=FOLDER / "results.csv")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        print_table(arguments.csv)
        return 0
    if not SHARED.is_dir():
        print(f"skipped: there is no {SHARED}", file=sys.stderr)
        return 77
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted, targets = arguments.models.split(","), arguments.targets.split(",")
    targets.sort(key=lambda t: t != "int8")  # what the storage program is compared with comes first
    n_problem = 0

    def report(line):
        nonlocal n_problem
        n_problem += 1
        print(line, file=sys.stderr, flush=True)

    for name, file, data in MODELS:
        if name not in wanted:
            continue
        inputs = make_inputs(file, data)
        files = {(name, target, int(bits)): convert(arguments.tool, name, file, inputs, target, int(bits))
                 for bits in arguments.widths.split(",") for target in targets}
        print(f"converted {name}", file=sys.stderr, flush=True)
        for version in arguments.versions.split(","):
            append(arguments.csv, version, run_version(version, files, {name: inputs}, report))
            print(f"ran {name} on {version}", file=sys.stderr, flush=True)
    print_table(arguments.csv)
    return 1 if n_problem else 0


if __name__ == "__main__":
    sys.exit(main())
