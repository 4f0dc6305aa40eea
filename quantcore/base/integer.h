/* Division of integers as geometry wants it. */
#ifndef MPQ_BASE_INTEGER_H
#define MPQ_BASE_INTEGER_H

#include <stdint.h>

/* a / b rounded up, and down, for b > 0. */
static inline int64_t mpq_ceil_div(int64_t a, int64_t b)
{
    return a >= 0 ? (a + b - 1) / b : -(-a / b);
}

static inline int64_t mpq_floor_div(int64_t a, int64_t b)
{
    return -mpq_ceil_div(-a, b);
}

/* The greatest common divisor of a and b >= 0; of 0 and b: b. */
static inline int64_t mpq_gcd(int64_t a, int64_t b)
{
    while (b) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

#endif
