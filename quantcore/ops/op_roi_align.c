/* RoiAlign (He et al., Mask R-CNN, ICCV 2017): y[r, c] is a grid of bins over region r of image
 * batch_indices[r], each the mean (or maximum) of bilinear samples of x. */
#include <math.h>
#include <string.h>

#include "quantcore/ops/op_util.h"

#define MAX_SAMPLES 4096 /* along one side of a bin */

struct attrs {
    bool is_max, half_pixel;
    int64_t height, width, sampling_ratio;
    double scale;
};

static enum mpq_status roi_align_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       struct mpq_node *node)
{
    const struct mpq_attr_set *set = &node->attr_set;
    struct attrs attrs = {
        .is_max = strcmp(mpq_attr_string(set, "mode", "avg"), "max") == 0,
        .half_pixel = strcmp(mpq_attr_string(set, "coordinate_transformation_mode", "half_pixel"),
                             "half_pixel") == 0,
        .height = mpq_attr_int(set, "output_height", 1),
        .width = mpq_attr_int(set, "output_width", 1),
        .sampling_ratio = mpq_attr_int(set, "sampling_ratio", 0),
        .scale = (double)mpq_attr_float(set, "spatial_scale", 1.0f)};
    if (attrs.sampling_ratio < 0 || attrs.sampling_ratio > MAX_SAMPLES)
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "sampling_ratio is %lld",
                             (long long)attrs.sampling_ratio);
    node->attrs = mpq_arena_copy(ctx, arena, &attrs, sizeof attrs);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

static enum mpq_status roi_align_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                       const struct mpq_tensor *const *x,
                                       struct mpq_tensor *const *y)
{
    const struct attrs *attrs = node->attrs;
    MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    MPQ_TRY(mpq_check_float(ctx, node, x, 1));
    if (x[0]->shape.rank != 4 || x[1]->shape.rank != 2 || x[1]->shape.dim[1] != 4 ||
        x[2]->shape.rank != 1 || x[2]->shape.dim[0] != x[1]->shape.dim[0] || attrs->height < 1 ||
        attrs->width < 1)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "regions %s and indices %s for an input of %s",
                             MPQ_SHAPE_TEXT(&x[1]->shape), MPQ_SHAPE_TEXT(&x[2]->shape),
                             MPQ_SHAPE_TEXT(&x[0]->shape));
    MPQ_TRY(mpq_check_indices(ctx, node, x[2], x[0]->shape.dim[0]));
    return mpq_infer_set(
        ctx, node, y[0], MPQ_FLOAT,
        &MPQ_SHAPE(x[1]->shape.dim[0], x[0]->shape.dim[1], attrs->height, attrs->width));
}

/* One sample: four elements of a plane and their weights. */
struct sample {
    int64_t at[4];
    double weight[4];
};

/* Places more than a pixel outside count as 0. */
static struct sample sample_at(double row, double column, int64_t height, int64_t width)
{
    struct sample s = {{0}, {0}};
    if (!(row >= -1 && row <= (double)height && column >= -1 && column <= (double)width))
        return s;
    row = fmax(row, 0), column = fmax(column, 0);
    int64_t r = (int64_t)row, c = (int64_t)column, r2 = r + 1, c2 = c + 1;
    if (r >= height - 1)
        r = r2 = height - 1, row = (double)r;
    if (c >= width - 1)
        c = c2 = width - 1, column = (double)c;
    double v = row - (double)r, h = column - (double)c;
    s = (struct sample){{r * width + c, r * width + c2, r2 * width + c, r2 * width + c2},
                        {(1 - v) * (1 - h), (1 - v) * h, v * (1 - h), v * h}};
    return s;
}

/* The samples of one bin: n_row times n_column of them, from `row`, `column` in steps. */
struct bin {
    double row, column, row_step, column_step;
    int64_t n_row, n_column;
};

/* Samples along one side of a bin; a region that ends before it begins has none. */
static int64_t n_sample(const struct attrs *attrs, double size)
{
    return attrs->sampling_ratio > 0 ? attrs->sampling_ratio
                                     : (int64_t)fmax(fmin(ceil(size), MAX_SAMPLES), 0);
}

static struct bin bin_of(const struct mpq_kernel_args *args, int64_t region, int64_t h, int64_t w)
{
    const struct attrs *attrs = args->node->attrs;
    const mpq_real *roi = (const mpq_real *)args->x[1]->data + region * 4;
    double offset = attrs->half_pixel ? 0.5 : 0;
    double left = (double)roi[0] * attrs->scale - offset,
           top = (double)roi[1] * attrs->scale - offset;
    double width = (double)roi[2] * attrs->scale - offset - left;
    double height = (double)roi[3] * attrs->scale - offset - top;
    if (!attrs->half_pixel)
        width = fmax(width, 1), height = fmax(height, 1);
    double bin_h = height / (double)attrs->height, bin_w = width / (double)attrs->width;
    struct bin bin = {.n_row = n_sample(attrs, bin_h), .n_column = n_sample(attrs, bin_w)};
    bin.row_step = bin_h / (double)bin.n_row;
    bin.column_step = bin_w / (double)bin.n_column;
    bin.row = top + (double)h * bin_h + bin.row_step / 2;
    bin.column = left + (double)w * bin_w + bin.column_step / 2;
    return bin;
}

