/* Depthwise convolution of as many channels at once as a vector has elements: for small planes and
 * strides, where neighbours in a row do not make vectors. */
#ifndef MPQ_OPS_KERNEL_LANE_FILTER_H
#define MPQ_OPS_KERNEL_LANE_FILTER_H

#include "quantcore/ops/kernel/conv.h"

/* Whether that pays for `conv`, a depthwise one, and its parts are large enough. */
bool mpq_is_lane_filter(const struct mpq_conv *conv);

/* y = bias (or 0) + x filtered, then clamped; bias [m] or NULL, clamp may be NULL. is_turned: with
 * w turned round, which makes dx of dy where the stride is 1. */
void mpq_lane_filter_run(const struct mpq_conv *conv, bool is_turned, const mpq_real *x,
                         const mpq_real *w, const mpq_real *bias, const struct mpq_clamp *clamp,
                         mpq_real *y, void *workspace);
size_t mpq_lane_filter_bytes(const struct mpq_conv *conv); /* for the present thread count */

#endif
