/* The best allocation by the additive estimate, brought under the budget by exact sizes. */
#include "quantcore/search/searcher.h"

/* How often the capacity is corrected by what the exact size exceeds the budget. */
enum { MAX_CORRECTIONS = 32 };

enum mpq_status mpq_search_knapsack(struct mpq_searcher *s)
{
    const struct mpq_search_problem *p = s->problem;
    uint8_t *bits = mpq_arena_alloc(s->ctx, s->arena, p->n_layer, 1);
    if (!bits)
        return MPQ_E_NOMEM;
    bool is_accepted, fits;
    double loss;
    uint64_t bytes;
    uint64_t capacity = p->budget_bytes > p->other_bytes ? p->budget_bytes - p->other_bytes : 0;
    for (int i = 0; i < MAX_CORRECTIONS; i++) {
        bool is_found;
        MPQ_TRY(mpq_knapsack(s, capacity, bits, &is_found));
        if (!is_found)
            break;
        MPQ_TRY(mpq_searcher_measure(s, bits, &bytes, &fits));
        if (fits)
            return mpq_searcher_offer(s, bits, &loss, &is_accepted);
        uint64_t excess = bytes > p->budget_bytes ? bytes - p->budget_bytes : 1;
        if (excess > capacity)
            break;
        capacity -= excess;
    }
    mpq_searcher_smallest(s, bits); /* the table may say too much */
    return mpq_searcher_offer(s, bits, &loss, &is_accepted);
}
