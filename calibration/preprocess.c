#include "calibration/preprocess.h"

#include <math.h>
#include <string.h>

#define IMAGENET_MEAN                                                                              \
    {                                                                                              \
        0.485f, 0.456f, 0.406f, 0                                                                  \
    }
#define IMAGENET_STD                                                                               \
    {                                                                                              \
        0.229f, 0.224f, 0.225f, 1                                                                  \
    }
#define SAME(x)                                                                                    \
    {                                                                                              \
        x, x, x, x                                                                                 \
    }

static const struct {
    const char *name;
    struct mpq_preprocess preprocess;
} preset[] = {
    {"imagenet", {1 / 255.0f, IMAGENET_MEAN, IMAGENET_STD, -1, 0, false, 0, 0}},
    {"imagenet-tf", {1 / 127.5f, SAME(1), SAME(1), -1, 0, false, 0, 0}},
    {"unit", {1 / 255.0f, SAME(0), SAME(1), 0, 0, false, 0, 0}},
    {"raw", {1, SAME(0), SAME(1), 0, 0, false, 0, 0}},
};

enum mpq_status mpq_preprocess_preset(struct mpq_ctx *ctx, const char *name,
                                      struct mpq_preprocess *out)
{
    for (size_t i = 0; i < MPQ_COUNT(preset); i++)
        if (strcmp(preset[i].name, name) == 0) {
            *out = preset[i].preprocess;
            return MPQ_OK;
        }
    return mpq_fail(ctx, MPQ_E_USAGE,
                    "unknown preprocessing '%s'; known are imagenet, imagenet-tf, unit and raw",
                    name);
}

static bool is_channel_count(int64_t n)
{
    return n == 1 || n == 3 || n == 4;
}

void mpq_picture_guess(int64_t height, int64_t width, struct mpq_shape *shape)
{
    if (shape->rank != 4 || is_channel_count(shape->dim[1]) == is_channel_count(shape->dim[3]))
        return;
    int64_t *size = shape->dim + (is_channel_count(shape->dim[1]) ? 2 : 1);
    size[0] = size[0] < 0 ? height : size[0];
    size[1] = size[1] < 0 ? width : size[1];
}

bool mpq_picture_layout_find(const struct mpq_shape *shape, struct mpq_picture_layout *out)
{
    const int64_t *dim = shape->dim;
    if (shape->rank != 4 || dim[0] != 1 || dim[1] < 1 || dim[2] < 1 || dim[3] < 1)
        return false;
    if (is_channel_count(dim[1]))
        *out = (struct mpq_picture_layout){dim[2], dim[3], dim[1], false};
    else if (is_channel_count(dim[3]))
        *out = (struct mpq_picture_layout){dim[1], dim[2], dim[3], true};
    else
        return false;
    return true;
}

struct size {
    int64_t height, width;
};

static struct size crop_size(const struct mpq_preprocess *preprocess,
                             const struct mpq_picture_layout *layout)
{
    if (preprocess->crop > 0)
        return (struct size){preprocess->crop, preprocess->crop};
    return (struct size){layout->height, layout->width};
}

static int64_t longer(struct size size)
{
    return size.height > size.width ? size.height : size.width;
}

static int64_t short_side(const struct mpq_preprocess *preprocess, struct size crop)
{
    return preprocess->resize > 0 ? preprocess->resize : (longer(crop) * 8 + 3) / 7;
}

static enum mpq_status check_channels(struct mpq_ctx *ctx, const char *option, int n,
                                      const struct mpq_picture_layout *layout)
{
    if (n && n != layout->channels)
        return mpq_fail(ctx, MPQ_E_USAGE, "--%s is of %d channels, the input has %d", option, n,
                        (int)layout->channels);
    return MPQ_OK;
}

