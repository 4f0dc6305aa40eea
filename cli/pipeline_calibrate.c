/* The pipeline's calibrate stage: ranges of activations; channels brought to one range where that
 * makes the ranges serve better; activations left float where quantizing them costs most. */
#include <math.h>
#include <string.h>

#include "cli/checkpoint.h"
#include "cli/pipeline.h"
#include "cli/runner.h"
#include "quantcore/base/fileio.h"
#include "quantcore/pass/pass.h"
#include "quantcore/supernet/leave_float.h"

/* Samples by which what activations lose is judged. */
enum { FEW = 16, MAX_JUDGING = 256 };

/* ---- observing ---- */

/* Of the tune part, as many samples as ranges are taken from; fewer where nothing else takes time,
 * as long as activations then lose next to nothing. A function of model and data alone, so that a
 * run repeats. */
static uint32_t count_observed(const struct mpq_pipeline *p)
{
    enum { LEAST = 32, MOST = 1024 };
    uint64_t budget = (uint64_t)(p->observes_more ? 1e11 : 1e10);
    uint64_t n = MOST, affordable = budget / mpq_pipeline_macs(p);
    if (mpq_pipeline_is_fixed(p) && affordable < n)
        n = affordable < LEAST ? LEAST : affordable;
    return n < p->tune.n ? (uint32_t)n : p->tune.n;
}

/* The float network at work, and what is learned from it besides the ranges. */
struct observation {
    struct mpq_network network;
    uint32_t *wanted; /* [batch] samples */
    struct mpq_moment_source source;
    struct mpq_moment_room room;
    mpq_node_id *layer_node;
};

/* Whether second moments for rounding are gathered on the way: of floats, which eight bits of
 * activations change little. */
static bool gathers(const struct mpq_pipeline *p)
{
    const struct mpq_options *options = p->options;
    return mpq_pipeline_runs_plainly(p) && mpq_pipeline_rounds(p) && !options->max_memory;
}

static enum mpq_status begin_moments(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                     struct mpq_arena *scratch, uint32_t n, struct observation *o)
{
    enum { SAMPLES = 32, POSITIONS = 4096 };
    o->layer_node = mpq_arena_alloc(ctx, scratch, p->layers.n_layer, sizeof *o->layer_node);
    MPQ_TRY(mpq_pipeline_passing(ctx, p, &p->moment_arena));
    p->moments = mpq_arena_alloc(ctx, p->moment_arena, p->layers.n_layer, sizeof *p->moments);
    if (!o->layer_node || !p->moments)
        return MPQ_E_NOMEM;
    for (uint32_t l = 0; l < p->layers.n_layer; l++)
        o->layer_node[l] = p->layers.layer[l].node;
    o->source = (struct mpq_moment_source){.network = &o->network,
                                           .layer_node = o->layer_node,
                                           .n_sample = n < SAMPLES ? n : SAMPLES,
                                           .n_position = POSITIONS};
    return mpq_moments_begin(ctx, p->moment_arena, &p->layers, &o->source, 0, p->layers.n_layer,
                             &o->room, p->moments);
}

/* The batch of n samples from number `first` on. */
static enum mpq_status observe_batch(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                     struct observation *o, uint32_t first, uint32_t n)
{
    struct mpq_network *network = &o->network;
    for (uint32_t i = 0; i < network->batch; i++)
        o->wanted[i] = p->tune.sample[first + (i < n ? i : 0)];
    MPQ_TRY(mpq_dataset_read(ctx, p->tune.dataset, o->wanted, network->batch, network->input));
    mpq_exec_forward(network->exec, 0, network->graph->n_node);
    if (p->moments && first < o->source.n_sample) {
        uint32_t left = o->source.n_sample - first;
        mpq_moments_add(&p->layers, &o->source, 0, p->layers.n_layer, n < left ? n : left, &o->room,
                        p->moments);
    }
    return mpq_observer_add(ctx, &p->observer, network->graph, network->exec, network->batch, n);
}

