/* LearnedFakeQuant: learned step size quantization of x with one step, an input of its own so that
 * it has a gradient (quant/lsq.h). The node's attrs are a struct mpq_lsq_range that whoever inserts
 * the node owns and may change between runs. Inputs: x, step [1]. */
#include "quantcore/base/thread.h"
#include "quantcore/ops/op_util.h"
#include "quantcore/quant/lsq.h"

/* Sums are by blocks of this size, whatever the number of threads. */
enum { BLOCK = 16384 };

static enum mpq_status learned_fake_quant_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                                const struct mpq_tensor *const *x,
                                                struct mpq_tensor *const *y)
{
    MPQ_TRY(mpq_check_float(ctx, node, x, 1));
    if (mpq_shape_count(&x[1]->shape) != 1)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "step is %s, not one number",
                             MPQ_SHAPE_TEXT(&x[1]->shape));
    return mpq_infer_same_float(ctx, node, x, y);
}

static int64_t block_count(const struct mpq_tensor *x)
{
    return (mpq_shape_count(&x->shape) + BLOCK - 1) / BLOCK;
}

static size_t learned_fake_quant_workspace(const struct mpq_node *node,
                                           const struct mpq_tensor *const *x,
                                           struct mpq_tensor *const *y, bool training)
{
    (void)node, (void)y;
    return training ? (size_t)block_count(x[0]) * sizeof(double) : 0;
}

struct job {
    struct mpq_lsq_range range;
    mpq_real step;
    int64_t n;
    const mpq_real *x, *dy;
    mpq_real *out;
    double *dstep; /* [block_count] */
};

static struct job make_job(const struct mpq_kernel_args *args)
{
    return (struct job){.range = *(const struct mpq_lsq_range *)args->node->attrs,
                        .step = *(const mpq_real *)args->x[1]->data,
                        .n = mpq_shape_count(&args->x[0]->shape),
                        .x = args->x[0]->data};
}

static void forward_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    (void)thread;
    mpq_lsq_forward(job->range, job->step, job->x + begin, end - begin, job->out + begin);
}

static void backward_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    (void)thread;
    for (int64_t block = begin; block < end; block++) {
        int64_t at = block * BLOCK, n = job->n - at < BLOCK ? job->n - at : BLOCK;
        job->dstep[block] = mpq_lsq_backward(job->range, job->step, job->x + at, job->dy + at, n,
                                             job->out ? job->out + at : NULL);
    }
}

static void learned_fake_quant_forward(const struct mpq_kernel_args *args)
{
    struct job job = make_job(args);
    job.out = args->y[0]->data;
    mpq_parallel_for(job.n, MPQ_GRAIN, forward_piece, &job);
}

static void learned_fake_quant_backward(const struct mpq_kernel_args *args)
{
    if (!args->dy[0])
        return;
    struct job job = make_job(args);
    int64_t n_block = block_count(args->x[0]);
    job.dy = args->dy[0];
    job.out = args->dx[0];
    job.dstep = args->workspace;
    mpq_parallel_for(n_block, 1, backward_blocks, &job);
    double sum = 0;
    for (int64_t block = 0; block < n_block; block++)
        sum += job.dstep[block];
    if (args->dx[1])
        args->dx[1][0] += (mpq_real)sum;
}

const struct mpq_op mpq_op_learned_fake_quant = {.name = "LearnedFakeQuant",
                                                 .domain = "onnx_mpq",
                                                 .n_in_min = 2,
                                                 .n_in_max = 2,
                                                 .n_out_min = 1,
                                                 .n_out_max = 1,
                                                 .infer = learned_fake_quant_infer,
                                                 .backward_ignores = MPQ_IGNORES_Y,
                                                 .workspace = learned_fake_quant_workspace,
                                                 .forward = learned_fake_quant_forward,
                                                 .backward = learned_fake_quant_backward};
