/* ConvTranspose: the gradient of Conv for its input, as an operator of its own. In the terms of
 * struct mpq_conv our x is its dy and our y its dx, so forward runs mpq_conv_dx() and the gradient
 * for x runs mpq_conv_forward(). Weight [C, M / group, kernel]. */
#include <inttypes.h>

#include "quantcore/ops/conv_attrs.h"
#include "quantcore/ops/op_util.h"

/* Output size and cropping in front of one axis. */
static int64_t axis_size(const struct mpq_conv_attrs *attrs, const struct mpq_conv_axis *a,
                         int axis, int64_t in, int64_t *out_pad)
{
    int64_t full = (in - 1) * a->stride + a->output_padding + a->span;
    bool upper = attrs->auto_pad == MPQ_PAD_SAME_UPPER;
    bool same = upper || attrs->auto_pad == MPQ_PAD_SAME_LOWER;
    *out_pad = a->pad_begin;
    if (!same && !attrs->output_shape.n)
        return full - a->pad_begin - a->pad_end;
    int64_t size = attrs->output_shape.n ? attrs->output_shape.v[axis] : in * a->stride;
    int64_t total = full > size ? full - size : 0;
    *out_pad = upper ? total / 2 : total - total / 2;
    return size;
}

static struct mpq_conv geometry(const struct mpq_node *node, const struct mpq_tensor *const *x)
{
    const struct mpq_conv_attrs *attrs = node->attrs;
    const struct mpq_shape *in = &x[0]->shape, *w = &x[1]->shape;
    struct mpq_conv conv = {
        .n = in->dim[0], .c = w->dim[1] * attrs->group, .m = in->dim[1], .group = attrs->group};
    for (int i = 0; i < MPQ_CONV_DIMS; i++)
        conv.in[i] = conv.out[i] = conv.kernel[i] = conv.stride[i] = conv.dilation[i] = 1;
    for (int i = 0; i < in->rank - 2; i++) {
        struct mpq_conv_axis a = mpq_conv_axis(attrs, w, i);
        int slot = mpq_conv_slot(in->rank - 2, i);
        conv.out[slot] = in->dim[2 + i];
        conv.in[slot] = axis_size(attrs, &a, i, in->dim[2 + i], &conv.pad[slot]);
        conv.kernel[slot] = a.kernel;
        conv.stride[slot] = a.stride;
        conv.dilation[slot] = a.dilation;
    }
    return conv;
}

static enum mpq_status conv_transpose_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                            const struct mpq_tensor *const *x,
                                            struct mpq_tensor *const *y)
{
    const struct mpq_shape *in = &x[0]->shape, *w = &x[1]->shape;
    const struct mpq_tensor *b = mpq_input(node, x, 2);
    MPQ_TRY(mpq_conv_check(ctx, node, x));
    struct mpq_conv conv = geometry(node, x);
    if (w->dim[0] != conv.m || conv.m % conv.group != 0)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE,
                             "weight %s with %" PRId64 " groups does not fit input %s",
                             MPQ_SHAPE_TEXT(w), conv.group, MPQ_SHAPE_TEXT(in));
    if (b && (b->shape.rank != 1 || b->shape.dim[0] != conv.c))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE,
                             "bias %s does not fit %" PRId64 " output channels",
                             MPQ_SHAPE_TEXT(&b->shape), conv.c);
    struct mpq_shape shape = {.rank = in->rank, .dim = {conv.n, conv.c}};
    for (int i = 0; i < in->rank - 2; i++) {
        shape.dim[2 + i] = conv.in[mpq_conv_slot(in->rank - 2, i)];
        if (shape.dim[2 + i] < 0)
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE,
                                 "padding removes all of the output for input %s",
                                 MPQ_SHAPE_TEXT(in));
    }
    return mpq_infer_set(ctx, node, y[0], MPQ_FLOAT, &shape);
}

static size_t conv_transpose_workspace(const struct mpq_node *node,
                                       const struct mpq_tensor *const *x,
                                       struct mpq_tensor *const *y, bool training)
{
    (void)y;
    struct mpq_conv conv = geometry(node, x);
    size_t bytes = mpq_conv_dx_bytes(&conv);
    size_t dx = training ? mpq_conv_forward_bytes(&conv) : 0;
    size_t dw = training ? mpq_conv_dw_bytes(&conv) : 0;
    bytes = bytes > dx ? bytes : dx;
    return bytes > dw ? bytes : dw;
}

static void conv_transpose_forward(const struct mpq_kernel_args *args)
{
    struct mpq_conv conv = geometry(args->node, args->x);
    const struct mpq_tensor *b = mpq_input(args->node, args->x, 2);
    mpq_conv_fill_bias(conv.n, conv.c, mpq_volume(conv.in), b ? b->data : NULL, args->y[0]->data);
    mpq_conv_dx(&conv, args->x[0]->data, args->x[1]->data, true, args->y[0]->data, args->workspace);
}

static void conv_transpose_backward(const struct mpq_kernel_args *args)
{
    struct mpq_conv conv = geometry(args->node, args->x);
    const mpq_real *dy = args->dy[0];
    mpq_real *dx = mpq_grad(args, 0), *dw = mpq_grad(args, 1), *db = mpq_grad(args, 2);
    if (!dy)
        return;
    if (dx)
        mpq_conv_forward(&conv, dy, args->x[1]->data, NULL, true, NULL, dx, args->workspace);
    if (dw)
        mpq_conv_dw(&conv, dy, args->x[0]->data, dw, args->workspace);
    if (db)
        mpq_conv_db(conv.n, conv.c, mpq_volume(conv.in), dy, db);
}

static uint64_t conv_transpose_macs(const struct mpq_node *node, const struct mpq_tensor *const *x,
                                    struct mpq_tensor *const *y)
{
    (void)node;
    (void)y;
    return (uint64_t)mpq_shape_count(&x[0]->shape) *
           (uint64_t)mpq_shape_count_range(&x[1]->shape, 1, x[1]->shape.rank);
}

const struct mpq_op mpq_op_conv_transpose = {.name = "ConvTranspose",
                                             .domain = "",
                                             .n_in_min = 2,
                                             .n_in_max = 3,
                                             .n_out_min = 1,
                                             .n_out_max = 1,
                                             .weight_input = 1,
                                             .parse = mpq_conv_parse,
                                             .infer = conv_transpose_infer,
                                             .workspace = conv_transpose_workspace,
                                             .forward = conv_transpose_forward,
                                             .backward = conv_transpose_backward,
                                             .macs = conv_transpose_macs};
