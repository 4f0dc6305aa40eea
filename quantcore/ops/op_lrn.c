/* LRN, local response normalization across channels of x [N, C, ...]:
 * y = x / s^beta, s = bias + alpha / size * sum of x^2 over the `size` channels around (A.
 * Krizhevsky et al.: "ImageNet classification with deep convolutional neural networks", 2012). */
#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/real_math.h"
#include "quantcore/ops/op_util.h"

struct attrs {
    int64_t size;
    float alpha, beta, bias;
};

static enum mpq_status lrn_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 struct mpq_node *node)
{
    struct attrs attrs = {.size = mpq_attr_int(&node->attr_set, "size", 0),
                          .alpha = mpq_attr_float(&node->attr_set, "alpha", 1e-4f),
                          .beta = mpq_attr_float(&node->attr_set, "beta", 0.75f),
                          .bias = mpq_attr_float(&node->attr_set, "bias", 1)};
    if (attrs.size < 1)
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "size is %lld", (long long)attrs.size);
    node->attrs = mpq_arena_copy(ctx, arena, &attrs, sizeof attrs);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

static enum mpq_status lrn_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                 const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    if (x[0]->shape.rank < 2)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "input %s has no channels",
                             MPQ_SHAPE_TEXT(&x[0]->shape));
    return mpq_infer_same_float(ctx, node, x, y);
}

struct job {
    const struct attrs *attrs;
    int64_t n_channel, inner;
    const mpq_real *x, *dy;
    mpq_real *out;
};

/* Channels [*first, *end) around c. */
static void window(const struct job *job, int64_t c, int64_t *first, int64_t *end)
{
    int64_t before = (job->attrs->size - 1) / 2, after = job->attrs->size - 1 - before;
    *first = c > before ? c - before : 0;
    *end = after < job->n_channel - c ? c + after + 1 : job->n_channel;
}

/* s of channel c at one place, x pointing at channel 0 of it. */
static mpq_real norm(const struct job *job, const mpq_real *x, int64_t c)
{
    int64_t first, end;
    mpq_real sum = 0;
    window(job, c, &first, &end);
    for (int64_t k = first; k < end; k++)
        sum += x[k * job->inner] * x[k * job->inner];
    return (mpq_real)job->attrs->bias +
           (mpq_real)job->attrs->alpha / (mpq_real)job->attrs->size * sum;
}

static void forward_samples(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const mpq_real beta = (mpq_real)job->attrs->beta;
    (void)thread;
    for (int64_t n = begin; n < end; n++)
        for (int64_t c = 0; c < job->n_channel; c++)
            for (int64_t i = 0; i < job->inner; i++) {
                int64_t at = n * job->n_channel * job->inner + i;
                int64_t here = at + c * job->inner;
                job->out[here] = job->x[here] * MPQ_MATH(pow)(norm(job, job->x + at, c), -beta);
            }
}

/* y_c depends on x_k for all k in the window of c:
 * dx_k += dy_c (s_c^-beta [c = k] - 2 alpha beta / size x_c x_k s_c^(-beta - 1)). */
static void backward_samples(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const mpq_real beta = (mpq_real)job->attrs->beta;
    const mpq_real factor = 2 * (mpq_real)job->attrs->alpha * beta / (mpq_real)job->attrs->size;
    (void)thread;
    for (int64_t n = begin; n < end; n++)
        for (int64_t c = 0; c < job->n_channel; c++)
            for (int64_t i = 0; i < job->inner; i++) {
                int64_t at = n * job->n_channel * job->inner + i, first, stop;
                int64_t here = at + c * job->inner;
                mpq_real s = norm(job, job->x + at, c), power = MPQ_MATH(pow)(s, -beta);
                window(job, c, &first, &stop);
                job->out[here] += job->dy[here] * power;
                for (int64_t k = first; k < stop; k++)
                    job->out[at + k * job->inner] -= job->dy[here] * factor * job->x[here] *
                                                     job->x[at + k * job->inner] * power / s;
            }
}

static void run(const struct mpq_kernel_args *args, const mpq_real *dy, mpq_real *out,
                void (*samples)(void *, int64_t, int64_t, int))
{
    const struct mpq_shape *shape = &args->x[0]->shape;
    struct job job = {args->node->attrs,
                      shape->dim[1],
                      mpq_shape_count_range(shape, 2, shape->rank),
                      args->x[0]->data,
                      dy,
                      out};
    mpq_parallel_for(shape->dim[0], 1, samples, &job);
}

static void lrn_forward(const struct mpq_kernel_args *args)
{
    run(args, NULL, args->y[0]->data, forward_samples);
}

static void lrn_backward(const struct mpq_kernel_args *args)
{
    if (args->dy[0] && args->dx[0])
        run(args, args->dy[0], args->dx[0], backward_samples);
}

const struct mpq_op mpq_op_lrn = {.name = "LRN",
                                  .domain = "",
                                  .n_in_min = 1,
                                  .n_in_max = 1,
                                  .n_out_min = 1,
                                  .n_out_max = 1,
                                  .parse = lrn_parse,
                                  .infer = lrn_infer,
                                  .forward = lrn_forward,
                                  .backward = lrn_backward};
