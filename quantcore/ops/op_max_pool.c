/* MaxPool over 1 to 3 spatial dimensions. Output 1, where wanted, holds for each window the flat
 * index of its first maximum in x. Pools 8-bit integers, too. */
#include <math.h>
#include <string.h>

#include "quantcore/base/integer.h"
#include "quantcore/base/simd.h"
#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/pool.h"
#include "quantcore/ops/kernel/quantized.h"
#include "quantcore/ops/kernel/scratch.h"
#include "quantcore/ops/kernel/tile.h"
#include "quantcore/ops/kernel/window_max.h"
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

static size_t row_bytes(const struct mpq_pool *pool)
{
    return mpq_window_max_takes(pool) ? mpq_window_max_bytes(pool, sizeof(mpq_real))
                                      : mpq_pool_separable_bytes(pool);
}

static void forward_planes(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct mpq_pool *pool = &job->pool;
    void *row = job->workspace + (size_t)thread * row_bytes(pool);
    bool takes = mpq_window_max_takes(pool);
    for (int64_t p = begin; p < end; p++) {
        const mpq_real *x = job->x + p * pool->in_count;
        mpq_real *y = job->out + p * pool->out_count;
        if (takes)
            mpq_window_max_real(pool, x, y, row);
        else
            mpq_pool_separable(pool, x, y, -INFINITY, row, max_row);
    }
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

/* A plane with its padding, NaN, which equals no maximum, and with its columns dealt out by their
 * place in a stride, so that a tap of neighbouring windows reads neighbours: column c of a row is
 * element c / stride of phase c % stride. */
struct dealt {
    int64_t rows[2];       /* depth and height, padding counted */
    int64_t stride, width; /* phases of a row; their elements, a multiple of ROW_ROUND */
    int64_t n_tap;
    int64_t reach;            /* elements from a window's first to its last */
    mpq_real *x, *dx;         /* [rows][stride][width], x with ROW_ROUND more */
    mpq_real *y, *dy, *at;    /* a row of maxima, their gradients, and the tap each is at;
                                 `reach` elements before the last two and ROW_ROUND behind */
    int64_t *offset;          /* [n_tap] of what it reads, from the first window's on */
    int64_t *shift;           /* [n_tap] of its phase, by phases */
    mpq_real *tap;            /* [n_tap] likewise its number among all */
    int64_t *n_of, *phase_of; /* [n_line] taps of a phase of a row; where that is in dx */
    int64_t n_line;
};

#define ROW_ROUND 16

static size_t dealt_setup(const struct mpq_pool *pool, void *base, struct dealt *out)
{
    const struct mpq_pool_dim *d = pool->dim;
    size_t used = 0;
    for (int i = 0; i < 2; i++)
        out->rows[i] = mpq_pool_padded(&d[i]);
    out->stride = d[2].stride;
    out->width =
        mpq_ceil_div(mpq_ceil_div(mpq_pool_padded(&d[2]), d[2].stride), ROW_ROUND) * ROW_ROUND;
    out->reach = (d[2].kernel - 1) * d[2].dilation / d[2].stride;
    out->n_tap = d[0].kernel * d[1].kernel * d[2].kernel;
    out->n_line = d[0].kernel * d[1].kernel * mpq_min(d[2].stride, d[2].kernel * d[2].dilation);
    int64_t n = out->rows[0] * out->rows[1] * out->stride * out->width;
    int64_t row = out->reach + out->width + ROW_ROUND;
    out->x = mpq_scratch_take(base, &used, n + ROW_ROUND + out->reach, sizeof(mpq_real));
    out->dx = mpq_scratch_take(base, &used, n, sizeof(mpq_real));
    out->y = mpq_scratch_take(base, &used, row, sizeof(mpq_real));
    out->dy = mpq_scratch_take(base, &used, row, sizeof(mpq_real));
    out->at = mpq_scratch_take(base, &used, row, sizeof(mpq_real));
    out->tap = mpq_scratch_take(base, &used, out->n_tap, sizeof(mpq_real));
    out->offset = mpq_scratch_take(base, &used, out->n_tap, sizeof *out->offset);
    out->shift = mpq_scratch_take(base, &used, out->n_tap, sizeof *out->shift);
    out->n_of = mpq_scratch_take(base, &used, out->n_line, sizeof *out->n_of);
    out->phase_of = mpq_scratch_take(base, &used, out->n_line, sizeof *out->phase_of);
    return used;
}

/* The tables, and what no plane changes. */
static void dealt_init(const struct mpq_pool *pool, struct dealt *d)
{
    const struct mpq_pool_dim *dim = pool->dim;
    int64_t n_shift = 0, n_line = 0, row = d->stride * d->width;
    for (int64_t i = 0; i < d->rows[0] * d->rows[1] * row + ROW_ROUND + d->reach; i++)
        d->x[i] = NAN;
    for (int64_t i = 0; i < d->reach + d->width + ROW_ROUND; i++) {
        d->y[i] = d->dy[i] = 0;
        d->at[i] = -1;
    }
    for (int64_t line = 0; line < dim[0].kernel * dim[1].kernel; line++) {
        int64_t kd = line / dim[1].kernel, kh = line % dim[1].kernel;
        int64_t first = (kd * dim[0].dilation * d->rows[1] + kh * dim[1].dilation) * row;
        for (int64_t kw = 0; kw < dim[2].kernel; kw++) {
            int64_t shift = kw * dim[2].dilation;
            d->offset[line * dim[2].kernel + kw] =
                first + shift % d->stride * d->width + shift / d->stride;
        }
        for (int64_t phase = 0; phase < d->stride; phase++) {
            int64_t n = 0;
            for (int64_t kw = 0; kw < dim[2].kernel; kw++)
                if (kw * dim[2].dilation % d->stride == phase) {
                    d->shift[n_shift + n] = kw * dim[2].dilation / d->stride;
                    d->tap[n_shift + n++] = (mpq_real)(line * dim[2].kernel + kw);
                }
            if (n == 0)
                continue;
            d->n_of[n_line] = n;
            d->phase_of[n_line++] = first + phase * d->width;
            n_shift += n;
        }
    }
    d->n_line = n_line;
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

/* The dealt row of row r of the plane. */
static int64_t dealt_row(const struct dealt *d, const struct mpq_pool *pool, int64_t r)
{
    int64_t height = pool->dim[1].in;
    return ((r / height + pool->dim[0].pad) * d->rows[1] + r % height + pool->dim[1].pad) *
           d->stride * d->width;
}

MPQ_INLINE void deal_phase(mpq_real *restrict to, const mpq_real *restrict x, int64_t n,
                           int64_t stride)
{
    for (int64_t i = 0; i < n; i++)
        to[i] = x[i * stride];
}

/* n columns to both phases of a stride of 2. */
MPQ_INLINE void deal_pairs(mpq_real *restrict even, mpq_real *restrict odd,
                           const mpq_real *restrict x, int64_t n)
{
    for (int64_t i = 0; i < n / 2; i++) {
        even[i] = x[2 * i];
        odd[i] = x[2 * i + 1];
    }
    if (n % 2)
        even[n / 2] = x[n - 1];
}

/* Stride 2 without padding in front: both phases in one pass. */
static bool is_in_pairs(const struct mpq_pool *pool)
{
    return pool->dim[2].stride == 2 && pool->dim[2].pad == 0;
}

MPQ_MULTIVERSION
static void deal(const struct dealt *d, const struct mpq_pool *pool, const mpq_real *x)
{
    const struct mpq_pool_dim *w = &pool->dim[2];
    bool in_pairs = is_in_pairs(pool);
    for (int64_t phase = 0; phase < (in_pairs ? 1 : d->stride); phase++) {
        int64_t first, at, n = phase_columns(w, phase, &first, &at);
        for (int64_t r = 0; r < pool->dim[0].in * pool->dim[1].in; r++) {
            mpq_real *to = d->x + dealt_row(d, pool, r) + phase * d->width + at;
            if (in_pairs)
                deal_pairs(to, to + d->width, x + r * w->in, w->in);
            else if (w->stride == 1)
                deal_phase(to, x + r * w->in + first, n, 1);
            else
                deal_phase(to, x + r * w->in + first, n, w->stride);
        }
    }
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

/* n columns of both phases of a stride of 2. */
MPQ_INLINE void collect_pairs(mpq_real *restrict dx, const mpq_real *restrict even,
                              const mpq_real *restrict odd, int64_t n, bool fresh)
{
    int64_t pairs = n / 2;
    if (fresh)
        for (int64_t i = 0; i < pairs; i++) {
            dx[2 * i] = even[i];
            dx[2 * i + 1] = odd[i];
        }
    else
        for (int64_t i = 0; i < pairs; i++) {
            dx[2 * i] += even[i];
            dx[2 * i + 1] += odd[i];
        }
    if (n % 2)
        dx[n - 1] = even[pairs] + (fresh ? 0 : dx[n - 1]);
}

MPQ_MULTIVERSION
static void collect(const struct dealt *d, const struct mpq_pool *pool, bool fresh, mpq_real *dx)
{
    const struct mpq_pool_dim *w = &pool->dim[2];
    bool in_pairs = is_in_pairs(pool);
    for (int64_t phase = 0; phase < (in_pairs ? 1 : d->stride); phase++) {
        int64_t first, at, n = phase_columns(w, phase, &first, &at);
        for (int64_t r = 0; r < pool->dim[0].in * pool->dim[1].in; r++) {
            const mpq_real *from = d->dx + dealt_row(d, pool, r) + phase * d->width + at;
            mpq_real *to = dx + r * w->in;
            if (in_pairs)
                collect_pairs(to, from, from + d->width, w->in, fresh);
            else if (w->stride == 1)
                collect_phase(to + first, from, n, 1, fresh);
            else
                collect_phase(to + first, from, n, w->stride, fresh);
        }
    }
}

/* dx takes what windows have for it: reading shifted and writing in place, not the other way, as
 * what was just written can be read quickly only where it was. */
static void hand_out_row(const struct dealt *d, const struct mpq_pool *pool, int64_t od, int64_t oh)
{
    const struct mpq_tile_set *set = mpq_tile_best();
    const struct mpq_pool_dim *w = &pool->dim[2];
    int64_t row = (od * pool->dim[0].stride * d->rows[1] + oh * pool->dim[1].stride) * d->stride;
    mpq_real *dx = d->dx + row * d->width, *dy = d->dy + d->reach, *at = d->at + d->reach;
    const int64_t *shift = d->shift;
    const mpq_real *tap = d->tap;
    set->match(w->out, d->n_tap, d->x + row * d->width, d->offset, d->y, at);
    for (int64_t i = 0; i < d->n_line; shift += d->n_of[i], tap += d->n_of[i], i++)
        set->hand_out(w->out + d->reach, d->n_of[i], shift, tap, at, dy, dx + d->phase_of[i]);
}

/* Asks for share i of n of a plane, so that memory is busy while gradients are handed out. */
static void fetch_share(const mpq_real *plane, int64_t count, int64_t i, int64_t n, bool to_write)
{
    const int64_t line = 64 / (int64_t)sizeof *plane;
    for (int64_t k = count * i / n; k < count * (i + 1) / n; k += line)
        if (to_write)
            __builtin_prefetch(plane + k, 1, 2);
        else
            __builtin_prefetch(plane + k, 0, 2);
}

static void back_planes(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct mpq_pool *pool = &job->pool;
    struct dealt d;
    size_t bytes = dealt_setup(pool, NULL, &d);
    (void)dealt_setup(pool, job->workspace + (size_t)thread * bytes, &d);
    dealt_init(pool, &d);
    int64_t columns = pool->dim[2].out, rows = pool->dim[0].out * pool->dim[1].out;
    int64_t elements = d.rows[0] * d.rows[1] * d.stride * d.width, in = pool->in_count;
    for (int64_t p = begin; p < end; p++) {
        const mpq_real *y = job->y + p * pool->out_count, *dy = job->dy + p * pool->out_count;
        deal(&d, pool, job->x + p * in);
        memset(d.dx, 0, (size_t)elements * sizeof *d.dx);
        for (int64_t row = 0; row < rows; row++, y += columns, dy += columns) {
            fetch_share(job->out + p * in, in, row, rows, true);
            fetch_share(job->x + mpq_min(p + 1, end - 1) * in, in, row, rows, false);
            memcpy(d.y, y, (size_t)columns * sizeof *y);
            memcpy(d.dy + d.reach, dy, (size_t)columns * sizeof *dy);
            hand_out_row(&d, pool, row / pool->dim[1].out, row % pool->dim[1].out);
        }
        collect(&d, pool, job->fresh, job->out + p * in);
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
    mpq_real *room; /* [threads][in_count + out_count + a row], or a row of bytes */
};

static int64_t room_of_thread(const struct mpq_pool *pool)
{
    if (mpq_window_max_takes(pool))
        return (int64_t)(mpq_window_max_bytes(pool, 1) / sizeof(mpq_real));
    return (pool->in_count + pool->out_count + pool->dim[2].in + 15) / 16 * 16;
}

static void byte_windows(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct byte_job *job = arg;
    const struct mpq_pool *pool = &job->pool;
    mpq_real *row = job->room + thread * room_of_thread(pool);
    for (int64_t p = begin; p < end; p++) {
        const uint8_t *x = job->x + p * pool->in_count;
        uint8_t *y = job->y + p * pool->out_count;
        if (job->is_signed)
            mpq_window_max_i8(pool, (const int8_t *)x, (int8_t *)y, row);
        else
            mpq_window_max_u8(pool, x, y, row);
    }
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
    mpq_parallel_for(job.pool.n_plane, plane_grain(&job.pool),
                     mpq_window_max_takes(&job.pool) ? byte_windows : byte_planes, &job);
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
    size_t forward = row_bytes(&pool);
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
