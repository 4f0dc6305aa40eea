/* e^x - 1 and log(1 + x) in double for loops that a compiler is to vectorise, which libm does not
 * let it: no branches, no tables, and the same result with every instruction set. */
#ifndef MPQ_BASE_DOUBLE_MATH_H
#define MPQ_BASE_DOUBLE_MATH_H

#include <stdint.h>
#include <string.h>

#include "quantcore/base/simd.h"

/* log 2 in two parts, the first so short that products with exponents are exact (fdlibm). */
#define MPQ_LOG_2_HIGH 6.93147180369123816490e-01
#define MPQ_LOG_2_LOW  1.90821492927058770002e-10

/* e^x - 1 within 2 ulp, x taken for -700 below that and for 700 above. NaN stays NaN. */
MPQ_INLINE double mpq_expm1_saturated(double x)
{
    const double magic = 0x1.8p52; /* leaves no bits for a fraction: the sum ends in n */
    x = x > 700 ? 700 : x;
    x = x < -700 ? -700 : x;
    double sum = x * 1.44269504088896338700 + magic, n = sum - magic;
    double r = (x - n * MPQ_LOG_2_HIGH) - n * MPQ_LOG_2_LOW; /* x - n log 2, at most 0.35 */
    double p = 1.0 / 6227020800;                             /* 1 / 13!, and so on           */
    p = p * r + 1.0 / 479001600;
    p = p * r + 1.0 / 39916800;
    p = p * r + 1.0 / 3628800;
    p = p * r + 1.0 / 362880;
    p = p * r + 1.0 / 40320;
    p = p * r + 1.0 / 5040;
    p = p * r + 1.0 / 720;
    p = p * r + 1.0 / 120;
    p = p * r + 1.0 / 24;
    p = p * r + 1.0 / 6;
    p = p * r + 1.0 / 2;
    p = p * r * r + r;
    uint64_t bits;
    memcpy(&bits, &sum, sizeof bits);
    bits = (bits + 1023) << 52; /* 2^n */
    double power;
    memcpy(&power, &bits, sizeof power);
    return power * p + (power - 1);
}

/* log(1 + x) within 2 ulp for finite x > -1, not denormal 1 + x. NaN stays NaN. As fdlibm's
 * log1p(), with its polynomial. */
MPQ_INLINE double mpq_log1p(double x)
{
    const uint64_t one = 0x3ff0000000000000u, sqrt_half = 0x3fe6a09e667f3bcdu;
    const uint64_t fraction = 0x000fffffffffffffu, two_52 = 0x4330000000000000u;
    double u = 1 + x;
    uint64_t bits, exponent;
    memcpy(&bits, &u, sizeof bits);
    bits += one - sqrt_half;
    exponent = bits >> 52; /* of 2^(exponent - 1023) m = u with sqrt(1/2) <= m < sqrt(2) */
    bits = (bits & fraction) + sqrt_half;
    exponent |= two_52;
    double m, n;
    memcpy(&m, &bits, sizeof m);
    memcpy(&n, &exponent, sizeof n);
    n -= 0x1p52 + 1023;
    double f = n == 0 ? x : m - 1;
    double lost = n == 0 ? x - x : (x - (u - 1)) / u; /* by rounding u */
    double s = f / (2 + f), z = s * s, half_square = 0.5 * f * f;
    double r = 1.479819860511658591e-01;
    r = r * z + 1.531383769920937332e-01;
    r = r * z + 1.818357216161805012e-01;
    r = r * z + 2.222219843214978396e-01;
    r = r * z + 2.857142874366239149e-01;
    r = r * z + 3.999999999940941908e-01;
    r = r * z + 6.666666666666735130e-01;
    r *= z;
    return n * MPQ_LOG_2_HIGH -
           ((half_square - (s * (half_square + r) + (n * MPQ_LOG_2_LOW + lost))) - f);
}

#endif
