#include "quantcore/pass/layer_weight.h"
#include "quantcore/pass/pass.h"

/* Nodes with fewer parameters than this are not worth a line in a report. */
enum { MIN_LISTED = 64 };

struct builder {
    struct mpq_ctx *ctx;
    struct mpq_arena *arena;
    const struct mpq_graph *graph;
    const struct mpq_binding *binding; /* or NULL */
    struct mpq_uses uses;
    bool *has_layer; /* [n_value] weights that are layers already */
    struct mpq_layer_table table;
};

static const struct mpq_tensor *constant_of(const struct builder *b, mpq_value_id v)
{
    return v == MPQ_NO_VALUE ? NULL : b->graph->value[v].constant;
}

static bool is_folded(const struct builder *b, mpq_node_id node)
{
    return b->binding && b->binding->is_folded[node];
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

/* Whether `node` reads the value where it has a weight. */
static bool reads_weight(const struct mpq_node *node, mpq_value_id value)
{
    const struct mpq_layer_weight *row = NULL;
    while ((row = mpq_layer_weight_next(node, row)))
        if (row->input < node->n_in && node->in[row->input] == value)
            return true;
    return false;
}

/* A weight of several nodes is one weight-only layer, provided that all read it as their weight;
 * else "is shared by nodes 'a' and 'b'": quantizing it for one would change the other. */
static const char *check_sharing(struct builder *b, struct mpq_layer *layer)
{
    uint32_t first = b->uses.first[layer->weight], n = b->uses.first[layer->weight + 1] - first;
    if (b->uses.is_output[layer->weight])
        return "its weight is an output of the graph";
    layer->is_weight_only |= n > 1;
    for (uint32_t i = first; i < first + n; i++) {
        mpq_node_id reader = b->uses.node[i];
        const struct mpq_node *other = &b->graph->node[reader];
        bool is_transposed = mpq_bind_shares_weight(b->graph, reader);
        if ((reads_weight(other, layer->weight) || is_transposed) && !is_folded(b, reader))
            continue;
        return mpq_arena_printf(b->ctx, b->arena, "its weight is shared with node '%s' (%s)",
                                mpq_node_label(b->graph, other), other->op_type);
    }
    return NULL;
}

/* A bias that is quantized with the weight must be one constant a channel that only this node
 * reads. False: it is not. */
static bool find_bias(const struct builder *b, const struct mpq_node *node, struct mpq_layer *layer)
{
    layer->bias = node->n_in > 2 ? node->in[2] : MPQ_NO_VALUE;
    if (layer->bias == MPQ_NO_VALUE)
        return true;
    const struct mpq_tensor *bias = constant_of(b, layer->bias);
    return bias && bias->dtype == MPQ_FLOAT && bias->shape.rank > 0 &&
           mpq_shape_count(&bias->shape) == layer->n_channel &&
           bias->shape.dim[bias->shape.rank - 1] == layer->n_channel &&
           mpq_uses_single(&b->uses, layer->bias) != MPQ_NO_NODE &&
           mpq_tensor_find_nonfinite(bias) < 0 &&
           (!mpq_node_is(node, "Gemm") || mpq_attr_float(&node->attr_set, "beta", 1.0f) == 1.0f);
}

/* The part of the node's arithmetic that this weight has in it. */
static uint64_t count_macs(const struct builder *b, const struct mpq_layer *layer)
{
    if (!b->binding)
        return 0;
    const struct mpq_node *node = &b->graph->node[layer->node];
    const struct mpq_layer_weight *row = NULL;
    uint64_t macs = mpq_bind_macs(b->graph, b->binding, layer->node);
    double all = 0;
    while ((row = mpq_layer_weight_next(node, row)))
        if (row->input < node->n_in && constant_of(b, node->in[row->input]))
            all += (double)mpq_shape_count(&constant_of(b, node->in[row->input])->shape);
    return (uint64_t)((double)macs * ((double)layer->n_param / all) + 0.5);
}

static mpq_value_id first_output(const struct mpq_node *node)
{
    for (uint32_t i = 0; i < node->n_out; i++)
        if (node->out[i] != MPQ_NO_VALUE)
            return node->out[i];
    return MPQ_NO_VALUE;
}

/* NULL where the weight is a layer, then *layer is complete; else the reason why not. NULL with a
 * stored error where there is no memory. */
static const char *read_layer(struct builder *b, mpq_node_id id, const struct mpq_layer_weight *row,
                              struct mpq_layer *layer)
{
    const struct mpq_node *node = &b->graph->node[id];
    const struct mpq_tensor *weight = constant_of(b, node->in[row->input]);
    *layer = (struct mpq_layer){.name = mpq_node_label(b->graph, node),
                                .node = id,
                                .weight = node->in[row->input],
                                .bias = MPQ_NO_VALUE,
                                .x = MPQ_NO_VALUE,
                                .y = first_output(node),
                                .x_input = -1,
                                .x_group_axis = -1,
                                .n_group = 1,
                                .n_param = mpq_shape_count(&weight->shape)};
    if (*row->suffix)
        layer->name = mpq_arena_printf(b->ctx, b->arena, "%s%s", layer->name, row->suffix);
    if (weight->dtype != MPQ_FLOAT)
        return mpq_arena_printf(b->ctx, b->arena, "its weight is %s, not float",
                                mpq_dtype_name(weight->dtype));
    if (!layer->n_param)
        return "its weight is empty";
    if (mpq_tensor_find_nonfinite(weight) >= 0)
        return "its weight has infinite elements";
    const char *reason = row->read(node, weight, layer);
    if (!reason && b->binding && layer->x != MPQ_NO_VALUE && b->binding->tensor[layer->x].data)
        reason = "its input is constant";
    if (!reason)
        reason = check_sharing(b, layer);
    layer->is_weight_only |= !b->binding;
    if (!reason && !layer->is_weight_only && !find_bias(b, node, layer))
        layer->is_weight_only = true;
    if (layer->is_weight_only)
        layer->bias = MPQ_NO_VALUE;
    layer->macs = count_macs(b, layer);
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

/* The weight that the node before transposes for this one; else the value itself. */
static mpq_value_id through_transpose(const struct builder *b, mpq_value_id value)
{
    mpq_node_id producer = value == MPQ_NO_VALUE ? MPQ_NO_NODE : b->graph->value[value].producer;
    bool is_transposed = producer != MPQ_NO_NODE && mpq_bind_shares_weight(b->graph, producer);
    return is_transposed ? b->graph->node[producer].in[0] : value;
}

/* The layers of a node; *out_reason: why one of its weights is none, NULL where all are. */
static enum mpq_status add_layers(struct builder *b, mpq_node_id id, const char **out_reason)
{
    const struct mpq_node *node = &b->graph->node[id];
    const struct mpq_layer_weight *row = NULL;
    bool has_weight = false;
    *out_reason = NULL;
    while ((row = mpq_layer_weight_next(node, row))) {
        mpq_value_id weight = row->input < node->n_in ? node->in[row->input] : MPQ_NO_VALUE;
        struct mpq_layer layer;
        weight = through_transpose(b, weight);
        if (!constant_of(b, weight))
            continue;
        has_weight = true;
        if (b->has_layer[weight] || weight != node->in[row->input])
            continue;
        const char *reason = read_layer(b, id, row, &layer);
        MPQ_TRY(b->ctx->status); /* a reason or a name may be missing for want of memory */
        if (reason) {
            *out_reason = reason;
            continue;
        }
        if (!layer.is_weight_only)
            layer.y = activated_output(b, layer.y);
        b->has_layer[weight] = true;
        b->table.layer[b->table.n_layer++] = layer;
    }
    if (!has_weight)
        *out_reason = "its weight is computed, not constant";
    return MPQ_OK;
}

static enum mpq_status add_node(struct builder *b, mpq_node_id id)
{
    const struct mpq_node *node = &b->graph->node[id];
    const char *reason;
    if (is_folded(b, id) || mpq_bind_shares_weight(b->graph, id))
        return MPQ_OK;
    if (mpq_layer_weight_next(node, NULL))
        MPQ_TRY(add_layers(b, id, &reason));
    else if (!(reason = mpq_arena_printf(b->ctx, b->arena, "operator %s is not %s", node->op_type,
                                         node->op ? "quantized" : "known")))
        return MPQ_E_NOMEM;
    if (reason && count_parameters(b, node) >= MIN_LISTED)
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
    /* A node has at most two weights. */
    b.table.layer = mpq_arena_alloc(ctx, arena, 2 * (size_t)graph->n_node, sizeof *b.table.layer);
    b.has_layer = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *b.has_layer);
    b.table.rejected = mpq_arena_alloc(ctx, arena, graph->n_node, sizeof *b.table.rejected);
    if (!b.table.layer || !b.has_layer || !b.table.rejected)
        return MPQ_E_NOMEM;
    for (mpq_node_id n = 0; n < graph->n_node; n++)
        MPQ_TRY(add_node(&b, n));
    *out = b.table;
    return MPQ_OK;
}
