/* BatchNormalization: y = (x - mean) / sqrt(var + epsilon) * scale + bias, a straight line for each
 * channel of x [N, C, ...]. Inputs: x, scale, bias, mean, var [C].
 *
 * At inference mean and var are the inputs. With training_mode they are those of the batch (var of
 * the population), and outputs 1 and 2 are input * momentum + batch * (1 - momentum). Gradients go
 * through the statistics of the batch (Ioffe and Szegedy, "Batch Normalization", ICML 2015), not
 * through outputs 1 and 2. */
#include <math.h>

#include "quantcore/base/thread.h"
#include "quantcore/ops/op_util.h"

struct attrs {
    double epsilon, momentum;
    bool is_training;
};

static enum mpq_status batch_normalization_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                                 struct mpq_node *node)
{
    struct attrs attrs = {
        .epsilon = (double)mpq_attr_float(&node->attr_set, "epsilon", 1e-5f),
        .momentum = (double)mpq_attr_float(&node->attr_set, "momentum", 0.9f),
        .is_training = mpq_attr_int(&node->attr_set, "training_mode", 0) != 0,
    };
    node->attrs = mpq_arena_copy(ctx, arena, &attrs, sizeof attrs);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

static enum mpq_status batch_normalization_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                                 const struct mpq_tensor *const *x,
                                                 struct mpq_tensor *const *y)
{
    const struct attrs *attrs = node->attrs;
    if (x[0]->shape.rank < 2)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "input %s has no channels",
                             MPQ_SHAPE_TEXT(&x[0]->shape));
    for (int i = 0; i < 5; i++) {
        MPQ_TRY(mpq_check_float(ctx, node, x, i));
        if (i > 0 && !mpq_shape_equal(&x[i]->shape, &MPQ_SHAPE(x[0]->shape.dim[1])))
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "input %d is %s for an input of %s", i,
                                 MPQ_SHAPE_TEXT(&x[i]->shape), MPQ_SHAPE_TEXT(&x[0]->shape));
    }
    for (uint32_t i = 1; i < node->n_out; i++) {
        if (!y[i])
            continue;
        if (!attrs->is_training || i > 2)
            return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "only training has an output %u", i);
        MPQ_TRY(mpq_infer_set(ctx, node, y[i], MPQ_FLOAT, &x[2 + i]->shape));
    }
    return mpq_infer_same(ctx, node, x, y);
}

struct job {
    int64_t n_sample, n_channel, inner;
    double epsilon, momentum;
    bool is_training;
    const mpq_real *x, *scale, *bias, *mean, *var, *dy;
    mpq_real *out, *out_mean, *out_var;
};

static struct job make_job(const struct mpq_kernel_args *args)
{
    const struct mpq_shape *shape = &args->x[0]->shape;
    const struct attrs *attrs = args->node->attrs;
    return (struct job){.n_sample = shape->dim[0],
                        .n_channel = shape->dim[1],
                        .inner = mpq_shape_count_range(shape, 2, shape->rank),
                        .epsilon = attrs->epsilon,
                        .momentum = attrs->momentum,
                        .is_training = attrs->is_training,
                        .x = args->x[0]->data,
                        .scale = args->x[1]->data,
                        .bias = args->x[2]->data,
                        .mean = args->x[3]->data,
                        .var = args->x[4]->data};
}

/* ---- one channel ---- */

struct channel {
    double mean, var, inverse_deviation; /* what x is normalized with                     */
    double sum_dy, sum_dy_x;             /* backward                                       */
};

/* Sums over a row, in double and in four interleaved parts so that they vectorise. */
struct sums {
    double x[4], x_x[4], dy[4], dy_x[4];
};

static void add_row(struct sums *sum, const mpq_real *restrict x, int64_t n)
{
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (int k = 0; k < 4; k++) {
            double value = (double)x[i + k];
            sum->x[k] += value;
            sum->x_x[k] += value * value;
        }
    for (; i < n; i++) {
        sum->x[0] += (double)x[i];
        sum->x_x[0] += (double)x[i] * (double)x[i];
    }
}

static void add_row_gradient(struct sums *sum, const mpq_real *restrict x,
                             const mpq_real *restrict dy, int64_t n)
{
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (int k = 0; k < 4; k++) {
            sum->dy[k] += (double)dy[i + k];
            sum->dy_x[k] += (double)dy[i + k] * (double)x[i + k];
        }
    for (; i < n; i++) {
        sum->dy[0] += (double)dy[i];
        sum->dy_x[0] += (double)dy[i] * (double)x[i];
    }
}

static double total(const double part[4])
{
    return (part[0] + part[1]) + (part[2] + part[3]);
}

static struct channel measure(const struct job *job, int64_t c)
{
    struct sums sum = {{0}, {0}, {0}, {0}};
    for (int64_t n = 0; n < job->n_sample; n++) {
        int64_t at = (n * job->n_channel + c) * job->inner;
        if (job->is_training)
            add_row(&sum, job->x + at, job->inner);
        if (job->dy)
            add_row_gradient(&sum, job->x + at, job->dy + at, job->inner);
    }
    struct channel channel = {.sum_dy = total(sum.dy), .sum_dy_x = total(sum.dy_x)};
    if (job->is_training) {
        double count = (double)(job->n_sample * job->inner);
        channel.mean = count > 0 ? total(sum.x) / count : 0;
        channel.var = count > 0 ? fmax(0, total(sum.x_x) / count - channel.mean * channel.mean) : 0;
    } else {
        channel.mean = (double)job->mean[c];
        channel.var = (double)job->var[c];
    }
    channel.inverse_deviation = 1 / sqrt(channel.var + job->epsilon);
    return channel;
}

