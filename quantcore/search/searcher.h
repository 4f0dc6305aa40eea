/* What the strategies share: the problem, the best allocation so far and the count of evaluations.
 * Private to this folder. A strategy proposes allocations; it never decides. */
#ifndef MPQ_SEARCH_SEARCHER_H
#define MPQ_SEARCH_SEARCHER_H

#include "quantcore/search/search.h"

struct mpq_searcher {
    struct mpq_ctx *ctx;
    struct mpq_arena *arena;
    const struct mpq_search_problem *problem;
    bool has_best;
    struct mpq_search_result best;
    struct mpq_searcher_trial *trial; /* what was scored, [n_trial] */
    uint32_t n_trial, trial_capacity;
};

/* Estimated loss and table entries of layer l at b bits. */
double mpq_searcher_loss(const struct mpq_searcher *s, uint32_t l, uint32_t b);
uint64_t mpq_searcher_bytes(const struct mpq_searcher *s, uint32_t l, uint32_t b);
bool mpq_searcher_allows(const struct mpq_searcher *s, uint32_t l, uint32_t b);
/* The next allowed width of layer l from b in steps of `direction` (1 or -1), or 0. */
uint32_t mpq_searcher_next(const struct mpq_searcher *s, uint32_t l, uint32_t b, int direction);

/* The allocation of fewest table bytes. */
void mpq_searcher_smallest(const struct mpq_searcher *s, uint8_t *out_bits);

/* Whether the allocation is within all budgets; out_bytes is its exact size. */
enum mpq_status mpq_searcher_measure(struct mpq_searcher *s, const uint8_t *bits,
                                     uint64_t *out_bytes, bool *out_fits) MPQ_CHECKED;

bool mpq_searcher_is_exhausted(const struct mpq_searcher *s); /* no more evaluations allowed */

/* Score the allocation if it fits, and keep it if it is the best. An allocation that was offered
 * before costs nothing. out_loss: NaN where it does not fit or no evaluation was left. */
enum mpq_status mpq_searcher_offer(struct mpq_searcher *s, const uint8_t *bits, double *out_loss,
                                   bool *out_accepted) MPQ_CHECKED;

#define MPQ_STRATEGY(name) enum mpq_status mpq_search_##name(struct mpq_searcher *s) MPQ_CHECKED;
#include "quantcore/search/search_list.inc"
#undef MPQ_STRATEGY

/* The allocation of least estimated loss with at most `capacity` table bytes over the layers and,
 * where the problem limits them, few enough bit operations. out_found false: there is none. */
enum mpq_status mpq_knapsack(struct mpq_searcher *s, uint64_t capacity, uint8_t *out_bits,
                             bool *out_found) MPQ_CHECKED;

#endif
