/* DFT: the discrete Fourier transform of x along an axis; the last dimension holds real and
 * imaginary part, or the real part alone. Summed as it is defined: n^2 products a line, with the
 * n roots of unity from a table in double. One-sided: of a transform that is symmetric because the
 * signal is real, the first half; its inverse makes that signal, of real parts alone.
 *
 * The transform is linear, so that its gradient is its transpose. */
#include <math.h>

#include "quantcore/ops/op_util.h"

static bool flag(const struct mpq_node *node, const char *name)
{
    return mpq_attr_int(&node->attr_set, name, 0) != 0;
}

/* Opset 17 has the axis as an attribute, opset 20 as input 2. */
static enum mpq_status read_axis(struct mpq_ctx *ctx, const struct mpq_node *node,
                                 const struct mpq_tensor *const *x, int *out)
{
    int64_t axis =
        mpq_attr_int(&node->attr_set, "axis", mpq_attr_find(&node->attr_set, "axis") ? 1 : -2);
    int n = 1;
    if (mpq_input(node, x, 2))
        MPQ_TRY(mpq_const_ints(ctx, node, x, 2, "axis", 1, &axis, &n));
    return mpq_check_axis(ctx, node, n == 1 ? axis : INT64_MAX, x[0]->shape.rank - 1, out);
}

/* Half of an even number of elements, where nothing says otherwise. */
static int64_t default_length(const struct mpq_node *node, int64_t n)
{
    return flag(node, "onesided") && flag(node, "inverse") ? 2 * (n - 1) : n;
}

static enum mpq_status dft_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                 const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    struct mpq_shape shape = x[0]->shape;
    int axis = 0, n = 1;
    MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    int64_t parts = shape.rank ? shape.dim[shape.rank - 1] : 0;
    if (shape.rank < 2 || parts < 1 || parts > 2)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "an input of %s", MPQ_SHAPE_TEXT(&shape));
    MPQ_TRY(read_axis(ctx, node, x, &axis));
    int64_t length = default_length(node, shape.dim[axis]);
    if (mpq_input(node, x, 1))
        MPQ_TRY(mpq_const_ints(ctx, node, x, 1, "dft_length", 1, &length, &n));
    bool one_sided = flag(node, "onesided"), inverse = flag(node, "inverse");
    if (n != 1 || length < 1)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "dft_length is no number of elements");
    shape.dim[axis] = one_sided && !inverse ? length / 2 + 1 : length;
    shape.dim[shape.rank - 1] = one_sided && inverse ? 1 : 2;
    return mpq_infer_set(ctx, node, y[0], MPQ_FLOAT, &shape);
}

/* Lines along the axis: x [outer][n][inner][parts], y [outer][n][inner][y_parts]. */
struct lines {
    int64_t outer, inner, n_in, n_out, length, parts, y_parts;
    bool is_half; /* x is the half of a symmetric transform */
    double direction, factor;
    double *root; /* [length][2] cos, sin */
};

static size_t dft_workspace(const struct mpq_node *node, const struct mpq_tensor *const *x,
                            struct mpq_tensor *const *y, bool training)
{
    (void)training;
    int64_t length = mpq_input(node, x, 1) ? mpq_tensor_int(x[1], 0) : 1;
    for (int i = 0; i < y[0]->shape.rank; i++) /* without an input it follows one of x */
        length = length > 2 * x[0]->shape.dim[i] ? length : 2 * x[0]->shape.dim[i];
    return (size_t)length * 2 * sizeof(double);
}

