/* ONNX Runtime's QLinearAdd and QLinearMul: sum and product of two 8-bit tensors, quantized again.
 * Each with the roundings of its kernel for x86: Add is two fused multiply-adds on the ratios of
 * scales, Mul a product of integers times one ratio, and the zero point is added before rounding.
 */
#include "quantcore/base/simd.h"
#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/loop.h"
#include "quantcore/ops/kernel/quantized.h"
#include "quantcore/ops/op_util.h"

enum place { A, A_SCALE, A_ZERO, B, B_SCALE, B_ZERO, Y_SCALE, Y_ZERO };

static enum mpq_status binary_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    struct mpq_shape shape;
    enum mpq_dtype dtype;
    MPQ_TRY(mpq_quantized_check(ctx, node, x, A, A_SCALE, A_ZERO, 1));
    MPQ_TRY(mpq_quantized_check(ctx, node, x, B, B_SCALE, B_ZERO, 1));
    MPQ_TRY(mpq_quantized_check_output(ctx, node, x, Y_SCALE, Y_ZERO, x[A]->dtype, &dtype));
    if (x[B]->dtype != x[A]->dtype || dtype != x[A]->dtype)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "%s and %s do not make %s",
                             mpq_dtype_name(x[A]->dtype), mpq_dtype_name(x[B]->dtype),
                             mpq_dtype_name(dtype));
    if (!mpq_shape_broadcast(&x[A]->shape, &x[B]->shape, &shape))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "shapes %s and %s do not broadcast",
                             MPQ_SHAPE_TEXT(&x[A]->shape), MPQ_SHAPE_TEXT(&x[B]->shape));
    return mpq_infer_set(ctx, node, y[0], dtype, &shape);
}

struct job;

/* n points of y; a step is 0 where that operand is one number for all. */
typedef void span_fn(const struct job *job, int64_t n, const uint8_t *a, int64_t a_step,
                     const uint8_t *b, int64_t b_step, uint8_t *y);

struct job {
    struct mpq_loop loop;
    span_fn *span;
    const uint8_t *a, *b;
    uint8_t *y;
    bool is_signed;
    float a_ratio, b_ratio, fixed; /* Add: y = a * a_ratio + (b * b_ratio + fixed) */
    float ratio;                   /* Mul: y = (a - a_zero)(b - b_zero) * ratio + y_zero */
    int32_t a_zero, b_zero, y_zero;
};

/* a * b + c rounded once. The product of two floats is exact in double, and so, for numbers of like
 * size, is the sum. */
static inline float fused(float a, float b, float c)
{
    return (float)((double)a * (double)b + (double)c);
}

static inline uint8_t saturate(float x, float low, float high)
{
    x = x > low ? x : low;
    x = x < high ? x : high;
    return (uint8_t)mpq_round_float(x);
}

/* Both loops read 8-bit codes of the type that `code` casts to. */
#define LOOP(code, value)                                                                          \
    do {                                                                                           \
        for (int64_t i = 0; i < n; i++) {                                                          \
            const int32_t a = code(as[i * a_step]), b = code(bs[i * b_step]);                      \
            y[i] = saturate(value, low, high);                                                     \
        }                                                                                          \
    } while (0)

MPQ_MULTIVERSION
static void add_span(const struct job *job, int64_t n, const uint8_t *restrict as, int64_t a_step,
                     const uint8_t *restrict bs, int64_t b_step, uint8_t *restrict y)
{
    const float a_ratio = job->a_ratio, b_ratio = job->b_ratio, fixed = job->fixed;
    const float low = job->is_signed ? -128.0f : 0.0f, high = low + 255.0f;
    if (job->is_signed)
        LOOP((int8_t), fused((float)a, a_ratio, fused((float)b, b_ratio, fixed)));
    else
        LOOP((uint8_t), fused((float)a, a_ratio, fused((float)b, b_ratio, fixed)));
}

