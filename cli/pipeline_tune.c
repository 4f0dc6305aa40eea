/* The pipeline's tune stage: the family of weights rounded and tuned, and what each width costs
 * measured; or all of that from a checkpoint. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/checkpoint_id.h"
#include "cli/pipeline.h"
#include "quantcore/supernet/round.h"
#include "quantcore/supernet/sensitivity.h"

/* Multiplications that measuring what each width costs may take; the same for activations. */
static const double sensitivity_macs = 3e12;

/* Samples of one tuning step: 64, fewer where one pass over them would be long. */
static uint32_t tune_batch(const struct mpq_pipeline *p)
{
    const uint64_t max_macs = 6000000000u;
    uint32_t batch = 64;
    while (batch > 8 && batch * mpq_pipeline_macs(p) > max_macs)
        batch /= 2;
    while (batch > 1 && batch > p->tune.n)
        batch /= 2;
    return p->takes_batches ? batch : 1;
}

/* As many steps as the effort's amount of arithmetic allows, forward and backward of four paths,
 * and no more than 30 passes over the samples, which few samples would be learned by heart in. A
 * function of model and data alone, so that a run repeats. */
static uint32_t tune_steps(const struct mpq_pipeline *p, uint32_t batch)
{
    static const double effort_macs[] = {[MPQ_EFFORT_NONE] = 0,
                                         [MPQ_EFFORT_QUICK] = 1e12,
                                         [MPQ_EFFORT_DEFAULT] = 8e12,
                                         [MPQ_EFFORT_THOROUGH] = 4e13};
    if (p->options->steps >= 0 && !p->options->baseline)
        return (uint32_t)p->options->steps;
    if (p->options->effort == MPQ_EFFORT_NONE || p->options->baseline)
        return 0;
    double steps =
        effort_macs[p->options->effort] / (4.0 * 3.0 * batch * (double)mpq_pipeline_macs(p));
    double most = 30.0 * p->tune.n / batch;
    steps = steps < most ? steps : most;
    return steps < 20 ? 20 : (uint32_t)steps;
}

/* What memory leaves of it. */
static uint32_t planned_batch(const struct mpq_pipeline *p)
{
    return p->memory.tune_batch ? p->memory.tune_batch : tune_batch(p);
}

uint32_t mpq_pipeline_tune_batch(const struct mpq_pipeline *p)
{
    uint32_t batch = tune_batch(p);
    return tune_steps(p, batch) ? batch : 0;
}

/* The sampler's walk from all widest until the weights take at most `bits_total` bits. */
static void walk_to(const struct mpq_pipeline *p, const struct mpq_sampler *sampler,
                    double bits_total, uint8_t *bits)
{
    for (uint32_t n = 0; n <= sampler->n_move; n++) {
        double total = 0;
        mpq_sampler_walk(sampler, n, bits);
        for (uint32_t l = 0; l < p->layers.n_layer; l++)
            total += bits[l] * (double)p->layers.layer[l].n_param;
        if (total <= bits_total)
            return;
    }
}

/* How good the whole family is on the decide part: the mean logarithm of the loss, as tuning weighs
 * it, at seven sizes between all widest and all narrowest, of the allocations that the sensitivity
 * tells to take; of one width at that. */
