#include "cli/pipeline.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "calibration/metric.h"
#include "calibration/synthesize.h"
#include "cli/checkpoint.h"
#include "cli/input_shape.h"
#include "cli/output.h"
#include "cli/pick.h"
#include "cli/runner.h"
#include "cli/unfold.h"
#include "importer/import.h"
#include "quantcore/base/fileio.h"
#include "quantcore/base/rng.h"
#include "quantcore/pass/pass.h"
#include "quantcore/supernet/round.h"
#include "quantcore/supernet/sensitivity.h"

/* ---- open ---- */

mpq_bits_mask mpq_pipeline_candidates(const struct mpq_options *options)
{
    mpq_bits_mask mask = 0;
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++)
        if (options->bits[b])
            mask |= (mpq_bits_mask)(1u << b);
    return mask;
}

bool mpq_pipeline_is_fixed(const struct mpq_pipeline *p)
{
    const struct mpq_options *options = p->options;
    int n_act = 0;
    for (int b = 0; b < MPQ_N_BITS; b++)
        n_act += options->act_bits[b];
    bool is_tuned = options->steps >= 0 ? options->steps > 0 : options->effort != MPQ_EFFORT_NONE;
    return __builtin_popcount(p->candidates) == 1 && n_act <= 1 && !is_tuned &&
           !options->baseline && !options->checkpoint && !(options->max_drop > 0);
}

bool mpq_pipeline_runs_plainly(const struct mpq_pipeline *p)
{
    return mpq_pipeline_is_fixed(p) && !p->options->recipe &&
           mpq_bits_lowest(p->candidates) > MPQ_REFINED_BITS;
}

bool mpq_pipeline_rounds(const struct mpq_pipeline *p)
{
    return !p->options->no_round && p->options->baseline != MPQ_BASELINE_rtn &&
           p->options->baseline != MPQ_BASELINE_mse;
}

static void free_arena(void *arena)
{
    mpq_arena_free(arena);
}

enum mpq_status mpq_pipeline_passing(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                     struct mpq_arena **arena)
{
    struct mpq_arena *made = *arena ? NULL : mpq_arena_create(ctx);
    if (*arena)
        return MPQ_OK;
    if (!made || mpq_arena_defer(ctx, p->arena, free_arena, made) != MPQ_OK) {
        mpq_arena_free(made);
        return MPQ_E_NOMEM;
    }
    *arena = made;
    return MPQ_OK;
}

enum mpq_status mpq_pipeline_name_output(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    p->external_name = mpq_output_external_name(ctx, p->arena, p->options->output);
    return p->external_name ? MPQ_OK : MPQ_E_NOMEM;
}

enum mpq_status mpq_pipeline_load(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_options *options, const char *data,
                                  struct mpq_pipeline *p)
{
    *p = (struct mpq_pipeline){.options = options,
                               .arena = arena,
                               .scored = UINT32_MAX,
                               .candidates = mpq_pipeline_candidates(options)};
    MPQ_TRY(mpq_pipeline_name_output(ctx, p));
    MPQ_TRY(mpq_import_file(ctx, arena, options->model, &p->imported, &p->float_bytes));
    MPQ_TRY(mpq_input_shape_assume(ctx, arena, options, data, p->imported));
    MPQ_TRY(mpq_unfold(ctx, arena, options, &p->imported));
    return mpq_simplify(ctx, arena, p->imported, &p->graph);
}

