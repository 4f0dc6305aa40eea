/* Convolution with a filter of one element: a product for each image, without staging. */
#ifndef MPQ_OPS_KERNEL_POINTWISE_H
#define MPQ_OPS_KERNEL_POINTWISE_H

#include "quantcore/ops/kernel/conv.h"

/* Whether `conv` is one, with images large enough to fill tiles one by one. */
bool mpq_is_pointwise(const struct mpq_conv *conv);

/* y [n, group, m, places] = (add ? y : bias or 0) + a [group, m, k] * x [n, group, k, places]; then
 * clamped. bias [group, m] or NULL; clamp may be NULL. */
struct mpq_pointwise {
    int64_t n, group, m, k, places;
    const mpq_real *a, *x, *bias;
    const struct mpq_clamp *clamp;
    bool add, is_bytes; /* as struct mpq_conv */
    mpq_real *y;
};
void mpq_pointwise_run(const struct mpq_pointwise *p, void *workspace);
size_t mpq_pointwise_bytes(int64_t k); /* of its workspace, for the present thread count */

#endif
