/* Conv with 1 to 3 spatial dimensions, groups and dilations. */
#include <inttypes.h>

#include "quantcore/ops/conv_attrs.h"
#include "quantcore/ops/kernel/winograd.h"
#include "quantcore/ops/op_util.h"

/* Output size and padding in front of one axis; -1 where the filter does not fit in. */
static int64_t axis_size(const struct mpq_conv_attrs *attrs, const struct mpq_conv_axis *a,
                         int64_t in, int64_t *out_pad)
{
    bool upper = attrs->auto_pad == MPQ_PAD_SAME_UPPER;
    if (upper || attrs->auto_pad == MPQ_PAD_SAME_LOWER) {
        int64_t size = (in + a->stride - 1) / a->stride;
        int64_t total = (size - 1) * a->stride + a->span - in;
        if (total < 0)
            total = 0;
        *out_pad = upper ? total / 2 : total - total / 2;
        return size;
    }
    *out_pad = a->pad_begin;
    int64_t room = in + a->pad_begin + a->pad_end - a->span;
    if (room < 0)
        return in == 0 ? 0 : -1;
    return room / a->stride + 1;
}

struct mpq_conv mpq_conv_geometry(const struct mpq_node *node, const struct mpq_tensor *const *x)
{
    const struct mpq_conv_attrs *attrs = node->attrs;
    const struct mpq_shape *in = &x[0]->shape, *w = &x[1]->shape;
    struct mpq_conv conv = {
        .n = in->dim[0], .c = in->dim[1], .m = w->dim[0], .group = attrs->group};
    for (int i = 0; i < MPQ_CONV_DIMS; i++)
        conv.in[i] = conv.out[i] = conv.kernel[i] = conv.stride[i] = conv.dilation[i] = 1;
    for (int i = 0; i < in->rank - 2; i++) {
        struct mpq_conv_axis a = mpq_conv_axis(attrs, w, i);
        int slot = mpq_conv_slot(in->rank - 2, i);
        conv.in[slot] = in->dim[2 + i];
        conv.out[slot] = axis_size(attrs, &a, in->dim[2 + i], &conv.pad[slot]);
        conv.kernel[slot] = a.kernel;
        conv.stride[slot] = a.stride;
        conv.dilation[slot] = a.dilation;
    }
    return conv;
}

enum mpq_status mpq_conv_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                               const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct mpq_shape *in = &x[0]->shape, *w = &x[1]->shape;
    const struct mpq_tensor *b = mpq_input(node, x, 2);
    MPQ_TRY(mpq_conv_check(ctx, node, x));
    struct mpq_conv conv = mpq_conv_geometry(node, x);
    if (in->dim[1] != w->dim[1] * conv.group || conv.m % conv.group != 0)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE,
                             "weight %s with %" PRId64 " groups does not fit input %s",
                             MPQ_SHAPE_TEXT(w), conv.group, MPQ_SHAPE_TEXT(in));
    if (b && (b->shape.rank != 1 || b->shape.dim[0] != conv.m))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE,
                             "bias %s does not fit %" PRId64 " output channels",
                             MPQ_SHAPE_TEXT(&b->shape), conv.m);
    struct mpq_shape shape = {.rank = in->rank, .dim = {conv.n, conv.m}};
    for (int i = 0; i < in->rank - 2; i++) {
        shape.dim[2 + i] = conv.out[mpq_conv_slot(in->rank - 2, i)];
        if (shape.dim[2 + i] < 0)
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE,
                                 "filter %s is larger than the padded input %s", MPQ_SHAPE_TEXT(w),
                                 MPQ_SHAPE_TEXT(in));
    }
    return mpq_infer_set(ctx, node, y[0], MPQ_FLOAT, &shape);
}

static size_t conv_workspace(const struct mpq_node *node, const struct mpq_tensor *const *x,
                             struct mpq_tensor *const *y, bool training)
{
    (void)y;
    struct mpq_conv conv = mpq_conv_geometry(node, x), back;
    size_t bytes[5] = {mpq_conv_forward_bytes(&conv)}, most = 0;
    if (mpq_winograd_pays(&conv))
        bytes[1] = mpq_winograd_bytes(&conv);
    if (training) {
        bytes[2] = mpq_conv_dx_bytes(&conv);
        bytes[3] =
            mpq_winograd_dw_pays(&conv) ? mpq_winograd_dw_bytes(&conv) : mpq_conv_dw_bytes(&conv);
        if (mpq_winograd_backward(&conv, &back))
            bytes[4] = mpq_winograd_bytes(&back);
    }
    for (int i = 0; i < 5; i++)
        most = bytes[i] > most ? bytes[i] : most;
    return most;
}

static void conv_forward(const struct mpq_kernel_args *args)
{
    struct mpq_conv conv = mpq_conv_geometry(args->node, args->x);
    const struct mpq_tensor *b = mpq_input(args->node, args->x, 2);
    if (!args->sums_plainly && mpq_winograd_pays(&conv)) {
        mpq_winograd_run(&conv, false, args->x[0]->data, args->x[1]->data, b ? b->data : NULL,
                         args->clamp, false, args->y[0]->data, args->workspace);
        return;
    }
    mpq_conv_forward(&conv, args->x[0]->data, args->x[1]->data, b ? b->data : NULL, false,
                     args->clamp, args->y[0]->data, args->workspace);
}

static void conv_backward(const struct mpq_kernel_args *args)
{
    struct mpq_conv conv = mpq_conv_geometry(args->node, args->x), back;
    const mpq_real *dy = args->dy[0];
    mpq_real *dx = mpq_grad(args, 0), *dw = mpq_grad(args, 1), *db = mpq_grad(args, 2);
    if (!dy)
        return;
    mpq_clear_fresh(args, 1);
    mpq_clear_fresh(args, 2);
    bool adds = dx && !mpq_is_fresh(args, 0);
    if (dx && mpq_winograd_backward(&conv, &back))
        mpq_winograd_run(&back, true, dy, args->x[1]->data, NULL, NULL, adds, dx, args->workspace);
    else if (dx)
        mpq_conv_dx(&conv, dy, args->x[1]->data, adds, dx, args->workspace);
    if (dw && mpq_winograd_dw_pays(&conv))
        mpq_winograd_dw(&conv, args->x[0]->data, dy, dw, args->workspace);
    else if (dw)
        mpq_conv_dw(&conv, args->x[0]->data, dy, dw, args->workspace);
    if (db)
        mpq_conv_db(conv.n, conv.m, mpq_volume(conv.out), dy, db);
}

static uint64_t conv_macs(const struct mpq_node *node, const struct mpq_tensor *const *x,
                          struct mpq_tensor *const *y)
{
    (void)node;
    return (uint64_t)mpq_shape_count(&y[0]->shape) *
           (uint64_t)mpq_shape_count_range(&x[1]->shape, 1, x[1]->shape.rank);
}

const struct mpq_op mpq_op_conv = {.name = "Conv",
                                   .domain = "",
                                   .n_in_min = 2,
                                   .n_in_max = 3,
                                   .n_out_min = 1,
                                   .n_out_max = 1,
                                   .weight_input = 1,
                                   .parse = mpq_conv_parse,
                                   .infer = mpq_conv_infer,
                                   .sets_dx = true,
                                   .backward_ignores = MPQ_IGNORES_Y,
                                   .clamps_y = true,
                                   .workspace = conv_workspace,
                                   .forward = conv_forward,
                                   .backward = conv_backward,
                                   .macs = conv_macs};
