/* Convolutions and matrix products with what is fused to them, and the kinds of Gelu. */
#include <string.h>

#include "importer/contrib_job.h"
#include "importer/contrib_rules.h"

static char *activate(struct mpq_job *job, const char *activation, char *to, char *x, float alpha,
                      float beta)
{
    if (strcmp(activation, "Clip") == 0)
        return mpq_make(job, "Clip", to, x, mpq_make_number(job, alpha),
                        mpq_make_number(job, beta));
    bool has_beta = strcmp(activation, "HardSigmoid") == 0;
    to = mpq_make(job, activation, to, x, NULL, NULL);
    if (has_beta || strcmp(activation, "LeakyRelu") == 0 || strcmp(activation, "Elu") == 0)
        mpq_set_float(job, "alpha", alpha);
    if (has_beta)
        mpq_set_float(job, "beta", beta);
    return to;
}

static const char *known_activation(const struct mpq_job *job)
{
    static const char *const known[] = {"Relu", "Sigmoid",     "Tanh", "LeakyRelu",
                                        "Clip", "HardSigmoid", "Elu"};
    for (size_t i = 0; i < MPQ_COUNT(known); i++)
        if (mpq_job_attr_is(job, "activation", known[i]))
            return known[i];
    return NULL;
}

/* Conv(x, w, b), + z, activated. */
bool mpq_contrib_fused_conv(struct mpq_job *job)
{
    static const char *const keeps[] = {"auto_pad", "dilations", "group", "kernel_shape",
                                        "pads",     "strides",   NULL};
    const char *activation = known_activation(job);
    const Onnx__AttributeProto *params = mpq_rewrite_attr(job->node, "activation_params");
    size_t n = params ? params->n_floats : 0;
    if (!activation && mpq_rewrite_attr(job->node, "activation"))
        return false;
    char *sum = mpq_job_in(job, 3), *y = mpq_job_out(job, 0);
    y = mpq_make_like(job, "Conv", activation || sum ? NULL : y, 3, keeps);
    if (sum)
        y = mpq_make(job, "Add", activation ? NULL : mpq_job_out(job, 0), y, sum, NULL);
    if (activation)
        activate(job, activation, mpq_job_out(job, 0), y, n > 0 ? params->floats[0] : 0.01f,
                 n > 1 ? params->floats[1] : 0.5f);
    return true;
}

bool mpq_contrib_fused_gemm(struct mpq_job *job)
{
    static const char *const keeps[] = {"alpha", "beta", "transA", "transB", NULL};
    const char *activation = known_activation(job);
    if (!activation)
        return false;
    char *y = mpq_make_like(job, "Gemm", NULL, 3, keeps);
    activate(job, activation, mpq_job_out(job, 0), y, mpq_job_float(job, "activation_alpha", 0.01f),
             mpq_job_float(job, "activation_beta", 0.5f));
    return true;
}

/* x (1 + erf(x / sqrt(2))) / 2, which runtimes know as Gelu in this form. */
static void gelu_of(struct mpq_job *job, char *x)
{
    char *one = mpq_make_number(job, 1.0f), *half = mpq_make_number(job, 0.5f);
    char *t = mpq_make(job, "Div", NULL, x, mpq_make_number(job, 1.41421356237309504880f), NULL);
    t = mpq_make(job, "Erf", NULL, t, NULL, NULL);
    t = mpq_make(job, "Add", NULL, t, one, NULL);
    t = mpq_make(job, "Mul", NULL, x, t, NULL);
    mpq_make(job, "Mul", mpq_job_out(job, 0), t, half, NULL);
}

bool mpq_contrib_gelu(struct mpq_job *job)
{
    gelu_of(job, mpq_job_in(job, 0));
    return true;
}

bool mpq_contrib_bias_gelu(struct mpq_job *job)
{
    gelu_of(job, mpq_make(job, "Add", NULL, mpq_job_in(job, 0), mpq_job_in(job, 1), NULL));
    return true;
}

/* x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 of x, to which a bias is added. */
bool mpq_contrib_fast_gelu(struct mpq_job *job)
{
    char *x = mpq_job_in(job, 0);
    if (mpq_job_in(job, 1))
        x = mpq_make(job, "Add", NULL, x, mpq_job_in(job, 1), NULL);
    char *one = mpq_make_number(job, 1.0f);
    char *t = mpq_make(job, "Mul", NULL, x, x, NULL);
    t = mpq_make(job, "Mul", NULL, t, mpq_make_number(job, 0.044715f), NULL);
    t = mpq_make(job, "Add", NULL, t, one, NULL);
    t = mpq_make(job, "Mul", NULL, t, x, NULL);
    t = mpq_make(job, "Mul", NULL, t, mpq_make_number(job, 0.79788456080286535588f), NULL);
    t = mpq_make(job, "Tanh", NULL, t, NULL, NULL);
    t = mpq_make(job, "Add", NULL, t, one, NULL);
    t = mpq_make(job, "Mul", NULL, x, t, NULL);
    mpq_make(job, "Mul", mpq_job_out(job, 0), t, mpq_make_number(job, 0.5f), NULL);
    return true;
}

bool mpq_contrib_quick_gelu(struct mpq_job *job)
{
    char *x = mpq_job_in(job, 0);
    char *t = mpq_make(job, "Mul", NULL, x,
                       mpq_make_number(job, mpq_job_float(job, "alpha", 1.702f)), NULL);
    mpq_make(job, "Mul", mpq_job_out(job, 0), x, mpq_make(job, "Sigmoid", NULL, t, NULL, NULL),
             NULL);
    return true;
}

/* A matrix product whose operands may be transposed: a constant matrix by Transpose, which is
 * folded, anything else by Einsum, which needs to know no rank. */
bool mpq_contrib_fused_matmul(struct mpq_job *job)
{
    static const char *const stacks[2][2] = {{"...ij,...jk->...ik", "...ij,...kj->...ik"},
                                             {"...ji,...jk->...ik", "...ji,...kj->...ik"}};
    bool a = mpq_job_int(job, "transA", 0) != 0, b = mpq_job_int(job, "transB", 0) != 0;
    float alpha = mpq_job_float(job, "alpha", 1.0f);
    char *right = mpq_job_in(job, 1), *to = alpha == 1.0f ? mpq_job_out(job, 0) : NULL, *y;
    if (mpq_job_int(job, "transBatchA", 0) || mpq_job_int(job, "transBatchB", 0))
        return false;
    const Onnx__TensorProto *weight = mpq_job_constant(job, right);
    if (b && weight && weight->n_dims == 2) {
        right = mpq_make(job, "Transpose", NULL, right, NULL, NULL);
        b = false;
    }
    const char *equation = weight && weight->n_dims == 2 ? "...ji,jk->...ik" : stacks[a][b];
    if (!a && !b) {
        y = mpq_make(job, "MatMul", to, mpq_job_in(job, 0), right, NULL);
    } else {
        y = mpq_make(job, "Einsum", to, mpq_job_in(job, 0), right, NULL);
        mpq_set_string(job, "equation", equation);
    }
    if (alpha != 1.0f)
        mpq_make(job, "Mul", mpq_job_out(job, 0), y, mpq_make_number(job, alpha), NULL);
    return true;
}
