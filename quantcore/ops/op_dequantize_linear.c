/* DequantizeLinear: y = (x - zero_point) * scale, FLOAT; scale by tensor, axis or block. */
#include "quantcore/ir/small_float.h"
#include "quantcore/ops/kernel/granularity.h"
#include "quantcore/ops/op_util.h"

static enum mpq_status dequantize_linear_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                               const struct mpq_tensor *const *x,
                                               struct mpq_tensor *const *y)
{
    const struct mpq_granularity_attrs *attrs = node->attrs;
    const struct mpq_tensor *zero_point = mpq_input(node, x, 2);
    if (!mpq_is_small_float(x[0]->dtype) &&
        (!mpq_dtype_is_integer(x[0]->dtype) || mpq_dtype_bits(x[0]->dtype) > 32))
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "dequantizing %s is not supported",
                             mpq_dtype_name(x[0]->dtype));
    if (zero_point && zero_point->dtype != x[0]->dtype)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "input is %s but zero point is %s",
                             mpq_dtype_name(x[0]->dtype), mpq_dtype_name(zero_point->dtype));
    if (attrs->dtype && attrs->dtype != MPQ_FLOAT)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "dequantizing to %s is not supported",
                             mpq_dtype_name(attrs->dtype));
    MPQ_TRY(mpq_granularity_check(ctx, node, x));
    return mpq_infer_set(ctx, node, y[0], MPQ_FLOAT, &x[0]->shape);
}

struct job {
    const struct mpq_tensor *x, *zero_point;
    const mpq_real *scale;
    mpq_real *y;
};

/* n elements that share scale and zero point. Differences of types of up to 16 bits fit 32. */
#define DEQUANTIZE_LOOP(from, wide)                                                                \
    do {                                                                                           \
        const from *restrict x = (const from *)job->x->data + begin;                               \
        const wide shift = (wide)zero_point;                                                       \
        for (int64_t i = 0; i < n; i++)                                                            \
            y[i] = (mpq_real)((wide)x[i] - shift) * scale;                                         \
    } while (0)

static void dequantize_small_floats(const struct job *job, int64_t begin, int64_t n, int64_t at)
{
    const double zero_point = job->zero_point ? mpq_tensor_double(job->zero_point, at) : 0;
    for (int64_t i = begin; i < begin + n; i++)
        job->y[i] = (mpq_real)(mpq_tensor_double(job->x, i) - zero_point) * job->scale[at];
}

static void dequantize(const void *arg, int64_t begin, int64_t n, int64_t at)
{
    const struct job *job = arg;
    if (mpq_is_small_float(job->x->dtype)) {
        dequantize_small_floats(job, begin, n, at);
        return;
    }
    const mpq_real scale = job->scale[at];
    const int64_t zero_point = job->zero_point ? mpq_tensor_int(job->zero_point, at) : 0;
    mpq_real *restrict y = job->y + begin;
    switch (job->x->dtype) {
    case MPQ_UINT8:
    case MPQ_UINT4:
    case MPQ_UINT2:
        DEQUANTIZE_LOOP(uint8_t, int32_t);
        break;
    case MPQ_INT8:
    case MPQ_INT4:
    case MPQ_INT2:
        DEQUANTIZE_LOOP(int8_t, int32_t);
        break;
    case MPQ_UINT16:
        DEQUANTIZE_LOOP(uint16_t, int32_t);
        break;
    case MPQ_INT16:
        DEQUANTIZE_LOOP(int16_t, int32_t);
        break;
    case MPQ_UINT32:
        DEQUANTIZE_LOOP(uint32_t, int64_t);
        break;
    default:
        DEQUANTIZE_LOOP(int32_t, int64_t);
        break;
    }
}

static void dequantize_linear_forward(const struct mpq_kernel_args *args)
{
    struct job job = {.x = args->x[0],
                      .zero_point = mpq_input(args->node, args->x, 2),
                      .scale = args->x[1]->data,
                      .y = args->y[0]->data};
    struct mpq_granularity g;
    mpq_granularity_make(args->node, args->x, &g);
    mpq_granularity_run(&g, dequantize, &job);
}

const struct mpq_op mpq_op_dequantize_linear = {.name = "DequantizeLinear",
                                                .domain = "",
                                                .n_in_min = 2,
                                                .n_in_max = 3,
                                                .n_out_min = 1,
                                                .n_out_max = 1,
                                                .parse = mpq_granularity_parse,
                                                .infer = dequantize_linear_infer,
                                                .forward = dequantize_linear_forward};

/* ONNX Runtime's, which had 16 and 4 bits before opset 21 did. */
const struct mpq_op mpq_op_ms_dequantize_linear = {.name = "DequantizeLinear",
                                                   .domain = "com.microsoft",
                                                   .n_in_min = 2,
                                                   .n_in_max = 3,
                                                   .n_out_min = 1,
                                                   .n_out_max = 1,
                                                   .parse = mpq_granularity_parse,
                                                   .infer = dequantize_linear_infer,
                                                   .forward = dequantize_linear_forward};
