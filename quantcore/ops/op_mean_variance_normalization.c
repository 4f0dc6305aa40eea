/* MeanVarianceNormalization: (x - mean) / (deviation + 1e-9) over the axes named (default 0, 2, 3).
 */
#include <math.h>

#include "quantcore/ops/op_util.h"

static enum mpq_status mvn_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                 const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    static const int64_t usual[] = {0, 2, 3};
    size_t n;
    const int64_t *axes = mpq_attr_ints(&node->attr_set, "axes", &n);
    bool mark[MPQ_MAX_RANK];
    MPQ_TRY(
        mpq_check_axes(ctx, node, axes ? axes : usual, axes ? (int)n : 3, x[0]->shape.rank, mark));
    return mpq_infer_same_float(ctx, node, x, y);
}

/* Which group each element is in is its place without the named axes; [group][mean, deviation, and
 * in backward two sums]. */
enum { MEAN, DEVIATION, SUM_DY, SUM_DY_Y, N_STAT };

static size_t mvn_workspace(const struct mpq_node *node, const struct mpq_tensor *const *x,
                            struct mpq_tensor *const *y, bool training)
{
    (void)node, (void)y, (void)training;
    return (size_t)mpq_shape_count(&x[0]->shape) * N_STAT * sizeof(double);
}

struct groups {
    int64_t n, size;
    int64_t stride[MPQ_MAX_RANK]; /* 0 along the named axes */
    const struct mpq_shape *shape;
    double *stat;
};

static struct groups groups_of(const struct mpq_kernel_args *args)
{
    static const int64_t usual[] = {0, 2, 3};
    struct groups g = {.n = 1, .shape = &args->x[0]->shape, .stat = args->workspace};
    size_t n_axis;
    const int64_t *axes = mpq_attr_ints(&args->node->attr_set, "axes", &n_axis);
    bool mark[MPQ_MAX_RANK] = {false};
    for (size_t i = 0; i < (axes ? n_axis : 3); i++) {
        int64_t a = axes ? axes[i] : usual[i];
        mark[a < 0 ? a + g.shape->rank : a] = true;
    }
    for (int i = g.shape->rank - 1; i >= 0; i--) {
        g.stride[i] = mark[i] ? 0 : g.n;
        g.n *= mark[i] ? 1 : g.shape->dim[i];
    }
    g.size = g.n ? mpq_shape_count(g.shape) / g.n : 0;
    return g;
}

static double *group_at(const struct groups *g, int64_t i)
{
    int64_t group = 0;
    for (int d = g->shape->rank - 1; d >= 0; i /= g->shape->dim[d--])
        group += i % g->shape->dim[d] * g->stride[d];
    return g->stat + group * N_STAT;
}

static void measure(const struct groups *g, const mpq_real *x)
{
    int64_t count = mpq_shape_count(g->shape);
    for (int64_t i = 0; i < g->n * N_STAT; i++)
        g->stat[i] = 0;
    for (int64_t i = 0; i < count; i++)
        group_at(g, i)[MEAN] += (double)x[i] / (double)g->size;
    for (int64_t i = 0; i < count; i++) {
        double *stat = group_at(g, i), d = (double)x[i] - stat[MEAN];
        stat[DEVIATION] += d * d / (double)g->size;
    }
    for (int64_t i = 0; i < g->n; i++)
        g->stat[i * N_STAT + DEVIATION] = sqrt(g->stat[i * N_STAT + DEVIATION]);
}

#define EPSILON 1e-9

static void mvn_forward(const struct mpq_kernel_args *args)
{
    struct groups g = groups_of(args);
    const mpq_real *x = args->x[0]->data;
    measure(&g, x);
    for (int64_t i = 0; i < mpq_shape_count(g.shape); i++) {
        const double *stat = group_at(&g, i);
        ((mpq_real *)args->y[0]->data)[i] =
            (mpq_real)(((double)x[i] - stat[MEAN]) / (stat[DEVIATION] + EPSILON));
    }
}

/* dx = (dy - mean(dy) - y (s + e) / s mean(dy y)) / (s + e), as d s / d x = (x - mean) / (n s). */
static void mvn_backward(const struct mpq_kernel_args *args)
{
    if (!args->dx[0] || !args->dy[0])
        return;
    struct groups g = groups_of(args);
    const mpq_real *x = args->x[0]->data, *dy = args->dy[0];
    measure(&g, x);
    for (int64_t i = 0; i < mpq_shape_count(g.shape); i++) {
        double *stat = group_at(&g, i);
        double y = ((double)x[i] - stat[MEAN]) / (stat[DEVIATION] + EPSILON);
        stat[SUM_DY] += (double)dy[i] / (double)g.size;
        stat[SUM_DY_Y] += (double)dy[i] * y / (double)g.size;
    }
    for (int64_t i = 0; i < mpq_shape_count(g.shape); i++) {
        const double *stat = group_at(&g, i);
        double s = stat[DEVIATION] + EPSILON, y = ((double)x[i] - stat[MEAN]) / s;
        double turn = stat[DEVIATION] > 0 ? y * s / stat[DEVIATION] * stat[SUM_DY_Y] : 0;
        args->dx[0][i] += (mpq_real)(((double)dy[i] - stat[SUM_DY] - turn) / s);
    }
}

const struct mpq_op mpq_op_mean_variance_normalization = {.name = "MeanVarianceNormalization",
                                                          .domain = "",
                                                          .n_in_min = 1,
                                                          .n_in_max = 1,
                                                          .n_out_min = 1,
                                                          .n_out_max = 1,
                                                          .infer = mvn_infer,
                                                          .workspace = mvn_workspace,
                                                          .forward = mvn_forward,
                                                          .backward = mvn_backward};
