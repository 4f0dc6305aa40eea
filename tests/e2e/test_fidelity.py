"""What is not a weight comes through a conversion as it was.

    python3 test_fidelity.py ONNX-MPQ FOLDER

A model with everything in it that nobody looks at: documentation, metadata, dynamic and unknown
dimensions, an operator of a domain of its own, an If whose branches read values and weights from
outside, a value that only value_info types. It needs --weights-only. Without the operator, with a
function of the model's own in its place, ONNX Runtime compares the outputs; the same model comes
of a file whose data lie beside it.
"""

import pathlib
import subprocess
import sys

try:
    import numpy as np
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper
except ImportError as missing:
    print(f"Skipped: {missing}. sh tests/run.sh installs what is needed.")
    sys.exit(77)

FLOAT = TensorProto.FLOAT
RNG = np.random.default_rng(3)


def weight(name, *shape):
    return numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name)


def entries(message):
    return {entry.key: entry.value for entry in message.metadata_props}


def make_model(custom):
    """x -> [Mystery ->] MatMul -> doubled -> If(flag) -> Gather table + result"""
    then_graph = helper.make_graph(
        [helper.make_node("MatMul", ["doubled", "inner"], ["t"], name="inside")], "then",
        [], [helper.make_tensor_value_info("t", FLOAT, None)], [weight("inner", 48, 48)])
    else_graph = helper.make_graph(
        [helper.make_node("MatMul", ["doubled", "shared"], ["e"])], "else",
        [], [helper.make_tensor_value_info("e", FLOAT, None)])
    nodes = [helper.make_node("MatMul", ["h" if custom else "x", "w"], ["m"], name="first",
                              doc_string="says something"),
             helper.make_node("Add", ["m", "m"], ["doubled"]) if custom else
             helper.make_node("Double", ["m"], ["doubled"], domain="mine"),
             helper.make_node("If", ["flag"], ["c"], then_branch=then_graph, else_branch=else_graph),
             helper.make_node("Gather", ["table", "ids"], ["g"], name="look up"),
             helper.make_node("Add", ["c", "g"], ["y"])]
    if custom:
        nodes.insert(0, helper.make_node("Mystery", ["x"], ["h"], domain="com.example", level=3,
                                         name="riddle"))
    graph = helper.make_graph(
        nodes, "everything",
        [helper.make_tensor_value_info("x", FLOAT, ["batch", "time", 64]),
         helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
         helper.make_tensor_value_info("ids", TensorProto.INT64, ["time"])],
        [helper.make_tensor_value_info("y", FLOAT, ["batch", "time", 48])],
        [weight("w", 64, 48), weight("shared", 48, 48), weight("table", 1000, 48)],
        doc_string="about the graph",
        value_info=[helper.make_tensor_value_info("h", FLOAT, ["batch", "time", 64])] if custom else [])
    double = helper.make_function(
        "mine", "Double", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)])
    imports = [helper.make_opsetid("", 17),
               helper.make_opsetid("com.example", 5) if custom else helper.make_opsetid("mine", 1)]
    model = helper.make_model(graph, opset_imports=imports, functions=[] if custom else [double],
                              ir_version=9,
                              producer_name="somebody", producer_version="7", domain="org.test",
                              model_version=42, doc_string="about the model")
    helper.set_model_props(model, {"license": "none", "labels": "a,b"})
    return model


def convert(tool, model, out, *options):
    subprocess.run([tool, "convert", model, "--weights-only", "--names", "all", "-o", out, "-q", "--overwrite",
                    *options], check=True)
    onnx.checker.check_model(str(out), full_check=False)
    return onnx.load(out)


def check_kept(old, new):
    for field in ("domain", "model_version", "doc_string", "ir_version"):
        assert getattr(old, field) == getattr(new, field), field
    assert list(old.graph.input) == list(new.graph.input)
    assert list(old.graph.output) == list(new.graph.output)
    assert old.graph.name == new.graph.name and old.graph.doc_string == new.graph.doc_string
    assert entries(new) == {**entries(old), "source_producer": "somebody 7"}
    assert new.producer_name == "onnx-mpq"


