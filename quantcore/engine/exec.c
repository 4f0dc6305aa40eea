#include "quantcore/engine/exec.h"

#include <string.h>

#include "quantcore/engine/exec_state.h"
#include "quantcore/pass/pass.h"

/* ---- tying up ---- */

static enum mpq_status bind_step(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 struct mpq_exec *exec, mpq_node_id n)
{
    const struct mpq_node *node = &exec->graph->node[n];
    struct step *step = &exec->step[n];
    step->x = mpq_arena_alloc(ctx, arena, node->n_in, sizeof *step->x);
    step->dx = mpq_arena_alloc(ctx, arena, node->n_in, sizeof *step->dx);
    step->y = mpq_arena_alloc(ctx, arena, node->n_out, sizeof *step->y);
    step->dy = mpq_arena_alloc(ctx, arena, node->n_out, sizeof *step->dy);
    if (!step->x || !step->dx || !step->y || !step->dy)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < node->n_in; i++)
        if (node->in[i] != MPQ_NO_VALUE)
            step->x[i] = &exec->tensor[node->in[i]];
    for (uint32_t i = 0; i < node->n_out; i++)
        if (node->out[i] != MPQ_NO_VALUE)
            step->y[i] = &exec->tensor[node->out[i]];
    return MPQ_OK;
}

static void bind_gradients(struct mpq_exec *exec, mpq_node_id n)
{
    const struct mpq_node *node = &exec->graph->node[n];
    for (uint32_t i = 0; i < node->n_in; i++)
        if (node->in[i] != MPQ_NO_VALUE)
            exec->step[n].dx[i] = exec->grad[node->in[i]];
    for (uint32_t i = 0; i < node->n_out; i++)
        if (node->out[i] != MPQ_NO_VALUE)
            exec->step[n].dy[i] = exec->grad[node->out[i]];
}

static size_t workspace_bytes(const struct mpq_exec *exec)
{
    size_t most = 0;
    for (mpq_node_id n = 0; n < exec->graph->n_node; n++) {
        const struct mpq_node *node = &exec->graph->node[n];
        const struct step *step = &exec->step[n];
        if (!mpq_exec_runs(exec, n) || !node->op->workspace)
            continue;
        size_t bytes = node->op->workspace(node, step->x, step->y, step->runs_backward);
        most = bytes > most ? bytes : most;
    }
    return most;
}

static size_t input_bytes(const struct mpq_exec *exec)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < exec->graph->n_input; i++)
        bytes += mpq_tensor_bytes(&exec->tensor[exec->graph->input[i]]);
    return bytes;
}

/* The first way to lay everything out that takes no more than max_bytes besides `other`, or that
 * which takes least. */
static enum mpq_status choose_layout(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                     struct mpq_exec *exec, const struct mpq_exec_options *options,
                                     const bool *reached, size_t other, struct layout *out)
{
    size_t max_bytes = options->max_bytes ? options->max_bytes : SIZE_MAX, least = SIZE_MAX;
    int n_level = options->want_grad ? MPQ_RECOMPUTE_LEVELS : 1;
    for (int level = -1; level < n_level; level++) { /* -1: as 0, in two blocks */
        struct layout layout;
        bool *again = mpq_arena_alloc(ctx, scratch, exec->graph->n_node, sizeof *again);
        if (!again)
            return MPQ_E_NOMEM;
        MPQ_TRY(mpq_recompute_choose(ctx, scratch, exec, options, level < 0 ? 0 : level, again));
        MPQ_TRY(mpq_layout_make(ctx, scratch, exec, options, reached, again, level >= 0, &layout));
        size_t bytes = layout.value_bytes + layout.gradient_bytes + other;
        if (bytes < least) {
            least = bytes;
            *out = layout;
        }
        if (bytes <= max_bytes)
            break;
    }
    exec->bytes = least;
    return MPQ_OK;
}

