/* QLinearMatMul: y = quantized (a - a_zero) a_scale (b - b_zero) b_scale, and ONNX Runtime's
 * MatMulIntegerToFloat, the same without the last rounding. Leading dimensions broadcast; scales
 * and zero points are one number, one a row of a (and of y), one a column of b, or those for each
 * matrix of the stack. */
#include "quantcore/ops/kernel/integer_gemm.h"
#include "quantcore/ops/kernel/loop.h"
#include "quantcore/ops/kernel/quantized.h"
#include "quantcore/ops/kernel/scratch.h"
#include "quantcore/ops/op_util.h"

/* Which inputs are what. */
struct places {
    uint32_t a, a_scale, a_zero, b, b_scale, b_zero;
};
static const struct places qlinear_places = {0, 1, 2, 3, 4, 5};
static const struct places to_float_places = {0, 2, 4, 1, 3, 5};

struct product {
    struct mpq_shape stack; /* of y */
    struct mpq_loop loop;   /* matrices of y, a and b */
    int64_t m, k, n;
};

static struct mpq_shape stack_of(const struct mpq_shape *shape)
{
    struct mpq_shape stack = *shape;
    stack.rank = shape->rank > 2 ? shape->rank - 2 : 0;
    return stack;
}

static bool product_of(const struct mpq_shape *a, const struct mpq_shape *b, struct product *out)
{
    struct mpq_shape a_stack = stack_of(a), b_stack = stack_of(b);
    if (a->rank < 1 || b->rank < 1 || !mpq_shape_broadcast(&a_stack, &b_stack, &out->stack))
        return false;
    out->m = a->rank > 1 ? a->dim[a->rank - 2] : 1;
    out->k = a->dim[a->rank - 1];
    out->n = b->rank > 1 ? b->dim[b->rank - 1] : 1;
    mpq_loop_init(&out->loop, &out->stack);
    mpq_loop_add(&out->loop, &a_stack);
    mpq_loop_add(&out->loop, &b_stack);
    mpq_loop_merge(&out->loop);
    return out->k == b->dim[b->rank > 1 ? b->rank - 2 : 0];
}

/* Rows or columns that may have a scale of their own: those of one matrix, unless there is one for
 * each matrix too. */
static int64_t lanes(const struct mpq_tensor *scale, const struct mpq_shape *shape, int64_t n)
{
    struct mpq_shape stack = stack_of(shape);
    int64_t all = mpq_shape_count(&stack) * n;
    return scale && mpq_shape_count(&scale->shape) == all ? all : n;
}

static enum mpq_status infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                             const struct mpq_tensor *const *x, struct mpq_tensor *const *y,
                             const struct places *at, enum mpq_dtype dtype)
{
    const struct mpq_shape *a = &x[at->a]->shape, *b = &x[at->b]->shape;
    struct product p;
    if (!product_of(a, b, &p))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "cannot multiply %s by %s", MPQ_SHAPE_TEXT(a),
                             MPQ_SHAPE_TEXT(b));
    MPQ_TRY(mpq_quantized_check(ctx, node, x, at->a, at->a_scale, at->a_zero,
                                lanes(mpq_input(node, x, at->a_scale), a, p.m)));
    MPQ_TRY(mpq_quantized_check(ctx, node, x, at->b, at->b_scale, at->b_zero,
                                lanes(mpq_input(node, x, at->b_scale), b, p.n)));
    struct mpq_shape shape = p.stack;
    if (a->rank > 1)
        shape.dim[shape.rank++] = p.m;
    if (b->rank > 1)
        shape.dim[shape.rank++] = p.n;
    return mpq_infer_set(ctx, node, y[0], dtype, &shape);
}

static enum mpq_status qlinear_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                     const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    enum mpq_dtype dtype;
    MPQ_TRY(mpq_quantized_check_output(ctx, node, x, 6, 7, MPQ_UINT8, &dtype));
    return infer(ctx, node, x, y, &qlinear_places, dtype);
}

static enum mpq_status to_float_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                      const struct mpq_tensor *const *x,
                                      struct mpq_tensor *const *y)
{
    MPQ_TRY(infer(ctx, node, x, y, &to_float_places, MPQ_FLOAT));
    const struct mpq_tensor *bias = mpq_input(node, x, 6);
    MPQ_TRY(mpq_check_float(ctx, node, x, 6));
    int64_t n = y[0]->shape.rank ? y[0]->shape.dim[y[0]->shape.rank - 1] : 1;
    if (bias && mpq_shape_count(&bias->shape) != n)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "bias %s does not fit output %s",
                             MPQ_SHAPE_TEXT(&bias->shape), MPQ_SHAPE_TEXT(&y[0]->shape));
    return MPQ_OK;
}

