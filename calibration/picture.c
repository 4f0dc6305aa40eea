#include "calibration/picture.h"

#include <string.h>

#include "quantcore/base/fileio.h"
#include "quantcore/base/limits.h"

enum mpq_status mpq_picture_alloc(struct mpq_ctx *ctx, struct mpq_arena *arena, int64_t height,
                                  int64_t width, int64_t channels, struct mpq_picture *out)
{
    MPQ_ASSERT(height > 0 && width > 0 && channels >= 1 && channels <= 4);
    if ((size_t)width > MPQ_LIMIT_PIXELS / (size_t)height)
        return mpq_fail(ctx, MPQ_E_LIMIT, "a picture of %lld x %lld pixels is too large",
                        (long long)width, (long long)height);
    uint8_t *pixel = mpq_arena_alloc(ctx, arena, (size_t)(height * width), (size_t)channels);
    if (!pixel)
        return MPQ_E_NOMEM;
    *out = (struct mpq_picture){height, width, channels, pixel};
    return MPQ_OK;
}

enum mpq_status mpq_picture_read(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                                 struct mpq_picture *out)
{
    uint8_t *bytes;
    size_t n;
    MPQ_TRY(mpq_file_read(ctx, arena, path, MPQ_LIMIT_TENSOR_BYTES, &bytes, &n));
    enum mpq_status status;
    if (n >= 3 && memcmp(bytes, "\xff\xd8\xff", 3) == 0)
        status = mpq_picture_decode_jpeg(ctx, arena, bytes, n, out);
    else if (n >= 8 && memcmp(bytes, "\x89PNG\r\n\x1a\n", 8) == 0)
        status = mpq_picture_decode_png(ctx, arena, bytes, n, out);
    else
        status = mpq_fail(ctx, MPQ_E_FORMAT, "is neither a JPEG nor a PNG picture");
    if (status != MPQ_OK)
        mpq_fail_prefix(ctx, path);
    return status;
}

static uint8_t luma(const uint8_t *rgb)
{
    uint32_t sum = 19595u * rgb[0] + 38470u * rgb[1] + 7471u * rgb[2];
    return (uint8_t)((sum + 0x8000) >> 16);
}

enum mpq_status mpq_picture_convert(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_picture *in, int64_t channels,
                                    struct mpq_picture *out)
{
    if (in->channels == channels) {
        *out = *in;
        return MPQ_OK;
    }
    struct mpq_picture picture;
    MPQ_TRY(mpq_picture_alloc(ctx, arena, in->height, in->width, channels, &picture));
    int64_t n = in->height * in->width;
    const uint8_t *from = in->pixel;
    uint8_t *to = picture.pixel;
    for (int64_t i = 0; i < n; i++, from += in->channels, to += channels) {
        if (channels == 1)
            to[0] = luma(from);
        else
            for (int c = 0; c < 3; c++)
                to[c] = from[in->channels == 1 ? 0 : c];
        if (channels == 4)
            to[3] = 255;
    }
    *out = picture;
    return MPQ_OK;
}

enum mpq_status mpq_picture_crop(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const struct mpq_picture *in, int64_t top, int64_t left,
                                 int64_t height, int64_t width, struct mpq_picture *out)
{
    MPQ_ASSERT(top >= 0 && left >= 0 && top + height <= in->height && left + width <= in->width);
    if (height == in->height && width == in->width) {
        *out = *in;
        return MPQ_OK;
    }
    struct mpq_picture picture;
    MPQ_TRY(mpq_picture_alloc(ctx, arena, height, width, in->channels, &picture));
    size_t row = (size_t)(width * in->channels);
    for (int64_t y = 0; y < height; y++)
        memcpy(picture.pixel + (size_t)y * row,
               in->pixel + ((top + y) * in->width + left) * in->channels, row);
    *out = picture;
    return MPQ_OK;
}
