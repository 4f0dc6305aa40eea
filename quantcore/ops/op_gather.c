/* Gather: y = x taken along one axis at the indices of input 1: x [outer, n, inner], indices [any],
 * y [outer, any, inner]. Constant indices are checked; others are clamped into the axis, there
 * being no way to fail while running. */
#include <string.h>

#include "quantcore/ops/op_util.h"

static enum mpq_status gather_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_node *node)
{
    return mpq_parse_int(ctx, arena, node, "axis", 0);
}

static enum mpq_status gather_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct mpq_shape *from = &x[0]->shape, *index = &x[1]->shape;
    struct mpq_shape shape = {.rank = from->rank - 1 + index->rank};
    int axis = 0;
    MPQ_TRY(mpq_check_axis(ctx, node, mpq_parsed_int(node), from->rank, &axis));
    MPQ_TRY(mpq_check_indices(ctx, node, x[1], from->dim[axis]));
    if (shape.rank > MPQ_MAX_RANK)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "the output has rank %d", shape.rank);
    for (int i = 0; i < axis; i++)
        shape.dim[i] = from->dim[i];
    for (int i = 0; i < index->rank; i++)
        shape.dim[axis + i] = index->dim[i];
    for (int i = axis + 1; i < from->rank; i++)
        shape.dim[index->rank - 1 + i] = from->dim[i];
    return mpq_infer_set(ctx, node, y[0], x[0]->dtype, &shape);
}

struct layout {
    int64_t outer, n, inner, n_index;
};

static struct layout make_layout(const struct mpq_kernel_args *args)
{
    const struct mpq_shape *from = &args->x[0]->shape;
    int axis = mpq_parsed_axis(args->node, from->rank);
    return (struct layout){mpq_shape_count_range(from, 0, axis), from->dim[axis],
                           mpq_shape_count_range(from, axis + 1, from->rank),
                           mpq_shape_count(&args->x[1]->shape)};
}

static void gather_forward(const struct mpq_kernel_args *args)
{
    struct layout l = make_layout(args);
    size_t bytes = mpq_dtype_bytes(args->y[0]->dtype) * (size_t)l.inner;
    const uint8_t *x = args->x[0]->data;
    uint8_t *y = args->y[0]->data;
    for (int64_t o = 0; o < l.outer; o++)
        for (int64_t i = 0; i < l.n_index; i++, y += bytes)
            memcpy(y, x + (size_t)(o * l.n + mpq_index_at(args->x[1], i, l.n)) * bytes, bytes);
}

static void gather_backward(const struct mpq_kernel_args *args)
{
    struct layout l = make_layout(args);
    const mpq_real *dy = args->dy[0];
    if (!dy || !args->dx[0])
        return;
    for (int64_t o = 0; o < l.outer; o++)
        for (int64_t i = 0; i < l.n_index; i++, dy += l.inner)
            mpq_accumulate(args->dx[0] + (o * l.n + mpq_index_at(args->x[1], i, l.n)) * l.inner, dy,
                           l.inner, false);
}

const struct mpq_op mpq_op_gather = {.name = "Gather",
                                     .domain = "",
                                     .n_in_min = 2,
                                     .n_in_max = 2,
                                     .n_out_min = 1,
                                     .n_out_max = 1,
                                     .parse = gather_parse,
                                     .infer = gather_infer,
                                     .forward = gather_forward,
                                     .backward = gather_backward};
