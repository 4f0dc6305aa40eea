/* The pipeline's refine stage: the codes of the allocation found, fitted to it. */
#include <string.h>

#include "cli/pipeline.h"
#include "quantcore/supernet/round.h"

enum { LEAST_SAMPLES = 32, MOST_SAMPLES = 512 };

/* Samples that give a layer four rows of inputs for each of its weights a channel: with fewer, its
 * second moments are those of the samples and not of the data. */
static double samples_for(const struct mpq_layer *layer)
{
    double inputs = (double)layer->n_param / (double)layer->n_channel;
    double rows = (double)layer->macs / (double)layer->n_param;
    return rows > 0 ? 4 * inputs / rows : 0;
}

/* The fewer, the more arithmetic a sample takes, but as many as layers need, where so many would
 * do: each runs about once through both networks. A function of model and data alone, so that a run
 * repeats. */
static uint32_t n_sample(const struct mpq_pipeline *p)
{
    const double budget = 5e10;
    double n = budget / (double)mpq_pipeline_macs(p);
    n = n < LEAST_SAMPLES ? LEAST_SAMPLES : n > MOST_SAMPLES ? MOST_SAMPLES : n;
    for (uint32_t l = 0; l < p->layers.n_layer; l++) {
        double needed = samples_for(&p->layers.layer[l]);
        if (needed <= MOST_SAMPLES && needed > n)
            n = needed;
    }
    return n < p->tune.n ? (uint32_t)n : p->tune.n;
}

static enum mpq_status round_again(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                   struct mpq_network *float_network, const uint8_t *bits,
                                   struct mpq_supernet *net)
{
    const struct mpq_samples samples = mpq_pipeline_samples(&p->tune);
    const struct mpq_moment_source source = {.network = &p->fake_network,
                                             .layer_node = p->layer_node,
                                             .float_network = float_network,
                                             .samples = &samples,
                                             .sample = p->tune.sample,
                                             .n_sample = n_sample(p),
                                             .max_bytes = p->memory.walk_bytes};
    return mpq_round_allocation(ctx, p->arena, net, &source, bits);
}

enum mpq_status mpq_pipeline_round(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                   const struct mpq_supernet *family, const uint8_t *bits,
                                   struct mpq_supernet *net)
{
    struct mpq_network network;
    MPQ_TRY(mpq_supernet_copy(ctx, p->arena, family, net));
    if (!p->equalize.n_edge)
        return round_again(ctx, p, &p->float_network, bits, net);
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    bool *keep = scratch ? mpq_arena_alloc(ctx, scratch, p->graph->n_value, sizeof *keep) : NULL;
    enum mpq_status status = keep ? MPQ_OK : MPQ_E_NOMEM;
    for (uint32_t l = 0; keep && l < p->layers.n_layer; l++)
        if (p->layers.layer[l].x != MPQ_NO_VALUE)
            keep[p->layers.layer[l].x] = true;
    if (status == MPQ_OK)
        status = mpq_network_create(ctx, scratch, p->equal_run_graph, p->batch,
                                    &(struct mpq_exec_options){.keep = keep}, &network);
    if (status == MPQ_OK)
        status = round_again(ctx, p, &network, bits, net);
    mpq_arena_free(scratch);
    return status;
}

static bool has_narrow_layer(const struct mpq_pipeline *p, const uint8_t *bits)
{
    for (uint32_t l = 0; l < p->layers.n_layer; l++)
        if (bits[l] <= MPQ_REFINED_BITS)
            return true;
    return false;
}

/* Refine the family for an allocation, and make both the result where it is better than what
 * was found, by more than the standard error of the difference. */
static enum mpq_status try_refined(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                   const struct mpq_supernet *family, uint8_t *bits,
                                   const uint64_t *cost)
{
    struct mpq_search_result *found = &p->found;
    struct mpq_supernet refined;
    double *loss = mpq_arena_alloc(ctx, p->arena, p->decide.n, sizeof *loss), error;
    if (!loss)
        return MPQ_E_NOMEM;
    mpq_pipeline_set_activations(p, bits);
    MPQ_TRY(mpq_pipeline_round(ctx, p, family, bits, &refined));
    struct mpq_evaluator evaluator = p->evaluator;
    evaluator.net = &refined;
    MPQ_TRY(mpq_evaluate_samples(ctx, &evaluator, bits, loss));
    double gain = mpq_search_mean(found->sample_loss, loss, p->decide.n, &error);
    mpq_log(ctx, MPQ_LOG_INFO, "rounding for an allocation of %llu bytes: loss %.5f to %.5f",
            (unsigned long long)cost[0], found->loss, found->loss - gain);
    if (!(gain > error))
        return MPQ_OK;
    p->refining_helped = true;
    p->net = refined;
    p->evaluator.net = &p->net;
    found->loss -= gain;
    found->sample_loss = loss;
    if (bits == found->bits)
        return MPQ_OK;
    found->bits = p->bits = bits;
    memcpy(found->cost, cost, sizeof found->cost);
    found->estimate = mpq_search_estimate(&p->problem, bits);
    return MPQ_OK;
}

enum mpq_status mpq_pipeline_refine(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    uint8_t *estimated = p->found.estimated;
    if (p->options->no_refine || p->options->baseline)
        return MPQ_OK;
    const struct mpq_supernet family = p->net;
    if (has_narrow_layer(p, p->bits))
        MPQ_TRY(try_refined(ctx, p, &family, p->bits, p->found.cost));
    if (!p->is_resumed && estimated &&
        memcmp(estimated, p->bits, p->layers.n_layer + p->n_act) != 0 &&
        has_narrow_layer(p, estimated))
        MPQ_TRY(try_refined(ctx, p, &family, estimated, p->found.estimated_cost));
    mpq_pipeline_set_activations(p, p->bits);
    bool specializes = p->n_step && !p->is_resumed && has_narrow_layer(p, p->bits);
    return specializes ? mpq_pipeline_specialize(ctx, p) : MPQ_OK;
}
