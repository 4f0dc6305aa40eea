#include "quantcore/engine/exec.h"

#include <string.h>

#include "quantcore/engine/plan.h"

/* A node with everything its kernels need, tied up once. x, y, dy, dx point into the tables of the
 * exec, so that feeding a value changes what every reader sees. */
struct step {
    const struct mpq_tensor **x;
    struct mpq_tensor **y;
    const mpq_real **dy;
    mpq_real **dx;
    bool *fresh;          /* [n_in] whose gradient this node's backward is the first to touch */
    bool is_fused;        /* its forward is left to the node that makes its input, */
    bool clamps;          /* which clamps, */
    mpq_value_id clamped; /* and writes this */
    struct mpq_clamp clamp;
    bool runs_backward;
    bool calls_hook;  /* of backward, for output 0 */
    bool hooks_alone; /* nothing but the hook touches the gradient of output 0 */
};

/* A value with memory of the exec's is alive before node n for n in [first, end). */
struct life {
    mpq_node_id first, end;
};

struct mpq_exec {
    const struct mpq_graph *graph;
    struct mpq_binding binding; /* its arrays stay the caller's */
    struct mpq_tensor *tensor;  /* [n_value] */
    void **own;                 /* [n_value] memory of computed values and inputs */
    mpq_real **grad;            /* [n_value] */
    bool *is_anchored;          /* [n_value] gradient seeded or wanted: cleared by zero_grad */
    mpq_exec_hook *hook;
    void *hook_arg;
    struct step *step;   /* [n_node]  */
    mpq_node_id *resume; /* [n_node] see mpq_exec_resume() */
    struct life *life;   /* [n_value] */
    void *workspace;
    size_t bytes;
};

static bool is_float(const struct mpq_exec *exec, mpq_value_id v)
{
    return exec->tensor[v].dtype == MPQ_FLOAT;
}

static bool runs(const struct mpq_exec *exec, mpq_node_id n)
{
    return !exec->binding.is_folded[n];
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
        if (!runs(exec, n) || !node->op->clamp)
            continue;
        mpq_value_id v = node->in[0];
        mpq_node_id maker = graph->value[v].producer;
        const struct mpq_tensor *x[3] = {0};
        for (uint32_t i = 0; i < node->n_in; i++)
            x[i] = node->in[i] == MPQ_NO_VALUE ? NULL : &exec->tensor[node->in[i]];
        bool is_seen = (options->keep && options->keep[v]) || (options->seed && options->seed[v]) ||
                       (options->hooked && options->hooked[v]) ||
                       (options->want_grad && options->want_grad[v]);
        if (is_seen || mpq_uses_single(&uses, v) != n || maker == MPQ_NO_NODE ||
            !runs(exec, maker) || !graph->node[maker].op->clamps_y ||
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

/* The value whose memory v has: the output of the clamp that was left to v's maker, or its own. */
static mpq_value_id home_of(const struct mpq_exec *exec, mpq_value_id v)
{
    mpq_node_id maker = exec->graph->value[v].producer;
    return maker != MPQ_NO_NODE && exec->step[maker].clamps ? exec->step[maker].clamped : v;
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
        if (!any || !runs(exec, n))
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
        for (uint32_t i = 0; runs(exec, n) && i < node->n_out; i++)
            any |= node->out[i] != MPQ_NO_VALUE && reached[node->out[i]];
        exec->step[n].runs_backward = any;
        for (uint32_t i = 0; any && i < node->n_in; i++) {
            mpq_value_id v = node->in[i];
            if (v != MPQ_NO_VALUE && flows[v] && is_float(exec, v))
                reached[v] = true;
        }
    }
}

/* ---- memory of values ---- */

/* Forward step of node n is n, its backward step 2 n_node - 1 - n; END is after all of them. */
#define END(graph) (2 * (graph)->n_node)

static void use(const struct mpq_exec *exec, uint32_t *last, mpq_value_id v, uint32_t step)
{
    mpq_value_id home = v == MPQ_NO_VALUE ? v : home_of(exec, v);
    if (home != MPQ_NO_VALUE && last[home] < step)
        last[home] = step;
}

/* The step at which each value is used last. */
static enum mpq_status last_uses(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const struct mpq_exec *exec,
                                 const struct mpq_exec_options *options, uint32_t **out_last)
{
    const struct mpq_graph *graph = exec->graph;
    uint32_t *last = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *last);
    if (!last)
        return MPQ_E_NOMEM;
    for (uint32_t n = 0; n < graph->n_node; n++) {
        const struct mpq_node *node = &graph->node[n];
        bool is_back = exec->step[n].runs_backward;
        uint32_t back = END(graph) - 1 - n, ignores = node->op ? node->op->backward_ignores : 0;
        for (uint32_t i = 0; i < node->n_in; i++)
            use(exec, last, node->in[i], is_back && !(ignores & MPQ_IGNORES_X) ? back : n);
        for (uint32_t i = 0; i < node->n_out; i++)
            use(exec, last, node->out[i], is_back && !(ignores & MPQ_IGNORES_Y) ? back : n);
        if (exec->step[n].calls_hook)
            use(exec, last, node->out[0], back);
    }
    for (uint32_t v = 0; v < graph->n_value; v++)
        if (options->keep_all || (options->keep && options->keep[v]))
            use(exec, last, v, END(graph));
    for (uint32_t i = 0; i < graph->n_output; i++)
        use(exec, last, graph->output[i], END(graph));
    *out_last = last;
    return MPQ_OK;
}

