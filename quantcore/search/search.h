/* Which width for which layer: the allocation of least loss that fits a number of bytes.
 *
 * Losses come in two kinds: an additive estimate (`sensitivity`, a table) that says where to look,
 * and `score`, a real forward evaluation on fixed held-out data, that decides. The search knows
 * neither graphs nor files; both arrive as tables and callbacks. */
#ifndef MPQ_SEARCH_SEARCH_H
#define MPQ_SEARCH_SEARCH_H

#include "quantcore/search/cost.h"

struct mpq_search_problem {
    uint32_t n_layer;

    /* [n_layer * MPQ_N_BITS] estimated loss with layer l at b bits; only differences within a layer
     * count. NaN or infinite: the layer must not have that width. At least one width a layer is
     * allowed. */
    const double *sensitivity;

    const uint64_t *layer_bytes; /* [n_layer * MPQ_N_BITS] what a layer adds to the file          */
    uint64_t other_bytes;        /* what the rest of the file takes                               */
    uint64_t budget_bytes;
    uint64_t float_bytes; /* size of the float file, for messages; 0: not known                   */

    const uint64_t *layer_bitops; /* [n_layer * MPQ_N_BITS], or NULL                              */
    uint64_t budget_bitops;       /* read where layer_bitops is given                             */

    /* Exact size of the file, where it is more than the sum of the table; NULL: it is not. */
    enum mpq_status (*measure)(struct mpq_ctx *ctx, void *arg, const uint8_t *bits,
                               uint64_t *out_bytes);
    /* Loss of an allocation, smaller is better. Expensive. NULL: the estimate decides. */
    enum mpq_status (*score)(struct mpq_ctx *ctx, void *arg, const uint8_t *bits, double *out_loss);
    void *arg; /* of both */

    uint32_t max_scores; /* calls of `score` allowed, >= 1 */
};

struct mpq_search_result {
    uint8_t *bits;       /* [n_layer] */
    uint64_t size_bytes; /* exact     */
    double loss;         /* by `score`, or the estimate where there is none */
    double uniform_loss; /* the best of one width for all layers that fits; NaN: none was tried   */
    int uniform_bits;    /* its width, 0: none                                                    */
    uint32_t n_score;    /* calls of `score` made */
};

/* Runs the strategies of search_list.inc in their order, each beginning with the best allocation so
 * far. The result fits all budgets and is, by `score`, not worse than any allocation that was
 * scored; among these are the best by the estimate and every uniform one that fits, as far as
 * max_scores allows. Equal losses: fewer bytes wins, then the one found first; strategies look at
 * low layer indices first. INFEASIBLE, with the smallest size there is, where nothing fits; NUMERIC
 * where a layer has no width. Reports its progress as stage "search". */
enum mpq_status mpq_search(struct mpq_ctx *ctx, struct mpq_arena *arena,
                           const struct mpq_search_problem *problem,
                           struct mpq_search_result *out) MPQ_CHECKED;

#endif
