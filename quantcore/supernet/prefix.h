/* Prefixes of evaluations: allocations that a search looks at one after the other mostly agree in
 * the widths of the first layers, so what the network computes up to the first that differs is kept
 * and not computed again. Results are the same to the last bit. */
#ifndef MPQ_SUPERNET_PREFIX_H
#define MPQ_SUPERNET_PREFIX_H

#include "quantcore/base/room.h"
#include "quantcore/supernet/network.h"

/* What is alive before `node` in each batch, under the widths of one allocation. */
struct mpq_prefix {
    mpq_node_id node;
    size_t n_byte; /* of a batch                                    */
    char *state;   /* [n_batch, n_byte]                             */
    uint8_t *bits; /* [n_unit] the allocation                       */
    bool is_kept;  /* there is one                                  */
    bool is_due;   /* the allocation that runs now takes its place  */
};

struct mpq_prefixes {
    uint32_t n_unit;    /* layers and groups of activations: what has a width          */
    mpq_node_id *first; /* [n_unit] the first node whose result depends on the width; n_node of the
                           graph: none                                                  */
    uint32_t n_prefix;
    struct mpq_prefix *prefix; /* [n_prefix], by node                                  */
    uint32_t from;             /* of the allocation that runs now; n_prefix: none      */
    uint8_t *last;             /* [n_unit] the allocation before                       */
    bool has_last;
};

/* For `network` over n_batch batches. Nodes are chosen among first [n_unit] such that the
 * multiplications that remain are least, as many as fit into max_bytes; that may be none. States
 * are in `room`. */
enum mpq_status mpq_prefixes_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_room *room, const struct mpq_network *network,
                                    uint32_t n_batch, uint32_t n_unit, const mpq_node_id *first,
                                    size_t max_bytes, struct mpq_prefixes *out) MPQ_CHECKED;

/* Around the batches of one allocation, bits [n_unit]. A prefix is taken where it agrees, and
 * replaced where it does not but the allocation before does: one that came up once may not again.
 */
void mpq_prefixes_begin(struct mpq_prefixes *prefixes, const uint8_t *bits);
void mpq_prefixes_end(struct mpq_prefixes *prefixes, const uint8_t *bits);

/* For one batch between the two: whether it begins at node 0, so that its samples must be loaded;
 * then all of it is run. */
bool mpq_prefixes_begins_anew(const struct mpq_prefixes *prefixes);
void mpq_prefixes_forward(const struct mpq_prefixes *prefixes, struct mpq_network *network,
                          uint32_t batch);

#endif
