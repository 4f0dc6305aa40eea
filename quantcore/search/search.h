/* Which width for which layer, and for which activations: the allocation of least loss that keeps
 * all limits.
 *
 * Losses come in two kinds: an additive estimate (`sensitivity`, a table) that says where to look,
 * and `score`, a real forward evaluation on fixed held-out data, that decides. The search knows
 * neither graphs nor files; both arrive as tables and callbacks. */
#ifndef MPQ_SEARCH_SEARCH_H
#define MPQ_SEARCH_SEARCH_H

#include "quantcore/search/cost.h"

struct mpq_search_problem {
    uint32_t n_layer, n_group;   /* groups of activations with a choice of widths                */
    const uint32_t *input_group; /* [n_layer] < n_group, or MPQ_NO_GROUP                         */

    /* [(n_layer + n_group) * MPQ_N_BITS] estimated loss with that layer or group at b bits; only
     * differences within a row count. NaN or infinite: it must not have that width. At least one
     * width a row is allowed. */
    const double *sensitivity;

    struct mpq_cost cost[MPQ_N_COST]; /* [0] is the size of the file                             */
    uint32_t n_cost;
    uint64_t float_bytes; /* size of the float file, for messages; 0: not known                  */

    /* Exact size of the file, where it is more than the sum of the table; NULL: it is not. */
    enum mpq_status (*measure)(struct mpq_ctx *ctx, void *arg, const uint8_t *bits,
                               uint64_t *out_bytes);
    /* Loss of an allocation on each of n_sample samples, smaller is better. Expensive. NULL: the
     * estimate decides. */
    enum mpq_status (*score)(struct mpq_ctx *ctx, void *arg, const uint8_t *bits,
                             double *out_sample_loss);
    void *arg; /* of both */

    uint32_t n_sample;
    uint32_t max_scores; /* calls of `score` allowed, >= 1 */
};

struct mpq_search_result {
    uint8_t *bits;             /* [n_layer + n_group]                                            */
    uint64_t cost[MPQ_N_COST]; /* exact */
    double loss;               /* mean over the samples, or the estimate where there is no score */
    double *sample_loss;       /* [n_sample] */
    /* The best by the estimate that keeps the limits, and its exact costs; NULL: the strategies
     * found none. */
    uint8_t *estimated; /* [n_layer + n_group] */
    uint64_t estimated_cost[MPQ_N_COST];
    double uniform_loss; /* the best of one width for all layers that fits; NaN: none did  */
    int uniform_bits;    /* its width, 0: none                                             */
    uint32_t n_score;    /* calls of `score` made                                          */

    /* By the additive estimate: of this allocation, and below which none lies that keeps the
     * limits. is_exact: there is one that has just `bound`. */
    double estimate, bound;
    bool is_exact;
    /* [n_cost] by how much the bound falls for one more of the cost; 0: the limit does not bind. */
    double price[MPQ_N_COST];
};

/* Runs the strategies of search_list.inc in their order, each beginning with the best allocation so
 * far. The result keeps all limits and is, by mean score, not worse than the best by the estimate
 * and every uniform allocation that fits, as far as max_scores allows; a step away from these is
 * taken only where it is better by more than the standard error of the paired difference. Of two
 * allocations of which one is nowhere narrower that one wins, whatever is compared, unless it is
 * worse by more than two standard errors. Equal losses: fewer bytes wins, then the one found first;
 * strategies look at low indices first.
 * INFEASIBLE, naming the least there is, where nothing fits; NUMERIC where a layer has no width.
 * Reports its progress as stage "search". */
enum mpq_status mpq_search(struct mpq_ctx *ctx, struct mpq_arena *arena,
                           const struct mpq_search_problem *problem,
                           struct mpq_search_result *out) MPQ_CHECKED;

/* The least that any allocation costs, all by itself, and which does. */
enum mpq_status mpq_search_least(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const struct mpq_search_problem *problem, uint32_t cost,
                                 uint8_t *out_bits, uint64_t *out_cost) MPQ_CHECKED;

uint64_t mpq_search_cost(const struct mpq_search_problem *problem, uint32_t cost,
                         const uint8_t *bits);

/* What the allocation loses by the table. */
double mpq_search_estimate(const struct mpq_search_problem *problem, const uint8_t *bits);

/* Mean of x[0..n) less y[0..n), y NULL: of x, and the standard error of that mean, 0 for n < 2. */
double mpq_search_mean(const double *x, const double *y, uint32_t n, double *out_error);

#endif
