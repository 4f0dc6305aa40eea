#include "quantcore/supernet/round.h"

#include <math.h>

#include "quantcore/base/thread.h"
#include "quantcore/base/workers.h"
#include "quantcore/ops/kernel/gemm.h"
#include "quantcore/supernet/moment_walk.h"
#include "quantcore/supernet/round_layer.h"

/* Layers [begin, end) at work, one by one or dealt out to the threads. */
struct work {
    struct mpq_supernet *net;
    const struct mpq_graph *graph;
    const uint8_t *bits; /* [n_layer], NULL: all widths of each */
    const struct mpq_moments *moments;
    mpq_real *(*offset)[MPQ_N_BITS]; /* [n_layer] */
    uint32_t begin, end;
    int *owner; /* [n_layer] */
    int n_strand;
};

static mpq_bits_mask widths_of(const struct work *work, uint32_t l)
{
    if (!work->bits)
        return work->net->layer[l].candidates;
    return (mpq_bits_mask)(1u << work->bits[l]);
}

static bool is_of(const struct work *work, uint32_t l, int64_t strand)
{
    return work->moments[l].n_row && work->owner[l] % work->n_strand == strand;
}

/* The largest room for factors comes first, so that its pages serve all layers. */
static enum mpq_status round_own(struct mpq_ctx *ctx, struct mpq_arena *lasting,
                                 struct mpq_arena *scratch, const struct work *work, int64_t strand)
{
    size_t most = 0;
    for (uint32_t l = work->begin; l < work->end; l++)
        if (is_of(work, l, strand) && (size_t)work->moments[l].k > most)
            most = (size_t)work->moments[l].k;
    double *upper = mpq_arena_alloc(ctx, lasting, most * most, sizeof *upper);
    if (!upper)
        return MPQ_E_NOMEM;
    for (uint32_t l = work->begin; l < work->end; l++) {
        if (!is_of(work, l, strand))
            continue;
        MPQ_TRY(mpq_round_layer(ctx, scratch, &work->net->layers->layer[l], &work->net->layer[l],
                                widths_of(work, l), work->graph, &work->moments[l], upper,
                                work->offset[l]));
        mpq_arena_reset(scratch);
    }
    return MPQ_OK;
}

static enum mpq_status round_strand(struct mpq_ctx *ctx, struct mpq_arena *scratch, void *arg,
                                    int64_t strand)
{
    struct mpq_arena *lasting = mpq_arena_create(ctx);
    enum mpq_status status = lasting ? round_own(ctx, lasting, scratch, arg, strand) : MPQ_E_NOMEM;
    mpq_arena_free(lasting);
    return status;
}

/* What layer l takes: the factors of its k inputs, and sweeps over its channels. */
static double cost_of(const struct work *work, uint32_t l)
{
    double k = (double)work->moments[l].k, n_group = (double)work->moments[l].n_group;
    double n_sweep =
        (double)(__builtin_popcount(widths_of(work, l)) * work->net->layers->layer[l].n_channel);
    return work->moments[l].n_row ? k * k * k * n_group + n_sweep * k * k : 0;
}

static enum mpq_status alloc_offsets(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                     const struct work *work, uint32_t l)
{
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
        if (!(widths_of(work, l) >> b & 1))
            continue;
        work->offset[l][b] = mpq_arena_alloc(
            ctx, arena, (size_t)work->net->layers->layer[l].n_param, sizeof(mpq_real));
        if (!work->offset[l][b])
            return MPQ_E_NOMEM;
    }
    return MPQ_OK;
}

static enum mpq_status round_work(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  struct mpq_arena *scratch, struct work *work)
{
    size_t n_layer = work->net->layers->n_layer;
    double *load = mpq_arena_alloc(ctx, scratch, (size_t)mpq_thread_count(), sizeof *load);
    double *cost = mpq_arena_alloc(ctx, scratch, n_layer, sizeof *cost);
    work->owner = mpq_arena_alloc(ctx, scratch, n_layer, sizeof *work->owner);
    work->offset = mpq_arena_alloc(ctx, scratch, n_layer, sizeof *work->offset);
    if (!load || !cost || !work->owner || !work->offset)
        return MPQ_E_NOMEM;
    for (uint32_t l = work->begin; l < work->end; l++) {
        cost[l] = cost_of(work, l);
        if (work->moments[l].n_row)
            MPQ_TRY(alloc_offsets(ctx, arena, work, l));
    }
    mpq_thread_deal((int64_t)n_layer, cost, load, work->owner);
    bool is_dealt = work->end > work->begin + 1 && mpq_gemm_is_concurrent();
    work->n_strand = is_dealt ? mpq_thread_count() : 1;
    return mpq_workers_run(ctx, work->n_strand, round_strand, work);
}

