/* Gelu: x Phi(x), Phi the normal distribution function, or its tanh approximation (D. Hendrycks, K.
 * Gimpel: "Gaussian error linear units", 2016). */
#include "quantcore/ops/kernel/unary.h"

#define SQRT_HALF    MPQ_REAL(0.70710678118654752440) /* 1 / sqrt 2     */
#define DENSITY_AT_0 MPQ_REAL(0.39894228040143267794) /* 1 / sqrt(2 pi) */
#define TANH_SCALE   MPQ_REAL(0.79788456080286535588) /* sqrt(2 / pi)   */
#define TANH_CUBIC   MPQ_REAL(0.044715)

static inline mpq_real phi(mpq_real x)
{
    return MPQ_REAL(0.5) * (1 + MPQ_MATH(erf)(x * SQRT_HALF));
}

static inline mpq_real inner(mpq_real x)
{
    return TANH_SCALE * (x + TANH_CUBIC * x * x * x);
}

static inline mpq_real approximate_slope(mpq_real x)
{
    mpq_real t = mpq_tanh(inner(x));
    mpq_real inner_slope = TANH_SCALE * (1 + 3 * TANH_CUBIC * x * x);
    return MPQ_REAL(0.5) * (1 + t) + MPQ_REAL(0.5) * x * (1 - t * t) * inner_slope;
}

MPQ_UNARY_FORWARD(exact, x *phi(x))
MPQ_UNARY_BACKWARD(exact, phi(x) + x * DENSITY_AT_0 * MPQ_MATH(exp)(-x * x / 2))
MPQ_UNARY_FORWARD(approximate, MPQ_REAL(0.5) * x * (1 + mpq_tanh(inner(x))))
MPQ_UNARY_BACKWARD(approximate, approximate_slope(x))

static enum mpq_status gelu_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  struct mpq_node *node)
{
    const char *kind = mpq_attr_string(&node->attr_set, "approximate", "none");
    bool is_tanh = strcmp(kind, "tanh") == 0;
    if (!is_tanh && strcmp(kind, "none") != 0)
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "approximate is '%s'", kind);
    return mpq_unary_parse(ctx, arena, node, NULL, is_tanh, NULL, 0);
}

static bool is_approximate(const struct mpq_kernel_args *args)
{
    return ((const struct mpq_unary_attrs *)args->node->attrs)->a != 0;
}

static void gelu_forward(const struct mpq_kernel_args *args)
{
    is_approximate(args) ? approximate_forward(args) : exact_forward(args);
}

static void gelu_backward(const struct mpq_kernel_args *args)
{
    is_approximate(args) ? approximate_backward(args) : exact_backward(args);
}

const struct mpq_op mpq_op_gelu = {.name = "Gelu",
                                   .domain = "",
                                   .n_in_min = 1,
                                   .n_in_max = 1,
                                   .n_out_min = 1,
                                   .n_out_max = 1,
                                   .parse = gelu_parse,
                                   .infer = mpq_infer_same_float,
                                   .forward = gelu_forward,
                                   .backward = gelu_backward};
