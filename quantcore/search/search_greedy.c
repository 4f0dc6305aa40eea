/* Bidirectional local search with real evaluations, after "Retraining-free model quantization via
 * one-shot weight-coupling learning" (Tang et al., CVPR 2024): from an allocation within the
 * budget, a layer goes one width down, one goes up, or both at once.
 *
 * Where we differ: the paper evaluates every move of a step and takes the best by a mix of loss and
 * BitOPs, on its way down to the budget. Here the budget is always kept, moves are looked at in the
 * order of their estimated loss, and the first that is better by evaluation is taken; so an
 * evaluation is spent only where the table promises something. */
#include <stdlib.h>
#include <string.h>

#include "quantcore/search/searcher.h"

/* Moves evaluated without success from one allocation before it counts as the best around. */
enum { MAX_FAILURES = 24 };

struct move {
    double loss;       /* estimated change */
    int64_t bytes;     /* change           */
    uint32_t down, up; /* layers; n_layer: none */
};

struct neighbourhood {
    struct mpq_searcher *s;
    uint8_t *from, *bits; /* [n_layer] where we are; a neighbour of it    */
    struct move *single;  /* [2 * n_layer + 2] per layer: down, up; where it has no such width,
                             down == up == n_layer                         */
    struct move *move;    /* [n_move], room for all pairs                  */
    uint32_t n_move;
};

static struct move single_move(const struct neighbourhood *n, uint32_t l, int direction)
{
    uint32_t none = n->s->problem->n_layer, from = n->from[l];
    uint32_t to = mpq_searcher_next(n->s, l, from, direction);
    if (!to)
        return (struct move){.down = none, .up = none};
    return (struct move){.loss = mpq_searcher_loss(n->s, l, to) - mpq_searcher_loss(n->s, l, from),
                         .bytes = (int64_t)mpq_searcher_bytes(n->s, l, to) -
                                  (int64_t)mpq_searcher_bytes(n->s, l, from),
                         .down = direction < 0 ? l : none,
                         .up = direction > 0 ? l : none};
}

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

static void add_move(struct neighbourhood *n, const struct move *move, int64_t room)
{
    if (move->bytes <= room)
        n->move[n->n_move++] = *move;
}

/* All moves that by the table keep the budget, most promising first. */
static void list_moves(struct neighbourhood *n)
{
    const struct mpq_search_problem *p = n->s->problem;
    int64_t room = (int64_t)p->budget_bytes - (int64_t)n->s->best.size_bytes;
    n->n_move = 0;
    for (uint32_t l = 0; l < p->n_layer; l++) {
        n->single[2 * l] = single_move(n, l, -1);
        n->single[2 * l + 1] = single_move(n, l, 1);
    }
    for (uint32_t l = 0; l < p->n_layer; l++) {
        const struct move *down = &n->single[2 * l];
        if (n->single[2 * l + 1].up == l)
            add_move(n, &n->single[2 * l + 1], room);
        if (down->down != l)
            continue;
        add_move(n, down, room);
        for (uint32_t k = 0; k < p->n_layer; k++) {
            const struct move *up = &n->single[2 * k + 1];
            if (k != l && up->up == k)
                add_move(n, &(struct move){down->loss + up->loss, down->bytes + up->bytes, l, k},
                         room);
        }
    }
    qsort(n->move, n->n_move, sizeof *n->move, compare_moves);
}

static void make_move(struct neighbourhood *n, const struct move *move)
{
    uint32_t n_layer = n->s->problem->n_layer;
    memcpy(n->bits, n->from, n_layer);
    if (move->down < n_layer)
        n->bits[move->down] = (uint8_t)mpq_searcher_next(n->s, move->down, n->from[move->down], -1);
    if (move->up < n_layer)
        n->bits[move->up] = (uint8_t)mpq_searcher_next(n->s, move->up, n->from[move->up], 1);
}

/* One step; *out_moved false where no neighbour that was evaluated is better. */
static enum mpq_status step(struct neighbourhood *n, bool *out_moved)
{
    memcpy(n->from, n->s->best.bits, n->s->problem->n_layer);
    list_moves(n);
    int failures = 0;
    for (uint32_t i = 0; i < n->n_move && failures < MAX_FAILURES; i++) {
        double loss;
        uint32_t n_trial = n->s->n_trial;
        make_move(n, &n->move[i]);
        MPQ_TRY(mpq_searcher_offer(n->s, n->bits, &loss, out_moved));
        if (*out_moved || mpq_searcher_is_exhausted(n->s))
            return MPQ_OK;
        failures += n->s->n_trial > n_trial;
    }
    return MPQ_OK;
}

enum mpq_status mpq_search_greedy(struct mpq_searcher *s)
{
    size_t n_layer = s->problem->n_layer;
    struct neighbourhood n = {.s = s};
    if (!s->has_best)
        return MPQ_OK;
    n.from = mpq_arena_alloc(s->ctx, s->arena, n_layer, 1);
    n.bits = mpq_arena_alloc(s->ctx, s->arena, n_layer, 1);
    n.single = mpq_arena_alloc(s->ctx, s->arena, 2 * n_layer, sizeof *n.single);
    n.move = mpq_arena_alloc(s->ctx, s->arena, n_layer * (n_layer + 1), sizeof *n.move);
    if (!n.from || !n.bits || !n.single || !n.move)
        return MPQ_E_NOMEM;
    bool has_moved = n_layer > 0;
    while (has_moved && !mpq_searcher_is_exhausted(s)) {
        has_moved = false;
        MPQ_TRY(step(&n, &has_moved));
    }
    return MPQ_OK;
}
