/* FakeQuant: what is left of x after it went through QuantizeLinear and DequantizeLinear,
 *
 *     y = (clamp(rint(x / scale) + zero_point, 0, 2^bits - 1) - zero_point) * scale
 *
 * Gradients pass unchanged where the integer is inside its range and not at all where it was
 * clamped (B. Jacob et al.: "Quantization and training of neural networks for efficient
 * integer-arithmetic-only inference", CVPR 2018). The node's attrs are a struct mpq_act_quant that
 * the pass which inserts the node owns and may change between runs. */
#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/real_math.h"
#include "quantcore/ops/op_util.h"
#include "quantcore/quant/layer.h"

struct job {
    mpq_real scale, low, high; /* of the integer less zero_point */
    const mpq_real *x, *dy;
    mpq_real *out;
};

static void run(const struct mpq_kernel_args *args, struct job *job,
                void (*piece)(void *, int64_t, int64_t, int))
{
    const struct mpq_act_quant *quant = args->node->attrs;
    job->scale = (mpq_real)quant->scale;
    job->low = (mpq_real)-quant->zero_point;
    job->high = (mpq_real)((1 << quant->bits) - 1 - quant->zero_point);
    job->x = args->x[0]->data;
    mpq_parallel_for(mpq_shape_count(&args->x[0]->shape), MPQ_GRAIN, piece, job);
}

/* Clamping to integers before rounding gives the same as after it, and is what makes
 * mpq_round_small() enough. A true division: a reciprocal would break ties differently. */
static void forward_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const mpq_real scale = job->scale, low = job->low, high = job->high;
    const mpq_real *restrict x = job->x;
    mpq_real *restrict y = job->out;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        y[i] = mpq_round_small(mpq_clamp(x[i] / scale, low, high)) * scale;
}

/* x / scale rounds into [low, high] where it is within a half of it; halves go to even. */
static void backward_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const mpq_real scale = job->scale, low = job->low, high = job->high;
    const mpq_real *restrict x = job->x, *restrict dy = job->dy;
    mpq_real *restrict dx = job->out;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        mpq_real q = mpq_round_small(mpq_clamp(x[i] / scale, low - 1, high + 1));
        dx[i] += (q >= low) & (q <= high) ? dy[i] : 0; /* no branch: it vectorises */
    }
}

static void fake_quant_forward(const struct mpq_kernel_args *args)
{
    run(args, &(struct job){.out = args->y[0]->data}, forward_piece);
}

static void fake_quant_backward(const struct mpq_kernel_args *args)
{
    if (args->dy[0] && args->dx[0])
        run(args, &(struct job){.dy = args->dy[0], .out = args->dx[0]}, backward_piece);
}

const struct mpq_op mpq_op_fake_quant = {.name = "FakeQuant",
                                         .domain = "onnx_mpq",
                                         .n_in_min = 1,
                                         .n_in_max = 1,
                                         .n_out_min = 1,
                                         .n_out_max = 1,
                                         .infer = mpq_infer_same_float,
                                         .forward = fake_quant_forward,
                                         .backward = fake_quant_backward};
