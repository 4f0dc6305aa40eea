#include "quantcore/pass/pass.h"

/* A first dimension of 1 becomes unknown. */
static bool free_batch(struct mpq_value *value)
{
    bool is_one = value->shape.rank > 0 && value->shape.dim[0] == 1;
    if (is_one)
        value->shape.dim[0] = MPQ_DIM_UNKNOWN;
    return is_one;
}

/* Values that depend on an input of the graph; the others, which unpack weights, have no batch.
 * NULL: no memory. */
static bool *find_varying(struct mpq_ctx *ctx, const struct mpq_graph *graph)
{
    bool *varies = mpq_arena_alloc(ctx, graph->arena, graph->n_value, sizeof *varies);
    if (!varies)
        return NULL;
    for (uint32_t i = 0; i < graph->n_input; i++)
        varies[graph->input[i]] = true;
    for (uint32_t n = 0; n < graph->n_node; n++) {
        const struct mpq_node *node = &graph->node[n];
        bool any = false;
        for (uint32_t i = 0; i < node->n_in; i++)
            any |= node->in[i] != MPQ_NO_VALUE && varies[node->in[i]];
        for (uint32_t i = 0; i < node->n_out; i++)
            if (node->out[i] != MPQ_NO_VALUE)
                varies[node->out[i]] = any;
    }
    return varies;
}

/* The constant list in input i if it begins with 1. */
static const struct mpq_tensor *find_target(const struct mpq_graph *graph,
                                            const struct mpq_node *node, uint32_t i)
{
    if (i >= node->n_in || node->in[i] == MPQ_NO_VALUE)
        return NULL;
    const struct mpq_tensor *target = graph->value[node->in[i]].constant;
    bool is_ours = target && target->dtype == MPQ_INT64 && target->shape.rank == 1 &&
                   target->shape.dim[0] > 0 && mpq_tensor_int(target, 0) == 1;
    return is_ours ? target : NULL;
}

static enum mpq_status set_target(struct mpq_ctx *ctx, struct mpq_graph *graph,
                                  struct mpq_node *node, uint32_t i,
                                  const struct mpq_tensor *target)
{
    mpq_value_id *in = mpq_arena_copy(ctx, graph->arena, node->in, node->n_in * sizeof *node->in);
    if (!in)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_graph_add_constant(ctx, graph, graph->value[node->in[i]].name, target, &in[i]));
    node->in = in;
    return MPQ_OK;
}

/* [1, ...] becomes [0, ...], where 0 copies the input's dimension. */
static enum mpq_status free_reshape(struct mpq_ctx *ctx, struct mpq_graph *graph,
                                    struct mpq_node *node)
{
    const struct mpq_tensor *target = find_target(graph, node, 1);
    if (!mpq_node_is(node, "Reshape") || !target ||
        mpq_attr_int(&node->attr_set, "allowzero", 0) != 0)
        return MPQ_OK;
    struct mpq_tensor changed = *target;
    changed.data = mpq_arena_copy(ctx, graph->arena, target->data, mpq_tensor_bytes(target));
    if (!changed.data)
        return MPQ_E_NOMEM;
    ((int64_t *)changed.data)[0] = 0;
    return set_target(ctx, graph, node, 1, &changed);
}

/* Sizes [1, ...] become [...] for all axes but the first. */
static enum mpq_status free_resize(struct mpq_ctx *ctx, struct mpq_graph *graph,
                                   struct mpq_node *node)
{
    const struct mpq_tensor *sizes = find_target(graph, node, 3);
    if (!mpq_node_is(node, "Resize") || !sizes || mpq_attr_find(&node->attr_set, "axes"))
        return MPQ_OK;
    struct mpq_tensor rest = *sizes;
    int64_t n = --rest.shape.dim[0];
    rest.data = (int64_t *)sizes->data + 1;
    int64_t *axes = mpq_arena_alloc(ctx, graph->arena, n, sizeof *axes);
    if (!axes)
        return MPQ_E_NOMEM;
    for (int64_t i = 0; i < n; i++)
        axes[i] = i + 1;
    struct mpq_attr attr = {.name = "axes", .kind = MPQ_ATTR_INTS, .n = (size_t)n, .ints = axes};
    MPQ_TRY(mpq_attr_set_with(ctx, graph->arena, &node->attr_set, &attr, &node->attr_set));
    MPQ_TRY(set_target(ctx, graph, node, 3, &rest));
    return mpq_op_resolve(ctx, graph->arena, node);
}

enum mpq_status mpq_rebatch(struct mpq_ctx *ctx, struct mpq_arena *arena,
                            const struct mpq_graph *graph, struct mpq_graph **out_graph,
                            bool *out_changed)
{
    struct mpq_graph *copy;
    bool has_changed = false;
    MPQ_TRY(mpq_graph_clone(ctx, arena, graph, false, &copy));
    for (uint32_t i = 0; i < copy->n_input; i++)
        has_changed |= free_batch(&copy->value[copy->input[i]]);
    if (has_changed) {
        const bool *varies = find_varying(ctx, copy);
        if (!varies)
            return MPQ_E_NOMEM;
        for (uint32_t v = 0; v < copy->n_value; v++)
            if (copy->value[v].producer != MPQ_NO_NODE && varies[v])
                free_batch(&copy->value[v]);
        for (uint32_t n = 0; n < copy->n_node; n++) {
            mpq_value_id data = copy->node[n].n_in ? copy->node[n].in[0] : MPQ_NO_VALUE;
            if (data == MPQ_NO_VALUE || !varies[data])
                continue;
            MPQ_TRY(free_reshape(ctx, copy, &copy->node[n]));
            MPQ_TRY(free_resize(ctx, copy, &copy->node[n]));
        }
    }
    *out_graph = has_changed ? copy : (struct mpq_graph *)graph;
    *out_changed = has_changed;
    return MPQ_OK;
}
