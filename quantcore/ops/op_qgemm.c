/* ONNX Runtime's QGemm: y = alpha * op(a) op(b) + c of 8-bit matrices with an int32 c in units of
 * a_scale * b_scale; quantized where a scale of y is given, else float. */

#include "quantcore/ops/kernel/integer_gemm.h"
#include "quantcore/ops/kernel/quantized.h"
#include "quantcore/ops/kernel/scratch.h"
#include "quantcore/ops/op_util.h"

enum place { A, A_SCALE, A_ZERO, B, B_SCALE, B_ZERO, C, Y_SCALE, Y_ZERO };

struct qgemm_attrs {
    float alpha;
    bool trans_a, trans_b;
};

static enum mpq_status qgemm_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   struct mpq_node *node)
{
    struct qgemm_attrs *a = mpq_arena_alloc(ctx, arena, 1, sizeof *a);
    if (!a)
        return MPQ_E_NOMEM;
    a->alpha = mpq_attr_float(&node->attr_set, "alpha", 1);
    a->trans_a = mpq_attr_int(&node->attr_set, "transA", 0) != 0;
    a->trans_b = mpq_attr_int(&node->attr_set, "transB", 0) != 0;
    node->attrs = a;
    return MPQ_OK;
}

struct sizes {
    int64_t m, n, k;
    int64_t c_row, c_column; /* strides of c, 0 where it is broadcast */
};

static struct sizes sizes_of(const struct mpq_node *node, const struct mpq_tensor *const *x)
{
    const struct qgemm_attrs *attrs = node->attrs;
    const struct mpq_shape *a = &x[A]->shape, *b = &x[B]->shape;
    const struct mpq_tensor *c = mpq_input(node, x, C);
    struct sizes s = {
        .m = a->dim[attrs->trans_a], .n = b->dim[!attrs->trans_b], .k = a->dim[!attrs->trans_a]};
    if (c) {
        int rank = c->shape.rank;
        int64_t columns = rank > 0 ? c->shape.dim[rank - 1] : 1;
        s.c_column = columns > 1;
        s.c_row = rank > 1 && c->shape.dim[0] > 1 ? columns : 0;
    }
    return s;
}

static enum mpq_status check_c(struct mpq_ctx *ctx, const struct mpq_node *node,
                               const struct mpq_tensor *c, const struct mpq_shape *y)
{
    struct mpq_shape joint;
    if (c->dtype != MPQ_INT32)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "input C is %s, not int32",
                             mpq_dtype_name(c->dtype));
    if (!mpq_shape_broadcast(&c->shape, y, &joint) || !mpq_shape_equal(&joint, y))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "input C of shape %s does not fit output %s",
                             MPQ_SHAPE_TEXT(&c->shape), MPQ_SHAPE_TEXT(y));
    return MPQ_OK;
}

static enum mpq_status qgemm_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                   const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct qgemm_attrs *attrs = node->attrs;
    const struct mpq_tensor *c = mpq_input(node, x, C);
    if (x[A]->shape.rank != 2 || x[B]->shape.rank != 2)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "%s and %s are no matrices",
                             MPQ_SHAPE_TEXT(&x[A]->shape), MPQ_SHAPE_TEXT(&x[B]->shape));
    struct sizes s = sizes_of(node, x);
    if (s.k != x[B]->shape.dim[attrs->trans_b])
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "cannot multiply %s by %s",
                             MPQ_SHAPE_TEXT(&x[A]->shape), MPQ_SHAPE_TEXT(&x[B]->shape));
    MPQ_TRY(mpq_quantized_check(ctx, node, x, A, A_SCALE, A_ZERO, 1));
    MPQ_TRY(mpq_quantized_check(ctx, node, x, B, B_SCALE, B_ZERO, s.n));
    struct mpq_shape shape = MPQ_SHAPE(s.m, s.n);
    if (c)
        MPQ_TRY(check_c(ctx, node, c, &shape));
    enum mpq_dtype dtype = MPQ_FLOAT;
    if (mpq_input(node, x, Y_SCALE))
        MPQ_TRY(mpq_quantized_check_output(ctx, node, x, Y_SCALE, Y_ZERO, x[A]->dtype, &dtype));
    return mpq_infer_set(ctx, node, y[0], dtype, &shape);
}

