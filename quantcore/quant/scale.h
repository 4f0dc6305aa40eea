/* How the channel scales of weights are stored. A scale is local: whichever of its neighbours it
 * becomes before weights are rounded to levels, the levels are fitted to it. So a file's scales
 * are bytes, steps of 2^(1/16) over a window of 15 to 16 octaves that ends at the largest; 2.2 %
 * off at most. A file of few channels would spend on the nodes that compute them (param.h of the
 * exporter) what it saves, and one whose scales spread further would lose weights: these have
 * bfloat16.
 *
 * Which of the two follows from the float weights, so that a file has one size however its layers
 * are coded. */
#ifndef MPQ_QUANT_SCALE_H
#define MPQ_QUANT_SCALE_H

#include "quantcore/quant/layer.h"

#define MPQ_SCALE_STEPS  16  /* of one octave                                               */
#define MPQ_SCALE_WINDOW 240 /* steps down from the largest scale that bytes reach, or more */

/* All scales from 2^(step / 16) to the next power become the one in their middle, 2^(1/32) above,
 * by a float product. Powers at sixteenths are 0.048 of a last digit or more from where rounding
 * tips, so all runtimes have the same. Powers of two themselves are no good scales: where a layer's
 * output has the scale of its input, sums times such a scale end in ties, which float and integer
 * kernels break each its own way. */
#define MPQ_SCALE_MIDDLE 0x1.059b0ep0f

/* Scales as the file will have them: to be taken before weights are rounded to levels. Idempotent;
 * what is not above 0 stays as it is. */
float mpq_scale_round(const struct mpq_layer *layer, float scale);

/* The step of a scale > 0, and the scale of a step, the least of them a normal number. */
int mpq_scale_step(float scale);
float mpq_scale_of_step(int step);

/* Set scale_form of layers, all to the same. Bytes where the file gets smaller by them and the
 * window holds every channel that counts: those whose largest |w| is at least a 64th of the
 * layer's, since 8-bit activations tell few others from 0. Widths and learned scales move scales by
 * less than the octave that is left for them. A channel below the window (batch norm leaves
 * channels without weights) is rounded to levels in its least scale. Layers have FLOAT weights.
 * NOMEM only. */
enum mpq_status mpq_scale_choose(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const struct mpq_graph *graph, struct mpq_layer *layer,
                                 uint32_t n_layer) MPQ_CHECKED;

#endif