enum mpq_status mpq_pipeline_open(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_options *options, struct mpq_pipeline *p)
{
    MPQ_TRY(mpq_pipeline_load(ctx, arena, options, options->data, p));
    MPQ_TRY(mpq_cut_bind(ctx, arena, p->graph, &p->cut, &p->binding));
    p->graph = p->cut.run;
    MPQ_TRY(mpq_layer_table_build(ctx, arena, p->graph, &p->binding, &p->layers));
    if (!p->layers.n_layer && p->cut.why)
        return mpq_fail(ctx, MPQ_E_UNSUPPORTED, "%s", p->cut.why);
    if (p->cut.why)
        mpq_log(ctx, MPQ_LOG_WARNING,
                "%s; these and what depends on them, %u of %u nodes, stay float and are not run: "
                "losses are measured where they read (--weights-only reaches weights in them)",
                p->cut.why, p->cut.n_carried, p->cut.whole->n_node);
    if (!p->layers.n_layer)
        return mpq_fail(ctx, MPQ_E_UNSUPPORTED,
                        "%s: no layer can be quantized (see onnx-mpq inspect)", options->model);
    MPQ_TRY(mpq_pick_exclude(ctx, arena, options->exclude, p->graph, &p->layers));
    if (options->plan) {
        MPQ_TRY(mpq_plan_read(ctx, arena, options->plan, &p->plan));
        MPQ_TRY(mpq_plan_match(ctx, arena, &p->layers, &p->plan));
    }
    struct mpq_act_rules rules = {.quantizes_outputs = options->target->is_closed};
    MPQ_TRY(mpq_act_plan_build(ctx, arena, p->graph, &p->binding, &p->layers, rules, &p->act));
    for (uint32_t i = p->graph->n_output; i-- > 0;) {
        int64_t n_class = mpq_metric_classes(&p->binding.tensor[p->graph->output[i]]);
        if (n_class) {
            p->scored = i;
            p->n_class = n_class;
        }
    }
    return MPQ_OK;
}

/* ---- data ---- */

static enum mpq_status open_dataset(struct mpq_ctx *ctx, struct mpq_pipeline *p, const char *path,
                                    const char *labels, struct mpq_dataset **out)
{
    const struct mpq_options *options = p->options;
    struct mpq_shape *shape = mpq_arena_alloc(ctx, p->arena, p->graph->n_input, sizeof *shape);
    if (!shape)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_bind_shapes(ctx, p->graph, 1, shape));
    if (!path) {
        struct mpq_cut cut = {.run = p->imported};
        struct mpq_binding binding;
        if (p->cut.why)
            MPQ_TRY(mpq_cut_bind(ctx, p->arena, p->imported, &cut, &binding));
        return mpq_dataset_synthesize(ctx, p->arena, cut.run, shape, 256, out);
    }
    return mpq_dataset_open(ctx, p->arena, path, labels, p->graph, shape, p->n_class,
                            &options->preprocess, out);
}

static struct mpq_part take(struct mpq_part *rest, uint32_t n)
{
    struct mpq_part part = {rest->dataset, rest->sample, n};
    rest->sample += n;
    rest->n -= n;
    return part;
}

/* A random order, so that parts are alike even where the data are sorted by class. */
static enum mpq_status shuffled(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                struct mpq_dataset *dataset, struct mpq_part *out)
{
    uint32_t n = mpq_dataset_count(dataset);
    *out = (struct mpq_part){dataset, mpq_arena_alloc(ctx, arena, n, sizeof *out->sample), n};
    if (!out->sample)
        return MPQ_E_NOMEM;
    mpq_rng_permutation(ctx->seed, MPQ_STREAM_SPLIT, 0, n, out->sample);
    return MPQ_OK;
}

/* Every second sample that would report chooses instead, so that both halves are alike even where
 * the data are sorted by class. */
static enum mpq_status split_report(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    uint32_t n = p->report.n;
    uint32_t *sample = mpq_arena_alloc(ctx, p->arena, n, sizeof *sample);
    if (!sample)
        return MPQ_E_NOMEM;
    p->choose = (struct mpq_part){p->report.dataset, sample, n / 2};
    for (uint32_t i = 0; i < n; i++)
        sample[i % 2 ? i / 2 : n / 2 + i / 2] = p->report.sample[i];
    p->report = (struct mpq_part){p->report.dataset, sample + n / 2, n - n / 2};
    return MPQ_OK;
}

enum { TO_VERIFY = 16 };

/* How many of n samples decide, and of what is left report where nothing else does. */
static void count_parts(const struct mpq_pipeline *p, uint32_t n, uint32_t *out_decide,
                        uint32_t *out_report)
{
    enum { MIN_DECIDE = 64, MAX_DECIDE = 128 };
    /* A fifth decides, of small sets more: the search picks the best of a hundred candidates and
     * would pick noise on a few dozen samples. */
    uint32_t n_decide = n / 5 > MIN_DECIDE ? n / 5 : n / 2 < MIN_DECIDE ? n / 2 : MIN_DECIDE;
    n_decide = n_decide < MAX_DECIDE ? n_decide : MAX_DECIDE;
    *out_decide = n_decide;
    *out_report = (n - n_decide) / 3;
    if (mpq_pipeline_is_fixed(p))
        *out_decide = n_decide < TO_VERIFY ? n_decide : TO_VERIFY;
}

