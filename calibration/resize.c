/* Pillow's bilinear resize, in the integers that Pillow computes in (libImaging/Resample.c): users
 * trained and evaluated with it, and a model may lose half a percent with another filter. */
#include <math.h>
#include <string.h>

#include "calibration/picture.h"

/* Weights are integers of this many fraction bits: a sum over 8-bit pixels, and its overshoot by
 * rounded weights, stays within 32 bits. */
#define WEIGHT_BITS 22

/* The weights of one axis: output i is the sum of weight[i * n_tap + j] * input[first[i] + j]
 * for j < count[i]. */
struct taps {
    int64_t n_out, n_tap;
    int64_t *first, *count;
    int32_t *weight;
};

/* Weights of one output, a triangle of half-width `support` inputs around `center`, that sum to 1
 * before rounding. */
static void weigh(struct taps *taps, int64_t i, int64_t n_in, double center, double support,
                  double *scratch)
{
    int64_t first = (int64_t)(center - support + 0.5), last = (int64_t)(center + support + 0.5);
    first = first < 0 ? 0 : first;
    last = last > n_in ? n_in : last;
    double sum = 0;
    for (int64_t j = 0; j < last - first; j++) {
        double distance = fabs(((double)(j + first) - center + 0.5) * (1.0 / support));
        scratch[j] = distance < 1 ? 1 - distance : 0;
        sum += scratch[j];
    }
    for (int64_t j = 0; j < last - first; j++) {
        double share = sum != 0 ? scratch[j] / sum : scratch[j];
        taps->weight[i * taps->n_tap + j] = (int32_t)(0.5 + share * (1 << WEIGHT_BITS));
    }
    taps->first[i] = first;
    taps->count[i] = last - first;
}

static enum mpq_status make_taps(struct mpq_ctx *ctx, struct mpq_arena *arena, int64_t n_in,
                                 int64_t n_out, struct taps *out)
{
    double scale = (double)n_in / (double)n_out, support = scale < 1 ? 1 : scale;
    struct taps taps = {.n_out = n_out, .n_tap = (int64_t)ceil(support) * 2 + 1};
    taps.first = mpq_arena_alloc(ctx, arena, (size_t)n_out, sizeof *taps.first);
    taps.count = mpq_arena_alloc(ctx, arena, (size_t)n_out, sizeof *taps.count);
    taps.weight = mpq_arena_alloc(ctx, arena, (size_t)(n_out * taps.n_tap), sizeof *taps.weight);
    double *scratch = mpq_arena_alloc(ctx, arena, (size_t)taps.n_tap, sizeof *scratch);
    if (!taps.first || !taps.count || !taps.weight || !scratch)
        return MPQ_E_NOMEM;
    for (int64_t i = 0; i < n_out; i++)
        weigh(&taps, i, n_in, ((double)i + 0.5) * scale, support, scratch);
    *out = taps;
    return MPQ_OK;
}

static uint8_t to_byte(int32_t sum)
{
    int32_t value = sum >> WEIGHT_BITS;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* from [height, n_in, C] -> to [height, n_out, C] */
static void resize_rows(const struct taps *taps, const struct mpq_picture *from,
                        struct mpq_picture *to)
{
    int64_t channels = from->channels;
    uint8_t *y = to->pixel;
    for (int64_t row = 0; row < from->height; row++)
        for (int64_t i = 0; i < taps->n_out; i++) {
            const int32_t *weight = taps->weight + i * taps->n_tap;
            const uint8_t *x = from->pixel + (row * from->width + taps->first[i]) * channels;
            for (int64_t c = 0; c < channels; c++) {
                int32_t sum = 1 << (WEIGHT_BITS - 1);
                for (int64_t j = 0; j < taps->count[i]; j++)
                    sum += x[j * channels + c] * weight[j];
                *y++ = to_byte(sum);
            }
        }
}

/* from [n_in, width, C] -> to [n_out, width, C]; sum has room for one row. */
static void resize_columns(const struct taps *taps, const struct mpq_picture *from,
                           struct mpq_picture *to, int32_t *sum)
{
    int64_t n = from->width * from->channels;
    for (int64_t i = 0; i < taps->n_out; i++) {
        const int32_t *weight = taps->weight + i * taps->n_tap;
        for (int64_t k = 0; k < n; k++)
            sum[k] = 1 << (WEIGHT_BITS - 1);
        for (int64_t j = 0; j < taps->count[i]; j++) {
            const uint8_t *x = from->pixel + (taps->first[i] + j) * n;
            for (int64_t k = 0; k < n; k++)
                sum[k] += x[k] * weight[j];
        }
        for (int64_t k = 0; k < n; k++)
            to->pixel[i * n + k] = to_byte(sum[k]);
    }
}

static enum mpq_status resize_width(struct mpq_ctx *ctx, struct mpq_arena *arena, int64_t width,
                                    struct mpq_picture *picture)
{
    struct mpq_picture to;
    struct taps taps;
    if (width == picture->width)
        return MPQ_OK;
    MPQ_TRY(make_taps(ctx, arena, picture->width, width, &taps));
    MPQ_TRY(mpq_picture_alloc(ctx, arena, picture->height, width, picture->channels, &to));
    resize_rows(&taps, picture, &to);
    *picture = to;
    return MPQ_OK;
}

static enum mpq_status resize_height(struct mpq_ctx *ctx, struct mpq_arena *arena, int64_t height,
                                     struct mpq_picture *picture)
{
    struct mpq_picture to;
    struct taps taps;
    if (height == picture->height)
        return MPQ_OK;
    size_t n_row = (size_t)(picture->width * picture->channels);
    int32_t *sum = mpq_arena_alloc(ctx, arena, n_row, sizeof *sum);
    if (!sum)
        return MPQ_E_NOMEM;
    MPQ_TRY(make_taps(ctx, arena, picture->height, height, &taps));
    MPQ_TRY(mpq_picture_alloc(ctx, arena, height, picture->width, picture->channels, &to));
    resize_columns(&taps, picture, &to, sum);
    *picture = to;
    return MPQ_OK;
}

/* Pillow 13 shrinks the height first where that removes more than twice the pixels that the width
 * loses; earlier versions never did, and differ there by one level at the most. */
enum mpq_status mpq_picture_resize(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_picture *in, int64_t height, int64_t width,
                                   struct mpq_picture *out)
{
    struct mpq_picture picture = *in;
    int64_t rows_lost = in->height - height, columns_lost = in->width - width;
    if (rows_lost > 0 && rows_lost > 2 * columns_lost)
        MPQ_TRY(resize_height(ctx, arena, height, &picture));
    MPQ_TRY(resize_width(ctx, arena, width, &picture));
    MPQ_TRY(resize_height(ctx, arena, height, &picture));
    *out = picture;
    return MPQ_OK;
}
