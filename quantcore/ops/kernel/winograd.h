/* 3 x 3 convolution with a quarter of the products: 4 x 4 outputs at a time from 36 products of
 * transformed inputs and weights (winograd.inc). Errors are about 1.5 times those of the plain
 * sums, and sums of integers are not exact:
 * files that are quantized already are run without it. */
#ifndef MPQ_OPS_KERNEL_WINOGRAD_H
#define MPQ_OPS_KERNEL_WINOGRAD_H

#include "quantcore/ops/kernel/conv.h"

/* Whether `conv` is one that this can do, and does faster. */
bool mpq_winograd_pays(const struct mpq_conv *conv);

/* The convolution whose forward pass is the gradient of `conv` for x. False where it has none. */
bool mpq_winograd_backward(const struct mpq_conv *conv, struct mpq_conv *out);

/* y = bias or 0 + conv(x, w), then clamped, as mpq_conv_forward(); or, `add`, y += that.
 * is_gradient: `conv` is of mpq_winograd_backward(), x is dy, y is dx and w [c, m, 3, 3] that of
 * the original. */
void mpq_winograd_run(const struct mpq_conv *conv, bool is_gradient, const mpq_real *x,
                      const mpq_real *w, const mpq_real *bias, const struct mpq_clamp *clamp,
                      bool add, mpq_real *y, void *workspace);
size_t mpq_winograd_bytes(const struct mpq_conv *conv); /* for the present thread count */

/* dw += the gradient for w, as mpq_conv_dw(), and whether this is a convolution for that. */
bool mpq_winograd_dw_pays(const struct mpq_conv *conv);
void mpq_winograd_dw(const struct mpq_conv *conv, const mpq_real *x, const mpq_real *dy,
                     mpq_real *dw, void *workspace);
size_t mpq_winograd_dw_bytes(const struct mpq_conv *conv);

#endif
