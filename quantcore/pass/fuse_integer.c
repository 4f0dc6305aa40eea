/* DequantizeLinear -> operator -> QuantizeLinear becomes the operator on integers, where ONNX
 * Runtime's CPU optimizer makes it so (core/optimizer/qdq_transformer, release 1.32): the same
 * conditions, in the order of its passes, so that what stays float there stays float here.
 *
 * One walk over the nodes in their order builds the new graph. On the way each float value that is
 * the dequantized form of an integer one remembers it (struct origin); a QuantizeLinear that would
 * only undo a DequantizeLinear vanishes. Float forms that nobody reads are left for
 * mpq_simplify(). */
#include <math.h>
#include <string.h>

#include "quantcore/pass/pass.h"

/* value = DequantizeLinear(q, scale, zero) */
struct origin {
    mpq_value_id q, scale, zero; /* q NO_VALUE: it is not; zero may be NO_VALUE, which is 0 */
    enum mpq_dtype dtype;        /* of q                                                    */
    int64_t axis;                /* of the scale, where it has more than one element        */
};

enum form { UNARY, BINARY, VARIADIC, CONV, GEMM, MATMUL };

static const struct rule {
    const char *op_type;
    enum form form;
    const char *fused, *domain;
} rules[] = {
    {"Add", BINARY, "QLinearAdd", "com.microsoft"},
    {"AveragePool", UNARY, "QLinearAveragePool", "com.microsoft"},
    {"Concat", VARIADIC, "QLinearConcat", "com.microsoft"},
    {"Conv", CONV, "QLinearConv", ""},
    {"Gemm", GEMM, "QGemm", "com.microsoft"},
    {"GlobalAveragePool", UNARY, "QLinearGlobalAveragePool", "com.microsoft"},
    {"LeakyRelu", UNARY, "QLinearLeakyRelu", "com.microsoft"},
    {"MatMul", MATMUL, "QLinearMatMul", ""},
    {"Mul", BINARY, "QLinearMul", "com.microsoft"},
    {"Sigmoid", UNARY, "QLinearSigmoid", "com.microsoft"},
    {"Softmax", UNARY, "QLinearSoftmax", "com.microsoft"},
};

/* Operators through which QuantizeLinear moves up and DequantizeLinear moves down. */
static const char *const movers[] = {"MaxPool", "Reshape",   "Slice",
                                     "Squeeze", "Transpose", "Unsqueeze"};

struct fuser {
    struct mpq_ctx *ctx;
    const struct mpq_graph *from;
    struct mpq_uses uses; /* of from */
    struct mpq_graph *to;
    struct origin *origin;  /* [n_value of from] */
    mpq_value_id *stand_in; /* [n_value of from]: what readers of a value read now */
    enum mpq_dtype *dtype;  /* [n_value of from]: element type where known         */
    mpq_value_id zero[2];   /* constants 0 of uint8 and int8, made when needed     */
    mpq_value_id *shifted;  /* [n_value of from]: see is_shiftable(), else NO_VALUE */
    bool *is_done;          /* [n_node of from]: it went into a fused node         */
};

/* ---- looking ---- */

static const struct mpq_tensor *constant_of(const struct fuser *f, mpq_value_id v)
{
    return v == MPQ_NO_VALUE ? NULL : f->to->value[v].constant;
}

static mpq_value_id input_of(const struct mpq_node *node, uint32_t i)
{
    return i < node->n_in ? node->in[i] : MPQ_NO_VALUE;
}

static bool is_mover(const struct mpq_node *node)
{
    for (size_t i = 0; i < MPQ_COUNT(movers); i++)
        if (mpq_node_is(node, movers[i]))
            return node->op && node->n_out == 1;
    return false;
}

static bool is_eight_bits(enum mpq_dtype dtype)
{
    return dtype == MPQ_INT8 || dtype == MPQ_UINT8;
}

