/* Resize: each axis is resampled on its own with 1 (nearest), 2 (linear) or 4 (cubic) taps of x for
 * each index of y, or more where an antialias filter is wider. Inputs: x, roi (constant, where the
 * coordinates are those of tf_crop_and_resize), scales or sizes (constant). */
#include <math.h>
#include <string.h>

#include "quantcore/base/simd.h"
#include "quantcore/ops/kernel/move.h"
#include "quantcore/ops/op_util.h"

#define KEPT_ROWS 4 /* as many as cubic interpolation needs for a row of y */

enum mode { NEAREST, LINEAR, CUBIC };
enum coordinate {
    HALF_PIXEL,
    HALF_PIXEL_SYMMETRIC,
    PYTORCH_HALF_PIXEL,
    ALIGN_CORNERS,
    ASYMMETRIC,
    TF_CROP_AND_RESIZE
};
enum nearest { ROUND_PREFER_FLOOR, ROUND_PREFER_CEIL, FLOOR, CEIL };
enum policy { STRETCH, NOT_LARGER, NOT_SMALLER };

struct attrs {
    enum mode mode;
    enum coordinate coordinate;
    enum nearest nearest;
    enum policy policy;
    double cubic_a, extrapolation;
    bool exclude_outside, antialias;
    int n_axis; /* 0: all axes in order */
    int64_t axis[MPQ_MAX_RANK];
};

static enum mpq_status read_enum(struct mpq_ctx *ctx, const struct mpq_node *node, const char *name,
                                 const char *const *text, int n, int *out)
{
    const char *value = mpq_attr_string(&node->attr_set, name, text[0]);
    for (int i = 0; i < n; i++)
        if (strcmp(value, text[i]) == 0) {
            *out = i;
            return MPQ_OK;
        }
    return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "%s '%s' is not supported", name, value);
}

static enum mpq_status resize_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_node *node)
{
    static const char *const mode[] = {"nearest", "linear", "cubic"};
    static const char *const coordinate[] = {"half_pixel",         "half_pixel_symmetric",
                                             "pytorch_half_pixel", "align_corners",
                                             "asymmetric",         "tf_crop_and_resize"};
    static const char *const nearest[] = {"round_prefer_floor", "round_prefer_ceil", "floor",
                                          "ceil"};
    static const char *const policy[] = {"stretch", "not_larger", "not_smaller"};
    int m = 0, c = 0, n = 0, p = 0;
    size_t n_axis;
    const int64_t *axis = mpq_attr_ints(&node->attr_set, "axes", &n_axis);
    struct attrs *a = mpq_arena_alloc(ctx, arena, 1, sizeof *a);
    if (!a)
        return MPQ_E_NOMEM;
    MPQ_TRY(read_enum(ctx, node, "mode", mode, MPQ_COUNT(mode), &m));
    MPQ_TRY(read_enum(ctx, node, "coordinate_transformation_mode", coordinate,
                      MPQ_COUNT(coordinate), &c));
    MPQ_TRY(read_enum(ctx, node, "nearest_mode", nearest, MPQ_COUNT(nearest), &n));
    MPQ_TRY(read_enum(ctx, node, "keep_aspect_ratio_policy", policy, MPQ_COUNT(policy), &p));
    if (n_axis > MPQ_MAX_RANK)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "axes has %zu entries", n_axis);
    a->mode = (enum mode)m;
    a->coordinate = (enum coordinate)c;
    a->nearest = (enum nearest)n;
    a->policy = (enum policy)p;
    a->cubic_a = (double)mpq_attr_float(&node->attr_set, "cubic_coeff_a", -0.75f);
    a->extrapolation = (double)mpq_attr_float(&node->attr_set, "extrapolation_value", 0);
    a->antialias = a->mode != NEAREST && mpq_attr_int(&node->attr_set, "antialias", 0) != 0;
    a->exclude_outside = mpq_attr_int(&node->attr_set, "exclude_outside", 0) != 0;
    a->n_axis = (int)n_axis;
    for (size_t i = 0; i < n_axis; i++)
        a->axis[i] = axis[i];
    node->attrs = a;
    return MPQ_OK;
}

static const struct mpq_tensor *non_empty(const struct mpq_node *node,
                                          const struct mpq_tensor *const *x, uint32_t i)
{
    const struct mpq_tensor *input = mpq_input(node, x, i);
    return input && mpq_shape_count(&input->shape) > 0 ? input : NULL;
}

/* Axis of entry i of scales or sizes. */
static int entry_axis(const struct attrs *a, int i, int rank)
{
    if (!a->n_axis)
        return i;
    return (int)(a->axis[i] < 0 ? a->axis[i] + rank : a->axis[i]);
}

