/* What Conv and ConvTranspose share: attributes and geometry. */
#ifndef MPQ_OPS_CONV_ATTRS_H
#define MPQ_OPS_CONV_ATTRS_H

#include "quantcore/ops/kernel/conv.h"
#include "quantcore/ops/op.h"

#define MPQ_CONV_DIMS 3 /* spatial dimensions at most */

enum mpq_auto_pad { MPQ_PAD_EXPLICIT, MPQ_PAD_SAME_UPPER, MPQ_PAD_SAME_LOWER, MPQ_PAD_VALID };

/* Lists that are absent have n 0. */
struct mpq_conv_list {
    size_t n;
    int64_t v[2 * MPQ_CONV_DIMS];
};

struct mpq_conv_attrs {
    enum mpq_auto_pad auto_pad;
    int64_t group;
    struct mpq_conv_list kernel_shape, strides, dilations, pads;
    struct mpq_conv_list output_padding, output_shape; /* ConvTranspose */
};

/* parse of both rows: node->attrs is a struct mpq_conv_attrs. */
enum mpq_status mpq_conv_parse(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_node *node);

/* Types, ranks, lengths of lists, kernel_shape against the weight. */
enum mpq_status mpq_conv_check(struct mpq_ctx *ctx, const struct mpq_node *node,
                               const struct mpq_tensor *const *x) MPQ_CHECKED;

/* One spatial axis of `dims`, as the attributes give it. */
struct mpq_conv_axis {
    int64_t kernel, stride, dilation;
    int64_t span; /* from the first tap to past the last */
    int64_t pad_begin, pad_end;
    int64_t output_padding;
};
struct mpq_conv_axis mpq_conv_axis(const struct mpq_conv_attrs *attrs,
                                   const struct mpq_shape *weight, int axis);

/* The order of axes in struct mpq_conv: axis `axis` of `dims` is element [0], [1] or [2]. */
int mpq_conv_slot(int dims, int axis);

/* Sizes, strides and padding of a Conv node on these inputs; an axis of `out` is negative where the
 * filter does not fit in. */
struct mpq_conv mpq_conv_geometry(const struct mpq_node *node, const struct mpq_tensor *const *x);

/* infer of Conv: y[0] FLOAT. */
enum mpq_status mpq_conv_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                               const struct mpq_tensor *const *x,
                               struct mpq_tensor *const *y) MPQ_CHECKED;

#endif
