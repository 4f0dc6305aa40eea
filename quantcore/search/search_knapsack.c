/* The best allocation by the additive estimate, brought under the budget by exact sizes. What the
 * first layer of a width adds to the file by itself, the program that unpacks it, is no layer's in
 * the table; so it is tried whether doing without a width, or with two alone, saves more than they
 * are worth. */
#include <math.h>
#include <string.h>

#include "quantcore/search/searcher.h"

/* How often the capacity is corrected by what the exact size exceeds the budget. */
enum { MAX_CORRECTIONS = 32 };

struct proposal {
    uint8_t *bits;   /* [n_unit]; NULL: none was found        */
    double estimate; /* INFINITY where none was               */
    double price[MPQ_N_COST];
    uint64_t cost[MPQ_N_COST]; /* exact */
    bool was_corrected;        /* the best by the table was too large */
};

/* What the limits leave for the widths to spend. */
static void find_limits(const struct mpq_search_problem *p, uint64_t *limit)
{
    for (uint32_t c = 0; c < p->n_cost; c++) {
        const struct mpq_cost *cost = &p->cost[c];
        limit[c] = cost->budget > cost->other ? cost->budget - cost->other : 0;
        if (cost->budget == MPQ_NO_LIMIT)
            limit[c] = MPQ_NO_LIMIT;
    }
}

/* The best by the table whose exact costs keep the limits. What the first knapsack says, before any
 * correction and with all widths, holds for whatever fits: files are no smaller than the table
 * says. */
static enum mpq_status propose(struct mpq_searcher *s, struct proposal *out)
{
    const struct mpq_search_problem *p = s->problem;
    struct mpq_knapsack_result result = {.bits = mpq_arena_alloc(s->ctx, s->arena, s->n_unit, 1)};
    uint64_t limit[MPQ_N_COST];
    bool fits;
    *out = (struct proposal){.estimate = INFINITY};
    if (!result.bits)
        return MPQ_E_NOMEM;
    find_limits(p, limit);
    for (int i = 0; i < MAX_CORRECTIONS; i++) {
        MPQ_TRY(mpq_knapsack(s, limit, &result));
        if (i == 0 && !s->excluded && result.is_found)
            s->best.bound = result.bound;
        if (!result.is_found)
            return MPQ_OK;
        MPQ_TRY(mpq_searcher_measure(s, result.bits, out->cost, &fits));
        if (fits) {
            out->bits = result.bits;
            out->estimate = result.estimate;
            memcpy(out->price, result.price, sizeof out->price);
            return MPQ_OK;
        }
        uint64_t spent = mpq_search_cost(p, 0, result.bits) - p->cost[0].other;
        uint64_t excess = out->cost[0] > p->cost[0].budget ? out->cost[0] - p->cost[0].budget : 1;
        if (limit[0] == MPQ_NO_LIMIT || excess > spent)
            break;
        limit[0] = spent - excess; /* less than this allocation, which is not found again */
        out->was_corrected = true;
    }
    return MPQ_OK;
}

/* Propose without width b, too, if the layers can do without it, and keep the better of the two.
 * One that was left out before comes back where that set of widths gains nothing now; as long as
 * nothing is found, what was left out stays so. */
static enum mpq_status try_without(struct mpq_searcher *s, uint32_t b, struct proposal *best)
{
    struct proposal trial;
    if (!mpq_searcher_can_do_without(s, b))
        return MPQ_OK;
    s->excluded |= (uint16_t)(1 << b);
    MPQ_TRY(propose(s, &trial));
    if (trial.estimate < best->estimate)
        *best = trial;
    else if (best->bits)
        s->excluded &= (uint16_t) ~(1 << b);
    return MPQ_OK;
}

/* Widths that the result does without better, from the widest, as long as there are any. */
static enum mpq_status leave_out_widths(struct mpq_searcher *s, struct proposal *best)
{
    double before;
    do {
        before = best->estimate;
        for (uint32_t b = MPQ_MAX_BITS; b >= MPQ_MIN_BITS; b--)
            MPQ_TRY(try_without(s, b, best));
    } while (best->estimate < before);
    s->excluded = 0;
    return MPQ_OK;
}

/* No widths but two, as far as layers allow it: where each of the others by itself gives way to one
 * more, none is left out one by one. */
static enum mpq_status try_pairs(struct mpq_searcher *s, struct proposal *best)
{
    struct proposal trial;
    for (uint32_t wide = MPQ_MAX_BITS; wide > MPQ_MIN_BITS; wide--)
        for (uint32_t narrow = MPQ_MIN_BITS; narrow < wide; narrow++) {
            if (!mpq_searcher_has_width(s, wide) || !mpq_searcher_has_width(s, narrow))
                continue;
            mpq_searcher_keep_only(s, 1u << wide | 1u << narrow);
            MPQ_TRY(propose(s, &trial));
            s->excluded = 0;
            if (trial.estimate < best->estimate)
                *best = trial;
        }
    return MPQ_OK;
}

enum mpq_status mpq_search_knapsack(struct mpq_searcher *s)
{
    struct proposal best;
    uint64_t least;
    bool is_accepted;
    double loss;
    MPQ_TRY(propose(s, &best));
    if (best.was_corrected) { /* else it is the best by itself, or there is none */
        MPQ_TRY(leave_out_widths(s, &best));
        MPQ_TRY(try_pairs(s, &best));
    }
    if (best.bits) {
        s->best.is_exact = best.estimate <= s->best.bound;
        s->best.estimated = best.bits;
        memcpy(s->best.price, best.price, sizeof best.price);
        memcpy(s->best.estimated_cost, best.cost, sizeof best.cost);
        return mpq_searcher_offer(s, best.bits, false, &loss, &is_accepted);
    }
    uint8_t *bits = mpq_arena_alloc(s->ctx, s->arena, s->n_unit, 1);
    if (!bits)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_knapsack_least(s, 0, bits, &least)); /* the table may say too much */
    MPQ_TRY(mpq_searcher_offer(s, bits, false, &loss, &is_accepted));
    if (is_accepted)
        return MPQ_OK;
    MPQ_TRY(mpq_searcher_least(s, 0, bits, &least));
    return mpq_searcher_offer(s, bits, false, &loss, &is_accepted);
}
