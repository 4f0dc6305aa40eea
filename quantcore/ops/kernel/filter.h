/* What a loop for one form of depthwise convolution is given. */
#ifndef MPQ_OPS_KERNEL_FILTER_H
#define MPQ_OPS_KERNEL_FILTER_H

#include "quantcore/ops/kernel/conv.h"

/* y = bias (or 0) + x filtered with w, then clamped. */
struct mpq_filter {
    const struct mpq_conv *conv;   /* depthwise, with a channel out for each in               */
    const mpq_real *x, *w, *bias;  /* bias [m] or NULL                                         */
    const struct mpq_clamp *clamp; /* or NULL                                                  */
    mpq_real *y;
    bool is_turned; /* w turned round, which makes dx of dy where the stride is 1 */
};

#endif
