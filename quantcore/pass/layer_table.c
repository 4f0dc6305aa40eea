#include "quantcore/pass/pass.h"

/* Nodes with fewer parameters than this are not worth a line in a report. */
enum { MIN_LISTED = 64 };

struct builder {
    struct mpq_ctx *ctx;
    struct mpq_arena *arena;
    const struct mpq_graph *graph;
    const struct mpq_binding *binding;
    struct mpq_uses uses;
    struct mpq_layer_table table;
};

static const struct mpq_tensor *constant_of(const struct builder *b, mpq_value_id v)
{
    return v == MPQ_NO_VALUE ? NULL : b->graph->value[v].constant;
}

static const char *name_of(const struct builder *b, const struct mpq_node *node)
{
    if (node->name[0] || node->n_out == 0 || node->out[0] == MPQ_NO_VALUE)
        return node->name;
    return b->graph->value[node->out[0]].name;
}

static bool is_parameter(const struct mpq_tensor *constant)
{
    return constant && (constant->dtype == MPQ_FLOAT || constant->dtype == MPQ_FLOAT16 ||
                        constant->dtype == MPQ_DOUBLE || constant->dtype == MPQ_BFLOAT16);
}

static int64_t count_parameters(const struct builder *b, const struct mpq_node *node)
{
    int64_t n = 0;
    for (uint32_t i = 0; i < node->n_in; i++)
        if (is_parameter(constant_of(b, node->in[i])))
            n += mpq_shape_count(&constant_of(b, node->in[i])->shape);
    return n;
}

/* w[n_outer][n_channel][n_inner]; NULL, or why the weight cannot be read that way. */
static const char *split_weight(const struct mpq_node *node, const struct mpq_tensor *weight,
                                struct mpq_layer *layer)
{
    const struct mpq_shape *w = &weight->shape;
    layer->n_outer = layer->n_inner = layer->n_group = 1;
    if (mpq_node_is(node, "Conv")) {
        if (w->rank < 3)
            return "its weight has fewer than three dimensions";
        layer->n_channel = w->dim[0];
        layer->n_inner = mpq_shape_count_range(w, 1, w->rank);
        layer->n_group = mpq_attr_int(&node->attr_set, "group", 1);
        layer->is_depthwise = w->dim[1] == 1 && layer->n_group > 1;
        return NULL;
    }
    if (w->rank != 2)
        return "its weight is not a matrix";
    bool is_gemm = mpq_node_is(node, "Gemm");
    if (is_gemm && mpq_attr_int(&node->attr_set, "transA", 0) != 0)
        return "its data input is transposed (transA)";
    bool is_transposed = is_gemm && mpq_attr_int(&node->attr_set, "transB", 0) != 0;
    layer->n_channel = w->dim[is_transposed ? 0 : 1];
    layer->n_outer = is_transposed ? 1 : w->dim[0];
    layer->n_inner = is_transposed ? w->dim[1] : 1;
    return NULL;
}

/* "is shared by nodes 'a' and 'b'": quantizing it for one would change the other. */
static const char *describe_sharing(struct builder *b, mpq_value_id weight)
{
    uint32_t first = b->uses.first[weight], n = b->uses.first[weight + 1] - first;
    if (b->uses.is_output[weight])
        return "its weight is an output of the graph";
    if (n == 1)
        return NULL;
    const struct mpq_node *one = &b->graph->node[b->uses.node[first]];
    const struct mpq_node *other = &b->graph->node[b->uses.node[first + 1]];
    return mpq_arena_printf(b->ctx, b->arena, "its weight is shared by nodes '%s' and '%s'%s",
                            name_of(b, one), name_of(b, other), n > 2 ? " and others" : "");
}

/* The bias must be one constant a channel that only this node reads, since it changes with the
 * weight. */
static const char *find_bias(struct builder *b, const struct mpq_node *node,
                             struct mpq_layer *layer)
{
    layer->bias = node->n_in > 2 ? node->in[2] : MPQ_NO_VALUE;
    if (layer->bias == MPQ_NO_VALUE)
        return NULL;
    const struct mpq_tensor *bias = constant_of(b, layer->bias);
    if (!bias)
        return "its bias is computed, not constant";
    if (bias->dtype != MPQ_FLOAT || bias->shape.rank == 0 ||
        mpq_shape_count(&bias->shape) != layer->n_channel ||
        bias->shape.dim[bias->shape.rank - 1] != layer->n_channel)
        return mpq_arena_printf(b->ctx, b->arena, "its bias is %s %s, not one float a channel",
                                mpq_dtype_name(bias->dtype), MPQ_SHAPE_TEXT(&bias->shape));
    if (mpq_uses_single(&b->uses, layer->bias) == MPQ_NO_NODE)
        return "its bias is read elsewhere too";
    if (mpq_node_is(node, "Gemm") && mpq_attr_float(&node->attr_set, "beta", 1.0f) != 1.0f)
        return "its bias has a factor (beta)";
    return NULL;
}