/* A node can be resumed at if all values that cross it live to the end of the forward pass: memory
 * is taken over in forward steps only. */
static enum mpq_status find_resumes(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_arena *scratch, struct mpq_exec *exec,
                                    const uint32_t *last)
{
    const struct mpq_graph *graph = exec->graph;
    bool *broken = mpq_arena_alloc(ctx, scratch, graph->n_node, sizeof *broken);
    uint32_t *reach = mpq_arena_alloc(ctx, scratch, graph->n_node, sizeof *reach);
    exec->resume = mpq_arena_alloc(ctx, arena, graph->n_node, sizeof *exec->resume);
    if (!broken || !reach || !exec->resume)
        return MPQ_E_NOMEM;
    /* reach[p]: the last node that reads something of node p's that dies early. */
    for (mpq_node_id n = 0; n < graph->n_node; n++)
        for (uint32_t i = 0; runs(exec, n) && i < graph->node[n].n_in; i++) {
            mpq_value_id v = graph->node[n].in[i];
            mpq_node_id maker = v == MPQ_NO_VALUE ? MPQ_NO_NODE : graph->value[v].producer;
            if (maker != MPQ_NO_NODE && runs(exec, maker) && last[home_of(exec, v)] < graph->n_node)
                reach[maker] = n;
        }
    for (mpq_node_id p = 0; p < graph->n_node; p++)
        for (mpq_node_id n = p + 1; n <= reach[p]; n++)
            broken[n] = true;
    for (mpq_node_id n = 1; n < graph->n_node; n++)
        exec->resume[n] = broken[n] ? exec->resume[n - 1] : n;
    return MPQ_OK;
}

static enum mpq_status find_lives(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  struct mpq_exec *exec)
{
    const struct mpq_graph *graph = exec->graph;
    struct life *life = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *life);
    if (!life)
        return MPQ_E_NOMEM;
    for (uint32_t v = 0; v < graph->n_value; v++)
        life[v].first = graph->n_node + 1;
    for (uint32_t i = 0; i < graph->n_input; i++)
        life[graph->input[i]].first = 0;
    for (mpq_node_id n = 0; n < graph->n_node; n++) {
        const struct mpq_node *node = &graph->node[n];
        for (uint32_t i = 0; runs(exec, n) && i < node->n_in; i++)
            if (node->in[i] != MPQ_NO_VALUE)
                life[home_of(exec, node->in[i])].end = n + 1;
        for (uint32_t i = 0; runs(exec, n) && !exec->step[n].is_fused && i < node->n_out; i++)
            if (node->out[i] != MPQ_NO_VALUE)
                life[home_of(exec, node->out[i])].first = n + 1;
    }
    exec->life = life;
    return MPQ_OK;
}

