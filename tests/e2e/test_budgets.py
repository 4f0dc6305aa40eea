"""Many budgets, edited plans and other limits from one tuning of the digit network; ONNX Runtime
judges the files.

    python3 tests/e2e/test_budgets.py ONNX-MPQ MODELS SCRATCH
"""

import csv
import shutil
import sys
import unittest

from test_digits import (EVAL, MODELS, SCRATCH, convert, n_correct, onnxruntime_outputs,
                         our_outputs, run)

import numpy as np
import onnx  # test_digits has checked that it is there

MODEL = "digits_cnn.onnx"
FLOAT_BYTES = (MODELS / MODEL).stat().st_size
CHECKPOINT = SCRATCH / "tuned.npz"


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def summary(path):
    with open(path, newline="", encoding="utf-8") as file:
        return dict(csv.reader(file))


def write_plan(path, layers):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, layers[0].keys())
        writer.writeheader()
        writer.writerows(layers)


class Budgets(unittest.TestCase):
    def check_file(self, path):
        """What holds for each file: it is valid, and both runtimes give the same answers."""
        onnx.checker.check_model(onnx.load(path), full_check=True)
        ours, theirs = our_outputs(path), onnxruntime_outputs(path)
        self.assertGreaterEqual((ours.argmax(1) == theirs.argmax(1)).mean(), 0.995)
        return n_correct(theirs)

    def check_integers(self, path, optimized):
        onnxruntime_outputs(path, optimized)
        ops = [node.op_type for node in onnx.load(optimized).graph.node]
        self.assertEqual(ops.count("QLinearConv") + ops.count("QGemm"), 11, ops)

    def test_a_file_and_a_row_for_each_size(self):
        run("search", CHECKPOINT, "--size", "11%,14%,40kB", "-o", SCRATCH / "n.onnx", "--threads", 1)
        table = rows(SCRATCH / "n.budgets.csv")
        budgets = [0.11 * FLOAT_BYTES, 0.14 * FLOAT_BYTES, 40000]
        self.assertEqual(len(table), 3)
        for row, budget, label in zip(table, budgets, ("11pct", "14pct", "40kB"), strict=True):
            path = SCRATCH / f"n.{label}.onnx"
            self.assertEqual(row["output"], str(path))
            self.assertEqual(int(row["quantized_bytes"]), path.stat().st_size)
            self.assertLessEqual(path.stat().st_size, budget)
            self.assertEqual(row["binding_limits"], "file size")
            right = float(row["metric_quantized"]) * len(EVAL["labels"])
            self.assertLessEqual(abs(self.check_file(path) - right), 3)
            self.assertGreaterEqual(right, 590)
        loss = [float(row["decide_loss"]) for row in table]
        self.assertLess(loss[1], loss[0])

    def test_the_curve_goes_from_the_smallest_to_the_largest(self):
        run("search", CHECKPOINT, "--pareto", 4, "-o", SCRATCH / "c.onnx", "--threads", 1)
        table = rows(SCRATCH / "c.budgets.csv")
        sizes = [int(row["quantized_bytes"]) for row in table]
        loss = [float(row["decide_loss"]) for row in table]
        self.assertEqual(sizes, sorted(sizes))
        self.assertEqual(loss, sorted(loss, reverse=True))
        self.assertEqual(float(table[0]["average_weight_bits"]), 2)
        self.assertEqual(float(table[-1]["average_weight_bits"]), 8)

    def search_changed(self, name, **changed):
        """The summary of a search whose checkpoint has these arrays; None: lacks them."""
        arrays = dict(np.load(CHECKPOINT)) | changed
        np.savez(SCRATCH / f"{name}.npz", **{k: v for k, v in arrays.items() if v is not None})
        run("search", SCRATCH / f"{name}.npz", "--size", "13%", "-o", SCRATCH / f"{name}.onnx", "--threads", 1)
        facts = summary(SCRATCH / f"{name}.13pct.summary.csv")
        return {key: facts[key] for key in ("agreement", "kl", "metric_float", "uniform_loss", "decide_loss")}

    def test_what_the_checkpoint_knows_is_not_computed_again(self):
        arrays = np.load(CHECKPOINT)
        n = len(EVAL["labels"])
        self.assertEqual((arrays["answer_id"].shape, arrays["answer0"].size), ((n,), 10 * n))
        share = arrays["refined_share"]
        self.assertTrue((0 < share).all() and (share <= 1).all() and (share < 0.9).any() and share[-1] == 1, share)
        plain = self.search_changed("plain")
        self.assertGreater(float(plain["agreement"]), 0.98)
        lacking = self.search_changed("older", answer_id=None, answer0=None, uniform_loss=None,
                                      refined_share=None)
        self.assertEqual(lacking, plain)
        wrong = self.search_changed("wrong", answer0=-arrays["answer0"])
        self.assertLess(float(wrong["agreement"]), 0.1)
        others = self.search_changed("others", answer0=-arrays["answer0"], answer_id=arrays["answer_id"] + 1)
        self.assertEqual(others, plain)  # answers to other samples are asked for again
        halved = self.search_changed("halved", uniform_loss=arrays["uniform_loss"] / 2)
        self.assertAlmostEqual(float(halved["uniform_loss"]), float(plain["uniform_loss"]) / 2, places=6)

    def test_bit_operations_with_narrow_activations(self):
        run("search", CHECKPOINT, "--bitops", "W4A4", "-o", SCRATCH / "b.onnx", "--threads", 1)
        layers, facts = rows(SCRATCH / "b.csv"), summary(SCRATCH / "b.summary.csv")
        macs = sum(int(row["macs"]) for row in layers)
        bitops = sum(int(r["macs"]) * int(r["weight_bits"]) * int(r["activation_bits"])
                     for r in layers)
        self.assertEqual(int(facts["bitops"]), bitops)
        self.assertLessEqual(bitops, 16 * macs)
        self.assertGreater(bitops, 0.95 * 16 * macs)
        self.assertEqual(facts["binding_limits"], "BitOPs")
        self.assertLess(min(int(row["activation_bits"]) for row in layers), 8)
        self.assertGreaterEqual(self.check_file(SCRATCH / "b.onnx"), 592)
        self.check_integers(SCRATCH / "b.onnx", SCRATCH / "b.optimized.onnx")

    def test_what_convert_wrote_is_applied_to_the_same_bytes(self):
        run("apply", CHECKPOINT, SCRATCH / "first.csv", "-o", SCRATCH / "same.onnx", "--threads", 1)
        self.assertEqual((SCRATCH / "same.onnx").read_bytes(),
                         (SCRATCH / "first.onnx").read_bytes())

    def test_an_edited_plan_is_obeyed(self):
        layers = rows(SCRATCH / "first.csv")
        layers[1]["weight_bits"], layers[2]["weight_bits"] = "2", "8"
        layers[-1]["weight_bits"] = "32"
        write_plan(SCRATCH / "plan.csv", layers)
        run("apply", CHECKPOINT, SCRATCH / "plan.csv", "-o", SCRATCH / "p.onnx", "--threads", 1)
        got = {row["node"]: row for row in rows(SCRATCH / "p.csv")}
        for row in layers[:-1]:
            self.assertEqual(got[row["node"]]["weight_bits"], row["weight_bits"])
            self.assertEqual(got[row["node"]]["chosen_by"], "plan")
        self.assertNotIn(layers[-1]["node"], got)
        right = self.check_file(SCRATCH / "p.onnx")
        reported = float(summary(SCRATCH / "p.summary.csv")["metric_quantized"])
        self.assertLessEqual(abs(right - reported * len(EVAL["labels"])), 3)
        weights = [t for t in onnx.load(SCRATCH / "p.onnx").graph.initializer
                   if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 2]
        self.assertEqual(len(weights), 1)  # the last layer's, as it was

    def test_the_smallest_file_within_a_drop(self):
        path = SCRATCH / "d.onnx"
        run("search", CHECKPOINT, "--max-drop", 2, "-o", path, "--threads", 1)
        facts = summary(SCRATCH / "d.summary.csv")
        self.assertEqual(int(facts["eval_samples"]), len(EVAL["labels"]) // 2)
        self.assertGreaterEqual(float(facts["drop_confidence"]), 0.8)
        self.assertLess(path.stat().st_size, 0.12 * FLOAT_BYTES)
        self.assertGreaterEqual(self.check_file(path), 586)  # two points

    def test_one_width_needs_no_size(self):
        path = SCRATCH / "one_width.onnx"
        convert(MODEL, path, "--bits", "8", "--effort", "none", "--overwrite")
        self.assertEqual({row["weight_bits"] for row in rows(path.with_suffix(".csv"))}, {"8"})
        self.assertGreater(path.stat().st_size, 0.2 * FLOAT_BYTES)

    def test_excluded_and_locked_layers(self):
        path = SCRATCH / "l.onnx"
        convert(MODEL, path, "--size", "25%", "--effort", "none", "--exclude", "/stem/.*,Gemm",
                "--lock", ".*depthwise.*=8,/layer2/.*=3")
        for row in rows(SCRATCH / "l.csv"):
            self.assertFalse(row["node"].startswith("/stem") or row["operator"] == "Gemm")
            if "depthwise" in row["node"]:
                self.assertEqual((row["weight_bits"], row["chosen_by"]), ("8", "lock"))
            if row["node"].startswith("/layer2/"):
                self.assertEqual((row["weight_bits"], row["chosen_by"]), ("3", "lock"))
        self.assertGreaterEqual(self.check_file(path), 590)


if __name__ == "__main__":
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir(parents=True)
    convert(MODEL, SCRATCH / "first.onnx", "--size", "15%", "--effort", "none", "--act-bits",
            "4,5,6,8", "--checkpoint", CHECKPOINT)
    unittest.main(argv=sys.argv[:1], verbosity=2)
