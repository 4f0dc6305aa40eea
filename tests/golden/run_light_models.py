"""Run the light models of the onnx package (resnet50, densenet121, inception, vgg19, shufflenet, squeezenet,
alexnet, zfnet512: whole architectures whose weights are computed) through node_runner.

    run_light_models.py NODE_RUNNER [--only SUBSTRING]
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import onnx
    import onnx.backend.test
    from onnx import numpy_helper
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

# What the package asks for of its own backends.
RTOL, ATOL = 1e-3, 1e-7


def ramp(value):
    """What the package feeds: numbers from 0 to 1 in a row."""
    shape = [d.dim_value if d.HasField("dim_value") else 1 for d in value.type.tensor_type.shape.dim]
    n = int(np.prod(shape))
    return (np.arange(n).reshape(shape) / n).astype(np.float32)


def run(runner, path, folder):
    model = onnx.load(path)
    constant = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constant]
    command = [runner, path, str(RTOL), str(ATOL), str(len(inputs))]
    for i, value in enumerate(inputs):
        command.append(folder / f"input_{i}.pb")
        command[-1].write_bytes(numpy_helper.from_array(ramp(value)).SerializeToString())
    for i in range(len(model.graph.output)):
        command.append(path.with_name(f"{path.stem}_output_{i}.pb"))
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    return result.stdout.strip() or f"exit status {result.returncode} {result.stderr[:500]}"


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("runner")
    arguments.add_argument("--only", default="")
    arguments = arguments.parse_args()
    folder = pathlib.Path(onnx.backend.test.__file__).parent / "data" / "light"
    models = [path for path in sorted(folder.glob("*.onnx")) if arguments.only in path.name]
    if not models:
        print(f"skipped: there are no models in {folder}")
        return 77
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        for path in models:
            result = run(arguments.runner, path, pathlib.Path(scratch))
            print(f"{path.stem:20} {result}", flush=True)
            failed += result != "PASS"
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
