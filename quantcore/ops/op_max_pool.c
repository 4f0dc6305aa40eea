/* MaxPool over 1 to 3 spatial dimensions. Output 1, where wanted, holds for each window the flat
 * index of its first maximum in x. Pools 8-bit integers, too. */
#include <math.h>
#include <string.h>

#include "quantcore/base/simd.h"
#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/pool.h"
#include "quantcore/ops/kernel/quantized.h"
#include "quantcore/ops/kernel/scratch.h"
#include "quantcore/ops/op_util.h"

struct job {
    struct mpq_pool pool;
    const mpq_real *x, *y, *dy;
    mpq_real *out;
    int64_t *index;
    bool column_major;
    bool fresh; /* dx is written */
    char *workspace;
};

static enum mpq_status max_pool_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                      const struct mpq_tensor *const *x,
                                      struct mpq_tensor *const *y)
{
    bool wants_index = node->n_out > 1 && y[1];
    if (wants_index || (x[0]->dtype != MPQ_INT8 && x[0]->dtype != MPQ_UINT8))
        MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    MPQ_TRY(mpq_pool_infer(ctx, node, x, y));
    if (wants_index)
        return mpq_infer_set(ctx, node, y[1], MPQ_INT64, &y[0]->shape);
    return MPQ_OK;
}

MPQ_MULTIVERSION
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

static void forward_planes(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct mpq_pool *pool = &job->pool;
    char *row = job->workspace + (size_t)thread * mpq_pool_separable_bytes(pool);
    for (int64_t p = begin; p < end; p++)
        mpq_pool_separable(pool, job->x + p * pool->in_count, job->out + p * pool->out_count,
                           -INFINITY, (mpq_real *)(void *)row, max_row);
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

/* Stores where the maximum of each window is. */
static void find_maxima(void *arg, int64_t begin, int64_t end, int thread)
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
                    job->index[i] =
                        plane + (job->column_major ? column_major_offset(pool, at) : at);
                }
    }
}

/* ---- backward ---- */

/* A plane with its columns dealt out by their place in a stride, so that a tap of neighbouring
 * windows reads neighbours: column c of a row, padding counted, is element c / stride of phase
 * c % stride. Padding is NaN, which equals no maximum. */
struct dealt {
    int64_t stride, width; /* phases; elements of a row of a phase, to which rows are rounded up */
    int64_t n_row;
    mpq_real *x, *dx;   /* [n_row][stride][width] */
    mpq_real *y, *left; /* [width] a row of maxima, and of the gradients not yet handed out */
};

#define ROW_ROUND 16

static size_t dealt_setup(const struct mpq_pool *pool, void *base, struct dealt *out)
{
    const struct mpq_pool_dim *w = &pool->dim[2];
    size_t used = 0;
    int64_t reach = (w->kernel - 1) * w->dilation / w->stride;
    int64_t width = (w->out + ROW_ROUND - 1) / ROW_ROUND * ROW_ROUND + reach;
    int64_t needed = (w->pad + w->in + w->stride - 1) / w->stride;
    out->stride = w->stride;
    out->width = width > needed ? width : needed;
    out->n_row = pool->dim[0].in * pool->dim[1].in;
    int64_t n = out->n_row * out->stride * out->width;
    out->x = mpq_scratch_take(base, &used, n, sizeof(mpq_real));
    out->dx = mpq_scratch_take(base, &used, n, sizeof(mpq_real));
    out->y = mpq_scratch_take(base, &used, out->width, sizeof(mpq_real));
    out->left = mpq_scratch_take(base, &used, out->width, sizeof(mpq_real));
    return used;
}

MPQ_INLINE void deal_phase(mpq_real *restrict to, const mpq_real *restrict x, int64_t n,
                           int64_t stride)
{
    for (int64_t i = 0; i < n; i++)
        to[i] = x[i * stride];
}

MPQ_INLINE void collect_phase(mpq_real *restrict dx, const mpq_real *restrict from, int64_t n,
                              int64_t stride, bool fresh)
{
    if (fresh)
        for (int64_t i = 0; i < n; i++)
            dx[i * stride] = from[i];
    else
        for (int64_t i = 0; i < n; i++)
            dx[i * stride] += from[i];
}

/* Columns of a phase that are not padding: n of them, from column `first` of the input and element
 * `at` of the phase on. */
static int64_t phase_columns(const struct mpq_pool_dim *w, int64_t phase, int64_t *out_first,
                             int64_t *out_at)
{
    int64_t at = phase < w->pad ? (w->pad - phase + w->stride - 1) / w->stride : 0;
    int64_t first = at * w->stride + phase - w->pad;
    *out_first = first;
    *out_at = at;
    return first < w->in ? (w->in - 1 - first) / w->stride + 1 : 0;
}