enum mpq_status mpq_pipeline_data(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    enum { MIN_TO_SPLIT = 10 };
    const struct mpq_options *options = p->options;
    struct mpq_dataset *data, *eval = NULL;
    struct mpq_part rest;
    if (mpq_pipeline_is_fixed(p))
        mpq_memory_return_early();
    if (options->max_memory && !options->data) /* making samples up takes what it takes */
        return mpq_fail(ctx, MPQ_E_USAGE, "--max-memory needs samples: --data PATH");
    if (options->eval)
        MPQ_TRY(open_dataset(ctx, p, options->eval, options->labels, &eval));
    MPQ_TRY(open_dataset(ctx, p, options->data, eval ? NULL : options->labels, &data));
    p->is_synthetic = !options->data;
    if (p->is_synthetic)
        mpq_log(ctx, MPQ_LOG_WARNING,
                "no --data: calibrating on made-up inputs. Expect a larger loss of accuracy than "
                "with a few hundred real ones, and measure it before use");
    MPQ_TRY(shuffled(ctx, p->arena, data, &rest));
    uint32_t n = rest.n;
    p->decides_on_report = mpq_pipeline_runs_plainly(p) && !eval && !p->is_synthetic;
    if (n < MIN_TO_SPLIT) {
        mpq_log(ctx, MPQ_LOG_WARNING,
                "%u inputs are too few to hold any back: everything is learned, decided and "
                "measured on the same ones",
                n);
        p->tune = p->decide = p->report = rest;
    } else {
        uint32_t n_decide, n_report;
        count_parts(p, n, &n_decide, &n_report);
        if (p->decides_on_report) {
            p->decide = p->report = take(&rest, n_report > n_decide ? n_report : n_decide);
            p->decide.n = n_decide;
        } else
            p->decide = take(&rest, n_decide);
        if (!eval && !p->is_synthetic && !p->decides_on_report)
            p->report = take(&rest, n_report);
        p->tune = rest;
    }
    if (eval) {
        uint32_t n_eval = mpq_dataset_count(eval);
        uint32_t *all = mpq_arena_alloc(ctx, p->arena, n_eval, sizeof *all);
        if (!all)
            return MPQ_E_NOMEM;
        for (uint32_t i = 0; i < n_eval; i++)
            all[i] = i;
        p->report = (struct mpq_part){eval, all, n_eval};
    }
    return options->max_drop > 0 ? split_report(ctx, p) : MPQ_OK;
}

static enum mpq_status read_samples(struct mpq_ctx *ctx, void *arg, const uint32_t *index,
                                    uint32_t n, struct mpq_tensor *const *input)
{
    return mpq_dataset_read(ctx, arg, index, n, input);
}

struct mpq_samples mpq_pipeline_samples(const struct mpq_part *part)
{
    return (struct mpq_samples){read_samples, part->dataset};
}

/* ---- prepare ---- */

static enum mpq_status fit(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    const struct mpq_options *options = p->options;
    uint16_t integers = mpq_target_integer_widths(options->target);
    if (options->no_codebook || options->baseline)
        integers = p->candidates;
    if (options->baseline == MPQ_BASELINE_rtn) {
        mpq_supernet_fit_min_max(&p->net);
        return MPQ_OK;
    }
    return mpq_supernet_fit(ctx, &p->net, p->equal_graph, p->observer.stats, integers);
}

