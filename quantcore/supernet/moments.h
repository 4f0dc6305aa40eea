/* Second moments of what layers multiply their weights with, gathered by running a network over
 * samples. */
#ifndef MPQ_SUPERNET_MOMENTS_H
#define MPQ_SUPERNET_MOMENTS_H

#include "quantcore/base/room.h"
#include "quantcore/quant/layer.h"
#include "quantcore/supernet/network.h"

/* Row r of X holds what the k weights of an output channel meet at one output position, and F what
 * they meet there in the float model. A convolution of G groups has G of each. By w, the float
 * weights of a group's channels, F w - X w is what X lacks of the float answers. */
struct mpq_moments {
    int64_t k, n_group, n_channel;
    mpq_real *gram;    /* [n_group, k, k] X^T X; NULL: the layer has no such rows, see below    */
    double *mean;      /* [n_group, k] sum of the rows of X                                     */
    mpq_real *lack;    /* [n_channel, k] ((F - X) w)^T X; NULL: not asked for                   */
    double *lack_mean; /* [n_channel] sum of the rows of (F - X) w                              */
    uint64_t n_row;
    mpq_real *w;      /* [n_channel, k] row by row                                             */
    mpq_real *cross;  /* [n_group, k, k] (F - X)^T X, which `lack` comes from at the end where that
                         is less work than (F - X) w; NULL: it is not                          */
    double *gap_mean; /* [n_group, k] sum of the rows of F - X, likewise */
};

/* Networks keep what layers read, unless layers are gathered one after the other that have just not
 * run. */
struct mpq_moment_source {
    struct mpq_network *network;       /* [n_network] the fake-quantized graph, see below        */
    const mpq_node_id *layer_node;     /* [n_layer] each layer's node in network->graph          */
    struct mpq_network *float_network; /* [n_network] the float graph; NULL: no F                */
    const struct mpq_samples *samples;
    const uint32_t *sample; /* [n_sample] */
    uint32_t n_sample;
    size_t max_bytes;   /* of states kept on a walk; 0: 1 GiB                                    */
    int64_t n_position; /* of a convolution, over all samples, that count; 0: 32768              */
    uint32_t n_network; /* which run batches at once, no more than threads; 0: one               */
    struct mpq_room *room; /* of the states of one walk after the other; NULL: in its arena      */
};

/* Room to gather rows in, for every thread. */
struct mpq_moment_room {
    mpq_real *x_row, *f_row; /* [threads][stride]; f_row NULL: no F */
    mpq_real *lack_row;      /* the same of (F - X) w               */
    size_t stride;
    int64_t *place; /* [threads][place_stride] of struct mpq_conv_rows */
    size_t place_stride;
    double *load; /* [threads] what each has to do of one batch */
    int *owner;   /* [n_layer] the thread that gathers it       */
};

/* What the moments of a layer take, with `lack` or without, and the room to gather them. */
size_t mpq_moments_bytes(const struct mpq_layer *layer, bool has_lack);

/* Moments of layers [begin, end), out[begin..end), for whoever runs the source's network; the rest
 * of `out` is left alone. Of a convolution 128 to 4096 positions of each sample count, about
 * source->n_position of all, or fewer where that gives 2048 rows for each of k. Convolutions and
 * products whose every input meets one weight of a channel have moments, unless a channel has more
 * than 4608 weights.
 *
 * Of no rows yet; */
enum mpq_status mpq_moments_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_layer_table *layers,
                                   const struct mpq_moment_source *source, uint32_t begin,
                                   uint32_t end, struct mpq_moments *out) MPQ_CHECKED;

/* the same, and room to gather in; */
enum mpq_status mpq_moments_begin(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_layer_table *layers,
                                  const struct mpq_moment_source *source, uint32_t begin,
                                  uint32_t end, struct mpq_moment_room *out_room,
                                  struct mpq_moments *out) MPQ_CHECKED;

/* what the first n samples of the batch add that the source's (first) network has just run,
 * source->n_sample in all. lane: of several callers at once, whose layers or moments differ, each
 * has its own, below the thread count; */
void mpq_moments_add(const struct mpq_layer_table *layers, const struct mpq_moment_source *source,
                     uint32_t begin, uint32_t end, uint32_t n, int lane,
                     const struct mpq_moment_room *room, struct mpq_moments *moments);

/* what others have of other samples; */
void mpq_moments_join(uint32_t begin, uint32_t end, const struct mpq_moments *other,
                      struct mpq_moments *moments);

/* and the end, without which gram and lack are not what they should be. */
void mpq_moments_end(uint32_t begin, uint32_t end, struct mpq_moments *moments);

#endif