/* Rounds layers [begin, end) by their moments; bits NULL: all widths of each. */
static enum mpq_status round_layers(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_supernet *net, const struct mpq_graph *graph,
                                    const uint8_t *bits, uint32_t begin, uint32_t end,
                                    const struct mpq_moments *moments)
{
    struct work work = {
        .net = net, .graph = graph, .bits = bits, .moments = moments, .begin = begin, .end = end};
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    enum mpq_status status = scratch ? round_work(ctx, arena, scratch, &work) : MPQ_E_NOMEM;
    mpq_arena_free(scratch);
    return status;
}

/* Rounds layers [begin, end), all of whose inputs are as they will be. */
static enum mpq_status round_range(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   struct mpq_arena *scratch, struct mpq_supernet *net,
                                   const struct mpq_moment_source *source, const uint8_t *bits,
                                   uint32_t begin, uint32_t end, struct mpq_moment_walk *walk,
                                   struct mpq_moments *moments)
{
    MPQ_TRY(mpq_moments_gather(ctx, scratch, net->layers, source, begin, end, walk, moments));
    return round_layers(ctx, arena, net, source->network->graph, bits, begin, end, moments);
}

/* The end of the layers from `begin` whose moments take no more than max_bytes; of one at least. */
static uint32_t end_of_batch(const struct mpq_layer_table *layers, uint32_t begin, size_t max_bytes)
{
    size_t bytes = mpq_moments_bytes(&layers->layer[begin], false);
    uint32_t end = begin + 1;
    for (; end < layers->n_layer; end++) {
        bytes += mpq_moments_bytes(&layers->layer[end], false);
        if (max_bytes && bytes > max_bytes)
            break;
    }
    return end;
}

enum mpq_status mpq_round_supernet(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   struct mpq_supernet *net, const struct mpq_moment_source *source)
{
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    uint32_t n_layer = net->layers->n_layer;
    for (uint32_t l = 0; l < n_layer; l++) {
        for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++)
            net->layer[l].width[b].offset = NULL;
        mpq_supernet_apply_layer(net, source->network->exec, l,
                                 mpq_bits_highest(net->layer[l].candidates));
    }
    enum mpq_status status = MPQ_OK;
    for (uint32_t begin = 0, end; begin < n_layer && status == MPQ_OK; begin = end) {
        end = end_of_batch(net->layers, begin, source->max_bytes);
        struct mpq_moments *moments = mpq_arena_alloc(ctx, scratch, n_layer, sizeof *moments);
        status = !moments ? MPQ_E_NOMEM
                          : round_range(ctx, arena, scratch, net, source, NULL, begin, end, NULL,
                                        moments);
        mpq_arena_reset(scratch);
    }
    mpq_arena_free(scratch);
    return status;
}

enum mpq_status mpq_round_from(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               struct mpq_supernet *net, const struct mpq_graph *graph,
                               const struct mpq_moments *moments)
{
    return round_layers(ctx, arena, net, graph, NULL, 0, net->layers->n_layer, moments);
}

/* The end of the run of layers from `begin`, at most `most`, that read the same input or belong to
 * one node: none of them changes what another sees. */
static uint32_t end_of_run(const struct mpq_layer_table *layers, uint32_t begin, uint32_t most)
{
    const struct mpq_layer *first = &layers->layer[begin];
    uint32_t end = begin + 1;
    while (end < most && (layers->layer[end].node == first->node ||
                          (first->x != MPQ_NO_VALUE && layers->layer[end].x == first->x)))
        end++;
    return end;
}

enum mpq_status mpq_round_allocation(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                     struct mpq_supernet *net,
                                     const struct mpq_moment_source *source, const uint8_t *bits,
                                     uint32_t first, uint32_t end)
{
    struct mpq_arena *whole = mpq_arena_create(ctx), *scratch = mpq_arena_create(ctx);
    struct mpq_moment_walk walk;
    uint32_t n_layer = net->layers->n_layer;
    enum mpq_status status =
        !whole || !scratch ? MPQ_E_NOMEM
                           : mpq_moment_walk_create(ctx, whole, net->layers, source, first, &walk);
    uint32_t n_network = source->n_network > 1 ? source->n_network : 1;
    for (uint32_t i = 0; i < n_network && status == MPQ_OK; i++)
        mpq_supernet_apply(net, source->network[i].exec, bits);
    for (uint32_t begin = first, next; begin < end && status == MPQ_OK; begin = next) {
        next = end_of_run(net->layers, begin, end);
        status = mpq_step(ctx, "round", begin, n_layer, (double)NAN);
        struct mpq_moments *moments = mpq_arena_alloc(ctx, scratch, n_layer, sizeof *moments);
        if (status == MPQ_OK)
            status = !moments ? MPQ_E_NOMEM
                              : round_range(ctx, arena, scratch, net, source, bits, begin, next,
                                            &walk, moments);
        for (uint32_t l = begin; l < next && status == MPQ_OK; l++)
            for (uint32_t i = 0; i < n_network; i++)
                mpq_supernet_apply_layer(net, source->network[i].exec, l, bits[l]);
        mpq_arena_reset(scratch);
    }
    mpq_arena_free(scratch);
    mpq_arena_free(whole);
    return status;
}