/* arena NULL: take no memory, find out how much it would be. */
static enum mpq_status create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                              struct mpq_arena *scratch, struct mpq_exec *exec,
                              const struct mpq_exec_options *options)
{
    const struct mpq_graph *graph = exec->graph;
    struct mpq_arena *lasting = arena ? arena : scratch;
    struct layout layout;
    bool *reached = mpq_arena_alloc(ctx, scratch, graph->n_value, sizeof *reached);
    if (!reached)
        return MPQ_E_NOMEM;
    for (mpq_node_id n = 0; n < graph->n_node; n++)
        exec->sums_plainly |= mpq_node_dequantizes(&graph->node[n]);
    exec->hook = options->hook;
    exec->hook_arg = options->hook_arg;
    MPQ_TRY(mpq_flow_find(ctx, lasting, scratch, exec, options, reached));
    for (mpq_node_id n = 0; n < graph->n_node; n++)
        MPQ_TRY(bind_step(ctx, lasting, exec, n));
    size_t workspace = workspace_bytes(exec);
    MPQ_TRY(choose_layout(ctx, scratch, exec, options, reached, workspace + input_bytes(exec),
                          &layout));
    exec->again = mpq_recompute_share(exec, &layout.schedule);
    if (!arena)
        return MPQ_OK;
    MPQ_TRY(mpq_layout_settle(ctx, arena, scratch, exec, &layout));
    for (mpq_node_id n = 0; n < graph->n_node; n++)
        bind_gradients(exec, n);
    exec->workspace = mpq_arena_alloc(ctx, arena, workspace + 64, 1);
    return exec->workspace ? MPQ_OK : MPQ_E_NOMEM;
}

/* An exec whose tables are in `arena`; its memory, too, unless it is only measured. */
static enum mpq_status make(struct mpq_ctx *ctx, struct mpq_arena *arena,
                            const struct mpq_graph *graph, const struct mpq_binding *binding,
                            const struct mpq_exec_options *options, bool is_measured,
                            struct mpq_exec **out)
{
    struct mpq_exec *exec = mpq_arena_alloc(ctx, arena, 1, sizeof *exec);
    if (!exec)
        return MPQ_E_NOMEM;
    exec->graph = graph;
    exec->binding = *binding;
    exec->tensor =
        mpq_arena_copy(ctx, arena, binding->tensor, graph->n_value * sizeof *exec->tensor);
    exec->own = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *exec->own);
    exec->anew = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *exec->anew);
    exec->grad = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *exec->grad);
    exec->is_anchored = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *exec->is_anchored);
    exec->step = mpq_arena_alloc(ctx, arena, graph->n_node, sizeof *exec->step);
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!exec->tensor || !exec->own || !exec->anew || !exec->grad || !exec->is_anchored ||
        !exec->step || !scratch) {
        mpq_arena_free(scratch);
        return MPQ_E_NOMEM;
    }
    enum mpq_status status = create(ctx, is_measured ? NULL : arena, scratch, exec, options);
    mpq_arena_free(scratch);
    if (status == MPQ_OK)
        *out = exec;
    return status;
}

enum mpq_status mpq_exec_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                const struct mpq_graph *graph, const struct mpq_binding *binding,
                                const struct mpq_exec_options *options, struct mpq_exec **out)
{
    return make(ctx, arena, graph, binding, options, false, out);
}

enum mpq_status mpq_exec_measure(struct mpq_ctx *ctx, const struct mpq_graph *graph,
                                 const struct mpq_binding *binding,
                                 const struct mpq_exec_options *options, size_t *out_bytes,
                                 double *out_again)
{
    struct mpq_exec *exec;
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    enum mpq_status status = make(ctx, scratch, graph, binding, options, true, &exec);
    if (status == MPQ_OK) {
        *out_bytes = exec->bytes;
        *out_again = exec->again;
    }
    mpq_arena_free(scratch);
    return status;
}

struct mpq_tensor *mpq_exec_tensor(struct mpq_exec *exec, mpq_value_id value)
{
    return &exec->tensor[value];
}

enum mpq_status mpq_exec_tensors(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 struct mpq_exec *exec, const mpq_value_id *value, uint32_t n,
                                 struct mpq_tensor ***out)
{
    struct mpq_tensor **tensor = mpq_arena_alloc(ctx, arena, n, sizeof(struct mpq_tensor *));
    if (!tensor)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < n; i++)
        tensor[i] = mpq_exec_tensor(exec, value[i]);
    *out = tensor;
    return MPQ_OK;
}

void mpq_exec_feed(struct mpq_exec *exec, mpq_value_id value, void *data)
{
    exec->tensor[value].data = data ? data : exec->own[value];
}

/* Where node n's outputs are: what forward makes, or what backward makes of them again. */
static void point(struct mpq_exec *exec, mpq_node_id n, void *const *place)
{
    const struct mpq_node *node = &exec->graph->node[n];
    for (uint32_t i = 0; i < node->n_out; i++)
        if (node->out[i] != MPQ_NO_VALUE)
            exec->tensor[node->out[i]].data = place[node->out[i]];
    if (exec->step[n].clamps)
        exec->tensor[exec->step[n].clamped].data = place[exec->step[n].clamped];
}

