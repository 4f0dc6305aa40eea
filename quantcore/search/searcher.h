/* What the strategies share: the problem, the best allocation so far and the count of evaluations.
 * Private to this folder. A strategy proposes allocations; it never decides. */
#ifndef MPQ_SEARCH_SEARCHER_H
#define MPQ_SEARCH_SEARCHER_H

#include "quantcore/search/search.h"

struct mpq_searcher {
    struct mpq_ctx *ctx;
    struct mpq_arena *arena;
    const struct mpq_search_problem *problem;
    uint32_t n_unit;   /* layers and groups, what has a width                            */
    uint16_t excluded; /* bit b: width b is not offered to layers for the time being     */
    bool has_best;
    struct mpq_search_result best;
    double *sample_loss;              /* [n_sample] of the last evaluation */
    struct mpq_searcher_trial *trial; /* what was scored, [n_trial]        */
    uint32_t n_trial, trial_capacity;
};

/* Estimated loss of unit u at b bits, and whether it may have them. */
double mpq_searcher_loss(const struct mpq_searcher *s, uint32_t u, uint32_t b);
bool mpq_searcher_allows(const struct mpq_searcher *s, uint32_t u, uint32_t b);
/* The next allowed width of unit u from b in steps of `direction` (1 or -1), or 0. */
uint32_t mpq_searcher_next(const struct mpq_searcher *s, uint32_t u, uint32_t b, int direction);

/* Whether some layer may have just this width; whether every layer has one that is neither b nor
 * excluded already. */
bool mpq_searcher_has_width(const struct mpq_searcher *s, uint32_t b);
bool mpq_searcher_can_do_without(const struct mpq_searcher *s, uint32_t b);
/* Exclude all widths that are not in the mask, from the widest, as far as layers can do without. */
void mpq_searcher_keep_only(struct mpq_searcher *s, uint32_t mask);

/* What unit u at b bits costs while the others are at bits: a layer by itself, a group with all
 * layers that read it. */
uint64_t mpq_searcher_unit_cost(const struct mpq_searcher *s, uint32_t cost, const uint8_t *bits,
                                uint32_t u, uint32_t b);

/* Whether the allocation keeps all limits; out_cost [n_cost] its exact costs. */
enum mpq_status mpq_searcher_measure(struct mpq_searcher *s, const uint8_t *bits,
                                     uint64_t *out_cost, bool *out_fits) MPQ_CHECKED;

/* An allocation that costs least of cost c, limits aside, and what it costs exactly. Of the file
 * the table tells the least only where all widths in use are free: those that it does without
 * better are left out. */
enum mpq_status mpq_searcher_least(struct mpq_searcher *s, uint32_t c, uint8_t *bits,
                                   uint64_t *out_cost) MPQ_CHECKED;

bool mpq_searcher_is_exhausted(const struct mpq_searcher *s); /* no more evaluations allowed */

/* Score the allocation if it fits, and keep it if it is the best: by its mean, or, `surely`, by
 * more than the standard error of the difference; one that is nowhere narrower than the best, or
 * nowhere wider, as mpq_search() says. An allocation that was offered before costs nothing.
 * out_loss: NaN where it does not fit or no evaluation was left. */
enum mpq_status mpq_searcher_offer(struct mpq_searcher *s, const uint8_t *bits, bool surely,
                                   double *out_loss, bool *out_accepted) MPQ_CHECKED;

#define MPQ_STRATEGY(name) enum mpq_status mpq_search_##name(struct mpq_searcher *s) MPQ_CHECKED;
#include "quantcore/search/search_list.inc"
#undef MPQ_STRATEGY

struct mpq_knapsack_result {
    bool is_found;   /* bits keeps the limits */
    bool is_exact;   /* and none has a smaller estimate; or, not found, there is none */
    uint8_t *bits;   /* [n_unit], given by the caller */
    double estimate; /* of bits                       */
    double bound;    /* no allocation within the limits has a smaller estimate */
    double price[MPQ_N_COST];
};

/* The allocation of least estimated loss whose table cost k is at most limit[k], [n_cost]. */
enum mpq_status mpq_knapsack(struct mpq_searcher *s, const uint64_t *limit,
                             struct mpq_knapsack_result *out) MPQ_CHECKED;

/* The allocation that costs least of cost k by the table, and what it costs. */
enum mpq_status mpq_knapsack_least(struct mpq_searcher *s, uint32_t k, uint8_t *bits,
                                   uint64_t *out_cost) MPQ_CHECKED;

#endif