/* NULL where the node is a layer, then *layer is complete; else the reason why not. NULL with a
 * stored error where there is no memory. */
static const char *read_layer(struct builder *b, mpq_node_id id, struct mpq_layer *layer)
{
    const struct mpq_node *node = &b->graph->node[id];
    const struct mpq_tensor *weight = constant_of(b, node->n_in > 1 ? node->in[1] : MPQ_NO_VALUE);
    *layer = (struct mpq_layer){.name = name_of(b, node), .node = id, .x = node->in[0]};
    if (!weight && constant_of(b, node->in[0]))
        return "its weight is the left operand";
    if (!weight)
        return "its weight is computed, not constant";
    if (weight->dtype != MPQ_FLOAT)
        return mpq_arena_printf(b->ctx, b->arena, "its weight is %s, not float",
                                mpq_dtype_name(weight->dtype));
    layer->weight = node->in[1];
    const struct mpq_tensor *x = &b->binding->tensor[layer->x];
    if (x->data)
        return "its input is constant";
    if (x->dtype != MPQ_FLOAT)
        return mpq_arena_printf(b->ctx, b->arena, "its input is %s, not float",
                                mpq_dtype_name(x->dtype));
    const char *reason = split_weight(node, weight, layer);
    if (!reason)
        reason = describe_sharing(b, layer->weight);
    if (!reason)
        reason = find_bias(b, node, layer);
    layer->n_param = mpq_shape_count(&weight->shape);
    if (!reason && layer->n_param == 0)
        reason = "its weight is empty";
    layer->macs = mpq_bind_macs(b->graph, b->binding, id);
    layer->y = node->out[0];
    return reason;
}

/* A Relu or Clip that alone reads the layer's output is part of the layer. */
static mpq_value_id activated_output(const struct builder *b, mpq_value_id y)
{
    mpq_node_id reader = mpq_uses_single(&b->uses, y);
    if (reader == MPQ_NO_NODE)
        return y;
    const struct mpq_node *node = &b->graph->node[reader];
    if (mpq_node_is(node, "Relu"))
        return node->out[0];
    if (!mpq_node_is(node, "Clip") || node->in[0] != y)
        return y;
    for (uint32_t i = 1; i < node->n_in; i++)
        if (node->in[i] != MPQ_NO_VALUE && !b->graph->value[node->in[i]].constant)
            return y;
    return node->out[0];
}

static enum mpq_status add_node(struct builder *b, mpq_node_id id)
{
    const struct mpq_node *node = &b->graph->node[id];
    bool is_layer_op =
        mpq_node_is(node, "Conv") || mpq_node_is(node, "Gemm") || mpq_node_is(node, "MatMul");
    int64_t n_param = count_parameters(b, node);
    const char *reason;
    if (b->binding->is_folded[id])
        return MPQ_OK;
    if (is_layer_op && node->n_in >= 2) {
        struct mpq_layer layer;
        reason = read_layer(b, id, &layer);
        if (!reason) {
            layer.y = activated_output(b, layer.y);
            b->table.layer[b->table.n_layer++] = layer;
            return b->ctx->status; /* a reason may be missing for want of memory */
        }
    } else if (!node->op) {
        reason = mpq_arena_printf(b->ctx, b->arena, "operator %s is not known", node->op_type);
    } else {
        reason = mpq_arena_printf(b->ctx, b->arena, "operator %s is not quantized", node->op_type);
    }
    if (!reason)
        return MPQ_E_NOMEM;
    if (n_param >= MIN_LISTED)
        b->table.rejected[b->table.n_rejected++] = (struct mpq_rejected_layer){id, reason};
    return MPQ_OK;
}

enum mpq_status mpq_layer_table_build(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      const struct mpq_graph *graph,
                                      const struct mpq_binding *binding,
                                      struct mpq_layer_table *out)
{
    struct builder b = {.ctx = ctx, .arena = arena, .graph = graph, .binding = binding};
    MPQ_TRY(mpq_graph_uses(ctx, arena, graph, &b.uses));
    b.table.layer = mpq_arena_alloc(ctx, arena, graph->n_node, sizeof *b.table.layer);
    b.table.rejected = mpq_arena_alloc(ctx, arena, graph->n_node, sizeof *b.table.rejected);
    if (!b.table.layer || !b.table.rejected)
        return MPQ_E_NOMEM;
    for (mpq_node_id n = 0; n < graph->n_node; n++)
        MPQ_TRY(add_node(&b, n));
    *out = b.table;
    return MPQ_OK;
}
