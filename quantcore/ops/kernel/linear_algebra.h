/* Matrix factorisations by LAPACK. */
#ifndef MPQ_OPS_KERNEL_LINEAR_ALGEBRA_H
#define MPQ_OPS_KERNEL_LINEAR_ALGEBRA_H

#include <stdbool.h>
#include <stdint.h>

/* a [n, n], symmetric and positive definite (only its lower triangle is read), becomes the upper
 * triangular u with u^T u = a^-1; what is below the diagonal is undefined. False where a is not
 * positive definite to working precision; it is spoiled then. */
bool mpq_inverse_cholesky(int64_t n, double *a);

#endif
