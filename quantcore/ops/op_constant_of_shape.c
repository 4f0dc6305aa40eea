/* ConstantOfShape: one element, attribute `value` (float 0 by default), repeated over the constant
 * shape in input 0. */
#include <string.h>

#include "quantcore/ops/op_util.h"

static enum mpq_status constant_of_shape_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                               struct mpq_node *node)
{
    static const mpq_real zero = 0;
    const struct mpq_attr *attr = mpq_attr_find(&node->attr_set, "value");
    const struct mpq_tensor *value = attr && attr->kind == MPQ_ATTR_TENSOR ? attr->tensor : NULL;
    if (value && mpq_shape_count(&value->shape) != 1)
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "value has %lld elements, not one",
                             (long long)mpq_shape_count(&value->shape));
    struct mpq_tensor *copy = mpq_arena_alloc(ctx, arena, 1, sizeof *copy);
    if (!copy)
        return MPQ_E_NOMEM;
    *copy = value ? *value : (struct mpq_tensor){MPQ_FLOAT, MPQ_SHAPE(1), (void *)(uintptr_t)&zero};
    node->attrs = copy;
    return MPQ_OK;
}

static enum mpq_status constant_of_shape_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                               const struct mpq_tensor *const *x,
                                               struct mpq_tensor *const *y)
{
    struct mpq_shape shape = {0};
    MPQ_TRY(mpq_const_ints(ctx, node, x, 0, "the shape", MPQ_MAX_RANK, shape.dim, &shape.rank));
    if (!mpq_shape_is_known(&shape))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "%s is no shape", MPQ_SHAPE_TEXT(&shape));
    return mpq_infer_set(ctx, node, y[0], ((const struct mpq_tensor *)node->attrs)->dtype, &shape);
}

static void constant_of_shape_forward(const struct mpq_kernel_args *args)
{
    const struct mpq_tensor *value = args->node->attrs;
    size_t bytes = mpq_dtype_bytes(value->dtype);
    uint8_t *y = args->y[0]->data;
    int64_t n = mpq_shape_count(&args->y[0]->shape);
    for (int64_t i = 0; i < n; i++)
        memcpy(y + (size_t)i * bytes, value->data, bytes);
}

const struct mpq_op mpq_op_constant_of_shape = {.name = "ConstantOfShape",
                                                .domain = "",
                                                .n_in_min = 1,
                                                .n_in_max = 1,
                                                .n_out_min = 1,
                                                .n_out_max = 1,
                                                .parse = constant_of_shape_parse,
                                                .infer = constant_of_shape_infer,
                                                .forward = constant_of_shape_forward};
