/* Matrix products of 8-bit integers, exact. */
#ifndef MPQ_OPS_KERNEL_INTEGER_GEMM_H
#define MPQ_OPS_KERNEL_INTEGER_GEMM_H

#include "quantcore/ir/tensor.h"

/* Integers up to this size are exact in mpq_real, and so is every partial sum of products that
 * cannot exceed it, in whatever order it is formed. */
#ifdef MPQ_REAL_DOUBLE
#define MPQ_EXACT_SUM 9007199254740992.0
#else
#define MPQ_EXACT_SUM 16777216.0
#endif

/* One matrix. Row r, column c of it is data[r * n_column + c]; with is_transposed its transpose
 * takes part in the product. The zero point is one number, or element zero_begin + i of zero for
 * row i of the left or column i of the right factor of the product. */
struct mpq_integer_matrix {
    const uint8_t *data;
    bool is_signed, is_transposed;
    const struct mpq_tensor *zero;
    int64_t zero_begin;
};

/* sum [m, n] = (a - a_zero) (b - b_zero), a [m, k] and b [k, n] as they take part, modulo 2^32. */
void mpq_integer_gemm(int64_t m, int64_t n, int64_t k, const struct mpq_integer_matrix *a,
                      const struct mpq_integer_matrix *b, int32_t *sum, void *workspace);
size_t mpq_integer_gemm_bytes(int64_t m, int64_t n, int64_t k);

#endif
