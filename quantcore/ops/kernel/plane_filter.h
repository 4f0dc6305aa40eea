/* Depthwise convolution on planes that are read where they are: filters of 3 x 3 that keep the size
 * or, at a stride of 2, halve it. */
#ifndef MPQ_OPS_KERNEL_PLANE_FILTER_H
#define MPQ_OPS_KERNEL_PLANE_FILTER_H

#include "quantcore/ops/kernel/filter.h"

/* Whether `conv`, a depthwise one, is such, with rows of a vector or more. */
bool mpq_is_plane_filter(const struct mpq_conv *conv);

void mpq_plane_filter_run(const struct mpq_filter *filter, void *workspace);
size_t mpq_plane_filter_bytes(const struct mpq_conv *conv); /* for the present thread count */

#endif
