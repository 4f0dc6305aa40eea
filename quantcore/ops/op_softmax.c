/* Softmax and LogSoftmax along one axis: x [outer, n, inner]. */
#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/real_math.h"
#include "quantcore/ops/op_util.h"

static enum mpq_status softmax_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                     struct mpq_node *node)
{
    return mpq_parse_int(ctx, arena, node, "axis", -1);
}

static enum mpq_status softmax_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                     const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    int axis = 0;
    MPQ_TRY(mpq_check_axis(ctx, node, mpq_parsed_int(node), x[0]->shape.rank, &axis));
    return mpq_infer_same_float(ctx, node, x, y);
}

struct job {
    int64_t n, inner;
    const mpq_real *in, *dy; /* x; backward: y */
    mpq_real *out;           /* y; backward: dx */
};

static void run(const struct mpq_kernel_args *args, struct job *job,
                void (*lines)(void *, int64_t, int64_t, int))
{
    const struct mpq_shape *shape = &args->x[0]->shape;
    int axis = mpq_parsed_axis(args->node, shape->rank);
    job->n = shape->dim[axis];
    job->inner = mpq_shape_count_range(shape, axis + 1, shape->rank);
    if (job->n == 0)
        return;
    mpq_parallel_for(mpq_shape_count_range(shape, 0, axis) * job->inner,
                     1 + MPQ_GRAIN / 4 / (job->n + 1), lines, job);
}

/* Offset of the first element of line i; its elements are `inner` apart. */
static int64_t line_offset(const struct job *job, int64_t i)
{
    return i / job->inner * job->n * job->inner + i % job->inner;
}

/* In eight strands where step is 1, so that it vectorises. */
MPQ_INLINE mpq_real line_max(const mpq_real *x, int64_t n, int64_t step)
{
    mpq_real max = x[0], strand[8];
    int64_t k = 0;
    if (step == 1 && n >= 8) {
        for (int j = 0; j < 8; j++)
            strand[j] = x[j];
        for (k = 8; k + 8 <= n; k += 8)
            for (int j = 0; j < 8; j++)
                strand[j] = x[k + j] > strand[j] ? x[k + j] : strand[j];
        for (int j = 0; j < 8; j++)
            max = strand[j] > max ? strand[j] : max;
    }
    for (; k < n; k++)
        max = x[k * step] > max ? x[k * step] : max;
    return max;
}

/* y = e^(x - max); in two loops, so that the first vectorises where step is 1. Returns the sum. */
MPQ_INLINE double line_exp(const mpq_real *restrict x, mpq_real *restrict y, int64_t n,
                           int64_t step, mpq_real max)
{
    double sum = 0;
    if (step == 1) {
        for (int64_t k = 0; k < n; k++)
            y[k] = mpq_exp_saturated(x[k] - max);
        return mpq_sum(y, n);
    }
    for (int64_t k = 0; k < n; k++) {
        y[k * step] = mpq_exp_saturated(x[k * step] - max);
        sum += (double)y[k * step];
    }
    return sum;
}

/* Lines one after the other: their exponentials are taken in one loop, which has no ends to spare
 * where lines are short. */
MPQ_INLINE void adjacent_lines(const mpq_real *restrict x, mpq_real *restrict y, int64_t n_line,
                               int64_t n)
{
    for (int64_t i = 0; i < n_line; i++) {
        mpq_real max = line_max(x + i * n, n, 1);
        for (int64_t k = 0; k < n; k++)
            y[i * n + k] = x[i * n + k] - max;
    }
    for (int64_t k = 0; k < n_line * n; k++)
        y[k] = mpq_exp_saturated(y[k]);
    for (int64_t i = 0; i < n_line; i++) {
        mpq_real scale = (mpq_real)(1 / mpq_sum(y + i * n, n));
        for (int64_t k = 0; k < n; k++)
            y[i * n + k] *= scale;
    }
}

