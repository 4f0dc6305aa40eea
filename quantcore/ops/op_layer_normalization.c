/* LayerNormalization and RMSNormalization: rows are everything from `axis` on; scale and bias have
 * the shape of a row. */
#include "quantcore/ops/kernel/normalize.h"
#include "quantcore/ops/op_util.h"

struct attrs {
    int64_t axis;
    float epsilon;
};

static enum mpq_status layer_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   struct mpq_node *node)
{
    struct attrs attrs = {mpq_attr_int(&node->attr_set, "axis", -1),
                          mpq_attr_float(&node->attr_set, "epsilon", 1e-5f)};
    if (mpq_attr_int(&node->attr_set, "stash_type", MPQ_FLOAT) != MPQ_FLOAT)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "only stash_type 1 is supported");
    node->attrs = mpq_arena_copy(ctx, arena, &attrs, sizeof attrs);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

/* y[1] and y[2], where wanted, hold mean and 1 / deviation of each row. */
static enum mpq_status layer_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                   const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct attrs *attrs = node->attrs;
    const struct mpq_shape *shape = &x[0]->shape;
    int axis = 0;
    MPQ_TRY(mpq_check_axis(ctx, node, attrs->axis, shape->rank, &axis));
    struct mpq_shape row = {.rank = shape->rank - axis}, reduced = *shape;
    for (int i = axis; i < shape->rank; i++) {
        row.dim[i - axis] = shape->dim[i];
        reduced.dim[i] = 1;
    }
    for (int i = 0; i < (int)node->n_in; i++) {
        MPQ_TRY(mpq_check_float(ctx, node, x, i));
        if (i > 0 && x[i] && !mpq_shape_equal(&x[i]->shape, &row))
            return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "input %d is %s, not %s", i,
                                 MPQ_SHAPE_TEXT(&x[i]->shape), MPQ_SHAPE_TEXT(&row));
    }
    for (uint32_t k = 1; k < node->n_out; k++)
        if (y[k])
            MPQ_TRY(mpq_infer_set(ctx, node, y[k], MPQ_FLOAT, &reduced));
    return mpq_infer_same(ctx, node, x, y);
}

static struct mpq_normalize make(const struct mpq_kernel_args *args, bool keep_mean)
{
    const struct attrs *attrs = args->node->attrs;
    const struct mpq_shape *shape = &args->x[0]->shape;
    int axis = (int)(attrs->axis < 0 ? attrs->axis + shape->rank : attrs->axis);
    return (struct mpq_normalize){.n_row = mpq_shape_count_range(shape, 0, axis),
                                  .length = mpq_shape_count_range(shape, axis, shape->rank),
                                  .n_group = 1,
                                  .run = 1,
                                  .epsilon = (double)attrs->epsilon,
                                  .keep_mean = keep_mean};
}

static mpq_real *output(const struct mpq_kernel_args *args, uint32_t k)
{
    return k < args->node->n_out && args->y[k] ? args->y[k]->data : NULL;
}

#define ROW(onnx_name, symbol, n_in, n_out, keep_mean)                                             \
    static void symbol##_forward(const struct mpq_kernel_args *args)                               \
    {                                                                                              \
        struct mpq_normalize normalize = make(args, keep_mean);                                    \
        mpq_normalize_forward(&normalize, args, output(args, 1), output(args, 2));                 \
    }                                                                                              \
    static void symbol##_backward(const struct mpq_kernel_args *args)                              \
    {                                                                                              \
        struct mpq_normalize normalize = make(args, keep_mean);                                    \
        mpq_normalize_backward(&normalize, args);                                                  \
    }                                                                                              \
    const struct mpq_op mpq_op_##symbol = {.name = onnx_name,                                      \
                                           .domain = "",                                           \
                                           .n_in_min = 2,                                          \
                                           .n_in_max = n_in,                                       \
                                           .n_out_min = 1,                                         \
                                           .n_out_max = n_out,                                     \
                                           .parse = layer_parse,                                   \
                                           .infer = layer_infer,                                   \
                                           .forward = symbol##_forward,                            \
                                           .backward = symbol##_backward}

ROW("LayerNormalization", layer_normalization, 3, 3, false);
ROW("RMSNormalization", rms_normalization, 2, 1, true);
