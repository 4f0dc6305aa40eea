/* DynamicQuantizeLinear: x in uint8 with a scale and zero point from its own range, 0 included. */
#include "quantcore/ops/kernel/real_math.h"
#include "quantcore/ops/op_util.h"

static enum mpq_status dynamic_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                     const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct mpq_shape scalar = {0};
    MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    for (uint32_t k = 0; k < 3; k++)
        if (!y[k])
            return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "output %u is missing", k);
    MPQ_TRY(mpq_infer_set(ctx, node, y[1], MPQ_FLOAT, &scalar));
    MPQ_TRY(mpq_infer_set(ctx, node, y[2], MPQ_UINT8, &scalar));
    return mpq_infer_set(ctx, node, y[0], MPQ_UINT8, &x[0]->shape);
}

static void dynamic_forward(const struct mpq_kernel_args *args)
{
    const mpq_real *x = args->x[0]->data;
    uint8_t *y = args->y[0]->data;
    int64_t n = mpq_shape_count(&args->x[0]->shape);
    mpq_real low = 0, high = 0;
    for (int64_t i = 0; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    mpq_real scale = (high - low) / 255;
    scale = scale > 0 ? scale : 1;
    mpq_real zero_point = mpq_round_small(mpq_clamp(-low / scale, 0, 255));
    for (int64_t i = 0; i < n; i++)
        y[i] = (uint8_t)(mpq_round_small(mpq_clamp(x[i] / scale, -zero_point, 255 - zero_point)) +
                         zero_point);
    *(mpq_real *)args->y[1]->data = scale;
    *(uint8_t *)args->y[2]->data = (uint8_t)zero_point;
}

const struct mpq_op mpq_op_dynamic_quantize_linear = {.name = "DynamicQuantizeLinear",
                                                      .domain = "",
                                                      .n_in_min = 1,
                                                      .n_in_max = 1,
                                                      .n_out_min = 3,
                                                      .n_out_max = 3,
                                                      .infer = dynamic_infer,
                                                      .forward = dynamic_forward};
