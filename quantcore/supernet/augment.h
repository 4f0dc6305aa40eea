/* Pictures as training sees them: mirrored left to right at random and moved by a few pixels, what
 * leaves on one side mirrored in on the other. Values and sizes stay those of the input, so nothing
 * here knows how pictures became numbers. */
#ifndef MPQ_SUPERNET_AUGMENT_H
#define MPQ_SUPERNET_AUGMENT_H

#include "quantcore/ir/tensor.h"

struct mpq_augment {
    uint32_t input; /* of the graph: which holds the pictures */
    int64_t height, width, channels;
    bool channels_last; /* [n,H,W,C], else [n,C,H,W] */
    int64_t reach;      /* pixels that a picture moves at most, each way; < height and width */
    bool mirrors;       /* half of the pictures, left to right */
};

/* Change the n pictures of a float tensor, a function of seed and step; the n-th of a step is the
 * same whatever n. `scratch` takes one picture, height * width * channels. */
void mpq_augment(const struct mpq_augment *augment, uint64_t seed, uint64_t step, uint32_t n,
                 mpq_real *x, mpq_real *scratch);

#endif
