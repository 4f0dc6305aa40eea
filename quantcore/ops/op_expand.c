/* Expand: x broadcast against the constant shape in input 1. */
#include "quantcore/ops/kernel/move.h"
#include "quantcore/ops/op_util.h"

static enum mpq_status expand_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    struct mpq_shape target = {0}, shape;
    MPQ_TRY(mpq_const_ints(ctx, node, x, 1, "the shape", MPQ_MAX_RANK, target.dim, &target.rank));
    if (!mpq_shape_is_known(&target) || !mpq_shape_broadcast(&x[0]->shape, &target, &shape))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "%s does not expand to %s",
                             MPQ_SHAPE_TEXT(&x[0]->shape), MPQ_SHAPE_TEXT(&target));
    return mpq_infer_set(ctx, node, y[0], x[0]->dtype, &shape);
}

static void make_move(const struct mpq_kernel_args *args, struct mpq_move *out)
{
    mpq_loop_init(&out->loop, &args->y[0]->shape);
    mpq_loop_add(&out->loop, &args->y[0]->shape);
    mpq_loop_add(&out->loop, &args->x[0]->shape);
    out->x_offset = out->y_offset = 0;
}

static void expand_forward(const struct mpq_kernel_args *args)
{
    struct mpq_move move;
    make_move(args, &move);
    mpq_move_forward(&move, args->x[0], args->y[0]);
}

static void expand_backward(const struct mpq_kernel_args *args)
{
    struct mpq_move move;
    make_move(args, &move);
    mpq_move_backward(&move, args->dy[0], args->dx[0]);
}

const struct mpq_op mpq_op_expand = {.name = "Expand",
                                     .domain = "",
                                     .n_in_min = 2,
                                     .n_in_max = 2,
                                     .n_out_min = 1,
                                     .n_out_max = 1,
                                     .infer = expand_infer,
                                     .forward = expand_forward,
                                     .backward = expand_backward};
