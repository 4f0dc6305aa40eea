/* The factors are shifted by their zero points into mpq_real, where BLAS multiplies them over as
 * much of k at a time as keeps every sum an exact integer; int32 takes what is longer. */
#include "quantcore/ops/kernel/integer_gemm.h"

#include <string.h>

#include "quantcore/ops/kernel/gemm.h"
#include "quantcore/ops/kernel/quantized.h"
#include "quantcore/ops/kernel/scratch.h"
#include "quantcore/ops/op_util.h"

struct buffers {
    mpq_real *a, *b, *sum;
};

static struct buffers cut(void *workspace, int64_t m, int64_t n, int64_t k, size_t *out_bytes)
{
    struct buffers buffers;
    *out_bytes = 0;
    buffers.a = mpq_scratch_take(workspace, out_bytes, m * k, sizeof(mpq_real));
    buffers.b = mpq_scratch_take(workspace, out_bytes, k * n, sizeof(mpq_real));
    buffers.sum = mpq_scratch_take(workspace, out_bytes, m * n, sizeof(mpq_real));
    return buffers;
}

size_t mpq_integer_gemm_bytes(int64_t m, int64_t n, int64_t k)
{
    size_t bytes;
    cut(NULL, m, n, k, &bytes);
    return bytes;
}

static int32_t zero_of(const struct mpq_integer_matrix *x, int64_t i)
{
    if (!x->zero || mpq_shape_count(&x->zero->shape) == 1)
        return mpq_zero_at(x->zero, 0);
    return (int32_t)mpq_tensor_int(x->zero, x->zero_begin + i);
}

/* y = x - zero in the layout of x, rows by columns; zero points go along rows where `by_row`, else
 * along columns. Returns the largest magnitude. */
static mpq_real shift(const struct mpq_integer_matrix *x, int64_t rows, int64_t columns,
                      bool by_row, mpq_real *y)
{
    if (!x->zero || mpq_shape_count(&x->zero->shape) == 1) {
        mpq_shift_to_real(x->data, x->is_signed, zero_of(x, 0), y, rows * columns);
        return mpq_largest_magnitude(y, rows * columns);
    }
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = r * columns;
        int32_t zero = by_row ? zero_of(x, r) : 0;
        mpq_shift_to_real(x->data + at, x->is_signed, zero, y + at, columns);
        for (int64_t c = 0; !by_row && c < columns; c++)
            y[at + c] -= (mpq_real)zero_of(x, c);
    }
    return mpq_largest_magnitude(y, rows * columns);
}

void mpq_integer_gemm(int64_t m, int64_t n, int64_t k, const struct mpq_integer_matrix *a,
                      const struct mpq_integer_matrix *b, int32_t *sum, void *workspace)
{
    size_t bytes;
    struct buffers real = cut(workspace, m, n, k, &bytes);
    int64_t lda = a->is_transposed ? m : k, ldb = b->is_transposed ? k : n;
    double a_high = (double)shift(a, a->is_transposed ? k : m, lda, !a->is_transposed, real.a);
    double b_high = (double)shift(b, b->is_transposed ? n : k, ldb, b->is_transposed, real.b);
    double product = a_high * b_high;
    int64_t step = product * (double)k <= MPQ_EXACT_SUM ? k : (int64_t)(MPQ_EXACT_SUM / product);
    memset(sum, 0, (size_t)(m * n) * sizeof *sum);
    for (int64_t begin = 0; begin < k; begin += step) {
        int64_t length = k - begin < step ? k - begin : step;
        mpq_gemm(a->is_transposed, b->is_transposed, m, n, length, 1,
                 real.a + (a->is_transposed ? begin * lda : begin), lda,
                 real.b + (b->is_transposed ? begin : begin * ldb), ldb, 0, real.sum, n);
        if (begin)
            mpq_integer_add(sum, real.sum, m * n);
        else
            mpq_integer_store(sum, real.sum, m * n);
    }
}