MPQ_MULTIVERSION
static void deal(const struct dealt *d, const struct mpq_pool *pool, const mpq_real *x)
{
    const struct mpq_pool_dim *w = &pool->dim[2];
    for (int64_t i = 0; i < d->n_row * d->stride * d->width; i++) {
        d->x[i] = NAN;
        d->dx[i] = 0;
    }
    for (int64_t phase = 0; phase < d->stride; phase++) {
        int64_t first, at, n = phase_columns(w, phase, &first, &at);
        for (int64_t r = 0; r < d->n_row; r++) {
            mpq_real *to = d->x + (r * d->stride + phase) * d->width + at;
            if (w->stride == 1)
                deal_phase(to, x + r * w->in + first, n, 1);
            else if (w->stride == 2)
                deal_phase(to, x + r * w->in + first, n, 2);
            else
                deal_phase(to, x + r * w->in + first, n, w->stride);
        }
    }
}

MPQ_MULTIVERSION
static void collect(const struct dealt *d, const struct mpq_pool *pool, bool fresh, mpq_real *dx)
{
    const struct mpq_pool_dim *w = &pool->dim[2];
    for (int64_t r = 0; r < d->n_row; r++)
        for (int64_t phase = 0; phase < d->stride; phase++) {
            int64_t first, at, n = phase_columns(w, phase, &first, &at);
            const mpq_real *from = d->dx + (r * d->stride + phase) * d->width + at;
            if (w->stride == 1)
                collect_phase(dx + r * w->in + first, from, n, 1, fresh);
            else if (w->stride == 2)
                collect_phase(dx + r * w->in + first, from, n, 2, fresh);
            else
                collect_phase(dx + r * w->in + first, from, n, w->stride, fresh);
        }
}

/* Taps in their order, so that the first of equal elements gets the gradient. */
MPQ_INLINE void take_tap(const mpq_real *restrict x, const mpq_real *restrict y,
                         mpq_real *restrict left, mpq_real *restrict dx, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        mpq_real taken = x[i] == y[i] ? left[i] : 0;
        dx[i] += taken;
        left[i] = x[i] == y[i] ? 0 : left[i];
    }
}

MPQ_MULTIVERSION
static void hand_out_row(const struct dealt *d, const struct mpq_pool *pool, int64_t od, int64_t oh)
{
    const struct mpq_pool_dim *dim = &pool->dim[0], *h = &pool->dim[1], *w = &pool->dim[2];
    int64_t n = (w->out + ROW_ROUND - 1) / ROW_ROUND * ROW_ROUND;
    for (int64_t kd = 0; kd < dim->kernel; kd++) {
        int64_t depth = od * dim->stride + kd * dim->dilation - dim->pad;
        for (int64_t kh = 0; kh < h->kernel && depth >= 0 && depth < dim->in; kh++) {
            int64_t row = oh * h->stride + kh * h->dilation - h->pad;
            if (row < 0 || row >= h->in)
                continue;
            for (int64_t kw = 0; kw < w->kernel; kw++) {
                int64_t shift = kw * w->dilation;
                int64_t from = ((depth * h->in + row) * d->stride + shift % w->stride) * d->width +
                               shift / w->stride;
                take_tap(d->x + from, d->y, d->left, d->dx + from, n);
            }
        }
    }
}

static void back_planes(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct mpq_pool *pool = &job->pool;
    struct dealt d;
    size_t bytes = dealt_setup(pool, NULL, &d);
    (void)dealt_setup(pool, job->workspace + (size_t)thread * bytes, &d);
    memset(d.y, 0, (size_t)d.width * sizeof *d.y);
    memset(d.left, 0, (size_t)d.width * sizeof *d.left);
    int64_t columns = pool->dim[2].out;
    for (int64_t p = begin; p < end; p++) {
        const mpq_real *y = job->y + p * pool->out_count, *dy = job->dy + p * pool->out_count;
        deal(&d, pool, job->x + p * pool->in_count);
        for (int64_t od = 0; od < pool->dim[0].out; od++)
            for (int64_t oh = 0; oh < pool->dim[1].out; oh++, y += columns, dy += columns) {
                memcpy(d.y, y, (size_t)columns * sizeof *y);
                memcpy(d.left, dy, (size_t)columns * sizeof *dy);
                hand_out_row(&d, pool, od, oh);
            }
        collect(&d, pool, job->fresh, job->out + p * pool->in_count);
    }
}

