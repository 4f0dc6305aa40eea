/* Hardmax: 1 at the first largest element along an axis, 0 elsewhere. */
#include "quantcore/ops/op_util.h"

static enum mpq_status hardmax_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                     struct mpq_node *node)
{
    return mpq_parse_int(ctx, arena, node, "axis", -1);
}

static enum mpq_status hardmax_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                     const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    int axis = 0;
    MPQ_TRY(mpq_check_axis(ctx, node, mpq_parsed_int(node), x[0]->shape.rank, &axis));
    return mpq_infer_same_float(ctx, node, x, y);
}

static void hardmax_forward(const struct mpq_kernel_args *args)
{
    const struct mpq_shape *shape = &args->x[0]->shape;
    int axis = mpq_parsed_axis(args->node, shape->rank);
    int64_t outer = mpq_shape_count_range(shape, 0, axis), n = shape->dim[axis];
    int64_t inner = mpq_shape_count_range(shape, axis + 1, shape->rank);
    const mpq_real *x = args->x[0]->data;
    mpq_real *y = args->y[0]->data;
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < inner; i++) {
            int64_t first = o * n * inner + i, best = 0;
            for (int64_t k = 1; k < n; k++)
                if (x[first + k * inner] > x[first + best * inner])
                    best = k;
            for (int64_t k = 0; k < n; k++)
                y[first + k * inner] = k == best;
        }
}

const struct mpq_op mpq_op_hardmax = {.name = "Hardmax",
                                      .domain = "",
                                      .n_in_min = 1,
                                      .n_in_max = 1,
                                      .n_out_min = 1,
                                      .n_out_max = 1,
                                      .parse = hardmax_parse,
                                      .infer = hardmax_infer,
                                      .forward = hardmax_forward};
