/* The only file that knows libpng. */
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <png.h>

#include "calibration/picture.h"
#include "quantcore/base/limits.h"

/* libpng reports errors by a callback that must not return; ours jumps back to decode(). All that
 * is used after the jump lives here and not in local variables, which a jump may undo. */
struct decoder {
    png_structp png;
    png_infop info;
    char message[128];
    struct mpq_ctx *ctx;
    struct mpq_arena *arena;
    const uint8_t *at, *end;
    struct mpq_picture picture;
    uint8_t **row; /* [height] */
    enum mpq_status status;
};

_Noreturn static void on_error(png_structp png, png_const_charp message)
{
    struct decoder *decoder = png_get_error_ptr(png);
    snprintf(decoder->message, sizeof decoder->message, "%s", message);
    png_longjmp(png, 1);
}

/* Warnings are about colour profiles, text and the like, which are not used here. */
static void on_warning(png_structp png, png_const_charp message)
{
    (void)png;
    (void)message;
}

static void on_read(png_structp png, png_bytep to, size_t n)
{
    struct decoder *decoder = png_get_io_ptr(png);
    if (n > (size_t)(decoder->end - decoder->at))
        png_error(png, "the file ends early");
    memcpy(to, decoder->at, n);
    decoder->at += n;
}

/* Ask libpng for 8-bit gray or RGB, and for the room they take. */
static enum mpq_status start(struct decoder *decoder)
{
    png_structp png = decoder->png;
    png_set_user_limits(png, (png_uint_32)MPQ_LIMIT_PIXELS, (png_uint_32)MPQ_LIMIT_PIXELS);
    png_read_info(png, decoder->info);
    int color = png_get_color_type(png, decoder->info);
    if (color == PNG_COLOR_TYPE_PALETTE)
        png_set_palette_to_rgb(png);
    if (color == PNG_COLOR_TYPE_GRAY)
        png_set_expand_gray_1_2_4_to_8(png);
    png_set_strip_16(png);
    png_set_strip_alpha(png);
    png_set_interlace_handling(png);
    png_read_update_info(png, decoder->info);
    int64_t height = png_get_image_height(png, decoder->info);
    int64_t width = png_get_image_width(png, decoder->info);
    int64_t channels = color & PNG_COLOR_MASK_COLOR ? 3 : 1;
    struct mpq_picture *picture = &decoder->picture;
    MPQ_TRY(mpq_picture_alloc(decoder->ctx, decoder->arena, height, width, channels, picture));
    MPQ_ASSERT(png_get_rowbytes(png, decoder->info) == (size_t)(width * channels));
    decoder->row =
        mpq_arena_alloc(decoder->ctx, decoder->arena, (size_t)height, sizeof *decoder->row);
    if (!decoder->row)
        return MPQ_E_NOMEM;
    for (int64_t y = 0; y < height; y++)
        decoder->row[y] = picture->pixel + y * width * channels;
    return MPQ_OK;
}

static void decode(struct decoder *decoder)
{
    if (setjmp(png_jmpbuf(decoder->png))) {
        decoder->status =
            mpq_fail(decoder->ctx, MPQ_E_FORMAT, "is a damaged PNG picture: %s", decoder->message);
        return;
    }
    png_set_read_fn(decoder->png, decoder, on_read);
    decoder->status = start(decoder);
    if (decoder->status == MPQ_OK)
        png_read_image(decoder->png, decoder->row);
}

enum mpq_status mpq_picture_decode_png(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const uint8_t *bytes, size_t n_bytes,
                                       struct mpq_picture *out)
{
    struct decoder *decoder = mpq_arena_alloc(ctx, arena, 1, sizeof *decoder);
    if (!decoder)
        return MPQ_E_NOMEM;
    *decoder = (struct decoder){.ctx = ctx, .arena = arena, .at = bytes, .end = bytes + n_bytes};
    decoder->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, decoder, on_error, on_warning);
    if (decoder->png)
        decoder->info = png_create_info_struct(decoder->png);
    if (decoder->info)
        decode(decoder);
    else
        decoder->status = mpq_fail(ctx, MPQ_E_NOMEM, "out of memory");
    png_destroy_read_struct(&decoder->png, &decoder->info, NULL);
    if (decoder->status == MPQ_OK)
        *out = decoder->picture;
    return decoder->status;
}
