#include "quantcore/ops/kernel/linear_algebra.h"

#include <lapacke.h>

bool mpq_inverse_cholesky(int64_t n, double *a)
{
    lapack_int order = (lapack_int)n;
    if (LAPACKE_dpotrf(LAPACK_ROW_MAJOR, 'L', order, a, order) != 0 ||
        LAPACKE_dpotri(LAPACK_ROW_MAJOR, 'L', order, a, order) != 0)
        return false;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < i; j++)
            a[j * n + i] = a[i * n + j];
    return LAPACKE_dpotrf(LAPACK_ROW_MAJOR, 'U', order, a, order) == 0;
}
