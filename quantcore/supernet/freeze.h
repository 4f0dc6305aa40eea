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

/* Remove the lowest width from the active set of the floor(ratio * n_layer) most turbulent layers,
 * give all others their full set back. A layer with one candidate keeps it. */
enum mpq_status mpq_freeze_update(struct mpq_ctx *ctx, struct mpq_supernet *net,
                                  double ratio) MPQ_CHECKED;

#endif
