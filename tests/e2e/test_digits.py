"""Converts the digit networks of models/ and lets onnx.checker and ONNX Runtime judge the files.

    python3 tests/e2e/test_digits.py ONNX-MPQ MODELS SCRATCH
"""

import csv
import pathlib
import shutil
import subprocess
import sys
import unittest

try:
    import numpy as np
    import onnx
    import onnx.inliner
    import onnxruntime
    from onnx import numpy_helper
except ImportError as error:
    print(f"Skipped: {error}. sh tests/run.sh installs what is needed.")
    sys.exit(77)

PROGRAM, MODELS, SCRATCH = (pathlib.Path(argument).resolve() for argument in sys.argv[1:4])
CHECK_EXPORT = pathlib.Path(__file__).with_name("check_export.py")
EVAL = np.load(MODELS / "digits_eval.npz")


def run(*arguments):
    command = [str(argument) for argument in (PROGRAM, *arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise AssertionError(f"{' '.join(command)}\n{result.stdout}{result.stderr}")
    return result.stdout


def convert(model, output, *options):
    run("convert", MODELS / model, "--data", MODELS / "digits_calib.npz", "--preprocess", "unit",
        "--eval", MODELS / "digits_eval.npz", "--output", output, "--threads", 1, *options)


def facts(path):
    with open(path.with_suffix(".summary.csv"), newline="", encoding="utf-8") as file:
        return dict(csv.reader(file))


def feed(session):
    """The evaluation images as --preprocess unit gives them, in the layout of the input."""
    x = EVAL["images"].astype(np.float32) / np.float32(255)
    value = session.get_inputs()[0]
    return {value.name: x if value.shape[3] == 1 else x.transpose(0, 3, 1, 2)}


def onnxruntime_outputs(path, optimized=None):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    if optimized:
        options.optimized_model_filepath = str(optimized)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, feed(session))[0]


def n_correct(y):
    return int((y.argmax(1) == EVAL["labels"]).sum())


def interface(model):
    return [(v.name, v.type.SerializeToString()) for v in [*model.graph.input, *model.graph.output]]


def metadata(model):
    return {(p.key, p.value) for p in model.metadata_props}


class Float(unittest.TestCase):
    def test_stored_models_have_the_stated_accuracy(self):
        self.assertEqual(n_correct(onnxruntime_outputs(MODELS / "digits_cnn.onnx")), 598)
        self.assertEqual(n_correct(onnxruntime_outputs(MODELS / "digits_mlp.onnx")), 596)

    def test_our_engine_agrees_with_onnxruntime(self):
        for name in ("digits_cnn", "digits_mlp"):
            path = MODELS / f"{name}.onnx"
            ours, theirs = our_outputs(path), onnxruntime_outputs(path)
            np.testing.assert_array_equal(ours.argmax(1), theirs.argmax(1))
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def our_outputs(path):
    file = SCRATCH / "outputs.npz"
    run("eval", path, "--data", MODELS / "digits_eval.npz", "--preprocess", "unit", "--outputs", file,
        "--overwrite")
    with np.load(file) as outputs:
        return outputs[outputs.files[0]]


class Conversion:
    """What holds for each conversion below."""

    @classmethod
    def setUpClass(cls):
        cls.folder = SCRATCH / cls.__name__
        cls.folder.mkdir()
        cls.path = cls.folder / "q.onnx"
        cls.source = MODELS / cls.model
        convert(cls.model, cls.path, "--size", f"{cls.percent}%", *cls.options)

    def summary(self):
        with open(self.folder / "q.summary.csv", newline="", encoding="utf-8") as file:
            return dict(csv.reader(file))

    def layers(self):
        with open(self.folder / "q.csv", newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def test_the_file_fits_and_is_all_there_is(self):
        self.assertLessEqual(self.path.stat().st_size,
                             self.source.stat().st_size * self.percent / 100)
        self.assertEqual(sorted(p.name for p in self.folder.iterdir() if p.name.startswith("q.")),
                         ["q.csv", "q.onnx", "q.summary.csv"])

    def test_onnx_accepts_it_and_the_interface_is_kept(self):
        model, source = onnx.load(self.path), onnx.load(self.source)
        onnx.checker.check_model(model, full_check=True)
        self.assertEqual(interface(model), interface(source))
        self.assertLessEqual(metadata(source), metadata(model))

    def test_it_is_the_tuned_network_bit_for_bit(self):
        self.assertEqual(self.summary()["verify_float_db"], "inf")

    def test_accuracy_in_onnxruntime(self):
        before = n_correct(onnxruntime_outputs(self.source))
        after = n_correct(onnxruntime_outputs(self.path))
        self.assertGreaterEqual(after, before - self.max_lost)

    def test_our_engine_agrees_with_onnxruntime(self):
        ours, theirs = our_outputs(self.path), onnxruntime_outputs(self.path)
        self.assertGreaterEqual(np.mean(ours.argmax(1) == theirs.argmax(1)), 0.995)
        step = self.output_step()
        if step:
            self.assertLessEqual(np.abs(ours - theirs).mean(), step / 2)

    def output_step(self):
        graph = onnx.inliner.inline_local_functions(onnx.load(self.path)).graph
        last = next(n for n in graph.node if graph.output[0].name in n.output)
        if last.op_type != "DequantizeLinear":
            return None
        scale = next(t for t in graph.initializer if t.name == last.input[1])
        return float(numpy_helper.to_array(scale))

    def test_onnxruntime_runs_every_layer_on_integers(self):
        optimized = self.folder / "optimized.onnx"
        onnxruntime_outputs(self.path, optimized)
        ops = [node.op_type for node in onnx.load(optimized).graph.node]
        for op, n in self.integer_ops.items():
            self.assertEqual(ops.count(op), n, f"{op} in {ops}")
        self.assertFalse({"BitShift", "Mod", "Gather", "MatMulInteger"} & set(ops), ops)

    def test_the_report_tells_the_truth(self):
        summary, layers = self.summary(), self.layers()
        self.assertEqual(int(summary["float_bytes"]), self.source.stat().st_size)
        self.assertEqual(int(summary["quantized_bytes"]), self.path.stat().st_size)
        self.assertEqual(int(summary["eval_samples"]), len(EVAL["labels"]))
        self.assertEqual(len(layers), sum(self.integer_ops.values()))
        bits = sum(int(r["weight_bits"]) * int(r["parameters"]) for r in layers)
        bits /= sum(int(r["parameters"]) for r in layers)
        self.assertAlmostEqual(float(summary["average_weight_bits"]), bits, places=6)
        for name, path in (("metric_float", self.source), ("metric_quantized", self.path)):
            right = n_correct(onnxruntime_outputs(path))
            self.assertLessEqual(abs(float(summary[name]) * len(EVAL["labels"]) - right), 3)

    def test_the_same_command_gives_the_same_bytes(self):
        again = self.folder / "again.onnx"
        convert(self.model, again, "--size", f"{self.percent}%", *self.options)
        self.assertEqual(again.read_bytes(), self.path.read_bytes())


class Cnn15(Conversion, unittest.TestCase):
    model, percent, max_lost = "digits_cnn.onnx", 15, 6  # one point
    options = ("--steps", "16")
    integer_ops = {"QLinearConv": 10, "QGemm": 1}


class CnnInt8(Conversion, unittest.TestCase):
    model, percent, max_lost = "digits_cnn.onnx", 40, 3
    options = ("--effort", "none", "--bits", "8", "--target", "int8")
    integer_ops = {"QLinearConv": 10, "QGemm": 1}

    def test_one_width_takes_what_one_file_needs(self):
        summary = facts(self.path)
        self.assertEqual((summary["decide_samples"], summary["refining"]), ("4", "left out"))
        with open(self.path.with_suffix(".csv"), newline="", encoding="utf-8") as file:
            losses = {(row["sensitivity_8"], row["sensitivity_6"]) for row in csv.DictReader(file)}
        self.assertEqual(losses, {(summary["decide_loss"], "")})


class Cnn9(Conversion, unittest.TestCase):
    """Of little more than 2 bits a weight, which tuning for itself is worth most."""
    model, percent, max_lost = "digits_cnn.onnx", 9, 6
    options = ("--steps", "100")
    integer_ops = {"QLinearConv": 10, "QGemm": 1}

    def test_the_allocation_is_tuned_for_itself(self):
        plain = self.folder / "plain.onnx"
        convert(self.model, plain, "--size", f"{self.percent}%", "--effort", "none")
        before, after = facts(plain), facts(self.path)
        self.assertEqual((before["specializing"], after["specializing"]), ("none", "kept"))
        self.assertLess(float(after["decide_loss"]), float(before["decide_loss"]))


class Mlp30(Conversion, unittest.TestCase):
    model, percent, max_lost = "digits_mlp.onnx", 30, 6
    options = ("--steps", "100")
    integer_ops = {"QGemm": 3}


class Paper(unittest.TestCase):
    """The published supernet: inputs of layers at widths of their own, between float values."""

    @classmethod
    def setUpClass(cls):
        cls.folder = SCRATCH / cls.__name__
        cls.folder.mkdir()
        cls.path = cls.folder / "q.onnx"
        cls.convert(cls.path, "W3A3")

    @classmethod
    def convert(cls, output, bitops):
        convert("digits_cnn.onnx", output, "--recipe", "paper", "--bitops", bitops, "--steps", 20,
                "--checkpoint", cls.folder / "net.npz")

    def layers(self):
        with open(self.folder / "q.csv", newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def test_widths_are_the_published_ones_and_within_the_budget(self):
        layers = self.layers()
        bits = [(int(row["weight_bits"]), int(row["activation_bits"])) for row in layers]
        self.assertEqual((bits[0], bits[-1]), ((8, 32), (8, 8)))
        for (weight_bits, input_bits), row in zip(bits[1:-1], layers[1:-1], strict=True):
            self.assertTrue(2 <= weight_bits <= 6 and 2 <= input_bits <= 6, row)
        macs = [int(row["macs"]) for row in layers]
        used = sum(w * a * m for (w, a), m in zip(bits[1:-1], macs[1:-1], strict=True))
        self.assertLessEqual(used, 9 * sum(macs[1:-1]))

    def test_onnxruntime_computes_the_same(self):
        """But for images where a sum of the first layer, in float, is so near the middle of two steps that the
        order of its terms decides."""
        onnx.checker.check_model(onnx.load(self.path), full_check=True)
        theirs, ours = onnxruntime_outputs(self.path), our_outputs(self.path)
        is_same = np.isclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max()).all(axis=1)
        self.assertGreaterEqual(is_same.sum(), len(theirs) - 3)
        before = n_correct(onnxruntime_outputs(MODELS / "digits_cnn.onnx"))
        self.assertGreaterEqual(n_correct(theirs), before - 6)

    def test_codes_are_rounded_again_unless_that_is_switched_off(self):
        plain = self.folder / "plain.onnx"
        convert("digits_cnn.onnx", plain, "--recipe", "paper", "--bitops", "W3A3", "--checkpoint",
                self.folder / "net.npz", "--no-refine")
        before, after = facts(plain), facts(self.path)
        self.assertEqual((before["refining"], after["refining"]), ("none", "kept"))
        self.assertGreater(float(before["decide_loss"]), float(after["decide_loss"]))
        self.assertGreater(float(after["decide_loss"]), 0)

    def test_the_checkpoint_gives_the_same_file_and_other_budgets(self):
        again, wider = self.folder / "again.onnx", self.folder / "wider.onnx"
        self.convert(again, "W3A3")
        self.assertEqual(again.read_bytes(), self.path.read_bytes())
        self.convert(wider, "W5A5")
        self.assertGreater(wider.stat().st_size, self.path.stat().st_size)
        self.assertGreaterEqual(n_correct(onnxruntime_outputs(wider)),
                                n_correct(onnxruntime_outputs(self.path)) - 3)


class Storage(unittest.TestCase):
    def test_packed_and_int8_files_are_the_same_network(self):
        folder = SCRATCH / "Storage"
        folder.mkdir()
        for bits in (2, 3, 4, 5, 6, 8):
            files = [folder / f"{bits}.{target}.onnx" for target in ("ort", "int8")]
            for file, target in zip(files, ("ort", "int8"), strict=True):
                run("convert", MODELS / "digits_cnn.onnx", "--data", MODELS / "digits_calib.npz",
                    "--preprocess", "unit", "--bits", bits, "--size", "100%", "--effort", "none",
                    "--target", target, "--output", file, "--threads", 1)
            with self.subTest(bits=bits):
                subprocess.run([sys.executable, "-B", CHECK_EXPORT, *files, "--qlinearconv", "10",
                                "--reference"], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir(parents=True)
    unittest.main(argv=sys.argv[:1], verbosity=2)
