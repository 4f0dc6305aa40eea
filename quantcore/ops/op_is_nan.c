/* IsNaN, IsInf: bool, of FLOAT. */
#include <math.h>

#include "quantcore/ops/op_util.h"

static enum mpq_status is_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    return mpq_infer_set(ctx, node, y[0], MPQ_BOOL, &x[0]->shape);
}

static void is_nan_forward(const struct mpq_kernel_args *args)
{
    const mpq_real *x = args->x[0]->data;
    uint8_t *y = args->y[0]->data;
    for (int64_t i = 0; i < mpq_shape_count(&args->y[0]->shape); i++)
        y[i] = x[i] != x[i];
}

const struct mpq_op mpq_op_is_nan = {.name = "IsNaN",
                                     .domain = "",
                                     .n_in_min = 1,
                                     .n_in_max = 1,
                                     .n_out_min = 1,
                                     .n_out_max = 1,
                                     .infer = is_infer,
                                     .forward = is_nan_forward};

/* attrs: which signs count. */
struct signs {
    bool negative, positive;
};

static enum mpq_status is_inf_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_node *node)
{
    struct signs signs = {mpq_attr_int(&node->attr_set, "detect_negative", 1) != 0,
                          mpq_attr_int(&node->attr_set, "detect_positive", 1) != 0};
    node->attrs = mpq_arena_copy(ctx, arena, &signs, sizeof signs);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

static void is_inf_forward(const struct mpq_kernel_args *args)
{
    const struct signs *signs = args->node->attrs;
    const mpq_real *x = args->x[0]->data;
    uint8_t *y = args->y[0]->data;
    for (int64_t i = 0; i < mpq_shape_count(&args->y[0]->shape); i++)
        y[i] = isinf(x[i]) && (x[i] > 0 ? signs->positive : signs->negative);
}

const struct mpq_op mpq_op_is_inf = {.name = "IsInf",
                                     .domain = "",
                                     .n_in_min = 1,
                                     .n_in_max = 1,
                                     .n_out_min = 1,
                                     .n_out_max = 1,
                                     .parse = is_inf_parse,
                                     .infer = is_infer,
                                     .forward = is_inf_forward};
