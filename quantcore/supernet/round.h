/* Second-order rounding: each weight is rounded with regard to the errors already made in its
 * channel, so that the layer's output errs least on real inputs (OBQ and GPTQ: Frantar et al.,
 * "Optimal Brain Compression", NeurIPS 2022, and "GPTQ", ICLR 2023, algorithm 1), onto the levels
 * the supernet has for a width, times that of the scales near its own that serves the channel best.
 * No gradient, no training: seconds for all widths of a network. */
#ifndef MPQ_SUPERNET_ROUND_H
#define MPQ_SUPERNET_ROUND_H

#include "quantcore/supernet/moments.h"
#include "quantcore/supernet/supernet.h"

/* Offsets and channel scales (struct mpq_supernet_width; not of layers that keep their scales) of
 * every width of every layer, for the inputs that layers have with all widths at their widest; the
 * source has no float network. The biases follow, so that the mean of each output channel stays.
 * Memory for the codes comes from `arena`. Layers with more than 4608 inputs a weight channel get
 * none and round to the nearest, with the scales they have, as do groups whose moments cannot be
 * factorised. What a weight is rounded from, the offset keeps: corrected by the errors before it,
 * it lies nearest to the level it was given, so tuning can go on from there. Where the moments of
 * all layers take more than the source's max_bytes (0: no limit), the samples run once for each
 * few layers instead of once, to the same end. */
enum mpq_status mpq_round_supernet(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   struct mpq_supernet *net,
                                   const struct mpq_moment_source *source) MPQ_CHECKED;

/* The same from moments [n_layer] that are there already, of inputs like those. */
enum mpq_status mpq_round_from(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               struct mpq_supernet *net, const struct mpq_graph *graph,
                               const struct mpq_moments *moments) MPQ_CHECKED;

/* The same for layers [first, end) and the widths of one allocation, bits [n_layer], layer after
 * layer, each for the inputs that the layers before it give now and aimed at what the float model
 * answers to its own: errors of the layers before it are made good as far as its weights can. The
 * target of the sweep is the least-squares solution of struct mpq_moments (GPTAQ, Li et al., ICML
 * 2025, differs in solving for it column by column); biases bring the means to those of the float
 * model. Other widths stay. */
enum mpq_status mpq_round_allocation(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                     struct mpq_supernet *net,
                                     const struct mpq_moment_source *source, const uint8_t *bits,
                                     uint32_t first, uint32_t end) MPQ_CHECKED;

#endif
