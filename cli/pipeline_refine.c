/* The pipeline's refine stage: the codes of the allocation found, fitted to it. */
#include <math.h>
#include <string.h>

#include "cli/crew.h"
#include "cli/pipeline.h"
#include "quantcore/base/thread.h"
#include "quantcore/supernet/round.h"
#include "quantcore/supernet/sensitivity.h"

enum { LEAST_SAMPLES = 32, MOST_SAMPLES = 512 };

/* Multiplications of a pass over the samples that refine an allocation. */
static const double round_macs = 5e10;

/* Positions of a convolution that count where only shares are measured. */
enum { SHARE_POSITIONS = 8192 };

/* Samples that give a layer four rows of inputs for each of its weights a channel: with fewer, its
 * second moments are those of the samples and not of the data. */
static double samples_for(const struct mpq_layer *layer)
{
    double inputs = (double)layer->n_param / (double)layer->n_channel;
    double rows = (double)layer->macs / (double)layer->n_param;
    return rows > 0 ? 4 * inputs / rows : 0;
}

/* The fewer, the more arithmetic a sample takes, `macs` in all, but as many as layers need, where
 * so many would do: each runs about once through both networks. A function of model and data alone,
 * so that a run repeats. */
static uint32_t n_sample(const struct mpq_pipeline *p, double macs)
{
    double n = macs / (double)mpq_pipeline_macs(p);
    n = n < LEAST_SAMPLES ? LEAST_SAMPLES : n > MOST_SAMPLES ? MOST_SAMPLES : n;
    for (uint32_t l = 0; l < p->layers.n_layer; l++) {
        double needed = samples_for(&p->layers.layer[l]);
        if (needed <= MOST_SAMPLES && needed > n)
            n = needed;
    }
    return n < p->tune.n ? (uint32_t)n : p->tune.n;
}

uint32_t mpq_pipeline_thread_batch(uint32_t batch)
{
    uint32_t n_thread = (uint32_t)mpq_thread_count();
    return (batch + n_thread - 1) / n_thread;
}

/* Networks in `scratch` that take the first n samples for tuning, both kinds one a thread: of few
 * samples each, all together of a batch. What is aimed at is the float network's answers, with
 * equalized channels where they are. */
static enum mpq_status make_source(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                   struct mpq_pipeline *p, const struct mpq_samples *samples,
                                   uint32_t n, struct mpq_moment_source *out)
{
    uint32_t batch = mpq_pipeline_thread_batch(p->batch), n_network = mpq_crew_size(batch, n);
    const struct mpq_exec_options plain = {0};
    const struct mpq_graph *graph = p->equalize.n_edge ? p->equal_run_graph : p->run_graph;
    struct mpq_network *fake = mpq_arena_alloc(ctx, scratch, n_network, sizeof *fake);
    struct mpq_network *in_float = mpq_arena_alloc(ctx, scratch, n_network, sizeof *in_float);
    if (!fake || !in_float)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_pipeline_room(ctx, p));
    for (uint32_t i = 0; i < n_network; i++) {
        MPQ_TRY(mpq_network_create(ctx, scratch, p->fake_graph, batch, &plain, &fake[i]));
        MPQ_TRY(mpq_network_create(ctx, scratch, graph, batch, &plain, &in_float[i]));
    }
    *out = (struct mpq_moment_source){.network = fake,
                                      .layer_node = p->layer_node,
                                      .float_network = in_float,
                                      .samples = samples,
                                      .sample = p->tune.sample,
                                      .n_sample = n,
                                      .max_bytes = p->memory.walk_bytes,
                                      .room = p->room,
                                      .n_network = n_network};
    return MPQ_OK;
}

enum mpq_status mpq_pipeline_round(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                   const struct mpq_supernet *family, const uint8_t *bits,
                                   struct mpq_supernet *net)
{
    const struct mpq_samples samples = mpq_pipeline_samples(&p->tune);
    struct mpq_moment_source source;
    MPQ_TRY(mpq_supernet_copy(ctx, p->arena, family, net));
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    enum mpq_status status =
        scratch ? make_source(ctx, scratch, p, &samples, n_sample(p, round_macs), &source)
                : MPQ_E_NOMEM;
    if (status == MPQ_OK)
        status = mpq_round_allocation(ctx, p->arena, net, &source, bits, 0, p->layers.n_layer);
    mpq_arena_free(scratch);
    return status;
}

/* ---- what refining leaves of each layer's loss ---- */

static enum mpq_status measure_share(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                     struct mpq_pipeline *p, uint32_t n)
{
    const struct mpq_samples samples = mpq_pipeline_samples(&p->tune);
    struct mpq_moment_source source;
    MPQ_TRY(make_source(ctx, scratch, p, &samples, n, &source));
    source.n_position = SHARE_POSITIONS;
    return mpq_refined_share(ctx, &p->evaluator, &source, p->act_quant, p->act.n_group,
                             p->sensitivity, p->refined_share);
}

enum mpq_status mpq_pipeline_refined_share(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    const double max_macs = 5e12; /* a minute or two */
    uint32_t n_layer = p->layers.n_layer, n = n_sample(p, 2.5e9);
    double macs =
        (double)n_layer * ((double)p->decide.n + 2 * (double)n) * (double)mpq_pipeline_macs(p);
    bool is_known = true;
    for (uint32_t l = 0; l < n_layer; l++)
        is_known = is_known && !isnan(p->refined_share[l]);
    if (is_known)
        return MPQ_OK;
    if (macs > max_macs) {
        for (uint32_t l = 0; l < n_layer; l++)
            p->refined_share[l] = 1;
        return MPQ_OK;
    }
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    enum mpq_status status = scratch ? measure_share(ctx, scratch, p, n) : MPQ_E_NOMEM;
    mpq_arena_free(scratch);
    mpq_room_clear(p->room);
    return status;
}

