#include "quantcore/pass/pass.h"

#include <string.h>

/* A first dimension of 1 becomes unknown. */
static bool free_batch(struct mpq_value *value)
{
    bool is_one = value->shape.rank > 0 && value->shape.dim[0] == 1;
    if (is_one)
        value->shape.dim[0] = MPQ_DIM_UNKNOWN;
    return is_one;
}

/* [1, ...] becomes [0, ...], where 0 copies the input's dimension. */
static enum mpq_status free_reshape(struct mpq_ctx *ctx, struct mpq_graph *graph,
                                    struct mpq_node *node)
{
    if (strcmp(node->op_type, "Reshape") != 0 || node->domain[0] || node->n_in != 2 ||
        mpq_attr_int(&node->attr_set, "allowzero", 0) != 0)
        return MPQ_OK;
    const struct mpq_value *value = &graph->value[node->in[1]];
    const struct mpq_tensor *target = value->constant;
    if (graph->value[node->in[0]].constant || !target || target->dtype != MPQ_INT64 ||
        mpq_shape_count(&target->shape) == 0 || mpq_tensor_int(target, 0) != 1)
        return MPQ_OK;
    struct mpq_tensor changed = *target;
    changed.data = mpq_arena_copy(ctx, graph->arena, target->data, mpq_tensor_bytes(target));
    mpq_value_id *in = mpq_arena_copy(ctx, graph->arena, node->in, node->n_in * sizeof *node->in);
    if (!changed.data || !in)
        return MPQ_E_NOMEM;
    ((int64_t *)changed.data)[0] = 0;
    MPQ_TRY(mpq_graph_add_constant(ctx, graph, value->name, &changed, &in[1]));
    node->in = in;
    return MPQ_OK;
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
        for (uint32_t v = 0; v < copy->n_value; v++)
            if (copy->value[v].producer != MPQ_NO_NODE)
                free_batch(&copy->value[v]);
        for (uint32_t n = 0; n < copy->n_node; n++)
            MPQ_TRY(free_reshape(ctx, copy, &copy->node[n]));
    }
    *out_graph = has_changed ? copy : (struct mpq_graph *)graph;
    *out_changed = has_changed;
    return MPQ_OK;
}
