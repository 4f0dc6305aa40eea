/* Transpose: y[i_0, ...] = x with axis perm[k] as axis k; perm reverses the axes by default. */
#include "quantcore/ops/kernel/move.h"
#include "quantcore/ops/op_util.h"

struct attrs {
    int n; /* 0: reverse */
    int perm[MPQ_MAX_RANK];
};

static enum mpq_status transpose_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       struct mpq_node *node)
{
    size_t n;
    bool mark[MPQ_MAX_RANK];
    const int64_t *perm = mpq_attr_ints(&node->attr_set, "perm", &n);
    struct attrs *attrs = mpq_arena_alloc(ctx, arena, 1, sizeof *attrs);
    if (!attrs)
        return MPQ_E_NOMEM;
    if (n > MPQ_MAX_RANK)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "perm has %zu entries", n);
    attrs->n = (int)n;
    MPQ_TRY(mpq_check_axes(ctx, node, perm, attrs->n, attrs->n, mark));
    for (int i = 0; i < attrs->n; i++)
        attrs->perm[i] = (int)(perm[i] < 0 ? perm[i] + attrs->n : perm[i]);
    node->attrs = attrs;
    return MPQ_OK;
}

static int source_axis(const struct mpq_node *node, int rank, int axis)
{
    const struct attrs *attrs = node->attrs;
    return attrs->n ? attrs->perm[axis] : rank - 1 - axis;
}

static enum mpq_status transpose_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                       const struct mpq_tensor *const *x,
                                       struct mpq_tensor *const *y)
{
    const struct attrs *attrs = node->attrs;
    struct mpq_shape shape = {.rank = x[0]->shape.rank};
    if (attrs->n && attrs->n != shape.rank)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "perm has %d entries, the input is %s",
                             attrs->n, MPQ_SHAPE_TEXT(&x[0]->shape));
    for (int i = 0; i < shape.rank; i++)
        shape.dim[i] = x[0]->shape.dim[source_axis(node, shape.rank, i)];
    return mpq_infer_set(ctx, node, y[0], x[0]->dtype, &shape);
}

static void make_move(const struct mpq_kernel_args *args, struct mpq_move *out)
{
    int64_t stride[MPQ_MAX_RANK];
    int rank = args->x[0]->shape.rank;
    mpq_dense_strides(&args->x[0]->shape, stride);
    mpq_move_init(out, &args->y[0]->shape);
    for (int i = 0; i < rank; i++)
        out->loop.stride[1][i] = stride[source_axis(args->node, rank, i)];
}

static void transpose_forward(const struct mpq_kernel_args *args)
{
    struct mpq_move move;
    make_move(args, &move);
    mpq_move_forward(&move, args->x[0], args->y[0]);
}

static void transpose_backward(const struct mpq_kernel_args *args)
{
    struct mpq_move move;
    make_move(args, &move);
    mpq_move_backward(&move, args->dy[0], args->dx[0]);
}

const struct mpq_op mpq_op_transpose = {.name = "Transpose",
                                        .domain = "",
                                        .n_in_min = 1,
                                        .n_in_max = 1,
                                        .n_out_min = 1,
                                        .n_out_max = 1,
                                        .parse = transpose_parse,
                                        .infer = transpose_infer,
                                        .forward = transpose_forward,
                                        .backward_ignores = MPQ_IGNORES_X | MPQ_IGNORES_Y,
                                        .backward = transpose_backward};