/* A Q or DQ node with a constant scale and zero point of one element, or of one an index of an axis
 * where `may_have_axis`. */
static bool is_plain(const struct fuser *f, const struct mpq_node *node, bool may_have_axis)
{
    const struct mpq_tensor *scale = constant_of(f, input_of(node, 1));
    mpq_value_id zero_id = input_of(node, 2);
    const struct mpq_tensor *zero = constant_of(f, zero_id);
    if (!scale || scale->dtype != MPQ_FLOAT || (zero_id != MPQ_NO_VALUE && !zero) ||
        mpq_attr_int(&node->attr_set, "block_size", 0) != 0)
        return false;
    bool is_one = mpq_shape_count(&scale->shape) == 1;
    return is_one || (may_have_axis && scale->shape.rank == 1);
}

static bool is_scalar(const struct fuser *f, const struct origin *o)
{
    return mpq_shape_count(&constant_of(f, o->scale)->shape) == 1;
}

static enum mpq_dtype quantized_type(const struct fuser *f, const struct mpq_node *q)
{
    const struct mpq_tensor *zero = constant_of(f, input_of(q, 2));
    int64_t named = mpq_attr_int(&q->attr_set, "output_dtype", MPQ_UNDEFINED);
    return zero ? zero->dtype : named ? (enum mpq_dtype)named : MPQ_UINT8;
}

/* ONNX Runtime on x86 runs int8 activations as uint8, zero point and all 128 higher, where one
 * DequantizeLinear alone reads the integers and one node alone reads that (QDQS8ToU8Transformer).
 * The others stay int8, which its Conv and MatMul do not take there. */
static bool is_shiftable(const struct fuser *f, const struct mpq_node *q)
{
    mpq_node_id reader = mpq_uses_single(&f->uses, q->out[0]);
    const struct mpq_tensor *zero = constant_of(f, input_of(q, 2));
    if (!zero || zero->dtype != MPQ_INT8 || !is_plain(f, q, false) || reader == MPQ_NO_NODE)
        return false;
    const struct mpq_node *dq = &f->from->node[reader];
    const struct mpq_tensor *dq_zero = constant_of(f, input_of(dq, 2));
    mpq_value_id y = dq->out[0];
    return mpq_node_dequantizes(dq) && is_plain(f, dq, false) && dq_zero &&
           mpq_tensor_int(dq_zero, 0) == mpq_tensor_int(zero, 0) &&
           f->uses.first[y + 1] - f->uses.first[y] + f->uses.is_output[y] == 1;
}

/* Type and zero point of what a QuantizeLinear makes, as it will run. */
static enum mpq_dtype made_type(const struct fuser *f, const struct mpq_node *q)
{
    return f->shifted[q->out[0]] == MPQ_NO_VALUE ? quantized_type(f, q) : MPQ_UINT8;
}

static mpq_value_id made_zero(const struct fuser *f, const struct mpq_node *q)
{
    mpq_value_id shifted = f->shifted[q->out[0]];
    return shifted == MPQ_NO_VALUE ? input_of(q, 2) : shifted;
}

static mpq_value_id read_zero(const struct fuser *f, const struct mpq_node *dq)
{
    mpq_value_id shifted = f->shifted[dq->in[0]];
    return shifted == MPQ_NO_VALUE ? input_of(dq, 2) : shifted;
}

static double zero_value(const struct fuser *f, mpq_value_id zero)
{
    return zero == MPQ_NO_VALUE ? 0 : mpq_tensor_double(constant_of(f, zero), 0);
}

/* Whether the QuantizeLinear gives the integers of `o` back. */
static bool is_inverse(const struct fuser *f, const struct mpq_node *q, const struct origin *o)
{
    if (o->q == MPQ_NO_VALUE || !is_plain(f, q, false) || !is_scalar(f, o) ||
        made_type(f, q) != o->dtype)
        return false;
    return mpq_tensor_double(constant_of(f, q->in[1]), 0) ==
               mpq_tensor_double(constant_of(f, o->scale), 0) &&
           zero_value(f, made_zero(f, q)) == zero_value(f, o->zero);
}

