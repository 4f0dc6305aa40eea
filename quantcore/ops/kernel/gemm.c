#include "quantcore/ops/kernel/gemm.h"

#include <cblas.h>

#include "quantcore/base/thread.h"

#ifdef MPQ_REAL_DOUBLE
#define GEMM cblas_dgemm
#else
#define GEMM cblas_sgemm
#endif

static void scale(int64_t m, int64_t n, mpq_real beta, mpq_real *c, int64_t ldc)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++)
            c[i * ldc + j] = beta == 0 ? 0 : beta * c[i * ldc + j];
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
    GEMM(CblasRowMajor, trans_a ? CblasTrans : CblasNoTrans, trans_b ? CblasTrans : CblasNoTrans,
         (int)m, (int)n, (int)k, alpha, a, (int)lda, b, (int)ldb, beta, c, (int)ldc);
}

/* OpenBLAS built for OpenMP runs a call made inside a parallel region on the calling thread, and
 * one built for pthreads locks what concurrent calls share. A sequential build may share it without
 * a lock and give wrong products (OpenBLAS issues 1755, 1761, 2126). */
void mpq_gemm_parallel_for(int64_t n, int64_t grain,
                           void (*fn)(void *arg, int64_t begin, int64_t end, int thread), void *arg)
{
    if (openblas_get_parallel() != OPENBLAS_SEQUENTIAL)
        mpq_parallel_for(n, grain, fn, arg);
    else if (n > 0)
        fn(arg, 0, n, 0);
}

const char *mpq_gemm_library(void)
{
    return openblas_get_config();
}
