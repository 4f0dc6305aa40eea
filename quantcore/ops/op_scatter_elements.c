/* ScatterElements: a copy of x in which y[index[i][j]][j] = updates[i][j], here along axis 0, or is
 * combined with it. Computed indices are clamped into the axis, as in op_gather.c. */
#include "quantcore/ops/kernel/move.h"
#include "quantcore/ops/kernel/scatter.h"
#include "quantcore/ops/op_util.h"

struct attrs {
    int64_t axis;
    enum mpq_scatter reduction;
};

static enum mpq_status scatter_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                     struct mpq_node *node)
{
    struct attrs attrs = {.axis = mpq_attr_int(&node->attr_set, "axis", 0)};
    MPQ_TRY(mpq_scatter_read(ctx, node, &attrs.reduction));
    node->attrs = mpq_arena_copy(ctx, arena, &attrs, sizeof attrs);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

static enum mpq_status scatter_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                     const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct attrs *attrs = node->attrs;
    const struct mpq_shape *to = &x[0]->shape, *index = &x[1]->shape;
    int axis = 0;
    MPQ_TRY(mpq_check_axis(ctx, node, attrs->axis, to->rank, &axis));
    bool fits = index->rank == to->rank && mpq_shape_equal(index, &x[2]->shape) &&
                x[2]->dtype == x[0]->dtype;
    for (int i = 0; fits && i < to->rank; i++)
        fits = i == axis || index->dim[i] <= to->dim[i];
    if (!fits)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "updates are %s %s for %s %s at indices %s",
                             mpq_dtype_name(x[2]->dtype), MPQ_SHAPE_TEXT(&x[2]->shape),
                             mpq_dtype_name(x[0]->dtype), MPQ_SHAPE_TEXT(to),
                             MPQ_SHAPE_TEXT(index));
    MPQ_TRY(mpq_check_indices(ctx, node, x[1], to->dim[axis]));
    MPQ_TRY(mpq_scatter_check(ctx, node, x, attrs->reduction));
    return mpq_infer_same(ctx, node, x, y);
}

/* The indices in order; element() says where each of them points. */
struct walk {
    const struct mpq_tensor *index;
    const struct mpq_shape *whole;
    int axis;
    int64_t stride[MPQ_MAX_RANK]; /* of the whole */
};

static struct walk make_walk(const struct mpq_kernel_args *args)
{
    const struct attrs *attrs = args->node->attrs;
    struct walk walk = {args->x[1], &args->x[0]->shape, 0, {0}};
    walk.axis = (int)(attrs->axis < 0 ? attrs->axis + walk.whole->rank : attrs->axis);
    mpq_dense_strides(walk.whole, walk.stride);
    return walk;
}

static int64_t element(const struct walk *walk, int64_t i)
{
    int64_t to =
        mpq_index_at(walk->index, i, walk->whole->dim[walk->axis]) * walk->stride[walk->axis];
    for (int d = walk->whole->rank - 1; d >= 0; d--) {
        int64_t dim = walk->index->shape.dim[d];
        to += d == walk->axis ? 0 : i % dim * walk->stride[d];
        i /= dim;
    }
    return to;
}

static void scatter_forward(const struct mpq_kernel_args *args)
{
    const struct attrs *attrs = args->node->attrs;
    struct walk walk = make_walk(args);
    int64_t n = mpq_shape_count(&walk.index->shape);
    mpq_forward_copy(args);
    for (int64_t i = 0; i < n; i++)
        mpq_scatter_forward(args, attrs->reduction, element(&walk, i), i, 1);
}

static void scatter_backward(const struct mpq_kernel_args *args)
{
    const struct attrs *attrs = args->node->attrs;
    struct walk walk = make_walk(args);
    if (!args->dy[0])
        return;
    mpq_scatter_backward_begin(args);
    for (int64_t i = mpq_shape_count(&walk.index->shape); i-- > 0;)
        mpq_scatter_backward(args, attrs->reduction, element(&walk, i), i, 1);
    mpq_scatter_backward_end(args);
}

const struct mpq_op mpq_op_scatter_elements = {.name = "ScatterElements",
                                               .domain = "",
                                               .n_in_min = 3,
                                               .n_in_max = 3,
                                               .n_out_min = 1,
                                               .n_out_max = 1,
                                               .parse = scatter_parse,
                                               .infer = scatter_infer,
                                               .workspace = mpq_scatter_workspace,
                                               .forward = scatter_forward,
                                               .backward = scatter_backward};
