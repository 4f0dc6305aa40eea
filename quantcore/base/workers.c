#include "quantcore/base/workers.h"

#include "quantcore/base/thread.h"

struct worker {
    struct mpq_ctx ctx;
    struct mpq_arena *scratch;
};

struct job {
    enum mpq_status (*fn)(struct mpq_ctx *ctx, struct mpq_arena *scratch, void *arg, int64_t i);
    void *arg;
    struct worker *worker; /* [threads] */
};

static void run_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    struct job *job = arg;
    struct worker *worker = &job->worker[thread];
    for (int64_t i = begin; i < end && worker->ctx.status == MPQ_OK; i++) {
        mpq_arena_reset(worker->scratch);
        /* The status is kept in the worker's ctx too. */
        if (job->fn(&worker->ctx, worker->scratch, job->arg, i) != MPQ_OK)
            return;
    }
}

/* Pieces are in the order of the threads, so the first worker that failed had the lowest i. */
static enum mpq_status first_failure(struct mpq_ctx *ctx, const struct worker *worker, int n)
{
    for (int t = 0; t < n; t++)
        if (worker[t].ctx.status != MPQ_OK)
            return mpq_fail(ctx, worker[t].ctx.status, "%s", worker[t].ctx.message);
    return MPQ_OK;
}

enum mpq_status mpq_workers_run(struct mpq_ctx *ctx, int64_t n,
                                enum mpq_status (*fn)(struct mpq_ctx *ctx,
                                                      struct mpq_arena *scratch, void *arg,
                                                      int64_t i),
                                void *arg)
{
    int n_thread = mpq_thread_count();
    struct mpq_arena *arena = mpq_arena_create(ctx);
    if (!arena)
        return MPQ_E_NOMEM;
    struct job job = {fn, arg, mpq_arena_alloc(ctx, arena, (size_t)n_thread, sizeof *job.worker)};
    enum mpq_status status = job.worker ? MPQ_OK : MPQ_E_NOMEM;
    int n_ready = 0;
    for (; status == MPQ_OK && n_ready < n_thread; n_ready++) {
        struct worker *worker = &job.worker[n_ready];
        mpq_ctx_init(&worker->ctx);
        worker->ctx.seed = ctx->seed;
        worker->scratch = mpq_arena_create(ctx);
        if (!worker->scratch)
            status = MPQ_E_NOMEM;
    }
    if (status == MPQ_OK) {
        mpq_parallel_for(n, 1, run_piece, &job);
        status = first_failure(ctx, job.worker, n_thread);
    }
    for (int t = 0; t < n_ready; t++)
        mpq_arena_free(job.worker[t].scratch);
    mpq_arena_free(arena);
    return status;
}
