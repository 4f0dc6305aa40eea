/* Scores of allocations by forward passes on fixed samples: what the search asks for. */
#ifndef MPQ_SUPERNET_EVALUATE_H
#define MPQ_SUPERNET_EVALUATE_H

#include "quantcore/supernet/network.h"
#include "quantcore/supernet/supernet.h"

struct mpq_evaluator {
    const struct mpq_supernet *net;
    struct mpq_network *network;       /* the fake-quantized graph, created with keep_all     */
    const struct mpq_targets *targets; /* on the samples that decide                          */
    const mpq_node_id *layer_node;     /* [n_layer] each layer's node in network->graph       */
    void **input;                      /* [n_batch * n_input] the samples, read once          */
};

enum mpq_status mpq_evaluator_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                     const struct mpq_supernet *net, struct mpq_network *network,
                                     const struct mpq_samples *samples,
                                     const struct mpq_targets *targets,
                                     const mpq_node_id *layer_node,
                                     struct mpq_evaluator *out) MPQ_CHECKED;

/* Mean loss (engine/loss.h) of the allocation against the float model; and that of each sample,
 * out_sample_loss [targets->n_sample]. */
enum mpq_status mpq_evaluate(struct mpq_ctx *ctx, struct mpq_evaluator *evaluator,
                             const uint8_t *bits, double *out_loss) MPQ_CHECKED;
enum mpq_status mpq_evaluate_samples(struct mpq_ctx *ctx, struct mpq_evaluator *evaluator,
                                     const uint8_t *bits, double *out_sample_loss) MPQ_CHECKED;

/* out[l * MPQ_N_BITS + b]: the loss with layer l at b bits and all others at their widest, NaN
 * where b is no candidate. Layers are visited last first, so that what comes before a layer is
 * computed once a batch. */
enum mpq_status mpq_sensitivity(struct mpq_ctx *ctx, struct mpq_evaluator *evaluator,
                                double *out) MPQ_CHECKED;

/* The same of activations: out[g * MPQ_N_BITS + a] is the loss with group g as by_width[a][g] says,
 * all else at its widest, NaN where by_width[a] is NULL. act_quant [n_group] is what the FakeQuant
 * nodes read; it ends as it began, all groups at their widest. */
enum mpq_status mpq_group_sensitivity(struct mpq_ctx *ctx, struct mpq_evaluator *evaluator,
                                      struct mpq_act_quant *act_quant,
                                      struct mpq_act_quant *const *by_width, uint32_t n_group,
                                      double *out) MPQ_CHECKED;

#endif
