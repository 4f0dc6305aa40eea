#include "quantcore/ops/kernel/gate.h"

#include <strings.h>

#include "quantcore/base/simd.h"
#include "quantcore/ops/kernel/real_math.h"

enum kind {
    SIGMOID,
    TANH,
    RELU,
    HARD_SIGMOID,
    AFFINE,
    LEAKY_RELU,
    THRESHOLDED_RELU,
    SCALED_TANH,
    ELU,
    SOFTSIGN,
    SOFTPLUS,
};

/* Defaults as the operators of those names have them. NAN: there is none, or runtimes disagree. */
static const struct {
    const char *name;
    bool uses_alpha, uses_beta;
    mpq_real alpha, beta;
} known[] = {
    [SIGMOID] = {"Sigmoid", false, false, 0, 0},
    [TANH] = {"Tanh", false, false, 0, 0},
    [RELU] = {"Relu", false, false, 0, 0},
    [HARD_SIGMOID] = {"HardSigmoid", true, true, MPQ_REAL(0.2), MPQ_REAL(0.5)},
    [AFFINE] = {"Affine", true, true, NAN, NAN},
    [LEAKY_RELU] = {"LeakyRelu", true, false, MPQ_REAL(0.01), 0},
    [THRESHOLDED_RELU] = {"ThresholdedRelu", true, false, NAN, 0},
    [SCALED_TANH] = {"ScaledTanh", true, true, NAN, NAN},
    [ELU] = {"Elu", true, false, 1, 0},
    [SOFTSIGN] = {"Softsign", false, false, 0, 0},
    [SOFTPLUS] = {"Softplus", false, false, 0, 0},
};

bool mpq_gate_find(const char *name, struct mpq_gate_function *out)
{
    for (int i = 0; i < (int)(sizeof known / sizeof *known); i++) {
        if (strcasecmp(name, known[i].name) != 0)
            continue;
        *out = (struct mpq_gate_function){.kind = i,
                                          .uses_alpha = known[i].uses_alpha,
                                          .uses_beta = known[i].uses_beta,
                                          .alpha = known[i].alpha,
                                          .beta = known[i].beta,
                                          .clip = (mpq_real)INFINITY};
        return true;
    }
    return false;
}

bool mpq_gate_finish(struct mpq_gate_function *f)
{
    f->low = (mpq_real)-INFINITY;
    f->high = (mpq_real)INFINITY;
    if (f->clip < f->high) {
        mpq_real end[2] = {-f->clip, f->clip};
        mpq_gate_apply(f, end, 2);
        f->low = end[0];
        f->high = end[1];
    }
    bool has_beta = !f->uses_beta || !isnan(f->beta);
    return has_beta && (!f->uses_alpha || f->alpha >= 0) &&
           (f->kind != SCALED_TANH || f->beta >= 0);
}

#define EACH(value)                                                                                \
    for (int64_t i = 0; i < n; i++) {                                                              \
        const mpq_real v = mpq_clamp(x[i], -clip, clip);                                           \
        x[i] = (value);                                                                            \
    }                                                                                              \
    break

MPQ_MULTIVERSION
void mpq_gate_apply(const struct mpq_gate_function *function, mpq_real *x, int64_t n)
{
    const mpq_real a = function->alpha, b = function->beta, clip = function->clip;
    switch ((enum kind)function->kind) {
    case SIGMOID:
        EACH(mpq_sigmoid(v));
    case TANH:
        EACH(mpq_tanh(v));
    case RELU:
        EACH(v > 0 ? v : 0);
    case HARD_SIGMOID:
        EACH(mpq_clamp(a * v + b, 0, 1));
    case AFFINE:
        EACH(a * v + b);
    case LEAKY_RELU:
        EACH(v >= 0 ? v : a * v);
    case THRESHOLDED_RELU:
        EACH(v > a ? v : 0);
    case SCALED_TANH:
        EACH(a * mpq_tanh(b * v));
    case ELU:
        EACH(v >= 0 ? v : a * MPQ_MATH(expm1)(v));
    case SOFTSIGN:
        EACH(v / (1 + MPQ_MATH(fabs)(v)));
    case SOFTPLUS:
        EACH(mpq_softplus(v));
    }
}

#undef EACH
#define EACH(slope)                                                                                \
    for (int64_t i = 0; i < n; i++) {                                                              \
        const mpq_real v = y[i];                                                                   \
        dx[i] *= v > low && v < high ? (slope) : 0;                                                \
    }                                                                                              \
    break

MPQ_MULTIVERSION
void mpq_gate_back(const struct mpq_gate_function *function, const mpq_real *restrict y,
                   mpq_real *restrict dx, int64_t n)
{
    const mpq_real a = function->alpha, b = function->beta;
    const mpq_real low = function->low, high = function->high;
    switch ((enum kind)function->kind) {
    case SIGMOID:
        EACH(v * (1 - v));
    case TANH:
        EACH(1 - v * v);
    case RELU:
        EACH((mpq_real)(v > 0));
    case HARD_SIGMOID:
        EACH(v > 0 && v < 1 ? a : 0);
    case AFFINE:
        EACH(a);
    case LEAKY_RELU:
        EACH(v >= 0 ? 1 : a);
    case THRESHOLDED_RELU:
        EACH((mpq_real)(v > 0));
    case SCALED_TANH:
        EACH(a > 0 ? b * (a - v * v / a) : 0);
    case ELU:
        EACH(v >= 0 ? 1 : v + a);
    case SOFTSIGN:
        EACH((1 - MPQ_MATH(fabs)(v)) * (1 - MPQ_MATH(fabs)(v)));
    case SOFTPLUS:
        EACH(-MPQ_MATH(expm1)(-v));
    }
}