static bool clip_bound(const struct fuser *f, const struct mpq_node *clip, uint32_t i,
                       double absent, double *out)
{
    mpq_value_id v = input_of(clip, i);
    const struct mpq_tensor *bound = constant_of(f, v);
    *out = bound ? mpq_tensor_double(bound, 0) : absent;
    return v == MPQ_NO_VALUE || bound;
}

/* Whether what the Relu or Clip cuts off, the QuantizeLinear behind it would cut off as well. */
static bool is_redundant(const struct fuser *f, const struct mpq_node *clip,
                         const struct mpq_node *q)
{
    enum mpq_dtype dtype = quantized_type(f, q);
    double low, high, zero = zero_value(f, input_of(q, 2));
    double least = dtype == MPQ_INT8 ? -128 : dtype == MPQ_INT16 ? -32768 : 0;
    double most = least + (is_eight_bits(dtype) ? 255 : 65535);
    double scale = mpq_tensor_double(constant_of(f, q->in[1]), 0);
    if (mpq_node_is(clip, "Relu"))
        return zero == least;
    return clip_bound(f, clip, 1, -INFINITY, &low) && clip_bound(f, clip, 2, INFINITY, &high) &&
           rint(low / scale) + zero <= least && rint(high / scale) + zero >= most;
}

/* What comes behind an operator. */
struct tail {
    mpq_node_id clip, q; /* NO_NODE where there is none */
    mpq_value_id last;   /* what the QuantizeLinear, or the first mover before it, reads */
};

/* The QuantizeLinear that is alone in reading v, movers between them; or NO_NODE. */
static mpq_node_id find_quantizer(const struct fuser *f, mpq_value_id v)
{
    for (;;) {
        mpq_node_id n = mpq_uses_single(&f->uses, v);
        if (n == MPQ_NO_NODE || f->from->node[n].in[0] != v)
            return MPQ_NO_NODE;
        if (mpq_node_quantizes(&f->from->node[n]))
            return n;
        if (!is_mover(&f->from->node[n]))
            return MPQ_NO_NODE;
        v = f->from->node[n].out[0];
    }
}

/* Whether a QuantizeLinear is among several readers of v, or v is an output besides. */
static bool has_mixed_readers(const struct fuser *f, mpq_value_id v)
{
    for (uint32_t i = f->uses.first[v]; i < f->uses.first[v + 1]; i++)
        if (mpq_node_quantizes(&f->from->node[f->uses.node[i]]))
            return true;
    return false;
}

/* False where the node must stay as it is. With tail->q NO_NODE its output stays float. */
static bool find_tail(const struct fuser *f, const struct mpq_node *node, struct tail *out)
{
    mpq_value_id y = node->out[0];
    mpq_node_id next = mpq_uses_single(&f->uses, y);
    *out = (struct tail){MPQ_NO_NODE, MPQ_NO_NODE, y};
    const struct mpq_node *reader = next == MPQ_NO_NODE ? NULL : &f->from->node[next];
    if (reader && (mpq_node_is(reader, "Relu") || mpq_node_is(reader, "Clip")) &&
        reader->in[0] == y && mpq_uses_single(&f->uses, reader->out[0]) != MPQ_NO_NODE) {
        out->clip = next;
        out->last = reader->out[0];
    }
    out->q = find_quantizer(f, out->last);
    if (out->q == MPQ_NO_NODE)
        return out->clip == MPQ_NO_NODE && !has_mixed_readers(f, y);
    const struct mpq_node *q = &f->from->node[out->q];
    return is_plain(f, q, false) &&
           (out->clip == MPQ_NO_NODE || is_redundant(f, &f->from->node[out->clip], q));
}

/* ---- conditions ---- */

