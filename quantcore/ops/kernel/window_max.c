#include "quantcore/ops/kernel/window_max.h"

#include <math.h>

#include "quantcore/base/simd.h"

#define T          mpq_real
#define START      (mpq_real)(-INFINITY)
#define NAME(part) part##_real
#include "quantcore/ops/kernel/window_max.inc"
#undef T
#undef START
#undef NAME

#define T          uint8_t
#define START      0
#define NAME(part) part##_u8
#include "quantcore/ops/kernel/window_max.inc"
#undef T
#undef START
#undef NAME

#define T          int8_t
#define START      INT8_MIN
#define NAME(part) part##_i8
#include "quantcore/ops/kernel/window_max.inc"
#undef T
#undef START
#undef NAME

bool mpq_window_max_takes(const struct mpq_pool *pool)
{
    const struct mpq_pool_dim *d = &pool->dim[0], *h = &pool->dim[1], *w = &pool->dim[2];
    return d->in == 1 && d->out == 1 && d->kernel == 1 && d->pad == 0 && h->dilation == 1 &&
           w->dilation == 1;
}

size_t mpq_window_max_bytes(const struct mpq_pool *pool, size_t element_bytes)
{
    return ((size_t)mpq_pool_padded(&pool->dim[2]) * element_bytes + 63) / 64 * 64;
}

void mpq_window_max_real(const struct mpq_pool *pool, const mpq_real *x, mpq_real *y, void *row)
{
    plane_real(pool, x, y, row);
}

void mpq_window_max_u8(const struct mpq_pool *pool, const uint8_t *x, uint8_t *y, void *row)
{
    plane_u8(pool, x, y, row);
}

void mpq_window_max_i8(const struct mpq_pool *pool, const int8_t *x, int8_t *y, void *row)
{
    plane_i8(pool, x, y, row);
}
