/* The only file that knows libjpeg. */
#include <setjmp.h>
#include <stdio.h>

#include <jerror.h>
#include <jpeglib.h>

#include "calibration/picture.h"

/* libjpeg reports errors by a callback that must not return; ours jumps back to decode(). All that
 * is used after the jump lives here and not in local variables, which a jump may undo. */
struct decoder {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr error;
    jmp_buf jump;
    char message[JMSG_LENGTH_MAX];
    struct mpq_ctx *ctx;
    struct mpq_arena *arena;
    struct mpq_picture picture;
    uint8_t *row; /* one decoded row, where it is not what the picture holds */
    enum mpq_status status;
};

_Noreturn static void on_error(j_common_ptr jpeg)
{
    struct decoder *decoder = jpeg->client_data;
    jpeg->err->format_message(jpeg, decoder->message);
    longjmp(decoder->jump, 1);
}

/* A file that ends early decodes to gray below the cut: no picture to calibrate with. Other
 * warnings (stray bytes between markers) leave the picture whole. */
static void on_message(j_common_ptr jpeg, int level)
{
    if (level < 0 && jpeg->err->msg_code == JWRN_JPEG_EOF)
        on_error(jpeg);
}

/* CMYK as Adobe writes it, inverted: what Pillow takes every four-channel JPEG for. */
static void row_from_cmyk(const uint8_t *cmyk, uint8_t *rgb, int64_t n)
{
    for (; n > 0; n--, cmyk += 4, rgb += 3)
        for (int c = 0; c < 3; c++) {
            uint32_t ink = 255u - cmyk[c], light = cmyk[3], product = ink * light + 128;
            product = (product + (product >> 8)) >> 8;
            rgb[c] = (uint8_t)(light - product);
        }
}

static enum mpq_status start(struct decoder *decoder)
{
    struct jpeg_decompress_struct *jpeg = &decoder->jpeg;
    jpeg_read_header(jpeg, TRUE);
    if (jpeg->num_components == 4)
        jpeg->out_color_space = JCS_CMYK;
    else
        jpeg->out_color_space = jpeg->num_components == 1 ? JCS_GRAYSCALE : JCS_RGB;
    int64_t channels = jpeg->num_components == 1 ? 1 : 3;
    MPQ_TRY(mpq_picture_alloc(decoder->ctx, decoder->arena, jpeg->image_height, jpeg->image_width,
                              channels, &decoder->picture));
    if (jpeg->num_components == 4) {
        decoder->row = mpq_arena_alloc(decoder->ctx, decoder->arena, jpeg->image_width, 4);
        if (!decoder->row)
            return MPQ_E_NOMEM;
    }
    jpeg_start_decompress(jpeg);
    return MPQ_OK;
}

static void read_rows(struct decoder *decoder)
{
    struct mpq_picture *picture = &decoder->picture;
    size_t row_bytes = (size_t)(picture->width * picture->channels);
    while (decoder->jpeg.output_scanline < decoder->jpeg.output_height) {
        uint8_t *to = picture->pixel + decoder->jpeg.output_scanline * row_bytes;
        JSAMPROW row = decoder->row ? decoder->row : to;
        jpeg_read_scanlines(&decoder->jpeg, &row, 1);
        if (decoder->row)
            row_from_cmyk(decoder->row, to, picture->width);
    }
}

/* No jpeg_finish_decompress(): the rows are there, and what follows them is not looked at. */
static void decode(struct decoder *decoder, const uint8_t *bytes, size_t n_bytes)
{
    if (setjmp(decoder->jump)) {
        decoder->status =
            mpq_fail(decoder->ctx, MPQ_E_FORMAT, "is a damaged JPEG picture: %s", decoder->message);
        return;
    }
    jpeg_create_decompress(&decoder->jpeg);
    jpeg_mem_src(&decoder->jpeg, bytes, (unsigned long)n_bytes);
    decoder->status = start(decoder);
    if (decoder->status == MPQ_OK)
        read_rows(decoder);
}

enum mpq_status mpq_picture_decode_jpeg(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                        const uint8_t *bytes, size_t n_bytes,
                                        struct mpq_picture *out)
{
    struct decoder *decoder = mpq_arena_alloc(ctx, arena, 1, sizeof *decoder);
    if (!decoder)
        return MPQ_E_NOMEM;
    decoder->ctx = ctx;
    decoder->arena = arena;
    decoder->jpeg.err = jpeg_std_error(&decoder->error);
    decoder->jpeg.client_data = decoder;
    decoder->error.error_exit = on_error;
    decoder->error.emit_message = on_message;
    decode(decoder, bytes, n_bytes);
    jpeg_destroy_decompress(&decoder->jpeg);
    if (decoder->status == MPQ_OK)
        *out = decoder->picture;
    return decoder->status;
}