/* ---- forward ---- */

static void forward_channels(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    (void)thread;
    for (int64_t c = begin; c < end; c++) {
        struct channel channel = measure(job, c);
        double slope = (double)job->scale[c] * channel.inverse_deviation, keep = job->momentum;
        mpq_real a = (mpq_real)slope;
        mpq_real b = (mpq_real)((double)job->bias[c] - channel.mean * slope);
        for (int64_t n = 0; n < job->n_sample; n++) {
            const mpq_real *restrict x = job->x + (n * job->n_channel + c) * job->inner;
            mpq_real *restrict y = job->out + (n * job->n_channel + c) * job->inner;
            for (int64_t i = 0; i < job->inner; i++)
                y[i] = a * x[i] + b;
        }
        if (job->out_mean)
            job->out_mean[c] = (mpq_real)((double)job->mean[c] * keep + channel.mean * (1 - keep));
        if (job->out_var)
            job->out_var[c] = (mpq_real)((double)job->var[c] * keep + channel.var * (1 - keep));
    }
}

static mpq_real *output(const struct mpq_kernel_args *args, uint32_t i)
{
    return i < args->node->n_out && args->y[i] ? args->y[i]->data : NULL;
}

static int64_t grain(const struct job *job)
{
    return 1 + MPQ_GRAIN / (job->n_sample * job->inner + 1);
}

static void batch_normalization_forward(const struct mpq_kernel_args *args)
{
    struct job job = make_job(args);
    job.out = args->y[0]->data;
    job.out_mean = output(args, 1);
    job.out_var = output(args, 2);
    mpq_parallel_for(job.n_channel, grain(&job), forward_channels, &job);
}

/* ---- backward ---- */

struct backward_job {
    struct job job;
    mpq_real *dx, *dscale, *dbias, *dmean, *dvar; /* NULL: not wanted */
};

/* dx += dy * slope, at inference; less what moving the batch's mean and deviation takes back in
 * training. Either way a straight line in dy and x. */
static void add_input_gradient(const struct backward_job *b, const struct channel *channel,
                               int64_t c)
{
    const struct job *job = &b->job;
    double slope = (double)job->scale[c] * channel->inverse_deviation, by_x = 0, constant = 0;
    if (job->is_training) {
        double count = (double)(job->n_sample * job->inner), inverse = channel->inverse_deviation;
        double product = channel->sum_dy_x - channel->mean * channel->sum_dy;
        by_x = -slope * inverse * inverse * product / count;
        constant = -slope * channel->sum_dy / count - by_x * channel->mean;
    }
    mpq_real p = (mpq_real)slope, q = (mpq_real)by_x, r = (mpq_real)constant;
    for (int64_t n = 0; n < job->n_sample; n++) {
        int64_t at = (n * job->n_channel + c) * job->inner;
        const mpq_real *restrict x = job->x + at, *restrict dy = job->dy + at;
        mpq_real *restrict dx = b->dx + at;
        for (int64_t i = 0; i < job->inner; i++)
            dx[i] += p * dy[i] + (q * x[i] + r);
    }
}

static void backward_channels(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct backward_job *b = arg;
    (void)thread;
    for (int64_t c = begin; c < end; c++) {
        struct channel channel = measure(&b->job, c);
        double inverse = channel.inverse_deviation, slope = (double)b->job.scale[c] * inverse;
        double product = channel.sum_dy_x - channel.mean * channel.sum_dy; /* dy (x - mean) */
        if (b->dx)
            add_input_gradient(b, &channel, c);
        if (b->dscale)
            b->dscale[c] += (mpq_real)(product * inverse);
        if (b->dbias)
            b->dbias[c] += (mpq_real)channel.sum_dy;
        if (b->dmean && !b->job.is_training)
            b->dmean[c] -= (mpq_real)(slope * channel.sum_dy);
        if (b->dvar && !b->job.is_training)
            b->dvar[c] -= (mpq_real)(0.5 * slope * inverse * inverse * product);
    }
}

static void batch_normalization_backward(const struct mpq_kernel_args *args)
{
    if (!args->dy[0])
        return;
    struct backward_job b = {make_job(args), args->dx[0], args->dx[1],
                             args->dx[2],    args->dx[3], args->dx[4]};
    b.job.dy = args->dy[0];
    mpq_parallel_for(b.job.n_channel, grain(&b.job), backward_channels, &b);
}

const struct mpq_op mpq_op_batch_normalization = {.name = "BatchNormalization",
                                                  .domain = "",
                                                  .n_in_min = 5,
                                                  .n_in_max = 5,
                                                  .n_out_min = 1,
                                                  .n_out_max = 5,
                                                  .parse = batch_normalization_parse,
                                                  .infer = batch_normalization_infer,
                                                  .backward_ignores = MPQ_IGNORES_Y,
                                                  .forward = batch_normalization_forward,
                                                  .backward = batch_normalization_backward};
