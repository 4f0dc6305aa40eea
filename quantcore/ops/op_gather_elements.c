/* GatherElements: y[i][j][k] = x[i][index[i][j][k]][k], here along axis 1. Computed indices are
 * clamped into the axis, as in op_gather.c. */
#include <string.h>

#include "quantcore/ops/kernel/move.h"
#include "quantcore/ops/op_util.h"

static enum mpq_status gather_elements_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                             struct mpq_node *node)
{
    return mpq_parse_int(ctx, arena, node, "axis", 0);
}

static enum mpq_status gather_elements_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                             const struct mpq_tensor *const *x,
                                             struct mpq_tensor *const *y)
{
    const struct mpq_shape *from = &x[0]->shape, *index = &x[1]->shape;
    int axis = 0;
    MPQ_TRY(mpq_check_axis(ctx, node, mpq_parsed_int(node), from->rank, &axis));
    bool is_inside = index->rank == from->rank;
    for (int i = 0; is_inside && i < from->rank; i++)
        is_inside = i == axis || index->dim[i] <= from->dim[i];
    if (!is_inside)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "indices %s for an input of %s",
                             MPQ_SHAPE_TEXT(index), MPQ_SHAPE_TEXT(from));
    MPQ_TRY(mpq_check_indices(ctx, node, x[1], from->dim[axis]));
    return mpq_infer_set(ctx, node, y[0], x[0]->dtype, index);
}

/* fn(args, element of y, element of x) for every element of y. */
static void for_each(const struct mpq_kernel_args *args,
                     void (*fn)(const struct mpq_kernel_args *, int64_t to, int64_t from))
{
    const struct mpq_shape *shape = &args->x[1]->shape;
    int axis = mpq_parsed_axis(args->node, shape->rank);
    int64_t stride[MPQ_MAX_RANK], index[MPQ_MAX_RANK] = {0}, n = mpq_shape_count(shape);
    mpq_dense_strides(&args->x[0]->shape, stride);
    for (int64_t at = 0; at < n; at++) {
        int64_t from = mpq_index_at(args->x[1], at, args->x[0]->shape.dim[axis]) * stride[axis];
        for (int i = 0; i < shape->rank; i++)
            from += i == axis ? 0 : index[i] * stride[i];
        fn(args, at, from);
        for (int i = shape->rank - 1; i >= 0 && ++index[i] == shape->dim[i]; i--)
            index[i] = 0;
    }
}

static void copy_one(const struct mpq_kernel_args *args, int64_t to, int64_t from)
{
    size_t bytes = mpq_dtype_bytes(args->y[0]->dtype);
    memcpy((uint8_t *)args->y[0]->data + (size_t)to * bytes,
           (const uint8_t *)args->x[0]->data + (size_t)from * bytes, bytes);
}

static void add_one(const struct mpq_kernel_args *args, int64_t to, int64_t from)
{
    args->dx[0][from] += args->dy[0][to];
}

static void gather_elements_forward(const struct mpq_kernel_args *args)
{
    for_each(args, copy_one);
}

static void gather_elements_backward(const struct mpq_kernel_args *args)
{
    if (args->dy[0] && args->dx[0])
        for_each(args, add_one);
}

const struct mpq_op mpq_op_gather_elements = {.name = "GatherElements",
                                              .domain = "",
                                              .n_in_min = 2,
                                              .n_in_max = 2,
                                              .n_out_min = 1,
                                              .n_out_max = 1,
                                              .parse = gather_elements_parse,
                                              .infer = gather_elements_infer,
                                              .forward = gather_elements_forward,
                                              .backward = gather_elements_backward};