static enum mpq_status observe(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                               struct mpq_arena *scratch, const struct mpq_graph *graph,
                               struct mpq_equalize *equalize, struct mpq_arena *arena,
                               struct mpq_targets *few)
{
    struct observation o;
    struct mpq_network *network = &o.network;
    const struct mpq_exec_options options = {.keep = p->observer.keep};
    uint32_t n_observed = count_observed(p), batch = p->batch;
    if (mpq_pipeline_runs_plainly(p))
        MPQ_TRY(mpq_batch_within(ctx, graph, &options, &batch));
    MPQ_TRY(mpq_network_create(ctx, scratch, graph, batch, &options, network));
    o.wanted = mpq_arena_alloc(ctx, scratch, network->batch, sizeof *o.wanted);
    if (!o.wanted)
        return MPQ_E_NOMEM;
    if (gathers(p))
        MPQ_TRY(begin_moments(ctx, p, scratch, n_observed, &o));
    if (few)
        MPQ_TRY(mpq_targets_begin(ctx, arena, &network->loss, p->tune.sample,
                                  n_observed < FEW ? n_observed : FEW, few));
    for (uint32_t first = 0; first < n_observed; first += batch) {
        uint32_t left = n_observed - first, n = left < batch ? left : batch;
        MPQ_TRY(mpq_step(ctx, "calibrate", first, n_observed, (double)NAN));
        MPQ_TRY(observe_batch(ctx, p, &o, first, n));
        for (uint32_t e = 0; equalize && e < equalize->n_edge; e++) {
            struct mpq_equal_edge *edge = &equalize->edge[e];
            mpq_equalize_see(edge, mpq_exec_tensor(network->exec, p->layers.layer[edge->from].y));
        }
        if (few && first < few->n_sample) {
            left = few->n_sample - first;
            MPQ_TRY(mpq_targets_take(ctx, network, first, n < left ? n : left, few));
        }
    }
    if (p->moments)
        mpq_moments_end(0, p->layers.n_layer, p->moments);
    if (few)
        mpq_targets_end(&network->loss, few);
    return MPQ_OK;
}

/* Run the float graph over the tune part; fills p->observer, p->moments where rounding is to have
 * them, the edges' ranges, and the answers to the first few samples, in `arena` (NULL: not wanted).
 */
static enum mpq_status observe_graph(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                     const struct mpq_graph *graph, struct mpq_equalize *equalize,
                                     struct mpq_arena *arena, struct mpq_targets *few)
{
    MPQ_TRY(mpq_observer_create(ctx, p->arena, graph, &p->layers, &p->act, &p->observer));
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    enum mpq_status status = observe(ctx, p, scratch, graph, equalize, arena, few);
    mpq_arena_free(scratch);
    return status;
}

static void choose_ranges(struct mpq_pipeline *p)
{
    struct mpq_act_form target = p->options->target->act;
    target.is_min_max = p->options->baseline == MPQ_BASELINE_rtn;
    mpq_observer_ranges(&p->observer, target, p->act_quant);
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++)
        if (p->act_by_width[b]) {
            struct mpq_act_form form = target;
            form.bits = b;
            mpq_observer_ranges(&p->observer, form, p->act_by_width[b]);
            memcpy(p->act_quant, p->act_by_width[b], p->act.n_group * sizeof *p->act_quant);
        }
}

/* ---- equalizing ---- */

static enum mpq_status apply_gains(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                   const struct mpq_equalize *equalize)
{
    struct mpq_graph *graph;
    MPQ_TRY(mpq_equalize_apply(ctx, p->arena, p->graph, &p->layers, equalize, &graph));
    p->equal_graph = p->equal_run_graph = graph;
    if (p->run_graph == p->graph)
        return MPQ_OK;
    MPQ_TRY(mpq_equalize_apply(ctx, p->arena, p->run_graph, &p->layers, equalize, &graph));
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

/* The network in which activations alone are quantized, as things stand. */
static enum mpq_status quantize_activations(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                            const struct mpq_pipeline *p, struct mpq_network *out)
{
    struct mpq_graph *fake;
    const struct mpq_graph *graph = p->equal_run_graph;
    mpq_node_id *node_of = mpq_arena_alloc(ctx, scratch, graph->n_node, sizeof *node_of);
    if (!node_of)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_insert_fake_quant(ctx, scratch, graph, &p->act, p->act_quant, &fake, node_of));
    return mpq_network_create(ctx, scratch, fake, p->batch, &(struct mpq_exec_options){0}, out);
}

