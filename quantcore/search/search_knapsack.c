/* The best allocation by the additive estimate, brought under the budget by exact sizes. What the
 * first layer of a width adds to the file by itself, the program that unpacks it, is no layer's in
 * the table; so it is tried whether doing without a width saves more than the width is worth. */
#include <math.h>
#include <string.h>

#include "quantcore/search/searcher.h"

/* How often the capacity is corrected by what the exact size exceeds the budget. */
enum { MAX_CORRECTIONS = 32 };

struct proposal {
    struct mpq_knapsack_result result;
    uint64_t cost[MPQ_N_COST]; /* exact */
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

/* The best by the table whose exact costs keep the limits; result.is_found says whether. */
static enum mpq_status propose(struct mpq_searcher *s, struct proposal *out)
{
    const struct mpq_search_problem *p = s->problem;
    uint64_t limit[MPQ_N_COST];
    bool fits;
    out->result.bits = mpq_arena_alloc(s->ctx, s->arena, s->n_unit, 1);
    if (!out->result.bits)
        return MPQ_E_NOMEM;
    find_limits(p, limit);
    for (int i = 0; i < MAX_CORRECTIONS; i++) {
        MPQ_TRY(mpq_knapsack(s, limit, &out->result));
        if (!out->result.is_found)
            return MPQ_OK;
        MPQ_TRY(mpq_searcher_measure(s, out->result.bits, out->cost, &fits));
        if (fits)
            return MPQ_OK;
        uint64_t spent = mpq_search_cost(p, 0, out->result.bits) - p->cost[0].other;
        uint64_t excess = out->cost[0] > p->cost[0].budget ? out->cost[0] - p->cost[0].budget : 1;
        if (limit[0] == MPQ_NO_LIMIT || excess > spent)
            break;
        limit[0] = spent - excess; /* less than this allocation, which is not found again */
    }
    out->result.is_found = false;
    return MPQ_OK;
}

/* Whether every layer has a width that is neither b nor excluded already. */
static bool can_do_without(const struct mpq_searcher *s, uint32_t b)
{
    for (uint32_t l = 0; l < s->problem->n_layer; l++) {
        bool has_other = false;
        for (uint32_t other = MPQ_MIN_BITS; other <= MPQ_MAX_BITS; other++)
            has_other |= other != b && mpq_searcher_allows(s, l, other);
        if (!has_other)
            return false;
    }
    return true;
}

/* Propose without width b, too, if the layers can do without it, and keep the better of the two. */
static enum mpq_status try_without(struct mpq_searcher *s, uint32_t b, struct proposal *best)
{
    struct proposal trial;
    if (!can_do_without(s, b))
        return MPQ_OK;
    s->excluded |= (uint16_t)(1 << b);
    MPQ_TRY(propose(s, &trial));
    if (trial.result.is_found && trial.result.estimate < best->result.estimate) {
        trial.result.bound = fmin(trial.result.bound, best->result.bound);
        trial.result.is_exact &= best->result.is_exact;
        *best = trial;
    } else {
        s->excluded &= (uint16_t) ~(1 << b);
    }
    return MPQ_OK;
}

/* Widths that the result does without better, from the widest, as long as there are any. */
static enum mpq_status leave_out_widths(struct mpq_searcher *s, struct proposal *best)
{
    for (double before = INFINITY; best->result.is_found && best->result.estimate < before;) {
        before = best->result.estimate;
        for (uint32_t b = MPQ_MAX_BITS; b >= MPQ_MIN_BITS; b--)
            MPQ_TRY(try_without(s, b, best));
    }
    s->excluded = 0;
    return MPQ_OK;
}

enum mpq_status mpq_search_knapsack(struct mpq_searcher *s)
{
    struct proposal best;
    uint64_t least;
    bool is_accepted;
    double loss;
    MPQ_TRY(propose(s, &best));
    MPQ_TRY(leave_out_widths(s, &best));
    if (!best.result.is_found) { /* the table may say too much */
        MPQ_TRY(mpq_knapsack_least(s, 0, best.result.bits, &least));
        return mpq_searcher_offer(s, best.result.bits, false, &loss, &is_accepted);
    }
    s->best.bound = best.result.bound;
    s->best.is_exact = best.result.is_exact;
    memcpy(s->best.price, best.result.price, sizeof best.result.price);
    s->best.estimated = best.result.bits;
    memcpy(s->best.estimated_cost, best.cost, sizeof best.cost);
    return mpq_searcher_offer(s, best.result.bits, false, &loss, &is_accepted);
}