struct job {
    struct product p;
    const struct mpq_tensor *a_scale, *b_scale, *y_scale, *bias; /* the last two may be NULL */
    struct mpq_integer_matrix a, b;
    int32_t *sum;
    float *scale; /* [n] */
    void *gemm;   /* its workspace */
};

static size_t cut(const struct product *p, void *workspace, struct job *job)
{
    size_t bytes = 0;
    job->sum = mpq_scratch_take(workspace, &bytes, p->m * p->n, sizeof *job->sum);
    job->scale = mpq_scratch_take(workspace, &bytes, p->n, sizeof *job->scale);
    job->gemm =
        mpq_scratch_take(workspace, &bytes, (int64_t)mpq_integer_gemm_bytes(p->m, p->n, p->k), 1);
    return bytes;
}

static size_t workspace_of(const struct mpq_tensor *a, const struct mpq_tensor *b)
{
    struct product p;
    struct job job;
    return product_of(&a->shape, &b->shape, &p) ? cut(&p, NULL, &job) : 0;
}

/* Element i of a scale of one matrix's lanes, matrix number `stack` of its operand. */
static float scale_at(const struct mpq_tensor *scale, int64_t stack, int64_t n, int64_t i)
{
    int64_t count = mpq_shape_count(&scale->shape);
    return mpq_scale_at(scale, count > n ? stack * n + i : i);
}

/* Scales of row i of the product of matrices number a and b. */
static void row_scales(const struct job *job, int64_t a, int64_t b, int64_t i)
{
    float a_scale = scale_at(job->a_scale, a, job->p.m, i);
    for (int64_t j = 0; j < job->p.n; j++) {
        job->scale[j] = a_scale * scale_at(job->b_scale, b, job->p.n, j);
        if (job->y_scale)
            job->scale[j] /= mpq_scale_at(job->y_scale, 0);
    }
}

static void round_rows(const struct job *job, const struct mpq_requant *to, int64_t a, int64_t b,
                       uint8_t *y)
{
    bool is_by_row = mpq_shape_count(&job->a_scale->shape) > 1;
    for (int64_t i = 0; i < job->p.m; i++) {
        if (i == 0 || is_by_row)
            row_scales(job, a, b, i);
        mpq_requantize_each(to, job->sum + i * job->p.n, job->scale, y + i * job->p.n, job->p.n);
    }
}

static void scale_rows(const struct job *job, int64_t a, int64_t b, mpq_real *y)
{
    bool is_by_row = mpq_shape_count(&job->a_scale->shape) > 1;
    const mpq_real *bias = job->bias ? job->bias->data : NULL;
    for (int64_t i = 0; i < job->p.m; i++) {
        if (i == 0 || is_by_row)
            row_scales(job, a, b, i);
        for (int64_t j = 0; j < job->p.n; j++) {
            float product = (float)job->sum[i * job->p.n + j] * job->scale[j];
            y[i * job->p.n + j] = (mpq_real)(bias ? product + (float)bias[j] : product);
        }
    }
}

/* Where all share one right matrix and a has one scale, the stack joins the rows. */
static void join_rows(struct job *job, const struct mpq_tensor *a, const struct mpq_tensor *b)
{
    struct mpq_shape a_stack = stack_of(&a->shape), b_stack = stack_of(&b->shape);
    if (mpq_shape_count(&b_stack) != 1 || mpq_shape_count(&job->a_scale->shape) != 1 ||
        (job->a.zero && mpq_shape_count(&job->a.zero->shape) != 1))
        return;
    job->p.m *= mpq_shape_count(&a_stack);
    job->p.stack.rank = 0;
    mpq_loop_init(&job->p.loop, &job->p.stack);
    mpq_loop_add(&job->p.loop, &job->p.stack);
    mpq_loop_add(&job->p.loop, &job->p.stack);
    mpq_loop_merge(&job->p.loop);
}

