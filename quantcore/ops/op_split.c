/* Split: x cut along one axis into the lengths of constant input 1, or into as many equal pieces as
 * there are outputs (the last one shorter where it does not divide). */
#include <string.h>

#include "quantcore/ops/op_util.h"

static enum mpq_status split_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   struct mpq_node *node)
{
    return mpq_parse_int(ctx, arena, node, "axis", 0);
}

static int64_t piece_length(const struct mpq_node *node, const struct mpq_tensor *const *x,
                            int64_t dim, uint32_t k)
{
    const struct mpq_tensor *lengths = mpq_input(node, x, 1);
    if (lengths)
        return mpq_tensor_int(lengths, k);
    int64_t length = (dim + node->n_out - 1) / node->n_out, left = dim - length * (int64_t)k;
    return left < 0 ? 0 : left < length ? left : length;
}

static enum mpq_status split_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                   const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    struct mpq_shape shape = x[0]->shape;
    const struct mpq_tensor *lengths = mpq_input(node, x, 1);
    int axis = 0;
    MPQ_TRY(mpq_check_axis(ctx, node, mpq_parsed_int(node), shape.rank, &axis));
    if (lengths && !lengths->data)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "split (input 1) is not constant");
    if (lengths && (lengths->dtype != MPQ_INT64 || lengths->shape.rank != 1 ||
                    lengths->shape.dim[0] != node->n_out))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "split is %s %s for %u outputs",
                             mpq_dtype_name(lengths->dtype), MPQ_SHAPE_TEXT(&lengths->shape),
                             node->n_out);
    int64_t left = x[0]->shape.dim[axis];
    for (uint32_t k = 0; k < node->n_out; k++) {
        shape.dim[axis] = piece_length(node, x, x[0]->shape.dim[axis], k);
        if (shape.dim[axis] < 0 || shape.dim[axis] > left)
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "the pieces do not add up to %s",
                                 MPQ_SHAPE_TEXT(&x[0]->shape));
        left -= shape.dim[axis];
        if (y[k])
            MPQ_TRY(mpq_infer_set(ctx, node, y[k], x[0]->dtype, &shape));
    }
    if (left != 0)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "the pieces do not add up to %s",
                             MPQ_SHAPE_TEXT(&x[0]->shape));
    return MPQ_OK;
}

struct layout {
    int64_t outer, dim, inner;
};

static struct layout make_layout(const struct mpq_kernel_args *args)
{
    const struct mpq_shape *shape = &args->x[0]->shape;
    int axis = mpq_parsed_axis(args->node, shape->rank);
    return (struct layout){mpq_shape_count_range(shape, 0, axis), shape->dim[axis],
                           mpq_shape_count_range(shape, axis + 1, shape->rank)};
}

static void split_forward(const struct mpq_kernel_args *args)
{
    struct layout l = make_layout(args);
    size_t bytes = mpq_dtype_bytes(args->x[0]->dtype);
    size_t row = (size_t)(l.dim * l.inner) * bytes;
    const uint8_t *x = args->x[0]->data;
    for (uint32_t k = 0; k < args->node->n_out; k++) {
        size_t piece = (size_t)(piece_length(args->node, args->x, l.dim, k) * l.inner) * bytes;
        if (args->y[k])
            for (int64_t o = 0; o < l.outer; o++)
                memcpy((uint8_t *)args->y[k]->data + (size_t)o * piece, x + (size_t)o * row, piece);
        x += piece;
    }
}

static void split_backward(const struct mpq_kernel_args *args)
{
    struct layout l = make_layout(args);
    int64_t start = 0;
    for (uint32_t k = 0; args->dx[0] && k < args->node->n_out; k++) {
        int64_t piece = piece_length(args->node, args->x, l.dim, k) * l.inner;
        if (args->dy[k])
            for (int64_t o = 0; o < l.outer; o++)
                mpq_accumulate(args->dx[0] + o * l.dim * l.inner + start, args->dy[k] + o * piece,
                               piece, false);
        start += piece;
    }
}

const struct mpq_op mpq_op_split = {.name = "Split",
                                    .domain = "",
                                    .n_in_min = 1,
                                    .n_in_max = 2,
                                    .n_out_min = 1,
                                    .n_out_max = -1,
                                    .parse = split_parse,
                                    .infer = split_infer,
                                    .forward = split_forward,
                                    .backward = split_backward};
