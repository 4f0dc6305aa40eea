/* The pipeline's calibrate stage: ranges of activations; channels brought to one range where that
 * makes the ranges serve better; activations left float where quantizing them costs most. */
#include <math.h>
#include <string.h>

#include "cli/checkpoint.h"
#include "cli/pipeline.h"
#include "cli/runner.h"
#include "quantcore/pass/pass.h"
#include "quantcore/supernet/leave_float.h"

/* Samples by which what activations lose is judged: as few as FIRST mostly say that it is next to
 * nothing. */
enum { FIRST = 4, FEW = 16, MAX_JUDGING = 256 };

/* Multiplications that a look at what one activation costs may take; by FIRST samples at least. */
static const double look_macs = 2e10;

/* A loss by activations that is next to nothing. */
#define LEAST_LOSS 1e-3

static void choose_ranges(struct mpq_pipeline *p)
{
    struct mpq_act_form target = p->options->target->act;
    int widest = MPQ_MAX_BITS;
    while (widest > MPQ_MIN_BITS && !p->act_by_width[widest])
        widest--;
    target.is_min_max = p->options->baseline == MPQ_BASELINE_rtn;
    target.cut_weight = p->cut_weight;
    mpq_observer_ranges(&p->observer, target, p->act_quant);
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++)
        if (p->act_by_width[b]) {
            struct mpq_act_form form = target;
            form.bits = b;
            form.cut_weight = b == widest ? p->cut_weight : 0;
            mpq_observer_ranges(&p->observer, form, p->act_by_width[b]);
            memcpy(p->act_quant, p->act_by_width[b], p->act.n_group * sizeof *p->act_quant);
        }
}

/* ---- equalizing ---- */

static enum mpq_status apply_gains(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                   const struct mpq_equalize *equalize)
{
    struct mpq_graph *graph;
    MPQ_TRY(mpq_equalize_apply(ctx, p->arena, p->rounded_graph, &p->layers, equalize, &graph));
    p->equal_graph = p->equal_run_graph = graph;
    if (p->run_graph == p->graph)
        return MPQ_OK;
    MPQ_TRY(mpq_equalize_apply(ctx, p->arena, p->rounded_run_graph, &p->layers, equalize, &graph));
    p->equal_run_graph = graph;
    return MPQ_OK;
}

/* ---- what activations cost ---- */

/* The float model's answers to some of the tune part, by which changes are judged. */
struct judge {
    struct mpq_samples samples;
    struct mpq_targets targets, few; /* the first samples of them */
    double *before, *after; /* [targets.n_sample] losses where activations alone are quantized */
};

/* The graph in which activations alone are quantized, as things stand. */
static enum mpq_status activation_graph(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                        const struct mpq_pipeline *p, struct mpq_graph **out)
{
    const struct mpq_graph *graph = p->equal_run_graph;
    mpq_node_id *node_of = mpq_arena_alloc(ctx, scratch, graph->n_node, sizeof *node_of);
    if (!node_of)
        return MPQ_E_NOMEM;
    return mpq_insert_fake_quant(ctx, scratch, graph, &p->act, p->act_quant, out, node_of);
}

static enum mpq_status quantize_activations(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                            const struct mpq_pipeline *p, struct mpq_network *out)
{
    struct mpq_graph *fake;
    MPQ_TRY(activation_graph(ctx, scratch, p, &fake));
    return mpq_network_create(ctx, scratch, fake, p->batch, &(struct mpq_exec_options){0}, out);
}

struct losses {
    const struct mpq_targets *targets;
    double *out; /* [targets->n_sample] */
};

static enum mpq_status take_loss(struct mpq_ctx *ctx, void *arg, const struct mpq_crew_turn *turn)
{
    const struct losses *losses = arg;
    (void)ctx;
    mpq_network_sample_loss(turn->network, losses->targets, turn->first, turn->n,
                            losses->out + turn->first);
    return MPQ_OK;
}

static enum mpq_status run_activations(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                       const struct mpq_pipeline *p, struct losses *losses)
{
    struct mpq_graph *fake;
    struct mpq_crew crew;
    const struct mpq_targets *targets = losses->targets;
    MPQ_TRY(activation_graph(ctx, scratch, p, &fake));
    MPQ_TRY(mpq_pipeline_crew(ctx, scratch, p, fake, p->batch, targets->n_sample,
                              &(struct mpq_exec_options){0}, &crew));
    return mpq_crew_run(ctx, &crew, p->tune.dataset, targets->sample, 0, targets->n_sample, "judge",
                        take_loss, losses);
}

