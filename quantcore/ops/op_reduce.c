/* ReduceSum, ReduceMean, ReduceMax, ...: one number from the elements along some axes, which an
 * attribute or constant input 1 names (none: all axes, or with noop_with_empty_axes no reduction).
 * Sums are taken in double. Types other than FLOAT go through double too. */
#include <math.h>
#include <string.h>

#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/loop.h"
#include "quantcore/ops/kernel/move.h"
#include "quantcore/ops/kernel/real_math.h"
#include "quantcore/ops/op_util.h"

struct attrs {
    bool keep_dims, noop_if_empty;
    int n_axis;
    int64_t axis[MPQ_MAX_RANK];
};

static enum mpq_status reduce_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_node *node)
{
    size_t n;
    const int64_t *axis = mpq_attr_ints(&node->attr_set, "axes", &n);
    struct attrs *attrs = mpq_arena_alloc(ctx, arena, 1, sizeof *attrs);
    if (!attrs)
        return MPQ_E_NOMEM;
    if (n > MPQ_MAX_RANK)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "axes has %zu entries", n);
    attrs->keep_dims = mpq_attr_int(&node->attr_set, "keepdims", 1) != 0;
    attrs->noop_if_empty = mpq_attr_int(&node->attr_set, "noop_with_empty_axes", 0) != 0;
    attrs->n_axis = (int)n;
    for (size_t i = 0; i < n; i++)
        attrs->axis[i] = axis[i];
    node->attrs = attrs;
    return MPQ_OK;
}

/* out_mark [rank of x]: the reduced axes, from attribute or input, known to be right. */
static void read_axes(const struct mpq_node *node, const struct mpq_tensor *const *x,
                      bool *out_mark)
{
    const struct attrs *attrs = node->attrs;
    const struct mpq_tensor *input = mpq_input(node, x, 1);
    int rank = x[0]->shape.rank;
    int n = input ? (int)mpq_shape_count(&input->shape) : attrs->n_axis;
    for (int i = 0; i < rank; i++)
        out_mark[i] = n == 0 && !attrs->noop_if_empty;
    for (int i = 0; i < n; i++) {
        int64_t axis = input ? mpq_tensor_int(input, i) : attrs->axis[i];
        out_mark[axis < 0 ? axis + rank : axis] = true;
    }
}

static enum mpq_status reduce_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct attrs *attrs = node->attrs;
    const struct mpq_shape *from = &x[0]->shape;
    int64_t axis[MPQ_MAX_RANK];
    bool mark[MPQ_MAX_RANK];
    int n = attrs->n_axis;
    memcpy(axis, attrs->axis, sizeof axis);
    if (mpq_input(node, x, 1))
        MPQ_TRY(mpq_const_ints(ctx, node, x, 1, "axes", from->rank, axis, &n));
    if (x[0]->dtype != MPQ_BOOL && !mpq_dtype_is_integer(x[0]->dtype))
        MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    if (n > from->rank)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "%d axes for %s", n, MPQ_SHAPE_TEXT(from));
    MPQ_TRY(mpq_check_axes(ctx, node, axis, n, from->rank, mark));
    read_axes(node, x, mark);
    struct mpq_shape shape = {0};
    for (int i = 0; i < from->rank; i++)
        if (!mark[i] || attrs->keep_dims)
            shape.dim[shape.rank++] = mark[i] ? 1 : from->dim[i];
    return mpq_infer_set(ctx, node, y[0], x[0]->dtype, &shape);
}

enum trait {
    PLAIN,
    CHOICE,  /* Max, Min: the first x == y gets the whole gradient       */
    SHIFTED, /* LogSumExp: v - max is folded, and max added at the end   */
    PRODUCT
};

/* How one operator folds n numbers and what it derives: y = finish(fold of step(acc, v)). */
struct kind {
    double start;
    double (*step)(double acc, double v);
    double (*finish)(double acc, double n);        /* NULL: acc itself                       */
    double (*slope)(double x, double y, double n); /* dy/dx of an element                    */
    enum trait trait;
};

