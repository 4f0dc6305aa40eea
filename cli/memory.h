/* What a run takes, stage by stage, and how --max-memory is kept: batches, recomputation and caches
 * chosen so that no stage takes more. A function of model, data and options alone, never of what is
 * measured on the way, so that a run repeats. */
#ifndef MPQ_CLI_MEMORY_H
#define MPQ_CLI_MEMORY_H

#include "quantcore/base/arena.h"

struct mpq_pipeline;

/* All 0 where there is no limit: everything is as fast as it can be. */
struct mpq_memory {
    uint32_t tune_batch;
    size_t tune_bytes;   /* of activations and gradients of a tuning step      */
    size_t gather_bytes; /* of second moments that are gathered together       */
    size_t walk_bytes;   /* of states that refining goes on from               */
    size_t cache_bytes;  /* of results that are kept to be used again          */
};

/* Before anything large is allocated: memory that is given back goes back to the system. */
void mpq_memory_return_early(void);

/* After that: small blocks come from a heap that stays, in huge pages where there are any, which
 * saves a short run half of its page faults. */
enum mpq_status mpq_memory_keep_heap(struct mpq_ctx *ctx) MPQ_CHECKED;

/* The program, and what is in `arena`. */
size_t mpq_memory_taken(const struct mpq_arena *arena);

/* With --max-memory: lower p->batch and fill p->memory so that all stages after this, from
 * calibration on, keep the limit; logs a line a stage. INFEASIBLE, naming the stage and the least
 * that would do, where they cannot. */
enum mpq_status mpq_memory_plan(struct mpq_ctx *ctx, struct mpq_pipeline *p) MPQ_CHECKED;

/* INFEASIBLE: the limit cannot be kept, `what` takes `least` with one sample at a time. */
enum mpq_status mpq_memory_fail(struct mpq_ctx *ctx, size_t limit, size_t least, const char *what);

/* `wanted` bytes for a cache, or what the plan leaves for it. */
size_t mpq_memory_cache(const struct mpq_pipeline *p, size_t wanted);

#endif
