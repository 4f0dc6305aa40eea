/* ONNX Runtime's QLinearSigmoid and QLinearLeakyRelu: tables of 256 results. */
#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/quantized.h"
#include "quantcore/ops/op_util.h"

enum place { X, X_SCALE, X_ZERO, Y_SCALE, Y_ZERO };

static enum mpq_status leaky_relu_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                        struct mpq_node *node)
{
    float *alpha = mpq_arena_alloc(ctx, arena, 1, sizeof *alpha);
    if (!alpha)
        return MPQ_E_NOMEM;
    *alpha = mpq_attr_float(&node->attr_set, "alpha", 0.01f);
    node->attrs = alpha;
    return MPQ_OK;
}

static enum mpq_status infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                             const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    enum mpq_dtype dtype;
    MPQ_TRY(mpq_quantized_check(ctx, node, x, X, X_SCALE, X_ZERO, 1));
    MPQ_TRY(mpq_quantized_check_output(ctx, node, x, Y_SCALE, Y_ZERO, x[X]->dtype, &dtype));
    return mpq_infer_set(ctx, node, y[0], dtype, &x[X]->shape);
}

struct job {
    const uint8_t *x;
    uint8_t *y;
    uint8_t table[256];
};

static void translate(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        job->y[i] = job->table[job->x[i]];
}

static void forward(const struct mpq_kernel_args *args, float (*f)(float, const void *))
{
    const struct mpq_tensor *const *x = args->x;
    struct job job = {.x = x[X]->data, .y = args->y[0]->data};
    struct mpq_requant to =
        mpq_requant_to(args->y[0]->dtype, mpq_zero_at(mpq_input(args->node, x, Y_ZERO), 0));
    mpq_quantized_table(x[X]->dtype == MPQ_INT8, mpq_scale_at(x[X_SCALE], 0),
                        mpq_zero_at(mpq_input(args->node, x, X_ZERO), 0),
                        mpq_scale_at(x[Y_SCALE], 0), &to, f, args->node->attrs, job.table);
    mpq_parallel_for(mpq_shape_count(&x[X]->shape), MPQ_GRAIN, translate, &job);
}

static float fused(float a, float b, float c)
{
    return (float)((double)a * (double)b + (double)c);
}

/* The rational approximation of 1 / (1 + e^-x) that Eigen and MLAS share. */
static float sigmoid(float x, const void *arg)
{
    static const float alpha[] = {4.37031012579801e-11f, 1.15627324459942e-07f,
                                  6.08574864600143e-05f, 8.51377133304701e-03f,
                                  2.48287947061529e-01f};
    static const float beta[] = {6.10247389755681e-13f, 5.76102136993427e-09f,
                                 6.29106785017040e-06f, 1.70198817374094e-03f,
                                 1.16817656904453e-01f, 9.93151921023180e-01f};
    (void)arg;
    x = x > -18.0f ? x : -18.0f;
    x = x < 18.0f ? x : 18.0f;
    float square = x * x, p = alpha[0], q = beta[0];
    for (size_t i = 1; i < MPQ_COUNT(alpha); i++)
        p = fused(p, square, alpha[i]);
    for (size_t i = 1; i < MPQ_COUNT(beta); i++)
        q = fused(q, square, beta[i]);
    float y = p * x / q + 0.5f;
    return y < 0.0f ? 0.0f : y > 1.0f ? 1.0f : y;
}

static float leaky_relu(float x, const void *alpha)
{
    return x >= 0.0f ? x : *(const float *)alpha * x;
}

static void sigmoid_forward(const struct mpq_kernel_args *args)
{
    forward(args, sigmoid);
}

static void leaky_relu_forward(const struct mpq_kernel_args *args)
{
    forward(args, leaky_relu);
}

const struct mpq_op mpq_op_qlinear_sigmoid = {.name = "QLinearSigmoid",
                                              .domain = "com.microsoft",
                                              .n_in_min = 4,
                                              .n_in_max = 5,
                                              .n_out_min = 1,
                                              .n_out_max = 1,
                                              .infer = infer,
                                              .forward = sigmoid_forward};

const struct mpq_op mpq_op_qlinear_leaky_relu = {.name = "QLinearLeakyRelu",
                                                 .domain = "com.microsoft",
                                                 .n_in_min = 4,
                                                 .n_in_max = 5,
                                                 .n_out_min = 1,
                                                 .n_out_max = 1,
                                                 .parse = leaky_relu_parse,
                                                 .infer = infer,
                                                 .forward = leaky_relu_forward};
