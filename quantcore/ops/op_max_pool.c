/* MaxPool over 1 to 3 spatial dimensions. Output 1, where wanted, holds for each window the flat
 * index of its first maximum in x. */
#include <math.h>

#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/pool.h"
#include "quantcore/ops/op_util.h"

struct job {
    struct mpq_pool pool;
    const mpq_real *x, *y, *dy;
    mpq_real *out;
    int64_t *index;
    bool column_major;
};

static enum mpq_status max_pool_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                      const struct mpq_tensor *const *x,
                                      struct mpq_tensor *const *y)
{
    MPQ_TRY(mpq_pool_infer(ctx, node, x, y));
    if (node->n_out > 1 && y[1])
        return mpq_infer_set(ctx, node, y[1], MPQ_INT64, &y[0]->shape);
    return MPQ_OK;
}

static void max_row(mpq_real *restrict y, const mpq_real *restrict x, int64_t n, int64_t stride)
{
    if (stride == 1)
        for (int64_t i = 0; i < n; i++)
            y[i] = x[i] > y[i] ? x[i] : y[i];
    else if (stride == 2)
        for (int64_t i = 0; i < n; i++)
            y[i] = x[2 * i] > y[i] ? x[2 * i] : y[i];
    else
        for (int64_t i = 0; i < n; i++)
            y[i] = x[i * stride] > y[i] ? x[i * stride] : y[i];
}

static void max_plane(const struct mpq_pool *pool, const mpq_real *x, mpq_real *y)
{
    for (int64_t i = 0; i < pool->out_count; i++)
        y[i] = -INFINITY;
    mpq_pool_sweep(pool, x, y, max_row);
}

static void forward_planes(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    (void)thread;
    for (int64_t p = begin; p < end; p++)
        max_plane(&job->pool, job->x + p * job->pool.in_count, job->out + p * job->pool.out_count);
}

/* Offset in the plane of the first element of window o that equals `value`; -1 for a window that
 * holds none (NaN). */
static int64_t find_in_window(const struct mpq_pool *pool, const mpq_real *x, const int64_t o[3],
                              mpq_real value)
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
            int64_t base = (depth * h->in + row) * w->in;
            for (int64_t kw = 0; kw < w->kernel; kw++) {
                int64_t column = o[2] * w->stride + kw * w->dilation - w->pad;
                if (column >= 0 && column < w->in && x[base + column] == value)
                    return base + column;
            }
        }
    }
    return -1;
}

static int64_t column_major_offset(const struct mpq_pool *pool, int64_t offset)
{
    int64_t w = offset % pool->dim[2].in, h = offset / pool->dim[2].in % pool->dim[1].in;
    int64_t d = offset / pool->dim[2].in / pool->dim[1].in;
    return d + pool->dim[0].in * (h + pool->dim[1].in * w);
}

/* Adds dy to the gradient of each window's maximum, or stores where the maximum is. */
static void visit_maxima(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct mpq_pool *pool = &job->pool;
    (void)thread;
    for (int64_t p = begin; p < end; p++) {
        int64_t o[3], i = p * pool->out_count, plane = p * pool->in_count;
        for (o[0] = 0; o[0] < pool->dim[0].out; o[0]++)
            for (o[1] = 0; o[1] < pool->dim[1].out; o[1]++)
                for (o[2] = 0; o[2] < pool->dim[2].out; o[2]++, i++) {
                    int64_t at = find_in_window(pool, job->x + plane, o, job->y[i]);
                    if (at >= 0 && job->out)
                        job->out[plane + at] += job->dy[i];
                    if (job->index)
                        job->index[i] =
                            plane + (job->column_major ? column_major_offset(pool, at) : at);
                }
    }
}

static int64_t plane_grain(const struct mpq_pool *pool)
{
    return 1 + MPQ_GRAIN / (pool->in_count + 1);
}

static void max_pool_forward(const struct mpq_kernel_args *args)
{
    const struct mpq_pool_attrs *attrs = args->node->attrs;
    struct job job = {.x = args->x[0]->data, .out = args->y[0]->data};
    mpq_pool_make(args->node, &args->x[0]->shape, &args->y[0]->shape, &job.pool);
    mpq_parallel_for(job.pool.n_plane, plane_grain(&job.pool), forward_planes, &job);
    if (args->node->n_out > 1 && args->y[1]) {
        job.y = job.out;
        job.out = NULL;
        job.index = args->y[1]->data;
        job.column_major = attrs->column_major;
        mpq_parallel_for(job.pool.n_plane, plane_grain(&job.pool), visit_maxima, &job);
    }
}

static void max_pool_backward(const struct mpq_kernel_args *args)
{
    struct job job = {
        .x = args->x[0]->data, .y = args->y[0]->data, .dy = args->dy[0], .out = args->dx[0]};
    if (!job.dy || !job.out)
        return;
    mpq_pool_make(args->node, &args->x[0]->shape, &args->y[0]->shape, &job.pool);
    mpq_parallel_for(job.pool.n_plane, plane_grain(&job.pool), visit_maxima, &job);
}

const struct mpq_op mpq_op_max_pool = {.name = "MaxPool",
                                       .domain = "",
                                       .n_in_min = 1,
                                       .n_in_max = 1,
                                       .n_out_min = 1,
                                       .n_out_max = 2,
                                       .parse = mpq_pool_parse,
                                       .infer = max_pool_infer,
                                       .forward = max_pool_forward,
                                       .backward = max_pool_backward};
