/* NonZero: coordinates [rank, n] of the elements that are not 0, in their order. How many there are
 * is known where the input is constant. */
#include "quantcore/ops/op_util.h"

static bool is_non_zero(const struct mpq_tensor *x, int64_t i)
{
    return x->dtype == MPQ_FLOAT ? mpq_tensor_double(x, i) != 0 : mpq_tensor_int(x, i) != 0;
}

static enum mpq_status non_zero_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                      const struct mpq_tensor *const *x,
                                      struct mpq_tensor *const *y)
{
    int64_t n = 0;
    if (!x[0]->data)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED,
                             "the shape of the output depends on data: input 0 is not constant");
    if (!mpq_dtype_is_integer(x[0]->dtype) && x[0]->dtype != MPQ_BOOL)
        MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    for (int64_t i = 0; i < mpq_shape_count(&x[0]->shape); i++)
        n += is_non_zero(x[0], i);
    return mpq_infer_set(ctx, node, y[0], MPQ_INT64, &MPQ_SHAPE(x[0]->shape.rank, n));
}

static void non_zero_forward(const struct mpq_kernel_args *args)
{
    const struct mpq_shape *shape = &args->x[0]->shape;
    int64_t *y = args->y[0]->data, n = args->y[0]->shape.dim[1], at = 0;
    for (int64_t i = 0; i < mpq_shape_count(shape); i++) {
        int64_t rest = i;
        if (!is_non_zero(args->x[0], i))
            continue;
        for (int d = shape->rank - 1; d >= 0; rest /= shape->dim[d--])
            y[d * n + at] = rest % shape->dim[d];
        at++;
    }
}

const struct mpq_op mpq_op_non_zero = {.name = "NonZero",
                                       .domain = "",
                                       .n_in_min = 1,
                                       .n_in_max = 1,
                                       .n_out_min = 1,
                                       .n_out_max = 1,
                                       .infer = non_zero_infer,
                                       .forward = non_zero_forward};