static void forward(const struct mpq_kernel_args *args, const struct places *at, bool is_rounded)
{
    const struct mpq_tensor *a = args->x[at->a], *b = args->x[at->b];
    struct mpq_tensor *y = args->y[0];
    struct job job = {.a_scale = args->x[at->a_scale],
                      .b_scale = args->x[at->b_scale],
                      .y_scale = is_rounded ? args->x[6] : NULL,
                      .bias = is_rounded ? NULL : mpq_input(args->node, args->x, 6),
                      .a = {.is_signed = a->dtype == MPQ_INT8,
                            .zero = mpq_input(args->node, args->x, at->a_zero)},
                      .b = {.is_signed = b->dtype == MPQ_INT8,
                            .zero = mpq_input(args->node, args->x, at->b_zero)}};
    (void)product_of(&a->shape, &b->shape, &job.p);
    join_rows(&job, a, b);
    cut(&job.p, args->workspace, &job);
    struct mpq_requant to = {0};
    if (is_rounded)
        to = mpq_requant_to(y->dtype, mpq_zero_at(mpq_input(args->node, args->x, 7), 0));
    const struct product *p = &job.p;
    struct mpq_span span;
    int64_t done = 0;
    for (mpq_span_first(&span, &p->loop, 0, mpq_loop_count(&p->loop)); span.n; mpq_span_next(&span))
        for (int64_t s = 0; s < span.n; s++, done += p->m * p->n) {
            int64_t a_at = span.offset[0] + s * mpq_loop_inner_stride(&p->loop, 0);
            int64_t b_at = span.offset[1] + s * mpq_loop_inner_stride(&p->loop, 1);
            job.a.data = (const uint8_t *)a->data + a_at * p->m * p->k;
            job.b.data = (const uint8_t *)b->data + b_at * p->k * p->n;
            job.a.zero_begin =
                job.a.zero && mpq_shape_count(&job.a.zero->shape) > p->m ? a_at * p->m : 0;
            job.b.zero_begin =
                job.b.zero && mpq_shape_count(&job.b.zero->shape) > p->n ? b_at * p->n : 0;
            mpq_integer_gemm(p->m, p->n, p->k, &job.a, &job.b, job.sum, job.gemm);
            if (is_rounded)
                round_rows(&job, &to, a_at, b_at, (uint8_t *)y->data + done);
            else
                scale_rows(&job, a_at, b_at, (mpq_real *)y->data + done);
        }
}

/* Room for the joined rows is room for one matrix of the stack too. */
static size_t joined_workspace(const struct mpq_tensor *a, const struct mpq_tensor *b)
{
    struct mpq_shape a_stack = stack_of(&a->shape), b_stack = stack_of(&b->shape);
    struct product p;
    struct job job;
    if (!product_of(&a->shape, &b->shape, &p))
        return 0;
    if (mpq_shape_count(&b_stack) == 1)
        p.m *= mpq_shape_count(&a_stack);
    size_t joined = cut(&p, NULL, &job), single = workspace_of(a, b);
    return joined > single ? joined : single;
}

static size_t qlinear_workspace(const struct mpq_node *node, const struct mpq_tensor *const *x,
                                struct mpq_tensor *const *y, bool training)
{
    (void)node;
    (void)y;
    (void)training;
    return joined_workspace(x[qlinear_places.a], x[qlinear_places.b]);
}

static size_t to_float_workspace(const struct mpq_node *node, const struct mpq_tensor *const *x,
                                 struct mpq_tensor *const *y, bool training)
{
    (void)node;
    (void)y;
    (void)training;
    return joined_workspace(x[to_float_places.a], x[to_float_places.b]);
}

static void qlinear_forward(const struct mpq_kernel_args *args)
{
    forward(args, &qlinear_places, true);
}

static void to_float_forward(const struct mpq_kernel_args *args)
{
    forward(args, &to_float_places, false);
}

static uint64_t macs(const struct mpq_node *node, const struct mpq_tensor *const *x,
                     struct mpq_tensor *const *y)
{
    (void)node;
    const struct mpq_shape *a = &x[0]->shape;
    return (uint64_t)mpq_shape_count(&y[0]->shape) * (uint64_t)a->dim[a->rank - 1];
}

const struct mpq_op mpq_op_qlinear_matmul = {.name = "QLinearMatMul",
                                             .domain = "",
                                             .n_in_min = 8,
                                             .n_in_max = 8,
                                             .n_out_min = 1,
                                             .n_out_max = 1,
                                             .infer = qlinear_infer,
                                             .workspace = qlinear_workspace,
                                             .forward = qlinear_forward,
                                             .macs = macs};

const struct mpq_op mpq_op_matmul_integer_to_float = {.name = "MatMulIntegerToFloat",
                                                      .domain = "com.microsoft",
                                                      .n_in_min = 4,
                                                      .n_in_max = 7,
                                                      .n_out_min = 1,
                                                      .n_out_max = 1,
                                                      .infer = to_float_infer,
                                                      .workspace = to_float_workspace,
                                                      .forward = to_float_forward,
                                                      .macs = macs};