/* Losses of samples by activations alone, out [targets.n_sample]. */
static enum mpq_status activation_losses(struct mpq_ctx *ctx, const struct mpq_pipeline *p,
                                         const struct judge *judge, double *out)
{
    struct mpq_network network;
    const struct mpq_targets *targets = &judge->targets;
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    enum mpq_status status =
        scratch ? quantize_activations(ctx, scratch, p, &network) : MPQ_E_NOMEM;
    for (uint32_t begin = 0; begin < targets->n_sample && status == MPQ_OK; begin += p->batch) {
        uint32_t left = targets->n_sample - begin, n = left < p->batch ? left : p->batch;
        status = mpq_network_read(ctx, &network, &judge->samples, targets->sample + begin, n);
        mpq_exec_forward(network.exec, 0, network.graph->n_node);
        mpq_network_sample_loss(&network, targets, begin, n, out + begin);
    }
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
    out->few.n_sample = n < FEW ? n : FEW;
    return activation_losses(ctx, p, out, out->before);
}

/* Before whatever is tried next. */
static double mean_loss(const struct judge *judge, double *out_error)
{
    return mpq_search_mean(judge->before, NULL, judge->targets.n_sample, out_error);
}

/* Noise at the outputs by activations alone. */
static enum mpq_status activation_noise(struct mpq_ctx *ctx, const struct mpq_pipeline *p,
                                        const struct judge *judge, double *out)
{
    struct mpq_network network;
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    enum mpq_status status =
        scratch ? quantize_activations(ctx, scratch, p, &network) : MPQ_E_NOMEM;
    if (status == MPQ_OK)
        status = mpq_output_noise(ctx, &network, &judge->samples, &judge->few, out);
    mpq_arena_free(scratch);
    return status;
}

/* Equalize and look again; back to where it was unless activations serve better by more than the
 * standard error. */
