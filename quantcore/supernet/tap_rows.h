/* What filters of one input channel meet, for the sums of struct mpq_moments: of a few inputs, so
 * that all products of a row with itself stay in registers.
 *
 * A row is   x of each tap, (f - x) w, 1, 0 ...   : its products with itself, summed, are X^T X,
 * ((F - X) w)^T X and the sums of both. */
#ifndef MPQ_SUPERNET_TAP_ROWS_H
#define MPQ_SUPERNET_TAP_ROWS_H

#include "quantcore/supernet/conv_rows.h"

/* Numbers to a row of n_tap taps. */
int64_t mpq_tap_rows_stride(int64_t n_tap);

/* What is the same in all rows, row [n_row, stride]: the 1 and what follows. */
void mpq_tap_rows_begin(int64_t n_row, int64_t n_tap, mpq_real *row);

/* The rest of row [rows->n_row, stride] of group g: one input channel, one filter w [n_tap]; f
 * NULL: none, nor w. */
void mpq_tap_rows_fill(const struct mpq_conv_rows *rows, const mpq_real *x, const mpq_real *f,
                       const mpq_real *w, int64_t g, mpq_real *row);

/* out [n_tap + 2, stride]: row^T row of n_row rows, at and below the diagonal; what is above it is
 * undefined. */
void mpq_tap_rows_products(int64_t n_row, int64_t n_tap, const mpq_real *row, mpq_real *out);

#endif
