/* AffineGrid: the grid of GridSample for an affine map. theta [N, d, d + 1] times the homogeneous
 * coordinates of the places of an image of `size` (constant, [N, C, ...]), d of 2 or 3. */
#include "quantcore/ops/op_util.h"

static enum mpq_status affine_grid_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                         struct mpq_node *node)
{
    return mpq_parse_int(ctx, arena, node, "align_corners", 0);
}

static enum mpq_status affine_grid_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                         const struct mpq_tensor *const *x,
                                         struct mpq_tensor *const *y)
{
    const struct mpq_shape *theta = &x[0]->shape;
    int64_t size[MPQ_MAX_RANK];
    int n = 0;
    MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    MPQ_TRY(mpq_const_ints(ctx, node, x, 1, "size", MPQ_MAX_RANK, size, &n));
    int dims = n - 2;
    if (dims < 2 || dims > 3 || theta->rank != 3 || theta->dim[0] != size[0] ||
        theta->dim[1] != dims || theta->dim[2] != dims + 1)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "theta is %s for a size of %d numbers",
                             MPQ_SHAPE_TEXT(theta), n);
    struct mpq_shape shape = {.rank = n};
    for (int i = 1; i < n - 1; i++)
        shape.dim[i] = size[i + 1];
    shape.dim[0] = size[0];
    shape.dim[n - 1] = dims;
    for (int i = 0; i < n; i++)
        if (shape.dim[i] < 0)
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "a size is negative");
    return mpq_infer_set(ctx, node, y[0], MPQ_FLOAT, &shape);
}

/* Homogeneous coordinates of place p, x first, each from -1 to 1. out [dims + 1] */
static void coordinates(const struct mpq_kernel_args *args, int64_t p, double *out)
{
    const struct mpq_shape *grid = &args->y[0]->shape;
    int dims = grid->rank - 2;
    bool align_corners = mpq_parsed_int(args->node) != 0;
    out[dims] = 1;
    for (int d = 0; d < dims; d++) {
        int64_t n = grid->dim[dims - d], k = p % n;
        p /= n;
        if (align_corners)
            out[d] = n > 1 ? -1 + 2 * (double)k / (double)(n - 1) : 0;
        else
            out[d] = (2 * (double)k + 1) / (double)n - 1;
    }
}

static void affine_grid_forward(const struct mpq_kernel_args *args)
{
    const struct mpq_shape *grid = &args->y[0]->shape;
    int dims = grid->rank - 2;
    int64_t n_place = mpq_shape_count_range(grid, 1, dims + 1);
    for (int64_t p = 0; p < grid->dim[0] * n_place; p++) {
        const mpq_real *theta =
            (const mpq_real *)args->x[0]->data + p / n_place * dims * (dims + 1);
        double at[4];
        coordinates(args, p % n_place, at);
        for (int i = 0; i < dims; i++) {
            double sum = 0;
            for (int j = 0; j <= dims; j++)
                sum += (double)theta[i * (dims + 1) + j] * at[j];
            ((mpq_real *)args->y[0]->data)[p * dims + i] = (mpq_real)sum;
        }
    }
}

static void affine_grid_backward(const struct mpq_kernel_args *args)
{
    const struct mpq_shape *grid = &args->y[0]->shape;
    int dims = grid->rank - 2;
    int64_t n_place = mpq_shape_count_range(grid, 1, dims + 1);
    for (int64_t p = 0; args->dx[0] && args->dy[0] && p < grid->dim[0] * n_place; p++) {
        mpq_real *dtheta = args->dx[0] + p / n_place * dims * (dims + 1);
        double at[4];
        coordinates(args, p % n_place, at);
        for (int i = 0; i < dims; i++)
            for (int j = 0; j <= dims; j++)
                dtheta[i * (dims + 1) + j] += (mpq_real)((double)args->dy[0][p * dims + i] * at[j]);
    }
}

const struct mpq_op mpq_op_affine_grid = {.name = "AffineGrid",
                                          .domain = "",
                                          .n_in_min = 2,
                                          .n_in_max = 2,
                                          .n_out_min = 1,
                                          .n_out_max = 1,
                                          .parse = affine_grid_parse,
                                          .infer = affine_grid_infer,
                                          .forward = affine_grid_forward,
                                          .backward = affine_grid_backward};