MPQ_MULTIVERSION
static void softmax_lines(void *arg, int64_t begin, int64_t end, int thread)
{
    enum { BLOCK = 2048 };
    const struct job *job = arg;
    int64_t n = job->n, step = job->inner;
    (void)thread;
    if (step == 1) {
        int64_t lines = n < BLOCK ? BLOCK / n : 1;
        for (int64_t i = begin; i < end; i += lines)
            adjacent_lines(job->in + i * n, job->out + i * n, end - i < lines ? end - i : lines, n);
        return;
    }
    for (int64_t i = begin; i < end; i++) {
        const mpq_real *x = job->in + line_offset(job, i);
        mpq_real *y = job->out + line_offset(job, i);
        mpq_real scale = (mpq_real)(1 / line_exp(x, y, n, step, line_max(x, n, step)));
        for (int64_t k = 0; k < n; k++)
            y[k * step] *= scale;
    }
}

/* dx_k = y_k (dy_k - sum dy y) */
MPQ_MULTIVERSION
static void softmax_back_lines(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    int64_t n = job->n, step = job->inner;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        const mpq_real *y = job->in + line_offset(job, i), *dy = job->dy + line_offset(job, i);
        mpq_real *dx = job->out + line_offset(job, i);
        double dot = 0;
        for (int64_t k = 0; k < n; k++)
            dot += (double)dy[k * step] * (double)y[k * step];
        for (int64_t k = 0; k < n; k++)
            dx[k * step] += y[k * step] * (dy[k * step] - (mpq_real)dot);
    }
}

MPQ_MULTIVERSION
static void log_softmax_lines(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    int64_t n = job->n, step = job->inner;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        const mpq_real *x = job->in + line_offset(job, i);
        mpq_real *y = job->out + line_offset(job, i);
        mpq_real max = line_max(x, n, step);
        mpq_real log_sum = (mpq_real)log(line_exp(x, y, n, step, max));
        for (int64_t k = 0; k < n; k++)
            y[k * step] = x[k * step] - max - log_sum;
    }
}

/* dx_k = dy_k - e^y_k sum dy */
MPQ_MULTIVERSION
static void log_softmax_back_lines(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    int64_t n = job->n, step = job->inner;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        const mpq_real *y = job->in + line_offset(job, i), *dy = job->dy + line_offset(job, i);
        mpq_real *dx = job->out + line_offset(job, i);
        double sum = 0;
        for (int64_t k = 0; k < n; k++)
            sum += (double)dy[k * step];
        for (int64_t k = 0; k < n; k++)
            dx[k * step] += dy[k * step] - mpq_exp_saturated(y[k * step]) * (mpq_real)sum;
    }
}

static void forward(const struct mpq_kernel_args *args,
                    void (*lines)(void *, int64_t, int64_t, int))
{
    run(args, &(struct job){.in = args->x[0]->data, .out = args->y[0]->data}, lines);
}

static void backward(const struct mpq_kernel_args *args,
                     void (*lines)(void *, int64_t, int64_t, int))
{
    if (args->dy[0] && args->dx[0])
        run(args, &(struct job){.in = args->y[0]->data, .dy = args->dy[0], .out = args->dx[0]},
            lines);
}

#define ROW(onnx_name, symbol)                                                                     \
    static void symbol##_forward(const struct mpq_kernel_args *args)                               \
    {                                                                                              \
        forward(args, symbol##_lines);                                                             \
    }                                                                                              \
    static void symbol##_backward(const struct mpq_kernel_args *args)                              \
    {                                                                                              \
        backward(args, symbol##_back_lines);                                                       \
    }                                                                                              \
    const struct mpq_op mpq_op_##symbol = {.name = onnx_name,                                      \
                                           .domain = "",                                           \
                                           .n_in_min = 1,                                          \
                                           .n_in_max = 1,                                          \
                                           .n_out_min = 1,                                         \
                                           .n_out_max = 1,                                         \
                                           .parse = softmax_parse,                                 \
                                           .infer = softmax_infer,                                 \
                                           .forward = symbol##_forward,                            \
                                           .backward = symbol##_backward}

ROW("Softmax", softmax);
ROW("LogSoftmax", log_softmax);
