"""Forms that files come in (functions, bodies, sparse and half-precision tensors, old opsets): our outputs
against ONNX Runtime's, for the model and for what convert makes of it.

    test_forms.py ONNX_MPQ [--only NAME]
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, inliner, numpy_helper, parser
    from onnx.reference import ReferenceEvaluator
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

RANDOM = np.random.default_rng(1)


def weight(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def model(text, functions=(), initializers=(), **arrays):
    """The model in the text format of onnx; arrays become initializers."""
    made = parser.parse_model(text)
    for name, array in arrays.items():
        made.graph.initializer.append(numpy_helper.from_array(array, name))
    made.graph.initializer.extend(initializers)
    made.functions.extend(parser.parse_function(f) for f in functions)
    return made


def functions():
    """Nested, of two domains, with attributes passed on, defaulted and left out; one called in a body."""
    return model(
        """<ir_version: 8, opset_import: ["" : 17, "local" : 1, "other" : 1]>
        g (float[N, 6] x) => (float[N, 6] y, float[N, 6] z) {
            a = local.layer <slope = 0.25> (x, w)
            b = local.layer (a, w)
            y, again = other.twice (b)
            sum = ReduceSum <keepdims = 0> (x)
            zero = Constant <value_float = 0.0> ()
            c = Greater (sum, zero)
            z = If (c) <then_branch = t () => (float[N, 6] u) { u = local.layer <slope = 2.0> (again, w) },
                        else_branch = e () => (float[N, 6] v) { v = Neg (again) }>
        }""",
        ["""<domain: "local", opset_import: ["" : 17, "other" : 1]>
        layer <slope: float = 0.5, alpha> (x, w) => (y) {
            tmp = MatMul (x, w)
            act = LeakyRelu <alpha: float = @slope> (tmp)
            same = Elu <alpha: float = @alpha> (act)
            y, unused = other.twice (same)
        }""",
         """<domain: "other", opset_import: ["" : 17]> twice (x) => (y, z) { y = Add (x, x) z = Identity (x) }"""],
        w=weight(6, 6)), {"x": weight(8, 6)}


def known_if():
    """A condition that follows from a size; an initializer in the branch, names that both branches have."""
    return model(
        """<ir_version: 8, opset_import: ["" : 13]>
        g (float[N, 4] x) => (float[N, 4] y) {
            shape = Shape (x)
            one = Constant <value = int64 {1}> ()
            n = Gather (shape, one)
            four = Constant <value = int64 {4}> ()
            c = Equal (n, four)
            r = If (c) <then_branch = t () => (float[N, 4] u) <float[4] k = {1, 2, 3, 4}> { m = MatMul (x, w) u = Add (m, k) },
                        else_branch = e () => (float[N, 4] u) { m = Neg (x) u = Abs (m) }>
            y = Relu (r)
        }""", w=weight(4, 4)), {"x": weight(8, 4)}


def computed_if():
    return model(
        """<ir_version: 8, opset_import: ["" : 13]>
        g (float[1, 4] x) => (float[1, 4] y) {
            s = ReduceSum <keepdims = 0> (x)
            zero = Constant <value_float = 0.0> ()
            c = Greater (s, zero)
            r = If (c) <then_branch = t () => (float[1, 4] u) { u = MatMul (x, w) },
                        else_branch = e () => (float[1, 4] v) { m = Neg (x) v = Abs (m) }>
            y = Relu (r)
        }""", w=weight(4, 4)), {"x": weight(8, 4)}


def loop_count():
    """A state that grows, a collected output, the counter used, opset 11 inside of the body."""
    return model(
        """<ir_version: 7, opset_import: ["" : 11]>
        g (float[N, 4] x) => (float[N, 4] y, float[3, N, 4] all) {
            count = Constant <value = int64 {3}> ()
            yes = Constant <value = bool {1}> ()
            y, all = Loop (count, yes, x) <body = b (int64 i, bool c, float[N, 4] s) => (bool c2, float[N, 4] s2, float[N, 4] o) {
                c2 = Identity (c)
                f = Cast <to = 1> (i)
                m = MatMul (s, w)
                u = Unsqueeze <axes = [0]> (m)
                q = Squeeze <axes = [0]> (u)
                t = Tanh (q)
                s2 = Add (t, f)
                o = Neg (s2)
            }>
        }""", w=weight(4, 4)), {"x": weight(8, 4)}


def loop_stops():
    """A condition that depends on data."""
    return model(
        """<ir_version: 8, opset_import: ["" : 16]>
        g (float[1, 4] x) => (float[1, 4] y, float n) {
            count = Constant <value = int64 {5}> ()
            zero = Constant <value_float = 0.0> ()
            one = Constant <value_float = 1.0> ()
            eight = Constant <value_float = 8.0> ()
            s0 = ReduceSum <keepdims = 0> (x)
            start = Greater (s0, zero)
            y, n = Loop (count, start, x, zero) <body = b (int64 i, bool c, float[1, 4] s, float k) => (bool c2, float[1, 4] s2, float k2) {
                s2 = Add (s, s)
                k2 = Add (k, one)
                a = Abs (s2)
                sum = ReduceSum <keepdims = 0> (a)
                c2 = Less (sum, eight)
            }>
        }"""), {"x": weight(8, 4)}


def scan():
    """A recurrent cell, walked backwards along axis 1, collected along axis 1 and the other way round."""
    return model(
        """<ir_version: 8, opset_import: ["" : 16]>
        g (float[N, 5, 3] x) => (float[N, 4] h, float[N, 5, 4] all, float[5, N, 4] back) {
            shape = Shape <end = 1> (x)
            four = Constant <value_ints = [4]> ()
            size = Concat <axis = 0> (shape, four)
            h0 = ConstantOfShape (size)
            h, all, back = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1],
                scan_output_axes = [1, 0], scan_output_directions = [1, 0],
                body = b (float[N, 4] s, float[N, 3] e) => (float[N, 4] s2, float[N, 4] o1, float[N, 4] o2) {
                    a = MatMul (e, w)
                    r = MatMul (s, u)
                    p = Add (a, r)
                    s2 = Tanh (p)
                    o1 = Identity (s2)
                    o2 = Neg (s2)
                }> (h0, x)
        }""", w=weight(3, 4), u=weight(4, 4)), {"x": weight(8, 5, 3)}


def sparse():
    made = model(
        """<ir_version: 8, opset_import: ["" : 13]>
        g (float[N, 4] x) => (float[N, 3] y) { m = MatMul (x, w) y = Add (m, b) }""")
    values = numpy_helper.from_array(weight(5), "w")
    indices = numpy_helper.from_array(np.array([[0, 0], [0, 2], [1, 1], [3, 0], [3, 2]]), "i")
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 3]))
    values = numpy_helper.from_array(weight(1), "")
    indices = numpy_helper.from_array(np.array([1]), "")
    constant = helper.make_node("Constant", [], ["b"])
    constant.attribute.append(helper.make_attribute("sparse_value", helper.make_sparse_tensor(values, indices, [3])))
    made.graph.node.insert(0, constant)
    return made, {"x": weight(8, 4)}


def sparse_in_function():
    made = model(
        """<ir_version: 8, opset_import: ["" : 13, "local" : 1]> g (float[N, 4] x) => (float[N, 3] y) { y = local.f (x) }""",
        ["""<domain: "local", opset_import: ["" : 13]> f (x) => (y) { y = MatMul (x, w) }"""])
    sparse_weight = helper.make_sparse_tensor(numpy_helper.from_array(weight(3), ""),
                                              numpy_helper.from_array(np.array([0, 5, 10]), ""), [4, 3])
    constant = helper.make_node("Constant", [], ["w"])
    constant.attribute.append(helper.make_attribute("sparse_value", sparse_weight))
    made.functions[0].node.insert(0, constant)
    return made, {"x": weight(8, 4)}


def other_float(dtype, name):
    """Inputs, weights, constants, casts and an output of a type that is computed as float."""
    text = """<ir_version: 8, opset_import: ["" : 15]>
        g (TYPE[N, 16] x) => (TYPE[N, 5] y, float[N, 5] z) {
            c = Gemm (x, w, b)
            f = Relu (c)
            half = Constant <value_float = 0.5> ()
            same = CastLike (half, f)
            m = MatMul (f, u)
            y = Mul (m, same)
            z32 = Cast <to = 1> (y)
            z = Softmax (z32)
        }""".replace("TYPE", name)
    return model(text, w=weight(16, 32).astype(dtype), b=weight(32).astype(dtype),
                 u=weight(32, 5).astype(dtype)), {"x": weight(8, 16).astype(dtype)}


def half():
    return other_float(np.float16, "float16")


def double():
    return other_float(np.float64, "double")


def half_loop():
    """The body has a value of its own that is called as the input of the model."""
    return model(
        """<ir_version: 8, opset_import: ["" : 16]>
        g (float16[1, 4] x) => (float16[1, 4] y) {
            two = Constant <value = int64 {2}> ()
            s = MatMul (x, w)
            y = Loop (two, , s) <body = b (int64 i, bool c, float16[1, 4] x) => (bool c2, float16[1, 4] t) {
                c2 = Identity (c)
                t = Add (x, x)
            }>
        }""", w=weight(4, 4).astype(np.float16)), {"x": weight(8, 4).astype(np.float16)}


def bfloat():
    """Weights of bfloat16, as large models store them, cast before use."""
    made = model(
        """<ir_version: 8, opset_import: ["" : 13]>
        g (float[N, 16] x) => (float[N, 8] y) { f = Cast <to = 1> (w) y = MatMul (x, f) }""")
    tensor = helper.make_tensor("w", TensorProto.BFLOAT16, [16, 8], weight(16 * 8).tolist())
    made.graph.initializer.append(tensor)
    return made, {"x": weight(8, 16)}


def packed(rows, columns, bits):
    """Random codes of a [rows, columns] matrix, packed along columns as MatMulNBits wants them."""
    codes = RANDOM.integers(0, 2**bits, size=(rows, columns), dtype=np.uint8)
    per_byte = 8 // bits
    return sum(codes[:, i::per_byte] << (i * bits) for i in range(per_byte)).astype(np.uint8)


def contrib(nodes, opset=17, shape=(8, 4, 6), **arrays):
    """Nodes of com.microsoft on x, whose first dimension is the samples; the last result is y."""
    rest = ", ".join(map(str, shape[1:]))
    made = model(f"""<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>
        g (float[N, {rest}] x) => (float y) {{ {nodes} }}""", **arrays)
    made.graph.output[0].type.tensor_type.ClearField("shape")
    return lambda: (made, {"x": weight(*shape)})


M = "com.microsoft."
VECTOR = {name: weight(6) for name in ("gamma", "beta", "bias")}
CONTRIB = {
    "fused_conv": contrib(f"""a = {M}FusedConv <activation = "Relu", pads = [1, 1, 1, 1]> (x, w, b)
        c = {M}FusedConv <activation = "LeakyRelu", activation_params = [0.2]> (a, v)
        y = {M}FusedConv <activation = "HardSigmoid", activation_params = [0.3, 0.4]> (c, v, b, c)""",
                          shape=(8, 3, 5, 5), w=weight(4, 3, 3, 3), b=weight(4), v=weight(4, 4, 1, 1)),
    "fused_clip": contrib(f"""y = {M}FusedConv <activation = "Clip", activation_params = [-0.5, 0.7]> (x, w)""",
                          shape=(8, 3, 5, 5), w=weight(4, 3, 3, 3)),
    "fused_gemm": contrib(f"""a = {M}FusedGemm <activation = "Tanh", transB = 1, alpha = 0.5> (x, w, b)
        y = {M}FusedGemm <activation = "LeakyRelu", activation_alpha = 0.3> (a, w)""",
                          shape=(8, 6), w=weight(6, 6), b=weight(6)),
    "fused_matmul": contrib(f"""a = {M}FusedMatMul <transB = 1, alpha = 0.5> (x, w)
        b = {M}FusedMatMul <transA = 1> (a, x)  c = {M}FusedMatMul <transB = 1> (b, x)
        y = {M}FusedMatMul <transA = 1, transB = 1> (c, v)""", w=weight(5, 6), v=weight(7, 5)),
    "gelus": contrib(f"""a = {M}Gelu (x)  b = {M}FastGelu (a, bias)  c = {M}FastGelu (b)
        d = {M}BiasGelu (c, bias)  y = {M}QuickGelu <alpha = 1.5> (d)""", bias=VECTOR["bias"]),
    "layer_norms": contrib(f"""a = {M}SkipLayerNormalization <epsilon = 0.001> (x, x, gamma, beta, bias)
        b, m, v, s = {M}SkipLayerNormalization (a, x, gamma)
        y = Add (b, s)""", opset=15, **VECTOR),
    "rms_norms": contrib(f"""a, m, v, s = {M}SkipSimplifiedLayerNormalization (x, x, gamma, bias)
        b = {M}SkipSimplifiedLayerNormalization (a, s, gamma)
        y = SimplifiedLayerNormalization <axis = -1> (b, gamma)""", opset=18, **VECTOR),
    "matmul_nbits": contrib(f"""a = {M}MatMulNBits <K = 48, N = 5, bits = 4, block_size = 32> (x, w, s, z)
        b = {M}MatMulNBits <K = 48, N = 5, bits = 4, block_size = 32> (x, w, s)
        y = Add (a, b)""", shape=(8, 48), w=packed(5, 64, 4).reshape(5, 2, 16), s=np.abs(weight(5, 2)),
                            z=packed(5, 2, 4)),
    "dynamic": contrib(f"""a = {M}DynamicQuantizeMatMul (x, q, scale, zero, bias)
        y = {M}DynamicQuantizeMatMul (a, q, scale)""", shape=(8, 1, 6),
                       q=RANDOM.integers(0, 255, (6, 6), dtype=np.uint8), scale=np.float32([0.01]),
                       zero=np.uint8([120]), bias=VECTOR["bias"]),
}


def gates(name, k, directions=1, per_channel=False, dtype=np.int8):
    """Weights of DynamicQuantizeLSTM under that name, their scales and zero points; where there are several, ONNX
    Runtime wants the middle."""
    low = np.iinfo(dtype).min
    shape = (directions, 32) if per_channel else (directions,)
    return {name: RANDOM.integers(low, low + 255, (directions, k, 32), dtype=dtype),
            f"{name}s": RANDOM.uniform(0.004, 0.008, shape).astype(np.float32),
            f"{name}z": np.full(shape, low + (120 if shape == (1,) else 128), dtype)}


# Over time, [times, samples, 6]: channels of their own and both directions; only the last state is read.
CONTRIB["dynamic_lstm"] = contrib(f"""t = Transpose <perm = [1, 0, 2]> (x)
    a, h, c = {M}DynamicQuantizeLSTM <hidden_size = 8, direction = "bidirectional">
              (t, w, r, b, , , , , ws, wz, rs, rz)
    d = Slice (a, zero, one, one)  e = Squeeze (d, one)
    , g = {M}DynamicQuantizeLSTM <hidden_size = 8, clip = 2.0> (e, v, u, , , , , , vs, vz, us, uz)
    f = MatMul (g, m)  y = Squeeze (f, zero)""", shape=(8, 5, 6), b=weight(2, 64), m=weight(8, 3), one=np.int64([1]),
                                  zero=np.int64([0]), **gates("w", 6, 2), **gates("r", 8, 2, True),
                                  **gates("v", 8, 1, True, np.uint8), **gates("u", 8, 1, False, np.uint8))


def attention(inputs, nodes, feeds, opset=17, **arrays):
    """Nodes of com.microsoft on inputs whose first dimension is the samples; the last result is y."""
    made = model(f"""<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>
        g ({inputs}) => (float y) {{ {nodes} }}""", **arrays)
    made.graph.output[0].type.tensor_type.ClearField("shape")
    return lambda: (made, feeds)


def nibbles(name, rows, columns):
    codes = RANDOM.integers(0, 16, (rows, columns))
    return helper.make_tensor(name, TensorProto.UINT4, (rows, columns), codes.ravel().tolist())


WORDS = {"ids": RANDOM.integers(0, 9, (8, 5)).astype(np.int32), "kinds": RANDOM.integers(0, 2, (8, 5)).astype(np.int32),
         "mask": (np.arange(5) < RANDOM.integers(1, 6, (8, 1))).astype(np.int32)}
PLACES = RANDOM.integers(0, 9, (8, 5))
HEADS = {"w": weight(8, 24) / 2, "b": weight(24)}
NORM = {name: weight(8) for name in ("gamma", "beta")}
ATTENTION = {
    "attention": attention("float[N, 5, 8] x, int32[N, 5] mask", f"""
        a = {M}Attention <num_heads = 2> (x, w, b, mask)
        c = {M}Attention <num_heads = 4, unidirectional = 1, scale = 0.3> (a, w, b)
        y = {M}Attention <num_heads = 2, qkv_hidden_sizes = [8, 8, 8]> (c, w, b, , , added)""",
                           {"x": weight(8, 5, 8), "mask": WORDS["mask"]}, added=weight(1, 2, 5, 5), **HEADS),
    "attention_past": attention("float[1, 5, 8] x", f"""
        y, now = {M}Attention <num_heads = 2, unidirectional = 1> (x, w, b, , past)""",
                                {"x": weight(8, 5, 8)}, opset=12, past=weight(2, 1, 2, 3, 4), **HEADS),
    "bert": attention("int32[N, 5] ids, int32[N, 5] kinds, int32[N, 5] mask", f"""
        e, n = {M}EmbedLayerNormalization (ids, kinds, words, places, segments, gamma, beta, mask)
        a = {M}Attention <num_heads = 2> (e, w, b, n)
        y = {M}SkipLayerNormalization (a, e, gamma, beta)""", WORDS, words=weight(9, 8), places=weight(7, 8),
                      segments=weight(2, 8), **HEADS, **NORM),
    "embedding": attention("int32[N, 5] ids, int32[N, 5] at", f"""
        e, n, s = {M}EmbedLayerNormalization (ids, , words, places, , gamma, beta, , at)
        f, m, t = {M}EmbedLayerNormalization (ids, , words, places, , gamma, beta)
        a = Add (e, s)  c = Add (a, f)  y = MatMul (c, w)""",
                           {"ids": WORDS["ids"], "at": PLACES.astype(np.int32)}, opset=12, words=weight(9, 8),
                           places=weight(9, 8), w=HEADS["w"], **NORM),
    "multi_head": attention("float[N, 5, 8] x, int32[N, 5] mask", f"""
        q = MatMul (x, w8)  k = MatMul (x, v8)
        a, pk, pv = {M}MultiHeadAttention <num_heads = 2> (q, k, x, b, mask)
        c = {M}MultiHeadAttention <num_heads = 4, unidirectional = 1> (a, k, x)
        d, ck, cv = {M}MultiHeadAttention <num_heads = 2, scale = 0.2> (c, x, x, b, , , pk, pv)
        y = Add (d, x)""", {"x": weight(8, 5, 8), "mask": WORDS["mask"]}, w8=weight(8, 8), v8=weight(8, 8), b=HEADS["b"]),
    "cross_attention": attention("float[N, 5, 8] x, float[N, 2, 3, 4] k, float[N, 2, 3, 4] v", f"""
        q = MatMul (x, w8)
        a = {M}MultiHeadAttention <num_heads = 2> (q, k, v)
        y = MatMul (a, w8)""", {"x": weight(8, 5, 8), "k": weight(8, 2, 3, 4), "v": weight(8, 2, 3, 4)}, w8=weight(8, 8)),
    "quantized_attention": attention("float[N, 5, 8] x", f"""
        q, s, z = DynamicQuantizeLinear (x)
        y = {M}QAttention <num_heads = 2, unidirectional = 1> (q, w, b, s, scale, , z, zero)""",
                                     {"x": weight(8, 5, 8)}, w=RANDOM.integers(0, 255, (8, 24), dtype=np.uint8),
                                     b=HEADS["b"], scale=np.float32(0.01), zero=np.uint8(120)),
    "group_query": attention("float[1, 5, 16] x, int32[1] n, int32[1] m", f"""
        q = MatMul (x, w64)  k = MatMul (x, w32)  qkv = MatMul (x, w128)
        a, pk, pv = {M}GroupQueryAttention <num_heads = 4, kv_num_heads = 2, do_rotary = 1>
                    (q, k, k, , , n, five, cos, sin)
        b, ck, cv = {M}GroupQueryAttention <num_heads = 4, kv_num_heads = 2, do_rotary = 1, rotary_interleaved = 1,
                    scale = 0.3> (a, k, k, pk, pv, m, ten, cos, sin)
        c = {M}GroupQueryAttention <num_heads = 4, kv_num_heads = 2> (qkv, , , , , n, five)
        d = Add (b, c)  y = MatMul (d, w8)""",
                             {"x": weight(8, 5, 16), "n": np.full(8, 4, np.int32), "m": np.full(8, 9, np.int32)},
                             w32=weight(16, 32), w64=weight(16, 64), w128=weight(16, 128), w8=weight(64, 8), cos=weight(12, 8),
                             sin=weight(12, 8), five=np.int32(5), ten=np.int32(10)),
    "rotary": attention("float[N, 5, 16] x, float[N, 2, 5, 8] h, int64[N, 5] at", f"""
        a = {M}RotaryEmbedding <num_heads = 2> (x, at, cos, sin)
        c = {M}RotaryEmbedding <interleaved = 1> (x, at, cos, sin)
        d = {M}RotaryEmbedding <rotary_embedding_dim = 4, num_heads = 2> (h, at, cos2, sin2)
        e = Transpose <perm = [0, 2, 1, 3]> (d)  f = Reshape (e, shape)
        g = Concat <axis = -1> (a, c, f)  y = MatMul (g, w)""",
                        {"x": weight(8, 5, 16), "h": weight(8, 2, 5, 8), "at": PLACES}, cos=weight(9, 4), sin=weight(9, 4),
                        cos2=weight(9, 2), sin2=weight(9, 2), shape=np.int64([0, 0, 16]), w=weight(48, 8)),
    "qlinear_where": attention("float[N, 6] x", f"""
        q = QuantizeLinear (x, s, z)  r = QuantizeLinear (x, t, u)  c = Greater (x, zero)
        w = {M}QLinearWhere (c, q, s, z, r, t, u, v, z)
        y = DequantizeLinear (w, v, z)""", {"x": weight(8, 6)}, s=np.float32(0.05), t=np.float32(0.02),
                               v=np.float32(0.04), z=np.uint8(120), u=np.uint8(128), zero=np.float32(0)),
    "became_onnx": attention("float[1, 1, 4, 6] x", f"""
        a = {M}Trilu <upper = 0> (x)  b = {M}Trilu (x, one)  c = {M}GridSample <align_corners = 1> (a, grid)
        d = {M}GatherND (b, at)  n = {M}Range (zero, six, one)  f = Cast <to = 1> (n)
        g = Add (c, f)  h = Add (g, d)  y = MatMul (h, w)""", {"x": weight(8, 1, 4, 6)}, grid=weight(1, 4, 6, 2) / 2,
                             one=np.int64(1), zero=np.int64(0), six=np.int64(6), at=np.int64([[0, 0, 2]]), w=weight(6, 5)),
    "gather_blocks": attention("int64[N, 3] at", f"""
        a = {M}GatherBlockQuantized <block_size = 16> (t, at, s, z)
        c = {M}GatherBlockQuantized <block_size = 32, gather_axis = 1, quantize_axis = 0> (u, at, r)
        d = {M}GatherBlockQuantized <block_size = 16, bits = 4, quantize_axis = 1> (p, at, s)
        e = Add (a, d)  f = ReduceMean <axes = [-1]> (c)  g = ReduceMean <axes = [0], keepdims = 0> (f)
        y = Add (e, g)""", {"at": PLACES[:, :3]}, initializers=[nibbles("t", 9, 32), nibbles("z", 9, 2), nibbles("u", 64, 9)],
                               s=weight(9, 2), r=weight(2, 9), p=packed(9, 32, 4)),
    "cross_transposed": attention("float[N, 5, 8] x, float[N, 2, 2, 4] k, float[N, 2, 2, 4] v", f"""
        q = MatMul (x, w8)
        j = Transpose <perm = [0, 2, 1, 3]> (k)  u = Transpose <perm = [0, 2, 1, 3]> (v)
        a = {M}MultiHeadAttention <num_heads = 2> (q, j, u)
        y = MatMul (a, w8)""", {"x": weight(8, 5, 8), "k": weight(8, 2, 2, 4), "v": weight(8, 2, 2, 4)}, w8=weight(8, 8)),
    "padded_left": attention("float[N, 5, 8] x, int32[N, 5] mask", f"""
        a = {M}Attention <num_heads = 2, unidirectional = 1> (x, w, b, mask)
        c = {M}MultiHeadAttention <num_heads = 2, unidirectional = 1> (a, x, x, , mask)
        y = {M}Attention <num_heads = 2, unidirectional = 1, mask_filter_value = -2.0> (c, w, b, mask)""",
                             {"x": weight(8, 5, 8), "mask": 1 - WORDS["mask"]}, **HEADS),
    "group_query_part": attention("float[1, 5, 64] x, float[1, 1, 3, 32] pk, float[1, 1, 3, 32] pv, int32[1] n", f"""
        k = MatMul (x, w)
        a, ck, cv = {M}GroupQueryAttention <num_heads = 2, kv_num_heads = 1, do_rotary = 1>
                    (x, k, k, pk, pv, n, eight, cos, sin)
        y = MatMul (a, w)""",
                                  {"x": weight(8, 5, 64), "pk": weight(8, 1, 3, 32), "pv": weight(8, 1, 3, 32),
                                   "n": np.full(8, 7, np.int32)}, w=weight(64, 32) / 4, cos=weight(12, 8), sin=weight(12, 8),
                                  eight=np.int32(8)),
}


def small(name, dtype, low, high, *shape):
    """A tensor of codes of 2 or 4 bits."""
    return helper.make_tensor(name, dtype, shape, RANDOM.integers(low, high, shape).ravel().tolist())


def narrow():
    """Weights of 2 and 4 bits by channel and by block, with zero points, of the newest IR that runtimes read."""
    return model(
        """<ir_version: 13, opset_import: ["" : 25]>
        g (float[N, 32] x) => (float[N, 16] y) {
            u = DequantizeLinear <axis = 1> (a, s, z)
            v = DequantizeLinear <axis = 0, block_size = 16> (b, t)
            p = MatMul (x, u)  q = Relu (p)  y = MatMul (q, v)
        }""", initializers=[small("a", TensorProto.INT2, -2, 2, 32, 32), small("z", TensorProto.INT2, -2, 2, 32),
                            small("b", TensorProto.UINT4, 0, 16, 32, 16)],
        s=np.abs(weight(32)), t=np.abs(weight(2, 16))), {"x": weight(8, 32)}


def overloads():
    """Two functions of one name, told apart by their overload, and one that calls the other."""
    return model(
        """<ir_version: 13, opset_import: ["" : 26, "local" : 1]>
        g (float[N, 6] x) => (float[N, 6] y) {
            a = local.layer:two (x, w)
            y = local.layer:one (a, w)
        }""",
        ["""<domain: "local", overload: "one", opset_import: ["" : 26]> layer (x, w) => (y) { y = MatMul (x, w) }""",
         """<domain: "local", overload: "two", opset_import: ["" : 26, "local" : 1]> layer (x, w) => (y) {
            m = local.layer:one (x, w)
            y = Swish (m)
        }"""],
        w=weight(6, 6)), {"x": weight(8, 6)}


def newest():
    """Operators and types of opsets 24 to 28, by onnx's own reference evaluator."""
    made = model(
        """<ir_version: 14, opset_import: ["" : 28]>
        g (float[N, 4, 8] x, float[N, 9, 8] cache) => (float[N, 4, 8] y, float[N, 9, 8] present, float[N, 4, 8] bits) {
            w = DequantizeLinear (six, s)
            a = MatMul (x, w)  b = RMSNormalization (a, gamma)
            c = SwiGLU <alpha = 1.25> (a, b)
            axis = Constant <value = int64 {1}> ()
            d = CumProd <reverse = 1> (c, axis)
            present = TensorScatter <axis = 1> (cache, d)
            h = Attention <q_num_heads = 2, kv_num_heads = 2, is_causal = 1> (d, present, present)
            y = MatMul (h, v)
            integers = BitCast <to = 6> (x)
            bits = BitCast <to = 1> (integers)
        }""", v=weight(8, 8), s=np.float32(0.1), gamma=weight(8))
    codes = RANDOM.integers(0, 64, 64)
    packed6 = np.packbits((codes[:, None] >> np.arange(6)) & 1, bitorder="little")
    made.graph.initializer.add(name="six", data_type=TensorProto.FLOAT6E2M3, dims=[8, 8], raw_data=packed6.tobytes())
    return made, {"x": weight(8, 4, 8), "cache": weight(8, 9, 8)}