/* Losses of samples by activations alone, out [targets.n_sample]. */
static enum mpq_status activation_losses(struct mpq_ctx *ctx, const struct mpq_pipeline *p,
                                         const struct judge *judge, double *out)
{
    struct losses losses = {&judge->targets, out};
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    enum mpq_status status = scratch ? run_activations(ctx, scratch, p, &losses) : MPQ_E_NOMEM;
    mpq_arena_free(scratch);
    return status;
}

/* Of up to n samples, with the losses before anything is changed; `known`: their targets, or NULL.
 */
static enum mpq_status make_judge(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                  const struct mpq_pipeline *p, uint32_t n,
                                  const struct mpq_targets *known, struct judge *out)
{
    struct mpq_network network;
    n = p->tune.n < n ? p->tune.n : n;
    *out = (struct judge){
        .samples = mpq_pipeline_samples(&p->tune),
        .before = mpq_arena_alloc(ctx, scratch, n, sizeof *out->before),
        .after = mpq_arena_alloc(ctx, scratch, n, sizeof *out->after),
    };
    if (!out->before || !out->after)
        return MPQ_E_NOMEM;
    if (known)
        out->targets = *known;
    else {
        MPQ_TRY(mpq_network_create(ctx, scratch, p->run_graph, p->batch,
                                   &(struct mpq_exec_options){0}, &network));
        MPQ_TRY(mpq_targets_create(ctx, scratch, &network, &out->samples, p->tune.sample, n,
                                   &out->targets));
    }
    out->few = out->targets;
    double affordable = fmax(look_macs / (double)mpq_pipeline_macs(p), FIRST);
    out->few.n_sample = n < FEW ? n : FEW;
    if (affordable < out->few.n_sample)
        out->few.n_sample = (uint32_t)affordable;
    return activation_losses(ctx, p, out, out->before);
}

/* Before whatever is tried next. */
static double mean_loss(const struct judge *judge, double *out_error)
{
    return mpq_search_mean(judge->before, NULL, judge->targets.n_sample, out_error);
}

/* Of what is tried, as things stand. */
static enum mpq_status loss_after(struct mpq_ctx *ctx, const struct mpq_pipeline *p,
                                  struct judge *judge, double *out)
{
    double error;
    MPQ_TRY(activation_losses(ctx, p, judge, judge->after));
    *out = mpq_search_mean(judge->after, NULL, judge->targets.n_sample, &error);
    return MPQ_OK;
}

/* What was tried is kept. */
static void keep(struct judge *judge)
{
    memcpy(judge->before, judge->after, judge->targets.n_sample * sizeof *judge->before);
}

/* Equalize and look again; back to where it was unless activations serve better by more than the
 * standard error. */
static enum mpq_status equalize(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                struct mpq_arena *scratch, struct judge *judge,
                                struct mpq_equalize *gains)
{
    struct mpq_observer observer = p->observer;
    struct mpq_moments *moments = p->moments;
    const struct mpq_graph *moments_of = p->moments_of;
    double error, before = mean_loss(judge, &error), after;
    MPQ_TRY(mpq_equalize_gains(ctx, scratch, p->graph, &p->layers, gains));
    MPQ_TRY(apply_gains(ctx, p, gains));
    MPQ_TRY(mpq_pipeline_observe(ctx, p, p->equal_run_graph, NULL, 0, NULL, NULL));
    choose_ranges(p);
    MPQ_TRY(loss_after(ctx, p, judge, &after));
    double gain = mpq_search_mean(judge->before, judge->after, judge->targets.n_sample, &error);
    mpq_log(ctx, MPQ_LOG_INFO, "equalized channels: loss by activations alone %.5f to %.5f%s",
            before, after, gain > error ? "" : ", left out");
    if (gain > error) {
        p->equalize = *gains;
        keep(judge);
        return MPQ_OK;
    }
    p->equal_graph = p->rounded_graph;
    p->equal_run_graph = p->rounded_run_graph;
    p->observer = observer;
    p->moments = moments;
    p->moments_of = moments_of;
    choose_ranges(p);
    return MPQ_OK;
}

/* ---- leaving activations float ---- */

static enum mpq_status alloc_activations(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    size_t n_width = 0;
    p->act_quant = mpq_arena_alloc(ctx, p->arena, p->act.n_group, sizeof *p->act_quant);
    if (!p->act_quant)
        return MPQ_E_NOMEM;
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
        if (!p->options->act_bits[b])
            continue;
        n_width++;
        p->act_by_width[b] = mpq_arena_alloc(ctx, p->arena, p->act.n_group, sizeof *p->act_quant);
        if (!p->act_by_width[b])
            return MPQ_E_NOMEM;
    }
    p->n_act = n_width > 1 ? p->act.n_group : 0;
    return MPQ_OK;
}

