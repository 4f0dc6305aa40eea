/* QuantizeLinear: y = saturate(rint(x / scale) + zero_point), halves to even. x FLOAT or INT32; y
 * an integer of at most 16 bits; scale by tensor, axis or block. */
#include "quantcore/ir/small_float.h"
#include "quantcore/ops/kernel/granularity.h"
#include "quantcore/ops/kernel/real_math.h"
#include "quantcore/ops/op_util.h"

static bool is_quantized(enum mpq_dtype dtype)
{
    return mpq_is_small_float(dtype) ||
           (mpq_dtype_is_integer(dtype) && mpq_dtype_bits(dtype) <= 16);
}

static enum mpq_status quantize_linear_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                             const struct mpq_tensor *const *x,
                                             struct mpq_tensor *const *y)
{
    const struct mpq_granularity_attrs *attrs = node->attrs;
    const struct mpq_tensor *zero_point = mpq_input(node, x, 2);
    enum mpq_dtype dtype = zero_point ? zero_point->dtype : attrs->dtype ? attrs->dtype : MPQ_UINT8;
    if (x[0]->dtype != MPQ_INT32)
        MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    if (!is_quantized(dtype))
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "quantizing to %s is not supported",
                             mpq_dtype_name(dtype));
    MPQ_TRY(mpq_granularity_check(ctx, node, x));
    return mpq_infer_set(ctx, node, y[0], dtype, &x[0]->shape);
}

/* The integers a type holds. */
static void type_range(enum mpq_dtype dtype, int32_t *low, int32_t *high)
{
    int bits = mpq_dtype_bits(dtype);
    bool is_signed =
        dtype == MPQ_INT8 || dtype == MPQ_INT16 || dtype == MPQ_INT4 || dtype == MPQ_INT2;
    *low = is_signed ? -(1 << (bits - 1)) : 0;
    *high = *low + (1 << bits) - 1;
}

struct job {
    const struct mpq_tensor *x, *zero_point;
    const mpq_real *scale;
    struct mpq_tensor *y;
    int32_t low, high;
    bool saturates; /* floats of eight bits: to the largest number, not to NaN or infinity */
};

/* n elements that share scale and zero point. Clamped before rounding, see op_fake_quant.c. */
#define QUANTIZE_LOOP(to, from)                                                                    \
    do {                                                                                           \
        const from *restrict x = (const from *)job->x->data + begin;                               \
        to *restrict y = (to *)job->y->data + begin;                                               \
        for (int64_t i = 0; i < n; i++)                                                            \
            y[i] = (to)((int32_t)mpq_round_small(mpq_clamp((mpq_real)x[i] / scale, low, high)) +   \
                        zero_point);                                                               \
    } while (0)

/* Their zero point is 0. */
static void quantize_small_floats(const struct job *job, int64_t begin, int64_t n, int64_t at)
{
    for (int64_t i = begin; i < begin + n; i++)
        ((uint8_t *)job->y->data)[i] = mpq_small_float_encode(
            job->y->dtype, mpq_tensor_double(job->x, i) / (double)job->scale[at], job->saturates);
}

static void quantize(const void *arg, int64_t begin, int64_t n, int64_t at)
{
    const struct job *job = arg;
    if (mpq_is_small_float(job->y->dtype)) {
        quantize_small_floats(job, begin, n, at);
        return;
    }
    const mpq_real scale = job->scale[at];
    const int32_t zero_point = job->zero_point ? (int32_t)mpq_tensor_int(job->zero_point, at) : 0;
    const mpq_real low = (mpq_real)(job->low - zero_point);
    const mpq_real high = (mpq_real)(job->high - zero_point);
    bool is_wide = mpq_dtype_bytes(job->y->dtype) == 2;
    if (job->x->dtype == MPQ_INT32 && is_wide)
        QUANTIZE_LOOP(uint16_t, int32_t);
    else if (job->x->dtype == MPQ_INT32)
        QUANTIZE_LOOP(uint8_t, int32_t);
    else if (is_wide)
        QUANTIZE_LOOP(uint16_t, mpq_real);
    else
        QUANTIZE_LOOP(uint8_t, mpq_real);
}

static void quantize_linear_forward(const struct mpq_kernel_args *args)
{
    struct job job = {.x = args->x[0],
                      .zero_point = mpq_input(args->node, args->x, 2),
                      .scale = args->x[1]->data,
                      .y = args->y[0],
                      .saturates = mpq_attr_int(&args->node->attr_set, "saturate", 1) != 0};
    type_range(job.y->dtype, &job.low, &job.high);
    struct mpq_granularity g;
    mpq_granularity_make(args->node, args->x, &g);
    mpq_granularity_run(&g, quantize, &job);
}

const struct mpq_op mpq_op_quantize_linear = {.name = "QuantizeLinear",
                                              .domain = "",
                                              .n_in_min = 2,
                                              .n_in_max = 3,
                                              .n_out_min = 1,
                                              .n_out_max = 1,
                                              .parse = mpq_granularity_parse,
                                              .infer = quantize_linear_infer,
                                              .forward = quantize_linear_forward};

/* ONNX Runtime's, which had 16 and 4 bits before opset 21 did. */
const struct mpq_op mpq_op_ms_quantize_linear = {.name = "QuantizeLinear",
                                                 .domain = "com.microsoft",
                                                 .n_in_min = 2,
                                                 .n_in_max = 3,
                                                 .n_out_min = 1,
                                                 .n_out_max = 1,
                                                 .parse = mpq_granularity_parse,
                                                 .infer = quantize_linear_infer,
                                                 .forward = quantize_linear_forward};
