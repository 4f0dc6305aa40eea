/* Sum, Mean, Max, Min of any number of broadcast inputs. Integers in 64 bits. */
#include <string.h>

#include "quantcore/ops/kernel/loop.h"
#include "quantcore/ops/op_util.h"

enum kind { SUM, MEAN, MAX, MIN };

static enum mpq_status variadic_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                      const struct mpq_tensor *const *x,
                                      struct mpq_tensor *const *y)
{
    struct mpq_shape shape;
    for (uint32_t i = 0; i < node->n_in; i++)
        if (!x[i])
            return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "input %u is missing", i);
    if (!mpq_dtype_is_integer(x[0]->dtype))
        MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    MPQ_TRY(mpq_check_same_dtype(ctx, node, x));
    MPQ_TRY(mpq_infer_broadcast(ctx, node, x, &shape));
    return mpq_infer_set(ctx, node, y[0], x[0]->dtype, &shape);
}

/* y walks in order, operand 0 is input k. */
static void make_loop(const struct mpq_kernel_args *args, uint32_t k, struct mpq_loop *out)
{
    mpq_loop_init(out, &args->y[0]->shape);
    mpq_loop_add(out, &args->x[k]->shape);
    mpq_loop_merge(out);
}

static void fold_span(enum kind kind, mpq_real *restrict y, const mpq_real *restrict x, int64_t n,
                      int64_t step)
{
    if (kind == MAX)
        for (int64_t i = 0; i < n; i++)
            y[i] = x[i * step] > y[i] ? x[i * step] : y[i];
    else if (kind == MIN)
        for (int64_t i = 0; i < n; i++)
            y[i] = x[i * step] < y[i] ? x[i * step] : y[i];
    else
        for (int64_t i = 0; i < n; i++)
            y[i] += x[i * step];
}

static int64_t fold_integer(enum kind kind, bool is_unsigned, int64_t a, int64_t b)
{
    bool is_less = is_unsigned ? (uint64_t)a < (uint64_t)b : a < b;
    if (kind == MAX)
        return is_less ? b : a;
    if (kind == MIN)
        return is_less ? a : b;
    return (int64_t)((uint64_t)a + (uint64_t)b);
}

static void fold_integers(const struct mpq_kernel_args *args, enum kind kind, uint32_t k,
                          const struct mpq_loop *loop)
{
    struct mpq_tensor *y = args->y[0];
    int64_t step = mpq_loop_inner_stride(loop, 0), at = 0;
    struct mpq_span span;
    for (mpq_span_first(&span, loop, 0, mpq_loop_count(loop)); span.n; mpq_span_next(&span))
        for (int64_t i = 0; i < span.n; i++, at++) {
            int64_t value = mpq_tensor_int(args->x[k], span.offset[0] + i * step);
            if (k > 0)
                value = fold_integer(kind, y->dtype == MPQ_UINT64, mpq_tensor_int(y, at), value);
            mpq_tensor_set_int(y, at, value);
        }
}

static void fold_reals(const struct mpq_kernel_args *args, enum kind kind, uint32_t k,
                       const struct mpq_loop *loop)
{
    mpq_real *y = args->y[0]->data;
    const mpq_real *x = args->x[k]->data;
    int64_t step = mpq_loop_inner_stride(loop, 0);
    struct mpq_span span;
    for (mpq_span_first(&span, loop, 0, mpq_loop_count(loop)); span.n; mpq_span_next(&span)) {
        if (k > 0)
            fold_span(kind, y, x + span.offset[0], span.n, step);
        else
            for (int64_t i = 0; i < span.n; i++)
                y[i] = x[span.offset[0] + i * step];
        y += span.n;
    }
}

static void forward(const struct mpq_kernel_args *args, enum kind kind)
{
    struct mpq_loop loop;
    uint32_t n_in = args->node->n_in;
    int64_t n = mpq_shape_count(&args->y[0]->shape);
    bool is_real = args->y[0]->dtype == MPQ_FLOAT;
    for (uint32_t k = 0; k < n_in; k++) {
        make_loop(args, k, &loop);
        (is_real ? fold_reals : fold_integers)(args, kind, k, &loop);
    }
    if (kind == MEAN && is_real)
        for (int64_t i = 0; i < n; i++)
            ((mpq_real *)args->y[0]->data)[i] /= (mpq_real)n_in;
}

/* Whether input k is the first that equals y at element `at`: of several maxima one gets all. */
static bool is_chosen(const struct mpq_kernel_args *args, uint32_t k, int64_t at, mpq_real value)
{
    mpq_real y = ((const mpq_real *)args->y[0]->data)[at];
    if (value != y)
        return false;
    for (uint32_t j = 0; j < k; j++) {
        struct mpq_loop loop;
        struct mpq_span span;
        make_loop(args, j, &loop);
        mpq_span_first(&span, &loop, at, at + 1);
        if (((const mpq_real *)args->x[j]->data)[span.offset[0]] == y)
            return false;
    }
    return true;
}

static void backward(const struct mpq_kernel_args *args, enum kind kind)
{
    const mpq_real *dy = args->dy[0];
    mpq_real share = kind == MEAN ? 1 / (mpq_real)args->node->n_in : 1;
    for (uint32_t k = 0; dy && k < args->node->n_in; k++) {
        struct mpq_loop loop;
        struct mpq_span span;
        const mpq_real *x = args->x[k]->data;
        int64_t at = 0;
        if (!args->dx[k])
            continue;
        make_loop(args, k, &loop);
        int64_t step = mpq_loop_inner_stride(&loop, 0);
        for (mpq_span_first(&span, &loop, 0, mpq_loop_count(&loop)); span.n; mpq_span_next(&span))
            for (int64_t i = 0; i < span.n; i++, at++) {
                int64_t from = span.offset[0] + i * step;
                if (kind <= MEAN || is_chosen(args, k, at, x[from]))
                    args->dx[k][from] += dy[at] * share;
            }
    }
}

#define ROW(onnx_name, symbol, kind)                                                               \
    static void symbol##_forward(const struct mpq_kernel_args *args)                               \
    {                                                                                              \
        forward(args, kind);                                                                       \
    }                                                                                              \
    static void symbol##_backward(const struct mpq_kernel_args *args)                              \
    {                                                                                              \
        backward(args, kind);                                                                      \
    }                                                                                              \
    const struct mpq_op mpq_op_##symbol = {.name = onnx_name,                                      \
                                           .domain = "",                                           \
                                           .n_in_min = 1,                                          \
                                           .n_in_max = -1,                                         \
                                           .n_out_min = 1,                                         \
                                           .n_out_max = 1,                                         \
                                           .infer = variadic_infer,                                \
                                           .forward = symbol##_forward,                            \
                                           .backward = symbol##_backward}

ROW("Sum", sum, SUM);
ROW("Mean", mean, MEAN);
ROW("Max", max, MAX);
ROW("Min", min, MIN);
