/* What ScatterElements and ScatterND do with the elements that indices name: a copy of x in which
 * updates take their places, or are combined with what is there. */
#ifndef MPQ_OPS_KERNEL_SCATTER_H
#define MPQ_OPS_KERNEL_SCATTER_H

#include "quantcore/ops/op.h"

enum mpq_scatter {
    MPQ_SCATTER_NONE,
    MPQ_SCATTER_ADD,
    MPQ_SCATTER_MUL,
    MPQ_SCATTER_MAX,
    MPQ_SCATTER_MIN,
    MPQ_N_SCATTER
};

/* The attribute `reduction` of the node. */
enum mpq_status mpq_scatter_read(struct mpq_ctx *ctx, const struct mpq_node *node,
                                 enum mpq_scatter *out) MPQ_CHECKED;

/* UNSUPPORTED unless it can be computed on elements of that type: all types only move. */
enum mpq_status mpq_scatter_check(struct mpq_ctx *ctx, const struct mpq_node *node,
                                  const struct mpq_tensor *const *x,
                                  enum mpq_scatter reduction) MPQ_CHECKED;

/* y[to..to + n) (op)= x[2][from..from + n). */
void mpq_scatter_forward(const struct mpq_kernel_args *args, enum mpq_scatter reduction, int64_t to,
                         int64_t from, int64_t n);

/* The same spans from the last to the first, then the end. An element that is replaced passes its
 * gradient to the update that stayed, one that is added to to x and to all of its updates, one that
 * is combined otherwise to nobody. Workspace: a byte for each element of y, see _workspace. */
size_t mpq_scatter_workspace(const struct mpq_node *node, const struct mpq_tensor *const *x,
                             struct mpq_tensor *const *y, bool training);
void mpq_scatter_backward_begin(const struct mpq_kernel_args *args);
void mpq_scatter_backward(const struct mpq_kernel_args *args, enum mpq_scatter reduction,
                          int64_t to, int64_t from, int64_t n);
void mpq_scatter_backward_end(const struct mpq_kernel_args *args);

#endif
