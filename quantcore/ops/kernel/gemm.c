#include "quantcore/ops/kernel/gemm.h"

#include <cblas.h>
#include <string.h>

#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/sweep.h"
#include "quantcore/ops/kernel/tile.h"

#ifdef MPQ_REAL_DOUBLE
#define GEMM cblas_dgemm
#define SYRK cblas_dsyrk
#else
#define GEMM cblas_sgemm
#define SYRK cblas_ssyrk
#endif

static void scale(int64_t m, int64_t n, mpq_real beta, mpq_real *c, int64_t ldc)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++)
            c[i * ldc + j] = beta == 0 ? 0 : beta * c[i * ldc + j];
}

/* c = a b where b is so small that it stays in cache as it is: BLAS would copy both first, which
 * takes as long as the products where these are few. */
#define LD MPQ_TILE_MAX_COLUMNS
enum { SMALL_K = 256, SMALL_B = 64 * 1024, SMALL_GRAIN = 256 * 1024 };

struct small {
    int64_t m, n, k;
    const mpq_real *a, *b;
    mpq_real *c;
    int64_t lda, ldb, ldc;
};

/* Columns [column, column + n) of c, n <= vectors * lanes, for rows [begin, end). */
static void small_columns(const struct small *p, int64_t begin, int64_t end, int64_t column,
                          int64_t n, int vectors, const mpq_real *s, const int64_t *offset)
{
    const struct mpq_tile_set *set = mpq_tile_best();
    _Alignas(64) mpq_real tile[MPQ_TILE_MAX_ROWS * LD];
    bool is_whole = n == vectors * set->lanes;
    int rows;
    for (int64_t row = begin; row < end; row += rows) {
        const mpq_real *a = p->a + row * p->lda;
        mpq_real *c = p->c + row * p->ldc + column;
        struct mpq_tile_sink sink =
            is_whole ? mpq_tile_rows(set, c, p->ldc) : mpq_tile_rows(set, tile, LD);
        rows = set->max_rows;
        while (rows > end - row)
            rows /= 2;
        set->product(rows, vectors, p->k, a, p->lda, s, offset, &sink);
        if (is_whole)
            continue;
        for (int i = 0; i < rows; i++)
            memcpy(c + i * p->ldc, tile + i * LD, (size_t)n * sizeof *c);
    }
}

/* Rows in blocks of MPQ_TILE_MAX_ROWS. The last columns are copied with zeros behind them: nothing
 * there may be read. */
static void small_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct small *p = arg;
    int64_t offset[SMALL_K], panel_offset[SMALL_K], lanes = mpq_tile_best()->lanes;
    mpq_real panel[SMALL_K * LD];
    (void)thread;
    begin *= MPQ_TILE_MAX_ROWS;
    end = end * MPQ_TILE_MAX_ROWS < p->m ? end * MPQ_TILE_MAX_ROWS : p->m;
    for (int64_t k = 0; k < p->k; k++)
        offset[k] = k * p->ldb;
    mpq_sweep_panel_offsets(p->k, panel_offset);
    for (int64_t column = 0, n; column < p->n; column += n) {
        int vectors = mpq_sweep_vectors((p->n - column + lanes - 1) / lanes);
        bool is_tail = vectors * lanes > p->n - column;
        n = is_tail ? p->n - column : vectors * lanes;
        for (int64_t k = 0; is_tail && k < p->k; k++) {
            memcpy(panel + k * LD, p->b + k * p->ldb + column, (size_t)n * sizeof *panel);
            memset(panel + k * LD + n, 0, (size_t)(LD - n) * sizeof *panel);
        }
        small_columns(p, begin, end, column, n, vectors, is_tail ? panel : p->b + column,
                      is_tail ? panel_offset : offset);
    }
}

void mpq_gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, mpq_real alpha,
              const mpq_real *a, int64_t lda, const mpq_real *b, int64_t ldb, mpq_real beta,
              mpq_real *c, int64_t ldc)
{
    if (m == 0 || n == 0)
        return;
    if (k == 0) {
        scale(m, n, beta, c, ldc);
        return;
    }
    if (!trans_a && !trans_b && alpha == 1 && beta == 0 && m >= 4 && k <= SMALL_K &&
        k * n <= SMALL_B) {
        struct small p = {m, n, k, a, b, c, lda, ldb, ldc};
        mpq_parallel_for((m + MPQ_TILE_MAX_ROWS - 1) / MPQ_TILE_MAX_ROWS, 1 + SMALL_GRAIN / (n * k),
                         small_piece, &p);
        return;
    }
    GEMM(CblasRowMajor, trans_a ? CblasTrans : CblasNoTrans, trans_b ? CblasTrans : CblasNoTrans,
         (int)m, (int)n, (int)k, alpha, a, (int)lda, b, (int)ldb, beta, c, (int)ldc);
}

void mpq_gram(int64_t k, int64_t n, const mpq_real *x, mpq_real *gram)
{
    if (n && k)
        SYRK(CblasRowMajor, CblasLower, CblasTrans, (int)k, (int)n, 1, x, (int)k, 1, gram, (int)k);
}

/* OpenBLAS built for OpenMP runs a call made inside a parallel region on the calling thread, and
 * one built for pthreads locks what concurrent calls share. A sequential build may share it without
 * a lock and give wrong products (OpenBLAS issues 1755, 1761, 2126). */
bool mpq_gemm_is_concurrent(void)
{
    return openblas_get_parallel() != OPENBLAS_SEQUENTIAL;
}

void mpq_gemm_parallel_for(int64_t n, int64_t grain,
                           void (*fn)(void *arg, int64_t begin, int64_t end, int thread), void *arg)
{
    if (mpq_gemm_is_concurrent())
        mpq_parallel_for(n, grain, fn, arg);
    else if (n > 0)
        fn(arg, 0, n, 0);
}

const char *mpq_gemm_library(void)
{
    return openblas_get_config();
}
