/* Gemm: y = alpha * op(a) op(b) + beta * c, with c broadcast to y. */
#include <inttypes.h>
#include <string.h>

#include "quantcore/ops/kernel/gemm.h"
#include "quantcore/ops/op_util.h"

struct gemm_attrs {
    mpq_real alpha, beta;
    bool trans_a, trans_b;
};

struct gemm_sizes {
    int64_t m, n, k;
    int64_t lda, ldb;
    int64_t c_row, c_column; /* strides of c, 0 where it is broadcast */
};

static enum mpq_status gemm_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  struct mpq_node *node)
{
    struct gemm_attrs *a = mpq_arena_alloc(ctx, arena, 1, sizeof *a);
    if (!a)
        return MPQ_E_NOMEM;
    a->alpha = (mpq_real)mpq_attr_float(&node->attr_set, "alpha", 1);
    a->beta = (mpq_real)mpq_attr_float(&node->attr_set, "beta", 1);
    a->trans_a = mpq_attr_int(&node->attr_set, "transA", 0) != 0;
    a->trans_b = mpq_attr_int(&node->attr_set, "transB", 0) != 0;
    node->attrs = a;
    return MPQ_OK;
}

static struct gemm_sizes sizes(const struct mpq_node *node, const struct mpq_tensor *const *x)
{
    const struct gemm_attrs *attrs = node->attrs;
    const struct mpq_shape *a = &x[0]->shape, *b = &x[1]->shape;
    const struct mpq_tensor *c = mpq_input(node, x, 2);
    struct gemm_sizes s = {.m = a->dim[attrs->trans_a],
                           .n = b->dim[!attrs->trans_b],
                           .k = a->dim[!attrs->trans_a],
                           .lda = a->dim[1],
                           .ldb = b->dim[1]};
    if (c) {
        int rank = c->shape.rank;
        int64_t columns = rank > 0 ? c->shape.dim[rank - 1] : 1;
        s.c_column = columns > 1;
        s.c_row = rank > 1 && c->shape.dim[0] > 1 ? columns : 0;
    }
    return s;
}

static enum mpq_status gemm_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                  const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct gemm_attrs *attrs = node->attrs;
    for (int i = 0; i < 3; i++)
        MPQ_TRY(mpq_check_float(ctx, node, x, i));
    for (int i = 0; i < 2; i++)
        if (x[i]->shape.rank != 2)
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE,
                                 "input %d must be a matrix, it has shape %s", i,
                                 MPQ_SHAPE_TEXT(&x[i]->shape));
    struct gemm_sizes s = sizes(node, x);
    int64_t k_b = x[1]->shape.dim[attrs->trans_b];
    if (s.k != k_b)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE,
                             "cannot multiply %s by %s: inner dimensions %" PRId64 " and %" PRId64
                             " differ",
                             MPQ_SHAPE_TEXT(&x[0]->shape), MPQ_SHAPE_TEXT(&x[1]->shape), s.k, k_b);
    struct mpq_shape shape = MPQ_SHAPE(s.m, s.n);
    const struct mpq_tensor *c = mpq_input(node, x, 2);
    struct mpq_shape joint;
    if (c && !(mpq_shape_broadcast(&c->shape, &shape, &joint) && mpq_shape_equal(&joint, &shape)))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "input C of shape %s does not fit output %s",
                             MPQ_SHAPE_TEXT(&c->shape), MPQ_SHAPE_TEXT(&shape));
    return mpq_infer_set(ctx, node, y[0], MPQ_FLOAT, &shape);
}

static void gemm_forward(const struct mpq_kernel_args *args)
{
    const struct gemm_attrs *attrs = args->node->attrs;
    struct gemm_sizes s = sizes(args->node, args->x);
    const struct mpq_tensor *c = mpq_input(args->node, args->x, 2);
    mpq_real *y = args->y[0]->data;
    if (c) {
        const mpq_real *v = c->data;
        for (int64_t i = 0; i < s.m; i++)
            for (int64_t j = 0; j < s.n; j++)
                y[i * s.n + j] = attrs->beta * v[i * s.c_row + j * s.c_column];
    }
    mpq_gemm(attrs->trans_a, attrs->trans_b, s.m, s.n, s.k, attrs->alpha, args->x[0]->data, s.lda,
             args->x[1]->data, s.ldb, c ? 1 : 0, y, s.n);
    if (args->clamp)
        mpq_clamp_row(y, s.m * s.n, *args->clamp);
}

static void add_c_gradient(const struct gemm_sizes *s, mpq_real beta, const mpq_real *dy,
                           mpq_real *dc)
{
    for (int64_t i = 0; i < s->m; i++)
        for (int64_t j = 0; j < s->n; j++)
            dc[i * s->c_row + j * s->c_column] += beta * dy[i * s->n + j];
}

/* With A = op(a), B = op(b): dA = alpha dy B', dB = alpha A' dy; a stored transposed operand gets
 * the transposed product. */
static void gemm_backward(const struct mpq_kernel_args *args)
{
    const struct gemm_attrs *attrs = args->node->attrs;
    struct gemm_sizes s = sizes(args->node, args->x);
    const mpq_real *a = args->x[0]->data, *b = args->x[1]->data, *dy = args->dy[0];
    mpq_real *da = mpq_grad(args, 0), *db = mpq_grad(args, 1), *dc = mpq_grad(args, 2);
    mpq_real start_a = !mpq_is_fresh(args, 0), start_b = !mpq_is_fresh(args, 1);
    if (!dy)
        return;
    if (da && !attrs->trans_a)
        mpq_gemm(false, !attrs->trans_b, s.m, s.k, s.n, attrs->alpha, dy, s.n, b, s.ldb, start_a,
                 da, s.lda);
    if (da && attrs->trans_a)
        mpq_gemm(attrs->trans_b, true, s.k, s.m, s.n, attrs->alpha, b, s.ldb, dy, s.n, start_a, da,
                 s.lda);
    if (db && !attrs->trans_b)
        mpq_gemm(!attrs->trans_a, false, s.k, s.n, s.m, attrs->alpha, a, s.lda, dy, s.n, start_b,
                 db, s.ldb);
    if (db && attrs->trans_b)
        mpq_gemm(true, attrs->trans_a, s.n, s.k, s.m, attrs->alpha, dy, s.n, a, s.lda, start_b, db,
                 s.ldb);
    mpq_clear_fresh(args, 2);
    if (dc)
        add_c_gradient(&s, attrs->beta, dy, dc);
}

const struct mpq_op mpq_op_gemm = {.name = "Gemm",
                                   .domain = "",
                                   .n_in_min = 2,
                                   .n_in_max = 3,
                                   .n_out_min = 1,
                                   .n_out_max = 1,
                                   .weight_input = 1,
                                   .parse = gemm_parse,
                                   .infer = gemm_infer,
                                   .backward_ignores = MPQ_IGNORES_Y,
                                   .clamps_y = true,
                                   .sets_dx = true,
                                   .forward = gemm_forward,
                                   .backward = gemm_backward,
                                   .macs = mpq_macs_of_matrices};