enum mpq_status mpq_pipeline_prepare(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    uint32_t n_layer = p->layers.n_layer;
    size_t n_entry = ((size_t)n_layer + p->n_act) * MPQ_N_BITS;
    p->sensitivity = mpq_arena_alloc(ctx, p->arena, n_entry, sizeof *p->sensitivity);
    mpq_node_id *node_of = mpq_arena_alloc(ctx, p->arena, p->run_graph->n_node, sizeof *node_of);
    p->layer_node = mpq_arena_alloc(ctx, p->arena, n_layer, sizeof *p->layer_node);
    bool *keep = mpq_arena_alloc(ctx, p->arena, p->run_graph->n_value, sizeof *keep);
    size_t n_uniform = (size_t)p->decide.n * MPQ_N_BITS;
    p->uniform_loss = mpq_arena_alloc(ctx, p->arena, n_uniform, sizeof *p->uniform_loss);
    if (!p->sensitivity || !node_of || !p->layer_node || !keep || !p->uniform_loss)
        return MPQ_E_NOMEM;
    for (size_t i = 0; i < n_uniform; i++)
        p->uniform_loss[i] = (double)NAN;
    MPQ_TRY(mpq_insert_fake_quant(ctx, p->arena, p->equal_run_graph, &p->act, p->act_quant,
                                  &p->fake_graph, node_of));
    for (uint32_t l = 0; l < n_layer; l++) {
        p->layer_node[l] = node_of[p->layers.layer[l].node];
        keep[p->layers.layer[l].y] = true;
        if (p->layers.layer[l].x != MPQ_NO_VALUE)
            keep[p->layers.layer[l].x] = true;
    }
    if (mpq_pipeline_runs_plainly(p)) { /* networks are made where they run */
        MPQ_TRY(mpq_pipeline_passing(ctx, p, &p->net_arena));
        MPQ_TRY(mpq_supernet_create(ctx, p->net_arena, p->equal_graph, &p->layers, p->candidates,
                                    &p->net));
        return fit(ctx, p);
    }
    MPQ_TRY(mpq_network_create(ctx, p->arena, p->run_graph, p->batch,
                               &(struct mpq_exec_options){.keep = keep}, &p->float_network));
    MPQ_TRY(mpq_network_create(ctx, p->arena, p->fake_graph, p->batch,
                               &(struct mpq_exec_options){.keep_all = true}, &p->fake_network));
    MPQ_TRY(mpq_supernet_create(ctx, p->arena, p->equal_graph, &p->layers, p->candidates, &p->net));
    if (p->is_resumed) {
        struct mpq_checkpoint checkpoint = mpq_pipeline_checkpoint(p, &p->net);
        MPQ_TRY(mpq_checkpoint_load(ctx, p->arena, &checkpoint, p->options->checkpoint));
    } else
        MPQ_TRY(fit(ctx, p));
    struct mpq_samples samples = mpq_pipeline_samples(&p->decide);
    MPQ_TRY(mpq_targets_create(ctx, p->arena, &p->float_network, &samples, p->decide.sample,
                               p->decide.n, &p->decide_targets));
    return mpq_evaluator_create(ctx, p->arena, &p->net, &p->fake_network, &samples,
                                &p->decide_targets, p->layer_node, &p->evaluator);
}

/* ---- tune ---- */

/* Multiplications that measuring what each width costs may take; the same for activations. */
static const double sensitivity_macs = 3e12;

uint64_t mpq_pipeline_macs(const struct mpq_pipeline *p)
{
    uint64_t macs = 0;
    for (uint32_t n = 0; n < p->graph->n_node; n++)
        macs += mpq_bind_macs(p->graph, &p->binding, n);
    return macs ? macs : 1;
}

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
 * it, at seven sizes between all widest and all narrowest. Fills p->sensitivity. */
