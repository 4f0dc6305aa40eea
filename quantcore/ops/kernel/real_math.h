/* Mathematics in mpq_real: names for the libm functions of its width, and loops' own versions of
 * those that libm does not let a compiler vectorise. */
#ifndef MPQ_OPS_KERNEL_REAL_MATH_H
#define MPQ_OPS_KERNEL_REAL_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "quantcore/base/real.h"
#include "quantcore/base/simd.h"

#ifdef MPQ_REAL_DOUBLE
#define MPQ_MATH(name) name
#else
#define MPQ_MATH(name) name##f
#endif

/* e^x within 2 ulp for -87 <= x <= 88, saturating: 0 below, e^88 above. The coefficients are those
 * of expf in S. Moshier's Cephes library. */
MPQ_INLINE mpq_real mpq_exp_saturated(mpq_real x)
{
#ifdef MPQ_REAL_DOUBLE
    return exp(x);
#else
    float t = mpq_clamp(x, -87.0f, 88.0f);
    float n = mpq_round_small(t * 1.44269504f);
    float r = (t - n * 0.693359375f) + n * 2.12194440e-4f; /* t - n log 2, in two parts */
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = ((int32_t)n + 127) * (1 << 23); /* 2^n */
    float power;
    memcpy(&power, &bits, sizeof power);
    return x < -87.0f ? 0.0f : p * power;
#endif
}

MPQ_INLINE mpq_real mpq_sigmoid(mpq_real x)
{
    return 1 / (1 + mpq_exp_saturated(-x));
}

/* Within 3 ulp; the series near 0 is that of tanhf in Cephes. */
MPQ_INLINE mpq_real mpq_tanh(mpq_real x)
{
#ifdef MPQ_REAL_DOUBLE
    return tanh(x);
#else
    float z = x * x;
    float p = -5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    float near = p * z * x + x;
    float far = 1.0f - 2.0f / (mpq_exp_saturated(2.0f * x) + 1.0f);
    return z < 0.390625f ? near : far;
#endif
}

/* log(1 + e^x) without overflow. */
MPQ_INLINE mpq_real mpq_softplus(mpq_real x)
{
    return (x > 0 ? x : 0) + MPQ_MATH(log1p)(MPQ_MATH(exp)(-MPQ_MATH(fabs)(x)));
}

/* Sum of n reals in double, in eight interleaved partial sums so that it vectorises; the order is
 * fixed. */
MPQ_INLINE double mpq_sum(const mpq_real *x, int64_t n)
{
    double part[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++)
            part[k] += (double)x[i + k];
    double sum = 0;
    for (; i < n; i++)
        sum += (double)x[i];
    for (int k = 0; k < 8; k++)
        sum += part[k];
    return sum;
}

#endif