static void run_forward(struct mpq_exec *exec, mpq_node_id n)
{
    const struct mpq_node *node = &exec->graph->node[n];
    const struct step *step = &exec->step[n];
    node->op->forward(&(struct mpq_kernel_args){.node = node,
                                                .x = step->x,
                                                .y = step->y,
                                                .clamp = step->clamps ? &step->clamp : NULL,
                                                .sums_plainly = exec->sums_plainly,
                                                .workspace = exec->workspace});
}

void mpq_exec_forward(struct mpq_exec *exec, mpq_node_id first, mpq_node_id last)
{
    for (mpq_node_id n = first; n < last; n++) {
        if (!mpq_exec_runs(exec, n) || exec->step[n].is_fused)
            continue;
        if (exec->step[n].runs_again)
            point(exec, n, exec->own);
        run_forward(exec, n);
    }
}

mpq_node_id mpq_exec_resume(const struct mpq_exec *exec, mpq_node_id n)
{
    return exec->resume[n];
}

static bool is_alive(const struct mpq_exec *exec, mpq_value_id v, mpq_node_id n)
{
    return exec->life[v].first <= n && n < exec->life[v].end;
}

size_t mpq_exec_live_bytes(const struct mpq_exec *exec, mpq_node_id n)
{
    size_t bytes = 0;
    for (uint32_t v = 0; v < exec->graph->n_value; v++)
        bytes += is_alive(exec, v, n) ? mpq_tensor_bytes(&exec->tensor[v]) : 0;
    return bytes;
}

void mpq_exec_save(const struct mpq_exec *exec, mpq_node_id n, void *out)
{
    char *to = out;
    for (uint32_t v = 0; v < exec->graph->n_value; v++)
        if (is_alive(exec, v, n)) {
            size_t bytes = mpq_tensor_bytes(&exec->tensor[v]);
            memcpy(to, exec->own[v], bytes);
            to += bytes;
        }
}

void mpq_exec_restore(struct mpq_exec *exec, mpq_node_id n, const void *saved)
{
    const char *from = saved;
    for (uint32_t v = 0; v < exec->graph->n_value; v++)
        if (is_alive(exec, v, n)) {
            size_t bytes = mpq_tensor_bytes(&exec->tensor[v]);
            memcpy(exec->own[v], from, bytes);
            from += bytes;
        }
}

static void clear_grad(struct mpq_exec *exec, mpq_value_id v)
{
    memset(exec->grad[v], 0, mpq_tensor_bytes(&exec->tensor[v]));
}

void mpq_exec_zero_grad(struct mpq_exec *exec)
{
    for (uint32_t v = 0; v < exec->graph->n_value; v++)
        if (exec->is_anchored[v] && exec->grad[v])
            clear_grad(exec, v);
}

mpq_real *mpq_exec_grad(struct mpq_exec *exec, mpq_value_id value)
{
    mpq_node_id n = exec->graph->value[value].producer;
    bool is_hooked = n != MPQ_NO_NODE && exec->step[n].calls_hook;
    return exec->is_anchored[value] || is_hooked ? exec->grad[value] : NULL;
}

static void run_backward(struct mpq_exec *exec, mpq_node_id n)
{
    const struct mpq_node *node = &exec->graph->node[n];
    const struct step *step = &exec->step[n];
    for (uint32_t i = 0; i < node->n_in && !node->op->sets_dx; i++)
        if (step->fresh[i])
            clear_grad(exec, node->in[i]);
    if (step->hooks_alone)
        clear_grad(exec, node->out[0]);
    if (step->calls_hook)
        exec->hook(exec->hook_arg, node->out[0]);
    node->op->backward(
        &(struct mpq_kernel_args){.node = node,
                                  .x = step->x,
                                  .y = step->y,
                                  .dy = step->dy,
                                  .dx = step->dx,
                                  .dx_is_fresh = node->op->sets_dx ? step->fresh : NULL,
                                  .workspace = exec->workspace});
}

void mpq_exec_backward(struct mpq_exec *exec)
{
    for (uint32_t i = 0; i < exec->n_turn; i++) {
        mpq_node_id n = exec->turn[i].node;
        if (exec->turn[i].is_forward) {
            point(exec, n, exec->anew);
            run_forward(exec, n);
        } else
            run_backward(exec, n);
    }
}

void mpq_exec_sum_plainly(struct mpq_exec *exec, bool plainly)
{
    exec->sums_plainly = plainly;
}

size_t mpq_exec_bytes(const struct mpq_exec *exec)
{
    return exec->bytes;
}

double mpq_exec_again(const struct mpq_exec *exec)
{
    return exec->again;
}
