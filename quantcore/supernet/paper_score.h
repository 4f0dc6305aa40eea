/* What the search asks of the published supernet: the error of a pair of widths for each layer, by
 * forward passes alone; and what is needed to take such a choice out of it. */
#ifndef MPQ_SUPERNET_PAPER_SCORE_H
#define MPQ_SUPERNET_PAPER_SCORE_H

#include "quantcore/supernet/paper_train.h"

struct mpq_paper_scorer {
    const struct mpq_paper_net *net;
    struct mpq_network *network; /* of net->graph, created with keep_all            */
    const struct mpq_samples *samples;
    struct mpq_paper_batch batch;
    uint8_t *weight_bits, *input_bits; /* [n_layer] what the exec last ran with        */
    bool is_current;                   /* its values are those of this batch and these */
};

/* change as in training; NULL: samples as they are. */
enum mpq_status mpq_paper_scorer_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                        const struct mpq_paper_net *net,
                                        struct mpq_network *network,
                                        const struct mpq_samples *samples,
                                        const struct mpq_paper_truth *truth,
                                        const struct mpq_paper_change *change,
                                        struct mpq_paper_scorer *out) MPQ_CHECKED;

/* Take batch `step`, a function of seed and step, for the scores to come. */
enum mpq_status mpq_paper_scorer_read(struct mpq_ctx *ctx, struct mpq_paper_scorer *scorer,
                                      uint64_t step) MPQ_CHECKED;

/* Error of the widths on the batch, batch norms using its own statistics: the loss against labels
 * or, where there are none, the float model's answers. Layers before the first that differs from
 * the last call are not run again. */
double mpq_paper_score(struct mpq_paper_scorer *scorer, const uint8_t *weight_bits,
                       const uint8_t *input_bits);

/* Means and variances of the batch norms for these widths, anew: plain averages of the statistics
 * of all full batches of sample[0..n). */
enum mpq_status mpq_paper_reestimate(struct mpq_ctx *ctx, struct mpq_paper_net *net,
                                     struct mpq_network *network, const struct mpq_samples *samples,
                                     const uint32_t *sample, uint32_t n, const uint8_t *weight_bits,
                                     const uint8_t *input_bits) MPQ_CHECKED;

/* The widths as codes for the graph in which batch norms are folded (mpq_simplify of the same
 * model), whose layers are `layers`:
 *
 *   w' = q * scale, scale = step * gamma / sqrt(var + epsilon)       bias = beta - mean * that gain
 *
 * and what else was folded into a layer there, read off its float weight. Scales are rounded as the
 * file stores them and biases make up for it in the mean. out_code, out_input [n_layer]: codes, and
 * the quantization of each layer's input (bits FLOAT: none). UNSUPPORTED where the graphs' layers
 * do not correspond. */
enum mpq_status mpq_paper_fold(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               const struct mpq_paper_net *net, const uint8_t *weight_bits,
                               const uint8_t *input_bits, const struct mpq_graph *folded,
                               const struct mpq_layer_table *layers,
                               struct mpq_layer_code *out_code,
                               struct mpq_act_quant *out_input) MPQ_CHECKED;

#endif
