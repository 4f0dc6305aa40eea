/* SwiGLU: y = a sigmoid(alpha a) b, a gate and what passes it, of one shape. */
#include "quantcore/ops/kernel/real_math.h"
#include "quantcore/ops/op_util.h"

static enum mpq_status swiglu_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_node *node)
{
    mpq_real alpha = (mpq_real)mpq_attr_float(&node->attr_set, "alpha", 1.0f);
    node->attrs = mpq_arena_copy(ctx, arena, &alpha, sizeof alpha);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

static enum mpq_status swiglu_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    MPQ_TRY(mpq_check_same_dtype(ctx, node, x));
    if (!mpq_shape_equal(&x[0]->shape, &x[1]->shape))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "a gate of %s for %s",
                             MPQ_SHAPE_TEXT(&x[0]->shape), MPQ_SHAPE_TEXT(&x[1]->shape));
    return mpq_infer_same_float(ctx, node, x, y);
}

static void swiglu_forward(const struct mpq_kernel_args *args)
{
    mpq_real alpha = *(const mpq_real *)args->node->attrs, *y = args->y[0]->data;
    const mpq_real *a = args->x[0]->data, *b = args->x[1]->data;
    int64_t n = mpq_shape_count(&args->y[0]->shape);
    for (int64_t i = 0; i < n; i++)
        y[i] = a[i] * mpq_sigmoid(alpha * a[i]) * b[i];
}

static void swiglu_backward(const struct mpq_kernel_args *args)
{
    mpq_real alpha = *(const mpq_real *)args->node->attrs;
    const mpq_real *a = args->x[0]->data, *b = args->x[1]->data, *dy = args->dy[0];
    int64_t n = mpq_shape_count(&args->y[0]->shape);
    for (int64_t i = 0; i < n && dy; i++) {
        mpq_real s = mpq_sigmoid(alpha * a[i]);
        if (args->dx[0])
            args->dx[0][i] += dy[i] * b[i] * s * (1 + alpha * a[i] * (1 - s));
        if (args->dx[1])
            args->dx[1][i] += dy[i] * a[i] * s;
    }
}

const struct mpq_op mpq_op_swiglu = {.name = "SwiGLU",
                                     .domain = "",
                                     .n_in_min = 2,
                                     .n_in_max = 2,
                                     .n_out_min = 1,
                                     .n_out_max = 1,
                                     .parse = swiglu_parse,
                                     .infer = swiglu_infer,
                                     .forward = swiglu_forward,
                                     .backward = swiglu_backward};
