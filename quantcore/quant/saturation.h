/* 8-bit kernels of x86 processors that have AVX2 or AVX-512 but no VNNI multiply unsigned
 * activations by signed weights in pairs, and add the two products in 16 bits with saturation
 * (vpmaddubsw). Whether that can clip follows from the weights alone, pair by pair.
 *
 * Which weights meet: ONNX Runtime's MLAS (QgemmU8X8KernelAvx2, ConvSymKernelAvx2, 1.17 to 1.32)
 * runs through the products of one output in the order position of the kernel, input channel, and
 * pairs neighbours, the first with the second, the third with the fourth. OpenVINO's oneDNN pairs
 * channels at one position, which is the same where their number is even. Convolutions of one
 * channel a group in and out have a kernel that adds in 32 bits. */
#ifndef MPQ_QUANT_SATURATION_H
#define MPQ_QUANT_SATURATION_H

#include "quantcore/quant/layer.h"

struct mpq_saturation {
    const struct mpq_layer *layer;
    int64_t n_position; /* positions of a convolution's kernel, kH * kW; 1 elsewhere      */
    int act_max;        /* the largest activation, 255 where it has 8 bits                */
};

/* Channels with a pair that can saturate: act_max * (|w1| + |w2|) > 32767, both of one sign. */
int64_t mpq_saturation_count(const struct mpq_saturation *s, const int8_t *q);

/* Give each such channel codes that cannot saturate, at the least squared error of the ways tried:
 * a scale up to so much coarser that all weights fit, and for each such scale the pairs that are
 * still too large moved to the nearest levels that are not; then the scale that fits those codes
 * best. Other channels stay as they are. code->q and code->scale are replaced by copies in `arena`
 * where there is anything to do. *out_repaired: how many channels. */
enum mpq_status mpq_saturation_repair(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      const struct mpq_saturation *s, struct mpq_layer_code *code,
                                      int64_t *out_repaired) MPQ_CHECKED;

#endif
