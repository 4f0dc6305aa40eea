/* FakeQuant: what is left of x after it went through QuantizeLinear and DequantizeLinear,
 *
 *     y = (clamp(rint(x / scale) + zero_point, 0, 2^bits - 1) - zero_point) * scale
 *
 * Gradients pass unchanged where the integer is inside its range and not at all where it was
 * clamped (B. Jacob et al.: "Quantization and training of neural networks for efficient
 * integer-arithmetic-only inference", CVPR 2018). The node's attrs are a struct mpq_act_quant that
 * the pass which inserts the node owns and may change between runs. */
#include <math.h>
#include <string.h>

#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/real_math.h"
#include "quantcore/ops/op_util.h"
#include "quantcore/quant/layer.h"

struct job {
    mpq_real scale, low, high; /* of the integer less zero_point */
    mpq_real first, last;      /* backward: what x is inside */
    const mpq_real *x, *dy;
    mpq_real *out;
    bool fresh; /* dx is written, and may be dy */
};

static struct job make(const struct mpq_kernel_args *args)
{
    const struct mpq_act_quant *quant = args->node->attrs;
    return (struct job){.scale = (mpq_real)quant->scale,
                        .low = (mpq_real)-quant->zero_point,
                        .high = (mpq_real)((1 << quant->bits) - 1 - quant->zero_point),
                        .x = args->x[0]->data};
}

/* Clamping to integers before rounding gives the same as after it, and is what makes
 * mpq_round_small() enough. A true division: a reciprocal would break ties differently. */
MPQ_MULTIVERSION
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
static bool is_inside(const struct job *job, mpq_real x)
{
    mpq_real q = mpq_round_small(mpq_clamp(x / job->scale, job->low - 1, job->high + 1));
    return q >= job->low && q <= job->high;
}

/* The outermost x inside, `outwards` being the infinity on that side: the division is monotone, so
 * comparing with the two is exact and needs none. A guess is a few steps off at most. */
static mpq_real outermost(const struct job *job, mpq_real guess, mpq_real outwards)
{
    while (is_inside(job, guess) && isfinite(guess))
        guess = MPQ_MATH(nextafter)(guess, outwards);
    while (!is_inside(job, guess))
        guess = MPQ_MATH(nextafter)(guess, -outwards);
    return guess;
}

MPQ_MULTIVERSION
static void backward_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const mpq_real first = job->first, last = job->last;
    const mpq_real *x = job->x, *dy = job->dy;
    mpq_real *dx = job->out;
    (void)thread;
    if (job->fresh) {
        MPQ_IN_PLACE
        for (int64_t i = begin; i < end; i++)
            dx[i] = (x[i] >= first) & (x[i] <= last) ? dy[i] : 0; /* no branch: it vectorises */
    } else {
        MPQ_IN_PLACE
        for (int64_t i = begin; i < end; i++)
            dx[i] += (x[i] >= first) & (x[i] <= last) ? dy[i] : 0;
    }
}

static void fake_quant_forward(const struct mpq_kernel_args *args)
{
    struct job job = make(args);
    job.out = args->y[0]->data;
    if (!((const struct mpq_act_quant *)args->node->attrs)->bits) {
        memcpy(job.out, job.x, mpq_tensor_bytes(args->x[0]));
        return;
    }
    mpq_parallel_for(mpq_shape_count(&args->x[0]->shape), MPQ_GRAIN, forward_piece, &job);
}

static void fake_quant_backward(const struct mpq_kernel_args *args)
{
    struct job job = make(args);
    job.dy = args->dy[0];
    job.out = args->dx[0];
    job.fresh = mpq_is_fresh(args, 0);
    job.first = outermost(&job, (job.low - MPQ_REAL(0.5)) * job.scale, -INFINITY);
    job.last = outermost(&job, (job.high + MPQ_REAL(0.5)) * job.scale, INFINITY);
    if (job.dy && job.out)
        mpq_parallel_for(mpq_shape_count(&args->x[0]->shape), MPQ_GRAIN, backward_piece, &job);
}

const struct mpq_op mpq_op_fake_quant = {.name = "FakeQuant",
                                         .domain = "onnx_mpq",
                                         .n_in_min = 1,
                                         .n_in_max = 1,
                                         .n_out_min = 1,
                                         .n_out_max = 1,
                                         .infer = mpq_infer_same_float,
                                         .backward_ignores = MPQ_IGNORES_Y,
                                         .sets_dx = true,
                                         .in_place_dx = true,
                                         .forward = fake_quant_forward,
                                         .backward = fake_quant_backward};