static enum mpq_status place_values(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_arena *scratch, struct mpq_exec *exec,
                                    const struct mpq_exec_options *options)
{
    const struct mpq_graph *graph = exec->graph;
    uint32_t *last, n_buffer = 0;
    MPQ_TRY(last_uses(ctx, scratch, exec, options, &last));
    MPQ_TRY(find_resumes(ctx, arena, scratch, exec, last));
    MPQ_TRY(find_lives(ctx, arena, exec));
    struct mpq_plan_buffer *buffer = mpq_arena_alloc(ctx, scratch, graph->n_value, sizeof *buffer);
    mpq_value_id *owner = mpq_arena_alloc(ctx, scratch, graph->n_value, sizeof *owner);
    if (!buffer || !owner)
        return MPQ_E_NOMEM;
    for (uint32_t n = 0; n < graph->n_node; n++)
        for (uint32_t i = 0; runs(exec, n) && !exec->step[n].is_fused && i < graph->node[n].n_out;
             i++) {
            mpq_value_id v = graph->node[n].out[i];
            if (v == MPQ_NO_VALUE || exec->tensor[v].data)
                continue;
            owner[n_buffer] = v = home_of(exec, v);
            buffer[n_buffer++] = (struct mpq_plan_buffer){mpq_tensor_bytes(&exec->tensor[v]), n,
                                                          last[v] > n ? last[v] : n, 0};
        }
    size_t total;
    MPQ_TRY(mpq_plan_place(ctx, scratch, buffer, n_buffer, &total));
    char *block = mpq_arena_alloc(ctx, arena, total, 1);
    if (!block)
        return MPQ_E_NOMEM;
    exec->bytes += total;
    for (uint32_t b = 0; b < n_buffer; b++)
        exec->own[owner[b]] = block + buffer[b].offset;
    /* Inputs keep their own memory: the caller may fill them once and run many times. */
    for (uint32_t i = 0; i < graph->n_input; i++) {
        mpq_value_id v = graph->input[i];
        size_t bytes = mpq_tensor_bytes(&exec->tensor[v]);
        exec->own[v] = mpq_arena_alloc(ctx, arena, bytes, 1);
        if (!exec->own[v])
            return MPQ_E_NOMEM;
        exec->bytes += bytes;
    }
    for (uint32_t v = 0; v < graph->n_value; v++)
        if (exec->own[home_of(exec, v)])
            exec->tensor[v].data = exec->own[v] = exec->own[home_of(exec, v)];
        else
            exec->own[v] = exec->tensor[v].data;
    return MPQ_OK;
}

/* ---- memory of gradients ---- */

/* Gradients being placed: backward step of node n is n_node-1-n. The gradient of an anchored value
 * lives throughout, any other from the backward step of its last reader to that of its producer. */
struct gradients {
    struct mpq_exec *exec;
    struct mpq_plan_buffer *buffer; /* [n_buffer] */
    uint32_t n_buffer;
    uint32_t *buffer_of; /* [n_value] n_value: none yet */
    const bool *reached;
};

static bool is_placed(const struct gradients *g, mpq_value_id v)
{
    return g->buffer_of[v] < g->exec->graph->n_value;
}

static void place(struct gradients *g, mpq_value_id v, uint32_t first, uint32_t last)
{
    g->buffer_of[v] = g->n_buffer;
    g->buffer[g->n_buffer++] =
        (struct mpq_plan_buffer){mpq_tensor_bytes(&g->exec->tensor[v]), first, last, 0};
}

/* Whether the gradient of a fresh input 0 can take the memory of the output's, which ends here. */
static bool can_share(const struct gradients *g, const struct mpq_node *node)
{
    const struct mpq_exec *exec = g->exec;
    mpq_value_id x = node->in[0], y = node->out[0];
    return node->op->in_place_dx && is_placed(g, y) && !exec->is_anchored[y] &&
           mpq_tensor_bytes(&exec->tensor[x]) == mpq_tensor_bytes(&exec->tensor[y]);
}

static uint32_t step_of_producer(const struct mpq_graph *graph, mpq_value_id v)
{
    return graph->n_node - 1 - graph->value[v].producer;
}

