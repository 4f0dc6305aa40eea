/* mpq_real is the type the kernels compute in: float in the product, double in the twin build
 * that the gradient checks use, where finite differences are sharp. An ONNX tensor of element type
 * FLOAT is held in memory as mpq_real. */
#ifndef MPQ_BASE_REAL_H
#define MPQ_BASE_REAL_H

#include "quantcore/base/simd.h"

#ifdef MPQ_REAL_DOUBLE
typedef double mpq_real;
#define MPQ_REAL(x) x
#else
typedef float mpq_real;
#define MPQ_REAL(x) x##f
#endif

/* x rounded to an integer, halves to even, for |x| <= 2^22: adding 1.5 * 2^23 (2^52 in double)
 * leaves no bits for a fraction. */
MPQ_INLINE mpq_real mpq_round_small(mpq_real x)
{
#ifdef MPQ_REAL_DOUBLE
    const mpq_real magic = 0x1.8p52;
#else
    const mpq_real magic = 0x1.8p23f;
#endif
    return (x + magic) - magic;
}

/* low where x is NaN. */
MPQ_INLINE mpq_real mpq_clamp(mpq_real x, mpq_real low, mpq_real high)
{
    x = x > low ? x : low;
    return x < high ? x : high;
}

#endif
