/* LpPool, GlobalLpPool: the p-norm of each window, (sum |x|^p)^(1/p); padding counts as 0. */
#include <math.h>

#include "quantcore/ops/kernel/pool.h"
#include "quantcore/ops/op_util.h"

/* The pool and p, which is read again from the attributes. */
static int64_t power_of(const struct mpq_node *node)
{
    return mpq_attr_int(&node->attr_set, "p", 2);
}

static enum mpq_status lp_pool_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                     const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    if (power_of(node) < 1)
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "p is %lld", (long long)power_of(node));
    return mpq_pool_infer(ctx, node, x, y);
}

/* fn(args, output element, input element) for every tap of every window inside the input. */
typedef void tap_fn(const struct mpq_kernel_args *args, int64_t out, int64_t in, double p);

static void for_each_tap(const struct mpq_kernel_args *args, tap_fn *fn)
{
    struct mpq_pool pool;
    double p = (double)power_of(args->node);
    mpq_pool_make(args->node, &args->x[0]->shape, &args->y[0]->shape, &pool);
    const struct mpq_pool_dim *d = pool.dim;
    int64_t n_tap = d[0].kernel * d[1].kernel * d[2].kernel;
    for (int64_t o = 0; o < pool.n_plane * pool.out_count; o++)
        for (int64_t tap = 0; tap < n_tap; tap++) {
            int64_t rest = o % pool.out_count, t = tap, at = 0, step = 1;
            bool inside = true;
            for (int i = 2; i >= 0; i--) {
                int64_t k =
                    rest % d[i].out * d[i].stride + t % d[i].kernel * d[i].dilation - d[i].pad;
                inside &= k >= 0 && k < d[i].in;
                at += k * step;
                step *= d[i].in;
                rest /= d[i].out;
                t /= d[i].kernel;
            }
            if (inside)
                fn(args, o, o / pool.out_count * pool.in_count + at, p);
        }
}

static void add_power(const struct mpq_kernel_args *args, int64_t out, int64_t in, double p)
{
    double x = fabs((double)((const mpq_real *)args->x[0]->data)[in]);
    ((mpq_real *)args->y[0]->data)[out] += (mpq_real)pow(x, p);
}

/* dy/dx = sign(x) (|x| / y)^(p - 1) */
static void add_slope(const struct mpq_kernel_args *args, int64_t out, int64_t in, double p)
{
    double x = (double)((const mpq_real *)args->x[0]->data)[in];
    double y = (double)((const mpq_real *)args->y[0]->data)[out];
    if (x != 0 && y > 0)
        args->dx[0][in] +=
            (mpq_real)((double)args->dy[0][out] * copysign(pow(fabs(x) / y, p - 1), x));
}

static void lp_pool_forward(const struct mpq_kernel_args *args)
{
    mpq_real *y = args->y[0]->data;
    int64_t n = mpq_shape_count(&args->y[0]->shape);
    double p = (double)power_of(args->node);
    for (int64_t i = 0; i < n; i++)
        y[i] = 0;
    for_each_tap(args, add_power);
    for (int64_t i = 0; i < n; i++)
        y[i] = (mpq_real)pow((double)y[i], 1 / p);
}

static void lp_pool_backward(const struct mpq_kernel_args *args)
{
    if (args->dx[0] && args->dy[0])
        for_each_tap(args, add_slope);
}

const struct mpq_op mpq_op_lp_pool = {.name = "LpPool",
                                      .domain = "",
                                      .n_in_min = 1,
                                      .n_in_max = 1,
                                      .n_out_min = 1,
                                      .n_out_max = 1,
                                      .parse = mpq_pool_parse,
                                      .infer = lp_pool_infer,
                                      .forward = lp_pool_forward,
                                      .backward = lp_pool_backward};

/* ---- over the whole image ---- */

static enum mpq_status global_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    struct mpq_shape shape = x[0]->shape;
    MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    if (shape.rank < 3 || power_of(node) < 1)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "p is %lld for an input of %s",
                             (long long)power_of(node), MPQ_SHAPE_TEXT(&shape));
    for (int i = 2; i < shape.rank; i++)
        shape.dim[i] = 1;
    return mpq_infer_set(ctx, node, y[0], MPQ_FLOAT, &shape);
}

static void global_forward(const struct mpq_kernel_args *args)
{
    const struct mpq_shape *shape = &args->x[0]->shape;
    int64_t n = mpq_shape_count_range(shape, 2, shape->rank);
    const mpq_real *x = args->x[0]->data;
    double p = (double)power_of(args->node);
    for (int64_t c = 0; c < shape->dim[0] * shape->dim[1]; c++) {
        double sum = 0;
        for (int64_t i = c * n; i < (c + 1) * n; i++)
            sum += pow(fabs((double)x[i]), p);
        ((mpq_real *)args->y[0]->data)[c] = (mpq_real)pow(sum, 1 / p);
    }
}

static void global_backward(const struct mpq_kernel_args *args)
{
    const struct mpq_shape *shape = &args->x[0]->shape;
    int64_t n = mpq_shape_count_range(shape, 2, shape->rank);
    for (int64_t i = 0; args->dx[0] && args->dy[0] && i < mpq_shape_count(shape); i++)
        add_slope(args, i / n, i, (double)power_of(args->node));
}

const struct mpq_op mpq_op_global_lp_pool = {.name = "GlobalLpPool",
                                             .domain = "",
                                             .n_in_min = 1,
                                             .n_in_max = 1,
                                             .n_out_min = 1,
                                             .n_out_max = 1,
                                             .infer = global_infer,
                                             .forward = global_forward,
                                             .backward = global_backward};
