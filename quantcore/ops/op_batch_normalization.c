/* BatchNormalization as it is at inference: y = (x - mean) / sqrt(var + epsilon) * scale + bias, a
 * straight line for each channel of x [N, C, ...]. Inputs: x, scale, bias, mean, var [C]. */
#include <math.h>

#include "quantcore/base/thread.h"
#include "quantcore/ops/op_util.h"

static enum mpq_status batch_normalization_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                                 struct mpq_node *node)
{
    float epsilon = mpq_attr_float(&node->attr_set, "epsilon", 1e-5f);
    if (mpq_attr_int(&node->attr_set, "training_mode", 0))
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "training mode is not supported");
    node->attrs = mpq_arena_copy(ctx, arena, &epsilon, sizeof epsilon);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

static enum mpq_status batch_normalization_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                                 const struct mpq_tensor *const *x,
                                                 struct mpq_tensor *const *y)
{
    for (uint32_t i = 1; i < node->n_out; i++)
        if (y[i])
            return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "only training has an output %u", i);
    if (x[0]->shape.rank < 2)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "input %s has no channels",
                             MPQ_SHAPE_TEXT(&x[0]->shape));
    for (int i = 0; i < 5; i++) {
        MPQ_TRY(mpq_check_float(ctx, node, x, i));
        if (i > 0 && !mpq_shape_equal(&x[i]->shape, &MPQ_SHAPE(x[0]->shape.dim[1])))
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "input %d is %s for an input of %s", i,
                                 MPQ_SHAPE_TEXT(&x[i]->shape), MPQ_SHAPE_TEXT(&x[0]->shape));
    }
    return mpq_infer_same(ctx, node, x, y);
}

struct job {
    int64_t n_channel, inner;
    double epsilon;
    const mpq_real *x, *scale, *bias, *mean, *var, *dy;
    mpq_real *out;
};

static void make_job(const struct mpq_kernel_args *args, struct job *job)
{
    const struct mpq_shape *shape = &args->x[0]->shape;
    *job = (struct job){.n_channel = shape->dim[1],
                        .inner = mpq_shape_count_range(shape, 2, shape->rank),
                        .epsilon = (double)*(const float *)args->node->attrs,
                        .x = args->x[0]->data,
                        .scale = args->x[1]->data,
                        .bias = args->x[2]->data,
                        .mean = args->x[3]->data,
                        .var = args->x[4]->data};
}

static double inverse_deviation(const struct job *job, int64_t channel)
{
    return 1 / sqrt((double)job->var[channel] + job->epsilon);
}

static void forward_planes(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    (void)thread;
    for (int64_t p = begin; p < end; p++) {
        int64_t c = p % job->n_channel;
        double slope = (double)job->scale[c] * inverse_deviation(job, c);
        mpq_real a = (mpq_real)slope;
        mpq_real b = (mpq_real)((double)job->bias[c] - (double)job->mean[c] * slope);
        const mpq_real *restrict x = job->x + p * job->inner;
        mpq_real *restrict y = job->out + p * job->inner;
        for (int64_t i = 0; i < job->inner; i++)
            y[i] = a * x[i] + b;
    }
}

static void backward_planes(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    (void)thread;
    for (int64_t p = begin; p < end; p++) {
        int64_t c = p % job->n_channel;
        mpq_real slope = (mpq_real)((double)job->scale[c] * inverse_deviation(job, c));
        const mpq_real *restrict dy = job->dy + p * job->inner;
        mpq_real *restrict dx = job->out + p * job->inner;
        for (int64_t i = 0; i < job->inner; i++)
            dx[i] += slope * dy[i];
    }
}

/* Gradients of scale, bias, mean and var of one channel, from sum dy and sum dy (x - mean). */
static void add_channel_gradients(const struct mpq_kernel_args *args, const struct job *job,
                                  int64_t n_sample, int64_t c)
{
    double sum = 0, product = 0, inverse = inverse_deviation(job, c);
    for (int64_t n = 0; n < n_sample; n++) {
        const mpq_real *x = job->x + (n * job->n_channel + c) * job->inner;
        const mpq_real *dy = job->dy + (n * job->n_channel + c) * job->inner;
        for (int64_t i = 0; i < job->inner; i++) {
            sum += (double)dy[i];
            product += (double)dy[i] * ((double)x[i] - (double)job->mean[c]);
        }
    }
    double slope = (double)job->scale[c] * inverse;
    double gradient[5] = {0, product * inverse, sum, -slope * sum,
                          -0.5 * slope * inverse * inverse * product};
    for (int k = 1; k < 5; k++)
        if (args->dx[k])
            args->dx[k][c] += (mpq_real)gradient[k];
}

static void batch_normalization_forward(const struct mpq_kernel_args *args)
{
    struct job job;
    make_job(args, &job);
    job.out = args->y[0]->data;
    mpq_parallel_for(args->x[0]->shape.dim[0] * job.n_channel, 1 + MPQ_GRAIN / (job.inner + 1),
                     forward_planes, &job);
}

static void batch_normalization_backward(const struct mpq_kernel_args *args)
{
    struct job job;
    int64_t n_sample = args->x[0]->shape.dim[0];
    if (!args->dy[0])
        return;
    make_job(args, &job);
    job.dy = args->dy[0];
    job.out = args->dx[0];
    if (job.out)
        mpq_parallel_for(n_sample * job.n_channel, 1 + MPQ_GRAIN / (job.inner + 1), backward_planes,
                         &job);
    if (args->dx[1] || args->dx[2] || args->dx[3] || args->dx[4])
        for (int64_t c = 0; c < job.n_channel; c++)
            add_channel_gradients(args, &job, n_sample, c);
}

const struct mpq_op mpq_op_batch_normalization = {.name = "BatchNormalization",
                                                  .domain = "",
                                                  .n_in_min = 5,
                                                  .n_in_max = 5,
                                                  .n_out_min = 1,
                                                  .n_out_max = 5,
                                                  .parse = batch_normalization_parse,
                                                  .infer = batch_normalization_infer,
                                                  .forward = batch_normalization_forward,
                                                  .backward = batch_normalization_backward};