/* scale and out [rank of x] from inputs that are known to be right. */
static void read_sizes(const struct mpq_node *node, const struct mpq_tensor *const *x,
                       double *scale, int64_t *out)
{
    const struct attrs *a = node->attrs;
    const struct mpq_tensor *scales = non_empty(node, x, 2), *sizes = non_empty(node, x, 3);
    const struct mpq_shape *shape = &x[0]->shape;
    int n = a->n_axis ? a->n_axis : shape->rank;
    double common = a->policy == NOT_LARGER ? INFINITY : 0;
    for (int i = 0; i < shape->rank; i++) {
        scale[i] = 1;
        out[i] = shape->dim[i];
    }
    for (int i = 0; i < n; i++) {
        int axis = entry_axis(a, i, shape->rank);
        double in = (double)shape->dim[axis];
        if (sizes) {
            out[axis] = mpq_tensor_int(sizes, i);
            scale[axis] = (double)out[axis] / in;
            common =
                a->policy == NOT_LARGER ? fmin(common, scale[axis]) : fmax(common, scale[axis]);
        } else {
            scale[axis] = mpq_tensor_double(scales, i);
            out[axis] = (int64_t)floor(in * scale[axis]);
        }
    }
    for (int i = 0; sizes && a->policy != STRETCH && i < n; i++) {
        int axis = entry_axis(a, i, shape->rank);
        scale[axis] = common;
        out[axis] = (int64_t)floor((double)shape->dim[axis] * common + 0.5);
    }
}

/* roi is [first of each axis..., last of each axis...], as parts of the axis. */
static enum mpq_status check_roi(struct mpq_ctx *ctx, const struct mpq_node *node,
                                 const struct mpq_tensor *const *x, int n)
{
    const struct mpq_tensor *roi = mpq_input(node, x, 1);
    if (!roi || !roi->data)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "roi (input 1) is not constant");
    if (roi->dtype != MPQ_FLOAT || mpq_shape_count(&roi->shape) != 2 * n)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "roi is %s %s for %d axes",
                             mpq_dtype_name(roi->dtype), MPQ_SHAPE_TEXT(&roi->shape), n);
    for (int i = 0; i < 2 * n; i++)
        if (!isfinite(mpq_tensor_double(roi, i)))
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "roi is not finite");
    return MPQ_OK;
}

static enum mpq_status resize_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct attrs *a = node->attrs;
    const struct mpq_tensor *scales = non_empty(node, x, 2), *sizes = non_empty(node, x, 3);
    const struct mpq_tensor *target = sizes ? sizes : scales;
    struct mpq_shape shape = x[0]->shape;
    double scale[MPQ_MAX_RANK];
    bool mark[MPQ_MAX_RANK];
    int n = a->n_axis ? a->n_axis : shape.rank;
    if (a->mode != NEAREST)
        MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    if (a->n_axis > shape.rank || shape.rank == 0)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "%d axes for %s", a->n_axis,
                             MPQ_SHAPE_TEXT(&shape));
    MPQ_TRY(mpq_check_axes(ctx, node, a->axis, a->n_axis, shape.rank, mark));
    if (a->coordinate == TF_CROP_AND_RESIZE)
        MPQ_TRY(check_roi(ctx, node, x, n));
    if (!target || !target->data)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "neither scales nor sizes are constant");
    if (mpq_shape_count(&target->shape) != n ||
        (sizes ? !mpq_dtype_is_integer(sizes->dtype) : scales->dtype != MPQ_FLOAT))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "%s %s %s does not fit input %s",
                             sizes ? "sizes" : "scales", mpq_dtype_name(target->dtype),
                             MPQ_SHAPE_TEXT(&target->shape), MPQ_SHAPE_TEXT(&x[0]->shape));
    for (int i = 0; i < n; i++) {
        double value = mpq_tensor_double(target, i);
        double bound = (double)MPQ_LIMIT_TENSOR_BYTES;
        if (!(value > 0 && value <= bound) || shape.dim[entry_axis(a, i, shape.rank)] == 0)
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "%s cannot be resized by %g",
                                 MPQ_SHAPE_TEXT(&shape), value);
    }
    read_sizes(node, x, scale, shape.dim);
    return mpq_infer_set(ctx, node, y[0], x[0]->dtype, &shape);
}

/* An axis of in -> out elements; y shows first..last of it, where there is a roi. */
struct line {
    int64_t in, out;
    double scale, first, last;
};

