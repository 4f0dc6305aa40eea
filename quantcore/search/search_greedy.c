/* Bidirectional local search with real evaluations, after "Retraining-free model quantization via
 * one-shot weight-coupling learning" (Tang et al., CVPR 2024): from an allocation within the
 * limits, a layer or a group of activations goes one width down, one goes up, or both at once.
 *
 * Where we differ: the paper evaluates every move of a step and takes the best by a mix of loss and
 * BitOPs, on its way down to the budget. Here the budget is always kept, moves are looked at in the
 * order of their estimated loss, and the first that is better by evaluation, by more than the
 * standard error of the difference, is taken; so an evaluation is spent only where the table
 * promises something, and noise on a few hundred samples is not followed. */
#include <stdlib.h>
#include <string.h>

#include "quantcore/search/searcher.h"

/* Moves evaluated without success from one allocation before it counts as the best around. */
enum { MAX_FAILURES = 24 };

struct move {
    double loss;       /* estimated change         */
    int64_t bytes;     /* change                   */
    uint32_t down, up; /* units; n_unit: none      */
};

struct neighbourhood {
    struct mpq_searcher *s;
    uint8_t *from, *bits; /* [n_unit] where we are; a neighbour of it */
    struct move *move;    /* [n_move], room for all pairs             */
    uint32_t n_move;
};

static int compare_moves(const void *a, const void *b)
{
    const struct move *x = a, *y = b;
    if (x->loss != y->loss)
        return x->loss < y->loss ? -1 : 1;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    if (x->down != y->down)
        return x->down < y->down ? -1 : 1;
    return (x->up > y->up) - (x->up < y->up);
}

/* n->bits: `from` with the move made. False where a unit has no such width. */
static bool make_move(struct neighbourhood *n, uint32_t down, uint32_t up)
{
    uint32_t n_unit = n->s->n_unit;
    memcpy(n->bits, n->from, n_unit);
    if (down < n_unit)
        n->bits[down] = (uint8_t)mpq_searcher_next(n->s, down, n->from[down], -1);
    if (up < n_unit)
        n->bits[up] = (uint8_t)mpq_searcher_next(n->s, up, n->from[up], 1);
    return (down == n_unit || n->bits[down]) && (up == n_unit || n->bits[up]);
}

/* What units `down` and `up` cost together as they are in `bits`, of which `from` is the rest. A
 * group counts with its readers, so a layer that reads it counts as part of it. */
static int64_t pair_cost(const struct neighbourhood *n, uint32_t cost, const uint8_t *bits,
                         uint32_t down, uint32_t up)
{
    const struct mpq_search_problem *p = n->s->problem;
    uint32_t unit[2] = {down, up};
    int64_t sum = 0;
    for (int i = 0; i < 2; i++) {
        uint32_t u = unit[i], other = unit[1 - i];
        bool is_counted = u < p->n_layer && other >= p->n_layer && other < n->s->n_unit &&
                          p->input_group[u] == other - p->n_layer;
        if (u < n->s->n_unit && !is_counted)
            sum += (int64_t)mpq_searcher_unit_cost(n->s, cost, bits, u, bits[u]);
    }
    return sum;
}

/* Add the move if by the table it keeps all limits. */
static void add_move(struct neighbourhood *n, uint32_t down, uint32_t up)
{
    const struct mpq_search_problem *p = n->s->problem;
    uint32_t unit[2] = {down, up};
    struct move move = {.down = down, .up = up};
    if (!make_move(n, down, up))
        return;
    for (uint32_t c = 0; c < p->n_cost; c++) {
        int64_t change = pair_cost(n, c, n->bits, down, up) - pair_cost(n, c, n->from, down, up);
        if (change > 0 && p->cost[c].budget != MPQ_NO_LIMIT &&
            (uint64_t)change > p->cost[c].budget - n->s->best.cost[c])
            return;
        if (c == 0)
            move.bytes = change;
    }
    for (int i = 0; i < 2; i++)
        if (unit[i] < n->s->n_unit)
            move.loss += mpq_searcher_loss(n->s, unit[i], n->bits[unit[i]]) -
                         mpq_searcher_loss(n->s, unit[i], n->from[unit[i]]);
    n->move[n->n_move++] = move;
}

/* All moves that by the table keep the limits, most promising first. */
static void list_moves(struct neighbourhood *n)
{
    uint32_t n_unit = n->s->n_unit;
    n->n_move = 0;
    for (uint32_t down = 0; down <= n_unit; down++)
        for (uint32_t up = 0; up <= n_unit; up++)
            if (down != up)
                add_move(n, down, up);
    qsort(n->move, n->n_move, sizeof *n->move, compare_moves);
}

/* One step; *out_moved false where no neighbour that was evaluated is surely better. */
static enum mpq_status step(struct neighbourhood *n, bool *out_moved)
{
    memcpy(n->from, n->s->best.bits, n->s->n_unit);
    list_moves(n);
    int failures = 0;
    for (uint32_t i = 0; i < n->n_move && failures < MAX_FAILURES; i++) {
        double loss;
        uint32_t n_trial = n->s->n_trial;
        if (!make_move(n, n->move[i].down, n->move[i].up))
            continue;
        MPQ_TRY(mpq_searcher_offer(n->s, n->bits, true, &loss, out_moved));
        if (*out_moved || mpq_searcher_is_exhausted(n->s))
            return MPQ_OK;
        failures += n->s->n_trial > n_trial;
    }
    return MPQ_OK;
}

enum mpq_status mpq_search_greedy(struct mpq_searcher *s)
{
    size_t n_unit = s->n_unit;
    struct neighbourhood n = {.s = s};
    if (!s->has_best)
        return MPQ_OK;
    n.from = mpq_arena_alloc(s->ctx, s->arena, n_unit, 1);
    n.bits = mpq_arena_alloc(s->ctx, s->arena, n_unit, 1);
    n.move = mpq_arena_alloc(s->ctx, s->arena, (n_unit + 1) * (n_unit + 1), sizeof *n.move);
    if (!n.from || !n.bits || !n.move)
        return MPQ_E_NOMEM;
    bool has_moved = n_unit > 0;
    while (has_moved && !mpq_searcher_is_exhausted(s)) {
        has_moved = false;
        MPQ_TRY(step(&n, &has_moved));
    }
    return MPQ_OK;
}
