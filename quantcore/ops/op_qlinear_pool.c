/* ONNX Runtime's QLinearAveragePool and QLinearGlobalAveragePool. The first sums dequantized
 * floats, the second integers, as its kernels do. */
#include <math.h>

#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/pool.h"
#include "quantcore/ops/kernel/quantized.h"
#include "quantcore/ops/kernel/scratch.h"
#include "quantcore/ops/op_util.h"

enum place { X, X_SCALE, X_ZERO, Y_SCALE, Y_ZERO };

static enum mpq_status check_layout(struct mpq_ctx *ctx, const struct mpq_node *node)
{
    if (mpq_attr_int(&node->attr_set, "channels_last", 0) != 0)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "channels_last is not supported");
    return MPQ_OK;
}

static enum mpq_status pool_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  struct mpq_node *node)
{
    MPQ_TRY(check_layout(ctx, node));
    return mpq_pool_parse(ctx, arena, node);
}

static enum mpq_status global_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_node *node)
{
    (void)arena;
    return check_layout(ctx, node);
}

static enum mpq_status check_types(struct mpq_ctx *ctx, const struct mpq_node *node,
                                   const struct mpq_tensor *const *x, enum mpq_dtype *out)
{
    MPQ_TRY(mpq_quantized_check(ctx, node, x, X, X_SCALE, X_ZERO, 1));
    return mpq_quantized_check_output(ctx, node, x, Y_SCALE, Y_ZERO, x[X]->dtype, out);
}

static enum mpq_status pool_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                  const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    enum mpq_dtype dtype;
    MPQ_TRY(check_types(ctx, node, x, &dtype));
    MPQ_TRY(mpq_pool_infer(ctx, node, x, y));
    y[0]->dtype = dtype;
    return MPQ_OK;
}

static enum mpq_status global_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    struct mpq_shape shape = x[X]->shape;
    enum mpq_dtype dtype;
    MPQ_TRY(check_types(ctx, node, x, &dtype));
    if (shape.rank < 3 || mpq_shape_count_range(&shape, 2, shape.rank) == 0)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "input %s has no planes to pool",
                             MPQ_SHAPE_TEXT(&shape));
    for (int i = 2; i < shape.rank; i++)
        shape.dim[i] = 1;
    return mpq_infer_set(ctx, node, y[0], dtype, &shape);
}

struct job {
    struct mpq_pool pool;
    bool include_pad, x_is_signed, y_is_signed;
    float x_scale, y_scale;
    int32_t x_zero, y_zero;
    const uint8_t *x;
    uint8_t *y;
    mpq_real *room; /* [threads][in_count + out_count] */
};

static struct job job_of(const struct mpq_kernel_args *args)
{
    const struct mpq_tensor *const *x = args->x;
    return (struct job){.x_is_signed = x[X]->dtype == MPQ_INT8,
                        .y_is_signed = args->y[0]->dtype == MPQ_INT8,
                        .x_scale = mpq_scale_at(x[X_SCALE], 0),
                        .y_scale = mpq_scale_at(x[Y_SCALE], 0),
                        .x_zero = mpq_zero_at(mpq_input(args->node, x, X_ZERO), 0),
                        .y_zero = mpq_zero_at(mpq_input(args->node, x, Y_ZERO), 0),
                        .x = x[X]->data,
                        .y = args->y[0]->data};
}

/* ---- AveragePool ---- */

static int64_t room_of_thread(const struct mpq_pool *pool)
{
    return (pool->in_count + pool->out_count + 15) / 16 * 16;
}

static size_t pool_workspace(const struct mpq_node *node, const struct mpq_tensor *const *x,
                             struct mpq_tensor *const *y, bool training)
{
    (void)training;
    struct mpq_pool pool;
    mpq_pool_make(node, &x[X]->shape, &y[0]->shape, &pool);
    return (size_t)(mpq_thread_count() * room_of_thread(&pool)) * sizeof(mpq_real);
}

static void sum_row(mpq_real *restrict y, const mpq_real *restrict x, int64_t n, int64_t stride)
{
    for (int64_t i = 0; i < n; i++)
        y[i] += x[i * stride];
}