/* The point of x that index i of y stands for. */
static double source(enum coordinate coordinate, const struct line *line, int64_t i)
{
    double at = (double)i, n_in = (double)line->in, n_out = (double)line->out;
    switch (coordinate) {
    case HALF_PIXEL:
        return (at + 0.5) / line->scale - 0.5;
    case HALF_PIXEL_SYMMETRIC:
        return n_in / 2 * (1 - n_out / (line->scale * n_in)) + (at + 0.5) / line->scale - 0.5;
    case PYTORCH_HALF_PIXEL:
        return line->out > 1 ? (at + 0.5) / line->scale - 0.5 : 0;
    case ALIGN_CORNERS:
        return line->out > 1 ? at * (n_in - 1) / (n_out - 1) : 0;
    case TF_CROP_AND_RESIZE:
        return (n_in - 1) * (line->out > 1
                                 ? line->first + at * (line->last - line->first) / (n_out - 1)
                                 : (line->first + line->last) / 2);
    default:
        return at / line->scale;
    }
}

/* tf_crop_and_resize shows the extrapolation value beyond x. */
static bool is_beyond(const struct attrs *a, const struct line *line, double at)
{
    return a->coordinate == TF_CROP_AND_RESIZE && (at < 0 || at > (double)(line->in - 1));
}

static bool is_identity(const struct attrs *a, const struct line *line)
{
    return line->in == line->out && line->scale == 1 && a->coordinate != TF_CROP_AND_RESIZE;
}

static double round_nearest(enum nearest nearest, double at)
{
    switch (nearest) {
    case ROUND_PREFER_FLOOR:
        return ceil(at - 0.5);
    case ROUND_PREFER_CEIL:
        return floor(at + 0.5);
    case FLOOR:
        return floor(at);
    default:
        return ceil(at);
    }
}

/* Keys' cubic kernel at distance d. */
static double cubic(double a, double d)
{
    d = fabs(d);
    if (d <= 1)
        return ((a + 2) * d - (a + 3)) * d * d + 1;
    return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
}

struct tap {
    int64_t offset; /* elements of x */
    mpq_real weight;
};

/* The antialias filter is the kernel stretched to one element of y, where that is more than one of
 * x. */
static double squeeze(const struct attrs *a, const struct line *line)
{
    return a->antialias ? fmin(line->scale, 1) : 1;
}

static int64_t count_taps(const struct attrs *a, const struct line *line)
{
    if (a->mode == NEAREST || is_identity(a, line) || line->out == 0)
        return 1;
    return 2 * (int64_t)ceil((a->mode == LINEAR ? 1 : 2) / squeeze(a, line));
}

static int64_t clamp_index(double at, int64_t n)
{
    return at < 0 ? 0 : at > (double)(n - 1) ? n - 1 : (int64_t)at;
}

/* What element i of x weighs at the point `at`. */
static double weight_at(const struct attrs *a, const struct line *line, double i, double at)
{
    double distance = (at - i) * squeeze(a, line);
    if (a->exclude_outside && (i < 0 || i > (double)(line->in - 1)))
        return 0;
    return a->mode == LINEAR ? fmax(1 - fabs(distance), 0) : cubic(a->cubic_a, distance);
}

/* The taps of one index of y: n_tap of them, in x with elements `stride` apart. */
static void make_taps(const struct attrs *a, const struct line *line, int64_t n_tap, int64_t k,
                      int64_t stride, struct tap *tap)
{
    double at = source(a->coordinate, line, k), sum = 0;
    bool beyond = is_beyond(a, line, at);
    if (n_tap == 1) {
        double nearest = is_identity(a, line) ? (double)k : round_nearest(a->nearest, at);
        tap[0] = (struct tap){clamp_index(nearest, line->in) * stride, beyond ? 0 : 1};
        return;
    }
    double first = floor(at) - (double)(n_tap / 2 - 1);
    for (int64_t t = 0; t < n_tap; t++)
        sum += weight_at(a, line, first + (double)t, at);
    double whole = a->exclude_outside || a->antialias ? sum : 1;
    for (int64_t t = 0; t < n_tap; t++) {
        double weight = beyond ? 0 : weight_at(a, line, first + (double)t, at) / whole;
        tap[t] = (struct tap){clamp_index(first + (double)t, line->in) * stride, (mpq_real)weight};
    }
}

