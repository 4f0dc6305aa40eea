/* Which pair of widths, of weights and of inputs, for which layer, within a budget of bit
 * operations: the bidirectional greedy search of "Retraining-free Model Quantization via One-Shot
 * Weight-Coupling Learning" (Tang et al., CVPR 2024) and its reference code, by forward passes
 * alone.
 *
 * From 5 bits everywhere it goes down, or up where that pays, one width of one layer a step: first
 * weights, then inputs. All moves of a step are scored on the same samples, the next step takes new
 * ones, and the move of least
 *
 *     1.5 * error + BitOPs,     both as 0 .. 1 between the least and the most among the moves
 *
 * is made. Differences: the reference code's least error starts at 0, which with errors near 0
 * would make every step go up; the phase changes also where it has no move left; going up stops
 * when going on would not end; once within the budget, widths are exchanged between layers while
 * that helps; and the result is not worse than a uniform one. */
#ifndef MPQ_SEARCH_PAIR_SEARCH_H
#define MPQ_SEARCH_PAIR_SEARCH_H

#include "quantcore/quant/layer.h"

struct mpq_pair_problem {
    uint32_t n_layer;
    const uint64_t *macs;             /* [n_layer] of one sample                                 */
    const uint16_t *weights, *inputs; /* [n_layer] sets of widths, bit b for width b; of one width
                                         where there is nothing to choose                        */
    const bool *is_searchable;        /* [n_layer] the others count 8 x 8 bit operations a MAC    */
    uint64_t budget_bitops;

    /* Take other samples for the scores to come; NULL: there are no others. */
    enum mpq_status (*resample)(struct mpq_ctx *ctx, void *arg, uint64_t step);
    /* Error >= 0 of these widths, smaller is better. */
    double (*score)(void *arg, const uint8_t *weight_bits, const uint8_t *input_bits);
    void *arg; /* of both */
};

struct mpq_pair_result {
    uint8_t *weight_bits, *input_bits; /* [n_layer] */
    uint64_t bitops;
    bool is_uniform; /* one width for all was better in the end */
    double error;    /* mean over the last samples */
    uint32_t n_step, n_exchange, n_score;
};

/* The result is within the budget. INFEASIBLE, with the fewest bit operations there are, where
 * nothing is. Reports progress as stage "search". */
enum mpq_status mpq_pair_search(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                const struct mpq_pair_problem *problem,
                                struct mpq_pair_result *out) MPQ_CHECKED;

/* Bit operations of one sample as the paper counts them: weight bits * input bits * MACs of
 * searchable layers, 64 * MACs of the others. */
uint64_t mpq_pair_bitops(const struct mpq_pair_problem *problem, const uint8_t *weight_bits,
                         const uint8_t *input_bits);

/* The same with all searchable layers at these widths, whatever they can take. */
uint64_t mpq_pair_uniform_bitops(const struct mpq_pair_problem *problem, int weight_bits,
                                 int input_bits);

#endif
