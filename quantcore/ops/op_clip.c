/* Clip: y = min(max(x, low), high) with the bounds in inputs 1 and 2, either of which may be
 * absent.
 */
#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/real_math.h"
#include "quantcore/ops/op_util.h"

static enum mpq_status clip_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                  const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    if (!mpq_dtype_is_integer(x[0]->dtype))
        MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    MPQ_TRY(mpq_check_same_dtype(ctx, node, x));
    for (uint32_t i = 1; i < node->n_in; i++)
        if (x[i] && mpq_shape_count(&x[i]->shape) != 1)
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "bound %u has shape %s", i,
                                 MPQ_SHAPE_TEXT(&x[i]->shape));
    return mpq_infer_same(ctx, node, x, y);
}

struct job {
    mpq_real low, high;
    const mpq_real *x, *dy;
    mpq_real *out;
    bool fresh; /* dx is written, and may be dy */
};

static mpq_real bound(const struct mpq_kernel_args *args, uint32_t i, mpq_real absent)
{
    const struct mpq_tensor *x = mpq_input(args->node, args->x, i);
    return x ? *(const mpq_real *)x->data : absent;
}

static void run(const struct mpq_kernel_args *args, struct job *job,
                void (*piece)(void *, int64_t, int64_t, int))
{
    job->low = bound(args, 1, -INFINITY);
    job->high = bound(args, 2, INFINITY);
    job->x = args->x[0]->data;
    mpq_parallel_for(mpq_shape_count(&args->x[0]->shape), MPQ_GRAIN, piece, job);
}

MPQ_MULTIVERSION
static void forward_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const mpq_real low = job->low, high = job->high, *restrict x = job->x;
    mpq_real *restrict y = job->out;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        y[i] = mpq_clamp(x[i], low, high);
}

MPQ_MULTIVERSION
static void backward_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const mpq_real low = job->low, high = job->high;
    const mpq_real *x = job->x, *dy = job->dy;
    mpq_real *dx = job->out;
    (void)thread;
    if (job->fresh) {
        MPQ_IN_PLACE
        for (int64_t i = begin; i < end; i++)
            dx[i] = (x[i] > low) & (x[i] < high) ? dy[i] : 0; /* no branch: it vectorises */
    } else {
        MPQ_IN_PLACE
        for (int64_t i = begin; i < end; i++)
            dx[i] += (x[i] > low) & (x[i] < high) ? dy[i] : 0;
    }
}

static bool clip_clamp(const struct mpq_node *node, const struct mpq_tensor *const *x,
                       struct mpq_clamp *out)
{
    *out = (struct mpq_clamp){-INFINITY, INFINITY};
    for (uint32_t i = 1; i < 3; i++) {
        const struct mpq_tensor *bound = mpq_input(node, x, i);
        if (bound && !bound->data)
            return false;
        if (bound)
            *(i == 1 ? &out->low : &out->high) = *(const mpq_real *)bound->data;
    }
    return x[0]->dtype == MPQ_FLOAT;
}

static void clip_integers(const struct mpq_kernel_args *args)
{
    const struct mpq_tensor *low = mpq_input(args->node, args->x, 1);
    const struct mpq_tensor *high = mpq_input(args->node, args->x, 2);
    bool is_unsigned = args->x[0]->dtype == MPQ_UINT64;
    int64_t n = mpq_shape_count(&args->x[0]->shape);
    uint64_t flip = is_unsigned ? (uint64_t)1 << 63 : 0; /* orders unsigned values as signed ones */
    for (int64_t i = 0; i < n; i++) {
        int64_t value = mpq_tensor_int(args->x[0], i);
        int64_t a = low ? mpq_tensor_int(low, 0) : value;
        int64_t b = high ? mpq_tensor_int(high, 0) : 0;
        value = (int64_t)((uint64_t)value ^ flip) < (int64_t)((uint64_t)a ^ flip) ? a : value;
        if (high && (int64_t)((uint64_t)value ^ flip) > (int64_t)((uint64_t)b ^ flip))
            value = b;
        mpq_tensor_set_int(args->y[0], i, value);
    }
}

static void clip_forward(const struct mpq_kernel_args *args)
{
    if (args->x[0]->dtype == MPQ_FLOAT)
        run(args, &(struct job){.out = args->y[0]->data}, forward_piece);
    else
        clip_integers(args);
}

static void clip_backward(const struct mpq_kernel_args *args)
{
    if (args->dy[0] && args->dx[0])
        run(args,
            &(struct job){.dy = args->dy[0], .out = args->dx[0], .fresh = mpq_is_fresh(args, 0)},
            backward_piece);
}

const struct mpq_op mpq_op_clip = {.name = "Clip",
                                   .domain = "",
                                   .n_in_min = 1,
                                   .n_in_max = 3,
                                   .n_out_min = 1,
                                   .n_out_max = 1,
                                   .infer = clip_infer,
                                   .clamp = clip_clamp,
                                   .forward = clip_forward,
                                   .backward_ignores = MPQ_IGNORES_Y,
                                   .sets_dx = true,
                                   .in_place_dx = true,
                                   .backward = clip_backward};