static struct lines lines_of(const struct mpq_kernel_args *args)
{
    const struct mpq_shape *x = &args->x[0]->shape, *y = &args->y[0]->shape;
    struct mpq_ctx quiet;
    int axis = 0;
    mpq_ctx_init(&quiet);
    bool good = read_axis(&quiet, args->node, args->x, &axis) == MPQ_OK;
    MPQ_ASSERT(good);
    bool inverse = flag(args->node, "inverse");
    struct lines l = {.outer = mpq_shape_count_range(x, 0, axis),
                      .inner = mpq_shape_count_range(x, axis + 1, x->rank - 1),
                      .n_in = x->dim[axis],
                      .n_out = y->dim[axis],
                      .length = mpq_input(args->node, args->x, 1)
                                    ? mpq_tensor_int(args->x[1], 0)
                                    : default_length(args->node, x->dim[axis]),
                      .parts = x->dim[x->rank - 1],
                      .y_parts = y->dim[y->rank - 1],
                      .is_half = inverse && flag(args->node, "onesided"),
                      .direction = inverse ? 1 : -1,
                      .root = args->workspace};
    l.factor = inverse ? 1 / (double)l.length : 1;
    int64_t whole = l.is_half ? l.length / 2 + 1 : l.length;
    l.n_in = l.n_in < whole ? l.n_in : whole; /* longer lines are cut, shorter ones padded */
    for (int64_t k = 0; k < l.length; k++) {
        double t = 2 * 3.14159265358979323846 * (double)k / (double)l.length;
        l.root[2 * k] = cos(t);
        l.root[2 * k + 1] = l.direction * sin(t);
    }
    return l;
}

/* The root that element i of x is multiplied by for element k of y; the elements of a half stand
 * for their mirror image too, which the first and, of an even number, the last have not. */
static void root_of(const struct lines *l, int64_t i, int64_t k, double w[2])
{
    double share = l->is_half && i != 0 && 2 * i != l->length ? 2 : 1;
    w[0] = share * l->root[2 * (i * k % l->length)];
    w[1] = share * l->root[2 * (i * k % l->length) + 1];
}

static void dft_forward(const struct mpq_kernel_args *args)
{
    struct lines l = lines_of(args);
    int64_t x_line = mpq_shape_count(&args->x[0]->shape) / l.outer,
            y_line = l.n_out * l.inner * l.y_parts;
    for (int64_t o = 0; o < l.outer * l.inner; o++) {
        const mpq_real *x =
            (const mpq_real *)args->x[0]->data + o / l.inner * x_line + o % l.inner * l.parts;
        mpq_real *y = (mpq_real *)args->y[0]->data + o / l.inner * y_line + o % l.inner * l.y_parts;
        for (int64_t k = 0; k < l.n_out; k++) {
            double re = 0, im = 0;
            for (int64_t i = 0; i < l.n_in; i++) {
                double w[2];
                root_of(&l, i, k, w);
                double a = (double)x[i * l.inner * l.parts];
                double b = l.parts == 2 ? (double)x[i * l.inner * 2 + 1] : 0;
                re += a * w[0] - b * w[1];
                im += a * w[1] + b * w[0];
            }
            y[k * l.inner * l.y_parts] = (mpq_real)(re * l.factor);
            if (l.y_parts == 2)
                y[k * l.inner * 2 + 1] = (mpq_real)(im * l.factor);
        }
    }
}

static void dft_backward(const struct mpq_kernel_args *args)
{
    if (!args->dx[0] || !args->dy[0])
        return;
    struct lines l = lines_of(args);
    int64_t x_line = mpq_shape_count(&args->x[0]->shape) / l.outer,
            y_line = l.n_out * l.inner * l.y_parts;
    for (int64_t o = 0; o < l.outer * l.inner; o++) {
        mpq_real *dx = args->dx[0] + o / l.inner * x_line + o % l.inner * l.parts;
        const mpq_real *dy = args->dy[0] + o / l.inner * y_line + o % l.inner * l.y_parts;
        for (int64_t i = 0; i < l.n_in; i++) {
            double a = 0, b = 0;
            for (int64_t k = 0; k < l.n_out; k++) {
                double w[2];
                root_of(&l, i, k, w);
                double re = (double)dy[k * l.inner * l.y_parts];
                double im = l.y_parts == 2 ? (double)dy[k * l.inner * 2 + 1] : 0;
                a += re * w[0] + im * w[1];
                b += im * w[0] - re * w[1];
            }
            dx[i * l.inner * l.parts] += (mpq_real)(a * l.factor);
            if (l.parts == 2)
                dx[i * l.inner * 2 + 1] += (mpq_real)(b * l.factor);
        }
    }
}

const struct mpq_op mpq_op_dft = {.name = "DFT",
                                  .domain = "",
                                  .n_in_min = 1,
                                  .n_in_max = 3,
                                  .n_out_min = 1,
                                  .n_out_max = 1,
                                  .infer = dft_infer,
                                  .workspace = dft_workspace,
                                  .forward = dft_forward,
                                  .backward = dft_backward};
