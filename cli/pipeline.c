#include "cli/pipeline.h"

#include <math.h>

#include "calibration/metric.h"
#include "cli/checkpoint.h"
#include "cli/input_shape.h"
#include "cli/output.h"
#include "cli/pick.h"
#include "cli/unfold.h"
#include "importer/import.h"
#include "quantcore/base/thread.h"
#include "quantcore/pass/pass.h"
#include "quantcore/quant/scale.h"

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

/* Networks that take batches of their own: nearly all of them must have one at any time. */
static uint32_t count_evaluators(const struct mpq_pipeline *p)
{
    uint32_t n_thread = (uint32_t)mpq_thread_count(),
             n_batch = mpq_evaluator_batches(&p->evaluator);
    uint32_t n_turn = (n_batch + n_thread - 1) / n_thread;
    return !p->options->max_memory && 5 * n_batch >= 4 * n_turn * n_thread ? n_thread : 1;
}

enum mpq_status mpq_pipeline_evaluator(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const struct mpq_pipeline *p, struct mpq_evaluator *out)
{
    uint32_t n = count_evaluators(p);
    struct mpq_network *network = mpq_arena_alloc(ctx, arena, n, sizeof *network);
    if (!network)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < n; i++)
        MPQ_TRY(mpq_network_create(ctx, arena, p->fake_graph, p->batch,
                                   &(struct mpq_exec_options){0}, &network[i]));
    *out = p->evaluator;
    out->network = network;
    out->n_network = n;
    return MPQ_OK;
}

enum mpq_status mpq_pipeline_room(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    return p->room ? MPQ_OK : mpq_room_create(ctx, p->arena, &p->room);
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

/* What of the model can be run, and its layers. */
static enum mpq_status find_layers(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    MPQ_TRY(mpq_cut_bind(ctx, p->arena, p->graph, &p->cut, &p->binding));
    p->graph = p->cut.run;
    p->export_graph = p->cut.whole;
    MPQ_TRY(mpq_layer_table_build(ctx, p->arena, p->graph, &p->binding, &p->layers));
    if (!p->layers.n_layer && p->cut.why)
        return mpq_fail(ctx, MPQ_E_UNSUPPORTED, "%s", p->cut.why);
    return MPQ_OK;
}

enum mpq_status mpq_pipeline_open(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_options *options, struct mpq_pipeline *p)
{
    MPQ_TRY(mpq_pipeline_load(ctx, arena, options, options->data, p));
    enum mpq_status status = find_layers(ctx, p);
    if (status == MPQ_E_SHAPE || status == MPQ_E_UNSUPPORTED)
        mpq_fail_prefix(ctx, options->model);
    if (status == MPQ_E_UNSUPPORTED && !options->recipe)
        mpq_fail_append(ctx, "; convert --weights-only runs nothing");
    if (status != MPQ_OK)
        return status;
    if (p->cut.why)
        mpq_log(ctx, MPQ_LOG_WARNING,
                "%s; these and what depends on them, %u of %u nodes, stay float and are not run: "
                "losses are measured where they read (--weights-only reaches weights in them)",
                p->cut.why, p->cut.n_carried, p->cut.whole->n_node);
    if (!p->layers.n_layer)
        return mpq_fail(ctx, MPQ_E_UNSUPPORTED,
                        "%s: no layer can be quantized (see onnx-mpq inspect)", options->model);
    MPQ_TRY(mpq_pick_exclude(ctx, arena, options->exclude, p->graph, &p->layers));
    /* A recipe learns codes with their scales, and a baseline has the scales of other tools. */
    bool keeps_scales = options->recipe || options->baseline;
    if (!keeps_scales)
        MPQ_TRY(mpq_scale_choose(ctx, arena, p->graph, p->layers.layer, p->layers.n_layer));
    for (uint32_t l = 0; l < p->layers.n_layer; l++)
        p->layers.layer[l].keeps_scales = keeps_scales;
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

uint64_t mpq_pipeline_macs(const struct mpq_pipeline *p)
{
    uint64_t macs = 0;
    for (uint32_t n = 0; n < p->graph->n_node; n++)
        macs += mpq_bind_macs(p->graph, &p->binding, n);
    return macs ? macs : 1;
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
    p->refined_share = mpq_arena_alloc(ctx, p->arena, n_layer, sizeof *p->refined_share);
    if (!p->refined_share || !p->sensitivity || !node_of || !p->layer_node || !keep ||
        !p->uniform_loss)
        return MPQ_E_NOMEM;
    for (size_t i = 0; i < n_uniform; i++)
        p->uniform_loss[i] = (double)NAN;
    for (uint32_t l = 0; l < n_layer; l++)
        p->refined_share[l] = (double)NAN;
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