static enum mpq_status equalize(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                struct mpq_arena *scratch, struct judge *judge,
                                struct mpq_equalize *gains)
{
    struct mpq_observer observer = p->observer;
    struct mpq_moments *moments = p->moments;
    double error;
    MPQ_TRY(mpq_equalize_gains(ctx, scratch, p->graph, &p->layers, gains));
    MPQ_TRY(apply_gains(ctx, p, gains));
    MPQ_TRY(observe_graph(ctx, p, p->equal_run_graph, NULL, NULL, NULL));
    choose_ranges(p);
    MPQ_TRY(activation_losses(ctx, p, judge, judge->after));
    uint32_t n = judge->targets.n_sample;
    double gain = mpq_search_mean(judge->before, judge->after, n, &error);
    mpq_log(ctx, MPQ_LOG_INFO, "equalized channels: loss by activations alone %.5f to %.5f%s",
            mean_loss(judge, &(double){0}), mpq_search_mean(judge->after, NULL, n, &(double){0}),
            gain > error ? "" : ", left out");
    if (gain > error) {
        p->equalize = *gains;
        memcpy(judge->before, judge->after, n * sizeof *judge->before);
        return MPQ_OK;
    }
    p->equal_graph = p->graph;
    p->equal_run_graph = p->run_graph;
    p->observer = observer;
    p->moments = moments;
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

/* out_stays_float [n_value] of p->graph. */
static enum mpq_status choose_float(struct mpq_ctx *ctx, const struct mpq_pipeline *p,
                                    struct mpq_arena *scratch, const struct judge *judge,
                                    double *out_noise, bool *out_stays_float)
{
    struct mpq_network network;
    struct mpq_leave_float problem = {.graph = p->graph,
                                      .binding = &p->binding,
                                      .layers = &p->layers,
                                      .plan = &p->act,
                                      .max_macs = p->options->float_macs,
                                      .network = &network,
                                      .act_quant = p->act_quant,
                                      .samples = &judge->samples,
                                      .targets = &judge->few};
    MPQ_TRY(quantize_activations(ctx, scratch, p, &network));
    return mpq_leave_float(ctx, scratch, &problem, out_noise, out_stays_float);
}

/* Leave float what costs most and calibrate the rest anew; back to where it was if that is worse.
 */
static enum mpq_status leave_float(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                   const struct judge *judge)
{
    const struct mpq_pipeline before = *p;
    bool *stays_float = mpq_arena_alloc(ctx, p->arena, p->graph->n_value, sizeof *stays_float);
    double noise, left;
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    enum mpq_status status = scratch && stays_float
                                 ? choose_float(ctx, p, scratch, judge, &noise, stays_float)
                                 : MPQ_E_NOMEM;
    mpq_arena_free(scratch);
    MPQ_TRY(status);
    MPQ_TRY(bar_values(ctx, p, stays_float));
    if (p->act.n_group && p->n_left_float) {
        MPQ_TRY(observe_graph(ctx, p, p->equal_run_graph, NULL, NULL, NULL));
        choose_ranges(p);
        MPQ_TRY(activation_noise(ctx, p, judge, &left));
        mpq_log(ctx, MPQ_LOG_INFO,
                "%u layers with %.1f %% of the multiplications in float: noise by activations "
                "alone %.3g to %.3g of the outputs' variance",
                p->n_left_float, 100 * p->left_float_macs, noise, left);
        if (left < noise)
            return MPQ_OK;
    }
    *p = before;
    choose_ranges(p);
    return MPQ_OK;
}

/* What can be done about what activations lose, where that is more than next to nothing: weights
 * may lose by equalizing, and floats have their price. A few samples mostly say that it is not. */
static enum mpq_status improve(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                               struct mpq_arena *scratch, const struct mpq_targets *few,
                               struct mpq_equalize *gains)
{
    struct judge judge;
    double error;
    MPQ_TRY(make_judge(ctx, scratch, p, few->n_sample, few, &judge));
    double loss = mean_loss(&judge, &error);
    if (judge.targets.n_sample > 1 && loss + 3 * error < MPQ_TUNE_LOSS_FLOOR)
        return MPQ_OK;
    uint32_t n_observed = count_observed(p);
    p->observes_more = true;
    if (count_observed(p) > n_observed) {
        MPQ_TRY(observe_graph(ctx, p, p->run_graph, gains, NULL, NULL));
        choose_ranges(p);
    }
    if (p->tune.n > FEW)
        MPQ_TRY(make_judge(ctx, scratch, p, MAX_JUDGING, NULL, &judge));
    if (gains->n_edge && mean_loss(&judge, &error) >= MPQ_TUNE_LOSS_FLOOR)
        MPQ_TRY(equalize(ctx, p, scratch, &judge, gains));
    if (!may_leave_float(p->options) || mean_loss(&judge, &error) < MPQ_TUNE_LOSS_FLOOR)
        return MPQ_OK;
    return leave_float(ctx, p, &judge);
}

/* Ranges, and what can be done about what activations lose with them. */
static enum mpq_status learn(struct mpq_ctx *ctx, struct mpq_pipeline *p, struct mpq_arena *scratch,
                             struct mpq_equalize *gains)
{
    struct mpq_targets few;
    bool may_improve = p->act.n_group && (gains->n_edge || may_leave_float(p->options));
    MPQ_TRY(observe_graph(ctx, p, p->run_graph, gains, scratch, may_improve ? &few : NULL));
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
                                        .sensitivity = p->sensitivity};
    memcpy(checkpoint.act_by_width, p->act_by_width, sizeof p->act_by_width);
    return checkpoint;
}

static enum mpq_status resume(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    MPQ_TRY(mpq_equalize_find(ctx, p->arena, p->graph, p->cut.whole, &p->layers, &p->equalize));
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
    p->equal_graph = p->graph;
    p->equal_run_graph = p->run_graph;
    const char *path = options->checkpoint;
    p->is_resumed = options->is_resumed || (path && !options->overwrite && mpq_file_exists(path));
    MPQ_TRY(mpq_memory_plan(ctx, p));
    if (p->is_resumed)
        return resume(ctx, p);
    if (!options->no_equalize && !options->baseline && p->act.n_group)
        MPQ_TRY(mpq_equalize_find(ctx, p->arena, p->graph, p->cut.whole, &p->layers, &gains));
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    enum mpq_status status = learn(ctx, p, scratch, &gains);
    mpq_arena_free(scratch);
    return status;
}
