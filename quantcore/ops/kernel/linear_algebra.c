#include "quantcore/ops/kernel/linear_algebra.h"

#include <lapacke.h>

/* The n * n elements from the last to the first: rows and columns in reverse order. */
static void reverse(int64_t n, double *a)
{
    for (int64_t i = 0, j = n * n - 1; i < j; i++, j--) {
        double kept = a[i];
        a[i] = a[j];
        a[j] = kept;
    }
}

/* With rows and columns reversed a = l l^T, and u is the inverse of l, reversed again. LAPACK's
 * columns are our rows: its l lies below the diagonal once ours is reversed. */
bool mpq_inverse_cholesky(int64_t n, double *a)
{
    lapack_int order = (lapack_int)n;
    reverse(n, a);
    if (LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'L', order, a, order) != 0 ||
        LAPACKE_dtrtri(LAPACK_COL_MAJOR, 'L', 'N', order, a, order) != 0)
        return false;
    reverse(n, a);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < i; j++)
            a[j * n + i] = a[i * n + j];
    return true;
}
