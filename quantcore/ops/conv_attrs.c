#include "quantcore/ops/conv_attrs.h"

#include <inttypes.h>
#include <string.h>

#include "quantcore/ops/op_util.h"

/* No element of a list can be larger and make sense; sums and products of a few stay exact. */
#define LIST_MAX ((int64_t)1 << 30)

static enum mpq_status read_list(struct mpq_ctx *ctx, const struct mpq_node *node, const char *name,
                                 size_t max, int64_t low, struct mpq_conv_list *out)
{
    size_t n;
    const int64_t *v = mpq_attr_ints(&node->attr_set, name, &n);
    if (n > max)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED,
                             "%s has %zu entries, at most %d spatial dimensions are supported",
                             name, n, MPQ_CONV_DIMS);
    for (size_t i = 0; i < n; i++) {
        if (v[i] < low || v[i] > LIST_MAX)
            return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "%s has the entry %" PRId64, name, v[i]);
        out->v[i] = v[i];
    }
    out->n = n;
    return MPQ_OK;
}

static enum mpq_status read_auto_pad(struct mpq_ctx *ctx, const struct mpq_node *node,
                                     enum mpq_auto_pad *out)
{
    static const char *const name[] = {"NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"};
    const char *value = mpq_attr_string(&node->attr_set, "auto_pad", "NOTSET");
    for (size_t i = 0; i < MPQ_COUNT(name); i++)
        if (strcmp(value, name[i]) == 0) {
            *out = (enum mpq_auto_pad)i;
            return MPQ_OK;
        }
    return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "auto_pad is '%s'", value);
}

enum mpq_status mpq_conv_parse(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_node *node)
{
    struct mpq_conv_attrs *a = mpq_arena_alloc(ctx, arena, 1, sizeof *a);
    if (!a)
        return MPQ_E_NOMEM;
    MPQ_TRY(read_auto_pad(ctx, node, &a->auto_pad));
    MPQ_TRY(read_list(ctx, node, "kernel_shape", MPQ_CONV_DIMS, 1, &a->kernel_shape));
    MPQ_TRY(read_list(ctx, node, "strides", MPQ_CONV_DIMS, 1, &a->strides));
    MPQ_TRY(read_list(ctx, node, "dilations", MPQ_CONV_DIMS, 1, &a->dilations));
    MPQ_TRY(read_list(ctx, node, "pads", 2 * (size_t)MPQ_CONV_DIMS, 0, &a->pads));
    MPQ_TRY(read_list(ctx, node, "output_padding", MPQ_CONV_DIMS, 0, &a->output_padding));
    MPQ_TRY(read_list(ctx, node, "output_shape", MPQ_CONV_DIMS, 1, &a->output_shape));
    a->group = mpq_attr_int(&node->attr_set, "group", 1);
    if (a->group < 1 || a->group > LIST_MAX)
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "group is %" PRId64, a->group);
    node->attrs = a;
    return MPQ_OK;
}

static enum mpq_status check_lists(struct mpq_ctx *ctx, const struct mpq_node *node, size_t dims)
{
    const struct mpq_conv_attrs *a = node->attrs;
    const struct {
        const char *name;
        size_t n, expected;
    } list[] = {
        {"kernel_shape", a->kernel_shape.n, dims},     {"strides", a->strides.n, dims},
        {"dilations", a->dilations.n, dims},           {"pads", a->pads.n, 2 * dims},
        {"output_padding", a->output_padding.n, dims}, {"output_shape", a->output_shape.n, dims},
    };
    for (size_t i = 0; i < MPQ_COUNT(list); i++)
        if (list[i].n != 0 && list[i].n != list[i].expected)
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE,
                                 "%s has %zu entries, %zu spatial dimensions need %zu",
                                 list[i].name, list[i].n, dims, list[i].expected);
    return MPQ_OK;
}

enum mpq_status mpq_conv_check(struct mpq_ctx *ctx, const struct mpq_node *node,
                               const struct mpq_tensor *const *x)
{
    const struct mpq_conv_attrs *a = node->attrs;
    const struct mpq_shape *shape = &x[0]->shape, *w = &x[1]->shape;
    for (int i = 0; i < 3; i++)
        MPQ_TRY(mpq_check_float(ctx, node, x, i));
    if (shape->rank < 3 || shape->rank > 2 + MPQ_CONV_DIMS)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED,
                             "only 1 to %d spatial dimensions are supported, the input is %s",
                             MPQ_CONV_DIMS, MPQ_SHAPE_TEXT(shape));
    if (w->rank != shape->rank)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "weight %s does not fit input %s",
                             MPQ_SHAPE_TEXT(w), MPQ_SHAPE_TEXT(shape));
    MPQ_TRY(check_lists(ctx, node, (size_t)shape->rank - 2));
    for (int i = 0; i < shape->rank - 2; i++)
        if (w->dim[2 + i] < 1 || (a->kernel_shape.n && a->kernel_shape.v[i] != w->dim[2 + i]))
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "kernel_shape does not fit weight %s",
                                 MPQ_SHAPE_TEXT(w));
    return MPQ_OK;
}

struct mpq_conv_axis mpq_conv_axis(const struct mpq_conv_attrs *attrs,
                                   const struct mpq_shape *weight, int axis)
{
    int dims = weight->rank - 2;
    struct mpq_conv_axis a = {
        .kernel = weight->dim[2 + axis],
        .stride = attrs->strides.n ? attrs->strides.v[axis] : 1,
        .dilation = attrs->dilations.n ? attrs->dilations.v[axis] : 1,
        .output_padding = attrs->output_padding.n ? attrs->output_padding.v[axis] : 0,
    };
    a.span = (a.kernel - 1) * a.dilation + 1;
    if (attrs->auto_pad == MPQ_PAD_EXPLICIT && attrs->pads.n) {
        a.pad_begin = attrs->pads.v[axis];
        a.pad_end = attrs->pads.v[dims + axis];
    }
    return a;
}

int mpq_conv_slot(int dims, int axis)
{
    return dims == 2 && axis == 0 ? 0 : MPQ_CONV_DIMS - dims + axis;
}
