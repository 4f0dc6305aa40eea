/* The best allocation by the additive estimate, brought under the budget by exact sizes. */
#include <math.h>
#include <string.h>

#include "quantcore/search/searcher.h"

/* How often the capacity is corrected by what the exact size exceeds the budget. */
enum { MAX_CORRECTIONS = 32 };

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

enum mpq_status mpq_search_knapsack(struct mpq_searcher *s)
{
    const struct mpq_search_problem *p = s->problem;
    struct mpq_knapsack_result result = {.bits = mpq_arena_alloc(s->ctx, s->arena, s->n_unit, 1)};
    uint64_t limit[MPQ_N_COST], cost[MPQ_N_COST], least;
    bool is_accepted, fits;
    double loss;
    if (!result.bits)
        return MPQ_E_NOMEM;
    find_limits(p, limit);
    for (int i = 0; i < MAX_CORRECTIONS; i++) {
        MPQ_TRY(mpq_knapsack(s, limit, &result));
        if (!result.is_found)
            break;
        s->best.bound = result.bound;
        s->best.is_exact = result.is_exact;
        memcpy(s->best.price, result.price, sizeof result.price);
        MPQ_TRY(mpq_searcher_measure(s, result.bits, cost, &fits));
        if (fits) {
            s->best.estimated = result.bits;
            memcpy(s->best.estimated_cost, cost, sizeof cost);
            return mpq_searcher_offer(s, result.bits, false, &loss, &is_accepted);
        }
        uint64_t excess = cost[0] > p->cost[0].budget ? cost[0] - p->cost[0].budget : 1;
        if (limit[0] == MPQ_NO_LIMIT || excess > limit[0])
            break;
        limit[0] -= excess;
    }
    MPQ_TRY(mpq_knapsack_least(s, 0, result.bits, &least)); /* the table may say too much */
    return mpq_searcher_offer(s, result.bits, false, &loss, &is_accepted);
}