/* kept: the loop over y, operand 0 x. reduced: the loop over what one y folds, operand 0 x. */
struct job {
    const struct kind *kind;
    const struct mpq_tensor *x;
    struct mpq_tensor *y;
    const mpq_real *dy;
    mpq_real *dx;
    struct mpq_loop kept, reduced;
};

static void make_job(const struct mpq_kernel_args *args, const struct kind *kind, struct job *job)
{
    bool mark[MPQ_MAX_RANK];
    int64_t stride[MPQ_MAX_RANK];
    const struct mpq_shape *shape = &args->x[0]->shape;
    *job = (struct job){.kind = kind, .x = args->x[0], .y = args->y[0]};
    job->kept.n_operand = job->reduced.n_operand = 1;
    read_axes(args->node, args->x, mark);
    mpq_dense_strides(shape, stride);
    for (int i = 0; i < shape->rank; i++)
        mpq_loop_push(mark[i] ? &job->reduced : &job->kept, shape->dim[i], &stride[i]);
    mpq_loop_merge(&job->kept);
    mpq_loop_merge(&job->reduced);
}

static double fold(const struct job *job, double acc, double (*step)(double, double), int64_t base,
                   double shift)
{
    int64_t stride = mpq_loop_inner_stride(&job->reduced, 0);
    const mpq_real *x = job->x->dtype == MPQ_FLOAT ? job->x->data : NULL;
    struct mpq_span span;
    for (mpq_span_first(&span, &job->reduced, 0, mpq_loop_count(&job->reduced)); span.n;
         mpq_span_next(&span))
        for (int64_t i = 0; i < span.n; i++) {
            int64_t at = base + span.offset[0] + i * stride;
            acc = step(acc, (x ? (double)x[at] : mpq_tensor_double(job->x, at)) - shift);
        }
    return acc;
}

static double add(double acc, double v)
{
    return acc + v;
}

/* The common sum over contiguous elements, vectorised. */
static double sum_contiguous(const struct job *job, int64_t base)
{
    double sum = 0;
    struct mpq_span span;
    for (mpq_span_first(&span, &job->reduced, 0, mpq_loop_count(&job->reduced)); span.n;
         mpq_span_next(&span))
        sum += mpq_sum((const mpq_real *)job->x->data + base + span.offset[0], span.n);
    return sum;
}

#define COLUMNS 16

/* The sums of COLUMNS neighbours of y at once, each in the order of fold(). */
MPQ_MULTIVERSION
static void sum_columns(const struct job *job, int64_t base, double *restrict sum)
{
    int64_t stride = mpq_loop_inner_stride(&job->reduced, 0);
    struct mpq_span span;
    memset(sum, 0, COLUMNS * sizeof *sum);
    for (mpq_span_first(&span, &job->reduced, 0, mpq_loop_count(&job->reduced)); span.n;
         mpq_span_next(&span)) {
        const mpq_real *x = (const mpq_real *)job->x->data + base + span.offset[0];
        for (int64_t i = 0; i < span.n; i++, x += stride)
            for (int j = 0; j < COLUMNS; j++)
                sum[j] += (double)x[j];
    }
}

static double larger(double acc, double v)
{
    return v > acc ? v : acc;
}

static double reduce_one(const struct job *job, int64_t base)
{
    const struct kind *kind = job->kind;
    double shift = 0, acc, n = (double)mpq_loop_count(&job->reduced);
    if (kind->trait == SHIFTED) {
        shift = fold(job, -INFINITY, larger, base, 0);
        shift = isfinite(shift) ? shift : 0;
    }
    if (kind->step == add && job->x->dtype == MPQ_FLOAT &&
        mpq_loop_inner_stride(&job->reduced, 0) == 1)
        acc = sum_contiguous(job, base);
    else
        acc = fold(job, job->x->dtype == MPQ_BOOL ? fmax(kind->start, 0) : kind->start, kind->step,
                   base, shift);
    return (kind->finish ? kind->finish(acc, n) : acc) + shift;
}

