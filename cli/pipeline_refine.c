/* The pipeline's refine stage: the codes of the allocation found, fitted to it. */
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

/* The fewer, the more arithmetic a sample takes and the more layers gather from it, but as many as
 * layers need, where so many would do; a resumed run is to take seconds, unless by the paper's
 * recipe, whose search takes minutes. A function of model and data alone, so that a run repeats. */
static uint32_t n_sample(const struct mpq_pipeline *p)
{
    double budget = p->is_resumed && !p->paper ? 3e11 : 1e12;
    double n = budget / ((double)mpq_pipeline_macs(p) * p->layers.n_layer);
    n = n < LEAST_SAMPLES ? LEAST_SAMPLES : n > MOST_SAMPLES ? MOST_SAMPLES : n;
    for (uint32_t l = 0; l < p->layers.n_layer; l++) {
        double needed = samples_for(&p->layers.layer[l]);
        if (needed <= MOST_SAMPLES && needed > n)
            n = needed;
    }
    return n < p->tune.n ? (uint32_t)n : p->tune.n;
}

static enum mpq_status round_again(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                   struct mpq_network *float_network, struct mpq_supernet *net)
{
    const struct mpq_samples samples = mpq_pipeline_samples(&p->tune);
    const struct mpq_moment_source source = {.network = &p->fake_network,
                                             .layer_node = p->layer_node,
                                             .float_network = float_network,
                                             .samples = &samples,
                                             .sample = p->tune.sample,
                                             .n_sample = n_sample(p),
                                             .max_bytes = p->memory.walk_bytes};
    return mpq_round_allocation(ctx, p->arena, net, &source, p->bits);
}

enum mpq_status mpq_pipeline_round(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                   struct mpq_supernet *net)
{
    struct mpq_network network;
    MPQ_TRY(mpq_supernet_copy(ctx, p->arena, &p->net, net));
    if (!p->equalize.n_edge)
        return round_again(ctx, p, &p->float_network, net);
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
        status = round_again(ctx, p, &network, net);
    mpq_arena_free(scratch);
    return status;
}

static bool has_narrow_layer(const struct mpq_pipeline *p)
{
    for (uint32_t l = 0; l < p->layers.n_layer; l++)
        if (p->bits[l] <= MPQ_REFINED_BITS)
            return true;
    return false;
}

enum mpq_status mpq_pipeline_refine(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    if (p->options->no_refine || p->options->baseline || !has_narrow_layer(p))
        return MPQ_OK;
    struct mpq_supernet refined;
    double *loss = mpq_arena_alloc(ctx, p->arena, p->decide.n, sizeof *loss), error;
    if (!loss)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_pipeline_round(ctx, p, &refined));
    struct mpq_evaluator evaluator = p->evaluator;
    evaluator.net = &refined;
    MPQ_TRY(mpq_evaluate_samples(ctx, &evaluator, p->bits, loss));
    double gain = mpq_search_mean(p->found.sample_loss, loss, p->decide.n, &error);
    mpq_log(ctx, MPQ_LOG_INFO, "rounding for the allocation: loss %.5f to %.5f", p->found.loss,
            p->found.loss - gain);
    p->refining_helped = gain > error;
    if (!p->refining_helped)
        return MPQ_OK;
    p->net = refined;
    p->evaluator.net = &p->net;
    p->found.loss -= gain;
    p->found.sample_loss = loss;
    return MPQ_OK;
}
