/* What follows from graph and options before any memory is given out: which nodes are left to
 * others, and which gradients flow. */
#include "quantcore/engine/exec_state.h"

static bool is_float(const struct mpq_exec *exec, mpq_value_id v)
{
    return exec->tensor[v].dtype == MPQ_FLOAT;
}

/* ---- fusing ---- */

/* Nodes that only clamp what one other node makes, for nobody else to see, are left to that node:
 * it writes their output, and their own input is no more. */
static enum mpq_status fuse_clamps(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                   struct mpq_exec *exec, const struct mpq_exec_options *options)
{
    const struct mpq_graph *graph = exec->graph;
    struct mpq_uses uses;
    MPQ_TRY(mpq_graph_uses(ctx, scratch, graph, &uses));
    for (mpq_node_id n = 0; n < graph->n_node; n++) {
        const struct mpq_node *node = &graph->node[n];
        if (!mpq_exec_runs(exec, n) || !node->op->clamp)
            continue;
        mpq_value_id v = node->in[0];
        mpq_node_id maker = graph->value[v].producer;
        const struct mpq_tensor *x[3] = {0};
        for (uint32_t i = 0; i < node->n_in; i++)
            x[i] = node->in[i] == MPQ_NO_VALUE ? NULL : &exec->tensor[node->in[i]];
        bool is_seen =
            (options->keep && options->keep[v]) || (options->until && options->until[v]) ||
            (options->seed && options->seed[v]) || (options->hooked && options->hooked[v]) ||
            (options->want_grad && options->want_grad[v]);
        if (is_seen || mpq_uses_single(&uses, v) != n || maker == MPQ_NO_NODE ||
            !mpq_exec_runs(exec, maker) || !graph->node[maker].op->clamps_y ||
            graph->node[maker].n_out != 1 || exec->step[maker].clamps ||
            exec->tensor[v].dtype != MPQ_FLOAT ||
            !node->op->clamp(node, x, &exec->step[maker].clamp))
            continue;
        exec->step[maker].clamps = true;
        exec->step[maker].clamped = node->out[0];
        exec->step[n].is_fused = true;
    }
    return MPQ_OK;
}

/* ---- which gradients flow ---- */

/* flows[v]: v depends on something wanted, so its gradient is worth having. A wanted value need not
 * be computed: weights are constants of the graph that the caller feeds. */
static enum mpq_status mark_flow(struct mpq_ctx *ctx, const struct mpq_exec *exec,
                                 const bool *want_grad, bool *flows)
{
    const struct mpq_graph *graph = exec->graph;
    for (uint32_t v = 0; v < graph->n_value; v++)
        flows[v] = want_grad[v];
    for (uint32_t n = 0; n < graph->n_node; n++) {
        const struct mpq_node *node = &graph->node[n];
        bool any = false;
        for (uint32_t i = 0; i < node->n_in; i++)
            any |= node->in[i] != MPQ_NO_VALUE && flows[node->in[i]];
        if (!any || !mpq_exec_runs(exec, n))
            continue;
        for (uint32_t i = 0; i < node->n_out; i++) {
            mpq_value_id v = node->out[i];
            if (v == MPQ_NO_VALUE || !is_float(exec, v))
                continue;
            if (!node->op->backward)
                return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED,
                                     "has no gradient, so the layers before it cannot be tuned");
            flows[v] = true;
        }
    }
    return MPQ_OK;
}

/* reached[v]: the gradient of v will be non-zero, because v is seeded or a reader's output is. */
static void mark_reached(const struct mpq_exec *exec, const struct mpq_exec_options *options,
                         const bool *flows, bool *reached)
{
    const struct mpq_graph *graph = exec->graph;
    for (uint32_t v = 0; v < graph->n_value; v++)
        reached[v] = flows[v] && ((options->seed && options->seed[v]) ||
                                  (options->hooked && options->hooked[v]));
    for (uint32_t i = 0; i < graph->n_output; i++)
        reached[graph->output[i]] = flows[graph->output[i]];
    for (uint32_t n = graph->n_node; n-- > 0;) {
        const struct mpq_node *node = &graph->node[n];
        bool any = false;
        for (uint32_t i = 0; mpq_exec_runs(exec, n) && i < node->n_out; i++)
            any |= node->out[i] != MPQ_NO_VALUE && reached[node->out[i]];
        exec->step[n].runs_backward = any;
        for (uint32_t i = 0; any && i < node->n_in; i++) {
            mpq_value_id v = node->in[i];
            if (v != MPQ_NO_VALUE && flows[v] && is_float(exec, v))
                reached[v] = true;
        }
    }
}

/* ---- steps of backward ---- */

static bool is_hooked(const struct mpq_exec_options *options, const struct mpq_node *node,
                      const bool *reached)
{
    mpq_value_id y = node->out[0];
    return y != MPQ_NO_VALUE && options->hooked && options->hooked[y] && reached[y];
}

enum mpq_status mpq_flow_find(struct mpq_ctx *ctx, struct mpq_arena *arena,
                              struct mpq_arena *scratch, struct mpq_exec *exec,
                              const struct mpq_exec_options *options, bool *reached)
{
    const struct mpq_graph *graph = exec->graph;
    MPQ_TRY(fuse_clamps(ctx, scratch, exec, options));
    if (!options->want_grad)
        return MPQ_OK;
    bool *flows = mpq_arena_alloc(ctx, scratch, graph->n_value, sizeof *flows);
    if (!flows)
        return MPQ_E_NOMEM;
    for (uint32_t v = 0; v < graph->n_value; v++)
        exec->is_anchored[v] = options->want_grad[v] || (options->seed && options->seed[v]);
    for (uint32_t i = 0; i < graph->n_output; i++)
        exec->is_anchored[graph->output[i]] = true;
    MPQ_TRY(mark_flow(ctx, exec, options->want_grad, flows));
    mark_reached(exec, options, flows, reached);
    for (mpq_node_id n = 0; n < graph->n_node; n++) {
        struct step *step = &exec->step[n];
        if (!step->runs_backward)
            continue;
        step->calls_hook = is_hooked(options, &graph->node[n], reached);
        step->fresh = mpq_arena_alloc(ctx, arena, graph->node[n].n_in, sizeof *step->fresh);
        if (!step->fresh)
            return MPQ_E_NOMEM;
    }
    return MPQ_OK;
}
