#include "cli/crew.h"

#include <math.h>

#include "quantcore/base/relay.h"
#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/gemm.h"

static uint32_t count_batches(uint32_t batch, uint32_t n_sample)
{
    return (n_sample + batch - 1) / batch;
}

uint32_t mpq_crew_size(uint32_t batch, uint32_t n_sample)
{
    uint32_t n_batch = count_batches(batch, n_sample), n_thread = (uint32_t)mpq_thread_count();
    uint32_t n = n_batch < n_thread ? n_batch : n_thread;
    return n ? n : 1;
}

static enum mpq_status create(struct mpq_ctx *ctx, struct mpq_arena *arena, uint32_t n,
                              uint32_t batch, struct mpq_crew *out)
{
    *out = (struct mpq_crew){
        .n = n,
        .batch = batch,
        .network = mpq_arena_alloc(ctx, arena, n, sizeof *out->network),
        .wanted = mpq_arena_alloc(ctx, arena, (size_t)n * batch, sizeof *out->wanted),
    };
    return out->network && out->wanted ? MPQ_OK : MPQ_E_NOMEM;
}

enum mpq_status mpq_crew_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                const struct mpq_graph *graph, uint32_t batch, uint32_t n_sample,
                                const struct mpq_exec_options *options, struct mpq_crew *out)
{
    struct mpq_crew crew;
    MPQ_TRY(create(ctx, arena, mpq_crew_size(batch, n_sample), batch, &crew));
    for (uint32_t i = 0; i < crew.n; i++)
        MPQ_TRY(mpq_network_create(ctx, arena, graph, batch, options, &crew.network[i]));
    *out = crew;
    return MPQ_OK;
}

enum mpq_status mpq_crew_of(struct mpq_ctx *ctx, struct mpq_arena *arena,
                            const struct mpq_network *network, struct mpq_crew *out)
{
    struct mpq_crew crew;
    MPQ_TRY(create(ctx, arena, 1, network->batch, &crew));
    crew.network[0] = *network;
    *out = crew;
    return MPQ_OK;
}

enum mpq_status mpq_crew_read(struct mpq_ctx *ctx, struct mpq_dataset *dataset,
                              const uint32_t *index, uint32_t n, uint32_t batch,
                              struct mpq_tensor *const *input, uint32_t *wanted)
{
    for (uint32_t i = 0; i < batch; i++)
        wanted[i] = index[i < n ? i : 0];
    return mpq_dataset_read(ctx, dataset, wanted, batch, input);
}

/* Samples sample[first..n) on their way through the networks. */
struct run {
    struct mpq_crew *crew;
    struct mpq_dataset *dataset;
    const uint32_t *sample;
    uint32_t first, n;
    const char *stage;
    mpq_crew_fn *fn;
    void *arg;
};

/* Batch `piece` in stretch `step`. */
static struct mpq_crew_turn turn_of(const struct run *run, int64_t piece, int lane, uint32_t step)
{
    const struct mpq_crew *crew = run->crew;
    struct mpq_network *network = &crew->network[lane];
    uint32_t first = run->first + (uint32_t)piece * crew->batch, left = run->n - first;
    return (struct mpq_crew_turn){.network = network,
                                  .first = first,
                                  .n = left < crew->batch ? left : crew->batch,
                                  .from = step ? crew->pause[step - 1] : 0,
                                  .to = step < crew->n_pause ? crew->pause[step]
                                                             : network->graph->n_node,
                                  .lane = lane};
}

static enum mpq_status run_stretch(struct mpq_ctx *ctx, void *arg, int64_t piece, int lane,
                                   uint32_t step)
{
    const struct run *run = arg;
    const struct mpq_crew *crew = run->crew;
    struct mpq_crew_turn turn = turn_of(run, piece, lane, step);
    if (step == 0) {
        MPQ_TRY(mpq_step(ctx, run->stage, turn.first, run->n, (double)NAN));
        MPQ_TRY(mpq_crew_read(ctx, run->dataset, run->sample + turn.first, turn.n, crew->batch,
                              turn.network->input, crew->wanted + (uint32_t)lane * crew->batch));
    }
    mpq_exec_forward(turn.network->exec, turn.from, turn.to);
    return MPQ_OK;
}

static enum mpq_status look(struct mpq_ctx *ctx, void *arg, int64_t piece, int lane, uint32_t step)
{
    const struct run *run = arg;
    struct mpq_crew_turn turn = turn_of(run, piece, lane, step);
    return run->fn(ctx, run->arg, &turn);
}

enum mpq_status mpq_crew_run(struct mpq_ctx *ctx, struct mpq_crew *crew,
                             struct mpq_dataset *dataset, const uint32_t *sample, uint32_t first,
                             uint32_t n, const char *stage, mpq_crew_fn *fn, void *arg)
{
    struct run run = {crew, dataset, sample, first, n, stage, fn, arg};
    if (first >= n)
        return MPQ_OK;
    MPQ_TRY(mpq_dataset_prepare(ctx, dataset, sample + first, n - first));
    return mpq_relay_run(ctx, &(struct mpq_relay){.n = count_batches(crew->batch, n - first),
                                                  .n_lane = (int)crew->n,
                                                  .is_serial = !mpq_gemm_is_concurrent(),
                                                  .n_step = crew->n_pause + 1,
                                                  .behind = crew->behind,
                                                  .work = run_stretch,
                                                  .turn = look,
                                                  .arg = &run});
}