/* Plan the activations anew, with those values left float. The layer table becomes another. */
static enum mpq_status bar_values(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                  const bool *stays_float)
{
    struct mpq_act_rules rules = {.stays_float = stays_float};
    uint32_t n_layer = p->layers.n_layer;
    double macs = 0, all = 0;
    const struct mpq_layer *before = p->layers.layer;
    struct mpq_layer *layer = mpq_arena_copy(ctx, p->arena, before, n_layer * sizeof *layer);
    if (!layer)
        return MPQ_E_NOMEM;
    p->layers.layer = layer;
    mpq_layers_leave_float(p->graph, rules, &p->layers);
    p->n_left_float = 0;
    for (uint32_t l = 0; l < n_layer; l++) {
        bool is_left = layer[l].is_weight_only && !before[l].is_weight_only;
        p->n_left_float += is_left;
        macs += is_left ? (double)layer[l].macs : 0;
        all += (double)layer[l].macs;
    }
    p->left_float_macs = all > 0 ? macs / all : 0;
    MPQ_TRY(mpq_act_plan_build(ctx, p->arena, p->graph, &p->binding, &p->layers, rules, &p->act));
    return alloc_activations(ctx, p);
}

/* Not where the target has no floats, where the price of activations is limited or narrower ones
 * are asked for, or where the file is meant to be as other tools make it. */
static bool may_leave_float(const struct mpq_options *options)
{
    const struct mpq_bitops *bitops = &options->bitops;
    bool is_limited =
        bitops->number > 0 || bitops->share > 0 || bitops->weight_bits || options->max_latency > 0;
    for (int b = MPQ_MIN_BITS; b < MPQ_MAX_BITS; b++)
        is_limited |= options->act_bits[b];
    return options->float_macs > 0 && !options->target->is_closed && !options->baseline &&
           !is_limited;
}

/* out_stays_float[order] [n_value] of p->graph. */
static enum mpq_status choose_float(struct mpq_ctx *ctx, const struct mpq_pipeline *p,
                                    struct mpq_arena *scratch, const struct judge *judge,
                                    bool *const out_stays_float[MPQ_N_FLOAT_ORDER])
{
    struct mpq_network network;
    struct mpq_leave_float problem = {.graph = p->graph,
                                      .binding = &p->binding,
                                      .layers = &p->layers,
                                      .plan = &p->act,
                                      .max_macs = p->options->float_macs,
                                      .min_share = MPQ_LEAVE_FLOAT_SHARE,
                                      .network = &network,
                                      .act_quant = p->act_quant,
                                      .samples = &judge->samples,
                                      .targets = &judge->few};
    MPQ_TRY(quantize_activations(ctx, scratch, p, &network));
    return mpq_leave_float(ctx, scratch, &problem, out_stays_float);
}

/* Leave those values float and calibrate the rest anew; back to where it was if that is worse. */
static enum mpq_status try_float(struct mpq_ctx *ctx, struct mpq_pipeline *p, struct judge *judge,
                                 const struct mpq_pipeline *before, const bool *stays_float)
{
    const struct mpq_pipeline best = *p;
    double error, least = mean_loss(judge, &error), loss;
    *p = *before;
    MPQ_TRY(bar_values(ctx, p, stays_float));
    if (p->act.n_group && p->n_left_float) {
        MPQ_TRY(mpq_pipeline_observe(ctx, p, p->equal_run_graph, NULL, 0, NULL, NULL));
        choose_ranges(p);
        MPQ_TRY(loss_after(ctx, p, judge, &loss));
        mpq_log(ctx, MPQ_LOG_INFO,
                "%u layers with %.1f %% of the multiplications in float: loss by activations alone "
                "%.5f to %.5f%s",
                p->n_left_float, 100 * p->left_float_macs, least, loss,
                loss < least ? "" : ", left out");
        if (loss < least) {
            keep(judge);
            return MPQ_OK;
        }
    }
    *p = best;
    return MPQ_OK;
}

