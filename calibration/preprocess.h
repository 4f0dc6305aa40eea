/* From a decoded picture (uint8 RGB) to what the model expects. */
#ifndef MPQ_CALIBRATION_PREPROCESS_H
#define MPQ_CALIBRATION_PREPROCESS_H

#include "quantcore/ir/tensor.h"

/* y = (x * scale - mean[c]) / std[c], x in 0..255, c in the model's channel order.
 *
 *   imagenet     short side to 8/7 of the crop (256 for 224), centre crop, scale 1/255,
 *                mean .485 .456 .406, std .229 .224 .225
 *   imagenet-tf  the same geometry, scale 1/127.5, mean 1, std 1 (x in -1..1)
 *   unit         resized to the input, scale 1/255, mean 0, std 1
 *   raw          resized to the input, 0..255 */
struct mpq_preprocess {
    float scale, mean[4], std[4];
    int resize; /* short side before the crop; 0: the input's own size without keeping the aspect;
                   -1: 8/7 of the crop                                                        */
    int crop;   /* side of the centre crop; 0: the input's size                               */
    bool bgr;   /* channel order of the model                                                 */
};

/* FORMAT (a usage sentence that lists the presets) for an unknown name. */
enum mpq_status mpq_preprocess_preset(struct mpq_ctx *ctx, const char *name,
                                      struct mpq_preprocess *out) MPQ_CHECKED;

#endif
