/* Pictures as bytes, and the files they come in. What Pillow's Image.open() gives: the colours as
 * stored, no gamma, no colour profile, EXIF orientation ignored. `out` may be `in` throughout. */
#ifndef MPQ_CALIBRATION_PICTURE_H
#define MPQ_CALIBRATION_PICTURE_H

#include "quantcore/base/arena.h"

/* pixel [height, width, channels], rows without gaps; 1 channel: gray, 3: RGB, 4: RGB and alpha. */
struct mpq_picture {
    int64_t height, width, channels;
    uint8_t *pixel;
};

/* Room for a picture, its pixels zero. LIMIT beyond MPQ_LIMIT_PIXELS. */
enum mpq_status mpq_picture_alloc(struct mpq_ctx *ctx, struct mpq_arena *arena, int64_t height,
                                  int64_t width, int64_t channels,
                                  struct mpq_picture *out) MPQ_CHECKED;

/* The JPEG or PNG file at `path` at its full size. JPEG: gray stays gray, CMYK and YCCK become RGB
 * as in Pillow. PNG: palettes become RGB, 16 bits become 8 (the high byte), alpha and transparent
 * colours are dropped. IO, FORMAT (neither, or damaged), LIMIT; sentences begin with the path. */
enum mpq_status mpq_picture_read(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                                 struct mpq_picture *out) MPQ_CHECKED;

/* Decoders of picture_jpeg.c and picture_png.c; their sentences do not name the file. */
enum mpq_status mpq_picture_decode_jpeg(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                        const uint8_t *bytes, size_t n_bytes,
                                        struct mpq_picture *out) MPQ_CHECKED;
enum mpq_status mpq_picture_decode_png(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const uint8_t *bytes, size_t n_bytes,
                                       struct mpq_picture *out) MPQ_CHECKED;

/* The picture with another number of channels; `in` itself where it has that number. To gray by the
 * ITU-R 601 luma in the integer form of Pillow's convert('L'); gray to colour by repetition; a new
 * alpha is opaque, an old one is dropped. */
enum mpq_status mpq_picture_convert(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_picture *in, int64_t channels,
                                    struct mpq_picture *out) MPQ_CHECKED;

/* The part of height x width pixels that starts at (top, left) and lies inside `in`. */
enum mpq_status mpq_picture_crop(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const struct mpq_picture *in, int64_t top, int64_t left,
                                 int64_t height, int64_t width,
                                 struct mpq_picture *out) MPQ_CHECKED;

/* resize.c: the same bytes as Pillow's resize((width, height), BILINEAR) of each channel: a
 * triangle filter, widened by the scale where the picture shrinks, rows first, rounded to bytes
 * between the passes. `in` itself where it has that size. */
enum mpq_status mpq_picture_resize(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_picture *in, int64_t height, int64_t width,
                                   struct mpq_picture *out) MPQ_CHECKED;

#endif
