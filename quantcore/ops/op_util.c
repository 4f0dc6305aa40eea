#include "quantcore/ops/op_util.h"

#include <string.h>

#include "quantcore/base/simd.h"
#include "quantcore/base/thread.h"

enum mpq_status mpq_infer_set(struct mpq_ctx *ctx, const struct mpq_node *node,
                              struct mpq_tensor *y, enum mpq_dtype dtype,
                              const struct mpq_shape *shape)
{
    int64_t bytes = (int64_t)mpq_dtype_bytes(dtype);
    if (!bytes)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "element type %s is not supported",
                             mpq_dtype_name(dtype));
    for (int i = 0; i < shape->rank; i++)
        if (shape->dim[i] == 0)
            bytes = 0;
    for (int i = 0; i < shape->rank && bytes; i++)
        if (__builtin_mul_overflow(bytes, shape->dim[i], &bytes) ||
            (uint64_t)bytes > MPQ_LIMIT_TENSOR_BYTES)
            return mpq_fail_node(ctx, node, MPQ_E_LIMIT,
                                 "an output of shape %s is larger than %zu bytes",
                                 MPQ_SHAPE_TEXT(shape), (size_t)MPQ_LIMIT_TENSOR_BYTES);
    y->dtype = dtype;
    y->shape = *shape;
    return MPQ_OK;
}

enum mpq_status mpq_infer_same(struct mpq_ctx *ctx, const struct mpq_node *node,
                               const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    return mpq_infer_set(ctx, node, y[0], x[0]->dtype, &x[0]->shape);
}

enum mpq_status mpq_infer_same_float(struct mpq_ctx *ctx, const struct mpq_node *node,
                                     const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    return mpq_infer_same(ctx, node, x, y);
}

enum mpq_status mpq_infer_broadcast(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *const *x, struct mpq_shape *out_shape)
{
    struct mpq_shape shape = x[0]->shape;
    for (uint32_t i = 1; i < node->n_in; i++)
        if (!mpq_shape_broadcast(&shape, &x[i]->shape, &shape))
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "shapes %s and %s do not broadcast",
                                 MPQ_SHAPE_TEXT(&shape), MPQ_SHAPE_TEXT(&x[i]->shape));
    *out_shape = shape;
    return MPQ_OK;
}

enum mpq_status mpq_check_float(struct mpq_ctx *ctx, const struct mpq_node *node,
                                const struct mpq_tensor *const *x, int i)
{
    const struct mpq_tensor *input = mpq_input(node, x, (uint32_t)i);
    if (input && input->dtype != MPQ_FLOAT)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "input %d is %s, only float is computed",
                             i, mpq_dtype_name(input->dtype));
    return MPQ_OK;
}

enum mpq_status mpq_check_same_dtype(struct mpq_ctx *ctx, const struct mpq_node *node,
                                     const struct mpq_tensor *const *x)
{
    for (uint32_t i = 1; i < node->n_in; i++)
        if (x[i] && x[i]->dtype != x[0]->dtype)
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "input 0 is %s but input %u is %s",
                                 mpq_dtype_name(x[0]->dtype), i, mpq_dtype_name(x[i]->dtype));
    return MPQ_OK;
}

enum mpq_status mpq_check_axis(struct mpq_ctx *ctx, const struct mpq_node *node, int64_t axis,
                               int rank, int *out_axis)
{
    if (axis < -rank || axis >= rank)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "axis %lld is outside of rank %d",
                             (long long)axis, rank);
    *out_axis = (int)(axis < 0 ? axis + rank : axis);
    return MPQ_OK;
}

enum mpq_status mpq_check_axes(struct mpq_ctx *ctx, const struct mpq_node *node,
                               const int64_t *axis, int n, int rank, bool *out_mark)
{
    memset(out_mark, 0, (size_t)rank * sizeof *out_mark);
    for (int i = 0; i < n; i++) {
        int a = 0;
        MPQ_TRY(mpq_check_axis(ctx, node, axis[i], rank, &a));
        if (out_mark[a])
            return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "axis %d is named twice", a);
        out_mark[a] = true;
    }
    return MPQ_OK;
}

enum mpq_status mpq_const_ints(struct mpq_ctx *ctx, const struct mpq_node *node,
                               const struct mpq_tensor *const *x, int i, const char *what, int max,
                               int64_t *out_value, int *out_n)
{
    const struct mpq_tensor *input = x[i];
    if (!input->data)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "%s (input %d) is not constant", what,
                             i);
    if (!mpq_dtype_is_integer(input->dtype) || input->shape.rank > 1)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "%s is not a list of integers but %s %s", what,
                             mpq_dtype_name(input->dtype), MPQ_SHAPE_TEXT(&input->shape));
    int64_t n = mpq_shape_count(&input->shape);
    if (n > max)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "%s has %lld entries, at most %d fit", what,
                             (long long)n, max);
    for (int64_t k = 0; k < n; k++)
        out_value[k] = mpq_tensor_int(input, k);
    *out_n = (int)n;
    return MPQ_OK;
}