static int64_t plane_grain(const struct mpq_pool *pool)
{
    return 1 + MPQ_GRAIN / (pool->in_count + 1);
}

/* ---- 8 bits ---- */

struct byte_job {
    struct mpq_pool pool;
    bool is_signed;
    const uint8_t *x;
    uint8_t *y;
    mpq_real *room; /* [threads][in_count + out_count + a row] */
};

static int64_t room_of_thread(const struct mpq_pool *pool)
{
    return (pool->in_count + pool->out_count + pool->dim[2].in + 15) / 16 * 16;
}

static void byte_planes(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct byte_job *job = arg;
    const struct mpq_pool *pool = &job->pool;
    const mpq_real low = job->is_signed ? -128 : 0; /* of a window all in the padding */
    mpq_real *x = job->room + thread * room_of_thread(pool), *y = x + pool->in_count;
    for (int64_t p = begin; p < end; p++) {
        uint8_t *out = job->y + p * pool->out_count;
        mpq_shift_to_real(job->x + p * pool->in_count, job->is_signed, 0, x, pool->in_count);
        mpq_pool_separable(pool, x, y, -INFINITY, y + pool->out_count, max_row);
        for (int64_t i = 0; i < pool->out_count; i++)
            out[i] = (uint8_t)(int32_t)(y[i] > low ? y[i] : low);
    }
}

static void pool_bytes(const struct mpq_kernel_args *args)
{
    struct byte_job job = {.is_signed = args->x[0]->dtype == MPQ_INT8,
                           .x = args->x[0]->data,
                           .y = args->y[0]->data,
                           .room = args->workspace};
    mpq_pool_make(args->node, &args->x[0]->shape, &args->y[0]->shape, &job.pool);
    mpq_parallel_for(job.pool.n_plane, plane_grain(&job.pool), byte_planes, &job);
}

static void max_pool_forward(const struct mpq_kernel_args *args)
{
    const struct mpq_pool_attrs *attrs = args->node->attrs;
    if (args->x[0]->dtype != MPQ_FLOAT) {
        pool_bytes(args);
        return;
    }
    struct job job = {.x = args->x[0]->data, .out = args->y[0]->data, .workspace = args->workspace};
    mpq_pool_make(args->node, &args->x[0]->shape, &args->y[0]->shape, &job.pool);
    mpq_parallel_for(job.pool.n_plane, plane_grain(&job.pool), forward_planes, &job);
    if (args->node->n_out > 1 && args->y[1]) {
        job.y = job.out;
        job.index = args->y[1]->data;
        job.column_major = attrs->column_major;
        mpq_parallel_for(job.pool.n_plane, plane_grain(&job.pool), find_maxima, &job);
    }
}

static void max_pool_backward(const struct mpq_kernel_args *args)
{
    struct job job = {.x = args->x[0]->data,
                      .y = args->y[0]->data,
                      .dy = args->dy[0],
                      .out = args->dx[0],
                      .fresh = mpq_is_fresh(args, 0),
                      .workspace = args->workspace};
    if (!job.dy || !job.out)
        return;
    mpq_pool_make(args->node, &args->x[0]->shape, &args->y[0]->shape, &job.pool);
    mpq_parallel_for(job.pool.n_plane, plane_grain(&job.pool), back_planes, &job);
}

static size_t max_pool_workspace(const struct mpq_node *node, const struct mpq_tensor *const *x,
                                 struct mpq_tensor *const *y, bool training)
{
    struct mpq_pool pool;
    struct dealt d;
    mpq_pool_make(node, &x[0]->shape, &y[0]->shape, &pool);
    if (x[0]->dtype != MPQ_FLOAT)
        return (size_t)(room_of_thread(&pool) * mpq_thread_count()) * sizeof(mpq_real);
    size_t forward = mpq_pool_separable_bytes(&pool);
    size_t backward = training ? dealt_setup(&pool, NULL, &d) : 0;
    return (forward > backward ? forward : backward) * (size_t)mpq_thread_count();
}

const struct mpq_op mpq_op_max_pool = {.name = "MaxPool",
                                       .domain = "",
                                       .n_in_min = 1,
                                       .n_in_max = 1,
                                       .n_out_min = 1,
                                       .n_out_max = 2,
                                       .parse = mpq_pool_parse,
                                       .infer = max_pool_infer,
                                       .sets_dx = true,
                                       .workspace = max_pool_workspace,
                                       .forward = max_pool_forward,
                                       .backward = max_pool_backward};