/* The left factor signed: then the right one too. */
static bool are_factors(const struct origin *a, const struct origin *b)
{
    return is_eight_bits(a->dtype) && is_eight_bits(b->dtype) &&
           (a->dtype != MPQ_INT8 || b->dtype == MPQ_INT8);
}

/* A weight's scale: one for all, or one an output channel, which runs along `axis`. */
static bool has_channels_on(const struct fuser *f, const struct origin *w, int64_t axis)
{
    const struct mpq_tensor *q = constant_of(f, w->q);
    int64_t given = w->axis < 0 && q ? w->axis + q->shape.rank : w->axis;
    return is_scalar(f, w) || given == axis;
}

/* No bias, or int32 in units of x_scale * w_scale. Off by up to a hundredth, ONNX Runtime takes one
 * for the other; further off it does not fuse. */
static bool is_bias(const struct fuser *f, const struct origin *in)
{
    const struct origin *bias = &in[2];
    if (bias->q == MPQ_NO_VALUE)
        return true;
    const struct mpq_tensor *unit = constant_of(f, bias->scale), *w = constant_of(f, in[1].scale);
    int64_t n = mpq_shape_count(&unit->shape), n_w = mpq_shape_count(&w->shape);
    double x_scale = mpq_tensor_double(constant_of(f, in[0].scale), 0);
    if (bias->dtype != MPQ_INT32 || (n != n_w && n != 1 && n_w != 1))
        return false;
    for (int64_t i = 0; i < n || i < n_w; i++) {
        double want = x_scale * mpq_tensor_double(w, n_w == 1 ? 0 : i);
        if (fabs(mpq_tensor_double(unit, n == 1 ? 0 : i) - want) > 0.01 * fabs(want))
            return false;
    }
    return true;
}

static bool is_fusible(const struct fuser *f, const struct mpq_node *node, const struct rule *rule,
                       const struct origin *in, uint32_t n, enum mpq_dtype y)
{
    bool is_float = y == MPQ_FLOAT;
    for (uint32_t i = 0; i < n && rule->form != CONV && rule->form != GEMM; i++)
        if (in[i].q == MPQ_NO_VALUE || !is_eight_bits(in[i].dtype))
            return false;
    for (uint32_t i = 0; i < n && rule->form <= VARIADIC; i++)
        if (!is_scalar(f, &in[i]) || in[i].dtype != y)
            return false;
    if (rule->form <= VARIADIC)
        return n > 0 && !is_float;
    if (n < 2 || in[0].q == MPQ_NO_VALUE || in[1].q == MPQ_NO_VALUE || !is_scalar(f, &in[0]) ||
        !are_factors(&in[0], &in[1]) || !is_bias(f, in) || (!is_float && in[0].dtype != y))
        return false;
    if (rule->form != GEMM && in[0].dtype == MPQ_INT8)
        return false;
    if (rule->form == CONV)
        return !is_float && has_channels_on(f, &in[1], 0);
    if (rule->form == MATMUL)
        return is_scalar(f, &in[1]) || (constant_of(f, in[1].q) && in[1].axis != 0);
    return has_channels_on(f, &in[1], mpq_attr_int(&node->attr_set, "transB", 0) ? 0 : 1) &&
           (n < 3 || mpq_attr_float(&node->attr_set, "beta", 1) == 1);
}

/* ---- building ---- */

static enum mpq_status new_value(struct fuser *f, mpq_value_id like, enum mpq_dtype dtype,
                                 mpq_value_id *out)
{
    char *stem = mpq_arena_printf(f->ctx, f->to->arena, "%s_q", f->from->value[like].name);
    if (!stem)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_graph_add_unique(f->ctx, f->to, stem, out));
    f->to->value[*out].dtype = dtype;
    f->to->value[*out].shape = f->from->value[like].shape;
    f->to->value[*out].dim_param = f->from->value[like].dim_param;
    return MPQ_OK;
}

