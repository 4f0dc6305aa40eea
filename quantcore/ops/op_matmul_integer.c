/* MatMulInteger: y = (a - a_zero) (b - b_zero) in int32. a [..., M, K] and b [..., K, N] are int8
 * or uint8 with broadcast leading dimensions; zero points are one number, or one for each row of a
 * and each column of b. */
#include <string.h>

#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/loop.h"
#include "quantcore/ops/op_util.h"

static enum mpq_status check_operand(struct mpq_ctx *ctx, const struct mpq_node *node,
                                     const struct mpq_tensor *const *x, uint32_t i, int from_end)
{
    const struct mpq_tensor *zero_point = mpq_input(node, x, i + 2);
    const struct mpq_shape *shape = &x[i]->shape;
    if (x[i]->dtype != MPQ_INT8 && x[i]->dtype != MPQ_UINT8)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "input %u is %s", i,
                             mpq_dtype_name(x[i]->dtype));
    if (shape->rank < 2)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "input %u is %s, no matrix", i,
                             MPQ_SHAPE_TEXT(shape));
    if (!zero_point)
        return MPQ_OK;
    int64_t n = mpq_shape_count(&zero_point->shape);
    if (zero_point->dtype != x[i]->dtype || zero_point->shape.rank > 1 ||
        (n != 1 && n != shape->dim[shape->rank - from_end]))
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "zero point %s %s for an input %s %s",
                             mpq_dtype_name(zero_point->dtype), MPQ_SHAPE_TEXT(&zero_point->shape),
                             mpq_dtype_name(x[i]->dtype), MPQ_SHAPE_TEXT(shape));
    return MPQ_OK;
}

/* The leading dimensions: a stack of matrices. */
static struct mpq_shape stack(const struct mpq_shape *shape)
{
    struct mpq_shape result = *shape;
    result.rank -= 2;
    return result;
}

static enum mpq_status matmul_integer_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                            const struct mpq_tensor *const *x,
                                            struct mpq_tensor *const *y)
{
    MPQ_TRY(check_operand(ctx, node, x, 0, 2));
    MPQ_TRY(check_operand(ctx, node, x, 1, 1));
    const struct mpq_shape *a = &x[0]->shape, *b = &x[1]->shape;
    struct mpq_shape a_stack = stack(a), b_stack = stack(b), shape;
    if (a->dim[a->rank - 1] != b->dim[b->rank - 2] ||
        !mpq_shape_broadcast(&a_stack, &b_stack, &shape))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "%s and %s do not multiply", MPQ_SHAPE_TEXT(a),
                             MPQ_SHAPE_TEXT(b));
    shape.dim[shape.rank++] = a->dim[a->rank - 2];
    shape.dim[shape.rank++] = b->dim[b->rank - 1];
    return mpq_infer_set(ctx, node, y[0], MPQ_INT32, &shape);
}

struct job {
    int64_t m, k, n;
    bool a_is_signed, b_is_signed;
    const uint8_t *a, *b;
    const struct mpq_tensor *a_zero, *b_zero;
    int32_t *y;
};

static int32_t zero_at(const struct mpq_tensor *zero_point, int64_t i)
{
    if (!zero_point)
        return 0;
    return (int32_t)mpq_tensor_int(zero_point, mpq_shape_count(&zero_point->shape) == 1 ? 0 : i);
}

static void add_row(int32_t *restrict y, int32_t a, const uint8_t *restrict b, int64_t n,
                    bool is_signed)
{
    if (is_signed)
        for (int64_t j = 0; j < n; j++)
            y[j] += a * (int8_t)b[j];
    else
        for (int64_t j = 0; j < n; j++)
            y[j] += a * b[j];
}

/* Row by row: y_row = sum over k of a_k * b_row_k; b's zero points come off at the end, times the
 * sum of the row of a. */
static void multiply_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        int32_t *y = job->y + i * job->n, sum = 0, a_zero = zero_at(job->a_zero, i);
        memset(y, 0, (size_t)job->n * sizeof *y);
        for (int64_t k = 0; k < job->k; k++) {
            uint8_t raw = job->a[i * job->k + k];
            int32_t a = (job->a_is_signed ? (int8_t)raw : raw) - a_zero;
            sum += a;
            add_row(y, a, job->b + k * job->n, job->n, job->b_is_signed);
        }
        for (int64_t j = 0; job->b_zero && j < job->n; j++)
            y[j] -= sum * zero_at(job->b_zero, j);
    }
}

static void matmul_integer_forward(const struct mpq_kernel_args *args)
{
    const struct mpq_tensor *a = args->x[0], *b = args->x[1];
    struct mpq_shape a_stack = stack(&a->shape), b_stack = stack(&b->shape);
    struct mpq_shape y_stack = stack(&args->y[0]->shape);
    struct job job = {.m = a->shape.dim[a->shape.rank - 2],
                      .k = a->shape.dim[a->shape.rank - 1],
                      .n = b->shape.dim[b->shape.rank - 1],
                      .a_is_signed = a->dtype == MPQ_INT8,
                      .b_is_signed = b->dtype == MPQ_INT8,
                      .a_zero = mpq_input(args->node, args->x, 2),
                      .b_zero = mpq_input(args->node, args->x, 3),
                      .y = args->y[0]->data};
    struct mpq_loop loop;
    mpq_loop_init(&loop, &y_stack);
    mpq_loop_add(&loop, &a_stack);
    mpq_loop_add(&loop, &b_stack);
    mpq_loop_merge(&loop);
    struct mpq_span span;
    for (mpq_span_first(&span, &loop, 0, mpq_loop_count(&loop)); span.n; mpq_span_next(&span))
        for (int64_t s = 0; s < span.n; s++) {
            int64_t a_at = span.offset[0] + s * mpq_loop_inner_stride(&loop, 0);
            int64_t b_at = span.offset[1] + s * mpq_loop_inner_stride(&loop, 1);
            job.a = (const uint8_t *)a->data + a_at * job.m * job.k;
            job.b = (const uint8_t *)b->data + b_at * job.k * job.n;
            mpq_parallel_for(job.m, 1 + MPQ_GRAIN / (job.k * job.n + 1), multiply_rows, &job);
            job.y += job.m * job.n;
        }
}

const struct mpq_op mpq_op_matmul_integer = {.name = "MatMulInteger",
                                             .domain = "",
                                             .n_in_min = 2,
                                             .n_in_max = 4,
                                             .n_out_min = 1,
                                             .n_out_max = 1,
                                             .infer = matmul_integer_infer,
                                             .forward = matmul_integer_forward};
