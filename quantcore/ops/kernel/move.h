/* Operators that only move elements, of any type: y is a strided walk over x, or x over y. */
#ifndef MPQ_OPS_KERNEL_MOVE_H
#define MPQ_OPS_KERNEL_MOVE_H

#include "quantcore/ops/kernel/loop.h"
#include "quantcore/ops/op.h"

struct mpq_move {
    struct mpq_loop loop; /* operand 0: y, operand 1: x; no two points share an element of y */
    int64_t y_offset, x_offset; /* elements before the loop's first point                         */
};

/* A loop over `shape`, y dense and x still without strides (all 0). */
void mpq_move_init(struct mpq_move *move, const struct mpq_shape *shape);

/* Strides of a dense array of that shape. */
void mpq_dense_strides(const struct mpq_shape *shape, int64_t *out_stride);

/* y[loop] = x[loop], and dx[loop] += dy[loop]. The loop is merged in the process. */
void mpq_move_forward(struct mpq_move *move, const struct mpq_tensor *x, struct mpq_tensor *y);
void mpq_move_backward(struct mpq_move *move, const mpq_real *dy, mpq_real *dx);

#endif