static void make_lines(const struct mpq_node *node, const struct mpq_tensor *const *x,
                       struct line *line)
{
    const struct attrs *a = node->attrs;
    const struct mpq_shape *shape = &x[0]->shape;
    double scale[MPQ_MAX_RANK];
    int64_t out[MPQ_MAX_RANK];
    read_sizes(node, x, scale, out);
    for (int i = 0; i < shape->rank; i++)
        line[i] = (struct line){shape->dim[i], out[i], scale[i], 0, 1};
    int n = a->n_axis ? a->n_axis : shape->rank;
    for (int i = 0; i < n && a->coordinate == TF_CROP_AND_RESIZE; i++) {
        struct line *cropped = &line[entry_axis(a, i, shape->rank)];
        cropped->first = mpq_tensor_double(x[1], i);
        cropped->last = mpq_tensor_double(x[1], n + i);
    }
}

static size_t resize_workspace(const struct mpq_node *node, const struct mpq_tensor *const *x,
                               struct mpq_tensor *const *y, bool training)
{
    struct line line[MPQ_MAX_RANK];
    size_t n = 0;
    (void)training;
    make_lines(node, x, line);
    for (int i = 0; i < y[0]->shape.rank; i++)
        n += (size_t)(line[i].out * count_taps(node->attrs, &line[i]));
    size_t row = (size_t)y[0]->shape.dim[y[0]->shape.rank - 1];
    return n * sizeof(struct tap) + KEPT_ROWS * row * sizeof(mpq_real);
}

/* For axis i, index k of y along it: n_tap[i] taps from tap[i][k * n_tap[i]] on. */
struct plan {
    int rank;
    struct line line[MPQ_MAX_RANK];
    int64_t n_tap[MPQ_MAX_RANK];
    struct tap *tap[MPQ_MAX_RANK];
    int64_t base[KEPT_ROWS]; /* of the rows of x whose interpolations `row` has; -1: none */
    mpq_real *row;           /* [KEPT_ROWS, row of y] */
};

static void make_plan(const struct mpq_kernel_args *args, struct plan *plan)
{
    const struct attrs *a = args->node->attrs;
    const struct mpq_shape *shape = &args->x[0]->shape;
    int64_t stride[MPQ_MAX_RANK];
    struct tap *tap = args->workspace;
    make_lines(args->node, args->x, plan->line);
    mpq_dense_strides(shape, stride);
    plan->rank = shape->rank;
    for (int i = 0; i < shape->rank; i++) {
        plan->tap[i] = tap;
        plan->n_tap[i] = count_taps(a, &plan->line[i]);
        for (int64_t k = 0; k < plan->line[i].out; k++, tap += plan->n_tap[i])
            make_taps(a, &plan->line[i], plan->n_tap[i], k, stride[i], tap);
    }
    plan->row = (mpq_real *)tap;
    for (int i = 0; i < KEPT_ROWS; i++)
        plan->base[i] = -1;
}

/* fn(args, plan, y index of the row, x base, weight) for each row of y and each combination of taps
 * of the axes outside of the row; `is_first` for the first combination. */
typedef void row_fn(const struct mpq_kernel_args *args, struct plan *plan, int64_t at, int64_t base,
                    mpq_real weight, bool is_first);

static void for_each_row(const struct mpq_kernel_args *args, row_fn *fn)
{
    struct plan plan;
    const struct mpq_shape *shape = &args->y[0]->shape;
    int64_t index[MPQ_MAX_RANK] = {0}, count = mpq_shape_count(shape);
    make_plan(args, &plan);
    int last = plan.rank - 1;
    for (int64_t at = 0; at < count; at += shape->dim[last]) {
        int64_t t[MPQ_MAX_RANK] = {0};
        int i;
        bool is_first = true;
        do {
            int64_t base = 0;
            mpq_real weight = 1;
            for (i = 0; i < last; i++) {
                const struct tap *tap = &plan.tap[i][index[i] * plan.n_tap[i] + t[i]];
                base += tap->offset;
                weight *= tap->weight;
            }
            fn(args, &plan, at, base, weight, is_first);
            is_first = false;
            for (i = last - 1; i >= 0 && ++t[i] == plan.n_tap[i]; i--)
                t[i] = 0;
        } while (i >= 0);
        for (i = last - 1; i >= 0 && ++index[i] == shape->dim[i]; i--)
            index[i] = 0;
    }
}

static void move_row(const struct mpq_kernel_args *args, struct plan *plan, int64_t at,
                     int64_t base, mpq_real weight, bool is_first)
{
    size_t bytes = mpq_dtype_bytes(args->y[0]->dtype);
    const uint8_t *x = (const uint8_t *)args->x[0]->data + (size_t)base * bytes;
    uint8_t *y = (uint8_t *)args->y[0]->data + (size_t)at * bytes;
    const struct tap *tap = plan->tap[plan->rank - 1];
    (void)weight, (void)is_first;
    for (int64_t i = 0; i < args->y[0]->shape.dim[plan->rank - 1]; i++)
        memcpy(y + (size_t)i * bytes, x + (size_t)tap[i].offset * bytes, bytes);
}

