/* Samples made up where the user has none. Floats are N(0,1); pictures get the power spectrum of
 * natural ones, about 1/f^2 (Field, "Relations between the statistics of natural images and the
 * response properties of cortical cells", JOSA A 1987): every octave of spatial frequency carries
 * the same energy, so a picture is the sum of noise grids whose cells double in size, interpolated.
 */
#include <math.h>

#include "calibration/source.h"
#include "quantcore/base/rng.h"

#define N_SMALL_INTEGER 8 /* integers are drawn from 0 .. N_SMALL_INTEGER-1 */

/* Random numbers of one input of one sample: (key, stream, step) of mpq_rng_normal(). */
struct draw {
    uint64_t key, step;
};

static double normal(const struct draw *draw, uint32_t index)
{
    return mpq_rng_normal(draw->key, MPQ_STREAM_SYNTHETIC, draw->step, index);
}

/* One plane [height, width] of noise on a grid of `cell` pixels, interpolated, added to `plane`.
 * Returns the first index of draw that is still unused. */
static uint32_t add_octave(const struct draw *draw, uint32_t index, int64_t height, int64_t width,
                           int64_t cell, double *grid, double *plane)
{
    int64_t n_row = (height - 1) / cell + 2, n_column = (width - 1) / cell + 2;
    for (int64_t i = 0; i < n_row * n_column; i++)
        grid[i] = normal(draw, index++);
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x++) {
            const double *corner = grid + y / cell * n_column + x / cell;
            double v = (double)(y % cell) / (double)cell, u = (double)(x % cell) / (double)cell;
            double top = corner[0] * (1 - u) + corner[1] * u;
            double bottom = corner[n_column] * (1 - u) + corner[n_column + 1] * u;
            plane[y * width + x] += top * (1 - v) + bottom * v;
        }
    return index;
}

/* Mean 0 and variance 1. A plane of one value stays as it is. */
static void standardize(double *x, int64_t n)
{
    double sum = 0, square = 0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i];
    for (int64_t i = 0; i < n; i++) {
        x[i] -= sum / (double)n;
        square += x[i] * x[i];
    }
    double scale = square > 0 ? sqrt((double)n / square) : 1;
    for (int64_t i = 0; i < n; i++)
        x[i] *= scale;
}

static enum mpq_status draw_picture(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                    const struct draw *draw,
                                    const struct mpq_picture_layout *layout, struct mpq_tensor *y)
{
    int64_t n = layout->height * layout->width, channels = layout->channels;
    size_t n_grid = (size_t)((layout->height + 1) * (layout->width + 1));
    double *grid = mpq_arena_alloc(ctx, scratch, n_grid, sizeof *grid);
    double *plane = mpq_arena_alloc(ctx, scratch, (size_t)(n * channels), sizeof *plane);
    int64_t shorter = layout->height < layout->width ? layout->height : layout->width;
    uint32_t index = 0;
    if (!grid || !plane)
        return MPQ_E_NOMEM;
    for (int64_t c = 0; c < channels; c++) {
        for (int64_t cell = 1; cell == 1 || cell <= shorter / 2; cell *= 2)
            index =
                add_octave(draw, index, layout->height, layout->width, cell, grid, plane + c * n);
        standardize(plane + c * n, n);
        for (int64_t i = 0; i < n; i++)
            mpq_tensor_set_double(y, layout->channels_last ? i * channels + c : c * n + i,
                                  plane[c * n + i]);
    }
    return MPQ_OK;
}

static enum mpq_status synthetic_open(struct mpq_ctx *ctx, const struct mpq_source_request *request,
                                      struct mpq_dataset *dataset)
{
    (void)request;
    uint64_t *key = mpq_arena_alloc(ctx, dataset->arena, 1, sizeof *key);
    if (!key)
        return MPQ_E_NOMEM;
    *key = ctx->seed;
    dataset->state = key;
    return MPQ_OK;
}

static enum mpq_status synthetic_read(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                      const struct mpq_dataset *dataset, uint32_t sample,
                                      struct mpq_tensor *y)
{
    for (uint32_t k = 0; k < dataset->n_input; k++) {
        struct draw draw = {*(const uint64_t *)dataset->state,
                            (uint64_t)sample * dataset->n_input + k};
        struct mpq_picture_layout layout;
        bool is_bool = y[k].dtype == MPQ_BOOL;
        bool is_integer = is_bool || mpq_dtype_is_integer(y[k].dtype);
        int64_t count = mpq_shape_count(&y[k].shape);
        if (!is_integer && mpq_picture_layout_find(&y[k].shape, &layout))
            MPQ_TRY(draw_picture(ctx, scratch, &draw, &layout, &y[k]));
        else
            for (int64_t i = 0; i < count; i++)
                mpq_tensor_set_double(&y[k], i,
                                      is_integer ? mpq_rng_below(draw.key, MPQ_STREAM_SYNTHETIC,
                                                                 draw.step, (uint32_t)i,
                                                                 is_bool ? 2 : N_SMALL_INTEGER)
                                                 : normal(&draw, (uint32_t)i));
    }
    return MPQ_OK;
}

const struct mpq_source mpq_source_synthetic = {
    .what = "made-up samples",
    .open = synthetic_open,
    .read = synthetic_read,
};
