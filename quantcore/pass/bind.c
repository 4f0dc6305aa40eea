#include "quantcore/pass/bind.h"

#include <stdio.h>
#include <string.h>

/* Why no row runs the node, where that is known; else NULL. */
static const char *refusal_of(const struct mpq_node *node)
{
    if (!node->refusal && (mpq_node_is(node, "Loop") || mpq_node_is(node, "Scan")))
        return "how often it runs follows neither from sizes nor from --input-value";
    return node->refusal;
}

/* All nodes that no row of ours runs, in one sentence. Nothing depends on their order but the text.
 */
static enum mpq_status check_known(struct mpq_ctx *ctx, const struct mpq_graph *graph)
{
    char list[3800]; /* a sentence holds 4096 */
    const size_t room = sizeof list - sizeof " and 4294967295 more";
    size_t used = 0;
    unsigned n_unknown = 0, n_named = 0;
    for (uint32_t n = 0; n < graph->n_node; n++) {
        const struct mpq_node *node = &graph->node[n];
        if (node->op)
            continue;
        n_unknown++;
        const char *refusal = refusal_of(node);
        int length = snprintf(
            list + used, room - used, "%s'%s' (%s of %s, opset %lld%s%s)", used ? ", " : "",
            mpq_node_label(graph, node), node->op_type, *node->domain ? node->domain : "ai.onnx",
            (long long)mpq_node_opset(graph, node), refusal ? ": " : "", refusal ? refusal : "");
        if (length > 0 && used + (size_t)length < room) {
            used += (size_t)length;
            n_named++;
        } else {
            list[used] = '\0';
        }
    }
    if (!n_unknown)
        return MPQ_OK;
    if (n_named < n_unknown)
        snprintf(list + used, sizeof list - used, " and %u more", n_unknown - n_named);
    return mpq_fail(ctx, MPQ_E_UNSUPPORTED, "%u node%s cannot be run: %s", n_unknown,
                    n_unknown == 1 ? "" : "s", list);
}

bool mpq_bind_shares_weight(const struct mpq_graph *graph, mpq_node_id n)
{
    enum { LARGE = 16384 };
    const struct mpq_node *node = &graph->node[n];
    if (!mpq_node_is(node, "Transpose") || node->n_in != 1 || node->in[0] == MPQ_NO_VALUE)
        return false;
    const struct mpq_tensor *constant = graph->value[node->in[0]].constant;
    if (!constant || constant->dtype != MPQ_FLOAT || mpq_shape_count(&constant->shape) < LARGE)
        return false;
    for (mpq_node_id before = 0; before < n; before++)
        for (uint32_t i = 0; i < graph->node[before].n_in; i++)
            if (graph->node[before].in[i] == node->in[0])
                return true;
    return false;
}

static bool all_known(const struct mpq_node *node, const struct mpq_tensor *const *x)
{
    if (node->op->reads_shape_only)
        return true;
    for (uint32_t i = 0; i < node->n_in; i++)
        if (x[i] && !x[i]->data)
            return false;
    return true;
}

static enum mpq_status bind_node(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const struct mpq_graph *graph, mpq_node_id id,
                                 struct mpq_binding *binding, bool *out_folded)
{
    const struct mpq_node *node = &graph->node[id];
    const struct mpq_tensor **x = mpq_arena_alloc(ctx, arena, node->n_in, sizeof *x);
    struct mpq_tensor **y = mpq_arena_alloc(ctx, arena, node->n_out, sizeof *y);
    if (!x || !y)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < node->n_in; i++)
        x[i] = node->in[i] == MPQ_NO_VALUE ? NULL : &binding->tensor[node->in[i]];
    for (uint32_t i = 0; i < node->n_out; i++)
        y[i] = node->out[i] == MPQ_NO_VALUE ? NULL : &binding->tensor[node->out[i]];
    *out_folded = all_known(node, x) && !mpq_bind_shares_weight(graph, id);
    if (*out_folded)
        return mpq_op_evaluate(ctx, arena, node, x, y);
    MPQ_TRY(node->op->infer(ctx, node, x, y));
    for (uint32_t i = 0; i < node->n_out; i++) {
        int64_t count;
        if (y[i])
            MPQ_TRY(
                mpq_shape_count_checked(ctx, &y[i]->shape, mpq_dtype_bytes(y[i]->dtype), &count));
    }
    return MPQ_OK;
}

