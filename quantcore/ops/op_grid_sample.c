/* GridSample: y[n, c, p] = x[n, c] interpolated at grid[n, p], whose coordinates, x first, run from
 * -1 to 1 over the image. One, two or three spatial dimensions; along each, 1 (nearest), 2 (linear)
 * or 4 (cubic, a = -0.75) taps. */
#include <math.h>
#include <string.h>

#include "quantcore/base/thread.h"
#include "quantcore/ops/op_util.h"

#define MAX_DIMS 3
#define MAX_TAP  4

enum mode { NEAREST, LINEAR, CUBIC };
enum padding { ZEROS, BORDER, REFLECTION };

struct attrs {
    enum mode mode;
    enum padding padding;
    bool align_corners;
};

static enum mpq_status grid_sample_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                         struct mpq_node *node)
{
    const char *mode = mpq_attr_string(&node->attr_set, "mode", "linear");
    const char *padding = mpq_attr_string(&node->attr_set, "padding_mode", "zeros");
    struct attrs attrs = {.align_corners = mpq_attr_int(&node->attr_set, "align_corners", 0) != 0};
    /* Opset 16 called them bilinear and bicubic. */
    attrs.mode = strcmp(mode, "nearest") == 0                                 ? NEAREST
                 : strcmp(mode, "cubic") == 0 || strcmp(mode, "bicubic") == 0 ? CUBIC
                                                                              : LINEAR;
    attrs.padding = strcmp(padding, "border") == 0       ? BORDER
                    : strcmp(padding, "reflection") == 0 ? REFLECTION
                                                         : ZEROS;
    node->attrs = mpq_arena_copy(ctx, arena, &attrs, sizeof attrs);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

static enum mpq_status grid_sample_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                         const struct mpq_tensor *const *x,
                                         struct mpq_tensor *const *y)
{
    const struct mpq_shape *image = &x[0]->shape, *grid = &x[1]->shape;
    int dims = image->rank - 2;
    MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    MPQ_TRY(mpq_check_float(ctx, node, x, 1));
    if (dims < 1 || dims > MAX_DIMS || grid->rank != image->rank || grid->dim[0] != image->dim[0] ||
        grid->dim[dims + 1] != dims)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "a grid of %s for an input of %s",
                             MPQ_SHAPE_TEXT(grid), MPQ_SHAPE_TEXT(image));
    struct mpq_shape shape = *image;
    for (int d = 0; d < dims; d++)
        shape.dim[2 + d] = grid->dim[1 + d];
    return mpq_infer_set(ctx, node, y[0], MPQ_FLOAT, &shape);
}

/* The taps along one dimension at one place: elements (-1: outside, counts as 0) and weights, and
 * the derivative of the weights by the coordinate in the grid. */
struct taps {
    int n;
    int64_t at[MAX_TAP];
    double weight[MAX_TAP], slope[MAX_TAP];
};

/* Mirrored at low and high until it is between them; *sign turns with each mirror. */
static double reflect(double x, double low, double high, double *sign)
{
    double span = high - low;
    if (span <= 0)
        return low;
    double rest = fmod(fabs(x - low), 2 * span);
    *sign *= x < low ? -1 : 1;
    if (rest > span) {
        rest = 2 * span - rest;
        *sign = -*sign;
    }
    return low + rest;
}

static double into_image(double x, int64_t n, const struct attrs *attrs, double *sign)
{
    if (attrs->padding == BORDER) {
        if (x < 0 || x > (double)(n - 1))
            *sign = 0;
        return fmin(fmax(x, 0), (double)(n - 1));
    }
    if (attrs->padding == REFLECTION)
        return attrs->align_corners ? reflect(x, 0, (double)(n - 1), sign)
                                    : reflect(x, -0.5, (double)n - 0.5, sign);
    return x;
}