static enum mpq_status add_constant(struct fuser *f, enum mpq_dtype dtype,
                                    const struct mpq_shape *shape, const char *stem,
                                    struct mpq_tensor **out_tensor, mpq_value_id *out)
{
    struct mpq_tensor *tensor = mpq_arena_alloc(f->ctx, f->to->arena, 1, sizeof *tensor);
    if (!tensor)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_tensor_alloc(f->ctx, f->to->arena, dtype, shape, tensor));
    MPQ_TRY(mpq_graph_add_constant(f->ctx, f->to, stem, tensor, out));
    *out_tensor = tensor;
    return MPQ_OK;
}

/* The zero point of `o`, or a constant 0 in its place. */
static enum mpq_status zero_of(struct fuser *f, mpq_value_id zero, enum mpq_dtype dtype,
                               mpq_value_id *out)
{
    mpq_value_id *shared = &f->zero[dtype == MPQ_INT8];
    struct mpq_tensor *tensor;
    *out = zero;
    if (zero != MPQ_NO_VALUE)
        return MPQ_OK;
    if (*shared == MPQ_NO_VALUE)
        MPQ_TRY(add_constant(f, dtype, &(struct mpq_shape){.rank = 0}, "zero", &tensor, shared));
    *out = *shared;
    return MPQ_OK;
}

/* y = DequantizeLinear(o) */
static enum mpq_status add_dequantize(struct fuser *f, const struct origin *o, mpq_value_id y)
{
    mpq_value_id in[] = {o->q, o->scale, o->zero};
    struct mpq_node node = {.name = "",
                            .op_type = "DequantizeLinear",
                            .domain = "",
                            .n_in = o->zero == MPQ_NO_VALUE ? 2 : 3,
                            .n_out = 1,
                            .in = in,
                            .out = &y,
                            .source = MPQ_NO_NODE};
    MPQ_TRY(mpq_op_resolve(f->ctx, f->to->arena, &node));
    return mpq_graph_add_node(f->ctx, f->to, &node, NULL);
}

/* A float bias as int32 in units of x_scale * w_scale, rounded as ONNX Runtime's
 * WeightBiasQuantization does. Where it cannot be, *out is NO_VALUE. */
static enum mpq_status quantize_bias(struct fuser *f, const struct origin *x,
                                     const struct origin *w, mpq_value_id bias, mpq_value_id *out)
{
    const struct mpq_tensor *from = constant_of(f, bias);
    const struct mpq_tensor *w_scale = constant_of(f, w->scale);
    float x_scale = (float)mpq_tensor_double(constant_of(f, x->scale), 0);
    *out = MPQ_NO_VALUE;
    if (!from || from->dtype != MPQ_FLOAT || from->shape.rank != 1 ||
        (mpq_shape_count(&w_scale->shape) != 1 &&
         mpq_shape_count(&w_scale->shape) != from->shape.dim[0]))
        return MPQ_OK;
    struct mpq_tensor *to;
    MPQ_TRY(add_constant(f, MPQ_INT32, &from->shape, f->from->value[bias].name, &to, out));
    for (int64_t i = 0; i < from->shape.dim[0]; i++) {
        int64_t at = mpq_shape_count(&w_scale->shape) == 1 ? 0 : i;
        float unit = x_scale * (float)mpq_tensor_double(w_scale, at);
        mpq_tensor_set_double(to, i, (double)rintf((float)mpq_tensor_double(from, i) / unit));
    }
    return MPQ_OK;
}

struct operands {
    mpq_value_id *id;
    uint32_t n;
};

static enum mpq_status put_quantized(struct fuser *f, struct operands *to, const struct origin *o)
{
    to->id[to->n++] = o->q;
    to->id[to->n++] = o->scale;
    return zero_of(f, o->zero, o->dtype, &to->id[to->n++]);
}

static enum mpq_status put_output(struct fuser *f, struct operands *to, const struct mpq_node *q)
{
    to->id[to->n++] = q->in[1];
    return zero_of(f, made_zero(f, q), made_type(f, q), &to->id[to->n++]);
}