/* Constants and inputs. */
static enum mpq_status bind_values(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_graph *graph, const struct mpq_shape *input,
                                   struct mpq_binding *out)
{
    struct mpq_binding binding;
    binding.tensor = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *binding.tensor);
    binding.is_folded = mpq_arena_alloc(ctx, arena, graph->n_node, sizeof *binding.is_folded);
    if (!binding.tensor || !binding.is_folded)
        return MPQ_E_NOMEM;
    for (uint32_t v = 0; v < graph->n_value; v++) {
        if (graph->value[v].constant)
            binding.tensor[v] = *graph->value[v].constant;
        else
            binding.tensor[v].shape.rank = MPQ_RANK_UNKNOWN;
    }
    for (uint32_t i = 0; i < graph->n_input; i++) {
        struct mpq_tensor *tensor = &binding.tensor[graph->input[i]];
        tensor->dtype = graph->value[graph->input[i]].dtype;
        tensor->shape = input[i];
    }
    *out = binding;
    return MPQ_OK;
}

enum mpq_status mpq_bind(struct mpq_ctx *ctx, struct mpq_arena *arena,
                         const struct mpq_graph *graph, const struct mpq_shape *input,
                         struct mpq_binding *out)
{
    MPQ_TRY(check_known(ctx, graph));
    struct mpq_binding binding;
    MPQ_TRY(bind_values(ctx, arena, graph, input, &binding));
    for (uint32_t n = 0; n < graph->n_node; n++)
        MPQ_TRY(bind_node(ctx, arena, graph, n, &binding, &binding.is_folded[n]));
    *out = binding;
    return MPQ_OK;
}

static bool has_known_inputs(const struct mpq_node *node, const struct mpq_binding *binding)
{
    for (uint32_t i = 0; i < node->n_in; i++)
        if (node->in[i] != MPQ_NO_VALUE && !mpq_shape_is_known(&binding->tensor[node->in[i]].shape))
            return false;
    return node->op != NULL;
}

/* Bind the node, or leave its outputs unknown where that fails. With `is_strict` only what is
 * UNSUPPORTED may fail. */
static enum mpq_status try_node(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                const struct mpq_graph *graph, mpq_node_id id,
                                struct mpq_binding *binding, bool is_strict, bool *out_runs)
{
    const struct mpq_node *node = &graph->node[id];
    struct mpq_ctx quiet = *ctx;
    enum mpq_status status = MPQ_E_UNSUPPORTED;
    if (has_known_inputs(node, binding))
        status = bind_node(&quiet, arena, graph, id, binding, &binding->is_folded[id]);
    ctx->allocations_left = quiet.allocations_left;
    *out_runs = status == MPQ_OK;
    if (status == MPQ_OK)
        return MPQ_OK;
    if (status == MPQ_E_NOMEM || (is_strict && status != MPQ_E_UNSUPPORTED))
        return mpq_fail(ctx, status, "%s", quiet.message);
    for (uint32_t i = 0; i < node->n_out; i++)
        if (node->out[i] != MPQ_NO_VALUE)
            binding->tensor[node->out[i]] = (struct mpq_tensor){.shape.rank = MPQ_RANK_UNKNOWN};
    return MPQ_OK;
}

enum mpq_status mpq_bind_partly(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                const struct mpq_graph *graph, const struct mpq_shape *input,
                                void *const *value, struct mpq_binding *out)
{
    struct mpq_binding binding;
    MPQ_TRY(bind_values(ctx, arena, graph, input, &binding));
    for (uint32_t i = 0; i < graph->n_input; i++)
        binding.tensor[graph->input[i]].data = value[i];
    for (uint32_t n = 0; n < graph->n_node; n++) {
        bool runs;
        MPQ_TRY(try_node(ctx, arena, graph, n, &binding, false, &runs));
    }
    *out = binding;
    return MPQ_OK;
}