/* Leave float what costs most, in whichever order that serves best. */
static enum mpq_status leave_float(struct mpq_ctx *ctx, struct mpq_pipeline *p, struct judge *judge)
{
    const struct mpq_pipeline before = *p;
    size_t bytes = p->graph->n_value * sizeof(bool);
    bool *stays_float[MPQ_N_FLOAT_ORDER];
    for (int i = 0; i < MPQ_N_FLOAT_ORDER; i++) {
        stays_float[i] = mpq_arena_alloc(ctx, p->arena, p->graph->n_value, sizeof(bool));
        if (!stays_float[i])
            return MPQ_E_NOMEM;
    }
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    enum mpq_status status =
        scratch ? choose_float(ctx, p, scratch, judge, stays_float) : MPQ_E_NOMEM;
    mpq_arena_free(scratch);
    MPQ_TRY(status);
    for (int i = 0; i < MPQ_N_FLOAT_ORDER; i++)
        if (i == 0 || memcmp(stays_float[i], stays_float[0], bytes) != 0)
            MPQ_TRY(try_float(ctx, p, judge, &before, stays_float[i]));
    return MPQ_OK;
}

/* ---- what is cut off ---- */

/* What is cut off counts more, as long as activations serve better by it: the price is the same.
 * Errors of rounding are independent and make up for each other in the sums that products and pools
 * take; what is cut off has one sign, and comes where neighbours and other channels are cut off
 * too. */
static enum mpq_status weigh_cuts(struct mpq_ctx *ctx, struct mpq_pipeline *p, struct judge *judge)
{
    const double factor = 4, most = 16;
    for (double cut = factor; cut <= most; cut *= factor) {
        double error, before = mean_loss(judge, &error), after, kept = p->cut_weight;
        p->cut_weight = cut;
        choose_ranges(p);
        MPQ_TRY(loss_after(ctx, p, judge, &after));
        mpq_log(ctx, MPQ_LOG_INFO,
                "what ranges cut off counts %g times: loss by activations alone %.5f to %.5f%s",
                cut, before, after, after < before ? "" : ", left out");
        if (!(after < before)) {
            p->cut_weight = kept;
            choose_ranges(p);
            return MPQ_OK;
        }
        keep(judge);
    }
    return MPQ_OK;
}

/* The loss by activations from which on something is done about it; more where runs of the network
 * are what takes the time and no effort is asked for. */
static double least_loss(const struct mpq_pipeline *p)
{
    bool is_cheap = mpq_pipeline_affordable(p) > MPQ_LEAST_OBSERVED;
    return is_cheap || p->options->effort != MPQ_EFFORT_NONE ? LEAST_LOSS : MPQ_TUNE_LOSS_FLOOR;
}

/* More samples judge from now on, and much more of them ranges are taken from if what is lost is
 * not little. */
static enum mpq_status judge_by_more(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                     struct mpq_arena *scratch, struct mpq_equalize *gains,
                                     struct judge *judge)
{
    uint32_t n = mpq_pipeline_observed(p);
    double error, loss = mean_loss(judge, &error);
    p->observes_more = judge->targets.n_sample == 1 || loss + 3 * error >= MPQ_TUNE_LOSS_FLOOR;
    if (mpq_pipeline_observed(p) > n) {
        MPQ_TRY(mpq_pipeline_observe(ctx, p, p->run_graph, gains, 0, NULL, NULL));
        choose_ranges(p);
    }
    n = mpq_pipeline_observed(p);
    return n > FEW ? make_judge(ctx, scratch, p, n < MAX_JUDGING ? n : MAX_JUDGING, NULL, judge)
                   : MPQ_OK;
}

/* What can be done about what activations lose. Weights of few bits may lose more by equalizing
 * than activations gain that lose little, and floats have their price. A few samples mostly say
 * that nothing is lost. */
static enum mpq_status improve(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                               struct mpq_arena *scratch, const struct mpq_targets *few,
                               struct mpq_equalize *gains)
{
    struct judge judge;
    double error, least = least_loss(p);
    bool are_wide = mpq_bits_lowest(p->candidates) > MPQ_REFINED_BITS;
    for (uint32_t n = least < MPQ_TUNE_LOSS_FLOOR ? FEW : FIRST;; n = FEW) {
        struct mpq_targets known = *few;
        known.n_sample = n < few->n_sample ? n : few->n_sample;
        MPQ_TRY(make_judge(ctx, scratch, p, known.n_sample, &known, &judge));
        double loss = mean_loss(&judge, &error);
        mpq_log(ctx, MPQ_LOG_INFO, "loss by activations alone %.5f +- %.5f on %u samples", loss,
                error, known.n_sample);
        if (known.n_sample > 1 && loss + 3 * error < least)
            return MPQ_OK;
        if (known.n_sample == few->n_sample)
            break;
    }
    MPQ_TRY(judge_by_more(ctx, p, scratch, gains, &judge));
    if (gains->n_edge && mean_loss(&judge, &error) >= (are_wide ? least : MPQ_TUNE_LOSS_FLOOR))
        MPQ_TRY(equalize(ctx, p, scratch, &judge, gains));
    if (may_leave_float(p->options) && mean_loss(&judge, &error) >= least)
        MPQ_TRY(leave_float(ctx, p, &judge));
    bool cuts = p->act_quant[0].bits <= MPQ_MAX_BITS; /* 16 bits hold all that was seen */
    return cuts ? weigh_cuts(ctx, p, &judge) : MPQ_OK;
}

