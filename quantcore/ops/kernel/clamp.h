/* Bounds that a kernel applies to what it writes: an activation fused into it. */
#ifndef MPQ_OPS_KERNEL_CLAMP_H
#define MPQ_OPS_KERNEL_CLAMP_H

#include <stdint.h>

#include "quantcore/base/real.h"
#include "quantcore/base/simd.h"

struct mpq_clamp {
    mpq_real low, high;
};

/* As mpq_clamp(): low where y is NaN. */
MPQ_INLINE void mpq_clamp_row(mpq_real *y, int64_t n, struct mpq_clamp clamp)
{
    for (int64_t i = 0; i < n; i++) {
        mpq_real v = y[i] > clamp.low ? y[i] : clamp.low;
        y[i] = v < clamp.high ? v : clamp.high;
    }
}

#endif