static enum mpq_status family_loss(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                   const struct mpq_sampler *sampler, const char *when, double *out)
{
    mpq_bits_mask candidates = p->net.layer[0].candidates;
    int widest = mpq_bits_highest(candidates), narrowest = mpq_bits_lowest(candidates);
    int n_point = widest > narrowest ? 7 : 1;
    double sum = 0, n_param = 0;
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    uint8_t *bits = scratch ? mpq_arena_alloc(ctx, scratch, p->layers.n_layer, 1) : NULL;
    enum mpq_status status = bits ? MPQ_OK : MPQ_E_NOMEM;
    for (uint32_t l = 0; l < p->layers.n_layer; l++)
        n_param += (double)p->layers.layer[l].n_param;
    for (int i = 1; i <= n_point && status == MPQ_OK; i++) {
        double loss, average = widest - (double)i / (n_point + 1) * (widest - narrowest);
        walk_to(p, sampler, average * n_param, bits);
        status = mpq_evaluate(ctx, &p->evaluator, bits, &loss);
        if (status != MPQ_OK)
            break;
        mpq_log(ctx, MPQ_LOG_INFO, "%s, %.2f bits: loss %.5f", when, average, loss);
        sum += log(loss + MPQ_TUNE_LOSS_FLOOR) / n_point;
    }
    mpq_arena_free(scratch);
    if (status == MPQ_OK)
        *out = sum;
    return status;
}

/* The family as it is while tuned, and before. */
struct family_watch {
    struct mpq_pipeline *p;
    const struct mpq_sampler *sampler; /* of the family as rounded */
    double before, least;
    uint32_t n_look;
};

enum { FIRST_VERDICT = 3 };

/* Ends a tuning that gains nothing on inputs held back from it, and would be left out: most that
 * are have not gained by then. */
static enum mpq_status look(struct mpq_ctx *ctx, void *arg, uint32_t step, bool *out_stop)
{
    struct family_watch *watch = arg;
    char when[32];
    double loss;
    snprintf(when, sizeof when, "after %u steps", step);
    MPQ_TRY(family_loss(ctx, watch->p, watch->sampler, when, &loss));
    watch->least = fmin(watch->least, loss);
    *out_stop = ++watch->n_look >= FIRST_VERDICT && watch->least >= watch->before;
    return MPQ_OK;
}

/* The fake-quantized network with what layers read, or one in `scratch` where that keeps nothing.
 */
static enum mpq_status keep_inputs(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                   struct mpq_pipeline *p, struct mpq_network *out)
{
    bool *keep = mpq_arena_alloc(ctx, scratch, p->fake_graph->n_value, sizeof *keep);
    *out = p->fake_network;
    if (!keep)
        return MPQ_E_NOMEM;
    if (!mpq_pipeline_runs_plainly(p))
        return MPQ_OK;
    for (uint32_t l = 0; l < p->layers.n_layer; l++) {
        const struct mpq_layer *layer = &p->layers.layer[l];
        const struct mpq_node *node = &p->fake_graph->node[p->layer_node[l]];
        mpq_value_id x = layer->x_input < 0 ? layer->x : node->in[layer->x_input];
        if (layer->x != MPQ_NO_VALUE)
            keep[x] = true;
    }
    return mpq_network_create(ctx, scratch, p->fake_graph, p->batch,
                              &(struct mpq_exec_options){.keep = keep}, out);
}

/* Fills p->sensitivity, but for activations. */
static enum mpq_status sensitivity(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    return mpq_sensitivity(ctx, &p->evaluator, p->act_quant, p->act.n_group, sensitivity_macs,
                           p->sensitivity);
}

/* Second-order codes for all widths, from some samples of the tune part: from fewer where layers
 * are wide and there is less to gain. */
static enum mpq_status round_widths(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                    struct mpq_arena *scratch)
{
    enum { MAX_SAMPLES = 256, WIDE_SAMPLES = 32, WIDE_POSITIONS = 8192 };
    struct mpq_network network;
    struct mpq_samples samples = mpq_pipeline_samples(&p->tune);
    if (p->moments) {
        MPQ_TRY(mpq_round_from(ctx, p->net_arena, &p->net, p->fake_graph, p->moments));
        p->moments = NULL;
        mpq_arena_reset(p->moment_arena);
        return MPQ_OK;
    }
    bool is_wide = mpq_pipeline_runs_plainly(p);
    uint32_t n = is_wide ? WIDE_SAMPLES : MAX_SAMPLES;
    MPQ_TRY(keep_inputs(ctx, scratch, p, &network));
    const struct mpq_moment_source source = {.network = &network,
                                             .layer_node = p->layer_node,
                                             .samples = &samples,
                                             .sample = p->tune.sample,
                                             .n_sample = n < p->tune.n ? n : p->tune.n,
                                             .max_bytes = p->memory.gather_bytes,
                                             .n_position = is_wide ? WIDE_POSITIONS : 0};
    return mpq_round_supernet(ctx, p->net_arena ? p->net_arena : p->arena, &p->net, &source);
}

