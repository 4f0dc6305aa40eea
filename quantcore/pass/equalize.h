/* Channels of a layer's output brought to one range, so that a scale for all of them serves each:
 * output channel c of the layer is multiplied by a gain, and the weights that read it are divided
 * (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV
 * 2019, section 4.1; gains from what activations reach rather than from weights, since weights have
 * a scale a channel here). Between the two, Relu, pools, zero Pad and Concat of channels pass a
 * positive factor on, and so does Clip from 0 on where what the gain makes of the largest value is
 * within its upper bound. */
#ifndef MPQ_PASS_EQUALIZE_H
#define MPQ_PASS_EQUALIZE_H

#include "quantcore/pass/bind.h"
#include "quantcore/quant/layer.h"

/* A layer that reads an edge's channels as first, first + 1, ... of n_all. */
struct mpq_equal_reader {
    uint32_t layer;
    int64_t first, n_all;
};

struct mpq_equal_edge {
    uint32_t from; /* the layer whose outputs are scaled              */
    uint32_t n_to;
    const struct mpq_equal_reader *to; /* [n_to] all that reads them                      */
    uint32_t range;                    /* the same for edges whose channels are read together */
    bool is_bounded;                   /* by a Clip: no channel beyond the widest of `from`   */
    int axis;                          /* of the channels of the layer's y; -1: the last  */
    mpq_real *most;                    /* [n_channel of from] largest |y| seen            */
    mpq_real *gain;                    /* [n_channel of from] > 0, by mpq_equalize_gains() */
};

struct mpq_equalize {
    uint32_t n_edge;
    struct mpq_equal_edge *edge; /* by ascending `from` */
};

/* The edges of the graph; most is 0, gain 1. None where a graph inside an attribute of `whole`, the
 * graph and what is carried with it, could read weights and values by name. */
enum mpq_status mpq_equalize_find(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_graph *graph, const struct mpq_graph *whole,
                                  const struct mpq_binding *binding,
                                  const struct mpq_layer_table *layers,
                                  struct mpq_equalize *out) MPQ_CHECKED;

/* Take note of what y, the output of layer `from`, reaches. */
void mpq_equalize_see(struct mpq_equal_edge *edge, const struct mpq_tensor *y);

/* Choose the gains, of 1 to 16 and none beyond the widest channel of the edge's range: what new
 * inputs reach would meet a Clip, and a channel that gains more adds next to nothing to the error
 * anyway. Channels that only depthwise layers read all reach that range; of others, what
 * activations gain is weighed against what weights lose. */
enum mpq_status mpq_equalize_gains(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_graph *graph,
                                   const struct mpq_layer_table *layers,
                                   struct mpq_equalize *equalize) MPQ_CHECKED;

/* The edge from layer l; NULL: there is none. */
const struct mpq_equal_edge *mpq_equalize_edge(const struct mpq_equalize *equalize, uint32_t l);

/* Multiply y, the output of layer `from` in the float model, by the gains, in place. */
void mpq_equalize_scale(const struct mpq_equal_edge *edge, const struct mpq_tensor *y);

/* A copy of the graph with the gains in its weights and biases. */
enum mpq_status mpq_equalize_apply(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_graph *graph,
                                   const struct mpq_layer_table *layers,
                                   const struct mpq_equalize *equalize,
                                   struct mpq_graph **out) MPQ_CHECKED;

#endif