/* Ranges, and what can be done about what activations lose with them. */
static enum mpq_status learn(struct mpq_ctx *ctx, struct mpq_pipeline *p, struct mpq_arena *scratch,
                             struct mpq_equalize *gains)
{
    struct mpq_targets few;
    bool may_improve = p->act.n_group && !p->options->baseline;
    MPQ_TRY(
        mpq_pipeline_observe(ctx, p, p->run_graph, gains, FEW, scratch, may_improve ? &few : NULL));
    choose_ranges(p);
    return may_improve ? improve(ctx, p, scratch, &few, gains) : MPQ_OK;
}

/* ---- the stage ---- */

struct mpq_checkpoint mpq_pipeline_checkpoint(struct mpq_pipeline *p, struct mpq_supernet *net)
{
    struct mpq_checkpoint checkpoint = {.graph = p->graph,
                                        .layers = &p->layers,
                                        .act = &p->act,
                                        .equalize = &p->equalize,
                                        .net = net,
                                        .act_quant = p->act_quant,
                                        .n_act = p->n_act,
                                        .uniform_loss = p->uniform_loss,
                                        .n_decide = p->decide.n,
                                        .sensitivity = p->sensitivity,
                                        .refined_share = p->refined_share};
    memcpy(checkpoint.act_by_width, p->act_by_width, sizeof p->act_by_width);
    return checkpoint;
}

static enum mpq_status resume(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    MPQ_TRY(mpq_equalize_find(ctx, p->arena, p->graph, p->cut.whole, &p->binding, &p->layers,
                              &p->equalize));
    if (!p->options->target->is_closed) {
        bool *stays_float = mpq_arena_alloc(ctx, p->arena, p->graph->n_value, sizeof *stays_float);
        if (!stays_float)
            return MPQ_E_NOMEM;
        MPQ_TRY(
            mpq_checkpoint_floats(ctx, p->arena, p->graph, p->options->checkpoint, stays_float));
        MPQ_TRY(bar_values(ctx, p, stays_float));
    }
    struct mpq_checkpoint checkpoint = mpq_pipeline_checkpoint(p, NULL);
    MPQ_TRY(mpq_checkpoint_load(ctx, p->arena, &checkpoint, p->options->checkpoint));
    return p->equalize.n_edge ? apply_gains(ctx, p, &p->equalize) : MPQ_OK;
}

enum mpq_status mpq_pipeline_calibrate(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    struct mpq_equalize gains = {0};
    const struct mpq_options *options = p->options;
    size_t taken = mpq_memory_taken(p->arena), left = 0;
    if (options->max_memory) /* where nothing is left the plan will say so */
        left = options->max_memory > taken ? options->max_memory - taken : 1;
    MPQ_TRY(mpq_batch_choose(ctx, p->arena, p->graph, p->tune.dataset, left,
                             mpq_pipeline_runs_plainly(p), &p->run_graph, &p->batch,
                             &p->takes_batches));
    MPQ_TRY(alloc_activations(ctx, p));
    p->is_resumed = mpq_options_resume(options);
    MPQ_TRY(mpq_memory_plan(ctx, p));
    MPQ_TRY(mpq_pipeline_round_constants(ctx, p));
    p->equal_graph = p->rounded_graph;
    p->equal_run_graph = p->rounded_run_graph;
    if (p->is_resumed) {
        if (resume(ctx, p) == MPQ_E_FORMAT && !options->is_resumed)
            mpq_fail_append(ctx, " (--overwrite replaces it)");
        return ctx->status;
    }
    if (!options->no_equalize && !options->baseline && p->act.n_group)
        MPQ_TRY(mpq_equalize_find(ctx, p->arena, p->graph, p->cut.whole, &p->binding, &p->layers,
                                  &gains));
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    enum mpq_status status = learn(ctx, p, scratch, &gains);
    mpq_arena_free(scratch);
    return status;
}