static enum mpq_status family_loss(struct mpq_ctx *ctx, struct mpq_pipeline *p, const char *when,
                                   double *out)
{
    enum { POINTS = 7 };
    double sum = 0, n_param = 0;
    struct mpq_sampler sampler;
    mpq_bits_mask candidates = p->net.layer[0].candidates;
    int widest = mpq_bits_highest(candidates), narrowest = mpq_bits_lowest(candidates);
    uint8_t *bits = mpq_arena_alloc(ctx, p->arena, p->layers.n_layer, sizeof *bits);
    if (!bits)
        return MPQ_E_NOMEM;
    for (uint32_t l = 0; l < p->layers.n_layer; l++)
        n_param += (double)p->layers.layer[l].n_param;
    MPQ_TRY(mpq_sensitivity(ctx, &p->evaluator, p->act_quant, p->act.n_group, sensitivity_macs,
                            p->sensitivity));
    MPQ_TRY(mpq_sampler_create(ctx, p->arena, &p->net, p->sensitivity, &sampler));
    for (int i = 1; i <= POINTS; i++) {
        double loss, average = widest - (double)i / (POINTS + 1) * (widest - narrowest);
        walk_to(p, &sampler, average * n_param, bits);
        MPQ_TRY(mpq_evaluate(ctx, &p->evaluator, bits, &loss));
        mpq_log(ctx, MPQ_LOG_INFO, "%s, %.2f bits: loss %.5f", when, average, loss);
        sum += log(loss + MPQ_TUNE_LOSS_FLOOR) / POINTS;
    }
    *out = sum;
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

static enum mpq_status tune(struct mpq_ctx *ctx, struct mpq_pipeline *p, struct mpq_arena *scratch,
                            uint32_t batch)
{
    struct mpq_targets targets;
    struct mpq_samples samples = mpq_pipeline_samples(&p->tune);
    struct mpq_tune_options options = {
        .n_step = p->n_step,
        .n_random = 3,
        .freeze = !p->options->no_freeze,
        .align = !p->options->no_align,
        .weight_rate = 5e-5,
        .scale_rate = 2e-4,
        .bias_rate = 1e-4,
        .align_weight = 0.1,
        .max_bytes = p->memory.tune_bytes,
        .sensitivity = p->sensitivity,
        .stats = p->observer.stats,
    };
    MPQ_TRY(mpq_targets_create(ctx, scratch, &p->float_network, &samples, p->tune.sample, p->tune.n,
                               &targets));
    MPQ_TRY(mpq_tune(ctx, &p->net, p->fake_graph, batch, &samples, &targets, &options, &p->tuned));
    mpq_log(ctx, MPQ_LOG_INFO, "tuning took the loss of random paths from %.5f to %.5f",
            p->tuned.first_loss, p->tuned.last_loss);
    return MPQ_OK;
}

/* Round the family as fitted, tune it from there, and go back where that did not help. */
static enum mpq_status round_and_tune(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                      struct mpq_arena *scratch, uint32_t batch)
{
    double before, after;
    struct mpq_supernet rounded;
    size_t n_entry = (size_t)p->layers.n_layer * MPQ_N_BITS;
    if (mpq_pipeline_rounds(p))
        MPQ_TRY(round_widths(ctx, p, scratch));
    if (!p->n_step)
        return MPQ_OK;
    MPQ_TRY(family_loss(ctx, p, "before tuning", &before));
    MPQ_TRY(mpq_supernet_copy(ctx, scratch, &p->net, &rounded));
    double *sensitivity =
        mpq_arena_copy(ctx, scratch, p->sensitivity, n_entry * sizeof *sensitivity);
    if (!sensitivity)
        return MPQ_E_NOMEM;
    MPQ_TRY(tune(ctx, p, scratch, batch));
    MPQ_TRY(family_loss(ctx, p, "after tuning", &after));
    p->has_sensitivity = true;
    p->tuning_helped = after < before;
    if (p->tuning_helped)
        return MPQ_OK;
    mpq_log(ctx, MPQ_LOG_INFO, "tuning did not help on inputs held back from it and is left out");
    mpq_supernet_assign(&p->net, &rounded);
    memcpy(p->sensitivity, sensitivity, n_entry * sizeof *sensitivity);
    return MPQ_OK;
}

static uint64_t sensitivity_id(const struct mpq_pipeline *p)
{
    return mpq_checkpoint_targets_id(&p->decide_targets, &p->float_network.loss);
}

/* Losses of single widths, from the checkpoint where it has them. */
static enum mpq_status measure_sensitivity(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    if (p->is_resumed) {
        struct mpq_checkpoint checkpoint = mpq_pipeline_checkpoint(p, &p->net);
        bool is_found;
        checkpoint.sensitivity_id = sensitivity_id(p);
        MPQ_TRY(mpq_checkpoint_load_sensitivity(ctx, p->arena, &checkpoint, p->options->checkpoint,
                                                &is_found));
        if (is_found)
            return MPQ_OK;
    }
    if (!p->has_sensitivity)
        MPQ_TRY(mpq_sensitivity(ctx, &p->evaluator, p->act_quant, p->act.n_group, sensitivity_macs,
                                p->sensitivity));
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
    MPQ_TRY(mpq_pipeline_room_for_answers(ctx, p, &answers));
    if (!answers)
        return MPQ_OK;
    MPQ_TRY(mpq_checkpoint_load_answers(ctx, p->arena, p->options->checkpoint, sensitivity_id(p),
                                        answers));
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
    MPQ_TRY(mpq_pipeline_answer(ctx, p));
    struct mpq_checkpoint checkpoint = mpq_pipeline_checkpoint(p, &p->net);
    checkpoint.sensitivity_id = sensitivity_id(p);
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
    uint32_t batch = p->memory.tune_batch ? p->memory.tune_batch : tune_batch(p);
    p->n_step = tune_steps(p, batch);
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    enum mpq_status status = round_and_tune(ctx, p, scratch, batch);
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
