/* Compress: the slices of x along an axis, or without one the elements of x, for which the constant
 * condition (input 1) is true. A condition that is too short ends with false. */
#include <string.h>

#include "quantcore/ops/op_util.h"

#define FLAT INT64_MIN /* no axis */

static enum mpq_status compress_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      struct mpq_node *node)
{
    return mpq_parse_int(ctx, arena, node, "axis", FLAT);
}

static int64_t n_chosen(const struct mpq_tensor *condition, int64_t n)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n && i < mpq_shape_count(&condition->shape); i++)
        count += mpq_tensor_int(condition, i) != 0;
    return count;
}

static enum mpq_status compress_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                      const struct mpq_tensor *const *x,
                                      struct mpq_tensor *const *y)
{
    struct mpq_shape shape = x[0]->shape;
    int axis = 0;
    if (!x[1]->data)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED,
                             "the shape of the output depends on data: input 1 is not constant");
    if (x[1]->dtype != MPQ_BOOL || x[1]->shape.rank != 1)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "the condition is %s %s",
                             mpq_dtype_name(x[1]->dtype), MPQ_SHAPE_TEXT(&x[1]->shape));
    if (mpq_parsed_int(node) == FLAT)
        shape = MPQ_SHAPE(mpq_shape_count(&x[0]->shape));
    else
        MPQ_TRY(mpq_check_axis(ctx, node, mpq_parsed_int(node), shape.rank, &axis));
    shape.dim[axis] = n_chosen(x[1], shape.dim[axis]);
    return mpq_infer_set(ctx, node, y[0], x[0]->dtype, &shape);
}

/* fn(to, from, n) for every run of n elements that moves. */
static void for_each_run(const struct mpq_kernel_args *args,
                         void (*fn)(const struct mpq_kernel_args *, int64_t, int64_t, int64_t))
{
    const struct mpq_shape *shape = &args->x[0]->shape;
    bool is_flat = mpq_parsed_int(args->node) == FLAT;
    int axis = is_flat ? 0 : mpq_parsed_axis(args->node, shape->rank);
    int64_t outer = is_flat ? 1 : mpq_shape_count_range(shape, 0, axis);
    int64_t n = is_flat ? mpq_shape_count(shape) : shape->dim[axis], to = 0;
    int64_t inner = is_flat ? 1 : mpq_shape_count_range(shape, axis + 1, shape->rank);
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < n && i < mpq_shape_count(&args->x[1]->shape); i++)
            if (mpq_tensor_int(args->x[1], i)) {
                fn(args, to, (o * n + i) * inner, inner);
                to += inner;
            }
}

static void copy_run(const struct mpq_kernel_args *args, int64_t to, int64_t from, int64_t n)
{
    size_t bytes = mpq_dtype_bytes(args->y[0]->dtype);
    memcpy((uint8_t *)args->y[0]->data + (size_t)to * bytes,
           (const uint8_t *)args->x[0]->data + (size_t)from * bytes, (size_t)n * bytes);
}

static void add_run(const struct mpq_kernel_args *args, int64_t to, int64_t from, int64_t n)
{
    mpq_accumulate(args->dx[0] + from, args->dy[0] + to, n, false);
}

static void compress_forward(const struct mpq_kernel_args *args)
{
    for_each_run(args, copy_run);
}

static void compress_backward(const struct mpq_kernel_args *args)
{
    if (args->dx[0] && args->dy[0])
        for_each_run(args, add_run);
}

const struct mpq_op mpq_op_compress = {.name = "Compress",
                                       .domain = "",
                                       .n_in_min = 2,
                                       .n_in_max = 2,
                                       .n_out_min = 1,
                                       .n_out_max = 1,
                                       .parse = compress_parse,
                                       .infer = compress_infer,
                                       .forward = compress_forward,
                                       .backward = compress_backward};