static double bin_value(const struct attrs *attrs, const struct bin *bin, const mpq_real *x,
                        int64_t height, int64_t width)
{
    double sum = 0, largest = -INFINITY;
    for (int64_t i = 0; i < bin->n_row; i++)
        for (int64_t j = 0; j < bin->n_column; j++) {
            struct sample s = sample_at(bin->row + (double)i * bin->row_step,
                                        bin->column + (double)j * bin->column_step, height, width);
            for (int k = 0; k < 4; k++) {
                sum += s.weight[k] * (double)x[s.at[k]];
                largest = fmax(largest, s.weight[k] * (double)x[s.at[k]]);
            }
        }
    int64_t n = bin->n_row * bin->n_column;
    if (attrs->is_max)
        return n > 0 ? largest : 0;
    return sum / (double)(n > 1 ? n : 1);
}

static void roi_align_forward(const struct mpq_kernel_args *args)
{
    const struct attrs *attrs = args->node->attrs;
    const struct mpq_shape *image = &args->x[0]->shape, *out = &args->y[0]->shape;
    int64_t plane = image->dim[2] * image->dim[3];
    mpq_real *y = args->y[0]->data;
    for (int64_t r = 0; r < out->dim[0]; r++)
        for (int64_t c = 0; c < out->dim[1]; c++)
            for (int64_t h = 0; h < out->dim[2]; h++)
                for (int64_t w = 0; w < out->dim[3]; w++) {
                    struct bin bin = bin_of(args, r, h, w);
                    int64_t from = mpq_index_at(args->x[2], r, image->dim[0]) * image->dim[1] + c;
                    *y++ = (mpq_real)bin_value(attrs, &bin,
                                               (const mpq_real *)args->x[0]->data + from * plane,
                                               image->dim[2], image->dim[3]);
                }
}

/* Of the largest term alone, or of all. */
static void bin_gradient(const struct attrs *attrs, const struct bin *bin, const mpq_real *x,
                         int64_t height, int64_t width, double dy, mpq_real *dx)
{
    int64_t n = bin->n_row * bin->n_column, best = -1;
    double largest = -INFINITY, best_weight = 0;
    for (int64_t i = 0; i < bin->n_row; i++)
        for (int64_t j = 0; j < bin->n_column; j++) {
            struct sample s = sample_at(bin->row + (double)i * bin->row_step,
                                        bin->column + (double)j * bin->column_step, height, width);
            for (int k = 0; k < 4; k++) {
                if (!attrs->is_max)
                    dx[s.at[k]] += (mpq_real)(dy * s.weight[k] / (double)n);
                else if (s.weight[k] * (double)x[s.at[k]] > largest)
                    largest = s.weight[k] * (double)x[s.at[k]], best = s.at[k],
                    best_weight = s.weight[k];
            }
        }
    if (attrs->is_max && best >= 0)
        dx[best] += (mpq_real)(dy * best_weight);
}

/* Of the image; regions are places, which nothing here is trained to move. */
static void roi_align_backward(const struct mpq_kernel_args *args)
{
    const struct mpq_shape *image = &args->x[0]->shape, *out = &args->y[0]->shape;
    int64_t plane = image->dim[2] * image->dim[3];
    const mpq_real *dy = args->dy[0];
    if (!dy || !args->dx[0])
        return;
    for (int64_t r = 0; r < out->dim[0]; r++)
        for (int64_t c = 0; c < out->dim[1]; c++)
            for (int64_t h = 0; h < out->dim[2]; h++)
                for (int64_t w = 0; w < out->dim[3]; w++) {
                    struct bin bin = bin_of(args, r, h, w);
                    int64_t from = mpq_index_at(args->x[2], r, image->dim[0]) * image->dim[1] + c;
                    bin_gradient(args->node->attrs, &bin,
                                 (const mpq_real *)args->x[0]->data + from * plane, image->dim[2],
                                 image->dim[3], (double)*dy++, args->dx[0] + from * plane);
                }
}

const struct mpq_op mpq_op_roi_align = {.name = "RoiAlign",
                                        .domain = "",
                                        .n_in_min = 3,
                                        .n_in_max = 3,
                                        .n_out_min = 1,
                                        .n_out_max = 1,
                                        .parse = roi_align_parse,
                                        .infer = roi_align_infer,
                                        .forward = roi_align_forward,
                                        .backward = roi_align_backward};