/* Inputs of the fused node; q NULL: the output stays float. */
static enum mpq_status put_operands(struct fuser *f, const struct rule *rule,
                                    const struct origin *in, uint32_t n, mpq_value_id bias,
                                    const struct mpq_node *q, struct operands *to)
{
    if (rule->form == MATMUL && !q) {
        struct operands pair = {(mpq_value_id[6]){0}, 0};
        MPQ_TRY(put_quantized(f, &pair, &in[0]));
        MPQ_TRY(put_quantized(f, &pair, &in[1]));
        for (uint32_t i = 0; i < 6; i++) /* a, b, a_scale, b_scale, a_zero, b_zero */
            to->id[to->n++] = pair.id[i / 2 + i % 2 * 3];
        return MPQ_OK;
    }
    if (rule->form == VARIADIC)
        MPQ_TRY(put_output(f, to, q));
    for (uint32_t i = 0; i < n && !(i == 2 && (rule->form == CONV || rule->form == GEMM)); i++)
        MPQ_TRY(put_quantized(f, to, &in[i]));
    if (rule->form == GEMM)
        to->id[to->n++] = bias;
    if (rule->form != VARIADIC && q)
        MPQ_TRY(put_output(f, to, q));
    if (rule->form == CONV)
        to->id[to->n++] = bias;
    while (to->n > 0 && to->id[to->n - 1] == MPQ_NO_VALUE)
        to->n--;
    return MPQ_OK;
}

static enum mpq_status add_fused(struct fuser *f, const struct mpq_node *node,
                                 const struct rule *rule, const struct operands *in, bool is_float,
                                 mpq_value_id y)
{
    struct mpq_node fused = *node;
    fused.op_type = is_float && rule->form == MATMUL ? "MatMulIntegerToFloat" : rule->fused;
    fused.domain = is_float && rule->form == MATMUL ? "com.microsoft" : rule->domain;
    fused.n_in = in->n;
    fused.in = in->id;
    fused.n_out = 1;
    fused.out = &y;
    MPQ_TRY(mpq_op_resolve(f->ctx, f->to->arena, &fused));
    return mpq_graph_add_node(f->ctx, f->to, &fused, NULL);
}

static const struct rule *find_rule(const struct mpq_node *node)
{
    for (size_t i = 0; i < MPQ_COUNT(rules); i++)
        if (mpq_node_is(node, rules[i].op_type) && node->op && node->n_out == 1)
            return &rules[i];
    return NULL;
}

/* Fuse the node if the rules say so. */
static enum mpq_status try_fuse(struct fuser *f, mpq_node_id id, bool *out_done)
{
    const struct mpq_node *node = &f->from->node[id];
    const struct rule *rule = find_rule(node);
    struct tail tail;
    *out_done = false;
    if (!rule || !find_tail(f, node, &tail))
        return MPQ_OK;
    const struct mpq_node *q = tail.q == MPQ_NO_NODE ? NULL : &f->from->node[tail.q];
    enum mpq_dtype dtype = q ? made_type(f, q) : MPQ_FLOAT;
    uint32_t n = node->n_in;
    bool has_bias =
        (rule->form == CONV || rule->form == GEMM) && n > 2 && node->in[2] != MPQ_NO_VALUE;
    struct origin *in = mpq_arena_alloc(f->ctx, f->to->arena, n + 3, sizeof *in);
    struct operands operands = {
        mpq_arena_alloc(f->ctx, f->to->arena, 3 * (size_t)n + 9, sizeof *operands.id), 0};
    if (!in || !operands.id)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < n + 3; i++)
        in[i].q = MPQ_NO_VALUE;
    for (uint32_t i = 0; i < n; i++)
        if (node->in[i] != MPQ_NO_VALUE)
            in[i] = f->origin[node->in[i]];
    if (!is_fusible(f, node, rule, in, n, dtype))
        return MPQ_OK;
    mpq_value_id bias = has_bias ? in[2].q : MPQ_NO_VALUE;
    if (has_bias && bias == MPQ_NO_VALUE && q)
        MPQ_TRY(quantize_bias(f, &in[0], &in[1], node->in[2], &bias));
    if (has_bias && bias == MPQ_NO_VALUE)
        return MPQ_OK;
    MPQ_TRY(put_operands(f, rule, in, n, bias, q, &operands));
    *out_done = true;
    if (!q)
        return add_fused(f, node, rule, &operands, true, node->out[0]);
    struct origin *y = &f->origin[tail.last];
    mpq_value_id y_q;
    MPQ_TRY(new_value(f, tail.last, dtype, &y_q));
    *y = (struct origin){.q = y_q, .scale = q->in[1], .zero = made_zero(f, q), .dtype = dtype};
    MPQ_TRY(add_fused(f, node, rule, &operands, false, y_q));
    if (tail.clip != MPQ_NO_NODE)
        f->is_done[tail.clip] = true;
    return add_dequantize(f, y, tail.last);
}