enum mpq_status mpq_pipeline_train(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                   struct mpq_arena *scratch, struct mpq_supernet *net,
                                   struct mpq_tune_options options, struct mpq_tune_result *out)
{
    const uint32_t every = p->n_step / MPQ_LOOKS;
    struct mpq_targets targets;
    const struct mpq_samples samples = mpq_pipeline_samples(&p->tune);
    options.n_step = p->n_step;
    options.max_bytes = p->memory.tune_bytes;
    options.sensitivity = p->sensitivity;
    options.stats = p->observer.stats;
    options.watch_every = every ? every : 1;
    MPQ_TRY(mpq_targets_create(ctx, scratch, &p->float_network, &samples, p->tune.sample, p->tune.n,
                               &targets));
    return mpq_tune(ctx, net, p->fake_graph, planned_batch(p), &samples, &targets, &options, out);
}

static enum mpq_status tune(struct mpq_ctx *ctx, struct mpq_pipeline *p, struct mpq_arena *scratch,
                            struct family_watch *watch)
{
    bool is_family = __builtin_popcount(p->candidates) > 1;
    int narrowest = mpq_bits_lowest(p->candidates);
    /* The rates are those of families down to 2 bits; levels that all lie closer take smaller
     * steps. */
    double finer = narrowest > 4 ? exp2(4 - narrowest) : 1;
    const struct mpq_tune_options options = {
        .n_random = is_family ? 3 : 0,
        .freeze = is_family && !p->options->no_freeze,
        .align = is_family && !p->options->no_align,
        .weight_rate = 5e-5 * finer,
        .scale_rate = 2e-4 * finer,
        .bias_rate = 1e-4 * finer,
        .align_weight = 0.1,
        .watch = look,
        .watch_arg = watch,
    };
    MPQ_TRY(mpq_pipeline_train(ctx, p, scratch, &p->net, options, &p->tuned));
    mpq_log(ctx, MPQ_LOG_INFO, "tuning took the loss of %s from %.5f to %.5f",
            is_family ? "random paths" : "the widths", p->tuned.first_loss, p->tuned.last_loss);
    return MPQ_OK;
}

/* Round the family as fitted, tune it from there, and go back where that did not help. */
static enum mpq_status round_and_tune(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                      struct mpq_arena *scratch)
{
    double after;
    struct mpq_supernet rounded;
    struct mpq_sampler sampler;
    if (mpq_pipeline_rounds(p))
        MPQ_TRY(round_widths(ctx, p, scratch));
    if (!p->n_step)
        return MPQ_OK;
    MPQ_TRY(sensitivity(ctx, p));
    MPQ_TRY(mpq_sampler_create(ctx, scratch, &p->net, p->sensitivity, &sampler));
    struct family_watch watch = {.p = p, .sampler = &sampler, .least = (double)INFINITY};
    MPQ_TRY(family_loss(ctx, p, &sampler, "before tuning", &watch.before));
    MPQ_TRY(mpq_supernet_copy(ctx, scratch, &p->net, &rounded));
    MPQ_TRY(tune(ctx, p, scratch, &watch));
    p->has_sensitivity = true;
    if (p->tuned.n_step == p->n_step) {
        MPQ_TRY(family_loss(ctx, p, &sampler, "after tuning", &after));
        p->tuning_helped = after < watch.before;
    }
    if (p->tuning_helped)
        return sensitivity(ctx, p);
    mpq_log(ctx, MPQ_LOG_INFO, "tuning did not help on inputs held back from it and is left out");
    mpq_supernet_assign(&p->net, &rounded);
    return MPQ_OK;
}

