/* Pad: x with pads[k] elements before and pads[n + k] after it along each axis (input 1, constant;
 * input 3 names the axes), filled by mode: a constant (input 2, 0 by default), the edge, a
 * reflection without the edge, or x again from its other end. Negative pads crop. */
#include <string.h>

#include "quantcore/ops/kernel/move.h"
#include "quantcore/ops/op_util.h"

enum mode { CONSTANT, REFLECT, EDGE, WRAP };

static enum mpq_status pad_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 struct mpq_node *node)
{
    static const char *const name[] = {"constant", "reflect", "edge", "wrap"};
    const char *text = mpq_attr_string(&node->attr_set, "mode", "constant");
    for (enum mode mode = CONSTANT; mode <= WRAP; mode++)
        if (strcmp(text, name[mode]) == 0) {
            node->attrs = mpq_arena_copy(ctx, arena, &mode, sizeof mode);
            return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
        }
    return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "mode is '%s'", text);
}

static enum mode get_mode(const struct mpq_node *node)
{
    return *(const enum mode *)node->attrs;
}

/* begin and end [rank of x] from inputs that are known to be right. */
static void read_pads(const struct mpq_node *node, const struct mpq_tensor *const *x,
                      int64_t *begin, int64_t *end)
{
    const struct mpq_tensor *axes = mpq_input(node, x, 3);
    int rank = x[0]->shape.rank, n = (int)mpq_shape_count(&x[1]->shape) / 2;
    for (int i = 0; i < rank; i++)
        begin[i] = end[i] = 0;
    for (int i = 0; i < n; i++) {
        int64_t axis = axes ? mpq_tensor_int(axes, i) : i;
        axis = axis < 0 ? axis + rank : axis;
        begin[axis] = mpq_tensor_int(x[1], i);
        end[axis] = mpq_tensor_int(x[1], n + i);
    }
}

static enum mpq_status check_inputs(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *const *x)
{
    const struct mpq_tensor *value = mpq_input(node, x, 2);
    int64_t pads[2 * MPQ_MAX_RANK], axes[MPQ_MAX_RANK];
    bool mark[MPQ_MAX_RANK];
    int rank = x[0]->shape.rank, n_pads = 0, n = rank;
    MPQ_TRY(mpq_const_ints(ctx, node, x, 1, "pads", 2 * rank, pads, &n_pads));
    if (mpq_input(node, x, 3)) {
        MPQ_TRY(mpq_const_ints(ctx, node, x, 3, "axes", rank, axes, &n));
        MPQ_TRY(mpq_check_axes(ctx, node, axes, n, rank, mark));
    }
    if (n_pads != 2 * n)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "%d pads for %d axes", n_pads, n);
    for (int i = 0; i < n_pads; i++)
        if (pads[i] < -(int64_t)MPQ_LIMIT_TENSOR_BYTES || pads[i] > (int64_t)MPQ_LIMIT_TENSOR_BYTES)
            return mpq_fail_node(ctx, node, MPQ_E_LIMIT, "a pad is %lld", (long long)pads[i]);
    if (value && (value->dtype != x[0]->dtype || mpq_shape_count(&value->shape) != 1))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "the constant is %s %s",
                             mpq_dtype_name(value->dtype), MPQ_SHAPE_TEXT(&value->shape));
    return MPQ_OK;
}

static enum mpq_status pad_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                 const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    int64_t begin[MPQ_MAX_RANK], end[MPQ_MAX_RANK];
    struct mpq_shape shape = x[0]->shape;
    MPQ_TRY(check_inputs(ctx, node, x));
    read_pads(node, x, begin, end);
    for (int i = 0; i < shape.rank; i++) {
        int64_t dim = shape.dim[i];
        shape.dim[i] += begin[i] + end[i];
        if (shape.dim[i] < 0 || (get_mode(node) != CONSTANT && dim == 0 && shape.dim[i] > 0))
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "%s cannot be padded by %lld and %lld",
                                 MPQ_SHAPE_TEXT(&x[0]->shape), (long long)begin[i],
                                 (long long)end[i]);
    }
    return mpq_infer_set(ctx, node, y[0], x[0]->dtype, &shape);
}

/* Where index i, which may lie outside of 0 .. n-1, is taken from. */
static int64_t source(enum mode mode, int64_t i, int64_t n)
{
    if (mode == EDGE || n == 1)
        return i < 0 ? 0 : i >= n ? n - 1 : i;
    int64_t period = mode == REFLECT ? 2 * (n - 1) : n;
    i %= period;
    i = i < 0 ? i + period : i;
    return i < n ? i : period - i;
}

/* For each axis and each index of y along it, the element offset in x it stands for. */
static size_t pad_workspace(const struct mpq_node *node, const struct mpq_tensor *const *x,
                            struct mpq_tensor *const *y, bool training)
{
    size_t n = 0;
    (void)x, (void)training;
    for (int i = 0; i < y[0]->shape.rank; i++)
        n += (size_t)y[0]->shape.dim[i];
    return get_mode(node) == CONSTANT ? 0 : n * sizeof(int64_t);
}