def check_nodes(old, new):
    """The nodes of the file are there in order, the same but for the names of their weights."""
    assert list(old.opset_import) == list(new.opset_import)
    names = {output for node in old.graph.node for output in node.output}
    kept = [node for node in new.graph.node if names & set(node.output)]
    assert len(kept) == len(old.graph.node)
    for a, b in zip(old.graph.node, kept, strict=True):
        b = onnx.NodeProto.FromString(b.SerializeToString())
        for i, name in enumerate(a.input):
            if name in ("w", "table"):
                b.input[i] = name
        assert a == b, f"{a}\n{b}"


def check_runs(old, new):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    sessions = [onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
                for path in (old, new)]
    for batch, time, flag in ((1, 3, True), (4, 7, False)):
        feed = {"x": RNG.standard_normal((batch, time, 64)).astype(np.float32),
                "flag": np.array(flag), "ids": np.arange(time)}
        want, got = (session.run(None, feed)[0] for session in sessions)
        assert want.shape == got.shape == (batch, time, 48)
        error = float(np.sqrt(((want - got) ** 2).mean() / (want ** 2).mean()))
        assert error < 0.02, error


def check_empty_channel(tool, folder):
    """A channel that has next to no weights beside the others, as batch norm leaves them: its scale is beyond
    what a byte holds, and the file is right all the same."""
    rng = np.random.default_rng(1)
    w, v = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, 160), (160, 8)))
    w[:, 3] *= np.float32(1e-9)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "v"], ["y"])], "g",
        [helper.make_tensor_value_info("x", FLOAT, ["N", 16])],
        [helper.make_tensor_value_info("y", FLOAT, ["N", 8])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(v, "v")])
    source, out = folder / "empty.onnx", folder / "empty.mpq.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), source)
    new = convert(tool, source, out, "--bits", "6", "--size", "100%")
    assert "Pow" in [node.op_type for node in new.graph.node]
    x = rng.standard_normal((5, 16)).astype(np.float32)
    want, got = (onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
                 for path in (source, out))
    assert np.square(got - want).mean() < 1e-2 * np.square(want).mean()
    print("a channel without weights is no trouble")


def main():
    tool, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)

    strange = make_model(custom=True)
    onnx.save(strange, folder / "strange.onnx")
    new = convert(tool, folder / "strange.onnx", folder / "strange.mpq.onnx", "--size", "60%")
    check_kept(strange, new)
    check_nodes(strange, new)
    assert list(new.graph.value_info) == list(strange.graph.value_info)
    # The branch's own weight and what it reads by name stay what they were.
    old_shared = [t for t in strange.graph.initializer if t.name == "shared"]
    assert [t for t in new.graph.initializer if t.name == "shared"] == old_shared
    refused = subprocess.run([tool, "convert", folder / "strange.onnx", "-o", folder / "no.onnx"],
                             capture_output=True, text=True, check=False)
    assert refused.returncode == 3 and not (folder / "no.onnx").exists()
    for part in ("'riddle' (Mystery of com.example, opset 5)", "--weights-only"):
        assert part in refused.stderr, refused.stderr

    plain = make_model(custom=False)
    onnx.save(plain, folder / "plain.onnx")
    new = convert(tool, folder / "plain.onnx", folder / "plain.mpq.onnx", "--size", "60%", "--bits", "8")
    check_kept(plain, new)
    assert not new.functions
    check_runs(folder / "plain.onnx", folder / "plain.mpq.onnx")

    # The same with its weights in a file of their own: the same model comes of it.
    outside = make_model(custom=False)
    outside.graph.CopyFrom(plain.graph)
    (folder / "outside.bin").unlink(missing_ok=True)
    onnx.save(outside, folder / "outside.onnx", save_as_external_data=True, location="outside.bin")
    size = sum((folder / name).stat().st_size for name in ("outside.onnx", "outside.bin"))
    assert (folder / "outside.onnx").stat().st_size < size / 10
    again = convert(tool, folder / "outside.onnx", folder / "outside.mpq.onnx", "--size", "60%",
                    "--bits", "8")
    assert again == new
    print("everything else came through")
    check_empty_channel(tool, folder)


if __name__ == "__main__":
    main()
