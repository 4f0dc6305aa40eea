#include "importer/order.h"

#include "importer/subgraph.h"

/* Values that a node waits for: its inputs, and what its bodies read. */
struct need {
    const mpq_value_id *id;
    uint32_t n;
};

static enum mpq_status find_need(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const struct mpq_graph *graph, const struct mpq_node *node,
                                 bool *is_read, struct need *out)
{
    mpq_value_id *captured, *all;
    uint32_t n_captured;
    MPQ_TRY(mpq_subgraph_captures(ctx, arena, graph, node, &captured, &n_captured));
    *out = (struct need){node->in, node->n_in};
    if (n_captured == 0)
        return MPQ_OK;
    all = mpq_arena_grow(ctx, arena, node->in, node->n_in, node->n_in + n_captured, sizeof *all);
    if (!all)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < n_captured; i++) {
        all[node->n_in + i] = captured[i];
        is_read[captured[i]] = true;
    }
    *out = (struct need){all, node->n_in + n_captured};
    return MPQ_OK;
}

/* By depth-first search from each node in file order. `frame` is an explicit stack of (node, next
 * need to look at). */
enum mpq_status mpq_execution_order(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_graph *graph, const struct mpq_node *node,
                                    uint32_t n_node, const uint32_t *producer, bool *is_read,
                                    uint32_t *out_order)
{
    enum { NEW, OPEN, DONE };
    struct frame {
        uint32_t node, next;
    } *frame = mpq_arena_alloc(ctx, arena, n_node, sizeof *frame);
    uint8_t *state = mpq_arena_alloc(ctx, arena, n_node, sizeof *state);
    struct need *need = mpq_arena_alloc(ctx, arena, n_node, sizeof *need);
    uint32_t n_order = 0;
    if (!frame || !state || !need)
        return MPQ_E_NOMEM;
    for (uint32_t n = 0; n < n_node; n++)
        MPQ_TRY(find_need(ctx, arena, graph, &node[n], is_read, &need[n]));
    for (uint32_t root = 0; root < n_node; root++) {
        size_t depth = 0;
        if (state[root] == NEW) {
            state[root] = OPEN;
            frame[depth++] = (struct frame){root, 0};
        }
        while (depth) {
            struct frame *top = &frame[depth - 1];
            if (top->next == need[top->node].n) {
                state[top->node] = DONE;
                out_order[n_order++] = top->node;
                depth--;
                continue;
            }
            mpq_value_id v = need[top->node].id[top->next++];
            uint32_t before = v == MPQ_NO_VALUE ? MPQ_NO_NODE : producer[v];
            if (before == MPQ_NO_NODE || state[before] == DONE)
                continue;
            if (state[before] == OPEN)
                return mpq_fail_node(ctx, &node[top->node], MPQ_E_FORMAT,
                                     "depends on its own result '%s'", graph->value[v].name);
            state[before] = OPEN;
            frame[depth++] = (struct frame){before, 0};
        }
    }
    return MPQ_OK;
}
