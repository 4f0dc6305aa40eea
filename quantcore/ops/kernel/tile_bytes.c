#include <stddef.h>

#include "quantcore/base/simd.h"
#include "quantcore/ops/kernel/tile.h"

#if MPQ_SIMD_X86 && !defined(MPQ_REAL_DOUBLE)
#include <immintrin.h>

#define TARGET __attribute__((target("arch=x86-64-v4,avx512vnni")))

enum { LANES = 16, MAX_ROWS = 8 };

typedef int32_t sums __attribute__((vector_size(64)));
typedef float floats __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t bytes __attribute__((vector_size(64), aligned(4), may_alias));

/* Sums of whole numbers that floats hold exactly: what comes after them is as in tile.inc. */
MPQ_INLINE TARGET void finish(int rows, int vectors, const struct mpq_tile_sink *sink,
                              sums sum[][MPQ_TILE_VECTORS])
{
    const struct mpq_tile_sink to = *sink;
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) {
            floats *y = (floats *)(to.y + i * to.ldy + to.at[v]);
            floats total = (floats)_mm512_cvtepi32_ps((__m512i)sum[i][v]);
            if (to.bias)
                total += to.bias[i];
            if (to.add)
                total += *y;
            *y = total;
        }
}

MPQ_INLINE TARGET void product_of(int rows, int vectors, int64_t n_k, const float *a, int64_t lda,
                                  const float *s, const int64_t *offset,
                                  const struct mpq_tile_sink *sink)
{
    sums sum[MAX_ROWS][MPQ_TILE_VECTORS];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++)
            sum[i][v] = (sums){0};
    for (int64_t k = 0; k < n_k; k++) {
        const bytes *b = (const bytes *)(s + offset[k]);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            const bytes w = (bytes)_mm512_castps_si512(_mm512_set1_ps(a[i * lda + k]));
#pragma GCC unroll 3
            for (int v = 0; v < vectors; v++)
                sum[i][v] =
                    (sums)_mm512_dpbusd_epi32((__m512i)sum[i][v], (__m512i)b[v], (__m512i)w);
        }
    }
    finish(rows, vectors, sink, sum);
}

TARGET static void product(int rows, int vectors, int64_t n_k, const float *a, int64_t lda,
                           const float *s, const int64_t *offset, const struct mpq_tile_sink *sink)
{
#define SHAPE(r, v)                                                                                \
    case r * 4 + v:                                                                                \
        product_of(r, v, n_k, a, lda, s, offset, sink);                                            \
        return;
#define SHAPES(r) SHAPE(r, 1) SHAPE(r, 2) SHAPE(r, 3)
    switch (rows * 4 + vectors) {
        SHAPES(1)
        SHAPES(2)
        SHAPES(4)
        SHAPES(8)
    }
}

mpq_tile_product *mpq_tile_bytes(void)
{
    const struct mpq_tile_set *best = mpq_tile_best();
    bool is_there = __builtin_cpu_supports("avx512vnni") && best->lanes == LANES;
    return is_there ? product : NULL;
}
#else
mpq_tile_product *mpq_tile_bytes(void)
{
    return NULL;
}
#endif
