#include "quantcore/ops/kernel/byte_product.h"

#include <stddef.h>
#include <string.h>

#include "quantcore/base/integer.h"
#include "quantcore/base/simd.h"
#include "quantcore/base/thread.h"

#if MPQ_SIMD_X86
#include <immintrin.h>

#define TARGET __attribute__((target("arch=x86-64-v4,avx512vnni")))

/* A tile is 6 rows of y by 64 columns, places of one image after another. Of four rows of x the
 * bytes of a column become one lane (`panel`), in the order in which unpacking leaves them:
 *
 *   x row     c0 c1 c2 .. c63                  byte 16 * l + 4 * v + j is lane 4 * l + j of vector
 * v vector v  lanes 4 * l + j, l, j < 4
 *
 * and packing the sums to bytes undoes that. Fewer columns take fewer vectors: words of four
 * columns are spread first so that they fall into these. */
typedef int32_t sums __attribute__((vector_size(64)));

enum { COLUMNS = 64, VECTORS = 4, ROWS = 6 };

/* Neighbouring columns of one image: where column 0 would be, in x and in y. */
struct run {
    ptrdiff_t x, y;
    __mmask64 columns;
};

struct block {
    int n_run, vectors;
    struct run run[COLUMNS];
};

struct job {
    const struct mpq_byte_product *p;
    int64_t n_block, n_part, part_rows; /* blocks of columns; parts of rows where blocks are few */
    char *panel;                        /* [threads][panel_bytes()] */
};

static size_t panel_bytes(int64_t k)
{
    return (size_t)(mpq_byte_product_row(k) * COLUMNS);
}

static void take_columns(const struct mpq_byte_product *p, int64_t begin, struct block *out)
{
    int64_t n = mpq_min(COLUMNS, p->n * p->places - begin), count;
    out->n_run = 0;
    out->vectors = (int)mpq_ceil_div(n, COLUMNS / VECTORS);
    for (int64_t column = 0; column < n; column += count) {
        int64_t image = (begin + column) / p->places, place = (begin + column) % p->places;
        count = mpq_min(n - column, p->places - place);
        out->run[out->n_run++] =
            (struct run){.x = (ptrdiff_t)(image * p->k * p->places + place - column),
                         .y = (ptrdiff_t)(image * p->m * p->places + place - column),
                         .columns = ~(__mmask64)0 >> (COLUMNS - count) << column};
    }
}

/* Where each word of four columns goes: of lane l, word j < vectors is word l * vectors + j. */
TARGET static void set_spread(int vectors, __m512i *spread, __m512i *gather)
{
    int32_t to[16], back[16] = {0};
    for (int i = 0; i < 16; i++) {
        int j = i % 4;
        to[i] = j < vectors ? i / 4 * vectors + j : 15;
        if (j < vectors)
            back[i / 4 * vectors + j] = i;
    }
    *spread = _mm512_loadu_si512(to);
    *gather = _mm512_loadu_si512(back);
}

TARGET static void fill_panel(const struct mpq_byte_product *p, const struct block *b,
                              __m512i *panel)
{
    bool is_whole = b->n_run == 1 && b->vectors == VECTORS;
    __m512i spread, gather;
    set_spread(b->vectors, &spread, &gather);
    for (int64_t k = 0; k < p->k; k += 4, panel += b->vectors) {
        __m512i row[4];
        for (int i = 0; i < 4; i++) {
            row[i] = _mm512_setzero_si512();
            for (int r = 0; k + i < p->k && r < b->n_run; r++)
                row[i] = _mm512_mask_loadu_epi8(row[i], b->run[r].columns,
                                                p->x + b->run[r].x + (k + i) * p->places);
            if (!is_whole)
                row[i] = _mm512_permutexvar_epi32(spread, row[i]);
        }
        __m512i a = _mm512_unpacklo_epi8(row[0], row[1]), c = _mm512_unpackhi_epi8(row[0], row[1]);
        __m512i d = _mm512_unpacklo_epi8(row[2], row[3]), e = _mm512_unpackhi_epi8(row[2], row[3]);
        panel[0] = _mm512_unpacklo_epi16(a, d);
        if (b->vectors > 1)
            panel[1] = _mm512_unpackhi_epi16(a, d);
        if (b->vectors > 2)
            panel[2] = _mm512_unpacklo_epi16(c, e);
        if (b->vectors > 3)
            panel[3] = _mm512_unpackhi_epi16(c, e);
    }
}

/* Numbers beyond int32, and NaN, become its lowest where they are not above `high`, and packing
 * saturates. */
MPQ_INLINE TARGET __m512i rounded(__m512i sum, int32_t bias, float scale, float high)
{
    __m512 x = _mm512_cvtepi32_ps(_mm512_add_epi32(sum, _mm512_set1_epi32(bias)));
    x = _mm512_mul_ps(x, _mm512_set1_ps(scale));
    return _mm512_cvtps_epi32(_mm512_min_ps(_mm512_set1_ps(high), x));
}

