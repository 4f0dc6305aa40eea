/* Compiled with -ffp-contract=fast, the only source that is: products and sums fuse here. */
#include "quantcore/ops/kernel/tile.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "quantcore/base/simd.h"

#ifdef MPQ_REAL_DOUBLE
typedef int64_t element_index;
#else
typedef int32_t element_index;
#endif

/* Read as a vector: gcc 12 makes one that is set element by element anew wherever it is used. */
static const element_index lane_number[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

#define NAME(x)   x##_plain
#define NAME_TEXT "plain"
#define TARGET
#define BYTES 16
#define ROWS  4
#include "quantcore/ops/kernel/tile.inc"

#if MPQ_SIMD_X86
#define NAME(x)   x##_avx2
#define NAME_TEXT "avx2"
#define TARGET    __attribute__((target("arch=x86-64-v3")))
#define BYTES     32
#define ROWS      4
#include "quantcore/ops/kernel/tile.inc"

#define NAME(x)   x##_avx512
#define NAME_TEXT "avx512"
#define TARGET    __attribute__((target("arch=x86-64-v4")))
#define BYTES     64
#define ROWS      8
#include "quantcore/ops/kernel/tile.inc"
#endif

static int n_set(void)
{
#if MPQ_SIMD_X86
    if (__builtin_cpu_supports("x86-64-v4"))
        return 3;
    if (__builtin_cpu_supports("x86-64-v3"))
        return 2;
#endif
    return 1;
}

const struct mpq_tile_set *mpq_tile_at(int i)
{
    static const struct mpq_tile_set *const set[] = {
        &set_plain,
#if MPQ_SIMD_X86
        &set_avx2,
        &set_avx512,
#endif
    };
    return i < n_set() ? set[i] : NULL;
}

const struct mpq_tile_set *mpq_tile_best(void)
{
    return mpq_tile_at(n_set() - 1);
}
