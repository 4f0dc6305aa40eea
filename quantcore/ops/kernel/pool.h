/* The geometry that MaxPool and AveragePool share. Images of 1 to 3 spatial dimensions are seen as
 * [plane][depth][height][width], missing dimensions being 1. */
#ifndef MPQ_OPS_KERNEL_POOL_H
#define MPQ_OPS_KERNEL_POOL_H

#include "quantcore/ops/op.h"

#define MPQ_POOL_DIMS 3

enum mpq_auto_pad { MPQ_PAD_EXPLICIT, MPQ_PAD_SAME_UPPER, MPQ_PAD_SAME_LOWER, MPQ_PAD_VALID };

struct mpq_pool_attrs {
    int n; /* spatial dimensions, 1 to 3 */
    int64_t kernel[MPQ_POOL_DIMS], stride[MPQ_POOL_DIMS], dilation[MPQ_POOL_DIMS];
    int64_t pad_begin[MPQ_POOL_DIMS], pad_end[MPQ_POOL_DIMS];
    enum mpq_auto_pad auto_pad;
    bool ceil_mode, count_include_pad, column_major;
};

/* Along one dimension: window o covers inputs o * stride - pad + tap * dilation. pad_end is what
 * the attributes say, not what a last partial window of ceil_mode reaches beyond. */
struct mpq_pool_dim {
    int64_t in, out, kernel, stride, dilation, pad, pad_end;
};

struct mpq_pool {
    int64_t n_plane, in_count, out_count; /* planes, and elements of one */
    struct mpq_pool_dim dim[MPQ_POOL_DIMS];
};

enum mpq_status mpq_pool_parse(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_node *node);
/* y[0] has the type of x[0], which the row must have checked. */
enum mpq_status mpq_pool_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                               const struct mpq_tensor *const *x, struct mpq_tensor *const *y);

/* From shapes that mpq_pool_infer() has checked. */
void mpq_pool_make(const struct mpq_node *node, const struct mpq_shape *x,
                   const struct mpq_shape *y, struct mpq_pool *out);

/* Inputs and the padding that windows reach into, on both sides. */
int64_t mpq_pool_padded(const struct mpq_pool_dim *dim);

/* Taps of window o that fall inside the input. */
int64_t mpq_pool_taps_inside(const struct mpq_pool *pool, const int64_t o[3]);

/* Take n inputs, `stride` apart, into n windows: y[i] = y[i] op x[i * stride]. */
typedef void mpq_pool_row_fn(mpq_real *restrict y, const mpq_real *restrict x, int64_t n,
                             int64_t stride);

/* One plane: every tap of the kernel is applied to a whole row of windows at once, to those for
 * which it falls inside the input. y holds the start value in every window. */
void mpq_pool_sweep(const struct mpq_pool *pool, const mpq_real *x, mpq_real *y,
                    mpq_pool_row_fn *row_fn);

/* The same in another order of operations, for fewer: y = start op the inputs of each window, the
 * rows of a window being taken into one before its columns. row [mpq_pool_separable_bytes()] is
 * scratch. */
void mpq_pool_separable(const struct mpq_pool *pool, const mpq_real *x, mpq_real *y, mpq_real start,
                        mpq_real *row, mpq_pool_row_fn *row_fn);
size_t mpq_pool_separable_bytes(const struct mpq_pool *pool);

#endif
