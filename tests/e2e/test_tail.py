"""Models that end in nodes we cannot run: what comes before is quantized, the tail is in the file as it was.

    test_tail.py ONNX_MPQ
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import onnx
    import onnx.inliner
    import onnxruntime as ort
    from onnx import helper, numpy_helper, parser
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

RANDOM = np.random.default_rng(1)
BODY = """
            a = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
            b = Relu (a)
            c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (b, w1, b1)
            d = Relu (c)
            e = Conv (d, w2, b2)"""

TRIPS = """
            hot = NonZero (e)
            shape = Shape (hot)
            count = Gather (shape, one)
            trips = Min (count, three)"""  # how often a Loop runs, by the data


def model(text, **arrays):
    made = parser.parse_model(text)
    shapes = {"w0": (16, 3, 3, 3), "b0": (16,), "w1": (32, 16, 3, 3), "b1": (32,), "w2": (6, 32, 1, 1), "b2": (6,)}
    for name, shape in shapes.items():
        scale = np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.1
        arrays[name] = (RANDOM.normal(size=shape) * scale).astype(np.float32)
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return made


def detector():
    """Boxes and scores from one map; the tail reads both, and the weight that two convolutions share."""
    made = model("""<ir_version: 8, opset_import: ["" : 13]>
        g (float[1, 3, 16, 16] x) => (int64[n, 3] picked, float[k, 4] chosen, float[1, 2, 64] scores, float[16, 3, 3, 3] same) {
            early = NonZero (x)
            twin = Conv <pads = [1, 1, 1, 1]> (x, w0)""" + BODY.replace("Relu (a)", "Add (a, twin)") + """
            flat = Reshape (e, to)
            corner, score = Split <axis = 1> (flat, parts)
            scores = Sigmoid (score)
            boxes = Transpose <perm = [0, 2, 1]> (corner)
            picked = NonMaxSuppression (boxes, scores, most, overlap, least)
            index = Gather <axis = 1> (picked, two)
            rows = Squeeze (boxes, zero)
            chosen = Gather (rows, index)
            count = ReduceSum <keepdims = 0> (early)
            none = Mul (count, nought)
            plain = Cast <to = 1> (none)
            same = Add (w0, plain)
        }""", to=np.array([1, 6, 64]), parts=np.array([4, 2]), most=np.array([5]), two=np.array(2), zero=np.array([0]),
        overlap=np.array([0.5], np.float32), least=np.array([0.5], np.float32), nought=np.array(0))
    return made


def custom():
    """A node of a domain nobody knows."""
    made = model("""<ir_version: 8, opset_import: ["" : 13, "TRT" : 1]>
        g (float[N, 3, 16, 16] x) => (float[N, 9] y) {""" + BODY + """
            y = TRT.EfficientNMS_TRT <max_output_boxes: int = 7, score_threshold: float = 0.25, plugin: string = "1",
                levels: ints = [1, 2]> (e, d, b0)
        }""")
    return made


def in_function():
    """The same node in a function, which alone names its opset."""
    made = custom()
    node = made.graph.node.pop()
    imports = [o for o in made.opset_import if o.domain == "TRT"]
    function = helper.make_function("local", "Select", node.input, node.output, [node], imports)
    made.graph.node.append(helper.make_node("Select", node.input, node.output, domain="local"))
    made.opset_import.remove(imports[0])
    made.opset_import.append(helper.make_opsetid("local", 1))
    made.functions.append(function)
    return made


def loop():
    """A Loop that runs as often as the data say; its body reads a value and a weight of the graph by name."""
    made = model("""<ir_version: 8, opset_import: ["" : 13]>
        g (float[1, 3, 16, 16] x) => (float[1, 6, 8, 8] e) {""" + BODY + TRIPS + "}", one=np.array(1), three=np.array(3))
    inside = parser.parse_graph("""b (int64 i, bool c, float[1, 6, 8, 8] s) => (bool more, float[1, 6, 8, 8] sum) {
            more = Identity (c)
            again = Conv (d, w2, b2)
            sum = Add (s, again)
        }""")
    made.graph.node.append(helper.make_node("Loop", ["trips", "", "e"], ["y"], "loop", body=inside))
    made.graph.output.append(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 6, 8, 8]))
    return made


def siblings():
    """A branch that is taken, a Loop that stays and a function with another, all of which have a value h inside."""
    made = model("""<ir_version: 8, opset_import: ["" : 13, "local" : 1]>
        g (float[1, 3, 16, 16] x) => (float[1, 6, 8, 8] e) {
            yes = Constant <value = bool {1}> ()
            b = If (yes) <then_branch = t () => (float[1, 16, 16, 16] r) {
                h = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)  r = Relu (h)
            }, else_branch = o () => (float[1, 16, 16, 16] h) { h = Conv <pads = [1, 1, 1, 1]> (x, w0, b0) }>
            c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (b, w1, b1)
            f = Relu (c)
            e = Conv (f, w2, b2)""" + TRIPS + "}", one=np.array(1), three=np.array(3))
    inside = parser.parse_graph("""l (int64 i, bool c, float[1, 6, 8, 8] s) => (bool more, float[1, 6, 8, 8] sum) {
            more = Identity (c)
            h = Add (s, s)
            sum = Sub (h, s)
        }""")
    again = helper.make_node("Loop", ["n", "", "a"], ["r"], "again", body=inside)
    imports = [helper.make_opsetid("", 13)]
    made.functions.append(helper.make_function("local", "repeat", ["a", "n"], ["r"], [again], imports))
    made.graph.node.append(helper.make_node("Loop", ["trips", "", "e"], ["y"], "loop", body=inside))
    made.graph.node.append(helper.make_node("repeat", ["y", "trips"], ["z"], domain="local"))
    made.graph.output.append(helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1, 6, 8, 8]))
    return made


def run(*arguments):
    return subprocess.run([str(a) for a in arguments], capture_output=True, text=True, check=False)


def convert(tool, made, folder, name, *more):
    path, data, small = folder / f"{name}.onnx", folder / f"{name}.npz", folder / f"{name}.mpq.onnx"
    onnx.save(made, path)
    np.savez(data, x=RANDOM.normal(size=(40, 3, 16, 16)).astype(np.float32))
    done = run(tool, "convert", path, "--data", data, "--size", "60%", "-o", small, "--overwrite", *more)
    assert done.returncode == 0, done.stderr
    return path, data, small, done


def until(made, names):
    """The model with these values as its outputs, and no more nodes than they need."""
    made = onnx.ModelProto.FromString(made.SerializeToString())
    del made.graph.output[:]
    made.graph.output.extend(helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
    need, kept = set(names), []
    for node in reversed(made.graph.node):
        if need & set(node.output):
            kept.insert(0, node)
            need |= set(node.input)
    del made.graph.node[:]
    made.graph.node.extend(kept)
    return made


def same_head(tool, small, data, folder, names):
    """Our engine and ONNX Runtime on what comes before the tail of the written file."""
    head, out = folder / "head.onnx", folder / "head.npz"
    onnx.save(until(onnx.load(small), names), head)
    done = run(tool, "eval", head, "--data", data, "--outputs", out, "--overwrite")
    assert done.returncode == 0, done.stderr
    session, ours = ort.InferenceSession(str(head)), np.load(out)
    for i, x in enumerate(np.load(data)["x"]):
        for name, theirs in zip(names, session.run(names, {"x": x[None]})):
            error = np.abs(ours[name][i].ravel() - theirs.ravel()).max() / np.ptp(theirs)
            assert error < 2e-2, f"{name} differs by {error:.3g} of its range"


def check_detector(tool, folder):
    path, data, small, done = convert(tool, detector(), folder, "detector", "--effort", "quick")
    assert "NonMaxSuppression" in done.stdout and "carried" in done.stdout, done.stdout
    assert any("carried_nodes" in p.read_text() for p in folder.glob("detector*.csv"))
    before, after = (ort.InferenceSession(str(p)) for p in (path, small))
    n_same = n_all = 0
    for x in np.load(data)["x"]:
        want, got = before.run(None, {"x": x[None]}), after.run(None, {"x": x[None]})
        assert got[0].shape[1] == 3 and got[1].shape[-1] == 4 and len(got[0]) > 0
        assert np.array_equal(got[3], want[3]), "a constant that the tail reads was quantized"
        assert np.abs(got[2] - want[2]).max() < 0.2
        a, b = ({tuple(row) for row in p} for p in (want[0], got[0]))
        n_same, n_all = n_same + len(a & b), n_all + len(a)
    assert n_same > n_all / 2, f"{n_same} of {n_all} boxes are picked by the quantized detector, too"
    written = onnx.inliner.inline_local_functions(onnx.load(small))
    gone = {n.op_type for n in onnx.load(path).graph.node} - {n.op_type for n in written.graph.node}
    assert gone <= {"Relu"}, gone  # which quantization does without
    same_head(tool, small, data, folder, ["scores"])
    done = run(tool, "inspect", path)
    assert "3 layers can be quantized" in done.stdout and "(NonMaxSuppression)" in done.stdout, done.stdout
    done = run(tool, "eval", small, "--data", data)
    assert done.returncode == 3 and "NonMaxSuppression" in done.stderr, done.stderr
    convert(tool, detector(), folder, "again", "--effort", "none", "--names", "none", "--checkpoint", folder / "state.npz")
    done = run(tool, "search", folder / "state.npz", "--size", "50%", "-o", folder / "searched.onnx")
    assert done.returncode == 0, done.stderr


def check_custom(tool, folder):
    path, data, small, done = convert(tool, custom(), folder, "custom", "--effort", "none")
    want, got = onnx.load(path), onnx.load(small)
    old, new = want.graph.node[-1], got.graph.node[-1]
    assert (new.op_type, new.domain, new.output) == (old.op_type, old.domain, old.output)
    assert {a.name: a.SerializeToString() for a in new.attribute} == {a.name: a.SerializeToString() for a in old.attribute}
    assert {o.domain: o.version for o in got.opset_import}["TRT"] == 1
    assert got.graph.output == want.graph.output
    bias = [numpy_helper.to_array(t) for t in got.graph.initializer if t.name == new.input[2]]
    assert np.array_equal(bias[0], numpy_helper.to_array(next(t for t in want.graph.initializer if t.name == "b0")))
    same_head(tool, small, data, folder, list(new.input[:2]))
    # Without data, by the paper's recipe, and with nothing to quantize before the node.
    done = run(tool, "convert", path, "--size", "60%", "--effort", "none", "-o", small, "--overwrite")
    assert done.returncode == 0, done.stderr
    done = run(tool, "convert", path, "--recipe", "paper", "--data", data, "--bitops", "W4A4", "-o", small, "--overwrite")
    assert done.returncode == 3 and "EfficientNMS_TRT" in done.stderr, done.stderr
    first = custom()
    first.graph.node.insert(0, helper.make_node("Warp", ["x"], ["warped"], "warp", domain="TRT"))
    first.graph.node[1].input[0] = "warped"
    onnx.save(first, path)
    done = run(tool, "convert", path, "--data", data, "--size", "60%", "-o", small, "--overwrite")
    assert done.returncode == 3 and "'warp' (Warp of TRT" in done.stderr and "--weights-only" in done.stderr, done.stderr


def check_in_function(tool, folder):
    path, data, small, done = convert(tool, in_function(), folder, "in_function", "--effort", "none")
    node, imports = onnx.load(small).graph.node[-1], {o.domain: o.version for o in onnx.load(small).opset_import}
    assert (node.op_type, node.domain) == ("EfficientNMS_TRT", "TRT") and imports["TRT"] == 1, imports


def check_loop(tool, folder):
    for made in siblings(), loop():
        for more in (), ("--names", "all"), ("--names", "none"):
            path, data, small, done = convert(tool, made, folder, "loop", "--effort", "none", *more)
            assert "'loop' (Loop)" in done.stdout, done.stdout
            before, after = (ort.InferenceSession(str(p)) for p in (path, small))
            for x in np.load(data)["x"][:8]:
                for want, got in zip(before.run(None, {"x": x[None]}), after.run(None, {"x": x[None]})):
                    assert np.abs(want - got).max() < 0.05 * np.ptp(want)
    done = run(tool, "eval", path, "--data", data)
    assert done.returncode == 3 and "'loop' (Loop of ai.onnx, opset 13: how often it runs" in done.stderr, done.stderr


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("tool")
    tool = arguments.parse_args().tool
    with tempfile.TemporaryDirectory() as folder:
        check_detector(tool, pathlib.Path(folder))
        check_custom(tool, pathlib.Path(folder))
        check_in_function(tool, pathlib.Path(folder))
        check_loop(tool, pathlib.Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
