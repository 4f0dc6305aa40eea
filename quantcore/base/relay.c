#include "quantcore/base/relay.h"

#include <pthread.h>

#include "quantcore/base/arena.h"
#include "quantcore/base/thread.h"

struct lane {
    struct mpq_ctx own, *ctx;
    int64_t n_done; /* turns, as if all pieces up to the last it had were its own */
};

struct course {
    const struct mpq_relay *relay;
    struct lane *lane; /* [n_lane] */
    int64_t failed;    /* the first piece that has; n: none */
    pthread_mutex_t lock;
    pthread_cond_t has_moved;
};

/* Until it is the piece's turn; false where one before it has failed. */
static bool await(struct course *c, int64_t piece, uint32_t step)
{
    const struct mpq_relay *relay = c->relay;
    int64_t n_step = relay->n_step, behind = relay->behind ? relay->behind[step] : step;
    int64_t wanted = (piece - 1) * n_step + behind + 1;
    pthread_mutex_lock(&c->lock);
    while (piece > 0 && c->failed > piece && c->lane[(piece - 1) % relay->n_lane].n_done < wanted)
        pthread_cond_wait(&c->has_moved, &c->lock);
    bool goes_on = c->failed > piece;
    pthread_mutex_unlock(&c->lock);
    return goes_on;
}

static void pass_on(struct course *c, int64_t piece, uint32_t step, bool has_failed)
{
    const struct mpq_relay *relay = c->relay;
    pthread_mutex_lock(&c->lock);
    if (!has_failed)
        c->lane[piece % relay->n_lane].n_done = piece * relay->n_step + step + 1;
    else if (piece < c->failed)
        c->failed = piece;
    pthread_cond_broadcast(&c->has_moved);
    pthread_mutex_unlock(&c->lock);
}

/* False where the lane has to stop. */
static bool run_step(struct course *c, int64_t piece, int lane, uint32_t step)
{
    const struct mpq_relay *relay = c->relay;
    struct mpq_ctx *ctx = c->lane[lane].ctx;
    enum mpq_status status = relay->work(ctx, relay->arg, piece, lane, step);
    if (status == MPQ_OK) {
        if (!await(c, piece, step))
            return false;
        status = relay->turn(ctx, relay->arg, piece, lane, step);
    }
    pass_on(c, piece, step, status != MPQ_OK);
    return status == MPQ_OK;
}

static bool run_piece(struct course *c, int64_t piece, int lane)
{
    for (uint32_t step = 0; step < c->relay->n_step; step++)
        if (!run_step(c, piece, lane, step))
            return false;
    return true;
}

/* All lanes in one call, the pieces in their order, where there is but one thread for them. */
static void run_lanes(void *arg, int64_t begin, int64_t end, int thread)
{
    struct course *c = arg;
    int64_t n_lane = c->relay->n_lane, step = end - begin > 1 ? 1 : n_lane;
    (void)thread;
    for (int64_t piece = begin; piece < c->relay->n; piece += step)
        if (!run_piece(c, piece, (int)(piece % n_lane)))
            return;
}

static enum mpq_status make_lanes(struct mpq_ctx *ctx, struct mpq_arena *arena, struct course *c)
{
    size_t n_lane = (size_t)c->relay->n_lane;
    c->lane = mpq_arena_alloc(ctx, arena, n_lane, sizeof *c->lane);
    if (!c->lane)
        return MPQ_E_NOMEM;
    for (size_t i = 0; i < n_lane; i++) {
        struct lane *lane = &c->lane[i];
        mpq_ctx_init(&lane->own);
        lane->own.seed = ctx->seed;
        lane->ctx = i ? &lane->own : ctx;
    }
    return MPQ_OK;
}

/* The failure of the first piece, in place of that of another on the first lane. */
static enum mpq_status first_failure(struct mpq_ctx *ctx, const struct course *c)
{
    if (c->failed == c->relay->n)
        return MPQ_OK;
    const struct mpq_ctx *failed = c->lane[c->failed % c->relay->n_lane].ctx;
    if (failed == ctx)
        return ctx->status;
    mpq_ctx_clear(ctx);
    return mpq_fail(ctx, failed->status, "%s", failed->message);
}

enum mpq_status mpq_relay_run(struct mpq_ctx *ctx, const struct mpq_relay *relay)
{
    struct course c = {.relay = relay,
                       .failed = relay->n,
                       .lock = PTHREAD_MUTEX_INITIALIZER,
                       .has_moved = PTHREAD_COND_INITIALIZER};
    MPQ_ASSERT(relay->n_lane >= 1);
    MPQ_ASSERT(relay->is_serial || relay->n_lane <= mpq_thread_count());
    struct mpq_arena *arena = mpq_arena_create(ctx);
    if (!arena)
        return MPQ_E_NOMEM;
    enum mpq_status status = make_lanes(ctx, arena, &c);
    if (status == MPQ_OK) {
        if (relay->n_lane == 1 || relay->is_serial)
            run_lanes(&c, 0, relay->n_lane, 0);
        else
            mpq_parallel_for(relay->n_lane, 1, run_lanes, &c);
        status = first_failure(ctx, &c);
    }
    mpq_arena_free(arena);
    return status;
}
