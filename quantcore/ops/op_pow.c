/* Pow: y = a^b, broadcast. The exponent may be of another type than the base, whose type y has. */
#include "quantcore/ops/kernel/binary.h"

static bool is_number(const struct mpq_tensor *x)
{
    return x->dtype == MPQ_FLOAT || mpq_dtype_is_integer(x->dtype);
}

static enum mpq_status pow_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                 const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    struct mpq_shape shape;
    if (!is_number(x[0]) || !is_number(x[1]))
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "%s to the power of %s is not computed",
                             mpq_dtype_name(x[0]->dtype), mpq_dtype_name(x[1]->dtype));
    MPQ_TRY(mpq_infer_broadcast(ctx, node, x, &shape));
    return mpq_infer_set(ctx, node, y[0], x[0]->dtype, &shape);
}

/* The exponents of normalisation layers, 2 and 1/2, without the cost of a general power. */
static inline mpq_real power(mpq_real a, mpq_real b)
{
    return b == 2 ? a * a : b == MPQ_REAL(0.5) ? MPQ_MATH(sqrt)(a) : MPQ_MATH(pow)(a, b);
}

MPQ_BINARY_SPAN(pow, mpq_real, power(a, b))
MPQ_BINARY_SLOPE(pow_a, b == 2 ? 2 * a : b * MPQ_MATH(pow)(a, b - 1))
MPQ_BINARY_SLOPE(pow_b, a > 0 ? MPQ_MATH(pow)(a, b) * MPQ_MATH(log)(a) : 0)

static void mixed_forward(const struct mpq_kernel_args *args)
{
    struct mpq_tensor *y = args->y[0];
    struct mpq_loop loop;
    mpq_loop_init(&loop, &y->shape);
    mpq_loop_add(&loop, &args->x[0]->shape);
    mpq_loop_add(&loop, &args->x[1]->shape);
    mpq_loop_merge(&loop);
    int64_t step_a = mpq_loop_inner_stride(&loop, 0), step_b = mpq_loop_inner_stride(&loop, 1);
    int64_t i = 0;
    struct mpq_span span;
    for (mpq_span_first(&span, &loop, 0, mpq_loop_count(&loop)); span.n; mpq_span_next(&span))
        for (int64_t j = 0; j < span.n; j++) {
            double a = mpq_tensor_double(args->x[0], span.offset[0] + j * step_a);
            double b = mpq_tensor_double(args->x[1], span.offset[1] + j * step_b);
            mpq_tensor_set_double(y, i++, pow(a, b));
        }
}

static void pow_forward(const struct mpq_kernel_args *args)
{
    if (args->x[0]->dtype == MPQ_FLOAT && args->x[1]->dtype == MPQ_FLOAT)
        mpq_binary_forward(args, pow_span);
    else
        mixed_forward(args);
}

/* Only a float exponent lets gradients pass; models have an integer one on constants only. */
static void pow_backward(const struct mpq_kernel_args *args)
{
    if (args->x[1]->dtype == MPQ_FLOAT)
        mpq_binary_backward(args, pow_a_slope, pow_b_slope);
}

const struct mpq_op mpq_op_pow = {.name = "Pow",
                                  .domain = "",
                                  .n_in_min = 2,
                                  .n_in_max = 2,
                                  .n_out_min = 1,
                                  .n_out_max = 1,
                                  .infer = pow_infer,
                                  .forward = pow_forward,
                                  .backward = pow_backward};