/* y from element `at` on. Returns the element behind them. */
static int64_t reduce_columns(const struct job *job, int64_t base, int64_t at)
{
    double sum[COLUMNS], n = (double)mpq_loop_count(&job->reduced);
    sum_columns(job, base, sum);
    for (int j = 0; j < COLUMNS; j++)
        mpq_tensor_set_double(job->y, at++,
                              job->kind->finish ? job->kind->finish(sum[j], n) : sum[j]);
    return at;
}

static void forward_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    int64_t stride = mpq_loop_inner_stride(&job->kept, 0), at = begin;
    bool has_columns = job->kind->step == add && stride == 1 && job->x->dtype == MPQ_FLOAT;
    struct mpq_span span;
    (void)thread;
    for (mpq_span_first(&span, &job->kept, begin, end); span.n; mpq_span_next(&span)) {
        int64_t i = 0;
        for (; has_columns && i + COLUMNS <= span.n; i += COLUMNS)
            at = reduce_columns(job, span.offset[0] + i, at);
        for (; i < span.n; i++)
            mpq_tensor_set_double(job->y, at++, reduce_one(job, span.offset[0] + i * stride));
    }
}

/* The product of all elements but a single zero; 0 where there is no zero or there are several. */
static double product_beside_zero(const struct job *job, int64_t base)
{
    int64_t stride = mpq_loop_inner_stride(&job->reduced, 0);
    const mpq_real *x = (const mpq_real *)job->x->data + base;
    double product = 1;
    int n_zero = 0;
    struct mpq_span span;
    for (mpq_span_first(&span, &job->reduced, 0, mpq_loop_count(&job->reduced)); span.n;
         mpq_span_next(&span))
        for (int64_t i = 0; i < span.n; i++) {
            double v = (double)x[span.offset[0] + i * stride];
            n_zero += v == 0;
            product *= v == 0 ? 1 : v;
        }
    return n_zero == 1 ? product : 0;
}

static void backward_one(const struct job *job, int64_t base, double y, double dy)
{
    const struct kind *kind = job->kind;
    int64_t stride = mpq_loop_inner_stride(&job->reduced, 0);
    double n = (double)mpq_loop_count(&job->reduced);
    double rest = kind->trait == PRODUCT && y == 0 ? product_beside_zero(job, base) : 0;
    const mpq_real *x = (const mpq_real *)job->x->data + base;
    mpq_real *dx = job->dx + base;
    struct mpq_span span;
    for (mpq_span_first(&span, &job->reduced, 0, mpq_loop_count(&job->reduced)); span.n;
         mpq_span_next(&span))
        for (int64_t i = 0; i < span.n; i++) {
            int64_t at = span.offset[0] + i * stride;
            double v = (double)x[at];
            double slope = kind->trait == PRODUCT && v == 0 ? rest : kind->slope(v, y, n);
            dx[at] += (mpq_real)(dy * slope);
            if (kind->trait == CHOICE && slope != 0)
                return;
        }
}

static void backward_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const mpq_real *y = job->y->data;
    int64_t stride = mpq_loop_inner_stride(&job->kept, 0), at = begin;
    struct mpq_span span;
    (void)thread;
    for (mpq_span_first(&span, &job->kept, begin, end); span.n; mpq_span_next(&span))
        for (int64_t i = 0; i < span.n; i++, at++)
            backward_one(job, span.offset[0] + i * stride, (double)y[at], (double)job->dy[at]);
}

static void run(struct job *job, void (*piece)(void *, int64_t, int64_t, int))
{
    int64_t n = mpq_loop_count(&job->reduced);
    mpq_parallel_for(mpq_shape_count(&job->y->shape), 1 + MPQ_GRAIN / (n + 1), piece, job);
}