static enum mpq_status copy_node(struct fuser *f, const struct mpq_node *node)
{
    struct mpq_node copy = *node;
    mpq_value_id *in = mpq_arena_copy(f->ctx, f->to->arena, node->in, node->n_in * sizeof *in);
    if (!in)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < node->n_in; i++)
        if (in[i] != MPQ_NO_VALUE)
            in[i] = f->stand_in[in[i]];
    if (node->n_in > 2 && mpq_node_quantizes(node))
        in[2] = made_zero(f, node);
    if (node->n_in > 2 && mpq_node_dequantizes(node))
        in[2] = read_zero(f, node);
    copy.in = in;
    return mpq_graph_add_node(f->ctx, f->to, &copy, NULL);
}

/* A mover moves integers, and its output is dequantized behind it. */
static enum mpq_status sink_dequantize(struct fuser *f, const struct mpq_node *node)
{
    const struct origin *x = &f->origin[node->in[0]];
    struct origin *y = &f->origin[node->out[0]];
    mpq_value_id y_q;
    MPQ_TRY(new_value(f, node->out[0], x->dtype, &y_q));
    *y = *x;
    y->q = y_q;
    struct mpq_node copy = *node;
    mpq_value_id *in = mpq_arena_copy(f->ctx, f->to->arena, node->in, node->n_in * sizeof *in);
    if (!in)
        return MPQ_E_NOMEM;
    in[0] = x->q;
    for (uint32_t i = 1; i < node->n_in; i++)
        if (in[i] != MPQ_NO_VALUE)
            in[i] = f->stand_in[in[i]];
    copy.in = in;
    copy.out = &y_q;
    MPQ_TRY(mpq_graph_add_node(f->ctx, f->to, &copy, NULL));
    return add_dequantize(f, y, node->out[0]);
}

static bool is_sinkable(const struct fuser *f, const struct mpq_node *node)
{
    if (!is_mover(node) || node->in[0] == MPQ_NO_VALUE)
        return false;
    const struct origin *x = &f->origin[node->in[0]];
    return x->q != MPQ_NO_VALUE && is_eight_bits(x->dtype) && is_scalar(f, x);
}