static uint8_t round_average(const struct job *job, float sum, int64_t count)
{
    float low = job->y_is_signed ? -128.0f : 0.0f, high = low + 255.0f;
    float y = rintf(sum / (float)count / job->y_scale + (float)job->y_zero);
    y = y < high ? y : high;
    return (uint8_t)(int32_t)(y > low ? y : low);
}

static void pool_planes(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct mpq_pool *pool = &job->pool;
    mpq_real *x = job->room + thread * room_of_thread(pool), *y = x + pool->in_count;
    int64_t window = pool->dim[0].kernel * pool->dim[1].kernel * pool->dim[2].kernel;
    for (int64_t p = begin; p < end; p++) {
        uint8_t *out = job->y + p * pool->out_count;
        mpq_shift_to_real(job->x + p * pool->in_count, job->x_is_signed, job->x_zero, x,
                          pool->in_count);
        for (int64_t i = 0; i < pool->in_count; i++)
            x[i] = (mpq_real)(job->x_scale * (float)x[i]);
        for (int64_t i = 0; i < pool->out_count; i++)
            y[i] = 0;
        mpq_pool_sweep(pool, x, y, sum_row);
        int64_t i = 0, o[3];
        for (o[0] = 0; o[0] < pool->dim[0].out; o[0]++)
            for (o[1] = 0; o[1] < pool->dim[1].out; o[1]++)
                for (o[2] = 0; o[2] < pool->dim[2].out; o[2]++, i++) {
                    int64_t count = job->include_pad ? window : mpq_pool_taps_inside(pool, o);
                    out[i] = round_average(job, (float)y[i], count);
                }
    }
}

static void pool_forward(const struct mpq_kernel_args *args)
{
    const struct mpq_pool_attrs *attrs = args->node->attrs;
    struct job job = job_of(args);
    job.include_pad = attrs->count_include_pad;
    job.room = args->workspace;
    mpq_pool_make(args->node, &args->x[X]->shape, &args->y[0]->shape, &job.pool);
    mpq_parallel_for(job.pool.n_plane, 1 + MPQ_GRAIN / (job.pool.in_count + 1), pool_planes, &job);
}

/* ---- GlobalAveragePool ---- */

static void global_planes(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    int64_t count = job->pool.in_count;
    float scale = job->x_scale / (job->y_scale * (float)count);
    struct mpq_requant to = mpq_requant_to(job->y_is_signed ? MPQ_INT8 : MPQ_UINT8, job->y_zero);
    (void)thread;
    for (int64_t p = begin; p < end; p++) {
        int32_t sum = 0;
        for (int64_t i = 0; i < count; i++)
            sum += mpq_quantized_value(job->x_is_signed, job->x[p * count + i]);
        job->y[p] = mpq_requant_round(&to, (float)(sum - job->x_zero * (int32_t)count) * scale);
    }
}

static void global_forward(const struct mpq_kernel_args *args)
{
    const struct mpq_shape *shape = &args->x[X]->shape;
    struct job job = job_of(args);
    job.pool.in_count = mpq_shape_count_range(shape, 2, shape->rank);
    mpq_parallel_for(shape->dim[0] * shape->dim[1], 1 + MPQ_GRAIN / job.pool.in_count,
                     global_planes, &job);
}

const struct mpq_op mpq_op_qlinear_average_pool = {.name = "QLinearAveragePool",
                                                   .domain = "com.microsoft",
                                                   .n_in_min = 4,
                                                   .n_in_max = 5,
                                                   .n_out_min = 1,
                                                   .n_out_max = 1,
                                                   .parse = pool_parse,
                                                   .infer = pool_infer,
                                                   .workspace = pool_workspace,
                                                   .forward = pool_forward};

const struct mpq_op mpq_op_qlinear_global_average_pool = {.name = "QLinearGlobalAveragePool",
                                                          .domain = "com.microsoft",
                                                          .n_in_min = 4,
                                                          .n_in_max = 5,
                                                          .n_out_min = 1,
                                                          .n_out_max = 1,
                                                          .parse = global_parse,
                                                          .infer = global_infer,
                                                          .forward = global_forward};
