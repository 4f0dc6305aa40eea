/* ONNX Runtime's QLinearConcat: 8-bit tensors, each with a scale and zero point of its own, laid
 * end to end along one axis with those of the output. Inputs: y_scale, y_zero, then three for each
 * tensor. */
#include <string.h>

#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/quantized.h"
#include "quantcore/ops/op_util.h"

enum place { Y_SCALE, Y_ZERO, FIRST };

static enum mpq_status parse(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_node *node)
{
    if (!mpq_attr_find(&node->attr_set, "axis"))
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "attribute axis is missing");
    if ((node->n_in - FIRST) % 3 != 0)
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "has %u inputs, not two and three a tensor",
                             node->n_in);
    return mpq_parse_int(ctx, arena, node, "axis", 0);
}

static enum mpq_status infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                             const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    int axis = 0;
    enum mpq_dtype dtype;
    MPQ_TRY(mpq_quantized_check_output(ctx, node, x, Y_SCALE, Y_ZERO, MPQ_UINT8, &dtype));
    for (uint32_t i = FIRST; i < node->n_in; i += 3)
        MPQ_TRY(mpq_quantized_check(ctx, node, x, i, i + 1, i + 2, 1));
    struct mpq_shape shape = x[FIRST]->shape;
    MPQ_TRY(mpq_check_axis(ctx, node, mpq_parsed_int(node), shape.rank, &axis));
    for (uint32_t i = FIRST; i < node->n_in; i += 3) {
        struct mpq_shape like = x[i]->shape;
        if (x[i]->dtype != dtype)
            return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "%s does not become %s",
                                 mpq_dtype_name(x[i]->dtype), mpq_dtype_name(dtype));
        if (like.rank == shape.rank)
            like.dim[axis] = x[FIRST]->shape.dim[axis];
        if (!mpq_shape_equal(&like, &x[FIRST]->shape))
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "%s and %s do not join at axis %d",
                                 MPQ_SHAPE_TEXT(&x[FIRST]->shape), MPQ_SHAPE_TEXT(&x[i]->shape),
                                 axis);
        if (i > FIRST)
            shape.dim[axis] += x[i]->shape.dim[axis];
    }
    return mpq_infer_set(ctx, node, y[0], dtype, &shape);
}

struct piece {
    const uint8_t *x;
    uint8_t *y;
    int64_t row, length; /* of y, of x */
    bool is_same;        /* scale and zero point, as those of y */
    uint8_t table[256];
};

static void write_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct piece *piece = arg;
    (void)thread;
    for (int64_t r = begin; r < end; r++) {
        const uint8_t *x = piece->x + r * piece->length;
        uint8_t *y = piece->y + r * piece->row;
        if (piece->is_same)
            memcpy(y, x, (size_t)piece->length);
        for (int64_t i = 0; !piece->is_same && i < piece->length; i++)
            y[i] = piece->table[x[i]];
    }
}

static float same(float x, const void *arg)
{
    (void)arg;
    return x;
}

static void forward(const struct mpq_kernel_args *args)
{
    const struct mpq_tensor *const *x = args->x;
    const struct mpq_shape *shape = &args->y[0]->shape;
    int axis = mpq_parsed_axis(args->node, shape->rank);
    float y_scale = mpq_scale_at(x[Y_SCALE], 0);
    struct mpq_requant to = mpq_requant_to(args->y[0]->dtype, mpq_zero_at(x[Y_ZERO], 0));
    struct piece piece = {.y = args->y[0]->data,
                          .row = mpq_shape_count_range(shape, axis, shape->rank)};
    for (uint32_t i = FIRST; i < args->node->n_in; i += 3) {
        float x_scale = mpq_scale_at(x[i + 1], 0);
        int32_t x_zero = mpq_zero_at(x[i + 2], 0);
        piece.x = x[i]->data;
        piece.length = mpq_shape_count_range(&x[i]->shape, axis, shape->rank);
        piece.is_same = x_scale == y_scale && x_zero == to.zero;
        mpq_quantized_table(x[i]->dtype == MPQ_INT8, x_scale, x_zero, y_scale, &to, same, NULL,
                            piece.table);
        mpq_parallel_for(mpq_shape_count_range(shape, 0, axis), 1 + MPQ_GRAIN / (piece.length + 1),
                         write_rows, &piece);
        piece.y += piece.length;
    }
}

const struct mpq_op mpq_op_qlinear_concat = {.name = "QLinearConcat",
                                             .domain = "com.microsoft",
                                             .n_in_min = 5,
                                             .n_in_max = -1,
                                             .n_out_min = 1,
                                             .n_out_max = 1,
                                             .parse = parse,
                                             .infer = infer,
                                             .forward = forward};
