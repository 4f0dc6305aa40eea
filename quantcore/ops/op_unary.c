/* Elementwise mathematics of one input without attributes. */
#include "quantcore/ops/kernel/unary.h"

#define TWO_OVER_SQRT_PI MPQ_REAL(1.12837916709551257390)

MPQ_UNARY("Exp", exp, NULL, MPQ_MATH(exp)(x), y);
MPQ_UNARY("Log", log, NULL, MPQ_MATH(log)(x), 1 / x);
MPQ_UNARY("Sqrt", sqrt, NULL, MPQ_MATH(sqrt)(x), MPQ_REAL(0.5) / y);
MPQ_UNARY("Reciprocal", reciprocal, NULL, 1 / x, -y *y);
MPQ_UNARY("Erf", erf, NULL, MPQ_MATH(erf)(x), TWO_OVER_SQRT_PI *MPQ_MATH(exp)(-x *x));
MPQ_UNARY("Sin", sin, NULL, MPQ_MATH(sin)(x), MPQ_MATH(cos)(x));
MPQ_UNARY("Cos", cos, NULL, MPQ_MATH(cos)(x), -MPQ_MATH(sin)(x));

MPQ_UNARY("Tan", tan, NULL, MPQ_MATH(tan)(x), 1 + y * y);
MPQ_UNARY("Asin", asin, NULL, MPQ_MATH(asin)(x), 1 / MPQ_MATH(sqrt)(1 - x * x));
MPQ_UNARY("Acos", acos, NULL, MPQ_MATH(acos)(x), -1 / MPQ_MATH(sqrt)(1 - x * x));
MPQ_UNARY("Atan", atan, NULL, MPQ_MATH(atan)(x), 1 / (1 + x * x));
MPQ_UNARY("Sinh", sinh, NULL, MPQ_MATH(sinh)(x), MPQ_MATH(cosh)(x));
MPQ_UNARY("Cosh", cosh, NULL, MPQ_MATH(cosh)(x), MPQ_MATH(sinh)(x));
MPQ_UNARY("Asinh", asinh, NULL, MPQ_MATH(asinh)(x), 1 / MPQ_MATH(sqrt)(x * x + 1));
MPQ_UNARY("Acosh", acosh, NULL, MPQ_MATH(acosh)(x), 1 / MPQ_MATH(sqrt)(x * x - 1));
MPQ_UNARY("Atanh", atanh, NULL, MPQ_MATH(atanh)(x), 1 / (1 - x * x));

/* Steps: the slope is 0 wherever there is one. */
MPQ_UNARY("Floor", floor, NULL, MPQ_MATH(floor)(x), 0);
MPQ_UNARY("Ceil", ceil, NULL, MPQ_MATH(ceil)(x), 0);
MPQ_UNARY("Round", round, NULL, MPQ_MATH(rint)(x), 0); /* halves to even */

/* Those that shape arithmetic uses take integers too. */
static enum mpq_status signed_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    if (!mpq_dtype_is_integer(x[0]->dtype))
        MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    return mpq_infer_same(ctx, node, x, y);
}

#define SIGNED(onnx_name, symbol, value, slope, integer)                                           \
    MPQ_UNARY_FORWARD(symbol, value)                                                               \
    MPQ_UNARY_BACKWARD(symbol, slope)                                                              \
    static void symbol##_any_forward(const struct mpq_kernel_args *args)                           \
    {                                                                                              \
        struct mpq_tensor *y = args->y[0];                                                         \
        if (y->dtype == MPQ_FLOAT) {                                                               \
            symbol##_forward(args);                                                                \
            return;                                                                                \
        }                                                                                          \
        int64_t n = mpq_shape_count(&y->shape);                                                    \
        for (int64_t i = 0; i < n; i++) {                                                          \
            const int64_t x = mpq_tensor_int(args->x[0], i);                                       \
            mpq_tensor_set_int(y, i, (integer));                                                   \
        }                                                                                          \
    }                                                                                              \
    const struct mpq_op mpq_op_##symbol = {.name = onnx_name,                                      \
                                           .domain = "",                                           \
                                           .n_in_min = 1,                                          \
                                           .n_in_max = 1,                                          \
                                           .n_out_min = 1,                                         \
                                           .n_out_max = 1,                                         \
                                           .infer = signed_infer,                                  \
                                           .forward = symbol##_any_forward,                        \
                                           .backward = symbol##_backward}

SIGNED("Neg", neg, -x, -1, (int64_t)(0 - (uint64_t)x));
SIGNED("Abs", abs, MPQ_MATH(fabs)(x), (mpq_real)((x > 0) - (x < 0)),
       x < 0 && y->dtype != MPQ_UINT64 ? (int64_t)(0 - (uint64_t)x) : x);
SIGNED("Sign", sign, (mpq_real)((x > 0) - (x < 0)), 0,
       y->dtype == MPQ_UINT64 ? x != 0 : (x > 0) - (x < 0));
