/* GlobalAveragePool and GlobalMaxPool: each plane [N, C, spatial...] becomes one element. */
#include <string.h>

#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/real_math.h"
#include "quantcore/ops/op_util.h"

struct job {
    int64_t count; /* of one plane */
    const mpq_real *x, *y, *dy;
    mpq_real *out;
    bool fresh; /* dx is written */
};

static enum mpq_status global_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    struct mpq_shape shape = x[0]->shape;
    MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    if (shape.rank < 3 || mpq_shape_count_range(&shape, 2, shape.rank) == 0)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "input %s has no planes to pool",
                             MPQ_SHAPE_TEXT(&shape));
    for (int i = 2; i < shape.rank; i++)
        shape.dim[i] = 1;
    return mpq_infer_set(ctx, node, y[0], MPQ_FLOAT, &shape);
}

static void run(const struct mpq_kernel_args *args, struct job *job,
                void (*planes)(void *, int64_t, int64_t, int))
{
    const struct mpq_shape *shape = &args->x[0]->shape;
    job->count = mpq_shape_count_range(shape, 2, shape->rank);
    mpq_parallel_for(shape->dim[0] * shape->dim[1], 1 + MPQ_GRAIN / job->count, planes, job);
}

static void average_planes(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    (void)thread;
    for (int64_t p = begin; p < end; p++)
        job->out[p] = (mpq_real)(mpq_sum(job->x + p * job->count, job->count) / (double)job->count);
}

static void spread_planes(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    (void)thread;
    for (int64_t p = begin; p < end; p++) {
        mpq_real share = job->dy[p] / (mpq_real)job->count;
        mpq_real *dx = job->out + p * job->count;
        for (int64_t i = 0; i < job->count; i++)
            dx[i] = (job->fresh ? 0 : dx[i]) + share;
    }
}

static void max_planes(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    (void)thread;
    for (int64_t p = begin; p < end; p++) {
        const mpq_real *x = job->x + p * job->count;
        mpq_real max = x[0];
        for (int64_t i = 1; i < job->count; i++)
            max = x[i] > max ? x[i] : max;
        job->out[p] = max;
    }
}

static void max_back_planes(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    (void)thread;
    for (int64_t p = begin; p < end; p++) {
        const mpq_real *x = job->x + p * job->count;
        int64_t i = 0;
        if (job->fresh)
            memset(job->out + p * job->count, 0, (size_t)job->count * sizeof *job->out);
        while (i < job->count && x[i] != job->y[p])
            i++;
        if (i < job->count)
            job->out[p * job->count + i] += job->dy[p];
    }
}

static void forward(const struct mpq_kernel_args *args,
                    void (*planes)(void *, int64_t, int64_t, int))
{
    run(args, &(struct job){.x = args->x[0]->data, .out = args->y[0]->data}, planes);
}

static void backward(const struct mpq_kernel_args *args,
                     void (*planes)(void *, int64_t, int64_t, int))
{
    struct job job = {.x = args->x[0]->data,
                      .y = args->y[0]->data,
                      .dy = args->dy[0],
                      .out = args->dx[0],
                      .fresh = mpq_is_fresh(args, 0)};
    if (job.dy && job.out)
        run(args, &job, planes);
}

#define ROW(onnx_name, symbol, ignores, forward_planes, backward_planes)                           \
    static void symbol##_forward(const struct mpq_kernel_args *args)                               \
    {                                                                                              \
        forward(args, forward_planes);                                                             \
    }                                                                                              \
    static void symbol##_backward(const struct mpq_kernel_args *args)                              \
    {                                                                                              \
        backward(args, backward_planes);                                                           \
    }                                                                                              \
    const struct mpq_op mpq_op_##symbol = {.name = onnx_name,                                      \
                                           .domain = "",                                           \
                                           .n_in_min = 1,                                          \
                                           .n_in_max = 1,                                          \
                                           .n_out_min = 1,                                         \
                                           .n_out_max = 1,                                         \
                                           .infer = global_infer,                                  \
                                           .backward_ignores = ignores,                            \
                                           .sets_dx = true,                                        \
                                           .forward = symbol##_forward,                            \
                                           .backward = symbol##_backward}

ROW("GlobalAveragePool", global_average_pool, MPQ_IGNORES_X | MPQ_IGNORES_Y, average_planes,
    spread_planes);
ROW("GlobalMaxPool", global_max_pool, 0, max_planes, max_back_planes);
