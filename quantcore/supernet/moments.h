/* Second moments of what layers multiply their weights with, gathered by running a network over
 * samples. */
#ifndef MPQ_SUPERNET_MOMENTS_H
#define MPQ_SUPERNET_MOMENTS_H

#include "quantcore/quant/layer.h"
#include "quantcore/supernet/network.h"

/* Row r of X holds what the k weights of an output channel meet at one output position, and F what
 * they meet there in the float model. A convolution of G groups has G of each. */
struct mpq_moments {
    int64_t k, n_group;
    mpq_real *gram;     /* [n_group, k, k] X^T X; NULL: the layer has no such rows, see below    */
    double *mean;       /* [n_group, k] sum of the rows of X                                     */
    mpq_real *cross;    /* [n_group, k, k] (F - X)^T X; NULL: not asked for                      */
    double *float_mean; /* [n_group, k] sum of the rows of F                                     */
    uint64_t n_row;
};

struct mpq_moment_source {
    struct mpq_network *network;       /* the fake-quantized graph, keeping what layers read     */
    const mpq_node_id *layer_node;     /* [n_layer] each layer's node in network->graph          */
    struct mpq_network *float_network; /* the float graph, which keeps each layer's x; NULL: no F */
    const struct mpq_samples *samples;
    const uint32_t *sample; /* [n_sample] */
    uint32_t n_sample;
    size_t max_bytes;   /* of states kept on a walk; 0: 1 GiB                                    */
    int64_t n_position; /* of a convolution, over all samples, that count; 0: 32768              */
};

/* Room to gather rows in, for every thread. */
struct mpq_moment_room {
    mpq_real *x_row, *f_row; /* [threads][stride]; f_row NULL: no F */
    size_t stride;
    int64_t *place; /* [threads][place_stride] of struct mpq_conv_rows */
    size_t place_stride;
    double *load; /* [threads] what each has to do of one batch */
    int *owner;   /* [n_layer] the thread that gathers it       */
};

/* How far a source's samples have run, for layers that are gathered one after the other: what each
 * batch still needs is kept, so that every node runs about once for all layers instead of once for
 * each. Takes up to source->max_bytes. Networks mostly need less the further they are, so more and
 * more batches are kept; those that are not yet are left out, as first layers see many positions of
 * each sample, unless that left fewer than 64 samples. */
struct mpq_moment_walk {
    char *state; /* [n_kept, n_byte] of the network, then of the float network */
    size_t capacity;
    size_t *most, *float_most; /* [n_layer] of a batch, for that layer or one behind it           */
    size_t n_byte, float_offset;  /* of a batch, as they are kept now                           */
    uint32_t n_kept;              /* batches                                                    */
    mpq_node_id node, float_node; /* before which the states are; 0: none yet                   */
};

enum mpq_status mpq_moment_walk_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const struct mpq_layer_table *layers,
                                       const struct mpq_moment_source *source,
                                       struct mpq_moment_walk *out) MPQ_CHECKED;

/* What the moments of a layer take, and the room to gather them. */
size_t mpq_moments_bytes(const struct mpq_layer *layer, bool has_cross);

/* Moments of layers [begin, end), out[begin..end), under whatever weights the network computes with
 * now; the rest of `out` is left alone. walk: of this source, whose earlier gathers began no later
 * than now; weights changed since are of layers from the last one's begin on. NULL: all nodes up to
 * the last layer run. Of a convolution 128 to 4096 positions of each sample count, about
 * source->n_position of all. Convolutions and products whose every input meets one weight of a
 * channel have moments, unless a channel has more than 4608 weights. */
enum mpq_status mpq_moments_gather(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_layer_table *layers,
                                   const struct mpq_moment_source *source, uint32_t begin,
                                   uint32_t end, struct mpq_moment_walk *walk,
                                   struct mpq_moments *out) MPQ_CHECKED;

/* The same in pieces, for whoever runs the source's network anyway: moments of no rows; what the
 * first n samples of the batch add that it has just run, source->n_sample in all; and the end.
 * lane: of several callers at once, whose layers differ, each has its own, below the thread count.
 */
enum mpq_status mpq_moments_begin(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_layer_table *layers,
                                  const struct mpq_moment_source *source, uint32_t begin,
                                  uint32_t end, struct mpq_moment_room *out_room,
                                  struct mpq_moments *out) MPQ_CHECKED;
void mpq_moments_add(const struct mpq_layer_table *layers, const struct mpq_moment_source *source,
                     uint32_t begin, uint32_t end, uint32_t n, int lane,
                     const struct mpq_moment_room *room, struct mpq_moments *moments);
void mpq_moments_end(uint32_t begin, uint32_t end, struct mpq_moments *moments);

#endif
