/* OneHot: a new axis of constant length depth (input 1), values[1] (input 2) at the index of input
 * 0 and values[0] elsewhere. */
#include <string.h>

#include "quantcore/ops/op_util.h"

static enum mpq_status one_hot_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                     struct mpq_node *node)
{
    return mpq_parse_int(ctx, arena, node, "axis", -1);
}

static enum mpq_status one_hot_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                     const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct mpq_shape *from = &x[0]->shape;
    struct mpq_shape shape = {.rank = from->rank + 1};
    int axis = 0;
    if (shape.rank > MPQ_MAX_RANK)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "the output has rank %d", shape.rank);
    if (!x[1]->data || mpq_shape_count(&x[1]->shape) != 1)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "depth (input 1) is not constant");
    if (!mpq_shape_equal(&x[2]->shape, &MPQ_SHAPE(2)))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "values is %s", MPQ_SHAPE_TEXT(&x[2]->shape));
    if (!mpq_dtype_is_integer(x[0]->dtype))
        MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    MPQ_TRY(mpq_check_axis(ctx, node, mpq_parsed_int(node), shape.rank, &axis));
    for (int i = 0, k = 0; i < shape.rank; i++)
        shape.dim[i] = i == axis ? (int64_t)mpq_tensor_double(x[1], 0) : from->dim[k++];
    if (shape.dim[axis] < 0)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "depth is %lld", (long long)shape.dim[axis]);
    return mpq_infer_set(ctx, node, y[0], x[2]->dtype, &shape);
}

static void one_hot_forward(const struct mpq_kernel_args *args)
{
    const struct mpq_shape *shape = &args->y[0]->shape;
    int axis = mpq_parsed_axis(args->node, shape->rank);
    int64_t outer = mpq_shape_count_range(shape, 0, axis), depth = shape->dim[axis];
    int64_t inner = mpq_shape_count_range(shape, axis + 1, shape->rank);
    size_t bytes = mpq_dtype_bytes(args->y[0]->dtype);
    const uint8_t *off = args->x[2]->data, *on = off + bytes;
    uint8_t *y = args->y[0]->data;
    for (int64_t o = 0; o < outer; o++)
        for (int64_t k = 0; k < depth; k++)
            for (int64_t i = 0; i < inner; i++, y += bytes) {
                int64_t hot = (int64_t)mpq_tensor_double(args->x[0], o * inner + i);
                memcpy(y, k == (hot < 0 ? hot + depth : hot) ? on : off, bytes);
            }
}

const struct mpq_op mpq_op_one_hot = {.name = "OneHot",
                                      .domain = "",
                                      .n_in_min = 3,
                                      .n_in_max = 3,
                                      .n_out_min = 1,
                                      .n_out_max = 1,
                                      .parse = one_hot_parse,
                                      .infer = one_hot_infer,
                                      .forward = one_hot_forward};
