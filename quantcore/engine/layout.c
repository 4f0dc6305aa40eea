/* Where values and gradients lie. */
#include "quantcore/engine/exec_state.h"

#include <stdlib.h>

#include "quantcore/engine/plan.h"

/* ---- values ---- */

static void add_value(const struct mpq_exec *exec, struct layout *l, mpq_value_id v, uint32_t first,
                      uint32_t last)
{
    l->owner[l->n_value_buffer++] = v;
    l->buffer[l->n_buffer++] =
        (struct mpq_plan_buffer){mpq_tensor_bytes(&exec->tensor[v]), first, last, 0};
}

static void list_values(const struct mpq_exec *exec, struct layout *l)
{
    const struct mpq_graph *graph = exec->graph;
    const struct schedule *s = &l->schedule;
    for (mpq_node_id n = 0; n < graph->n_node; n++)
        for (uint32_t i = 0;
             mpq_exec_runs(exec, n) && !exec->step[n].is_fused && i < graph->node[n].n_out; i++) {
            mpq_value_id v = graph->node[n].out[i];
            if (v == MPQ_NO_VALUE || exec->tensor[v].data)
                continue;
            v = mpq_exec_home(exec, v);
            add_value(exec, l, v, n, s->last[v] > n ? s->last[v] : n);
        }
    for (uint32_t v = 0; v < graph->n_value; v++)
        if (s->anew_first[v] != MPQ_NEVER)
            add_value(exec, l, v, s->anew_first[v], s->anew_last[v]);
}

/* ---- gradients ---- */

/* The gradient of an anchored value lives throughout, any other from the backward of its last
 * reader to that of its producer. */
struct gradients {
    struct mpq_exec *exec;
    struct layout *layout;
    const bool *reached;
};

static bool is_placed(const struct gradients *g, mpq_value_id v)
{
    return g->layout->gradient_of[v] != MPQ_NEVER;
}