enum mpq_status mpq_preprocess_check(struct mpq_ctx *ctx, const struct mpq_preprocess *preprocess,
                                     const struct mpq_picture_layout *layout, bool whole)
{
    struct size crop = crop_size(preprocess, layout);
    MPQ_TRY(check_channels(ctx, "mean", preprocess->n_mean, layout));
    MPQ_TRY(check_channels(ctx, "std", preprocess->n_std, layout));
    if (whole)
        return MPQ_OK;
    if (preprocess->resize == 0 && (crop.height != layout->height || crop.width != layout->width))
        return mpq_fail(ctx, MPQ_E_USAGE,
                        "--crop %d without --resize: pictures are resized to %lldx%lld as a whole",
                        preprocess->crop, (long long)layout->width, (long long)layout->height);
    if (preprocess->resize > 0 && preprocess->resize < longer(crop))
        return mpq_fail(ctx, MPQ_E_USAGE,
                        "pictures resized to a short side of %d do not cover a crop of %lldx%lld",
                        preprocess->resize, (long long)crop.width, (long long)crop.height);
    return MPQ_OK;
}

/* n / 2, a half going to the even neighbour as Python's round() takes it. */
static int64_t half_to_even(int64_t n)
{
    return n / 2 + (n & 1 & (n / 2));
}

static enum mpq_status resize_and_crop(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const struct mpq_preprocess *preprocess,
                                       const struct mpq_picture_layout *layout,
                                       const struct mpq_picture *in, struct mpq_picture *out)
{
    struct size crop = crop_size(preprocess, layout);
    int64_t side = short_side(preprocess, crop), height = side, width = side;
    struct mpq_picture resized;
    if (in->width < in->height)
        height = side * in->height / in->width;
    else
        width = side * in->width / in->height;
    MPQ_TRY(mpq_picture_resize(ctx, arena, in, height, width, &resized));
    return mpq_picture_crop(ctx, arena, &resized, half_to_even(height - crop.height),
                            half_to_even(width - crop.width), crop.height, crop.width, out);
}

enum mpq_status mpq_preprocess_fit(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_preprocess *preprocess,
                                   const struct mpq_picture_layout *layout, bool whole,
                                   const struct mpq_picture *in, struct mpq_picture *out)
{
    struct mpq_picture picture;
    MPQ_TRY(mpq_picture_convert(ctx, arena, in, layout->channels, &picture));
    if (!whole && preprocess->resize != 0)
        MPQ_TRY(resize_and_crop(ctx, arena, preprocess, layout, &picture, &picture));
    return mpq_picture_resize(ctx, arena, &picture, layout->height, layout->width, out);
}

void mpq_pixel_table_fill(const struct mpq_preprocess *preprocess, struct mpq_pixel_table *out)
{
    for (int c = 0; c < 4; c++)
        for (int x = 0; x < 256; x++)
            out->value[c][x] =
                ((float)x * preprocess->scale - preprocess->mean[c]) / preprocess->std[c];
}

void mpq_preprocess_write(const struct mpq_preprocess *preprocess,
                          const struct mpq_pixel_table *table,
                          const struct mpq_picture_layout *layout, const struct mpq_picture *fitted,
                          struct mpq_tensor *y)
{
    int64_t n = layout->height * layout->width, channels = layout->channels;
    for (int64_t c = 0; c < channels; c++) {
        int64_t source = preprocess->bgr && channels >= 3 && c < 3 ? 2 - c : c;
        int64_t step = layout->channels_last ? channels : 1;
        int64_t start = layout->channels_last ? c : c * n;
        const float *value = table->value[c];
        const uint8_t *pixel = fitted->pixel + source;
        if (y->dtype == MPQ_FLOAT) {
            mpq_real *to = (mpq_real *)y->data + start;
            for (int64_t i = 0; i < n; i++)
                to[i * step] = value[pixel[i * channels]];
        } else {
            bool whole = mpq_dtype_is_integer(y->dtype);
            for (int64_t i = 0; i < n; i++) {
                double x = (double)value[pixel[i * channels]];
                mpq_tensor_set_double(y, start + i * step, whole ? nearbyint(x) : x);
            }
        }
    }
}
