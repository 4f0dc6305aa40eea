/* Integers as geometry wants them. */
#ifndef MPQ_BASE_INTEGER_H
#define MPQ_BASE_INTEGER_H

#include <stddef.h>
#include <stdint.h>

static inline int64_t mpq_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t mpq_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static inline size_t mpq_max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* a / b rounded up, and down, for b > 0. */
static inline int64_t mpq_ceil_div(int64_t a, int64_t b)
{
    return a >= 0 ? (a + b - 1) / b : -(-a / b);
}

static inline int64_t mpq_floor_div(int64_t a, int64_t b)
{
    return -mpq_ceil_div(-a, b);
}

/* Of the places start + i * step, step > 0, i in [0, n): those within [0, size) are the i of
 * [*low, *high). */
static inline void mpq_clip_range(int64_t n, int64_t step, int64_t start, int64_t size,
                                  int64_t *out_low, int64_t *out_high)
{
    *out_low = mpq_min(n, mpq_max(0, mpq_ceil_div(-start, step)));
    *out_high = mpq_max(*out_low, mpq_min(n, mpq_ceil_div(size - start, step)));
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
