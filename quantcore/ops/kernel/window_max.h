/* The largest of each window of a plane, in the plane's own type. */
#ifndef MPQ_OPS_KERNEL_WINDOW_MAX_H
#define MPQ_OPS_KERNEL_WINDOW_MAX_H

#include "quantcore/ops/kernel/pool.h"

/* Whether these windows are in planes of at most two dimensions and without dilation. */
bool mpq_window_max_takes(const struct mpq_pool *pool);

/* y = the largest of each window of one plane, -infinity or the least integer of one that is all
 * padding or NaN; a NaN is no maximum. As mpq_pool_separable() by rows of maxima.
 *   x [in_count]   y [out_count]   row [mpq_window_max_bytes()] scratch
 * y must not alias x. */
void mpq_window_max_real(const struct mpq_pool *pool, const mpq_real *x, mpq_real *y, void *row);
void mpq_window_max_u8(const struct mpq_pool *pool, const uint8_t *x, uint8_t *y, void *row);
void mpq_window_max_i8(const struct mpq_pool *pool, const int8_t *x, int8_t *y, void *row);

size_t mpq_window_max_bytes(const struct mpq_pool *pool, size_t element_bytes);

#endif