MPQ_MULTIVERSION
static void mul_span(const struct job *job, int64_t n, const uint8_t *restrict as, int64_t a_step,
                     const uint8_t *restrict bs, int64_t b_step, uint8_t *restrict y)
{
    const float ratio = job->ratio, y_zero = (float)job->y_zero;
    const int32_t a_zero = job->a_zero, b_zero = job->b_zero;
    const float low = job->is_signed ? -128.0f : 0.0f, high = low + 255.0f;
    if (job->is_signed)
        LOOP((int8_t), (float)((a - a_zero) * (b - b_zero)) * ratio + y_zero);
    else
        LOOP((uint8_t), (float)((a - a_zero) * (b - b_zero)) * ratio + y_zero);
}

/* Of a sum, the operand that is one number for a whole span goes into the fixed part first; a
 * product does not mind. */
static void points(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    int64_t a_step = mpq_loop_inner_stride(&job->loop, 0);
    int64_t b_step = mpq_loop_inner_stride(&job->loop, 1);
    struct job swapped = *job;
    struct mpq_span span;
    (void)thread;
    swapped.a_ratio = job->b_ratio, swapped.b_ratio = job->a_ratio;
    swapped.a_zero = job->b_zero, swapped.b_zero = job->a_zero;
    for (mpq_span_first(&span, &job->loop, begin, end); span.n; mpq_span_next(&span)) {
        const uint8_t *a = job->a + span.offset[0], *b = job->b + span.offset[1];
        if (a_step == 0 && b_step != 0)
            job->span(&swapped, span.n, b, b_step, a, a_step, job->y + begin);
        else
            job->span(job, span.n, a, a_step, b, b_step, job->y + begin);
        begin += span.n;
    }
}

static void forward(const struct mpq_kernel_args *args, span_fn *span)
{
    const struct mpq_tensor *const *x = args->x;
    float a_scale = mpq_scale_at(x[A_SCALE], 0), b_scale = mpq_scale_at(x[B_SCALE], 0);
    float y_scale = mpq_scale_at(x[Y_SCALE], 0);
    struct job job = {.span = span,
                      .a = x[A]->data,
                      .b = x[B]->data,
                      .y = args->y[0]->data,
                      .is_signed = x[A]->dtype == MPQ_INT8,
                      .a_ratio = a_scale / y_scale,
                      .b_ratio = b_scale / y_scale,
                      .ratio = a_scale * b_scale / y_scale,
                      .a_zero = mpq_zero_at(mpq_input(args->node, x, A_ZERO), 0),
                      .b_zero = mpq_zero_at(mpq_input(args->node, x, B_ZERO), 0),
                      .y_zero = mpq_zero_at(mpq_input(args->node, x, Y_ZERO), 0)};
    job.fixed =
        (float)job.y_zero - (job.a_ratio * (float)job.a_zero + job.b_ratio * (float)job.b_zero);
    mpq_loop_init(&job.loop, &args->y[0]->shape);
    mpq_loop_add(&job.loop, &x[A]->shape);
    mpq_loop_add(&job.loop, &x[B]->shape);
    mpq_loop_merge(&job.loop);
    mpq_parallel_for(mpq_loop_count(&job.loop), MPQ_GRAIN, points, &job);
}

static void add_forward(const struct mpq_kernel_args *args)
{
    forward(args, add_span);
}

static void mul_forward(const struct mpq_kernel_args *args)
{
    forward(args, mul_span);
}

const struct mpq_op mpq_op_qlinear_add = {.name = "QLinearAdd",
                                          .domain = "com.microsoft",
                                          .n_in_min = 7,
                                          .n_in_max = 8,
                                          .n_out_min = 1,
                                          .n_out_max = 1,
                                          .infer = binary_infer,
                                          .forward = add_forward};

const struct mpq_op mpq_op_qlinear_mul = {.name = "QLinearMul",
                                          .domain = "com.microsoft",
                                          .n_in_min = 7,
                                          .n_in_max = 8,
                                          .n_out_min = 1,
                                          .n_out_max = 1,
                                          .infer = binary_infer,
                                          .forward = mul_forward};