/* Inputs of node n whose gradients begin here. One that the node reads twice is cleared first. */
static void place_inputs(struct gradients *g, mpq_node_id n)
{
    const struct mpq_graph *graph = g->exec->graph;
    const struct mpq_node *node = &graph->node[n];
    struct step *step = &g->exec->step[n];
    for (uint32_t i = 0; i < node->n_in; i++) {
        mpq_value_id v = node->in[i];
        if (v == MPQ_NO_VALUE || !g->reached[v] || is_placed(g, v))
            continue;
        step->fresh[i] = true;
        if (i == 0 && can_share(g, node)) {
            g->buffer_of[v] = g->buffer_of[node->out[0]];
            g->buffer[g->buffer_of[v]].last = step_of_producer(graph, v);
        } else
            place(g, v, graph->n_node - 1 - n, step_of_producer(graph, v));
    }
}

/* The hook is called where the producer's backward runs, when all readers have added theirs. */
static void place_hook(struct gradients *g, const struct mpq_exec_options *options, mpq_node_id n)
{
    const struct mpq_graph *graph = g->exec->graph;
    struct step *step = &g->exec->step[n];
    mpq_value_id y = graph->node[n].out[0];
    if (y == MPQ_NO_VALUE || !options->hooked || !options->hooked[y] || !g->reached[y])
        return;
    step->calls_hook = true;
    step->hooks_alone = !is_placed(g, y);
    if (step->hooks_alone)
        place(g, y, graph->n_node - 1 - n, graph->n_node - 1 - n);
}

static enum mpq_status place_gradients(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       struct mpq_arena *scratch, struct mpq_exec *exec,
                                       const struct mpq_exec_options *options, const bool *reached)
{
    const struct mpq_graph *graph = exec->graph;
    struct gradients g = {.exec = exec,
                          .buffer = mpq_arena_alloc(ctx, scratch, graph->n_value, sizeof *g.buffer),
                          .buffer_of =
                              mpq_arena_alloc(ctx, scratch, graph->n_value, sizeof *g.buffer_of),
                          .reached = reached};
    if (!g.buffer || !g.buffer_of)
        return MPQ_E_NOMEM;
    for (uint32_t v = 0; v < graph->n_value; v++)
        g.buffer_of[v] = graph->n_value;
    for (uint32_t v = 0; v < graph->n_value; v++)
        if (reached[v] && exec->is_anchored[v])
            place(&g, v, 0, graph->n_node);
    for (uint32_t n = graph->n_node; n-- > 0;) {
        if (!exec->step[n].runs_backward)
            continue;
        exec->step[n].fresh =
            mpq_arena_alloc(ctx, arena, graph->node[n].n_in, sizeof *exec->step[n].fresh);
        if (!exec->step[n].fresh)
            return MPQ_E_NOMEM;
        place_hook(&g, options, n);
        place_inputs(&g, n);
    }
    size_t total;
    MPQ_TRY(mpq_plan_place(ctx, scratch, g.buffer, g.n_buffer, &total));
    char *block = mpq_arena_alloc(ctx, arena, total, 1);
    if (!block)
        return MPQ_E_NOMEM;
    exec->bytes += total;
    for (uint32_t v = 0; v < graph->n_value; v++)
        if (is_placed(&g, v))
            exec->grad[v] = (mpq_real *)(void *)(block + g.buffer[g.buffer_of[v]].offset);
    return MPQ_OK;
}

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
        if (node->in[i] != MPQ_NO_VALUE) {
            step->x[i] = &exec->tensor[node->in[i]];
            step->dx[i] = exec->grad[node->in[i]];
        }
    for (uint32_t i = 0; i < node->n_out; i++)
        if (node->out[i] != MPQ_NO_VALUE) {
            step->y[i] = &exec->tensor[node->out[i]];
            step->dy[i] = exec->grad[node->out[i]];
        }
    return MPQ_OK;
}

