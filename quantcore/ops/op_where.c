/* Where: y = condition ? a : b, all three broadcast; elements of any type. */
#include <string.h>

#include "quantcore/ops/kernel/loop.h"
#include "quantcore/ops/op_util.h"

static enum mpq_status where_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                   const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    struct mpq_shape shape;
    if (x[0]->dtype != MPQ_BOOL || x[1]->dtype != x[2]->dtype)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "inputs are %s, %s and %s",
                             mpq_dtype_name(x[0]->dtype), mpq_dtype_name(x[1]->dtype),
                             mpq_dtype_name(x[2]->dtype));
    MPQ_TRY(mpq_infer_broadcast(ctx, node, x, &shape));
    return mpq_infer_set(ctx, node, y[0], x[1]->dtype, &shape);
}

static void make_loop(const struct mpq_kernel_args *args, struct mpq_loop *out)
{
    mpq_loop_init(out, &args->y[0]->shape);
    for (int k = 0; k < 3; k++)
        mpq_loop_add(out, &args->x[k]->shape);
    mpq_loop_merge(out);
}

static void where_forward(const struct mpq_kernel_args *args)
{
    size_t bytes = mpq_dtype_bytes(args->y[0]->dtype);
    const uint8_t *condition = args->x[0]->data;
    uint8_t *y = args->y[0]->data;
    struct mpq_loop loop;
    struct mpq_span span;
    make_loop(args, &loop);
    int64_t step = mpq_loop_inner_stride(&loop, 0);
    for (mpq_span_first(&span, &loop, 0, mpq_loop_count(&loop)); span.n; mpq_span_next(&span))
        for (int64_t i = 0; i < span.n; i++, y += bytes) {
            int k = condition[span.offset[0] + i * step] ? 1 : 2;
            int64_t at = span.offset[k] + i * mpq_loop_inner_stride(&loop, k);
            memcpy(y, (const uint8_t *)args->x[k]->data + (size_t)at * bytes, bytes);
        }
}

static void where_backward(const struct mpq_kernel_args *args)
{
    const uint8_t *condition = args->x[0]->data;
    const mpq_real *dy = args->dy[0];
    struct mpq_loop loop;
    struct mpq_span span;
    if (!dy)
        return;
    make_loop(args, &loop);
    int64_t step = mpq_loop_inner_stride(&loop, 0);
    for (mpq_span_first(&span, &loop, 0, mpq_loop_count(&loop)); span.n; mpq_span_next(&span))
        for (int64_t i = 0; i < span.n; i++, dy++) {
            int k = condition[span.offset[0] + i * step] ? 1 : 2;
            if (args->dx[k])
                args->dx[k][span.offset[k] + i * mpq_loop_inner_stride(&loop, k)] += *dy;
        }
}

const struct mpq_op mpq_op_where = {.name = "Where",
                                    .domain = "",
                                    .n_in_min = 3,
                                    .n_in_max = 3,
                                    .n_out_min = 1,
                                    .n_out_max = 1,
                                    .infer = where_infer,
                                    .forward = where_forward,
                                    .backward = where_backward};
