/* Not: y = !x on bool. BitwiseNot: y = ~x on integers. */
#include "quantcore/ops/op_util.h"

static enum mpq_status not_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                 const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    if (x[0]->dtype != MPQ_BOOL)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "input is %s, not bool",
                             mpq_dtype_name(x[0]->dtype));
    return mpq_infer_same(ctx, node, x, y);
}

static void not_forward(const struct mpq_kernel_args *args)
{
    const uint8_t *x = args->x[0]->data;
    uint8_t *y = args->y[0]->data;
    int64_t n = mpq_shape_count(&args->y[0]->shape);
    for (int64_t i = 0; i < n; i++)
        y[i] = !x[i];
}

const struct mpq_op mpq_op_not = {.name = "Not",
                                  .domain = "",
                                  .n_in_min = 1,
                                  .n_in_max = 1,
                                  .n_out_min = 1,
                                  .n_out_max = 1,
                                  .infer = not_infer,
                                  .forward = not_forward};

static enum mpq_status bitwise_not_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                         const struct mpq_tensor *const *x,
                                         struct mpq_tensor *const *y)
{
    if (!mpq_dtype_is_integer(x[0]->dtype))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "input is %s, not an integer",
                             mpq_dtype_name(x[0]->dtype));
    return mpq_infer_same(ctx, node, x, y);
}

static void bitwise_not_forward(const struct mpq_kernel_args *args)
{
    for (int64_t i = 0; i < mpq_shape_count(&args->y[0]->shape); i++)
        mpq_tensor_set_int(args->y[0], i, ~mpq_tensor_int(args->x[0], i));
}

const struct mpq_op mpq_op_bitwise_not = {.name = "BitwiseNot",
                                          .domain = "",
                                          .n_in_min = 1,
                                          .n_in_max = 1,
                                          .n_out_min = 1,
                                          .n_out_max = 1,
                                          .infer = bitwise_not_infer,
                                          .forward = bitwise_not_forward};