static enum mpq_status visit(struct fuser *f, mpq_node_id id)
{
    const struct mpq_node *node = &f->from->node[id];
    bool is_done;
    if (f->is_done[id])
        return MPQ_OK;
    MPQ_TRY(try_fuse(f, id, &is_done));
    if (is_done)
        return MPQ_OK;
    if (is_sinkable(f, node))
        return sink_dequantize(f, node);
    if (mpq_node_quantizes(node)) {
        const struct origin *x = &f->origin[node->in[0]];
        f->dtype[node->out[0]] = made_type(f, node);
        if (is_inverse(f, node, x) && !f->uses.is_output[node->out[0]]) {
            f->stand_in[node->out[0]] = x->q;
            return MPQ_OK;
        }
    }
    if (mpq_node_dequantizes(node) && is_plain(f, node, true))
        f->origin[node->out[0]] = (struct origin){.q = f->stand_in[node->in[0]],
                                                  .scale = node->in[1],
                                                  .zero = read_zero(f, node),
                                                  .dtype = f->dtype[node->in[0]],
                                                  .axis = mpq_attr_int(&node->attr_set, "axis", 1)};
    if (mpq_node_is(node, "Clip") && node->in[0] != MPQ_NO_VALUE) /* of a narrow activation */
        f->dtype[node->out[0]] = f->dtype[node->in[0]];
    return copy_node(f, node);
}

static enum mpq_status shift_zero_points(struct fuser *f)
{
    for (mpq_node_id n = 0; n < f->from->n_node; n++) {
        const struct mpq_node *q = &f->from->node[n];
        struct mpq_tensor *zero;
        if (!mpq_node_quantizes(q) || !is_shiftable(f, q))
            continue;
        MPQ_TRY(add_constant(f, MPQ_UINT8, &(struct mpq_shape){.rank = 0}, "zero", &zero,
                             &f->shifted[q->out[0]]));
        mpq_tensor_set_int(zero, 0, mpq_tensor_int(constant_of(f, q->in[2]), 0) + 128);
    }
    return MPQ_OK;
}

static enum mpq_status begin(struct mpq_ctx *ctx, struct mpq_arena *arena,
                             const struct mpq_graph *graph, struct fuser *f)
{
    uint32_t n = graph->n_value;
    *f = (struct fuser){.ctx = ctx, .from = graph, .zero = {MPQ_NO_VALUE, MPQ_NO_VALUE}};
    MPQ_TRY(mpq_graph_clone(ctx, arena, graph, true, &f->to));
    MPQ_TRY(mpq_graph_uses(ctx, arena, graph, &f->uses));
    f->origin = mpq_arena_alloc(ctx, arena, n, sizeof *f->origin);
    f->stand_in = mpq_arena_alloc(ctx, arena, n, sizeof *f->stand_in);
    f->dtype = mpq_arena_alloc(ctx, arena, n, sizeof *f->dtype);
    f->is_done = mpq_arena_alloc(ctx, arena, graph->n_node, sizeof *f->is_done);
    f->shifted = mpq_arena_alloc(ctx, arena, n, sizeof *f->shifted);
    if (!f->origin || !f->stand_in || !f->dtype || !f->is_done || !f->shifted)
        return MPQ_E_NOMEM;
    for (mpq_value_id v = 0; v < n; v++) {
        f->origin[v].q = f->shifted[v] = MPQ_NO_VALUE;
        f->stand_in[v] = v;
        f->dtype[v] = graph->value[v].dtype;
        if (graph->value[v].constant)
            f->dtype[v] = graph->value[v].constant->dtype;
    }
    return shift_zero_points(f);
}

enum mpq_status mpq_fuse_integer(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const struct mpq_graph *graph, struct mpq_graph **out)
{
    struct fuser f;
    struct mpq_graph *prepared;
    bool is_quantized = false;
    for (mpq_node_id n = 0; n < graph->n_node; n++)
        is_quantized |= mpq_node_dequantizes(&graph->node[n]);
    if (!is_quantized)
        return mpq_graph_clone(ctx, arena, graph, false, out);
    MPQ_TRY(mpq_fold_quantized(ctx, arena, graph, &prepared));
    MPQ_TRY(begin(ctx, arena, prepared, &f));
    for (mpq_node_id n = 0; n < prepared->n_node; n++)
        MPQ_TRY(visit(&f, n));
    MPQ_TRY(mpq_graph_check(ctx, f.to));
    *out = f.to;
    return MPQ_OK;
}
