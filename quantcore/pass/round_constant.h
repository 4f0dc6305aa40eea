/* Float constants that are no layer's weights rounded to float16, in which a file stores them at
 * half the size: biases, scales and shifts of normalization, slopes, positions.
 *
 * A constant is rounded only where eleven bits are as good as more: all that reads it multiplies or
 * divides by it what comes of some layer's output, which has errors of that size or larger anyway;
 * or adds it to that, as a layer's bias or before another layer. So shapes, exponents, positions
 * times frequencies, grids of pixels and the anchors of a detector keep their bits. Values beyond
 * float16, or so small that they would lose more, do too. */
#ifndef MPQ_PASS_ROUND_CONSTANT_H
#define MPQ_PASS_ROUND_CONSTANT_H

#include "quantcore/quant/layer.h"

/* Constants of fewer elements take next to nothing. */
#define MPQ_ROUNDED_FROM 17

struct mpq_rounding {
    uint32_t n, n_value;              /* constants rounded; values that the graph has      */
    const struct mpq_tensor **tensor; /* [n_value] the constant rounded; NULL: it stays    */
};

/* Constants that are exact in float16, and weights and biases of `layers`, are not rounded: n is 0
 * where nothing changes. None is where a graph inside an attribute of `graph` could read constants
 * by name.
 *
 * is_plain: also not what is added to something, or subtracted from it, that may be far smaller or
 * cancel it, as what a mean is subtracted from; so only what is added to products is. Else that is
 * for the caller to measure. */
enum mpq_status mpq_rounding_find(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_graph *graph,
                                  const struct mpq_layer_table *layers, bool is_plain,
                                  struct mpq_rounding *out) MPQ_CHECKED;

/* A copy of the graph that rounding was found for, or of one made from that, with constants
 * rounded. */
enum mpq_status mpq_rounding_apply(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_graph *graph,
                                   const struct mpq_rounding *rounding,
                                   struct mpq_graph **out) MPQ_CHECKED;

#endif
