/* ReverseSequence: along the time axis, the first sequence_lens[b] elements of batch entry b in
 * reverse, the rest as they are. */
#include <string.h>

#include "quantcore/ops/op_util.h"

struct attrs {
    int64_t batch_axis, time_axis;
};

static enum mpq_status reverse_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                     struct mpq_node *node)
{
    struct attrs attrs = {mpq_attr_int(&node->attr_set, "batch_axis", 1),
                          mpq_attr_int(&node->attr_set, "time_axis", 0)};
    bool good = (attrs.batch_axis == 0 && attrs.time_axis == 1) ||
                (attrs.batch_axis == 1 && attrs.time_axis == 0);
    if (!good)
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "batch_axis and time_axis must be 0 and 1");
    node->attrs = mpq_arena_copy(ctx, arena, &attrs, sizeof attrs);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

static enum mpq_status reverse_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                     const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct attrs *attrs = node->attrs;
    const struct mpq_shape *shape = &x[0]->shape;
    if (shape->rank < 2 || x[1]->dtype != MPQ_INT64 || x[1]->shape.rank != 1 ||
        x[1]->shape.dim[0] != shape->dim[attrs->batch_axis])
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "lengths are %s %s for an input of %s",
                             mpq_dtype_name(x[1]->dtype), MPQ_SHAPE_TEXT(&x[1]->shape),
                             MPQ_SHAPE_TEXT(shape));
    for (int64_t i = 0; x[1]->data && i < x[1]->shape.dim[0]; i++)
        if (mpq_tensor_int(x[1], i) < 0 || mpq_tensor_int(x[1], i) > shape->dim[attrs->time_axis])
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "a length is %lld",
                                 (long long)mpq_tensor_int(x[1], i));
    return mpq_infer_same(ctx, node, x, y);
}

/* Which slice of x slice i of y is; both are [dim 0][dim 1][slice]. */
static int64_t source_of(const struct mpq_kernel_args *args, int64_t i)
{
    const struct attrs *attrs = args->node->attrs;
    int64_t n1 = args->x[0]->shape.dim[1], at[2] = {i / n1, i % n1};
    int64_t length = mpq_tensor_int(args->x[1], at[attrs->batch_axis]);
    if (length > args->x[0]->shape.dim[attrs->time_axis])
        length = args->x[0]->shape.dim[attrs->time_axis];
    int64_t *time = &at[attrs->time_axis];
    if (*time < length)
        *time = length - 1 - *time;
    return at[0] * n1 + at[1];
}

static void reverse_forward(const struct mpq_kernel_args *args)
{
    const struct mpq_shape *shape = &args->x[0]->shape;
    size_t bytes =
        mpq_dtype_bytes(args->y[0]->dtype) * (size_t)mpq_shape_count_range(shape, 2, shape->rank);
    for (int64_t i = 0; i < shape->dim[0] * shape->dim[1]; i++)
        memcpy((uint8_t *)args->y[0]->data + (size_t)i * bytes,
               (const uint8_t *)args->x[0]->data + (size_t)source_of(args, i) * bytes, bytes);
}

static void reverse_backward(const struct mpq_kernel_args *args)
{
    const struct mpq_shape *shape = &args->x[0]->shape;
    int64_t slice = mpq_shape_count_range(shape, 2, shape->rank);
    for (int64_t i = 0; args->dx[0] && args->dy[0] && i < shape->dim[0] * shape->dim[1]; i++)
        mpq_accumulate(args->dx[0] + source_of(args, i) * slice, args->dy[0] + i * slice, slice,
                       false);
}

const struct mpq_op mpq_op_reverse_sequence = {.name = "ReverseSequence",
                                               .domain = "",
                                               .n_in_min = 2,
                                               .n_in_max = 2,
                                               .n_out_min = 1,
                                               .n_out_max = 1,
                                               .parse = reverse_parse,
                                               .infer = reverse_infer,
                                               .forward = reverse_forward,
                                               .backward = reverse_backward};
