/* DequantizeLinear -> operator -> QuantizeLinear becomes the operator on integers, where ONNX
 * Runtime's CPU optimizer makes it so (core/optimizer/qdq_transformer, release 1.32): the same
 * conditions, in the order of its passes, so that what stays float there stays float here.
 *
 * One walk over the nodes in their order builds the new graph. On the way each float value that is
 * the dequantized form of an integer one remembers it (struct mpq_origin); a QuantizeLinear that
 * would only undo a DequantizeLinear vanishes. Float forms that nobody reads are left for
 * mpq_simplify(). */
#include <math.h>
#include <string.h>

#include "quantcore/pass/fuse_match.h"

static const struct mpq_fuse_rule rules[] = {
    {"Add", MPQ_FUSE_BINARY, "QLinearAdd", "com.microsoft"},
    {"AveragePool", MPQ_FUSE_UNARY, "QLinearAveragePool", "com.microsoft"},
    {"Concat", MPQ_FUSE_VARIADIC, "QLinearConcat", "com.microsoft"},
    {"Conv", MPQ_FUSE_CONV, "QLinearConv", ""},
    {"Gemm", MPQ_FUSE_GEMM, "QGemm", "com.microsoft"},
    {"GlobalAveragePool", MPQ_FUSE_UNARY, "QLinearGlobalAveragePool", "com.microsoft"},
    {"LeakyRelu", MPQ_FUSE_UNARY, "QLinearLeakyRelu", "com.microsoft"},
    {"MatMul", MPQ_FUSE_MATMUL, "QLinearMatMul", ""},
    {"Mul", MPQ_FUSE_BINARY, "QLinearMul", "com.microsoft"},
    {"Sigmoid", MPQ_FUSE_UNARY, "QLinearSigmoid", "com.microsoft"},
    {"Softmax", MPQ_FUSE_UNARY, "QLinearSoftmax", "com.microsoft"},
};

