/* Offsets for buffers with lifetimes in one block of memory: a pure function of the intervals, so
 * that it is tested without any kernel. */
#ifndef MPQ_ENGINE_PLAN_H
#define MPQ_ENGINE_PLAN_H

#include "quantcore/base/arena.h"

struct mpq_plan_buffer {
    size_t bytes;
    uint32_t first, last; /* steps at which it is in use, both inclusive; first <= last */
    size_t offset;        /* out: multiple of 64 */
};

/* Place the buffers so that no two in use at the same step overlap. `buffer` is ordered by `first`
 * (ties as they come). Best fit among the gaps between live buffers: within a few percent of the
 * lower bound on the chains that networks are. */
enum mpq_status mpq_plan_place(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               struct mpq_plan_buffer *buffer, uint32_t n_buffer,
                               size_t *out_total) MPQ_CHECKED;

#endif
