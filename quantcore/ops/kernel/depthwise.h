/* Convolution in which every channel has one filter of its own: too little arithmetic for tiles. */
#ifndef MPQ_OPS_KERNEL_DEPTHWISE_H
#define MPQ_OPS_KERNEL_DEPTHWISE_H

#include "quantcore/ops/kernel/conv.h"

/* One input and one output channel a group. */
bool mpq_is_depthwise(const struct mpq_conv *conv);

/* As in conv.h; the convolution is not empty. One size of workspace for all three. */
size_t mpq_depthwise_bytes(const struct mpq_conv *conv);
void mpq_depthwise_forward(const struct mpq_conv *conv, const mpq_real *x, const mpq_real *w,
                           const mpq_real *bias, bool add, const struct mpq_clamp *clamp,
                           mpq_real *y, void *workspace);
void mpq_depthwise_dx(const struct mpq_conv *conv, const mpq_real *dy, const mpq_real *w, bool add,
                      mpq_real *dx, void *workspace);
void mpq_depthwise_dw(const struct mpq_conv *conv, const mpq_real *x, const mpq_real *dy,
                      mpq_real *dw, void *workspace);

#endif
