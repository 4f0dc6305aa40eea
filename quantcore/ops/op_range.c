/* Range: start, start + delta, ... up to but without limit; three scalars of one type. Its length
 * is a shape, so all three must be constant. */
#include <math.h>

#include "quantcore/ops/op_util.h"

static enum mpq_status range_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                   const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    MPQ_TRY(mpq_check_same_dtype(ctx, node, x));
    for (int i = 0; i < 3; i++)
        if (!x[i]->data || mpq_shape_count(&x[i]->shape) != 1)
            return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED,
                                 "start, limit and delta must be constant scalars");
    double n;
    if (mpq_dtype_is_integer(x[0]->dtype)) {
        int64_t start = mpq_tensor_int(x[0], 0), limit = mpq_tensor_int(x[1], 0);
        int64_t delta = mpq_tensor_int(x[2], 0);
        n = delta ? ceil(((double)limit - (double)start) / (double)delta) : NAN;
    } else {
        n = ceil((mpq_tensor_double(x[1], 0) - mpq_tensor_double(x[0], 0)) /
                 mpq_tensor_double(x[2], 0));
    }
    if (!(n < (double)MPQ_LIMIT_TENSOR_BYTES))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "a range of %g elements cannot be held", n);
    return mpq_infer_set(ctx, node, y[0], x[0]->dtype, &MPQ_SHAPE(n > 0 ? (int64_t)n : 0));
}

static void range_forward(const struct mpq_kernel_args *args)
{
    struct mpq_tensor *y = args->y[0];
    int64_t n = mpq_shape_count(&y->shape);
    double start = mpq_tensor_double(args->x[0], 0), delta = mpq_tensor_double(args->x[2], 0);
    for (int64_t i = 0; i < n; i++)
        mpq_tensor_set_double(y, i, start + (double)i * delta);
}

const struct mpq_op mpq_op_range = {.name = "Range",
                                    .domain = "",
                                    .n_in_min = 3,
                                    .n_in_max = 3,
                                    .n_out_min = 1,
                                    .n_out_max = 1,
                                    .infer = range_infer,
                                    .forward = range_forward};