/* Element i of a line of n as the padding has it. */
static int64_t element(int64_t i, int64_t n, const struct attrs *attrs)
{
    double sign = 1;
    if (i >= 0 && i < n)
        return i;
    if (attrs->padding == ZEROS)
        return -1;
    double at = rint(into_image((double)i, n, attrs, &sign));
    return at < 0 ? 0 : at > (double)(n - 1) ? n - 1 : (int64_t)at;
}

/* The cubic convolution kernel at distance t <= 2, and its slope. */
static double cubic(double t, double *slope)
{
    const double a = -0.75;
    double u = fabs(t), sign = t < 0 ? -1 : 1;
    if (u <= 1) {
        *slope = sign * (3 * (a + 2) * u * u - 2 * (a + 3) * u);
        return ((a + 2) * u - (a + 3)) * u * u + 1;
    }
    *slope = sign * (3 * a * u * u - 10 * a * u + 8 * a);
    return ((a * u - 5 * a) * u + 8 * a) * u - 4 * a;
}

static void make_taps(double coordinate, int64_t n, const struct attrs *attrs, struct taps *out)
{
    double scale = attrs->align_corners ? (double)(n - 1) / 2 : (double)n / 2, sign = 1;
    double x = attrs->align_corners ? (coordinate + 1) * scale : (coordinate + 1) * scale - 0.5;
    if (!(fabs(x) < 1e9)) /* nowhere near the image, or not a number */
        x = x > 0 ? 1e9 : -1e9;
    if (attrs->mode == NEAREST) {
        if (attrs->padding != ZEROS)
            x = into_image(x, n, attrs, &sign);
        *out = (struct taps){.n = 1, .at = {element((int64_t)rint(x), n, attrs)}, .weight = {1}};
        return;
    }
    if (attrs->mode == LINEAR) /* cubic pads its taps one by one */
        x = into_image(x, n, attrs, &sign);
    double base = floor(x), t = x - base;
    int64_t first = (int64_t)base - (attrs->mode == CUBIC);
    out->n = attrs->mode == CUBIC ? 4 : 2;
    for (int i = 0; i < out->n; i++) {
        out->at[i] = element(first + i, n, attrs);
        if (attrs->mode == LINEAR) {
            out->weight[i] = i ? t : 1 - t;
            out->slope[i] = i ? 1 : -1;
        } else {
            out->weight[i] = cubic(t + 1 - i, &out->slope[i]);
        }
        out->slope[i] *= sign * scale;
    }
}

struct job {
    const struct mpq_kernel_args *args;
    int dims;
    int64_t n_channel, n_in, n_out; /* elements of one image */
    int64_t size[MAX_DIMS];
};

static struct job job_of(const struct mpq_kernel_args *args)
{
    const struct mpq_shape *image = &args->x[0]->shape, *out = &args->y[0]->shape;
    struct job job = {.args = args, .dims = image->rank - 2, .n_channel = image->dim[1]};
    job.n_in = mpq_shape_count_range(image, 2, image->rank);
    job.n_out = mpq_shape_count_range(out, 2, out->rank);
    for (int d = 0; d < job.dims; d++)
        job.size[d] = image->dim[2 + d];
    return job;
}

/* Taps of all dimensions at place p of all images; a dimension that is missing has one of weight 1.
 */
static void place_taps(const struct job *job, int64_t p, struct taps taps[MAX_DIMS])
{
    const mpq_real *grid = (const mpq_real *)job->args->x[1]->data + p * job->dims;
    for (int d = 0; d < MAX_DIMS; d++)
        if (d < job->dims) /* the last dimension's coordinate comes first */
            make_taps((double)grid[job->dims - 1 - d], job->size[d], job->args->node->attrs,
                      &taps[d]);
        else
            taps[d] = (struct taps){.n = 1, .weight = {1}};
}

/* Walks all taps: their element of the image, -1 outside, and weight. */
struct walk {
    const struct taps *taps;
    int i[MAX_DIMS];
};

