/* The order of backward, and when values are in memory. */
#include "quantcore/engine/exec_state.h"

#include <stdlib.h>

struct maker {
    const struct mpq_exec *exec;
    const bool *again;
    struct schedule s;
    uint32_t now;
    bool *is_there;    /* [n_node] has run again */
    mpq_node_id *list; /* [n_list] to run again for the turn at work */
    uint32_t n_list;
};

/* The node that writes v, a home: its producer, unless that is left to another one. */
static mpq_node_id writer_of(const struct mpq_exec *exec, mpq_value_id v)
{
    const struct mpq_graph *graph = exec->graph;
    mpq_node_id n = graph->value[v].producer;
    return n != MPQ_NO_NODE && exec->step[n].is_fused ? graph->value[graph->node[n].in[0]].producer
                                                      : n;
}

/* v is read now, by forward or by backward. */
static void use(struct maker *m, mpq_value_id v)
{
    if (v == MPQ_NO_VALUE)
        return;
    v = mpq_exec_home(m->exec, v);
    uint32_t *last = m->s.anew_first[v] == MPQ_NEVER ? &m->s.last[v] : &m->s.anew_last[v];
    if (*last < m->now)
        *last = m->now;
}

/* Puts the node that has to run again before v can be read on the list. */
static void bring_back(struct maker *m, mpq_value_id v)
{
    if (v == MPQ_NO_VALUE)
        return;
    mpq_node_id n = writer_of(m->exec, mpq_exec_home(m->exec, v));
    if (n == MPQ_NO_NODE || !m->again[n] || m->is_there[n])
        return;
    m->is_there[n] = true;
    m->list[m->n_list++] = n;
}

static int by_node(const void *a, const void *b)
{
    mpq_node_id x = *(const mpq_node_id *)a, y = *(const mpq_node_id *)b;
    return x < y ? -1 : x > y;
}

static void run_again(struct maker *m, mpq_node_id n)
{
    const struct mpq_node *node = &m->exec->graph->node[n];
    for (uint32_t i = 0; i < node->n_in; i++)
        use(m, node->in[i]);
    for (uint32_t i = 0; i < node->n_out; i++)
        if (node->out[i] != MPQ_NO_VALUE) {
            mpq_value_id v = mpq_exec_home(m->exec, node->out[i]);
            m->s.anew_first[v] = m->s.anew_last[v] = m->now;
        }
    m->s.turn[m->s.n_turn++] = (struct turn){n, true};
    m->now++;
}

/* What backward of node n looks at, each by visit(). */
static void visit_needs(struct maker *m, mpq_node_id n, void (*visit)(struct maker *, mpq_value_id))
{
    const struct mpq_node *node = &m->exec->graph->node[n];
    unsigned ignores = node->op->backward_ignores;
    for (uint32_t i = 0; i < node->n_in && !(ignores & MPQ_IGNORES_X); i++)
        visit(m, node->in[i]);
    for (uint32_t i = 0; i < node->n_out && !(ignores & MPQ_IGNORES_Y); i++)
        visit(m, node->out[i]);
    if (m->exec->step[n].calls_hook)
        visit(m, node->out[0]);
}

static void run_backward(struct maker *m, mpq_node_id n)
{
    const struct mpq_graph *graph = m->exec->graph;
    m->n_list = 0;
    visit_needs(m, n, bring_back);
    for (uint32_t k = 0; k < m->n_list; k++)
        for (uint32_t i = 0; i < graph->node[m->list[k]].n_in; i++)
            bring_back(m, graph->node[m->list[k]].in[i]);
    if (m->n_list)
        qsort(m->list, m->n_list, sizeof *m->list, by_node);
    for (uint32_t k = 0; k < m->n_list; k++)
        run_again(m, m->list[k]);
    visit_needs(m, n, use);
    m->s.back[n] = m->now++;
    m->s.turn[m->s.n_turn++] = (struct turn){n, false};
}

static enum mpq_status create(struct mpq_ctx *ctx, struct mpq_arena *arena, struct maker *m)
{
    const struct mpq_graph *graph = m->exec->graph;
    m->is_there = mpq_arena_alloc(ctx, arena, graph->n_node, sizeof *m->is_there);
    m->list = mpq_arena_alloc(ctx, arena, graph->n_node, sizeof *m->list);
    m->s.last = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *m->s.last);
    m->s.anew_first = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *m->s.anew_first);
    m->s.anew_last = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *m->s.anew_last);
    m->s.back = mpq_arena_alloc(ctx, arena, graph->n_node, sizeof *m->s.back);
    m->s.turn = mpq_arena_alloc(ctx, arena, 2 * (size_t)graph->n_node, sizeof *m->s.turn);
    return m->is_there && m->list && m->s.last && m->s.anew_first && m->s.anew_last && m->s.back &&
                   m->s.turn
               ? MPQ_OK
               : MPQ_E_NOMEM;
}

enum mpq_status mpq_schedule_make(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_exec *exec,
                                  const struct mpq_exec_options *options, const bool *again,
                                  struct schedule *out)
{
    const struct mpq_graph *graph = exec->graph;
    struct maker m = {.exec = exec, .again = again};
    MPQ_TRY(create(ctx, arena, &m));
    for (uint32_t v = 0; v < graph->n_value; v++)
        m.s.anew_first[v] = MPQ_NEVER;
    for (uint32_t v = 0; options->until && v < graph->n_value; v++)
        if (options->until[v])
            m.s.last[mpq_exec_home(exec, v)] = options->until[v] - 1;
    for (mpq_node_id n = 0; n < graph->n_node; n++, m.now++) {
        for (uint32_t i = 0; i < graph->node[n].n_in; i++)
            use(&m, graph->node[n].in[i]);
        for (uint32_t i = 0; i < graph->node[n].n_out; i++)
            use(&m, graph->node[n].out[i]);
    }
    for (mpq_node_id n = graph->n_node; n-- > 0;)
        if (exec->step[n].runs_backward)
            run_backward(&m, n);
    m.s.end = m.now;
    for (uint32_t v = 0; v < graph->n_value; v++)
        if (options->keep_all || (options->keep && options->keep[v]))
            use(&m, v);
    for (uint32_t i = 0; i < graph->n_output; i++)
        use(&m, graph->output[i]);
    *out = m.s;
    return MPQ_OK;
}
