/* GroupNormalization and InstanceNormalization of x [N, C, ...]: rows are the channels of a group,
 * or one channel; scale and bias [C]. */
#include "quantcore/ops/kernel/normalize.h"
#include "quantcore/ops/op_util.h"

struct attrs {
    int64_t n_group; /* 0: one a channel */
    float epsilon;
};

static enum mpq_status group_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   struct mpq_node *node)
{
    struct attrs attrs = {mpq_attr_int(&node->attr_set, "num_groups", 0),
                          mpq_attr_float(&node->attr_set, "epsilon", 1e-5f)};
    if (mpq_attr_int(&node->attr_set, "stash_type", MPQ_FLOAT) != MPQ_FLOAT)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "only stash_type 1 is supported");
    node->attrs = mpq_arena_copy(ctx, arena, &attrs, sizeof attrs);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

static enum mpq_status group_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                   const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct attrs *attrs = node->attrs;
    const struct mpq_shape *shape = &x[0]->shape;
    if (shape->rank < 3)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "input %s has no planes",
                             MPQ_SHAPE_TEXT(shape));
    if (attrs->n_group < 0 || (attrs->n_group > 0 && shape->dim[1] % attrs->n_group != 0))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "%lld channels in %lld groups",
                             (long long)shape->dim[1], (long long)attrs->n_group);
    for (int i = 0; i < 3; i++) {
        MPQ_TRY(mpq_check_float(ctx, node, x, i));
        if (i > 0 && !mpq_shape_equal(&x[i]->shape, &MPQ_SHAPE(shape->dim[1])))
            return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "input %d is %s for an input of %s",
                                 i, MPQ_SHAPE_TEXT(&x[i]->shape), MPQ_SHAPE_TEXT(shape));
    }
    return mpq_infer_same(ctx, node, x, y);
}

static struct mpq_normalize make(const struct mpq_kernel_args *args)
{
    const struct attrs *attrs = args->node->attrs;
    const struct mpq_shape *shape = &args->x[0]->shape;
    int64_t n_group = attrs->n_group > 0 ? attrs->n_group : shape->dim[1];
    int64_t run = mpq_shape_count_range(shape, 2, shape->rank);
    return (struct mpq_normalize){.n_row = shape->dim[0] * n_group,
                                  .length = n_group ? shape->dim[1] / n_group * run : 0,
                                  .n_group = n_group,
                                  .run = run,
                                  .epsilon = (double)attrs->epsilon};
}

static void group_forward(const struct mpq_kernel_args *args)
{
    struct mpq_normalize normalize = make(args);
    if (normalize.length > 0)
        mpq_normalize_forward(&normalize, args, NULL, NULL);
}

static void group_backward(const struct mpq_kernel_args *args)
{
    struct mpq_normalize normalize = make(args);
    if (normalize.length > 0)
        mpq_normalize_backward(&normalize, args);
}

#define ROW(onnx_name, symbol)                                                                     \
    const struct mpq_op mpq_op_##symbol = {.name = onnx_name,                                      \
                                           .domain = "",                                           \
                                           .n_in_min = 3,                                          \
                                           .n_in_max = 3,                                          \
                                           .n_out_min = 1,                                         \
                                           .n_out_max = 1,                                         \
                                           .parse = group_parse,                                   \
                                           .infer = group_infer,                                   \
                                           .forward = group_forward,                               \
                                           .backward = group_backward}

ROW("GroupNormalization", group_normalization);
ROW("InstanceNormalization", instance_normalization);
