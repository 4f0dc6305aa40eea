/* Tile: x repeated along each axis as often as constant input 1 says. */
#include "quantcore/ops/kernel/move.h"
#include "quantcore/ops/op_util.h"

static enum mpq_status tile_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                  const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    struct mpq_shape shape = x[0]->shape;
    int64_t repeat[MPQ_MAX_RANK];
    int n = 0;
    MPQ_TRY(mpq_const_ints(ctx, node, x, 1, "repeats", shape.rank, repeat, &n));
    if (n != shape.rank)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "%d repeats for %s", n,
                             MPQ_SHAPE_TEXT(&shape));
    for (int i = 0; i < n; i++)
        if (repeat[i] < 0 || __builtin_mul_overflow(shape.dim[i], repeat[i], &shape.dim[i]))
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "axis %d is repeated %lld times", i,
                                 (long long)repeat[i]);
    return mpq_infer_set(ctx, node, y[0], x[0]->dtype, &shape);
}

/* Each axis is two: the repetition, over which x stands still, and the index in x. */
static void make_move(const struct mpq_kernel_args *args, struct mpq_move *out)
{
    int64_t x_stride[MPQ_MAX_RANK], y_stride[MPQ_MAX_RANK];
    const struct mpq_shape *shape = &args->x[0]->shape;
    mpq_dense_strides(shape, x_stride);
    mpq_dense_strides(&args->y[0]->shape, y_stride);
    mpq_move_init(out, &(struct mpq_shape){0});
    for (int i = 0; i < shape->rank; i++) {
        int64_t outer[2] = {shape->dim[i] * y_stride[i], 0}, inner[2] = {y_stride[i], x_stride[i]};
        mpq_loop_push(&out->loop, mpq_tensor_int(args->x[1], i), outer);
        mpq_loop_push(&out->loop, shape->dim[i], inner);
    }
}

static void tile_forward(const struct mpq_kernel_args *args)
{
    struct mpq_move move;
    make_move(args, &move);
    mpq_move_forward(&move, args->x[0], args->y[0]);
}

static void tile_backward(const struct mpq_kernel_args *args)
{
    struct mpq_move move;
    make_move(args, &move);
    mpq_move_backward(&move, args->dy[0], args->dx[0]);
}

const struct mpq_op mpq_op_tile = {.name = "Tile",
                                   .domain = "",
                                   .n_in_min = 2,
                                   .n_in_max = 2,
                                   .n_out_min = 1,
                                   .n_out_max = 1,
                                   .infer = tile_infer,
                                   .forward = tile_forward,
                                   .backward = tile_backward};