static enum mpq_status new_value(struct mpq_fuser *f, mpq_value_id like, enum mpq_dtype dtype,
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

static enum mpq_status add_constant(struct mpq_fuser *f, enum mpq_dtype dtype,
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
static enum mpq_status zero_of(struct mpq_fuser *f, mpq_value_id zero, enum mpq_dtype dtype,
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
static enum mpq_status add_dequantize(struct mpq_fuser *f, const struct mpq_origin *o,
                                      mpq_value_id y)
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
static enum mpq_status quantize_bias(struct mpq_fuser *f, const struct mpq_origin *x,
                                     const struct mpq_origin *w, mpq_value_id bias,
                                     mpq_value_id *out)
{
    const struct mpq_tensor *from = mpq_fuse_constant_of(f, bias);
    const struct mpq_tensor *w_scale = mpq_fuse_constant_of(f, w->scale);
    float x_scale = (float)mpq_tensor_double(mpq_fuse_constant_of(f, x->scale), 0);
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

static enum mpq_status put_quantized(struct mpq_fuser *f, struct operands *to,
                                     const struct mpq_origin *o)
{
    to->id[to->n++] = o->q;
    to->id[to->n++] = o->scale;
    return zero_of(f, o->zero, o->dtype, &to->id[to->n++]);
}

static enum mpq_status put_output(struct mpq_fuser *f, struct operands *to,
                                  const struct mpq_node *q)
{
    to->id[to->n++] = q->in[1];
    return zero_of(f, mpq_fuse_made_zero(f, q), mpq_fuse_made_type(f, q), &to->id[to->n++]);
}

/* Inputs of the fused node; q NULL: the output stays float. */
static enum mpq_status put_operands(struct mpq_fuser *f, const struct mpq_fuse_rule *rule,
                                    const struct mpq_origin *in, uint32_t n, mpq_value_id bias,
                                    const struct mpq_node *q, struct operands *to)
{
    if (rule->form == MPQ_FUSE_MATMUL && !q) {
        struct operands pair = {(mpq_value_id[6]){0}, 0};
        MPQ_TRY(put_quantized(f, &pair, &in[0]));
        MPQ_TRY(put_quantized(f, &pair, &in[1]));
        for (uint32_t i = 0; i < 6; i++) /* a, b, a_scale, b_scale, a_zero, b_zero */
            to->id[to->n++] = pair.id[i / 2 + i % 2 * 3];
        return MPQ_OK;
    }
    if (rule->form == MPQ_FUSE_VARIADIC)
        MPQ_TRY(put_output(f, to, q));
    for (uint32_t i = 0;
         i < n && !(i == 2 && (rule->form == MPQ_FUSE_CONV || rule->form == MPQ_FUSE_GEMM)); i++)
        MPQ_TRY(put_quantized(f, to, &in[i]));
    if (rule->form == MPQ_FUSE_GEMM)
        to->id[to->n++] = bias;
    if (rule->form != MPQ_FUSE_VARIADIC && q)
        MPQ_TRY(put_output(f, to, q));
    if (rule->form == MPQ_FUSE_CONV)
        to->id[to->n++] = bias;
    while (to->n > 0 && to->id[to->n - 1] == MPQ_NO_VALUE)
        to->n--;
    return MPQ_OK;
}

static enum mpq_status add_fused(struct mpq_fuser *f, const struct mpq_node *node,
                                 const struct mpq_fuse_rule *rule, const struct operands *in,
                                 bool is_float, mpq_value_id y)
{
    struct mpq_node fused = *node;
    fused.op_type =
        is_float && rule->form == MPQ_FUSE_MATMUL ? "MatMulIntegerToFloat" : rule->fused;
    fused.domain = is_float && rule->form == MPQ_FUSE_MATMUL ? "com.microsoft" : rule->domain;
    fused.n_in = in->n;
    fused.in = in->id;
    fused.n_out = 1;
    fused.out = &y;
    MPQ_TRY(mpq_op_resolve(f->ctx, f->to->arena, &fused));
    return mpq_graph_add_node(f->ctx, f->to, &fused, NULL);
}

static const struct mpq_fuse_rule *find_rule(const struct mpq_node *node)
{
    for (size_t i = 0; i < MPQ_COUNT(rules); i++)
        if (mpq_node_is(node, rules[i].op_type) && node->op && node->n_out == 1)
            return &rules[i];
    return NULL;
}

/* Fuse the node if the rules say so. */
static enum mpq_status try_fuse(struct mpq_fuser *f, mpq_node_id id, bool *out_done)
{
    const struct mpq_node *node = &f->from->node[id];
    const struct mpq_fuse_rule *rule = find_rule(node);
    struct mpq_tail tail;
    *out_done = false;
    if (!rule || !mpq_fuse_find_tail(f, node, &tail))
        return MPQ_OK;
    const struct mpq_node *q = tail.q == MPQ_NO_NODE ? NULL : &f->from->node[tail.q];
    enum mpq_dtype dtype = q ? mpq_fuse_made_type(f, q) : MPQ_FLOAT;
    uint32_t n = node->n_in;
    bool has_bias = (rule->form == MPQ_FUSE_CONV || rule->form == MPQ_FUSE_GEMM) && n > 2 &&
                    node->in[2] != MPQ_NO_VALUE;
    struct mpq_origin *in = mpq_arena_alloc(f->ctx, f->to->arena, n + 3, sizeof *in);
    struct operands operands = {
        mpq_arena_alloc(f->ctx, f->to->arena, 3 * (size_t)n + 9, sizeof *operands.id), 0};
    if (!in || !operands.id)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < n + 3; i++)
        in[i].q = MPQ_NO_VALUE;
    for (uint32_t i = 0; i < n; i++)
        if (node->in[i] != MPQ_NO_VALUE)
            in[i] = f->origin[node->in[i]];
    if (!mpq_fuse_is_fusible(f, node, rule, in, n, dtype))
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
    struct mpq_origin *y = &f->origin[tail.last];
    mpq_value_id y_q;
    MPQ_TRY(new_value(f, tail.last, dtype, &y_q));
    *y = (struct mpq_origin){
        .q = y_q, .scale = q->in[1], .zero = mpq_fuse_made_zero(f, q), .dtype = dtype};
    MPQ_TRY(add_fused(f, node, rule, &operands, false, y_q));
    if (tail.clip != MPQ_NO_NODE)
        f->is_done[tail.clip] = true;
    return add_dequantize(f, y, tail.last);
}

static enum mpq_status copy_node(struct mpq_fuser *f, const struct mpq_node *node)
{
    struct mpq_node copy = *node;
    mpq_value_id *in = mpq_arena_copy(f->ctx, f->to->arena, node->in, node->n_in * sizeof *in);
    if (!in)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < node->n_in; i++)
        if (in[i] != MPQ_NO_VALUE)
            in[i] = f->stand_in[in[i]];
    if (node->n_in > 2 && mpq_node_quantizes(node))
        in[2] = mpq_fuse_made_zero(f, node);
    if (node->n_in > 2 && mpq_node_dequantizes(node))
        in[2] = mpq_fuse_read_zero(f, node);
    copy.in = in;
    return mpq_graph_add_node(f->ctx, f->to, &copy, NULL);
}

/* A mover moves integers, and its output is dequantized behind it. */
static enum mpq_status sink_dequantize(struct mpq_fuser *f, const struct mpq_node *node)
{
    const struct mpq_origin *x = &f->origin[node->in[0]];
    struct mpq_origin *y = &f->origin[node->out[0]];
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

static bool is_sinkable(const struct mpq_fuser *f, const struct mpq_node *node)
{
    if (!mpq_fuse_is_mover(node) || node->in[0] == MPQ_NO_VALUE)
        return false;
    const struct mpq_origin *x = &f->origin[node->in[0]];
    return x->q != MPQ_NO_VALUE && mpq_fuse_is_eight_bits(x->dtype) && mpq_fuse_is_scalar(f, x);
}

static enum mpq_status visit(struct mpq_fuser *f, mpq_node_id id)
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
        const struct mpq_origin *x = &f->origin[node->in[0]];
        f->dtype[node->out[0]] = mpq_fuse_made_type(f, node);
        if (mpq_fuse_is_inverse(f, node, x) && !f->uses.is_output[node->out[0]]) {
            f->stand_in[node->out[0]] = x->q;
            return MPQ_OK;
        }
    }
    if (mpq_node_dequantizes(node) && mpq_fuse_is_plain(f, node, true))
        f->origin[node->out[0]] =
            (struct mpq_origin){.q = f->stand_in[node->in[0]],
                                .scale = node->in[1],
                                .zero = mpq_fuse_read_zero(f, node),
                                .dtype = f->dtype[node->in[0]],
                                .axis = mpq_attr_int(&node->attr_set, "axis", 1)};
    if (mpq_node_is(node, "Clip") && node->in[0] != MPQ_NO_VALUE) /* of a narrow activation */
        f->dtype[node->out[0]] = f->dtype[node->in[0]];
    return copy_node(f, node);
}

static enum mpq_status shift_zero_points(struct mpq_fuser *f)
{
    for (mpq_node_id n = 0; n < f->from->n_node; n++) {
        const struct mpq_node *q = &f->from->node[n];
        struct mpq_tensor *zero;
        if (!mpq_node_quantizes(q) || !mpq_fuse_is_shiftable(f, q))
            continue;
        MPQ_TRY(add_constant(f, MPQ_UINT8, &(struct mpq_shape){.rank = 0}, "zero", &zero,
                             &f->shifted[q->out[0]]));
        mpq_tensor_set_int(zero, 0, mpq_tensor_int(mpq_fuse_constant_of(f, q->in[2]), 0) + 128);
    }
    return MPQ_OK;
}

static enum mpq_status begin(struct mpq_ctx *ctx, struct mpq_arena *arena,
                             const struct mpq_graph *graph, struct mpq_fuser *f)
{
    uint32_t n = graph->n_value;
    *f = (struct mpq_fuser){.ctx = ctx, .from = graph, .zero = {MPQ_NO_VALUE, MPQ_NO_VALUE}};
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
    struct mpq_fuser f;
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
