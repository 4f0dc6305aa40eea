/* Which random paths the supernet is tuned on: those that a search will choose from.
 *
 * Independent uniform widths for every layer (the paper) nearly always average to the middle and
 * put sensitive layers at widths no budget would give them; their broken outputs then dominate the
 * gradient that all widths share. Here a path is a point of the curve that gives up width where it
 * costs least a byte, taken at a uniformly drawn place between all widest and all narrowest, and
 * then disturbed: each layer moves one width up or down with probability 1/8 each. */
#ifndef MPQ_SUPERNET_SAMPLE_H
#define MPQ_SUPERNET_SAMPLE_H

#include "quantcore/supernet/supernet.h"

struct mpq_sampler {
    const struct mpq_supernet *net;
    uint32_t n_move;
    struct mpq_sampler_move {
        double price; /* loss added for each byte saved; moves ascend by it */
        uint32_t layer;
        uint8_t bits; /* the width the layer goes down to */
    } * move;
};

/* sensitivity [n_layer * MPQ_N_BITS]: loss with one layer at a width and the others at their widest
 * (see mpq_sensitivity); NaN where the width is no candidate. */
enum mpq_status mpq_sampler_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_supernet *net, const double *sensitivity,
                                   struct mpq_sampler *out) MPQ_CHECKED;

/* The first n_move of the moves taken from all widest, bits [n_layer]. */
void mpq_sampler_walk(const struct mpq_sampler *sampler, uint32_t n_move, uint8_t *bits);

/* Widths of random path `path` of a step, bits [n_layer]: a function of seed, step and path. A
 * frozen width is replaced by the next wider active one. */
void mpq_sampler_draw(const struct mpq_sampler *sampler, uint64_t seed, uint64_t step,
                      uint32_t path, uint8_t *bits);

#endif
