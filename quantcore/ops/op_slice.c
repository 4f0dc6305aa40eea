/* Slice: y = x[start:end:step] along each named axis, as numpy slices. starts, ends, axes and steps
 * are constant inputs 1 to 4. */
#include "quantcore/ops/kernel/move.h"
#include "quantcore/ops/op_util.h"

struct range {
    int64_t start, step, count;
};

static int64_t clamp(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

static struct range make_range(int64_t start, int64_t end, int64_t step, int64_t dim)
{
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? dim - 1 : dim;
    start = clamp(start < 0 ? start + dim : start, step < 0 ? 0 : low, high);
    end = clamp(end < 0 ? end + dim : end, low, high);
    /* One element more for each whole step that is needed to reach or pass `end`; a step may be as
     * far as INT64_MIN, so its size is taken unsigned. */
    int64_t reach = step < 0 ? start - end : end - start;
    uint64_t size = step < 0 ? 0 - (uint64_t)step : (uint64_t)step;
    int64_t count = reach <= 0 ? 0 : (int64_t)(((uint64_t)reach - 1) / size) + 1;
    return (struct range){start, count > 1 ? step : 1, count};
}

/* range [rank of x] from inputs that are known to be right. */
static void read_ranges(const struct mpq_node *node, const struct mpq_tensor *const *x,
                        struct range *range)
{
    const struct mpq_shape *shape = &x[0]->shape;
    const struct mpq_tensor *axes = mpq_input(node, x, 3), *steps = mpq_input(node, x, 4);
    int n = (int)mpq_shape_count(&x[1]->shape);
    for (int i = 0; i < shape->rank; i++)
        range[i] = (struct range){0, 1, shape->dim[i]};
    for (int i = 0; i < n; i++) {
        int64_t axis = axes ? mpq_tensor_int(axes, i) : i;
        axis = axis < 0 ? axis + shape->rank : axis;
        range[axis] = make_range(mpq_tensor_int(x[1], i), mpq_tensor_int(x[2], i),
                                 steps ? mpq_tensor_int(steps, i) : 1, shape->dim[axis]);
    }
}

static enum mpq_status check_inputs(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *const *x)
{
    static const char *const what[] = {"data", "starts", "ends", "axes", "steps"};
    int rank = x[0]->shape.rank, n_start = 0;
    for (int i = 1; i < (int)node->n_in; i++) {
        int64_t value[MPQ_MAX_RANK];
        bool mark[MPQ_MAX_RANK];
        int n = 0;
        if (!x[i])
            continue;
        MPQ_TRY(mpq_const_ints(ctx, node, x, i, what[i], rank, value, &n));
        if (i == 1)
            n_start = n;
        if (n != n_start)
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "%d starts but %d %s", n_start, n,
                                 what[i]);
        if (i == 3)
            MPQ_TRY(mpq_check_axes(ctx, node, value, n, rank, mark));
        for (int k = 0; i == 4 && k < n; k++)
            if (value[k] == 0)
                return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "a step is 0");
    }
    return MPQ_OK;
}

static enum mpq_status slice_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                   const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    struct range range[MPQ_MAX_RANK];
    struct mpq_shape shape = x[0]->shape;
    MPQ_TRY(check_inputs(ctx, node, x));
    read_ranges(node, x, range);
    for (int i = 0; i < shape.rank; i++)
        shape.dim[i] = range[i].count;
    return mpq_infer_set(ctx, node, y[0], x[0]->dtype, &shape);
}

static void make_move(const struct mpq_kernel_args *args, struct mpq_move *out)
{
    int64_t stride[MPQ_MAX_RANK];
    struct range range[MPQ_MAX_RANK];
    mpq_dense_strides(&args->x[0]->shape, stride);
    read_ranges(args->node, args->x, range);
    mpq_move_init(out, &args->y[0]->shape);
    for (int i = 0; i < args->x[0]->shape.rank; i++) {
        out->loop.stride[1][i] = stride[i] * range[i].step;
        out->x_offset += stride[i] * range[i].start;
    }
}

static void slice_forward(const struct mpq_kernel_args *args)
{
    struct mpq_move move;
    make_move(args, &move);
    mpq_move_forward(&move, args->x[0], args->y[0]);
}

static void slice_backward(const struct mpq_kernel_args *args)
{
    struct mpq_move move;
    make_move(args, &move);
    mpq_move_backward(&move, args->dy[0], args->dx[0]);
}

const struct mpq_op mpq_op_slice = {.name = "Slice",
                                    .domain = "",
                                    .n_in_min = 3,
                                    .n_in_max = 5,
                                    .n_out_min = 1,
                                    .n_out_max = 1,
                                    .infer = slice_infer,
                                    .forward = slice_forward,
                                    .backward_ignores = MPQ_IGNORES_X | MPQ_IGNORES_Y,
                                    .backward = slice_backward};