struct buffers {
    int32_t *sum;
    float *scale;
    void *gemm;
};

static struct buffers cut(void *workspace, const struct sizes *s, size_t *out_bytes)
{
    struct buffers buffers;
    *out_bytes = 0;
    buffers.sum = mpq_scratch_take(workspace, out_bytes, s->m * s->n, sizeof(int32_t));
    buffers.scale = mpq_scratch_take(workspace, out_bytes, s->n, sizeof(float));
    buffers.gemm = mpq_scratch_take(workspace, out_bytes,
                                    (int64_t)mpq_integer_gemm_bytes(s->m, s->n, s->k), 1);
    return buffers;
}

static size_t qgemm_workspace(const struct mpq_node *node, const struct mpq_tensor *const *x,
                              struct mpq_tensor *const *y, bool training)
{
    (void)y;
    (void)training;
    struct sizes s = sizes_of(node, x);
    size_t bytes;
    cut(NULL, &s, &bytes);
    return bytes;
}

static void add_c(int32_t *sum, const struct mpq_tensor *c, const struct sizes *s)
{
    const int32_t *v = c->data;
    for (int64_t i = 0; i < s->m; i++)
        for (int64_t j = 0; j < s->n; j++) {
            uint32_t addend = (uint32_t)v[i * s->c_row + j * s->c_column];
            sum[i * s->n + j] = (int32_t)((uint32_t)sum[i * s->n + j] + addend);
        }
}

static void qgemm_forward(const struct mpq_kernel_args *args)
{
    const struct mpq_tensor *const *x = args->x;
    const struct qgemm_attrs *attrs = args->node->attrs;
    const struct mpq_tensor *c = mpq_input(args->node, x, C);
    const struct mpq_tensor *y_scale = mpq_input(args->node, x, Y_SCALE);
    struct mpq_tensor *y = args->y[0];
    struct sizes s = sizes_of(args->node, x);
    size_t bytes;
    struct buffers buffers = cut(args->workspace, &s, &bytes);
    const struct mpq_integer_matrix a = {.data = x[A]->data,
                                         .is_signed = x[A]->dtype == MPQ_INT8,
                                         .is_transposed = attrs->trans_a,
                                         .zero = mpq_input(args->node, x, A_ZERO)};
    const struct mpq_integer_matrix b = {.data = x[B]->data,
                                         .is_signed = x[B]->dtype == MPQ_INT8,
                                         .is_transposed = attrs->trans_b,
                                         .zero = mpq_input(args->node, x, B_ZERO)};
    mpq_integer_gemm(s.m, s.n, s.k, &a, &b, buffers.sum, buffers.gemm);
    if (c)
        add_c(buffers.sum, c, &s);
    for (int64_t j = 0; j < s.n; j++) {
        buffers.scale[j] = attrs->alpha * mpq_scale_at(x[A_SCALE], 0) * mpq_scale_at(x[B_SCALE], j);
        if (y_scale)
            buffers.scale[j] /= mpq_scale_at(y_scale, 0);
    }
    struct mpq_requant to =
        mpq_requant_to(y->dtype, mpq_zero_at(mpq_input(args->node, x, Y_ZERO), 0));
    for (int64_t i = 0; i < s.m; i++) {
        const int32_t *sum = buffers.sum + i * s.n;
        if (y_scale)
            mpq_requantize_each(&to, sum, buffers.scale, (uint8_t *)y->data + i * s.n, s.n);
        for (int64_t j = 0; !y_scale && j < s.n; j++)
            ((mpq_real *)y->data)[i * s.n + j] = (mpq_real)((float)sum[j] * buffers.scale[j]);
    }
}

const struct mpq_op mpq_op_qgemm = {.name = "QGemm",
                                    .domain = "com.microsoft",
                                    .n_in_min = 6,
                                    .n_in_max = 9,
                                    .n_out_min = 1,
                                    .n_out_max = 1,
                                    .parse = qgemm_parse,
                                    .infer = qgemm_infer,
                                    .workspace = qgemm_workspace,
                                    .forward = qgemm_forward,
                                    .macs = mpq_macs_of_matrices};
