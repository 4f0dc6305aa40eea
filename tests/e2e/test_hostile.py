"""Files that lie, or whose author had bad luck: each ends soon, with one sentence and a code of 1 to 4.

    python3 tests/e2e/test_hostile.py ONNX-MPQ

Every case was a crash, a hang or an undefined operation once; the sanitized build says so loudest.
"""

import pathlib
import subprocess
import sys
import tempfile
import unittest

try:
    import numpy as np
    from onnx import TensorProto, helper
except ImportError as error:
    print(f"Skipped: {error}. sh tests/run.sh installs what is needed.")
    sys.exit(77)

PROGRAM = pathlib.Path(sys.argv[1]).resolve()
SECONDS = 60  # of a command that must give up in one or two
FLOAT, INT64, UINT8, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8, TensorProto.BOOL
HUGE = 2**62


def value(name, shape, dtype=FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def ints(name, values):
    return helper.make_tensor(name, INT64, [len(values)], values)


def scalar(name, dtype, number):
    return helper.make_tensor(name, dtype, [], [number])


def model(nodes, shape, initializers=(), functions=(), domains=(), opset=17):
    graph = helper.make_graph(nodes, "hostile", [value("x", shape)], [value("y", None)], list(initializers))
    imports = [helper.make_opsetid("", opset)] + [helper.make_opsetid(d, 1) for d in domains]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=10)


def one(op_type, shape, initializers=(), opset=18, **attributes):
    node = helper.make_node(op_type, ["x"] + [i.name for i in initializers], ["y"], **attributes)
    return model([node], shape, initializers, opset=opset)


