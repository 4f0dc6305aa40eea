/* A filter for each channel, signed bytes on unsigned ones, rounded to bytes again without leaving
 * registers: a depthwise QLinearConv. */
#ifndef MPQ_OPS_KERNEL_BYTE_FILTER_H
#define MPQ_OPS_KERNEL_BYTE_FILTER_H

#include <stdbool.h>

#include "quantcore/ops/kernel/conv.h"
#include "quantcore/ops/kernel/quantized.h"

/* y = saturate(rint((sum + bias[c]) * scale[c]) + zero), where sum is that of w * (x - x_zero) over
 * the taps within x, all modulo 2^32.
 *   x [n, c, in] unsigned   w [c, kernel] signed   y [n, c, out] must not alias x */
struct mpq_byte_filter {
    const struct mpq_conv *conv;
    const uint8_t *x, *w;
    int32_t x_zero;
    const int32_t *bias; /* [c], or NULL */
    const float *scale;  /* [c] */
    struct mpq_requant to;
    uint8_t *y;
};

/* Whether this processor has what it takes, and the convolution is depthwise, in two dimensions,
 * with filters that are not too large. */
bool mpq_is_byte_filter(const struct mpq_conv *conv);
void mpq_byte_filter_run(const struct mpq_byte_filter *filter);

#endif
