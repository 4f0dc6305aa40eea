/* Depthwise convolution of as many channels at once as a vector has elements: for small planes and
 * strides, where neighbours in a row do not make vectors. */
#ifndef MPQ_OPS_KERNEL_LANE_FILTER_H
#define MPQ_OPS_KERNEL_LANE_FILTER_H

#include "quantcore/ops/kernel/filter.h"

/* Whether that pays for `conv`, a depthwise one, and its parts are large enough. */
bool mpq_is_lane_filter(const struct mpq_conv *conv);

void mpq_lane_filter_run(const struct mpq_filter *filter, void *workspace);
size_t mpq_lane_filter_bytes(const struct mpq_conv *conv); /* for the present thread count */

#endif
