/* Concat: inputs laid end to end along one axis. As bytes, input k is [outer][piece_k] and y is
 * [outer][sum of pieces]. */
#include <string.h>

#include "quantcore/base/thread.h"
#include "quantcore/ops/op_util.h"

static enum mpq_status concat_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_node *node)
{
    if (!mpq_attr_find(&node->attr_set, "axis"))
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "attribute axis is missing");
    return mpq_parse_int(ctx, arena, node, "axis", 0);
}

static enum mpq_status concat_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    struct mpq_shape shape = x[0]->shape;
    int axis = 0;
    MPQ_TRY(mpq_check_axis(ctx, node, mpq_parsed_int(node), shape.rank, &axis));
    for (uint32_t k = 1; k < node->n_in; k++) {
        if (!x[k])
            return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "input %u is missing", k);
        struct mpq_shape like = x[k]->shape;
        if (like.rank == shape.rank)
            like.dim[axis] = x[0]->shape.dim[axis];
        if (!mpq_shape_equal(&like, &x[0]->shape))
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "%s and %s do not join at axis %d",
                                 MPQ_SHAPE_TEXT(&x[0]->shape), MPQ_SHAPE_TEXT(&x[k]->shape), axis);
        shape.dim[axis] += x[k]->shape.dim[axis];
    }
    MPQ_TRY(mpq_check_same_dtype(ctx, node, x));
    return mpq_infer_set(ctx, node, y[0], x[0]->dtype, &shape);
}

struct piece {
    uint8_t *y;
    const uint8_t *x;
    size_t row_bytes, piece_bytes; /* of y, of x */
};

static void copy_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct piece *p = arg;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        memcpy(p->y + (size_t)i * p->row_bytes, p->x + (size_t)i * p->piece_bytes, p->piece_bytes);
}

struct back_piece {
    mpq_real *dx;
    const mpq_real *dy;
    int64_t row, piece; /* elements of y, of x */
    bool fresh;
};

static int64_t row_grain(size_t piece_bytes)
{
    return 1 + (int64_t)(MPQ_GRAIN * sizeof(mpq_real) / (piece_bytes + 1));
}

static void concat_forward(const struct mpq_kernel_args *args)
{
    const struct mpq_shape *shape = &args->y[0]->shape;
    int axis = mpq_parsed_axis(args->node, shape->rank);
    int64_t outer = mpq_shape_count_range(shape, 0, axis);
    size_t bytes = mpq_dtype_bytes(args->y[0]->dtype);
    struct piece piece = {.y = args->y[0]->data,
                          .row_bytes =
                              bytes * (size_t)mpq_shape_count_range(shape, axis, shape->rank)};
    for (uint32_t k = 0; k < args->node->n_in; k++) {
        piece.x = args->x[k]->data;
        piece.piece_bytes =
            bytes * (size_t)mpq_shape_count_range(&args->x[k]->shape, axis, shape->rank);
        mpq_parallel_for(outer, row_grain(piece.piece_bytes), copy_rows, &piece);
        piece.y += piece.piece_bytes;
    }
}

/* The other way, dx being x. */
static void add_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct back_piece *p = arg;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        mpq_accumulate(p->dx + i * p->piece, p->dy + i * p->row, p->piece, p->fresh);
}

static void concat_backward(const struct mpq_kernel_args *args)
{
    const struct mpq_shape *shape = &args->y[0]->shape;
    int axis = mpq_parsed_axis(args->node, shape->rank);
    int64_t outer = mpq_shape_count_range(shape, 0, axis);
    struct back_piece p = {.dy = args->dy[0],
                           .row = mpq_shape_count_range(shape, axis, shape->rank)};
    if (!args->dy[0])
        return;
    for (uint32_t k = 0; k < args->node->n_in; k++) {
        p.piece = mpq_shape_count_range(&args->x[k]->shape, axis, shape->rank);
        p.dx = args->dx[k];
        p.fresh = mpq_is_fresh(args, k);
        if (p.dx)
            mpq_parallel_for(outer, row_grain((size_t)p.piece * sizeof *p.dx), add_rows, &p);
        p.dy += p.piece;
    }
}

const struct mpq_op mpq_op_concat = {.name = "Concat",
                                     .domain = "",
                                     .n_in_min = 1,
                                     .n_in_max = -1,
                                     .n_out_min = 1,
                                     .n_out_max = 1,
                                     .parse = concat_parse,
                                     .infer = concat_infer,
                                     .backward_ignores = MPQ_IGNORES_X | MPQ_IGNORES_Y,
                                     .sets_dx = true,
                                     .forward = concat_forward,
                                     .backward = concat_backward};
