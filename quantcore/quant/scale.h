/* How the channel scales of weights are stored. A scale is local: whichever of its neighbours it
 * becomes before weights are rounded to levels, the levels are fitted to it. So a file's scales
 * are bytes, steps of 2^(1/16), 2^(1/32) or 2^(1/64) over a window of 16, 8 or 4 octaves that ends
 * at the largest; 2.2, 1.1 or 0.5 % off at most. A file of few channels would spend on the nodes
 * that compute them (param.h of the exporter) what it saves, and one whose scales spread further
 * would lose weights: these have bfloat16.
 *
 * Form and steps follow from the float weights, so that a file has one size however its layers are
 * coded. */
#ifndef MPQ_QUANT_SCALE_H
#define MPQ_QUANT_SCALE_H

#include "quantcore/quant/layer.h"

#define MPQ_SCALE_WINDOW 256 /* steps */

/* A scale is 2^(step / steps + OFFSET), of an exponent that float has exactly. All these powers are
 * 0.039 of a last digit or more from where rounding tips, so a pow that is right to that has the
 * same in every runtime; without the offset some are 0.002 from there. And powers of two themselves
 * are no good scales: where a layer's output has the scale of its input, sums times such a scale
 * end in ties, which float and integer kernels break each its own way. */
#define MPQ_SCALE_OFFSET (17.0 / 2048)

/* Scales as the file will have them: to be taken before weights are rounded to levels. Idempotent;
 * what is not above 0 stays as it is. */
float mpq_scale_round(const struct mpq_layer *layer, float scale);

/* The step nearest to a scale > 0, and the scale of a step, the least of them a normal number.
 * steps: of an octave, 16, 32 or 64. */
int mpq_scale_step(int steps, float scale);
float mpq_scale_of_step(int steps, int step);

/* Set scale_steps of layers, all to the same. Bytes where the file gets smaller by them and the
 * window holds every channel that counts: those whose largest |w| is at least a 64th of the
 * layer's, since 8-bit activations tell few others from 0. Steps are the finest for which it does,
 * with an octave to spare, in which widths, rounding and learned scales move scales against each
 * other; 16 an octave where there are channels that do not count. A channel below
 * the window (batch norm leaves channels without weights) is rounded to levels in its least scale.
 * Layers have FLOAT weights. NOMEM only. */
enum mpq_status mpq_scale_choose(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const struct mpq_graph *graph, struct mpq_layer *layer,
                                 uint32_t n_layer) MPQ_CHECKED;

#endif