/* The symbolic name that stands for the batch: that of the first input with an unknown first
 * dimension. */
static const char *batch_name(const struct mpq_graph *graph)
{
    for (uint32_t i = 0; i < graph->n_input; i++) {
        const struct mpq_value *value = &graph->value[graph->input[i]];
        if (value->shape.rank > 0 && value->shape.dim[0] < 0 && value->dim_param &&
            value->dim_param[0])
            return value->dim_param[0];
    }
    return NULL;
}

enum mpq_status mpq_bind_shapes(struct mpq_ctx *ctx, const struct mpq_graph *graph, int64_t batch,
                                struct mpq_shape *out_shape)
{
    const char *name = batch_name(graph);
    for (uint32_t i = 0; i < graph->n_input; i++) {
        const struct mpq_value *value = &graph->value[graph->input[i]];
        if (value->shape.rank < 0)
            return mpq_fail(ctx, MPQ_E_SHAPE, "input '%s' declares no shape", value->name);
        out_shape[i] = value->shape;
        for (int d = 0; d < value->shape.rank; d++) {
            const char *param = value->dim_param ? value->dim_param[d] : NULL;
            if (value->shape.dim[d] >= 0)
                continue;
            bool is_batch = d == 0 || (name && param && strcmp(name, param) == 0);
            out_shape[i].dim[d] = is_batch         ? batch
                                  : graph->assumed ? graph->assumed[i].dim[d]
                                                   : MPQ_DIM_UNKNOWN;
            if (out_shape[i].dim[d] < 0)
                return mpq_fail(ctx, MPQ_E_SHAPE,
                                "input '%s' has shape %s, and nothing says how large dimension %d "
                                "is (--input-shape does)",
                                value->name, MPQ_SHAPE_TEXT(&value->shape), d);
        }
    }
    return MPQ_OK;
}

enum mpq_status mpq_bind_batch(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               const struct mpq_graph *graph, int64_t batch,
                               struct mpq_binding *out)
{
    struct mpq_shape *shape = mpq_arena_alloc(ctx, arena, graph->n_input, sizeof *shape);
    if (!shape)
        return MPQ_E_NOMEM;
    MPQ_TRY(check_known(ctx, graph)); /* before the user is asked for shapes in vain */
    MPQ_TRY(mpq_bind_shapes(ctx, graph, batch, shape));
    return mpq_bind(ctx, arena, graph, shape, out);
}

enum mpq_status mpq_bind_runnable(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_graph *graph, bool *out_runs,
                                  struct mpq_binding *out)
{
    struct mpq_binding binding;
    struct mpq_shape *shape = mpq_arena_alloc(ctx, arena, graph->n_input, sizeof *shape);
    if (!shape)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_bind_shapes(ctx, graph, 1, shape));
    MPQ_TRY(bind_values(ctx, arena, graph, shape, &binding));
    for (uint32_t n = 0; n < graph->n_node; n++)
        MPQ_TRY(try_node(ctx, arena, graph, n, &binding, true, &out_runs[n]));
    *out = binding;
    return MPQ_OK;
}

uint64_t mpq_bind_macs(const struct mpq_graph *graph, const struct mpq_binding *binding,
                       mpq_node_id id)
{
    enum { MAX = 16 };
    const struct mpq_node *node = &graph->node[id];
    if (!node->op->macs || binding->is_folded[id])
        return 0;
    /* Operators that count multiply-accumulates have few inputs and outputs. */
    const struct mpq_tensor *x[MAX];
    struct mpq_tensor *y[MAX];
    MPQ_ASSERT(node->n_in <= MAX && node->n_out <= MAX);
    for (uint32_t i = 0; i < node->n_in; i++)
        x[i] = node->in[i] == MPQ_NO_VALUE ? NULL : &binding->tensor[node->in[i]];
    for (uint32_t i = 0; i < node->n_out; i++)
        y[i] = node->out[i] == MPQ_NO_VALUE ? NULL : &binding->tensor[node->out[i]];
    return node->op->macs(node, x, y);
}
