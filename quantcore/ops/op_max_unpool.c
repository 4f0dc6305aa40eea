/* MaxUnpool: the values of a MaxPool back at the places (input 1, flat indices into the output of
 * default size) it took them from, 0 elsewhere. */
#include <string.h>

#include "quantcore/ops/op_util.h"

#define MAX_DIMS 6

struct attrs {
    size_t n, n_stride, n_pad;
    int64_t kernel[MAX_DIMS], stride[MAX_DIMS], pad[2 * MAX_DIMS];
};

static enum mpq_status unpool_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_node *node)
{
    struct attrs attrs = {0};
    const int64_t *kernel = mpq_attr_ints(&node->attr_set, "kernel_shape", &attrs.n);
    const int64_t *stride = mpq_attr_ints(&node->attr_set, "strides", &attrs.n_stride);
    const int64_t *pad = mpq_attr_ints(&node->attr_set, "pads", &attrs.n_pad);
    if (attrs.n == 0 || attrs.n > MAX_DIMS || (stride && attrs.n_stride != attrs.n) ||
        (pad && attrs.n_pad != 2 * attrs.n))
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT,
                             "kernel_shape, strides and pads have %zu, %zu, %zu entries", attrs.n,
                             attrs.n_stride, attrs.n_pad);
    bool good = true;
    for (size_t i = 0; i < attrs.n; i++) {
        attrs.kernel[i] = kernel[i];
        attrs.stride[i] = stride ? stride[i] : 1;
        good &= attrs.kernel[i] > 0 && attrs.kernel[i] <= INT32_MAX;
        good &= attrs.stride[i] > 0 && attrs.stride[i] <= INT32_MAX;
        for (size_t k = i; pad && k < 2 * attrs.n; k += attrs.n) {
            attrs.pad[k] = pad[k];
            good &= pad[k] >= 0 && pad[k] <= INT32_MAX;
        }
    }
    if (!good)
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT,
                             "an entry of kernel_shape, strides or pads is out of range");
    node->attrs = mpq_arena_copy(ctx, arena, &attrs, sizeof attrs);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

/* The size that the indices refer to. */
static struct mpq_shape pooled_from(const struct attrs *attrs, const struct mpq_shape *x)
{
    struct mpq_shape shape = *x;
    for (size_t i = 0; i < attrs->n; i++)
        shape.dim[2 + i] = (x->dim[2 + i] - 1) * attrs->stride[i] + attrs->kernel[i] -
                           attrs->pad[i] - attrs->pad[attrs->n + i];
    return shape;
}

static enum mpq_status unpool_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct attrs *attrs = node->attrs;
    MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    if (x[0]->shape.rank != (int)attrs->n + 2 || !mpq_shape_equal(&x[0]->shape, &x[1]->shape) ||
        !mpq_dtype_is_integer(x[1]->dtype))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "indices are %s %s for an input of %s",
                             mpq_dtype_name(x[1]->dtype), MPQ_SHAPE_TEXT(&x[1]->shape),
                             MPQ_SHAPE_TEXT(&x[0]->shape));
    struct mpq_shape shape = pooled_from(attrs, &x[0]->shape), wanted = shape;
    if (mpq_input(node, x, 2)) {
        int n = 0;
        MPQ_TRY(mpq_const_ints(ctx, node, x, 2, "output_shape", MPQ_MAX_RANK, wanted.dim, &n));
        if (n != shape.rank)
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "output_shape has %d entries", n);
    }
    for (int i = 0; i < shape.rank; i++)
        if (shape.dim[i] < 1 || wanted.dim[i] < shape.dim[i])
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "the output is %s",
                                 MPQ_SHAPE_TEXT(&wanted));
    return mpq_infer_set(ctx, node, y[0], MPQ_FLOAT, &wanted);
}

/* Where element i of x lies in y: its index, counted in the default size, in that of y. */
static int64_t place(const struct mpq_kernel_args *args, int64_t i)
{
    struct mpq_shape from = pooled_from(args->node->attrs, &args->x[0]->shape);
    int64_t index = mpq_index_at(args->x[1], i, mpq_shape_count(&from)), at = 0, step = 1;
    for (int d = from.rank - 1; d >= 0; d--) {
        at += index % from.dim[d] * step;
        index /= from.dim[d];
        step *= args->y[0]->shape.dim[d];
    }
    return at;
}

static void unpool_forward(const struct mpq_kernel_args *args)
{
    const mpq_real *x = args->x[0]->data;
    mpq_real *y = args->y[0]->data;
    memset(y, 0, mpq_tensor_bytes(args->y[0]));
    for (int64_t i = 0; i < mpq_shape_count(&args->x[0]->shape); i++)
        y[place(args, i)] = x[i];
}

static void unpool_backward(const struct mpq_kernel_args *args)
{
    for (int64_t i = 0; args->dx[0] && args->dy[0] && i < mpq_shape_count(&args->x[0]->shape); i++)
        args->dx[0][i] += args->dy[0][place(args, i)];
}

const struct mpq_op mpq_op_max_unpool = {.name = "MaxUnpool",
                                         .domain = "",
                                         .n_in_min = 2,
                                         .n_in_max = 3,
                                         .n_out_min = 1,
                                         .n_out_max = 1,
                                         .parse = unpool_parse,
                                         .infer = unpool_infer,
                                         .forward = unpool_forward,
                                         .backward = unpool_backward};
