/* Reshape, Flatten, Squeeze, Unsqueeze: the same elements under another shape. */
#include "quantcore/ops/op_util.h"

/* Both shapes are known; fails unless they hold equally many elements. */
static enum mpq_status set_reshaped(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *x, struct mpq_tensor *y,
                                    const struct mpq_shape *shape)
{
    MPQ_TRY(mpq_infer_set(ctx, node, y, x->dtype, shape));
    if (mpq_shape_count(shape) != mpq_shape_count(&x->shape))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "%s cannot become %s",
                             MPQ_SHAPE_TEXT(&x->shape), MPQ_SHAPE_TEXT(shape));
    return MPQ_OK;
}

static enum mpq_status reshape_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                     struct mpq_node *node)
{
    return mpq_parse_int(ctx, arena, node, "allowzero", 0);
}

/* A target of 0 copies the input's dimension (unless allowzero), one of -1 takes what is left. */
static enum mpq_status reshape_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                     const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct mpq_shape *from = &x[0]->shape;
    struct mpq_shape shape = {0}, target;
    int unknown = -1;
    int64_t rest = 1;
    MPQ_TRY(mpq_const_ints(ctx, node, x, 1, "the shape", MPQ_MAX_RANK, shape.dim, &shape.rank));
    target = shape;
    for (int i = 0; i < shape.rank; i++) {
        if (shape.dim[i] == 0 && mpq_parsed_int(node) == 0 && i < from->rank)
            shape.dim[i] = from->dim[i];
        bool is_bad = shape.dim[i] < -1 || (shape.dim[i] == -1 && unknown >= 0);
        if (shape.dim[i] == -1)
            unknown = i;
        else if (is_bad || __builtin_mul_overflow(rest, shape.dim[i], &rest))
            is_bad = true;
        if (is_bad)
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "%s is no shape to take for %s",
                                 MPQ_SHAPE_TEXT(&target), MPQ_SHAPE_TEXT(from));
    }
    if (unknown >= 0)
        shape.dim[unknown] = rest ? mpq_shape_count(from) / rest : 0;
    return set_reshaped(ctx, node, x[0], y[0], &shape);
}

static enum mpq_status flatten_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                     struct mpq_node *node)
{
    return mpq_parse_int(ctx, arena, node, "axis", 1);
}

static enum mpq_status flatten_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                     const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct mpq_shape *from = &x[0]->shape;
    int64_t axis = mpq_parsed_int(node);
    if (axis < -from->rank || axis > from->rank)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "axis %lld is outside of rank %d",
                             (long long)axis, from->rank);
    int split = (int)(axis < 0 ? axis + from->rank : axis);
    struct mpq_shape shape = MPQ_SHAPE(mpq_shape_count_range(from, 0, split),
                                       mpq_shape_count_range(from, split, from->rank));
    return set_reshaped(ctx, node, x[0], y[0], &shape);
}

/* Without axes every dimension of length 1 goes. */
static enum mpq_status squeeze_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                     const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct mpq_shape *from = &x[0]->shape;
    struct mpq_shape shape = {0};
    int64_t axis[MPQ_MAX_RANK];
    bool gone[MPQ_MAX_RANK] = {false};
    int n = 0;
    if (mpq_input(node, x, 1)) {
        MPQ_TRY(mpq_const_ints(ctx, node, x, 1, "axes", from->rank, axis, &n));
        MPQ_TRY(mpq_check_axes(ctx, node, axis, n, from->rank, gone));
    } else {
        for (int i = 0; i < from->rank; i++)
            gone[i] = from->dim[i] == 1;
    }
    for (int i = 0; i < from->rank; i++) {
        if (!gone[i])
            shape.dim[shape.rank++] = from->dim[i];
        else if (from->dim[i] != 1)
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "axis %d of %s is not of length 1", i,
                                 MPQ_SHAPE_TEXT(from));
    }
    return set_reshaped(ctx, node, x[0], y[0], &shape);
}

static enum mpq_status unsqueeze_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                       const struct mpq_tensor *const *x,
                                       struct mpq_tensor *const *y)
{
    const struct mpq_shape *from = &x[0]->shape;
    int64_t axis[MPQ_MAX_RANK];
    bool is_new[MPQ_MAX_RANK];
    int n = 0;
    MPQ_TRY(mpq_const_ints(ctx, node, x, 1, "axes", MPQ_MAX_RANK - from->rank, axis, &n));
    struct mpq_shape shape = {.rank = from->rank + n};
    MPQ_TRY(mpq_check_axes(ctx, node, axis, n, shape.rank, is_new));
    for (int i = 0, k = 0; i < shape.rank; i++)
        shape.dim[i] = is_new[i] ? 1 : from->dim[k++];
    return set_reshaped(ctx, node, x[0], y[0], &shape);
}

#define ROW(onnx_name, symbol, n_min, n_max, parse_fn)                                             \
    const struct mpq_op mpq_op_##symbol = {.name = onnx_name,                                      \
                                           .domain = "",                                           \
                                           .n_in_min = n_min,                                      \
                                           .n_in_max = n_max,                                      \
                                           .n_out_min = 1,                                         \
                                           .n_out_max = 1,                                         \
                                           .parse = parse_fn,                                      \
                                           .infer = symbol##_infer,                                \
                                           .forward = mpq_forward_copy,                            \
                                           .backward_ignores = MPQ_IGNORES_X | MPQ_IGNORES_Y,      \
                                           .sets_dx = true,                                        \
                                           .in_place_dx = true,                                    \
                                           .backward = mpq_backward_copy}

ROW("Reshape", reshape, 2, 2, reshape_parse);
ROW("Flatten", flatten, 1, 1, flatten_parse);
ROW("Squeeze", squeeze, 1, 2, NULL);
ROW("Unsqueeze", unsqueeze, 2, 2, NULL);
