/* Matrix products by BLAS. */
#ifndef MPQ_OPS_KERNEL_GEMM_H
#define MPQ_OPS_KERNEL_GEMM_H

#include <stdbool.h>
#include <stdint.h>

#include "quantcore/base/real.h"

/* c = alpha * op(a) op(b) + beta * c, row-major, op transposing where the flag says so.
 *   op(a) [m, k], lda apart in memory    op(b) [k, n]    c [m, n]
 * beta 0: c is written, never read. c must not overlap a or b. Any dimension may be 0; a leading
 * dimension may then be too. */
void mpq_gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, mpq_real alpha,
              const mpq_real *a, int64_t lda, const mpq_real *b, int64_t ldb, mpq_real beta,
              mpq_real *c, int64_t ldc);

/* Add x^T x, x [n, k], to the lower triangle, diagonal included, of gram [k, k]; what is above it
 * stays. */
void mpq_gram(int64_t k, int64_t n, const mpq_real *x, mpq_real *gram);

/* Whether several threads may call BLAS at once. */
bool mpq_gemm_is_concurrent(void);

/* mpq_parallel_for() for an fn that calls mpq_gemm(): on one thread where they may not. */
void mpq_gemm_parallel_for(int64_t n, int64_t grain,
                           void (*fn)(void *arg, int64_t begin, int64_t end, int thread),
                           void *arg);

/* Name, version, build and processor kind of the BLAS that runs, for reports. */
const char *mpq_gemm_library(void);

#endif
