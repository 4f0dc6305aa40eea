/* Learned step size quantization (Esser et al., "Learned Step Size Quantization", ICLR 2020), as
 * arithmetic on arrays: y = clamp(rint(x / step), low, high) * step, no zero point, one step a
 * tensor. Halves round to even, as in QuantizeLinear. */
#ifndef MPQ_QUANT_LSQ_H
#define MPQ_QUANT_LSQ_H

#include <stdbool.h>
#include <stdint.h>

#include "quantcore/base/real.h"

/* The integers of a width; both 0: x passes unchanged. */
struct mpq_lsq_range {
    int low, high;
};

/* -2^(bits-1) .. 2^(bits-1)-1, or 0 .. 2^bits-1 of values that are never negative. Weights of 8 bits
 * have no -128: the file has none. */
struct mpq_lsq_range mpq_lsq_range(int bits, bool is_signed);
struct mpq_lsq_range mpq_lsq_weight_range(int bits);

/* x, y [n]; y may be x. step > 0. */
void mpq_lsq_forward(struct mpq_lsq_range range, mpq_real step, const mpq_real *x, int64_t n,
                     mpq_real *y);

/* Straight-through gradients (eq. 3), with z = x / step:
 *
 *   dx += dy                            where low <= z <= high, else nothing; NULL: not wanted
 *   the result is dL/dstep:  sum of dy * (rint(z) - z) where low < z < high, else dy * low or high
 *
 * The paper's factor 1/sqrt(n high) is left to whoever sets the rate. dx may not alias dy. */
double mpq_lsq_backward(struct mpq_lsq_range range, mpq_real step, const mpq_real *x,
                        const mpq_real *dy, int64_t n, mpq_real *dx);

/* First steps: max |mean +- 3 deviations| / 2^(bits-1) of weights, 2 mean |x| / sqrt(high) of
 * activations (a mean over any number of values). Tiny where the values are all 0, never 0. */
mpq_real mpq_lsq_weight_step(const mpq_real *w, int64_t n, int bits);
mpq_real mpq_lsq_activation_step(double mean_magnitude, struct mpq_lsq_range range);

#endif
