/* Work on samples that can fail and needs memory, on all threads. */
#ifndef MPQ_BASE_WORKERS_H
#define MPQ_BASE_WORKERS_H

#include "quantcore/base/arena.h"

/* fn(ctx, scratch, arg, i) for every i in 0..n. A worker must not touch its caller's ctx or arenas,
 * so each has its own; scratch is reset before every call. Of several failures that of the lowest i
 * is stored in the caller's ctx; calls after a failure may be left out. */
enum mpq_status mpq_workers_run(struct mpq_ctx *ctx, int64_t n,
                                enum mpq_status (*fn)(struct mpq_ctx *ctx,
                                                      struct mpq_arena *scratch, void *arg,
                                                      int64_t i),
                                void *arg) MPQ_CHECKED;

#endif
