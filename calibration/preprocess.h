/* From a decoded picture (uint8) to what the model expects. */
#ifndef MPQ_CALIBRATION_PREPROCESS_H
#define MPQ_CALIBRATION_PREPROCESS_H

#include "calibration/picture.h"
#include "quantcore/ir/tensor.h"

/* y = (x * scale - mean[c]) / std[c], x in 0..255, c in the model's channel order.
 *
 *   imagenet     short side to 8/7 of the crop (256 for 224), centre crop, scale 1/255,
 *                mean .485 .456 .406, std .229 .224 .225
 *   imagenet-tf  the same geometry, scale 1/127.5, mean 1, std 1 (x in -1..1)
 *   unit         resized to the input, scale 1/255, mean 0, std 1
 *   raw          resized to the input, 0..255
 *
 * Geometry of a picture file, as Pillow and torchvision compute it:
 *
 *   resize != 0   1. the shorter side becomes `resize`, the longer floor(resize * long / short)
 *                 2. the crop starts at ((H - crop) / 2, (W - crop) / 2), halves rounded to even
 *                 3. resized to the input where a given `crop` is not the input's size
 *   resize == 0   resized to the input, each side on its own; no crop
 *
 * All resizing is mpq_picture_resize(). "The crop" of an input that is not square is H x W of the
 * input, and 8/7 refers to its longer side, so that any picture covers it. Pictures that come as an
 * array of the input's size are taken as they are; of another size, resized as with resize == 0:
 * whoever made the array has cropped already. */
struct mpq_preprocess {
    float scale, mean[4], std[4];
    int resize; /* short side before the crop; 0: the input's own size without keeping the aspect;
                   -1: 8/7 of the crop                                                        */
    int crop;   /* side of the centre crop; 0: the input's size                               */
    bool bgr;   /* channel order of the model                                                 */
    int n_mean, n_std; /* channels that were named; 0: any number                              */
};

/* USAGE, in a sentence that lists the presets, for an unknown name. */
enum mpq_status mpq_preprocess_preset(struct mpq_ctx *ctx, const char *name,
                                      struct mpq_preprocess *out) MPQ_CHECKED;

/* How an input holds a picture: [1,C,H,W] or [1,H,W,C] with C 1 (gray), 3 or 4; the former where
 * both fit. False for other shapes. */
struct mpq_picture_layout {
    int64_t height, width, channels;
    bool channels_last;
};
bool mpq_picture_layout_find(const struct mpq_shape *shape, struct mpq_picture_layout *out);

/* Unknown height and width of an input whose number of channels tells where they are. */
void mpq_picture_guess(int64_t height, int64_t width, struct mpq_shape *shape);

/* USAGE where mean or std is of other channels, and but for the geometry of arrays (`whole`) where
 * the crop does not fit into the resized picture or nothing is cropped. */
enum mpq_status mpq_preprocess_check(struct mpq_ctx *ctx, const struct mpq_preprocess *preprocess,
                                     const struct mpq_picture_layout *layout,
                                     bool whole) MPQ_CHECKED;

/* Channels and geometry: a picture of exactly the layout's channels and size, still bytes, still in
 * RGB order. `whole`: the geometry of arrays (above). May return `in` itself. */
enum mpq_status mpq_preprocess_fit(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_preprocess *preprocess,
                                   const struct mpq_picture_layout *layout, bool whole,
                                   const struct mpq_picture *in,
                                   struct mpq_picture *out) MPQ_CHECKED;

/* The formula at the top, tabulated: value[c][x]. */
struct mpq_pixel_table {
    float value[4][256];
};
void mpq_pixel_table_fill(const struct mpq_preprocess *preprocess, struct mpq_pixel_table *out);

/* Values and channel order: a fitted picture into y, a tensor of the layout's shape (or as many
 * elements) of any numeric type, integers rounded to nearest even and saturated. */
void mpq_preprocess_write(const struct mpq_preprocess *preprocess,
                          const struct mpq_pixel_table *table,
                          const struct mpq_picture_layout *layout, const struct mpq_picture *fitted,
                          struct mpq_tensor *y);

#endif
