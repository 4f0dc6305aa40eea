/* What the rows share: common infer functions, checked reading of axes and constant inputs, and the
 * forward and backward of operators that only give their data another shape. */
#ifndef MPQ_OPS_OP_UTIL_H
#define MPQ_OPS_OP_UTIL_H

#include "quantcore/ops/op.h"

/* Elements a worker should at least get from mpq_parallel_for() in an elementwise loop. */
#define MPQ_GRAIN 16384

/* y = a tensor of that type and shape; LIMIT where it would be too large. All shapes that depend on
 * the content of a file go through here. */
enum mpq_status mpq_infer_set(struct mpq_ctx *ctx, const struct mpq_node *node,
                              struct mpq_tensor *y, enum mpq_dtype dtype,
                              const struct mpq_shape *shape) MPQ_CHECKED;

/* y[0] like x[0]; the second wants FLOAT. */
enum mpq_status mpq_infer_same(struct mpq_ctx *ctx, const struct mpq_node *node,
                               const struct mpq_tensor *const *x, struct mpq_tensor *const *y);
enum mpq_status mpq_infer_same_float(struct mpq_ctx *ctx, const struct mpq_node *node,
                                     const struct mpq_tensor *const *x,
                                     struct mpq_tensor *const *y);

/* The numpy broadcast of the shapes of all inputs. */
enum mpq_status mpq_infer_broadcast(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *const *x,
                                    struct mpq_shape *out_shape) MPQ_CHECKED;

/* UNSUPPORTED unless input i is FLOAT (absent inputs pass). */
enum mpq_status mpq_check_float(struct mpq_ctx *ctx, const struct mpq_node *node,
                                const struct mpq_tensor *const *x, int i) MPQ_CHECKED;

/* SHAPE unless all inputs have the type of input 0. */
enum mpq_status mpq_check_same_dtype(struct mpq_ctx *ctx, const struct mpq_node *node,
                                     const struct mpq_tensor *const *x) MPQ_CHECKED;

/* 0 <= *out_axis < rank from -rank <= axis < rank. */
enum mpq_status mpq_check_axis(struct mpq_ctx *ctx, const struct mpq_node *node, int64_t axis,
                               int rank, int *out_axis) MPQ_CHECKED;

/* A set of axes as marks; FORMAT where one is named twice. out_mark [rank]. */
enum mpq_status mpq_check_axes(struct mpq_ctx *ctx, const struct mpq_node *node,
                               const int64_t *axis, int n, int rank, bool *out_mark) MPQ_CHECKED;

/* The integers of constant input i, at most `max`; UNSUPPORTED where it is not constant. `what`
 * names them in messages. */
enum mpq_status mpq_const_ints(struct mpq_ctx *ctx, const struct mpq_node *node,
                               const struct mpq_tensor *const *x, int i, const char *what, int max,
                               int64_t *out_value, int *out_n) MPQ_CHECKED;

/* Indices into an axis of length n, negative ones counting from its end: integers, and where they
 * are constant in range. */
enum mpq_status mpq_check_indices(struct mpq_ctx *ctx, const struct mpq_node *node,
                                  const struct mpq_tensor *index, int64_t n) MPQ_CHECKED;

/* Index i of those, 0 <= result < n; clamped where it was computed and is out of range. n > 0. */
int64_t mpq_index_at(const struct mpq_tensor *index, int64_t i, int64_t n);

/* node->attrs = one integer attribute, and reading it again. */
enum mpq_status mpq_parse_int(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_node *node,
                              const char *name, int64_t absent) MPQ_CHECKED;
int64_t mpq_parsed_int(const struct mpq_node *node);

/* The `axis` attribute as mpq_parse_int() left it, once infer has checked it. */
int mpq_parsed_axis(const struct mpq_node *node, int rank);

/* Input i, or NULL where it is absent or the node has fewer. */
const struct mpq_tensor *mpq_input(const struct mpq_node *node, const struct mpq_tensor *const *x,
                                   uint32_t i);

/* Gradient array of input i, or NULL where it is not wanted. */
mpq_real *mpq_grad(const struct mpq_kernel_args *args, uint32_t i);

/* Whether dx[i] is to be written, not added to. */
bool mpq_is_fresh(const struct mpq_kernel_args *args, uint32_t i);
/* dx[i] = 0 where it is fresh, so that it can be added to. */
void mpq_clear_fresh(const struct mpq_kernel_args *args, uint32_t i);

/* y[0] has the elements of x[0] in their order. */
void mpq_forward_copy(const struct mpq_kernel_args *args);
void mpq_backward_copy(const struct mpq_kernel_args *args);

/* Multiply-accumulates of y[0] [m, n] from a matrix x[0] [m, k] or [k, m] and another. */
uint64_t mpq_macs_of_matrices(const struct mpq_node *node, const struct mpq_tensor *const *x,
                              struct mpq_tensor *const *y);

/* dx[i] += dy[i]; or dx[i] = dy[i] where fresh, and dx may then be dy. */
void mpq_accumulate(mpq_real *dx, const mpq_real *dy, int64_t n, bool fresh);

#endif