static void print_answers(const struct mpq_pipeline *p, double *out_print)
{
    mpq_checkpoint_print(&p->decide_targets, &p->float_network.loss, out_print);
}

/* Losses of single widths, from the checkpoint where it has them. */
static enum mpq_status measure_sensitivity(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    if (p->is_resumed) {
        struct mpq_checkpoint checkpoint = mpq_pipeline_checkpoint(p, &p->net);
        bool is_found;
        print_answers(p, checkpoint.answers_print);
        MPQ_TRY(mpq_checkpoint_load_sensitivity(ctx, p->arena, &checkpoint, p->options->checkpoint,
                                                &is_found));
        if (is_found)
            return MPQ_OK;
    }
    if (!p->has_sensitivity)
        MPQ_TRY(sensitivity(ctx, p));
    if (!p->n_act)
        return MPQ_OK;
    return mpq_group_sensitivity(ctx, &p->evaluator, p->act_quant, p->act_by_width, p->n_act,
                                 sensitivity_macs,
                                 p->sensitivity + (size_t)p->layers.n_layer * MPQ_N_BITS);
}

/* What the float model answers to what reports, from the checkpoint. */
static enum mpq_status load_answers(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    struct mpq_answers *answers;
    double print[MPQ_CHECKPOINT_PRINT];
    MPQ_TRY(mpq_pipeline_room_for_answers(ctx, p, &answers));
    if (!answers)
        return MPQ_OK;
    print_answers(p, print);
    MPQ_TRY(mpq_checkpoint_load_answers(ctx, p->arena, p->options->checkpoint, print, answers));
    if (answers->n_sample)
        p->answers = answers;
    return MPQ_OK;
}

/* What each search looks at. */
static enum mpq_status measure_uniform(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    uint8_t *bits = mpq_arena_alloc(ctx, p->arena, p->layers.n_layer, 1);
    if (!bits)
        return MPQ_E_NOMEM;
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
        memset(bits, b, p->layers.n_layer);
        if (p->candidates >> b & 1)
            MPQ_TRY(mpq_evaluate_samples(ctx, &p->evaluator, bits,
                                         p->uniform_loss + (size_t)b * p->decide.n));
    }
    return MPQ_OK;
}

static enum mpq_status save_checkpoint(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    MPQ_TRY(measure_uniform(ctx, p));
    if (!p->options->no_refine)
        MPQ_TRY(mpq_pipeline_refined_share(ctx, p));
    MPQ_TRY(mpq_pipeline_answer(ctx, p));
    struct mpq_checkpoint checkpoint = mpq_pipeline_checkpoint(p, &p->net);
    print_answers(p, checkpoint.answers_print);
    checkpoint.answers = p->answers;
    checkpoint.options = mpq_options_kept(ctx, p->arena, p->options);
    if (!checkpoint.options)
        return MPQ_E_NOMEM;
    return mpq_checkpoint_save(ctx, p->arena, &checkpoint, p->options->checkpoint,
                               p->options->overwrite);
}

enum mpq_status mpq_pipeline_tune(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    if (p->is_resumed) {
        MPQ_TRY(load_answers(ctx, p));
        return measure_sensitivity(ctx, p);
    }
    p->n_step = tune_steps(p, planned_batch(p));
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    enum mpq_status status = round_and_tune(ctx, p, scratch);
    mpq_arena_free(scratch);
    MPQ_TRY(status);
    if (p->options->baseline || mpq_pipeline_is_fixed(p)) { /* nothing to search */
        for (size_t i = 0; i < ((size_t)p->layers.n_layer + p->n_act) * MPQ_N_BITS; i++)
            p->sensitivity[i] = (double)NAN;
        return MPQ_OK;
    }
    MPQ_TRY(measure_sensitivity(ctx, p));
    return p->options->checkpoint ? save_checkpoint(ctx, p) : MPQ_OK;
}