static int64_t tap_element(const struct job *job, const struct walk *walk)
{
    int64_t at = 0;
    for (int d = 0; d < job->dims; d++) {
        int64_t k = walk->taps[d].at[walk->i[d]];
        if (k < 0)
            return -1;
        at = at * job->size[d] + k;
    }
    return at;
}

/* The product of the weights, that of dimension `by` replaced by its slope; -1: none is. */
static double tap_weight(const struct walk *walk, int by)
{
    double product = 1;
    for (int d = 0; d < MAX_DIMS; d++) {
        const struct taps *taps = &walk->taps[d];
        product *= d == by ? taps->slope[walk->i[d]] : taps->weight[walk->i[d]];
    }
    return product;
}

#define FOR_EACH_TAP(walk)                                                                         \
    for ((walk).i[0] = 0; (walk).i[0] < (walk).taps[0].n; (walk).i[0]++)                           \
        for ((walk).i[1] = 0; (walk).i[1] < (walk).taps[1].n; (walk).i[1]++)                       \
            for ((walk).i[2] = 0; (walk).i[2] < (walk).taps[2].n; (walk).i[2]++)

static void forward_places(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    (void)thread;
    for (int64_t p = begin; p < end; p++) {
        struct taps taps[MAX_DIMS];
        struct walk walk = {.taps = taps};
        int64_t image = p / job->n_out;
        const mpq_real *x =
            (const mpq_real *)job->args->x[0]->data + image * job->n_channel * job->n_in;
        mpq_real *y = (mpq_real *)job->args->y[0]->data + image * job->n_channel * job->n_out +
                      p % job->n_out;
        place_taps(job, p, taps);
        for (int64_t c = 0; c < job->n_channel; c++) {
            double sum = 0;
            FOR_EACH_TAP(walk)
            {
                int64_t at = tap_element(job, &walk);
                if (at >= 0)
                    sum += tap_weight(&walk, -1) * (double)x[c * job->n_in + at];
            }
            y[c * job->n_out] = (mpq_real)sum;
        }
    }
}

static void grid_sample_forward(const struct mpq_kernel_args *args)
{
    struct job job = job_of(args);
    mpq_parallel_for(args->x[0]->shape.dim[0] * job.n_out, 256, forward_places, &job);
}

static void backward_place(const struct job *job, int64_t p)
{
    struct taps taps[MAX_DIMS];
    struct walk walk = {.taps = taps};
    mpq_real *dx = mpq_grad(job->args, 0), *dgrid = mpq_grad(job->args, 1);
    int64_t image = p / job->n_out, plane = image * job->n_channel;
    place_taps(job, p, taps);
    for (int64_t c = plane; c < plane + job->n_channel; c++) {
        const mpq_real *x = (const mpq_real *)job->args->x[0]->data + c * job->n_in;
        double dy = (double)job->args->dy[0][c * job->n_out + p % job->n_out];
        FOR_EACH_TAP(walk)
        {
            int64_t at = tap_element(job, &walk);
            if (at < 0)
                continue;
            if (dx)
                dx[c * job->n_in + at] += (mpq_real)(dy * tap_weight(&walk, -1));
            for (int d = 0; dgrid && d < job->dims; d++)
                dgrid[p * job->dims + job->dims - 1 - d] +=
                    (mpq_real)(dy * (double)x[at] * tap_weight(&walk, d));
        }
    }
}

static void grid_sample_backward(const struct mpq_kernel_args *args)
{
    struct job job = job_of(args);
    for (int64_t p = 0; args->dy[0] && p < args->x[0]->shape.dim[0] * job.n_out; p++)
        backward_place(&job, p);
}

const struct mpq_op mpq_op_grid_sample = {.name = "GridSample",
                                          .domain = "",
                                          .n_in_min = 2,
                                          .n_in_max = 2,
                                          .n_out_min = 1,
                                          .n_out_max = 1,
                                          .parse = grid_sample_parse,
                                          .infer = grid_sample_infer,
                                          .forward = grid_sample_forward,
                                          .backward = grid_sample_backward};
