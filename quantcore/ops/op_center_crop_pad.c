/* CenterCropPad: x with its middle kept, and 0 around it, so that the axes named (default: all) get
 * the lengths of the constant shape. */
#include <string.h>

#include "quantcore/ops/kernel/move.h"
#include "quantcore/ops/op_util.h"

static enum mpq_status crop_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                  const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    size_t n_axis;
    const int64_t *axis = mpq_attr_ints(&node->attr_set, "axes", &n_axis);
    struct mpq_shape shape = x[0]->shape;
    int64_t length[MPQ_MAX_RANK];
    bool mark[MPQ_MAX_RANK];
    int n = 0;
    if (x[0]->dtype == MPQ_STRING)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "strings are not padded");
    MPQ_TRY(mpq_const_ints(ctx, node, x, 1, "shape", MPQ_MAX_RANK, length, &n));
    if (n != (axis ? (int)n_axis : shape.rank))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "the shape has %d entries", n);
    if (axis)
        MPQ_TRY(mpq_check_axes(ctx, node, axis, n, shape.rank, mark));
    for (int i = 0; i < n; i++) {
        if (length[i] < 0)
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "a length is negative");
        int64_t a = axis ? axis[i] : i;
        shape.dim[a < 0 ? a + shape.rank : a] = length[i];
    }
    return mpq_infer_set(ctx, node, y[0], x[0]->dtype, &shape);
}

/* The part that both have: what is cut or added comes in halves, the smaller one first. */
static struct mpq_move common_part(const struct mpq_kernel_args *args)
{
    const struct mpq_shape *from = &args->x[0]->shape, *to = &args->y[0]->shape;
    struct mpq_shape common = *from;
    struct mpq_move move;
    int64_t x_stride[MPQ_MAX_RANK], y_stride[MPQ_MAX_RANK];
    mpq_dense_strides(from, x_stride);
    mpq_dense_strides(to, y_stride);
    for (int i = 0; i < from->rank; i++)
        common.dim[i] = from->dim[i] < to->dim[i] ? from->dim[i] : to->dim[i];
    mpq_move_init(&move, &common);
    for (int i = 0; i < from->rank; i++) {
        move.loop.stride[0][i] = y_stride[i];
        move.loop.stride[1][i] = x_stride[i];
        move.x_offset += (from->dim[i] - common.dim[i]) / 2 * x_stride[i];
        move.y_offset += (to->dim[i] - common.dim[i]) / 2 * y_stride[i];
    }
    return move;
}

static void crop_forward(const struct mpq_kernel_args *args)
{
    struct mpq_move move = common_part(args);
    memset(args->y[0]->data, 0, mpq_tensor_bytes(args->y[0]));
    mpq_move_forward(&move, args->x[0], args->y[0]);
}

static void crop_backward(const struct mpq_kernel_args *args)
{
    struct mpq_move move = common_part(args);
    mpq_move_backward(&move, args->dy[0], args->dx[0]);
}

const struct mpq_op mpq_op_center_crop_pad = {.name = "CenterCropPad",
                                              .domain = "",
                                              .n_in_min = 2,
                                              .n_in_max = 2,
                                              .n_out_min = 1,
                                              .n_out_max = 1,
                                              .infer = crop_infer,
                                              .forward = crop_forward,
                                              .backward = crop_backward};