static enum mpq_status create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                              struct mpq_arena *scratch, struct mpq_exec *exec,
                              const struct mpq_exec_options *options)
{
    const struct mpq_graph *graph = exec->graph;
    bool *flows = mpq_arena_alloc(ctx, scratch, graph->n_value, sizeof *flows);
    bool *reached = mpq_arena_alloc(ctx, scratch, graph->n_value, sizeof *reached);
    if (!flows || !reached)
        return MPQ_E_NOMEM;
    exec->hook = options->hook;
    exec->hook_arg = options->hook_arg;
    MPQ_TRY(fuse_clamps(ctx, scratch, exec, options));
    if (options->want_grad) {
        for (uint32_t v = 0; v < graph->n_value; v++)
            exec->is_anchored[v] = options->want_grad[v] || (options->seed && options->seed[v]);
        for (uint32_t i = 0; i < graph->n_output; i++)
            exec->is_anchored[graph->output[i]] = true;
        MPQ_TRY(mark_flow(ctx, exec, options->want_grad, flows));
        mark_reached(exec, options, flows, reached);
        MPQ_TRY(place_gradients(ctx, arena, scratch, exec, options, reached));
    }
    MPQ_TRY(place_values(ctx, arena, scratch, exec, options));
    size_t workspace = 0;
    for (uint32_t n = 0; n < graph->n_node; n++) {
        MPQ_TRY(bind_step(ctx, arena, exec, n));
        const struct mpq_node *node = &graph->node[n];
        if (!runs(exec, n) || !node->op->workspace)
            continue;
        size_t bytes = node->op->workspace(node, exec->step[n].x, exec->step[n].y,
                                           exec->step[n].runs_backward);
        if (bytes > workspace)
            workspace = bytes;
    }
    exec->workspace = mpq_arena_alloc(ctx, arena, workspace + 64, 1);
    exec->bytes += workspace;
    return exec->workspace ? MPQ_OK : MPQ_E_NOMEM;
}

enum mpq_status mpq_exec_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                const struct mpq_graph *graph, const struct mpq_binding *binding,
                                const struct mpq_exec_options *options, struct mpq_exec **out)
{
    struct mpq_exec *exec = mpq_arena_alloc(ctx, arena, 1, sizeof *exec);
    if (!exec)
        return MPQ_E_NOMEM;
    exec->graph = graph;
    exec->binding = *binding;
    exec->tensor =
        mpq_arena_copy(ctx, arena, binding->tensor, graph->n_value * sizeof *exec->tensor);
    exec->own = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *exec->own);
    exec->grad = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *exec->grad);
    exec->is_anchored = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *exec->is_anchored);
    exec->step = mpq_arena_alloc(ctx, arena, graph->n_node, sizeof *exec->step);
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!exec->tensor || !exec->own || !exec->grad || !exec->is_anchored || !exec->step ||
        !scratch) {
        mpq_arena_free(scratch);
        return MPQ_E_NOMEM;
    }
    enum mpq_status status = create(ctx, arena, scratch, exec, options);
    mpq_arena_free(scratch);
    if (status == MPQ_OK)
        *out = exec;
    return status;
}

struct mpq_tensor *mpq_exec_tensor(struct mpq_exec *exec, mpq_value_id value)
{
    return &exec->tensor[value];
}

void mpq_exec_feed(struct mpq_exec *exec, mpq_value_id value, void *data)
{
    exec->tensor[value].data = data ? data : exec->own[value];
}

void mpq_exec_forward(struct mpq_exec *exec, mpq_node_id first, mpq_node_id last)
{
    for (mpq_node_id n = first; n < last; n++) {
        const struct mpq_node *node = &exec->graph->node[n];
        const struct step *step = &exec->step[n];
        if (runs(exec, n) && !step->is_fused)
            node->op->forward(&(struct mpq_kernel_args){.node = node,
                                                        .x = step->x,
                                                        .y = step->y,
                                                        .clamp = step->clamps ? &step->clamp : NULL,
                                                        .workspace = exec->workspace});
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

void mpq_exec_backward(struct mpq_exec *exec)
{
    for (mpq_node_id n = exec->graph->n_node; n-- > 0;) {
        const struct mpq_node *node = &exec->graph->node[n];
        const struct step *step = &exec->step[n];
        if (!step->runs_backward)
            continue;
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
}

size_t mpq_exec_bytes(const struct mpq_exec *exec)
{
    return exec->bytes;
}
