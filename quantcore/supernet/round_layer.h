/* Rounding to second order, one layer: the weights are rounded input after input, and what each
 * step leaves of the layer's answer is made up for by the inputs still to come (GPTQ, Frantar et
 * al. 2023, algorithm 1, after OBQ). Whole networks: round.h. */
#ifndef MPQ_SUPERNET_ROUND_LAYER_H
#define MPQ_SUPERNET_ROUND_LAYER_H

#include "quantcore/supernet/moments.h"
#include "quantcore/supernet/supernet.h"

/* The widths in `mask` of a layer of the supernet: width b's codes become those of the latent
 * weights plus offset[b] [n_param], which is written, and stay with net_layer; its channel scales
 * those near the ones it had with which the second-order error comes out least; its biases keep the
 * mean output that the float model has over the rows of F, or, without moments->lack, the width
 * had. upper [k, k] is room; `scratch` may be reset after it. */
enum mpq_status mpq_round_layer(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                const struct mpq_layer *layer, struct mpq_supernet_layer *net_layer,
                                mpq_bits_mask mask, const struct mpq_graph *graph,
                                const struct mpq_moments *moments, double *upper,
                                mpq_real *const *offset) MPQ_CHECKED;

/* Bytes that it takes besides the moments and the offsets, and on one thread: where a layer is
 * rounded by all of them, each of the others takes a part of as much. */
size_t mpq_round_bytes(const struct mpq_layer *layer);

#endif
