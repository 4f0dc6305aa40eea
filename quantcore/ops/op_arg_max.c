/* ArgMax and ArgMin: index of the largest or smallest element along one axis, the first (or, with
 * select_last_index, the last) of several. */
#include "quantcore/ops/op_util.h"

struct attrs {
    int64_t axis;
    bool keep_dims, select_last;
};

static enum mpq_status arg_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 struct mpq_node *node)
{
    struct attrs attrs = {.axis = mpq_attr_int(&node->attr_set, "axis", 0),
                          .keep_dims = mpq_attr_int(&node->attr_set, "keepdims", 1) != 0,
                          .select_last =
                              mpq_attr_int(&node->attr_set, "select_last_index", 0) != 0};
    node->attrs = mpq_arena_copy(ctx, arena, &attrs, sizeof attrs);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

static enum mpq_status arg_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                 const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct attrs *attrs = node->attrs;
    const struct mpq_shape *from = &x[0]->shape;
    struct mpq_shape shape = {0};
    int axis = 0;
    MPQ_TRY(mpq_check_axis(ctx, node, attrs->axis, from->rank, &axis));
    if (!mpq_dtype_is_integer(x[0]->dtype))
        MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    if (from->dim[axis] == 0)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "axis %d of %s is empty", axis,
                             MPQ_SHAPE_TEXT(from));
    for (int i = 0; i < from->rank; i++)
        if (i != axis || attrs->keep_dims)
            shape.dim[shape.rank++] = i == axis ? 1 : from->dim[i];
    return mpq_infer_set(ctx, node, y[0], MPQ_INT64, &shape);
}

static void arg_forward(const struct mpq_kernel_args *args, double sign)
{
    const struct attrs *attrs = args->node->attrs;
    const struct mpq_tensor *x = args->x[0];
    const struct mpq_shape *shape = &x->shape;
    int axis = (int)(attrs->axis < 0 ? attrs->axis + shape->rank : attrs->axis);
    int64_t outer = mpq_shape_count_range(shape, 0, axis), n = shape->dim[axis];
    int64_t inner = mpq_shape_count_range(shape, axis + 1, shape->rank);
    int64_t *y = args->y[0]->data;
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < inner; i++) {
            int64_t best = 0, base = o * n * inner + i;
            double best_value = sign * mpq_tensor_double(x, base);
            for (int64_t k = 1; k < n; k++) {
                double value = sign * mpq_tensor_double(x, base + k * inner);
                if (value > best_value || (attrs->select_last && value == best_value)) {
                    best = k;
                    best_value = value;
                }
            }
            y[o * inner + i] = best;
        }
}

static void arg_max_forward(const struct mpq_kernel_args *args)
{
    arg_forward(args, 1);
}

static void arg_min_forward(const struct mpq_kernel_args *args)
{
    arg_forward(args, -1);
}

const struct mpq_op mpq_op_arg_max = {.name = "ArgMax",
                                      .domain = "",
                                      .n_in_min = 1,
                                      .n_in_max = 1,
                                      .n_out_min = 1,
                                      .n_out_max = 1,
                                      .parse = arg_parse,
                                      .infer = arg_infer,
                                      .forward = arg_max_forward};

const struct mpq_op mpq_op_arg_min = {.name = "ArgMin",
                                      .domain = "",
                                      .n_in_min = 1,
                                      .n_in_max = 1,
                                      .n_out_min = 1,
                                      .n_out_max = 1,
                                      .parse = arg_parse,
                                      .infer = arg_infer,
                                      .forward = arg_min_forward};
