/* Trilu: the upper or lower triangle of the matrices in x, the rest 0; constant input 1 shifts the
 * diagonal to the right. */
#include <string.h>

#include "quantcore/ops/op_util.h"

static enum mpq_status trilu_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   struct mpq_node *node)
{
    return mpq_parse_int(ctx, arena, node, "upper", 1);
}

static enum mpq_status trilu_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                   const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct mpq_tensor *k = mpq_input(node, x, 1);
    if (x[0]->shape.rank < 2)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "input %s is no matrix",
                             MPQ_SHAPE_TEXT(&x[0]->shape));
    if (k && (!mpq_dtype_is_integer(k->dtype) || mpq_shape_count(&k->shape) != 1))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "the diagonal is %s %s",
                             mpq_dtype_name(k->dtype), MPQ_SHAPE_TEXT(&k->shape));
    return mpq_infer_same(ctx, node, x, y);
}

/* Columns [*first, *end) of a row that stay. */
static void kept(const struct mpq_kernel_args *args, int64_t row, int64_t n, int64_t *first,
                 int64_t *end)
{
    const struct mpq_tensor *k = mpq_input(args->node, args->x, 1);
    int64_t shift = k ? mpq_tensor_int(k, 0) : 0;
    shift = shift > INT32_MAX ? INT32_MAX : shift < INT32_MIN ? INT32_MIN : shift;
    int64_t diagonal = row + shift + !mpq_parsed_int(args->node);
    diagonal = diagonal < 0 ? 0 : diagonal > n ? n : diagonal;
    *first = mpq_parsed_int(args->node) ? diagonal : 0;
    *end = mpq_parsed_int(args->node) ? n : diagonal;
}

static void trilu_forward(const struct mpq_kernel_args *args)
{
    const struct mpq_shape *shape = &args->x[0]->shape;
    int64_t n = shape->dim[shape->rank - 1], m = shape->dim[shape->rank - 2], first, end;
    int64_t n_row = mpq_shape_count_range(shape, 0, shape->rank - 1);
    size_t bytes = mpq_dtype_bytes(args->y[0]->dtype);
    const uint8_t *x = args->x[0]->data;
    uint8_t *y = args->y[0]->data;
    memset(y, 0, mpq_tensor_bytes(args->y[0]));
    for (int64_t r = 0; r < n_row; r++) {
        kept(args, r % m, n, &first, &end);
        if (end > first)
            memcpy(y + (size_t)(r * n + first) * bytes, x + (size_t)(r * n + first) * bytes,
                   (size_t)(end - first) * bytes);
    }
}

static void trilu_backward(const struct mpq_kernel_args *args)
{
    const struct mpq_shape *shape = &args->x[0]->shape;
    int64_t n = shape->dim[shape->rank - 1], m = shape->dim[shape->rank - 2], first, end;
    int64_t n_row = mpq_shape_count_range(shape, 0, shape->rank - 1);
    if (!args->dy[0] || !args->dx[0])
        return;
    for (int64_t r = 0; r < n_row; r++) {
        kept(args, r % m, n, &first, &end);
        for (int64_t i = first; i < end; i++)
            args->dx[0][r * n + i] += args->dy[0][r * n + i];
    }
}

const struct mpq_op mpq_op_trilu = {.name = "Trilu",
                                    .domain = "",
                                    .n_in_min = 1,
                                    .n_in_max = 2,
                                    .n_out_min = 1,
                                    .n_out_max = 1,
                                    .parse = trilu_parse,
                                    .infer = trilu_infer,
                                    .forward = trilu_forward,
                                    .backward = trilu_backward};
