/* DepthToSpace and SpaceToDepth: blocks of b x b pixels <-> channels, as a transpose of the six
 * axes that split channels, height and width. */
#include <string.h>

#include "quantcore/ops/kernel/move.h"
#include "quantcore/ops/op_util.h"

struct attrs {
    int64_t block;
    bool channel_first; /* mode CRD: the channel is the outer part of the depth */
};

static enum mpq_status block_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   struct mpq_node *node)
{
    const char *mode = mpq_attr_string(&node->attr_set, "mode", "DCR");
    struct attrs attrs = {mpq_attr_int(&node->attr_set, "blocksize", 0), strcmp(mode, "CRD") == 0};
    if (attrs.block < 1 || attrs.block > INT32_MAX)
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "blocksize is %lld", (long long)attrs.block);
    if (!attrs.channel_first && strcmp(mode, "DCR") != 0)
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "mode is '%s'", mode);
    node->attrs = mpq_arena_copy(ctx, arena, &attrs, sizeof attrs);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

static enum mpq_status check_rank(struct mpq_ctx *ctx, const struct mpq_node *node,
                                  const struct mpq_shape *shape)
{
    if (shape->rank != 4)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "input %s is not of rank 4",
                             MPQ_SHAPE_TEXT(shape));
    return MPQ_OK;
}

static enum mpq_status depth_to_space_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                            const struct mpq_tensor *const *x,
                                            struct mpq_tensor *const *y)
{
    int64_t b = ((const struct attrs *)node->attrs)->block;
    struct mpq_shape shape = x[0]->shape;
    MPQ_TRY(check_rank(ctx, node, &shape));
    if (shape.dim[1] % (b * b) != 0)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "%lld channels do not make blocks of %lld",
                             (long long)shape.dim[1], (long long)b);
    shape.dim[1] /= b * b;
    shape.dim[2] *= b;
    shape.dim[3] *= b;
    return mpq_infer_set(ctx, node, y[0], x[0]->dtype, &shape);
}

static enum mpq_status space_to_depth_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                            const struct mpq_tensor *const *x,
                                            struct mpq_tensor *const *y)
{
    int64_t b = ((const struct attrs *)node->attrs)->block;
    struct mpq_shape shape = x[0]->shape;
    MPQ_TRY(check_rank(ctx, node, &shape));
    if (shape.dim[2] % b != 0 || shape.dim[3] % b != 0)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "%s does not divide into blocks of %lld",
                             MPQ_SHAPE_TEXT(&shape), (long long)b);
    shape.dim[1] *= b * b;
    shape.dim[2] /= b;
    shape.dim[3] /= b;
    return mpq_infer_set(ctx, node, y[0], x[0]->dtype, &shape);
}

/* The loop over the deep side in its order, with strides of the wide side [N, C, H b, W b]. */
static void make_move(const struct attrs *attrs, const struct mpq_shape *deep, int deep_operand,
                      struct mpq_move *out)
{
    int64_t b = attrs->block, channels = deep->dim[1] / (b * b), h = deep->dim[2], w = deep->dim[3];
    int64_t row = w * b, plane = h * b * row;
    struct mpq_shape axes = {6, {deep->dim[0], b, b, channels, h, w}};
    int64_t wide[6] = {channels * plane, row, 1, plane, b * row, b}, dense[6];
    if (attrs->channel_first) {
        axes = (struct mpq_shape){6, {deep->dim[0], channels, b, b, h, w}};
        memcpy(wide, (int64_t[]){channels * plane, plane, row, 1, b * row, b}, sizeof wide);
    }
    mpq_dense_strides(&axes, dense);
    mpq_move_init(out, &axes);
    for (int i = 0; i < 6; i++) {
        out->loop.stride[deep_operand][i] = dense[i];
        out->loop.stride[1 - deep_operand][i] = wide[i];
    }
}

static void forward(const struct mpq_kernel_args *args, const struct mpq_shape *deep, int operand)
{
    struct mpq_move move;
    make_move(args->node->attrs, deep, operand, &move);
    mpq_move_forward(&move, args->x[0], args->y[0]);
}

static void backward(const struct mpq_kernel_args *args, const struct mpq_shape *deep, int operand)
{
    struct mpq_move move;
    make_move(args->node->attrs, deep, operand, &move);
    mpq_move_backward(&move, args->dy[0], args->dx[0]);
}

#define ROW(onnx_name, symbol, deep, operand)                                                      \
    static void symbol##_forward(const struct mpq_kernel_args *args)                               \
    {                                                                                              \
        forward(args, &args->deep[0]->shape, operand);                                             \
    }                                                                                              \
    static void symbol##_backward(const struct mpq_kernel_args *args)                              \
    {                                                                                              \
        backward(args, &args->deep[0]->shape, operand);                                            \
    }                                                                                              \
    const struct mpq_op mpq_op_##symbol = {.name = onnx_name,                                      \
                                           .domain = "",                                           \
                                           .n_in_min = 1,                                          \
                                           .n_in_max = 1,                                          \
                                           .n_out_min = 1,                                         \
                                           .n_out_max = 1,                                         \
                                           .parse = block_parse,                                   \
                                           .infer = symbol##_infer,                                \
                                           .forward = symbol##_forward,                            \
                                           .backward = symbol##_backward}

ROW("DepthToSpace", depth_to_space, x, 1);
ROW("SpaceToDepth", space_to_depth, y, 0);