class Hostile(unittest.TestCase):
    def run_both(self, message, *refusals):
        """inspect and eval of the model; those in `refusals` must refuse it, none may do worse. What they said."""
        said = ""
        with tempfile.TemporaryDirectory() as folder:
            path, data = pathlib.Path(folder) / "hostile.onnx", pathlib.Path(folder) / "x.npz"
            path.write_bytes(message.SerializeToString())
            shape = [d.dim_value for d in message.graph.input[0].type.tensor_type.shape.dim]
            np.savez(data, x=np.ones(shape, np.float32))
            for command in (["inspect", path], ["eval", path, "--data", data]):
                done = subprocess.run([PROGRAM, *command], capture_output=True, text=True, check=False,
                                      timeout=SECONDS)
                with self.subTest(command=command[0]):
                    self.assertIn(done.returncode, (0, 1, 2, 3, 4), done.stderr)
                    self.assertNotIn("runtime error", done.stderr)
                    self.assertNotIn("Sanitizer", done.stderr)
                    if command[0] in refusals:
                        self.assertNotEqual(done.returncode, 0)
                        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
                said += done.stderr
        return said

    # ---- the importer ----

    def test_functions_that_double(self):
        functions = []
        for level in range(60):
            calls = [helper.make_node(f"F{level + 1}", [], [], domain="d")] * 2 if level < 59 else []
            opsets = [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
            functions.append(helper.make_function("d", f"F{level}", [], [], calls, opsets))
        nodes = [helper.make_node("F0", [], [], domain="d"), helper.make_node("Relu", ["x"], ["y"])]
        self.run_both(model(nodes, [1, 4], functions=functions, domains=["d"]), "inspect", "eval")

    def test_functions_that_grow(self):
        """Calls whose long names go before all names in them; quarter of a million nodes."""
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
        for levels, per, stem in ((6, 10, "n" * 4000), (18, 2, "n")):
            functions = []
            for level in range(levels):
                kind, domain = (f"F{level + 1}", "d") if level < levels - 1 else ("Relu", "")
                calls = [helper.make_node(kind, ["x"], [f"{stem}{k}"], domain=domain, name=f"{stem}{k}") for k in range(per)]
                calls.append(helper.make_node("Identity", [calls[0].output[0]], ["y"]))
                functions.append(helper.make_function("d", f"F{level}", ["x"], ["y"], calls, opsets))
            node = helper.make_node("F0", ["x"], ["y"], domain="d", name="top")
            self.run_both(model([node], [1, 4], functions=functions, domains=["d"]), "inspect", "eval")

    def test_calls_are_named(self):
        """By what they compute, where they have no name."""
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
        call = helper.make_node("F", ["x"], ["y"], domain="d")
        again = helper.make_function("d", "F", ["x"], ["y"], [call], opsets)
        plain = helper.make_function("d", "F", [], ["y"], [], opsets)
        for function, sentence in (again, "its function calls itself"), (plain, "has more inputs or outputs"):
            error = self.run_both(model([call], [1, 4], functions=[function], domains=["d"]), "inspect", "eval")
            self.assertIn(f"node 'y' (F): {sentence}", error)

    def test_unknown_nodes_are_named(self):
        """By the first output that they have."""
        node = helper.make_node("Mystery", ["x"], ["", "y"], domain="d")
        self.assertIn("'y' (Mystery of d", self.run_both(model([node], [1, 4], domains=["d"]), "eval"))

    def test_codes_that_many_nodes_name(self):
        """A megabyte of codes that two thousand nodes would make 8 MB of floats of, each."""
        codes = helper.make_tensor("w", UINT8, [4096, 16, 16], bytes(1 << 20), raw=True)
        scales = helper.make_tensor("s", FLOAT, [4096, 16], [1.0] * 65536)
        nodes = [helper.make_node("MatMulNBits", ["x", "w", "s"], [f"y{k}" if k else "y"], domain="com.microsoft",
                                  K=512, N=4096, bits=4, block_size=32) for k in range(2000)]
        self.run_both(model(nodes, [1, 512], [codes, scales], domains=["com.microsoft"]), "inspect", "eval")

    def test_loops_of_nothing(self):
        body = helper.make_graph([], "body", [value("i", [], INT64), value("c", [], BOOL), value("s", [1, 4])],
                                 [value("c", [], BOOL), value("s", [1, 4])])
        nodes = [helper.make_node("Loop", ["n", "t", f"x{k}" if k else "x"], [f"x{k + 1}" if k < 299 else "y"],
                                  body=body) for k in range(300)]
        self.run_both(model(nodes, [1, 4], [scalar("n", INT64, 65536), scalar("t", BOOL, True)]), "eval")

    def test_sparse_tensors_of_many_gigabytes(self):
        message = model([helper.make_node("MatMul", ["x", "w0"], ["y"])], [1, 16384])
        for k in range(40):
            message.graph.sparse_initializer.append(helper.make_sparse_tensor(
                helper.make_tensor(f"w{k}", FLOAT, [1], [1.0]), helper.make_tensor("", INT64, [1], [0]),
                [16384, 16384]))
        self.run_both(message, "inspect", "eval")

    def test_initializer_without_a_name(self):
        node = helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft", transB=1)
        message = model([node], [1, 4], [helper.make_tensor("none", FLOAT, [1], [1.0]),
                                         helper.make_tensor("w", FLOAT, [4, 4], [0.0] * 16)],
                        domains=["com.microsoft"])
        message.graph.initializer[0].ClearField("name")
        self.run_both(message, "inspect", "eval")

    def test_blocks_of_codes(self):
        for k, n, block, bits, n_code, n_scale in ((17, 1, 17, 4, 8, 1), (16, 1, 2**63 - 1, 4, 8, 1),
                                                   (HUGE, HUGE, 16, 4, 0, 0), (2**32, 2**32, 2**32, 8, 0, 0),
                                                   (16, 1, 16, 2**32 + 4, 8, 1)):
            node = helper.make_node("MatMulNBits", ["x", "c", "s"], ["y"], domain="com.microsoft", K=k, N=n,
                                    block_size=block, bits=bits)
            initializers = [helper.make_tensor("c", UINT8, [n_code], [0] * n_code),
                            helper.make_tensor("s", FLOAT, [n_scale], [1.0] * n_scale)]
            with self.subTest(k=k, n=n, block=block, bits=bits):
                self.run_both(model([node], [1, 16], initializers, domains=["com.microsoft"]), "eval")

    # ---- operators ----

    def test_columns(self):
        cases = (([2**32, 2**32], [2**32, 2**32], [1, 4, 1], {}),
                 ([4, 4], [2, 2], [1, 4, 9], {"pads": [HUGE] * 4}),
                 ([4, 4], [2, 2], [1, 4, 9], {"pads": [-HUGE] * 4}),
                 ([4, 4], [2, 2], [1, 4, 9], {"dilations": [HUGE, -HUGE]}))
        for image, block, shape, attributes in cases:
            with self.subTest(image=image, attributes=attributes):
                self.run_both(one("Col2Im", shape, [ints("i", image), ints("b", block)], **attributes), "eval")

    def test_regions(self):
        for region, attributes, refusals in (([0, 0, 3, 3], {"sampling_ratio": 2**40}, ["inspect", "eval"]),
                                             ([0, 0, 3, 3], {"sampling_ratio": HUGE}, ["inspect", "eval"]),
                                             ([3, 3, 0, 0], {"mode": "max"}, []),
                                             ([3e38, -3e38, -3e38, 3e38], {}, [])):
            with self.subTest(region=region, attributes=attributes):
                boxes = helper.make_tensor("r", FLOAT, [1, 4], region)
                self.run_both(one("RoiAlign", [1, 1, 4, 4], [boxes, ints("i", [0])], **attributes), *refusals)

    def test_unpooling(self):
        places = helper.make_tensor("i", INT64, [1, 1, 2, 2], [0, -5, 2**40, 3])
        self.run_both(one("MaxUnpool", [1, 1, 2, 2], [places], kernel_shape=[HUGE, 2], strides=[HUGE, 2]), "eval")
        self.run_both(one("MaxUnpool", [1, 1, 2, 2], [places], kernel_shape=[2, 2], pads=[-HUGE] * 4), "eval")
        self.run_both(one("MaxUnpool", [1, 1, 2, 2], [places], kernel_shape=[2, 2], strides=[2, 2]))

    def test_axes_and_heads(self):
        lengths = ints("l", [1, 1])
        self.run_both(one("ReverseSequence", [2, 3], [lengths], batch_axis=-2**63, time_axis=-2**63 + 1),
                      "inspect", "eval")
        attention = helper.make_node("Attention", ["x", "x", "x"], ["y"], q_num_heads=-2**63, kv_num_heads=2**40)
        self.run_both(model([attention], [1, 4, 12], opset=23), "eval")

    # ---- checkpoints ----

    def test_widths_that_there_are_not(self):
        models = pathlib.Path(__file__).resolve().parents[2] / "models"
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            made = subprocess.run([PROGRAM, "convert", models / "digits_mlp.onnx", "--data", models / "digits_calib.npz",
                                   "--preprocess", "unit", "--effort", "none", "--size", "20%", "-o", folder / "a.onnx",
                                   "--checkpoint", folder / "c.npz", "-q"], capture_output=True, text=True, check=False)
            self.assertEqual(made.returncode, 0, made.stderr)
            arrays = dict(np.load(folder / "c.npz"))
            for mask, code in ((arrays["active"][0], 0), (0, 1), (0xffff, 1), (1 << 1, 1)):
                arrays["active"] = np.full_like(arrays["active"], mask)
                np.savez(folder / "d.npz", **arrays)
                done = subprocess.run([PROGRAM, "apply", folder / "d.npz", folder / "a.csv", "-o", folder / "b.onnx",
                                       "--overwrite", "-q"], capture_output=True, text=True, check=False)
                self.assertEqual(done.returncode, code, done.stderr)
                self.assertEqual("widths that there are not" in done.stderr, code == 1, done.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
