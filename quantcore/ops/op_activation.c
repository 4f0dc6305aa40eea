/* Activation functions: elementwise, some with float attributes (a and b of kernel/unary.h). At a
 * kink the slope is that of the side ONNX' formula puts the point on. */
#include "quantcore/ops/kernel/unary.h"

#define PARSE(symbol, name_a, default_a, name_b, default_b)                                        \
    static enum mpq_status symbol##_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,            \
                                          struct mpq_node *node)                                   \
    {                                                                                              \
        return mpq_unary_parse(ctx, arena, node, name_a, default_a, name_b, default_b);            \
    }

static bool relu_clamp(const struct mpq_node *node, const struct mpq_tensor *const *x,
                       struct mpq_clamp *out)
{
    (void)node, (void)x;
    *out = (struct mpq_clamp){0, INFINITY};
    return true;
}
#define RELU_FIELDS .clamp = relu_clamp, .backward_ignores = MPQ_IGNORES_Y,
MPQ_UNARY_WITH("Relu", relu, NULL, x > 0 ? x : 0, (mpq_real)(x > 0), RELU_FIELDS);

MPQ_UNARY("Sigmoid", sigmoid, NULL, mpq_sigmoid(x), y *(1 - y));

MPQ_UNARY("Tanh", tanh, NULL, mpq_tanh(x), 1 - y * y);

PARSE(leaky_relu, "alpha", 0.01f, NULL, 0)
MPQ_UNARY("LeakyRelu", leaky_relu, leaky_relu_parse, x < 0 ? a * x : x, x < 0 ? a : 1);

PARSE(thresholded_relu, "alpha", 1.0f, NULL, 0)
MPQ_UNARY("ThresholdedRelu", thresholded_relu, thresholded_relu_parse, x > a ? x : 0,
          (mpq_real)(x > a));

PARSE(elu, "alpha", 1.0f, NULL, 0)
MPQ_UNARY("Elu", elu, elu_parse, x < 0 ? a * MPQ_MATH(expm1)(x) : x, x < 0 ? y + a : 1);

PARSE(celu, "alpha", 1.0f, NULL, 0)
MPQ_UNARY("Celu", celu, celu_parse, x < 0 ? a * MPQ_MATH(expm1)(x / a) : x,
          x < 0 ? MPQ_MATH(exp)(x / a) : 1);

PARSE(selu, "alpha", 1.67326319217681884765625f, "gamma", 1.05070102214813232421875f)
MPQ_UNARY("Selu", selu, selu_parse, b *(x > 0 ? x : a * MPQ_MATH(expm1)(x)), x > 0 ? b : y + a * b);

PARSE(hard_sigmoid, "alpha", 0.2f, "beta", 0.5f)
MPQ_UNARY("HardSigmoid", hard_sigmoid, hard_sigmoid_parse, mpq_clamp(a *x + b, 0, 1),
          a *x + b > 0 && a * x + b < 1 ? a : 0);

/* x * HardSigmoid(x) with alpha 1/6 and beta 1/2. */
MPQ_UNARY("HardSwish", hard_swish, NULL, x *mpq_clamp(x / 6 + MPQ_REAL(0.5), 0, 1),
          x >= 3    ? 1
          : x <= -3 ? 0
                    : x / 3 + MPQ_REAL(0.5));

MPQ_UNARY("Softplus", softplus, NULL, mpq_softplus(x), mpq_sigmoid(x));

MPQ_UNARY("Softsign", softsign, NULL, x / (1 + MPQ_MATH(fabs)(x)),
          1 / ((1 + MPQ_MATH(fabs)(x)) * (1 + MPQ_MATH(fabs)(x))));

/* x sigmoid(a x), SiLU where a = 1. */
PARSE(swish, "alpha", 1.0f, NULL, 0)
MPQ_UNARY("Swish", swish, swish_parse, x *mpq_sigmoid(a *x),
          mpq_sigmoid(a *x) + a * y * (1 - mpq_sigmoid(a * x)));

/* x tanh(softplus(x)); with t the tanh and s the sigmoid, t + x (1 - t^2) s. */
static inline mpq_real mish_slope(mpq_real x)
{
    mpq_real t = mpq_tanh(mpq_softplus(x));
    return t + x * (1 - t * t) * mpq_sigmoid(x);
}
MPQ_UNARY("Mish", mish, NULL, x *mpq_tanh(mpq_softplus(x)), mish_slope(x));

/* Values near 0 become 0, others move towards it by the bias. */
PARSE(shrink, "lambd", 0.5f, "bias", 0)
MPQ_UNARY("Shrink", shrink, shrink_parse, x<-a ? x + b : x> a ? x - b : 0, x<-a || x> a);
