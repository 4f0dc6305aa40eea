/* The width scheduler: layers whose latent weights sit close to rounding boundaries flip between
 * levels at every step and disturb the other widths, so the lowest width of the most turbulent
 * layers is kept out of the random paths for a while (arXiv 2401.01543, section 3; constants from
 * its reference code, whose 150 epochs are scaled to the length of the run). */
#ifndef MPQ_SUPERNET_FREEZE_H
#define MPQ_SUPERNET_FREEZE_H

#include "quantcore/supernet/supernet.h"

/* Share of the weights of one layer at one width that lie within 1/8 of a step of a boundary
 * between two levels. About 0.25 for any density smooth on the scale of a step. */
double mpq_freeze_unstable_share(const struct mpq_levels *levels, const struct mpq_layer *shape,
                                 const mpq_real *w, const mpq_real *scale);

/* Turbulence of a layer: mean over its active widths b of unstable share / b. */
double mpq_freeze_turbulence(const struct mpq_supernet *net, uint32_t layer);

/* Share of the layers to select in epoch 0..149: 0.5 falling to 0.2 along a cosine. */
double mpq_freeze_ratio(uint32_t epoch);
bool mpq_freeze_is_due(uint32_t epoch); /* 7, 9, ... 107, then 119, 134, 149 */

/* Whether a run of n_step steps, which stands for the 150 epochs, has an update before `step`, and
 * with which ratio. A short run jumps over epochs; of those due in between the last one counts. */
bool mpq_freeze_at_step(uint32_t step, uint32_t n_step, double *out_ratio);

/* Mark the floor(ratio * n_layer) largest turbulences; of equal ones the first layers.
 * out_selected [n_layer]. */
enum mpq_status mpq_freeze_select(struct mpq_ctx *ctx, uint32_t n_layer, const double *turbulence,
                                  double ratio, bool *out_selected) MPQ_CHECKED;

/* The candidates, without the lowest where the layer is selected and has another. */
mpq_bits_mask mpq_freeze_active(mpq_bits_mask candidates, bool is_selected);

/* Remove the lowest width from the active set of the floor(ratio * n_layer) most turbulent layers,
 * give all others their full set back. A layer with one candidate keeps it. */
enum mpq_status mpq_freeze_update(struct mpq_ctx *ctx, struct mpq_supernet *net,
                                  double ratio) MPQ_CHECKED;

#endif
