/* AveragePool over 1 to 3 spatial dimensions. A window's sum is divided by the number of its
 * elements inside the input, or inside the padded input where count_include_pad. */
#include <string.h>

#include "quantcore/base/simd.h"
#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/pool.h"
#include "quantcore/ops/op_util.h"

static enum mpq_status average_pool_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                          const struct mpq_tensor *const *x,
                                          struct mpq_tensor *const *y)
{
    MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    return mpq_pool_infer(ctx, node, x, y);
}

struct job {
    struct mpq_pool pool;
    bool include_pad;
    const mpq_real *in; /* x, or dy  */
    mpq_real *out;      /* y, or dx  */
    bool fresh;         /* dx is written */
    char *workspace;
};

/* Taps of window o that count along one dimension. */
static int64_t count_taps(const struct mpq_pool_dim *d, int64_t o, bool include_pad)
{
    int64_t low = include_pad ? -d->pad : 0, high = d->in + (include_pad ? d->pad_end : 0);
    int64_t count = 0;
    for (int64_t tap = 0; tap < d->kernel; tap++) {
        int64_t at = o * d->stride + tap * d->dilation - d->pad;
        count += at >= low && at < high;
    }
    return count;
}

MPQ_MULTIVERSION
static void sum_row(mpq_real *restrict y, const mpq_real *restrict x, int64_t n, int64_t stride)
{
    if (stride == 1)
        for (int64_t i = 0; i < n; i++)
            y[i] += x[i];
    else
        for (int64_t i = 0; i < n; i++)
            y[i] += x[i * stride];
}

static void forward_planes(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct mpq_pool *pool = &job->pool;
    char *row = job->workspace + (size_t)thread * mpq_pool_separable_bytes(pool);
    for (int64_t p = begin; p < end; p++) {
        mpq_real *y = job->out + p * pool->out_count;
        mpq_pool_separable(pool, job->in + p * pool->in_count, y, 0, (mpq_real *)(void *)row,
                           sum_row);
        for (int64_t od = 0; od < pool->dim[0].out; od++)
            for (int64_t oh = 0; oh < pool->dim[1].out; oh++) {
                int64_t count = count_taps(&pool->dim[0], od, job->include_pad) *
                                count_taps(&pool->dim[1], oh, job->include_pad);
                for (int64_t ow = 0; ow < pool->dim[2].out; ow++)
                    *y++ /= (mpq_real)(count * count_taps(&pool->dim[2], ow, job->include_pad));
            }
    }
}

/* Adds `share` to the input elements of window o. */
static void add_to_window(const struct mpq_pool *pool, mpq_real *dx, const int64_t o[3],
                          mpq_real share)
{
    const struct mpq_pool_dim *d = &pool->dim[0], *h = &pool->dim[1], *w = &pool->dim[2];
    for (int64_t kd = 0; kd < d->kernel; kd++) {
        int64_t depth = o[0] * d->stride + kd * d->dilation - d->pad;
        if (depth < 0 || depth >= d->in)
            continue;
        for (int64_t kh = 0; kh < h->kernel; kh++) {
            int64_t row = o[1] * h->stride + kh * h->dilation - h->pad;
            if (row < 0 || row >= h->in)
                continue;
            mpq_real *line = dx + (depth * h->in + row) * w->in;
            for (int64_t kw = 0; kw < w->kernel; kw++) {
                int64_t column = o[2] * w->stride + kw * w->dilation - w->pad;
                if (column >= 0 && column < w->in)
                    line[column] += share;
            }
        }
    }
}

static void backward_planes(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct mpq_pool *pool = &job->pool;
    (void)thread;
    for (int64_t p = begin; p < end; p++) {
        const mpq_real *dy = job->in + p * pool->out_count;
        int64_t o[3];
        if (job->fresh)
            memset(job->out + p * pool->in_count, 0, (size_t)pool->in_count * sizeof *dy);
        for (o[0] = 0; o[0] < pool->dim[0].out; o[0]++)
            for (o[1] = 0; o[1] < pool->dim[1].out; o[1]++) {
                int64_t count = count_taps(&pool->dim[0], o[0], job->include_pad) *
                                count_taps(&pool->dim[1], o[1], job->include_pad);
                for (o[2] = 0; o[2] < pool->dim[2].out; o[2]++) {
                    int64_t n = count * count_taps(&pool->dim[2], o[2], job->include_pad);
                    add_to_window(pool, job->out + p * pool->in_count, o, *dy++ / (mpq_real)n);
                }
            }
    }
}

static void run(const struct mpq_kernel_args *args, const mpq_real *in, mpq_real *out,
                void (*planes)(void *, int64_t, int64_t, int))
{
    const struct mpq_pool_attrs *attrs = args->node->attrs;
    struct job job = {.include_pad = attrs->count_include_pad,
                      .in = in,
                      .out = out,
                      .fresh = mpq_is_fresh(args, 0),
                      .workspace = args->workspace};
    mpq_pool_make(args->node, &args->x[0]->shape, &args->y[0]->shape, &job.pool);
    mpq_parallel_for(job.pool.n_plane, 1 + MPQ_GRAIN / (job.pool.in_count + 1), planes, &job);
}

static size_t average_pool_workspace(const struct mpq_node *node, const struct mpq_tensor *const *x,
                                     struct mpq_tensor *const *y, bool training)
{
    struct mpq_pool pool;
    (void)training;
    mpq_pool_make(node, &x[0]->shape, &y[0]->shape, &pool);
    return mpq_pool_separable_bytes(&pool) * (size_t)mpq_thread_count();
}

static void average_pool_forward(const struct mpq_kernel_args *args)
{
    run(args, args->x[0]->data, args->y[0]->data, forward_planes);
}

static void average_pool_backward(const struct mpq_kernel_args *args)
{
    if (args->dy[0] && args->dx[0])
        run(args, args->dy[0], args->dx[0], backward_planes);
}

const struct mpq_op mpq_op_average_pool = {.name = "AveragePool",
                                           .domain = "",
                                           .n_in_min = 1,
                                           .n_in_max = 1,
                                           .n_out_min = 1,
                                           .n_out_max = 1,
                                           .parse = mpq_pool_parse,
                                           .infer = average_pool_infer,
                                           .backward_ignores = MPQ_IGNORES_X | MPQ_IGNORES_Y,
                                           .sets_dx = true,
                                           .workspace = average_pool_workspace,
                                           .forward = average_pool_forward,
                                           .backward = average_pool_backward};