MPQ_INLINE TARGET __m512i to_bytes(const struct mpq_byte_product *p, const __m512i y[VECTORS])
{
    __m512i zero = _mm512_set1_epi16((int16_t)p->to.zero);
    __m512i low = _mm512_adds_epi16(_mm512_packs_epi32(y[0], y[1]), zero);
    __m512i high = _mm512_adds_epi16(_mm512_packs_epi32(y[2], y[3]), zero);
    return p->y_is_signed ? _mm512_packs_epi16(low, high) : _mm512_packus_epi16(low, high);
}

MPQ_INLINE TARGET void tile(int rows, int vectors, const struct mpq_byte_product *p, int64_t row,
                            const __m512i *panel, const struct block *b, __m512i gather)
{
    const int64_t ldw = mpq_byte_product_row(p->k);
    const uint8_t *w = p->w + row * ldw;
    sums sum[ROWS][VECTORS];
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            sum[i][v] = (sums){0};
    for (int64_t k = 0; k < ldw; k += 4, panel += vectors) {
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            int32_t four;
            memcpy(&four, w + i * ldw + k, sizeof four);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                sum[i][v] = (sums)_mm512_dpbusd_epi32((__m512i)sum[i][v], panel[v],
                                                      _mm512_set1_epi32(four));
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) {
        uint8_t *to = p->y + (row + i) * p->places;
        __m512i y[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++)
            y[v] = v < vectors ? rounded((__m512i)sum[i][v], p->bias[row + i], p->scale[row + i],
                                         p->to.high)
                               : _mm512_setzero_si512();
        __m512i bytes = to_bytes(p, y);
        if (vectors < VECTORS)
            bytes = _mm512_permutexvar_epi32(gather, bytes);
        for (int r = 0; r < b->n_run; r++)
            if (b->run[r].columns == ~(__mmask64)0)
                _mm512_storeu_si512(to + b->run[r].y, bytes);
            else
                _mm512_mask_storeu_epi8(to + b->run[r].y, b->run[r].columns, bytes);
    }
}

MPQ_INLINE TARGET void all_rows(int vectors, const struct mpq_byte_product *p, int64_t begin,
                                int64_t end, const __m512i *panel, const struct block *b)
{
    int64_t row = begin;
    __m512i spread, gather;
    set_spread(vectors, &spread, &gather);
    for (; row + 6 <= end; row += 6)
        tile(6, vectors, p, row, panel, b, gather);
    for (; row + 4 <= end; row += 4)
        tile(4, vectors, p, row, panel, b, gather);
    for (; row + 2 <= end; row += 2)
        tile(2, vectors, p, row, panel, b, gather);
    if (row < end)
        tile(1, vectors, p, row, panel, b, gather);
}

TARGET static void run_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct mpq_byte_product *p = job->p;
    __m512i *panel = (__m512i *)(job->panel + (size_t)thread * panel_bytes(p->k));
    for (int64_t i = begin; i < end; i++) {
        struct block b;
        int64_t first = i % job->n_part * job->part_rows;
        int64_t last = mpq_min(first + job->part_rows, p->m);
        take_columns(p, i / job->n_part * COLUMNS, &b);
        fill_panel(p, &b, panel);
        switch (b.vectors) {
        case 1:
            all_rows(1, p, first, last, panel, &b);
            break;
        case 2:
            all_rows(2, p, first, last, panel, &b);
            break;
        case 3:
            all_rows(3, p, first, last, panel, &b);
            break;
        default:
            all_rows(4, p, first, last, panel, &b);
        }
    }
}

bool mpq_byte_product_is_there(void)
{
    return __builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512vnni");
}

size_t mpq_byte_product_bytes(int64_t k)
{
    return panel_bytes(k) * (size_t)mpq_thread_count();
}

void mpq_byte_product_run(const struct mpq_byte_product *p, void *workspace)
{
    struct job job = {.p = p, .n_part = 1, .part_rows = p->m, .panel = workspace};
    job.n_block = mpq_ceil_div(p->n * p->places, COLUMNS);
    if (job.n_block < mpq_thread_count() && !mpq_thread_is_inside()) {
        int64_t parts = mpq_ceil_div(mpq_thread_count(), job.n_block);
        job.part_rows = mpq_ceil_div(mpq_ceil_div(p->m, parts), ROWS) * ROWS;
        job.n_part = mpq_ceil_div(p->m, job.part_rows);
    }
    mpq_parallel_for(job.n_block * job.n_part, 1, run_piece, &job);
}
#else
bool mpq_byte_product_is_there(void)
{
    return false;
}

size_t mpq_byte_product_bytes(int64_t k)
{
    (void)k;
    return 0;
}

void mpq_byte_product_run(const struct mpq_byte_product *p, void *workspace)
{
    (void)p;
    (void)workspace;
}
#endif