/* sum[i] = the interpolation along the row of x from `base` on. */
static void interpolate(const struct tap *tap, int64_t n_tap, const mpq_real *x, int64_t n,
                        mpq_real *restrict sum)
{
    if (n_tap == 2) {
        for (int64_t i = 0; i < n; i++, tap += 2)
            sum[i] = 0 + tap[0].weight * x[tap[0].offset] + tap[1].weight * x[tap[1].offset];
        return;
    }
    for (int64_t i = 0; i < n; i++, tap += n_tap) {
        sum[i] = 0;
        for (int64_t t = 0; t < n_tap; t++)
            sum[i] += tap[t].weight * x[tap[t].offset];
    }
}

MPQ_MULTIVERSION
static void add_weighted(int64_t n, mpq_real weight, const mpq_real *restrict sum,
                         mpq_real *restrict y)
{
    for (int64_t i = 0; i < n; i++)
        y[i] += weight * sum[i];
}

/* Neighbouring rows of y come from the same few rows of x: their interpolations are kept. */
static void add_row(const struct mpq_kernel_args *args, struct plan *plan, int64_t at, int64_t base,
                    mpq_real weight, bool is_first)
{
    int last = plan->rank - 1;
    int64_t n = args->y[0]->shape.dim[last], n_x = args->x[0]->shape.dim[last];
    int slot = (int)(base / n_x % KEPT_ROWS);
    mpq_real *sum = plan->row + slot * n, *y = (mpq_real *)args->y[0]->data + at;
    if (plan->base[slot] != base)
        interpolate(plan->tap[last], plan->n_tap[last], (const mpq_real *)args->x[0]->data + base,
                    n, sum);
    plan->base[slot] = base;
    if (is_first)
        memset(y, 0, (size_t)n * sizeof *y);
    add_weighted(n, weight, sum, y);
}

static void backward_row(const struct mpq_kernel_args *args, struct plan *plan, int64_t at,
                         int64_t base, mpq_real weight, bool is_first)
{
    int64_t n_tap = plan->n_tap[plan->rank - 1];
    const struct tap *tap = plan->tap[plan->rank - 1];
    const mpq_real *dy = args->dy[0] + at;
    mpq_real *dx = args->dx[0] + base;
    (void)is_first;
    for (int64_t i = 0; i < args->y[0]->shape.dim[plan->rank - 1]; i++, tap += n_tap)
        for (int64_t t = 0; t < n_tap; t++)
            dx[tap[t].offset] += weight * tap[t].weight * dy[i];
}

/* y of every index that stands for a point beyond x, along some axis. */
static void fill_beyond(const struct mpq_kernel_args *args)
{
    const struct attrs *a = args->node->attrs;
    const struct mpq_shape *shape = &args->y[0]->shape;
    struct line line[MPQ_MAX_RANK];
    make_lines(args->node, args->x, line);
    for (int axis = 0; axis < shape->rank; axis++) {
        int64_t outer = mpq_shape_count_range(shape, 0, axis);
        int64_t inner = mpq_shape_count_range(shape, axis + 1, shape->rank);
        for (int64_t k = 0; k < shape->dim[axis]; k++) {
            if (!is_beyond(a, &line[axis], source(a->coordinate, &line[axis], k)))
                continue;
            for (int64_t o = 0; o < outer; o++)
                for (int64_t i = 0; i < inner; i++)
                    mpq_tensor_set_double(args->y[0], (o * shape->dim[axis] + k) * inner + i,
                                          a->extrapolation);
        }
    }
}

static void resize_forward(const struct mpq_kernel_args *args)
{
    const struct attrs *a = args->node->attrs;
    for_each_row(args, a->mode == NEAREST ? move_row : add_row);
    if (a->coordinate == TF_CROP_AND_RESIZE)
        fill_beyond(args);
}

static void resize_backward(const struct mpq_kernel_args *args)
{
    if (args->dy[0] && args->dx[0])
        for_each_row(args, backward_row);
}

const struct mpq_op mpq_op_resize = {.name = "Resize",
                                     .domain = "",
                                     .n_in_min = 1,
                                     .n_in_max = 4,
                                     .n_out_min = 1,
                                     .n_out_max = 1,
                                     .parse = resize_parse,
                                     .infer = resize_infer,
                                     .workspace = resize_workspace,
                                     .forward = resize_forward,
                                     .backward = resize_backward};