static void forward(const struct mpq_kernel_args *args, const struct kind *kind)
{
    struct job job;
    make_job(args, kind, &job);
    run(&job, forward_piece);
}

static void backward(const struct mpq_kernel_args *args, const struct kind *kind)
{
    struct job job;
    if (!args->dy[0] || !args->dx[0])
        return;
    make_job(args, kind, &job);
    job.dy = args->dy[0];
    job.dx = args->dx[0];
    run(&job, backward_piece);
}

#define FUNCTION(name, a, b, value)                                                                \
    static double name(double a, double b)                                                         \
    {                                                                                              \
        return value;                                                                              \
    }
#define SLOPE(name, value)                                                                         \
    static double name(double x, double y, double n)                                               \
    {                                                                                              \
        (void)x, (void)y, (void)n;                                                                 \
        return value;                                                                              \
    }

FUNCTION(smaller, acc, v, v < acc ? v : acc)
FUNCTION(multiply, acc, v, acc *v)
FUNCTION(add_size, acc, v, acc + fabs(v))
FUNCTION(add_square, acc, v, acc + v * v)
FUNCTION(add_exp, acc, v, acc + exp(v))
FUNCTION(divide, acc, n, acc / n)

static double root(double acc, double n)
{
    (void)n;
    return sqrt(acc);
}

static double logarithm(double acc, double n)
{
    (void)n;
    return log(acc);
}

SLOPE(slope_one, 1)
SLOPE(slope_share, 1 / n)
SLOPE(slope_chosen, x == y)
SLOPE(slope_product, y / x)
SLOPE(slope_sign, (x > 0) - (x < 0))
SLOPE(slope_direction, y == 0 ? 0 : x / y)
SLOPE(slope_twice, 2 * x)
SLOPE(slope_inverse, exp(-y))
SLOPE(slope_softmax, exp(x - y))

#define ROW(onnx_name, symbol, start_, step_, finish_, slope_, trait_)                             \
    static const struct kind symbol##_kind = {start_, step_, finish_, slope_, trait_};             \
    static void symbol##_forward(const struct mpq_kernel_args *args)                               \
    {                                                                                              \
        forward(args, &symbol##_kind);                                                             \
    }                                                                                              \
    static void symbol##_backward(const struct mpq_kernel_args *args)                              \
    {                                                                                              \
        backward(args, &symbol##_kind);                                                            \
    }                                                                                              \
    const struct mpq_op mpq_op_##symbol = {.name = onnx_name,                                      \
                                           .domain = "",                                           \
                                           .n_in_min = 1,                                          \
                                           .n_in_max = 2,                                          \
                                           .n_out_min = 1,                                         \
                                           .n_out_max = 1,                                         \
                                           .parse = reduce_parse,                                  \
                                           .infer = reduce_infer,                                  \
                                           .forward = symbol##_forward,                            \
                                           .backward = symbol##_backward}

ROW("ReduceSum", reduce_sum, 0, add, NULL, slope_one, PLAIN);
ROW("ReduceMean", reduce_mean, 0, add, divide, slope_share, PLAIN);
ROW("ReduceMax", reduce_max, -INFINITY, larger, NULL, slope_chosen, CHOICE);
ROW("ReduceMin", reduce_min, INFINITY, smaller, NULL, slope_chosen, CHOICE);
ROW("ReduceProd", reduce_prod, 1, multiply, NULL, slope_product, PRODUCT);
ROW("ReduceL1", reduce_l1, 0, add_size, NULL, slope_sign, PLAIN);
ROW("ReduceL2", reduce_l2, 0, add_square, root, slope_direction, PLAIN);
ROW("ReduceSumSquare", reduce_sum_square, 0, add_square, NULL, slope_twice, PLAIN);
ROW("ReduceLogSum", reduce_log_sum, 0, add, logarithm, slope_inverse, PLAIN);
ROW("ReduceLogSumExp", reduce_log_sum_exp, 0, add_exp, logarithm, slope_softmax, SHIFTED);