def devices():
    """What IR 11 says of devices, and metadata, which convert has to leave as they are."""
    made = model(
        """<ir_version: 13, opset_import: ["" : 24]>
        g (float[N, 6] x) => (float[N, 6] y) { h = MatMul (x, w)  y = Tanh (h) }""", w=weight(6, 6))
    made.configuration.add(name="pair", num_devices=2, device=["a", "b"])
    for node in made.graph.node:
        there = node.device_configurations.add(configuration_id="pair", pipeline_stage=1)
        spec = there.sharding_spec.add(tensor_name=node.output[0], device=[0, 1])
        spec.index_to_device_group_map.add(key=-1, value=[0, 1])
        spec.sharded_dim.add(axis=1).simple_sharding.add(dim_value=6, num_shards=2)
        node.metadata_props.add(key="of", value=node.op_type)
    made.metadata_props.add(key="of", value="model")
    made.graph.metadata_props.add(key="of", value="graph")
    return made, {"x": weight(8, 6)}


def regression():
    """One number a sample, without an axis of its own."""
    return model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 6] x) => (float[N] y) { h = MatMul (x, w)  r = Relu (h)  y = MatMul (r, v) }""",
        w=weight(6, 16), v=weight(16)), {"x": weight(8, 6)}


def contrib_in_bodies():
    """Operators of com.microsoft in a branch that is taken and in a loop that is written out."""
    return model(
        """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[1, 8] x) => (float[1, 8] y) {
            yes = Constant <value = bool {1}> ()
            two = Constant <value = int64 {2}> ()
            s = If (yes) <then_branch = t () => (float[1, 8] r) {
                m = com.microsoft.FusedMatMul <transB = 1> (x, w)
                r = com.microsoft.Gelu (m)
            }, else_branch = e () => (float[1, 8] q) { q = MatMul (x, w) }>
            y = Loop (two, , s) <body = b (int64 i, bool c, float[1, 8] h) => (bool c2, float[1, 8] h2) {
                c2 = Identity (c)
                u = com.microsoft.QuickGelu (h)
                h2 = MatMul (u, w)
            }>
        }""", w=weight(8, 8) / 2), {"x": weight(8, 8)}


def nested_loops():
    """The inner body has the names of the outer one for other values, as ONNX Runtime lets it."""
    return model(
        """<ir_version: 8, opset_import: ["" : 16]>
        g (float[1, 4] x) => (float[1, 4] y) {
            two = Constant <value = int64 {2}> ()
            three = Constant <value = int64 {3}> ()
            yes = Constant <value = bool {1}> ()
            s0 = MatMul (x, w)
            y = Loop (two, yes, s0) <body = outer (int64 i, bool c, float[1, 4] s) => (bool c2, float[1, 4] s2) {
                c2 = Identity (c)
                s2 = Loop (three, c, s) <body = inner (int64 i, bool c, float[1, 4] s) => (bool c3, float[1, 4] t) {
                    c3 = Identity (c)
                    f = Cast <to = 1> (i)
                    t = Add (s, f)
                }>
            }>
        }""", w=weight(4, 4)), {"x": weight(8, 4)}


def function_scopes():
    """The caller has names that a body in the function has for other values."""
    return model(
        """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        g (float[1, 6] x) => (float[1, 6] y) {
            u = MatMul (x, w)
            v = local.choose (u)
            y = local.choose (v)
        }""",
        ["""<domain: "local", opset_import: ["" : 17]> choose (a) => (y) {
            s = ReduceSum <keepdims = 0> (a)
            zero = Constant <value_float = 0.0> ()
            c = Greater (s, zero)
            y = If (c) <then_branch = t () => (float[1, 6] v) { u = Tanh (a) v = Sub (u, a) },
                        else_branch = e () => (float[1, 6] u) { v = Neg (a) u = Abs (v) }>
        }"""],
        w=weight(6, 6)), {"x": weight(8, 6)}


def only_calls():
    """A model that names no opset but that of its functions, which name theirs."""
    return model(
        """<ir_version: 8, opset_import: ["local" : 1]>
        g (float[N, 6] x) => (float[N, 6] y) { a = local.layer (x, w)  y = local.layer (a, w) }""",
        ["""<domain: "local", opset_import: ["" : 17, "com.microsoft" : 1]>
        layer (x, w) => (y) { m = MatMul (x, w)  y = com.microsoft.Gelu (m) }"""],
        w=weight(6, 6)), {"x": weight(8, 6)}


def lost(before, after):
    """What the device configurations and metadata of a model have become less, or ''."""
    if before.configuration != after.configuration:
        return "configuration"
    nodes = {node.name or node.output[0]: node for node in after.graph.node}
    for node in before.graph.node:
        kept = nodes.get(node.name or node.output[0])
        if kept and kept.op_type == node.op_type and (kept.device_configurations != node.device_configurations or
                                                      kept.metadata_props != node.metadata_props):
            return f"annotations of {node.op_type}"
    for part in (lambda m: m, lambda m: m.graph):
        if not all(entry in part(after).metadata_props for entry in part(before).metadata_props):
            return "metadata"
    return ""


def old():
    """IR 3, opset 7, initializers listed as inputs."""
    made = model(
        """<ir_version: 3, opset_import: ["" : 7]>
        g (float[1, 2, 6, 6] x, float[4, 2, 3, 3] w, float[4] s) => (float[1, 4] y) {
            c = Conv (x, w)
            n = BatchNormalization (c, s, s, s, s)
            p = MaxPool <kernel_shape = [4, 4]> (n)
            y = Reshape (p, shape)
        }""", w=weight(4, 2, 3, 3), s=np.float32([1, 2, 3, 4]), shape=np.int64([1, 4]))
    made.graph.input.append(helper.make_tensor_value_info("shape", TensorProto.INT64, [2]))
    return made, {"x": weight(8, 2, 6, 6)}


CASES = {case.__name__: case for case in (functions, known_if, computed_if, loop_count, loop_stops, scan, sparse,
                                          half, double, half_loop, bfloat, old, narrow, overloads, newest,
                                          devices, regression, nested_loops, function_scopes,
                                          only_calls, contrib_in_bodies, sparse_in_function)} | CONTRIB | ATTENTION
REFERENCE = {"newest", "overloads", "narrow"}  # that ONNX Runtime 1.32 does not read, or rounds activations of
NO_LAYER = {"loop_stops", "gelus", "layer_norms", "rms_norms", "dynamic", "quantized_attention", "gather_blocks",
            "qlinear_where"}


def run_reference(path, feeds):
    evaluator = ReferenceEvaluator(inliner.inline_local_functions(onnx.load(path)))  # it knows no overloads
    results = [evaluator.run(None, {name: values[i:i + 1] for name, values in feeds.items()})
               for i in range(len(next(iter(feeds.values()))))]
    return evaluator.output_names, results


def run_ort(path, feeds):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    types = {"tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(float)": np.float32,
             "tensor(int32)": np.int32, "tensor(int64)": np.int64}
    results = []
    for i in range(len(next(iter(feeds.values())))):
        feed = {n.name: feeds[n.name][i:i + 1].astype(types[n.type]) for n in session.get_inputs()}
        results.append(session.run(None, feed))
    return [n.name for n in session.get_outputs()], results


def judge(tool, path, data, feeds, tolerance):
    """Largest difference of our outputs to ONNX Runtime's, relative to the range of the output."""
    out = path.with_suffix(".outputs.npz")
    done = subprocess.run([tool, "eval", path, "--data", data, "--outputs", out, "--overwrite"],
                          capture_output=True, text=True, check=False)
    if done.returncode:
        return f"eval: {done.stderr.strip()}"
    run = run_reference if path.name.split(".")[0] in REFERENCE else run_ort
    names, results = run(path, feeds)
    ours = np.load(out)
    for k, name in enumerate(names):
        theirs = np.stack([np.asarray(r[k], np.float64) for r in results]).ravel()
        mine = np.asarray(ours[name], np.float64).reshape(len(results), -1)
        if mine.size != theirs.size:
            return f"{name} has {mine.size} elements, not {theirs.size}"
        error = np.abs(mine.ravel() - theirs).max() / max(np.ptp(theirs), 1e-6)
        if not error <= tolerance:
            return f"{name} differs by {error:.3g} of its range"
    return ""


