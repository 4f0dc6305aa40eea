"""A network whose channels have uneven ranges, which one scale for all of them serves badly: the digit network with
factors between its layers that cancel.

    python3 tests/e2e/test_equalize.py ONNX-MPQ MODELS SCRATCH
"""

import csv
import subprocess
import sys
import unittest

from test_digits import MODELS, PROGRAM, SCRATCH, convert, n_correct, onnxruntime_outputs, run

import numpy as np  # test_digits has checked that they are there
import onnx
from onnx import numpy_helper

UNEVEN = SCRATCH / "uneven.onnx"
EDGES = (("layer1.bn1", "layer1.conv2.weight"), ("layer2.bn1", "layer2.conv2.weight"))


def make_uneven():
    model = onnx.load(MODELS / "digits_cnn.onnx")
    arrays = {t.name: numpy_helper.to_array(t).copy() for t in model.graph.initializer}
    for norm, reader in EDGES:
        factor = np.float32(2.0) ** -(np.arange(len(arrays[norm + ".weight"])) % 12)
        arrays[norm + ".weight"] *= factor
        arrays[norm + ".bias"] *= factor
        arrays[reader] /= factor[:, None, None]
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    onnx.save(model, UNEVEN)


def summary(path):
    with open(path.with_suffix(".summary.csv"), newline="", encoding="utf-8") as file:
        return dict(csv.reader(file))


class Equalize(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        make_uneven()

    def quantize(self, name, *options):
        path = SCRATCH / f"{name}.onnx"
        convert(UNEVEN, path, "--effort", "none", "--overwrite", *options)
        return path, summary(path)

    def test_even_channels_lose_less(self):
        options = "--bits", "8", "--size", "100%", "--no-refine"
        even, kept = self.quantize("even", *options)
        _, uneven = self.quantize("as_they_are", *options, "--no-equalize")
        self.assertEqual((kept["equalizing"], uneven["equalizing"]), ("kept", "none"))
        self.assertLess(float(kept["kl"]), float(uneven["kl"]) / 2)
        self.assertGreaterEqual(n_correct(onnxruntime_outputs(even)), 596)

    def test_a_checkpoint_goes_on_from_there(self):
        state = SCRATCH / "even.npz"
        state.unlink(missing_ok=True)
        first, kept = self.quantize("first", "--size", "16%", "--checkpoint", state)
        self.assertEqual(kept["equalizing"], "kept")
        run("search", state, "--size", "16%", "-o", SCRATCH / "s.onnx", "--threads", 1, "--overwrite")
        right = n_correct(onnxruntime_outputs(SCRATCH / "s.16pct.onnx"))
        self.assertLessEqual(abs(right - n_correct(onnxruntime_outputs(first))), 3)
        with open(first.with_suffix(".csv"), newline="", encoding="utf-8") as file:
            reader = [row["node"] for row in csv.DictReader(file)][2]
        # The weights that are left have factors in them which the float layer has not.
        refused = subprocess.run([PROGRAM, "convert", UNEVEN, "--data", MODELS / "digits_calib.npz", "--preprocess",
                                  "unit", "--size", "50%", "--checkpoint", state, "--exclude", reader,
                                  "-o", SCRATCH / "refused.onnx"], capture_output=True, text=True, check=False)
        self.assertIn("equalized together with layers that are excluded", refused.stderr)

    def test_channels_that_are_even_stay(self):
        path = SCRATCH / "digits.onnx"
        convert("digits_cnn.onnx", path, "--effort", "none", "--overwrite", "--bits", "8", "--size", "100%")
        self.assertEqual(summary(path)["equalizing"], "left out")


if __name__ == "__main__":
    SCRATCH.mkdir(parents=True, exist_ok=True)
    unittest.main(argv=sys.argv[:1], verbosity=2)
