/* Nodes whose outputs are the same at every run become constants. */
#include "quantcore/pass/edit.h"
#include "quantcore/pass/pass.h"

/* Expand, ConstantOfShape and the like make much out of little; such constants would swell the
 * file. */
static bool is_worth_storing(const struct mpq_edit *edit, size_t in_bytes, size_t out_bytes)
{
    return edit->keeps_dequantize || out_bytes <= 65536 || out_bytes / 4 <= in_bytes;
}

static bool is_foldable(const struct mpq_edit *edit, const struct mpq_node *node)
{
    if (!node->op || !node->op->forward || node->op->domain[0] != '\0')
        return false;
    if (edit->keeps_dequantize && mpq_node_dequantizes(node))
        return false;
    for (size_t i = 0; i < node->attr_set.n; i++)
        if (node->attr_set.attr[i].kind == MPQ_ATTR_OPAQUE)
            return false;
    for (uint32_t i = 0; i < node->n_out; i++) /* an output of the graph must be computed */
        if (node->out[i] != MPQ_NO_VALUE && edit->value[node->out[i]].is_output)
            return false;
    return true;
}

static enum mpq_status replace(struct mpq_edit *edit, struct mpq_node *node,
                               struct mpq_tensor *const *y)
{
    mpq_edit_remove(edit, node);
    for (uint32_t i = 0; i < node->n_out; i++) {
        if (!y[i])
            continue;
        struct mpq_value *value = &edit->graph->value[node->out[i]];
        value->dtype = y[i]->dtype;
        value->shape = edit->value[node->out[i]].shape = y[i]->shape;
        value->dim_param = NULL;
        value->constant = y[i];
    }
    return MPQ_OK;
}

/* The outputs as the binding found them, where no input of the graph has a free dimension. */
static enum mpq_status fold_static(struct mpq_edit *edit, struct mpq_node *node)
{
    struct mpq_tensor **y = mpq_arena_alloc(edit->ctx, edit->arena, node->n_out, sizeof *y);
    if (!y)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < node->n_out; i++) {
        mpq_value_id v = node->out[i];
        if (v == MPQ_NO_VALUE)
            continue;
        if (v >= edit->n_static || !edit->static_value[v].data ||
            !is_worth_storing(edit, 0, mpq_tensor_bytes(&edit->static_value[v])))
            return MPQ_OK;
        y[i] = mpq_arena_copy(edit->ctx, edit->arena, &edit->static_value[v], sizeof *y[i]);
        if (!y[i])
            return MPQ_E_NOMEM;
    }
    return replace(edit, node, y);
}

/* An operator that refuses its constants is left for whoever runs the graph to complain about. */
static enum mpq_status evaluate(struct mpq_edit *edit, const struct mpq_node *node,
                                const struct mpq_tensor *const *x, struct mpq_tensor *const *y,
                                bool *out_done)
{
    struct mpq_ctx quiet = *edit->ctx;
    size_t in_bytes = 0, out_bytes = 0;
    enum mpq_status status = node->op->infer(&quiet, node, x, y);
    for (uint32_t i = 0; i < node->n_in; i++)
        in_bytes += x[i] ? mpq_tensor_bytes(x[i]) : 0;
    for (uint32_t i = 0; i < node->n_out && status == MPQ_OK; i++) {
        int64_t count = 0;
        if (y[i])
            status =
                mpq_shape_count_checked(&quiet, &y[i]->shape, mpq_dtype_bytes(y[i]->dtype), &count);
        out_bytes += (size_t)count * (y[i] ? mpq_dtype_bytes(y[i]->dtype) : 0);
    }
    *out_done = false;
    if (status != MPQ_OK || !is_worth_storing(edit, in_bytes, out_bytes))
        return MPQ_OK;
    *out_done = true;
    return mpq_op_evaluate(edit->ctx, edit->arena, node, x, y);
}

static enum mpq_status fold_constant(struct mpq_edit *edit, mpq_node_id n)
{
    struct mpq_node *node = &edit->graph->node[n];
    if (!is_foldable(edit, node) || mpq_bind_shares_weight(edit->graph, n))
        return MPQ_OK;
    const struct mpq_tensor **x = mpq_arena_alloc(edit->ctx, edit->arena, node->n_in, sizeof *x);
    struct mpq_tensor **y = mpq_arena_alloc(edit->ctx, edit->arena, node->n_out, sizeof *y);
    struct mpq_tensor *tensor =
        mpq_arena_alloc(edit->ctx, edit->arena, node->n_out, sizeof *tensor);
    if (!x || !y || !tensor)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < node->n_in; i++) {
        x[i] = mpq_edit_constant(edit, node->in[i]);
        if (node->in[i] != MPQ_NO_VALUE && !x[i])
            return edit->static_value ? fold_static(edit, node) : MPQ_OK;
    }
    for (uint32_t i = 0; i < node->n_out; i++)
        y[i] = node->out[i] == MPQ_NO_VALUE ? NULL : &tensor[i];
    bool is_done;
    MPQ_TRY(evaluate(edit, node, x, y, &is_done));
    return is_done ? replace(edit, node, y) : MPQ_OK;
}

enum mpq_status mpq_fold_constant(struct mpq_edit *edit)
{
    return mpq_edit_sweep(edit, fold_constant);
}