/* Allocations to refine, in that order. */
struct rivals {
    struct {
        uint8_t *bits; /* [n_layer + n_act] */
        uint64_t cost[MPQ_N_COST];
    } rival[3];
    int n;
};

/* The best by what refining leaves of the estimate. */
static enum mpq_status find_rival(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                  struct mpq_search_result *out)
{
    struct mpq_search_problem problem = p->problem;
    size_t n_entry = ((size_t)p->layers.n_layer + p->n_act) * MPQ_N_BITS;
    double *loss =
        mpq_arena_copy(ctx, p->arena, problem.sensitivity, n_entry * sizeof *problem.sensitivity);
    if (!loss)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_pipeline_refined_share(ctx, p));
    for (size_t i = 0; i < (size_t)p->layers.n_layer * MPQ_N_BITS; i++)
        loss[i] *= p->refined_share[i / MPQ_N_BITS];
    problem.sensitivity = loss;
    problem.score = NULL;
    return mpq_search(ctx, p->arena, &problem, out);
}

/* ---- refining ---- */

static bool has_narrow_layer(const struct mpq_pipeline *p, const uint8_t *bits)
{
    for (uint32_t l = 0; l < p->layers.n_layer; l++)
        if (bits[l] <= MPQ_REFINED_BITS)
            return true;
    return false;
}

static enum mpq_status evaluate(struct mpq_ctx *ctx, const struct mpq_pipeline *p,
                                const struct mpq_supernet *net, const uint8_t *bits,
                                double *out_sample_loss)
{
    struct mpq_evaluator evaluator;
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    enum mpq_status status =
        scratch ? mpq_pipeline_evaluator(ctx, scratch, p, &evaluator) : MPQ_E_NOMEM;
    if (status == MPQ_OK) {
        evaluator.net = net;
        status = mpq_evaluate_samples(ctx, &evaluator, bits, out_sample_loss);
    }
    mpq_arena_free(scratch);
    return status;
}

/* Refine the family for an allocation, and make both the result where it is better than what there
 * is: than what was found and is not refined, by more than the standard error of the difference. */
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
    MPQ_TRY(evaluate(ctx, p, &refined, bits, loss));
    double gain = mpq_search_mean(found->sample_loss, loss, p->decide.n, &error);
    mpq_log(ctx, MPQ_LOG_INFO, "rounding for an allocation of %llu bytes: loss %.5f to %.5f",
            (unsigned long long)cost[0], found->loss, found->loss - gain);
    if (!(gain > (p->refining_helped ? 0 : error)))
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

/* Unless there is nothing to refine in it, or it is among them. */
static void offer(const struct mpq_pipeline *p, uint8_t *bits, const uint64_t *cost,
                  struct rivals *r)
{
    bool is_new = has_narrow_layer(p, bits);
    for (int i = 0; i < r->n; i++)
        is_new = is_new && memcmp(r->rival[i].bits, bits, p->layers.n_layer + p->n_act) != 0;
    if (!is_new)
        return;
    r->rival[r->n].bits = bits;
    memcpy(r->rival[r->n++].cost, cost, sizeof r->rival->cost);
}

/* Whether refining takes next to nothing, as of a keyword spotter. */
static bool is_refining_cheap(const struct mpq_pipeline *p)
{
    return 2.0 * n_sample(p, round_macs) * (double)mpq_pipeline_macs(p) < 1e10;
}

/* A resumed run, which is to take seconds, refines what was evaluated: refined, it is the better of
 * the two for all but small networks, of which both are. Of what loses next to nothing, the best by
 * shares alone. */
static enum mpq_status choose_rivals(struct mpq_ctx *ctx, struct mpq_pipeline *p, struct rivals *r)
{
    const struct mpq_search_result *found = &p->found;
    struct mpq_search_result by_share;
    bool is_lossy = found->loss >= MPQ_TUNE_LOSS_FLOOR;
    if (is_lossy || !p->is_resumed || !found->estimated)
        offer(p, found->bits, found->cost, r);
    if (!found->estimated || (p->is_resumed && is_lossy && !is_refining_cheap(p)))
        return MPQ_OK;
    MPQ_TRY(find_rival(ctx, p, &by_share));
    if (!p->is_resumed)
        offer(p, found->estimated, found->estimated_cost, r);
    offer(p, by_share.bits, by_share.cost, r);
    return MPQ_OK;
}

enum mpq_status mpq_pipeline_refine(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    struct rivals rivals = {.n = 0};
    if (p->options->no_refine || p->options->baseline || !has_narrow_layer(p, p->bits))
        return MPQ_OK;
    const struct mpq_supernet family = p->net;
    MPQ_TRY(choose_rivals(ctx, p, &rivals));
    for (int i = 0; i < rivals.n; i++)
        MPQ_TRY(try_refined(ctx, p, &family, rivals.rival[i].bits, rivals.rival[i].cost));
    mpq_pipeline_set_activations(p, p->bits);
    bool specializes = p->n_step && !p->is_resumed && has_narrow_layer(p, p->bits);
    return specializes ? mpq_pipeline_specialize(ctx, p) : MPQ_OK;
}
