/* Shape: the dimensions [start, end) of x as int64; Size: the number of its elements. */
#include "quantcore/ops/op_util.h"

struct attrs {
    int64_t start, end;
};

static enum mpq_status shape_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   struct mpq_node *node)
{
    struct attrs attrs = {mpq_attr_int(&node->attr_set, "start", 0),
                          mpq_attr_int(&node->attr_set, "end", MPQ_MAX_RANK)};
    node->attrs = mpq_arena_copy(ctx, arena, &attrs, sizeof attrs);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

static int64_t clamp_axis(int64_t axis, int rank)
{
    axis = axis < 0 ? axis + rank : axis;
    return axis < 0 ? 0 : axis > rank ? rank : axis;
}

static enum mpq_status shape_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                   const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct attrs *attrs = node->attrs;
    int64_t start = clamp_axis(attrs->start, x[0]->shape.rank);
    int64_t end = clamp_axis(attrs->end, x[0]->shape.rank);
    return mpq_infer_set(ctx, node, y[0], MPQ_INT64, &MPQ_SHAPE(end > start ? end - start : 0));
}

static void shape_forward(const struct mpq_kernel_args *args)
{
    const struct attrs *attrs = args->node->attrs;
    int64_t start = clamp_axis(attrs->start, args->x[0]->shape.rank);
    int64_t *y = args->y[0]->data;
    for (int64_t i = 0; i < args->y[0]->shape.dim[0]; i++)
        y[i] = args->x[0]->shape.dim[start + i];
}

const struct mpq_op mpq_op_shape = {.name = "Shape",
                                    .domain = "",
                                    .n_in_min = 1,
                                    .n_in_max = 1,
                                    .n_out_min = 1,
                                    .n_out_max = 1,
                                    .reads_shape_only = true,
                                    .parse = shape_parse,
                                    .infer = shape_infer,
                                    .forward = shape_forward};

static enum mpq_status size_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                  const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    (void)x;
    return mpq_infer_set(ctx, node, y[0], MPQ_INT64, &(struct mpq_shape){0});
}

static void size_forward(const struct mpq_kernel_args *args)
{
    *(int64_t *)args->y[0]->data = mpq_shape_count(&args->x[0]->shape);
}

const struct mpq_op mpq_op_size = {.name = "Size",
                                   .domain = "",
                                   .n_in_min = 1,
                                   .n_in_max = 1,
                                   .n_out_min = 1,
                                   .n_out_max = 1,
                                   .reads_shape_only = true,
                                   .infer = size_infer,
                                   .forward = size_forward};
