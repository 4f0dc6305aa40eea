#include "cli/crew.h"

#include <math.h>

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
        .exec = mpq_arena_alloc(ctx, arena, n, sizeof(struct mpq_exec *)),
        .input = mpq_arena_alloc(ctx, arena, n, sizeof(struct mpq_tensor **)),
        .wanted = mpq_arena_alloc(ctx, arena, (size_t)n * batch, sizeof *out->wanted),
    };
    bool is_whole = out->network && out->exec && out->input && out->wanted;
    return is_whole ? MPQ_OK : MPQ_E_NOMEM;
}

static void join(struct mpq_crew *crew, uint32_t i)
{
    crew->exec[i] = crew->network[i].exec;
    crew->input[i] = crew->network[i].input;
}

enum mpq_status mpq_crew_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                const struct mpq_graph *graph, uint32_t batch, uint32_t n_sample,
                                const struct mpq_exec_options *options, struct mpq_crew *out)
{
    struct mpq_crew crew;
    MPQ_TRY(create(ctx, arena, mpq_crew_size(batch, n_sample), batch, &crew));
    for (uint32_t i = 0; i < crew.n; i++) {
        MPQ_TRY(mpq_network_create(ctx, arena, graph, batch, options, &crew.network[i]));
        join(&crew, i);
    }
    *out = crew;
    return MPQ_OK;
}

enum mpq_status mpq_crew_of(struct mpq_ctx *ctx, struct mpq_arena *arena,
                            const struct mpq_network *network, struct mpq_crew *out)
{
    struct mpq_crew crew;
    MPQ_TRY(create(ctx, arena, 1, network->batch, &crew));
    crew.network[0] = *network;
    join(&crew, 0);
    *out = crew;
    return MPQ_OK;
}

enum mpq_status mpq_crew_read(struct mpq_ctx *ctx, struct mpq_dataset *dataset,
                              const uint32_t *index, uint32_t n, uint32_t batch,
                              struct mpq_tensor *const *const *input, uint32_t *wanted,
                              uint32_t *out_n)
{
    uint32_t n_batch = count_batches(batch, n);
    for (uint32_t i = 0; i < n_batch * batch; i++)
        wanted[i] = index[i < n ? i : i / batch * batch];
    *out_n = n_batch;
    return mpq_dataset_read_parts(ctx, dataset, wanted, n_batch, batch, input);
}

struct stretch {
    struct mpq_exec *const *exec;
    mpq_node_id from, to;
};

static void run_stretch(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct stretch *stretch = arg;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        mpq_exec_forward(stretch->exec[i], stretch->from, stretch->to);
}

void mpq_crew_forward(struct mpq_exec *const *exec, uint32_t n, mpq_node_id from, mpq_node_id to)
{
    struct stretch stretch = {exec, from, to};
    mpq_gemm_parallel_for(n, 1, run_stretch, &stretch);
}

/* n samples, which all networks together take, from number `first` on, have been read. */
static enum mpq_status run_wave(struct mpq_ctx *ctx, struct mpq_crew *crew, uint32_t first,
                                uint32_t n, uint32_t n_batch, mpq_crew_fn *fn, void *arg)
{
    mpq_node_id from = 0, end = crew->network[0].graph->n_node;
    for (uint32_t i = 0; i <= crew->n_pause; i++) {
        mpq_node_id to = i < crew->n_pause ? crew->pause[i] : end;
        mpq_crew_forward(crew->exec, n_batch, from, to);
        for (uint32_t k = 0; k < n_batch; k++) {
            uint32_t at = k * crew->batch, left = n - at;
            struct mpq_crew_turn turn = {.network = &crew->network[k],
                                         .first = first + at,
                                         .n = left < crew->batch ? left : crew->batch,
                                         .from = from,
                                         .to = to};
            MPQ_TRY(fn(ctx, arg, &turn));
        }
        from = to;
    }
    return MPQ_OK;
}

enum mpq_status mpq_crew_run(struct mpq_ctx *ctx, struct mpq_crew *crew,
                             struct mpq_dataset *dataset, const uint32_t *sample, uint32_t first,
                             uint32_t n, const char *stage, mpq_crew_fn *fn, void *arg)
{
    uint32_t at_once = crew->n * crew->batch, n_batch;
    for (; first < n; first += at_once) {
        uint32_t n_here = n - first < at_once ? n - first : at_once;
        MPQ_TRY(mpq_step(ctx, stage, first, n, (double)NAN));
        MPQ_TRY(mpq_crew_read(ctx, dataset, sample + first, n_here, crew->batch,
                              (struct mpq_tensor *const *const *)crew->input, crew->wanted,
                              &n_batch));
        MPQ_TRY(run_wave(ctx, crew, first, n_here, n_batch, fn, arg));
    }
    return MPQ_OK;
}
