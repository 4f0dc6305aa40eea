/* Constants that are no layer's weights, rounded as the file stores them. */
#include "cli/pipeline.h"
#include "quantcore/pass/round_constant.h"
#include "quantcore/supernet/leave_float.h"

/* What rounding may add to the outputs, in units of their variance: activations of 8 bits add a
 * hundred times as much, and rounding mostly a hundredth of this. */
#define MOST_NOISE 1e-5

enum { FEW = 4 };

/* What `rounded`, the same model with rounded constants, adds to its outputs for some of the
 * samples. One network at a time, in `run`. */
static enum mpq_status measure(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                               struct mpq_arena *run, const struct mpq_pipeline *p,
                               const struct mpq_graph *rounded, double *out_noise)
{
    struct mpq_network network;
    struct mpq_targets targets;
    struct mpq_samples samples = mpq_pipeline_samples(&p->tune);
    const struct mpq_exec_options plain = {0};
    uint32_t n = p->tune.n < FEW ? p->tune.n : FEW;
    MPQ_TRY(mpq_network_create(ctx, run, p->graph, 1, &plain, &network));
    MPQ_TRY(mpq_targets_create(ctx, scratch, &network, &samples, p->tune.sample, n, &targets));
    mpq_arena_reset(run);
    MPQ_TRY(mpq_network_create(ctx, run, rounded, 1, &plain, &network));
    return mpq_output_noise(ctx, &network, &samples, &targets, out_noise);
}

/* `rounded` is p->graph with them. */
static enum mpq_status use(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                           const struct mpq_rounding *rounding, const struct mpq_graph *rounded)
{
    struct mpq_graph *graph;
    p->rounded_graph = p->rounded_run_graph = rounded;
    if (p->run_graph != p->graph) {
        MPQ_TRY(mpq_rounding_apply(ctx, p->arena, p->run_graph, rounding, &graph));
        p->rounded_run_graph = graph;
    }
    MPQ_TRY(mpq_rounding_apply(ctx, p->arena, p->cut.whole, rounding, &graph));
    p->export_graph = graph;
    return MPQ_OK;
}

enum mpq_status mpq_pipeline_round_constants(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    struct mpq_rounding rounding;
    struct mpq_graph *rounded;
    double noise;
    p->rounded_graph = p->graph;
    p->rounded_run_graph = p->run_graph;
    if (!p->options->target->folds)
        return MPQ_OK;
    MPQ_TRY(mpq_rounding_find(ctx, p->arena, p->graph, &p->layers, false, &rounding));
    if (!rounding.n)
        return MPQ_OK;
    MPQ_TRY(mpq_rounding_apply(ctx, p->arena, p->graph, &rounding, &rounded));
    struct mpq_arena *scratch = mpq_arena_create(ctx), *run = mpq_arena_create(ctx);
    enum mpq_status status =
        scratch && run ? measure(ctx, scratch, run, p, rounded, &noise) : MPQ_E_NOMEM;
    mpq_arena_free(run);
    mpq_arena_free(scratch);
    MPQ_TRY(status);
    mpq_log(ctx, MPQ_LOG_INFO, "%u constants in 16 bits: %.3g of the outputs' variance%s",
            rounding.n, noise, noise <= MOST_NOISE ? "" : ", left as they are");
    return noise <= MOST_NOISE ? use(ctx, p, &rounding, rounded) : MPQ_OK;
}