static void place(struct gradients *g, mpq_value_id v, uint32_t first, uint32_t last)
{
    g->layout->gradient_of[v] = g->layout->n_buffer;
    g->layout->buffer[g->layout->n_buffer++] =
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

/* Inputs of node n whose gradients begin here. One that the node reads twice is cleared first. */
static void place_inputs(struct gradients *g, mpq_node_id n)
{
    const struct mpq_graph *graph = g->exec->graph;
    const struct mpq_node *node = &graph->node[n];
    struct step *step = &g->exec->step[n];
    uint32_t *gradient_of = g->layout->gradient_of;
    const uint32_t *back = g->layout->schedule.back;
    for (uint32_t i = 0; i < node->n_in; i++) {
        mpq_value_id v = node->in[i];
        if (v == MPQ_NO_VALUE || !g->reached[v] || is_placed(g, v))
            continue;
        uint32_t last = back[graph->value[v].producer];
        step->fresh[i] = true;
        if (i == 0 && can_share(g, node)) {
            gradient_of[v] = gradient_of[node->out[0]];
            g->layout->buffer[gradient_of[v]].last = last;
        } else
            place(g, v, back[n], last);
    }
}

/* The hook is called where the producer's backward runs, when all readers have added theirs. */
static void place_hook(struct gradients *g, mpq_node_id n)
{
    struct step *step = &g->exec->step[n];
    mpq_value_id y = g->exec->graph->node[n].out[0];
    uint32_t now = g->layout->schedule.back[n];
    if (!step->calls_hook)
        return;
    step->hooks_alone = !is_placed(g, y);
    if (step->hooks_alone)
        place(g, y, now, now);
}

static void list_gradients(struct mpq_exec *exec, struct layout *l, const bool *reached)
{
    const struct mpq_graph *graph = exec->graph;
    struct gradients g = {exec, l, reached};
    for (uint32_t v = 0; v < graph->n_value; v++)
        l->gradient_of[v] = MPQ_NEVER;
    for (uint32_t v = 0; v < graph->n_value; v++)
        if (reached[v] && exec->is_anchored[v])
            place(&g, v, 0, l->schedule.end);
    for (mpq_node_id n = graph->n_node; n-- > 0;)
        if (exec->step[n].runs_backward) {
            place_hook(&g, n);
            place_inputs(&g, n);
        }
}

/* ---- placing ---- */

struct ordered {
    struct mpq_plan_buffer buffer;
    uint32_t index;
};

static int by_first(const void *a, const void *b)
{
    const struct ordered *x = a, *y = b;
    if (x->buffer.first != y->buffer.first)
        return x->buffer.first < y->buffer.first ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

/* mpq_plan_place() for buffers in any order. */
static enum mpq_status place_buffers(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                     struct mpq_plan_buffer *buffer, uint32_t n, size_t *out_total)
{
    struct ordered *ordered = mpq_arena_alloc(ctx, scratch, n, sizeof *ordered);
    struct mpq_plan_buffer *sorted = mpq_arena_alloc(ctx, scratch, n, sizeof *sorted);
    if (!ordered || !sorted)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < n; i++)
        ordered[i] = (struct ordered){buffer[i], i};
    qsort(ordered, n, sizeof *ordered, by_first);
    for (uint32_t i = 0; i < n; i++)
        sorted[i] = ordered[i].buffer;
    MPQ_TRY(mpq_plan_place(ctx, scratch, sorted, n, out_total));
    for (uint32_t i = 0; i < n; i++)
        buffer[ordered[i].index].offset = sorted[i].offset;
    return MPQ_OK;
}

enum mpq_status mpq_layout_make(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                struct mpq_exec *exec, const struct mpq_exec_options *options,
                                const bool *reached, const bool *again, bool is_joint,
                                struct layout *out)
{
    uint32_t n_value = exec->graph->n_value;
    struct layout l = {.again = again, .is_joint = is_joint};
    MPQ_TRY(mpq_schedule_make(ctx, scratch, exec, options, again, &l.schedule));
    l.buffer = mpq_arena_alloc(ctx, scratch, 3 * (size_t)n_value, sizeof *l.buffer);
    l.owner = mpq_arena_alloc(ctx, scratch, 2 * (size_t)n_value, sizeof *l.owner);
    l.gradient_of = mpq_arena_alloc(ctx, scratch, n_value, sizeof *l.gradient_of);
    if (!l.buffer || !l.owner || !l.gradient_of)
        return MPQ_E_NOMEM;
    list_values(exec, &l);
    list_gradients(exec, &l, reached);
    uint32_t n_first = is_joint ? l.n_buffer : l.n_value_buffer;
    MPQ_TRY(place_buffers(ctx, scratch, l.buffer, n_first, &l.value_bytes));
    MPQ_TRY(
        place_buffers(ctx, scratch, l.buffer + n_first, l.n_buffer - n_first, &l.gradient_bytes));
    *out = l;
    return MPQ_OK;
}

/* ---- parts of the graph by themselves ---- */

/* A node can be resumed at if all values that cross it live to the end of the forward pass: memory
 * is taken over in forward steps only, unless backward has no block of its own. */
static enum mpq_status find_resumes(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_arena *scratch, struct mpq_exec *exec,
                                    const struct layout *layout)
{
    const struct mpq_graph *graph = exec->graph;
    bool *broken = mpq_arena_alloc(ctx, scratch, graph->n_node, sizeof *broken);
    uint32_t *reach = mpq_arena_alloc(ctx, scratch, graph->n_node, sizeof *reach);
    exec->resume = mpq_arena_alloc(ctx, arena, graph->n_node, sizeof *exec->resume);
    if (!broken || !reach || !exec->resume)
        return MPQ_E_NOMEM;
    if (layout->is_joint)
        return MPQ_OK;
    /* reach[p]: the last node that reads something of node p's that dies early. */
    for (mpq_node_id n = 0; n < graph->n_node; n++)
        for (uint32_t i = 0; mpq_exec_runs(exec, n) && i < graph->node[n].n_in; i++) {
            mpq_value_id v = graph->node[n].in[i];
            mpq_node_id maker = v == MPQ_NO_VALUE ? MPQ_NO_NODE : graph->value[v].producer;
            if (maker != MPQ_NO_NODE && mpq_exec_runs(exec, maker) &&
                layout->schedule.last[mpq_exec_home(exec, v)] < graph->n_node)
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
        for (uint32_t i = 0; mpq_exec_runs(exec, n) && i < node->n_in; i++)
            if (node->in[i] != MPQ_NO_VALUE)
                life[mpq_exec_home(exec, node->in[i])].end = n + 1;
        for (uint32_t i = 0; mpq_exec_runs(exec, n) && !exec->step[n].is_fused && i < node->n_out;
             i++)
            if (node->out[i] != MPQ_NO_VALUE)
                life[mpq_exec_home(exec, node->out[i])].first = n + 1;
    }
    exec->life = life;
    return MPQ_OK;
}

/* ---- tying to memory ---- */

/* Inputs keep their own memory: the caller may fill them once and run many times. */
static enum mpq_status take_inputs(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   struct mpq_exec *exec)
{
    for (uint32_t i = 0; i < exec->graph->n_input; i++) {
        mpq_value_id v = exec->graph->input[i];
        exec->own[v] = mpq_arena_alloc(ctx, arena, mpq_tensor_bytes(&exec->tensor[v]), 1);
        if (!exec->own[v])
            return MPQ_E_NOMEM;
    }
    return MPQ_OK;
}

static void tie(struct mpq_exec *exec, const struct layout *layout, char *values, char *gradients)
{
    const struct mpq_graph *graph = exec->graph;
    for (uint32_t b = 0; b < layout->n_value_buffer; b++) {
        mpq_value_id v = layout->owner[b];
        void **place = exec->own[v] ? &exec->anew[v] : &exec->own[v];
        *place = values + layout->buffer[b].offset;
    }
    for (uint32_t v = 0; v < graph->n_value; v++) {
        mpq_value_id home = mpq_exec_home(exec, v);
        exec->anew[v] = exec->anew[home];
        if (exec->own[home])
            exec->tensor[v].data = exec->own[v] = exec->own[home];
        else
            exec->own[v] = exec->tensor[v].data;
    }
    char *block = layout->is_joint ? values : gradients;
    for (uint32_t v = 0; v < graph->n_value; v++)
        if (layout->gradient_of[v] != MPQ_NEVER)
            exec->grad[v] =
                (mpq_real *)(void *)(block + layout->buffer[layout->gradient_of[v]].offset);
}

enum mpq_status mpq_layout_settle(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  struct mpq_arena *scratch, struct mpq_exec *exec,
                                  const struct layout *layout)
{
    const struct schedule *s = &layout->schedule;
    MPQ_TRY(find_resumes(ctx, arena, scratch, exec, layout));
    MPQ_TRY(find_lives(ctx, arena, exec));
    exec->turn = mpq_arena_copy(ctx, arena, s->turn, s->n_turn * sizeof *s->turn);
    char *values = mpq_arena_alloc(ctx, arena, layout->value_bytes, 1);
    char *gradients = mpq_arena_alloc(ctx, arena, layout->gradient_bytes, 1);
    if (!exec->turn || !values || !gradients)
        return MPQ_E_NOMEM;
    exec->n_turn = s->n_turn;
    for (uint32_t i = 0; i < s->n_turn; i++)
        if (s->turn[i].is_forward)
            exec->step[s->turn[i].node].runs_again = true;
    MPQ_TRY(take_inputs(ctx, arena, exec));
    tie(exec, layout, values, gradients);
    return MPQ_OK;
}
