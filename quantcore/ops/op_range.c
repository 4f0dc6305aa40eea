/* Range: start, start + delta, ... below (above, where delta < 0) limit; all three constant
 * scalars.
 */
#include <math.h>

#include "quantcore/ops/op_util.h"

static enum mpq_status range_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                   const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    if (!mpq_dtype_is_integer(x[0]->dtype))
        MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    MPQ_TRY(mpq_check_same_dtype(ctx, node, x));
    for (int i = 0; i < 3; i++) {
        if (!x[i]->data)
            return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "input %d is not constant", i);
        if (mpq_shape_count(&x[i]->shape) != 1)
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "input %d is no scalar but %s", i,
                                 MPQ_SHAPE_TEXT(&x[i]->shape));
    }
    double start = mpq_tensor_double(x[0], 0), limit = mpq_tensor_double(x[1], 0);
    double count = ceil((limit - start) / mpq_tensor_double(x[2], 0));
    if (!(count < (double)MPQ_LIMIT_TENSOR_BYTES))
        return mpq_fail_node(ctx, node, MPQ_E_LIMIT, "from %g to %g in steps of %g is too long",
                             start, limit, mpq_tensor_double(x[2], 0));
    return mpq_infer_set(ctx, node, y[0], x[0]->dtype, &MPQ_SHAPE(count > 0 ? (int64_t)count : 0));
}

static void range_forward(const struct mpq_kernel_args *args)
{
    struct mpq_tensor *y = args->y[0];
    for (int64_t i = 0; i < y->shape.dim[0]; i++)
        if (y->dtype == MPQ_FLOAT)
            mpq_tensor_set_double(y, i,
                                  mpq_tensor_double(args->x[0], 0) +
                                      (double)i * mpq_tensor_double(args->x[2], 0));
        else
            mpq_tensor_set_int(y, i,
                               mpq_tensor_int(args->x[0], 0) + i * mpq_tensor_int(args->x[2], 0));
}

const struct mpq_op mpq_op_range = {.name = "Range",
                                    .domain = "",
                                    .n_in_min = 3,
                                    .n_in_max = 3,
                                    .n_out_min = 1,
                                    .n_out_max = 1,
                                    .infer = range_infer,
                                    .forward = range_forward};