def check(tool, name, folder):
    made, feeds = CASES[name]()
    path, data, small = folder / f"{name}.onnx", folder / f"{name}.npz", folder / f"{name}.mpq.onnx"
    onnx.save(made, path)
    np.savez(data, **feeds)
    tolerance = {"half": 1e-2, "half_loop": 1e-2, "dynamic_lstm": 2e-2}.get(name, 1e-5)
    size = {"group_query": "12kB"}.get(name, "9kB")
    problem = judge(tool, path, data, feeds, tolerance)
    if problem:
        return problem
    done = subprocess.run([tool, "convert", path, "--data", data, "--effort", "none", "--size", size, "-o", small,
                           "--overwrite", "-q"], capture_output=True, text=True, check=False)
    if name in NO_LAYER and "no layer can be quantized" in done.stderr:
        return ""
    if done.returncode:
        return f"convert: {done.stderr.strip()}"
    written = onnx.load(small)
    for kind in ("input", "output"):
        before, after = ([(v.name, v.type.tensor_type.elem_type) for v in getattr(m.graph, kind)
                          if v.name not in {t.name for t in m.graph.initializer}] for m in (made, written))
        if before != after:
            return f"the {kind}s changed: {before} to {after}"
    if lost(made, written):
        return f"{lost(made, written)} not kept"
    return judge(tool, small, data, feeds, 2e-2)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("tool")
    arguments.add_argument("--only", default="")
    arguments = arguments.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in CASES:
            if arguments.only in name:
                problem = check(arguments.tool, name, pathlib.Path(folder))
                print(f"{name:12} {problem or 'ok'}")
                failed += bool(problem)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
