/* What each width of each layer costs in accuracy: where the search looks first. */
#ifndef MPQ_SUPERNET_SENSITIVITY_H
#define MPQ_SUPERNET_SENSITIVITY_H

#include "quantcore/supernet/evaluate.h"
#include "quantcore/supernet/moments.h"

/* out[l * MPQ_N_BITS + b]: the loss with layer l at b bits and all others at their widest, NaN
 * where b is no candidate.
 *
 * Activations, act_quant [n_group] that the FakeQuant nodes read, have 16 bits meanwhile, in the
 * ranges that they have: the noise of 8 bits is the same whatever the layer's width, and hides what
 * the width adds. They end as they began.
 *
 * All are measured where that takes no more than `max_macs` multiplications. Elsewhere the widest,
 * the narrowest and one width between are (mpq_sensitivity_measured()); of the others the layer
 * alone is run, and the squared error of its output says where their losses lie
 * (mpq_sensitivity_fill()): a loss that is least at the float model grows with the square of what
 * disturbs it, the further the less exactly, so between two measured widths along a power.
 *
 * Then as many batches of samples count as max_macs allows, the first ones; at least 16 samples. A
 * function of model, data and batch alone, so that a run repeats. Layers are visited last first, so
 * that what comes before a layer is computed once a batch. */
enum mpq_status mpq_sensitivity(struct mpq_ctx *ctx, struct mpq_evaluator *evaluator,
                                struct mpq_act_quant *act_quant, uint32_t n_group, double max_macs,
                                double *out) MPQ_CHECKED;

/* The same of activations: out[g * MPQ_N_BITS + a] is the loss with group g as by_width[a][g] says,
 * all else at its widest, NaN where by_width[a] is NULL; all are measured. act_quant ends as it
 * began, all groups at their widest. */
enum mpq_status mpq_group_sensitivity(struct mpq_ctx *ctx, struct mpq_evaluator *evaluator,
                                      struct mpq_act_quant *act_quant,
                                      struct mpq_act_quant *const *by_width, uint32_t n_group,
                                      double max_macs, double *out) MPQ_CHECKED;

/* Layers behind a layer that are rounded anew for its errors: those right behind it make good most
 * of what can be, and further ones mostly learn the samples by heart (tests/bench/NOTES.md). */
#define MPQ_COMPENSATING_LAYERS 6

/* out[l]: the share, above 0 and at most 1, of what layer l's narrowest width adds to the loss that
 * is left once the layers behind it are rounded for its errors (mpq_round_allocation()), all at
 * their widest: how much of a sensitivity to believe where an allocation is refined. The last layer
 * has nobody behind it, so its share is 1, as is that of layers with one width and of those whose
 * narrowest adds nothing.
 *
 * sensitivity: what mpq_sensitivity() has given. source: the evaluator's network, the float network
 * and samples other than the evaluator's. The evaluator keeps no prefixes. act_quant as above. */
enum mpq_status mpq_refined_share(struct mpq_ctx *ctx, const struct mpq_evaluator *evaluator,
                                  const struct mpq_moment_source *source,
                                  struct mpq_act_quant *act_quant, uint32_t n_group,
                                  const double *sensitivity, double *out) MPQ_CHECKED;

/* The widths whose losses are measured: of `candidates` the widest, the narrowest and the upper one
 * in the middle of those that are not the widest. */
mpq_bits_mask mpq_sensitivity_measured(mpq_bits_mask candidates);

/* Losses of the candidates that were not measured: loss [MPQ_N_BITS] has those of the measured,
 * error [MPQ_N_BITS] the squared errors of the layer's output against its widest. What a width adds
 * to the loss of the widest is, of two measured ones that add something, on the line through both
 * in logarithms; beyond them, or where only one does, in proportion to the error. */
void mpq_sensitivity_fill(mpq_bits_mask candidates, const double *error, double *loss);

#endif
