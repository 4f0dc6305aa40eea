/* Moments of layers one after the other, each under what has become of the layers before it: how
 * far the samples have run is kept, so that every node runs about once for all layers instead of
 * once for each. */
#ifndef MPQ_SUPERNET_MOMENT_WALK_H
#define MPQ_SUPERNET_MOMENT_WALK_H

#include "quantcore/supernet/moments.h"

/* What each batch still needs. Takes up to source->max_bytes. Networks mostly need less the further
 * they are, so more and more batches are kept; those that are not yet are left out, as first layers
 * see many positions of each sample, unless that left fewer than 64 samples. States stay where they
 * are where to run on from there takes less time than to move them. */
struct mpq_moment_walk {
    char *state; /* [n_kept, n_byte] of the network, then of the float network */
    size_t capacity;
    bool *is_kept;             /* [n_layer] whether they move up to that layer */
    size_t *most, *float_most; /* [n_layer] of a batch, for that layer or one behind it           */
    size_t n_byte, float_offset;  /* of a batch, as they are kept now                           */
    uint32_t n_kept;              /* batches                                                    */
    mpq_node_id node, float_node; /* before which the states are; 0: none yet                   */
};

/* Of layers from `first` on. */
enum mpq_status mpq_moment_walk_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const struct mpq_layer_table *layers,
                                       const struct mpq_moment_source *source, uint32_t first,
                                       struct mpq_moment_walk *out) MPQ_CHECKED;

/* Moments of layers [begin, end) under whatever weights the networks compute with now. walk: of
 * this source, whose earlier gathers began no later than now; weights changed since are of layers
 * from the last one's begin on. NULL: all nodes up to the last layer run. Several networks each run
 * batches of their own, and each gathers what these add by itself where such sums take no more than
 * a quarter of source->max_bytes. */
enum mpq_status mpq_moments_gather(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_layer_table *layers,
                                   const struct mpq_moment_source *source, uint32_t begin,
                                   uint32_t end, struct mpq_moment_walk *walk,
                                   struct mpq_moments *out) MPQ_CHECKED;

#endif