enum mpq_status mpq_check_indices(struct mpq_ctx *ctx, const struct mpq_node *node,
                                  const struct mpq_tensor *index, int64_t n)
{
    int64_t count = mpq_shape_count(&index->shape);
    if (!mpq_dtype_is_integer(index->dtype))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "indices are %s, not integers",
                             mpq_dtype_name(index->dtype));
    if (n == 0 && count > 0)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "an axis of length 0 has nothing to take");
    for (int64_t i = 0; index->data && i < count; i++) {
        int64_t k = mpq_tensor_int(index, i);
        if (k < -n || k >= n)
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "index %lld is outside of length %lld",
                                 (long long)k, (long long)n);
    }
    return MPQ_OK;
}

int64_t mpq_index_at(const struct mpq_tensor *index, int64_t i, int64_t n)
{
    int64_t k = mpq_tensor_int(index, i);
    if (k < 0)
        k += n;
    return k < 0 ? 0 : k >= n ? n - 1 : k;
}

enum mpq_status mpq_parse_int(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_node *node,
                              const char *name, int64_t absent)
{
    int64_t value = mpq_attr_int(&node->attr_set, name, absent);
    node->attrs = mpq_arena_copy(ctx, arena, &value, sizeof value);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

int64_t mpq_parsed_int(const struct mpq_node *node)
{
    return *(const int64_t *)node->attrs;
}

int mpq_parsed_axis(const struct mpq_node *node, int rank)
{
    int64_t axis = mpq_parsed_int(node);
    return (int)(axis < 0 ? axis + rank : axis);
}

const struct mpq_tensor *mpq_input(const struct mpq_node *node, const struct mpq_tensor *const *x,
                                   uint32_t i)
{
    return i < node->n_in ? x[i] : NULL;
}

mpq_real *mpq_grad(const struct mpq_kernel_args *args, uint32_t i)
{
    return i < args->node->n_in ? args->dx[i] : NULL;
}

struct copy {
    uint8_t *y;
    const uint8_t *x;
};

static void copy_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct copy *copy = arg;
    (void)thread;
    memcpy(copy->y + begin, copy->x + begin, (size_t)(end - begin));
}

void mpq_forward_copy(const struct mpq_kernel_args *args)
{
    struct copy copy = {args->y[0]->data, args->x[0]->data};
    mpq_parallel_for((int64_t)mpq_tensor_bytes(args->y[0]), MPQ_GRAIN * 8, copy_piece, &copy);
}

void mpq_backward_copy(const struct mpq_kernel_args *args)
{
    if (args->dx[0] && args->dy[0])
        mpq_accumulate(args->dx[0], args->dy[0], mpq_shape_count(&args->y[0]->shape),
                       mpq_is_fresh(args, 0));
}

uint64_t mpq_macs_of_matrices(const struct mpq_node *node, const struct mpq_tensor *const *x,
                              struct mpq_tensor *const *y)
{
    (void)node;
    return (uint64_t)mpq_shape_count(&x[0]->shape) * (uint64_t)y[0]->shape.dim[1];
}

struct accumulate {
    mpq_real *dx;
    const mpq_real *dy;
    bool fresh;
};

MPQ_MULTIVERSION
static void add_to(mpq_real *restrict dx, const mpq_real *restrict dy, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        dx[i] += dy[i];
}

static void accumulate_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct accumulate *a = arg;
    (void)thread;
    if (a->fresh)
        memcpy(a->dx + begin, a->dy + begin, (size_t)(end - begin) * sizeof *a->dx);
    else
        add_to(a->dx + begin, a->dy + begin, end - begin);
}

void mpq_accumulate(mpq_real *dx, const mpq_real *dy, int64_t n, bool fresh)
{
    if (dx != dy)
        mpq_parallel_for(n, MPQ_GRAIN, accumulate_piece, &(struct accumulate){dx, dy, fresh});
}

bool mpq_is_fresh(const struct mpq_kernel_args *args, uint32_t i)
{
    return args->dx_is_fresh && args->dx_is_fresh[i];
}

void mpq_clear_fresh(const struct mpq_kernel_args *args, uint32_t i)
{
    if (i < args->node->n_in && args->dx[i] && mpq_is_fresh(args, i))
        memset(args->dx[i], 0, mpq_tensor_bytes(args->x[i]));
}