static void make_map(const struct mpq_kernel_args *args, const int64_t **out_axis)
{
    int64_t begin[MPQ_MAX_RANK], end[MPQ_MAX_RANK], stride[MPQ_MAX_RANK];
    const struct mpq_shape *shape = &args->x[0]->shape;
    int64_t *map = args->workspace;
    read_pads(args->node, args->x, begin, end);
    mpq_dense_strides(shape, stride);
    for (int i = 0; i < shape->rank; i++) {
        out_axis[i] = map;
        for (int64_t k = 0; k < args->y[0]->shape.dim[i]; k++)
            *map++ = source(get_mode(args->node), k - begin[i], shape->dim[i]) * stride[i];
    }
}

/* fn is called for each row of y: its first element and where in x the row starts. */
static void for_each_row(const struct mpq_kernel_args *args,
                         void (*fn)(const struct mpq_kernel_args *, int64_t at, int64_t base,
                                    const int64_t *map, int64_t n))
{
    const int64_t *axis[MPQ_MAX_RANK];
    const struct mpq_shape *shape = &args->y[0]->shape;
    int last = shape->rank - 1;
    int64_t index[MPQ_MAX_RANK] = {0}, n = shape->dim[last], count = mpq_shape_count(shape);
    make_map(args, axis);
    for (int64_t at = 0; at < count; at += n) {
        int64_t base = 0;
        for (int i = 0; i < last; i++)
            base += axis[i][index[i]];
        fn(args, at, base, axis[last], n);
        for (int i = last - 1; i >= 0 && ++index[i] == shape->dim[i]; i--)
            index[i] = 0;
    }
}

static void forward_row(const struct mpq_kernel_args *args, int64_t at, int64_t base,
                        const int64_t *map, int64_t n)
{
    size_t bytes = mpq_dtype_bytes(args->y[0]->dtype);
    uint8_t *y = (uint8_t *)args->y[0]->data + (size_t)at * bytes;
    const uint8_t *x = (const uint8_t *)args->x[0]->data + (size_t)base * bytes;
    for (int64_t i = 0; i < n; i++)
        memcpy(y + (size_t)i * bytes, x + (size_t)map[i] * bytes, bytes);
}

static void backward_row(const struct mpq_kernel_args *args, int64_t at, int64_t base,
                         const int64_t *map, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        args->dx[0][base + map[i]] += args->dy[0][at + i];
}

/* The part of x that y holds, as a move: both strided. */
static void make_move(const struct mpq_kernel_args *args, struct mpq_move *out)
{
    int64_t begin[MPQ_MAX_RANK], end[MPQ_MAX_RANK], y_stride[MPQ_MAX_RANK];
    const struct mpq_shape *from = &args->x[0]->shape;
    struct mpq_shape inside = *from;
    read_pads(args->node, args->x, begin, end);
    mpq_dense_strides(&args->y[0]->shape, y_stride);
    mpq_move_init(out, from);
    mpq_dense_strides(from, out->loop.stride[1]);
    for (int i = 0; i < from->rank; i++) {
        int64_t crop_begin = begin[i] < 0 ? -begin[i] : 0, crop_end = end[i] < 0 ? -end[i] : 0;
        inside.dim[i] -= crop_begin + crop_end;
        out->loop.dim[i] = inside.dim[i] > 0 ? inside.dim[i] : 0;
        out->loop.stride[0][i] = y_stride[i];
        out->x_offset += crop_begin * out->loop.stride[1][i];
        out->y_offset += (begin[i] + crop_begin) * y_stride[i];
    }
}

static void fill(struct mpq_tensor *y, const struct mpq_tensor *value)
{
    size_t bytes = mpq_dtype_bytes(y->dtype), n = (size_t)mpq_shape_count(&y->shape);
    uint8_t *to = y->data;
    if (!value)
        memset(to, 0, n * bytes);
    else
        for (size_t i = 0; i < n; i++)
            memcpy(to + i * bytes, value->data, bytes);
}

static void pad_forward(const struct mpq_kernel_args *args)
{
    if (get_mode(args->node) != CONSTANT && args->y[0]->shape.rank > 0) {
        for_each_row(args, forward_row);
        return;
    }
    struct mpq_move move;
    make_move(args, &move);
    fill(args->y[0], mpq_input(args->node, args->x, 2));
    mpq_move_forward(&move, args->x[0], args->y[0]);
}

static void pad_backward(const struct mpq_kernel_args *args)
{
    if (!args->dx[0] || !args->dy[0])
        return;
    if (get_mode(args->node) != CONSTANT && args->y[0]->shape.rank > 0) {
        for_each_row(args, backward_row);
        return;
    }
    struct mpq_move move;
    make_move(args, &move);
    mpq_move_backward(&move, args->dy[0], args->dx[0]);
}

const struct mpq_op mpq_op_pad = {.name = "Pad",
                                  .domain = "",
                                  .n_in_min = 2,
                                  .n_in_max = 4,
                                  .n_out_min = 1,
                                  .n_out_max = 1,
                                  .parse = pad_parse,
                                  .infer = pad_infer,
                                  .workspace = pad_workspace,
                                  .forward = pad_forward,
                                  .backward = pad_backward};
