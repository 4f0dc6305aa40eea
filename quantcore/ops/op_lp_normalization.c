/* LpNormalization: x over its L1 or L2 norm along one axis; 0 where the norm is 0. */
#include <math.h>

#include "quantcore/ops/op_util.h"

struct attrs {
    int64_t axis, p;
};

static enum mpq_status lp_parse(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_node *node)
{
    struct attrs attrs = {mpq_attr_int(&node->attr_set, "axis", -1),
                          mpq_attr_int(&node->attr_set, "p", 2)};
    if (attrs.p != 1 && attrs.p != 2)
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "p is %lld", (long long)attrs.p);
    node->attrs = mpq_arena_copy(ctx, arena, &attrs, sizeof attrs);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

static enum mpq_status lp_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    int axis = 0;
    MPQ_TRY(mpq_check_axis(ctx, node, ((const struct attrs *)node->attrs)->axis, x[0]->shape.rank,
                           &axis));
    return mpq_infer_same_float(ctx, node, x, y);
}

static double norm(const mpq_real *x, int64_t n, int64_t step, int64_t p)
{
    double sum = 0;
    for (int64_t k = 0; k < n; k++)
        sum += p == 1 ? fabs((double)x[k * step]) : (double)x[k * step] * (double)x[k * step];
    return p == 1 ? sum : sqrt(sum);
}

static void forward_line(const struct mpq_kernel_args *args, int64_t at, int64_t n, int64_t step,
                         int64_t p)
{
    const mpq_real *x = (const mpq_real *)args->x[0]->data + at;
    mpq_real *y = (mpq_real *)args->y[0]->data + at;
    double length = norm(x, n, step, p);
    for (int64_t k = 0; k < n; k++)
        y[k * step] = length == 0 ? 0 : (mpq_real)((double)x[k * step] / length);
}

/* dx = (dy - d norm/dx * sum dy y) / norm, d norm/dx being sign x, or y where p = 2. */
static void backward_line(const struct mpq_kernel_args *args, int64_t at, int64_t n, int64_t step,
                          int64_t p)
{
    const mpq_real *x = (const mpq_real *)args->x[0]->data + at;
    const mpq_real *y = (const mpq_real *)args->y[0]->data + at, *dy = args->dy[0] + at;
    double length = norm(x, n, step, p), sum = 0;
    for (int64_t k = 0; k < n; k++)
        sum += (double)dy[k * step] * (double)y[k * step];
    for (int64_t k = 0; k < n && length > 0; k++) {
        double v = (double)x[k * step];
        double slope = p == 1 ? (v > 0) - (v < 0) : (double)y[k * step];
        args->dx[0][at + k * step] += (mpq_real)(((double)dy[k * step] - slope * sum) / length);
    }
}

static void for_each_line(const struct mpq_kernel_args *args,
                          void (*line)(const struct mpq_kernel_args *, int64_t, int64_t, int64_t,
                                       int64_t))
{
    const struct attrs *attrs = args->node->attrs;
    const struct mpq_shape *shape = &args->x[0]->shape;
    int axis = (int)(attrs->axis < 0 ? attrs->axis + shape->rank : attrs->axis);
    int64_t outer = mpq_shape_count_range(shape, 0, axis), n = shape->dim[axis];
    int64_t inner = mpq_shape_count_range(shape, axis + 1, shape->rank);
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < inner; i++)
            line(args, o * n * inner + i, n, inner, attrs->p);
}

static void lp_forward(const struct mpq_kernel_args *args)
{
    for_each_line(args, forward_line);
}

static void lp_backward(const struct mpq_kernel_args *args)
{
    if (args->dy[0] && args->dx[0])
        for_each_line(args, backward_line);
}

const struct mpq_op mpq_op_lp_normalization = {.name = "LpNormalization",
                                               .domain = "",
                                               .n_in_min = 1,
                                               .n_in_max = 1,
                                               .n_out_min = 1,
                                               .n_out_max = 1,
                                               .parse = lp_parse,
                                               .infer = lp_infer,
                                               .forward = lp_forward,
                                               .backward = lp_backward};
