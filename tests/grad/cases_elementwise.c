#include "tests/grad/grad.h"

#define UNARY(name, low, high)                                                                     \
    {                                                                                              \
        name, .in = { REALS(low, high, 2, 3, 4) }                                                  \
    }
#define KINK(name, at)                                                                             \
    {                                                                                              \
        name, .in = {REALS(-4, 4, 2, 3, 4)}, .kink = {at}, .n_kink = 1                             \
    }

static const struct grad_case cases[] = {
    KINK("Relu", 0),
    UNARY("Sigmoid", -4, 4),
    UNARY("Tanh", -4, 4),
    KINK("LeakyRelu", 0),
    {"LeakyRelu", .attr = {FLOAT("alpha", 0.3f)}, .in = {REALS(-1, 1, 9)}, .kink = {0},
     .n_kink = 1},
    KINK("ThresholdedRelu", 1),
    KINK("Elu", 0),
    {"Elu", .attr = {FLOAT("alpha", 2)}, .in = {REALS(-2, 2, 9)}, .kink = {0}, .n_kink = 1},
    KINK("Celu", 0),
    {"Celu", .attr = {FLOAT("alpha", 2)}, .in = {REALS(-2, 2, 9)}, .kink = {0}, .n_kink = 1},
    KINK("Selu", 0),
    {"HardSigmoid", .in = {REALS(-4, 4, 20)}, .kink = {-2.5, 2.5}, .n_kink = 2},
    {"HardSwish", .in = {REALS(-4, 4, 20)}, .kink = {-3, 3}, .n_kink = 2},
    UNARY("Softplus", -4, 4),
    KINK("Softsign", 0),
    UNARY("Swish", -4, 4),
    {"SwiGLU", .attr = {FLOAT("alpha", 1.4f)}, .in = {REALS(-2, 2, 3, 4), REALS(-2, 2, 3, 4)}},
    {"Swish", .attr = {FLOAT("alpha", 1.7f)}, .in = {REALS(-3, 3, 9)}},
    UNARY("Mish", -4, 4),
    UNARY("Gelu", -3, 3),
    {"Gelu", .attr = {STRING("approximate", "tanh")}, .in = {REALS(-3, 3, 12)}},

    UNARY("Exp", -2, 2),
    UNARY("Log", 0.5, 3),
    UNARY("Sqrt", 0.5, 3),
    UNARY("Reciprocal", 0.5, 3),
    UNARY("Erf", -2, 2),
    UNARY("Sin", -3, 3),
    UNARY("Cos", -3, 3),
    UNARY("Tan", -1, 1),
    UNARY("Asin", -0.9, 0.9),
    UNARY("Acos", -0.9, 0.9),
    UNARY("Atan", -2, 2),
    UNARY("Sinh", -2, 2),
    UNARY("Cosh", -2, 2),
    UNARY("Asinh", -2, 2),
    UNARY("Acosh", 1.5, 4),
    UNARY("Atanh", -0.9, 0.9),
    {"Shrink", .attr = {FLOAT("lambd", 1), FLOAT("bias", 0.3f)}, .in = {REALS(-2, 2, 20)},
     .kink = {-1, 1}, .n_kink = 2},
    {"Floor", .in = {REALS(-1, 1, 9)}, .kink = {-1, 0, 1}, .n_kink = 3},
    {"Ceil", .in = {REALS(-1, 1, 9)}, .kink = {-1, 0, 1}, .n_kink = 3},
    {"Round", .in = {REALS(-1, 1, 9)}, .kink = {-0.5, 0.5}, .n_kink = 2},
    UNARY("Neg", -2, 2),
    KINK("Abs", 0),
    KINK("Sign", 0),

    {"Add", .in = {REALS(-1, 1, 2, 3), REALS(-1, 1, 2, 3)}},
    {"Add", .in = {REALS(-1, 1, 2, 3, 4, 5), REALS(-1, 1, 3, 1, 1)}},
    {"Add", .in = {REALS(-1, 1, 4), REALS(-1, 1, 2, 3, 1)}},
    {"Sub", .in = {REALS(-1, 1, 2, 3, 2), SCALAR(-1, 1)}},
    {"Sub", .in = {REALS(-1, 1, 2, 1, 4), REALS(-1, 1, 3, 1)}},
    {"Mul", .in = {REALS(-1, 1, 2, 3, 4, 5), REALS(-1, 1, 2, 3, 1, 1)}},
    {"Mul", .in = {REALS(-1, 1, 1), REALS(-1, 1, 3, 5)}},
    {"Div", .in = {REALS(-1, 1, 2, 3, 4), REALS(0.5, 2, 3, 1)}},
    {"Div", .in = {SCALAR(1, 2), REALS(0.5, 2, 3, 4)}},
    {"Pow", .in = {REALS(0.5, 2, 3, 4), REALS(-2, 2.5, 4)}},
    {"Pow", .in = {REALS(-2, 2, 3, 4), FIXED(2, 2, 1)}},
    {"Clip", .in = {REALS(-2, 2, 20), FIXED(-1, -1, 1), FIXED(0.5, 0.5, 1)}, .kink = {-1, 0.5},
     .n_kink = 2},
    {"Clip", .in = {REALS(-2, 2, 20), ABSENT}},
    {"Sum", .in = {REALS(-1, 1, 2, 3), REALS(-1, 1, 3), REALS(-1, 1, 2, 1)}},
    {"Mean", .in = {REALS(-1, 1, 2, 3), REALS(-1, 1, 3), SCALAR(-1, 1)}},
    {"Max", .in = {REALS(-1, 1, 4, 3), REALS(-0.9, 1.1, 3)}},
    {"Min", .in = {REALS(-1, 1, 4, 3), REALS(-0.9, 1.1, 4, 1), REALS(-0.8, 1, 3)}},
    {"Where", .in = {BOOLS(1, 0, 0, 1), REALS(-1, 1, 3, 4), REALS(-1, 1, 4)}},
    {"Where", .in = {BOOLS(1, 0), REALS(-1, 1, 3, 1), SCALAR(-1, 1)}},
    {"PRelu", .in = {REALS(-1, 1, 2, 3, 4, 4), REALS(0.1, 0.4, 3, 1, 1)}, .kink = {0}, .n_kink = 1},
};

const struct grad_table grad_cases_elementwise = GRAD_TABLE(cases);
