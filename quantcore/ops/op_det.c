/* Det: the determinant of each matrix of a stack, by Gauss' elimination with row exchange. */
#include <math.h>

#include "quantcore/ops/op_util.h"

static enum mpq_status det_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                 const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    struct mpq_shape shape = x[0]->shape;
    MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    if (shape.rank < 2 || shape.dim[shape.rank - 1] != shape.dim[shape.rank - 2])
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "an input of %s", MPQ_SHAPE_TEXT(&shape));
    shape.rank -= 2;
    return mpq_infer_set(ctx, node, y[0], MPQ_FLOAT, &shape);
}

static size_t det_workspace(const struct mpq_node *node, const struct mpq_tensor *const *x,
                            struct mpq_tensor *const *y, bool training)
{
    int64_t n = x[0]->shape.dim[x[0]->shape.rank - 1];
    (void)node, (void)y, (void)training;
    return (size_t)(n * n) * sizeof(double);
}

static double determinant(double *a, int64_t n)
{
    double product = 1;
    for (int64_t k = 0; k < n; k++) {
        int64_t pivot = k;
        for (int64_t i = k + 1; i < n; i++)
            if (fabs(a[i * n + k]) > fabs(a[pivot * n + k]))
                pivot = i;
        if (a[pivot * n + k] == 0)
            return 0;
        for (int64_t j = 0; j < n && pivot != k; j++) {
            double kept = a[k * n + j];
            a[k * n + j] = a[pivot * n + j];
            a[pivot * n + j] = kept;
        }
        product *= pivot == k ? a[k * n + k] : -a[k * n + k];
        for (int64_t i = k + 1; i < n; i++) {
            double factor = a[i * n + k] / a[k * n + k];
            for (int64_t j = k; j < n; j++)
                a[i * n + j] -= factor * a[k * n + j];
        }
    }
    return product;
}

static void det_forward(const struct mpq_kernel_args *args)
{
    const mpq_real *x = args->x[0]->data;
    int64_t n = args->x[0]->shape.dim[args->x[0]->shape.rank - 1];
    double *a = args->workspace;
    for (int64_t i = 0; i < mpq_shape_count(&args->y[0]->shape); i++) {
        for (int64_t k = 0; k < n * n; k++)
            a[k] = (double)x[i * n * n + k];
        ((mpq_real *)args->y[0]->data)[i] = (mpq_real)determinant(a, n);
    }
}

const struct mpq_op mpq_op_det = {.name = "Det",
                                  .domain = "",
                                  .n_in_min = 1,
                                  .n_in_max = 1,
                                  .n_out_min = 1,
                                  .n_out_max = 1,
                                  .infer = det_infer,
                                  .workspace = det_workspace,
                                  .forward = det_forward};
