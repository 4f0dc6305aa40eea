/* The second half of the pipeline: export, verification of what was written, the report. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "calibration/metric.h"
#include "cli/pipeline.h"
#include "cli/runner.h"
#include "cli/version.h"
#include "importer/import.h"
#include "quantcore/pass/pass.h"
#include "quantcore/quant/saturation.h"

/* NO_GROUP: the layer's input stays float. */
static uint32_t input_group(const struct mpq_pipeline *p, const struct mpq_layer *layer)
{
    return layer->is_weight_only || !p->act.group
               ? MPQ_NO_GROUP
               : mpq_act_plan_input(&p->act, layer->node, layer->x);
}

/* Whether a kernel that adds pairs of products in 16 bits may run layer l: it multiplies 8-bit
 * activations, and is no convolution of one channel a group in and out. */
static bool has_pairs(const struct mpq_pipeline *p, uint32_t l, struct mpq_saturation *out)
{
    const struct mpq_layer *layer = &p->layers.layer[l];
    const struct mpq_node *node = &p->graph->node[layer->node];
    const struct mpq_shape *shape = &p->graph->value[layer->weight].constant->shape;
    uint32_t group = input_group(p, layer);
    bool is_conv = mpq_node_is(node, "Conv");
    if ((!is_conv && !mpq_node_is(node, "MatMul") && !mpq_node_is(node, "Gemm")) ||
        group == MPQ_NO_GROUP || p->act_quant[group].bits > 8 ||
        (layer->is_depthwise && layer->n_group == layer->n_channel))
        return false;
    *out =
        (struct mpq_saturation){layer, is_conv ? mpq_shape_count_range(shape, 2, shape->rank) : 1,
                                (1 << p->act_quant[group].bits) - 1};
    return true;
}

static enum mpq_status check_saturation(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    struct mpq_saturation saturation;
    int64_t n_repaired;
    p->n_saturating = mpq_arena_alloc(ctx, p->arena, p->layers.n_layer, sizeof *p->n_saturating);
    if (!p->n_saturating)
        return MPQ_E_NOMEM;
    for (uint32_t l = 0; l < p->layers.n_layer; l++) {
        if (!has_pairs(p, l, &saturation))
            continue;
        if (p->options->saturation_safe) {
            MPQ_TRY(mpq_saturation_repair(ctx, p->arena, &saturation, &p->code[l], &n_repaired));
            p->n_repaired += n_repaired;
        }
        p->n_saturating[l] = mpq_saturation_count(&saturation, p->code[l].q);
    }
    return MPQ_OK;
}

enum mpq_status mpq_pipeline_write(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    struct mpq_export_plan plan = mpq_pipeline_export_plan(p);
    plan.code = p->code;
    return mpq_export(ctx, p->arena, &plan, &p->file);
}

enum mpq_status mpq_pipeline_export(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    if (!p->paper) { /* which has made its own */
        p->code = mpq_arena_alloc(ctx, p->arena, p->layers.n_layer, sizeof *p->code);
        if (!p->code)
            return MPQ_E_NOMEM;
        MPQ_TRY(mpq_supernet_codes(ctx, p->arena, &p->net, p->bits, p->code));
        MPQ_TRY(check_saturation(ctx, p));
    }
    return mpq_pipeline_write(ctx, p);
}

/* ---- verify ---- */

/* Two networks fed the same samples, compared output by output. */
struct side_by_side {
    struct mpq_pipeline *p;
    struct mpq_exec *reference; /* fed from the runner's inputs and run beside it */
    const struct mpq_graph *reference_graph;
    struct mpq_tensor **output;        /* [n_output] of the reference */
    struct mpq_comparison *comparison; /* [n_output] */
    struct mpq_accuracy accuracy, reference_accuracy;
    uint64_t n_lost, n_won;       /* right only in the reference, only in the runner's model */
    struct mpq_dataset *labelled; /* NULL: no labels */
    struct mpq_answers *answers;  /* of the reference, to keep or to take; NULL: neither */
    uint32_t n_seen;              /* samples so far */
};

static void score_labels(struct side_by_side *s, const mpq_real *reference, const mpq_real *y,
                         const uint32_t *index, uint32_t n)
{
    int64_t n_class = s->p->n_class;
    for (uint32_t i = 0; i < n; i++) {
        int64_t label = mpq_dataset_label(s->labelled, index[i]);
        bool was_right = mpq_metric_argmax(reference + i * n_class, n_class) == label;
        bool is_right = mpq_metric_argmax(y + i * n_class, n_class) == label;
        s->n_lost += was_right && !is_right;
        s->n_won += is_right && !was_right;
        mpq_accuracy_add(&s->accuracy, y + i * n_class, n_class, label);
        mpq_accuracy_add(&s->reference_accuracy, reference + i * n_class, n_class, label);
    }
}

/* Run the reference on the runner's inputs, n samples of which are new; its answers are kept. */
static void run_reference(const struct side_by_side *s, const struct mpq_runner *runner, uint32_t n)
{
    const struct mpq_graph *graph = s->reference_graph;
    for (uint32_t i = 0; i < graph->n_input; i++)
        memcpy(mpq_exec_tensor(s->reference, graph->input[i])->data, runner->input[i]->data,
               mpq_tensor_bytes(runner->input[i]));
    mpq_exec_forward(s->reference, 0, graph->n_node);
    if (s->answers)
        mpq_answers_keep(s->answers, runner->input, graph->n_input, s->output, runner->batch,
                         s->n_seen, n);
}

static enum mpq_status compare_batch(struct mpq_ctx *ctx, void *arg,
                                     const struct mpq_runner *runner, const uint32_t *index,
                                     uint32_t n)
{
    (void)ctx;
    struct side_by_side *s = arg;
    const struct mpq_answers *answers = s->answers;
    if (!mpq_answers_know(answers, runner->input, s->reference_graph->n_input, runner->batch,
                          s->n_seen, n))
        run_reference(s, runner, n);
    for (uint32_t i = 0; i < s->reference_graph->n_output; i++) {
        const struct mpq_tensor *want = s->output[i], *got = runner->output[i];
        if (want->dtype != MPQ_FLOAT || got->dtype != MPQ_FLOAT)
            continue;
        const mpq_real *reference = want->data;
        if (answers)
            reference = answers->output[i] + s->n_seen * answers->n_element[i];
        bool is_scored = i == s->p->scored;
        mpq_comparison_add(&s->comparison[i], reference, got->data, n, runner->n_element[i],
                           is_scored ? s->p->n_class : 0);
        if (is_scored && s->labelled)
            score_labels(s, reference, got->data, index, n);
    }
    s->n_seen += n;
    return MPQ_OK;
}

/* Room for what the runs over n samples answer, which have the outputs of the float model; *out
 * NULL where it would be more than `most`. */
static enum mpq_status make_answers(struct mpq_ctx *ctx, struct mpq_pipeline *p, uint32_t n,
                                    size_t most, struct mpq_answers **out)
{
    const struct mpq_graph *graph = p->run_graph;
    struct mpq_tensor **output;
    MPQ_TRY(mpq_exec_tensors(ctx, p->arena, p->float_network.exec, graph->output, graph->n_output,
                             &output));
    return mpq_answers_create(ctx, p->arena, output, graph->n_output, p->batch, n,
                              mpq_memory_cache(p, most), out);
}

/* In memory, and in a checkpoint. */
static const size_t most_kept = (size_t)256 << 20, most_stored = (size_t)16 << 20;

enum mpq_status mpq_pipeline_keep_answers(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    return p->answers ? MPQ_OK : make_answers(ctx, p, p->report.n, most_kept, &p->answers);
}

enum mpq_status mpq_pipeline_room_for_answers(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                              struct mpq_answers **out)
{
    return make_answers(ctx, p, p->report.n, most_stored, out);
}

enum mpq_status mpq_pipeline_answer(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    struct mpq_network *network = &p->float_network;
    const struct mpq_graph *graph = network->graph;
    struct mpq_samples samples = mpq_pipeline_samples(&p->report);
    struct mpq_tensor **output;
    MPQ_TRY(mpq_pipeline_room_for_answers(ctx, p, &p->answers));
    MPQ_TRY(
        mpq_exec_tensors(ctx, p->arena, network->exec, graph->output, graph->n_output, &output));
    for (uint32_t first = 0; p->answers && first < p->report.n; first += p->batch) {
        uint32_t left = p->report.n - first, n = left < p->batch ? left : p->batch;
        MPQ_TRY(mpq_step(ctx, "float answers", first, p->report.n, (double)NAN));
        MPQ_TRY(mpq_network_read(ctx, network, &samples, p->report.sample + first, n));
        mpq_exec_forward(network->exec, 0, graph->n_node);
        mpq_answers_keep(p->answers, network->input, graph->n_input, output, p->batch, first, n);
    }
    return MPQ_OK;
}

static enum mpq_status run_beside(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                  struct mpq_runner *runner, struct mpq_exec *reference,
                                  const struct mpq_graph *reference_graph,
                                  const struct mpq_part *part, uint32_t n, const char *stage,
                                  struct mpq_answers *answers, struct side_by_side *out)
{
    *out = (struct side_by_side){
        .p = p, .reference = reference, .reference_graph = reference_graph, .answers = answers};
    out->comparison =
        mpq_arena_alloc(ctx, p->arena, reference_graph->n_output, sizeof *out->comparison);
    if (!out->comparison)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_exec_tensors(ctx, p->arena, reference, reference_graph->output,
                             reference_graph->n_output, &out->output));
    if (mpq_dataset_has_labels(part->dataset) && p->scored != UINT32_MAX)
        out->labelled = part->dataset;
    return mpq_runner_run(ctx, runner, part->dataset, part->sample, n, stage, compare_batch, out);
}

/* The file, in float arithmetic or on integers as ONNX Runtime runs it. */
static enum mpq_status read_written(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_pipeline *p, const char *path, bool on_integers,
                                    struct mpq_runner *out)
{
    struct mpq_graph *graph;
    size_t file_bytes;
    MPQ_TRY(mpq_import_file(ctx, arena, path, &graph, &file_bytes));
    graph->assumed = p->graph->assumed; /* inputs keep their order */
    if (on_integers) {
        MPQ_TRY(mpq_fuse_integer(ctx, arena, graph, &graph));
        MPQ_TRY(mpq_simplify(ctx, arena, graph, &graph));
    }
    if (p->cut.n_carried)
        MPQ_TRY(mpq_cut_like(ctx, arena, graph, &p->cut, &graph));
    if (p->run_graph != p->graph) {
        bool changed;
        MPQ_TRY(mpq_rebatch(ctx, arena, graph, &graph, &changed));
    }
    return mpq_runner_create(ctx, arena, graph, p->batch, NULL, out);
}

/* Run it beside the fake-quantized network, or beside its `answers`, on the first n of the samples
 * that decided. No output may be farther off than least_db. */
static enum mpq_status compare_written(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                       const char *path, struct mpq_runner *written,
                                       double least_db, uint32_t n, struct mpq_answers *answers,
                                       struct side_by_side *out)
{
    MPQ_TRY(run_beside(ctx, p, written, p->fake_network.exec, p->fake_graph, &p->decide, n,
                       "verify", answers, out));
    for (uint32_t i = 0; i < p->graph->n_output; i++) {
        const char *name = p->graph->value[p->graph->output[i]].name;
        double db = mpq_comparison_sqnr_db(&out->comparison[i]);
        mpq_log(ctx, MPQ_LOG_INFO, "output '%s': the file is %.1f dB from the tuned network", name,
                db);
        if (out->comparison[i].n_element && !(db >= least_db))
            return mpq_fail(ctx, MPQ_E_NUMERIC,
                            "%s: the written file's output '%s' is only %.1f dB from the tuned "
                            "network on %u inputs, so it is not kept",
                            path, name, db, n);
    }
    return MPQ_OK;
}

/* Of the output that is farthest off. */
static double least_sqnr_db(const struct mpq_pipeline *p, const struct side_by_side *s)
{
    double least = (double)INFINITY;
    for (uint32_t i = 0; i < p->graph->n_output; i++) {
        double db = mpq_comparison_sqnr_db(&s->comparison[i]);
        least = s->comparison[i].n_element && db < least ? db : least;
    }
    return least;
}

static void report_difference(const struct mpq_pipeline *p, const struct side_by_side *s,
                              struct mpq_report *report)
{
    report->verify_db = least_sqnr_db(p, s);
    report->verify_difference = report->verify_difference_max = 0;
    for (uint32_t i = 0; i < p->graph->n_output; i++) {
        const struct mpq_comparison *c = &s->comparison[i];
        if (!c->n_element)
            continue;
        double mean = c->difference_sum / (double)c->n_element;
        report->n_verify = c->n_sample;
        if (mean > report->verify_difference)
            report->verify_difference = mean;
        if (c->difference_max > report->verify_difference_max)
            report->verify_difference_max = c->difference_max;
    }
}

/* Twice: in float the file and the fake-quantized network compute the same, weights, biases and
 * activations, but for the order of sums, which proves the file. On integers, as it will run, both
 * round the same numbers, one from an int32 sum and one from a sum of floats: they part where a
 * value lies next to a rounding tie, and a deep network makes much of that. So this difference is
 * reported, and only one that no rounding explains is an error. */
static enum mpq_status compare_forms(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                     struct mpq_pipeline *p, const char *path,
                                     struct mpq_runner *out_on_integers, struct mpq_report *report)
{
    enum { MAX_SAMPLES = 64 };
    const double least_db = 25, least_integer_db = 10;
    uint32_t n = p->decide.n < MAX_SAMPLES ? p->decide.n : MAX_SAMPLES;
    struct side_by_side s;
    struct mpq_runner in_float;
    struct mpq_answers *answers;
    MPQ_TRY(make_answers(ctx, p, n, most_kept, &answers));
    MPQ_TRY(read_written(ctx, scratch, p, path, false, &in_float));
    MPQ_TRY(compare_written(ctx, p, path, &in_float, least_db, n, answers, &s));
    report->verify_float_db = least_sqnr_db(p, &s);
    mpq_arena_reset(scratch); /* one form at a time */
    MPQ_TRY(read_written(ctx, scratch, p, path, true, out_on_integers));
    MPQ_TRY(compare_written(ctx, p, path, out_on_integers, least_integer_db, n, answers, &s));
    report_difference(p, &s, report);
    return MPQ_OK;
}

/* With the codes of the file, summed as a file is; out_on_integers, in `scratch`, goes on to be
 * measured. */
static enum mpq_status check_same(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                  struct mpq_pipeline *p, const char *path,
                                  struct mpq_runner *out_on_integers, struct mpq_report *report)
{
    struct mpq_export_plan plan = mpq_pipeline_export_plan(p);
    struct mpq_layer_code *stored =
        mpq_arena_alloc(ctx, p->arena, p->layers.n_layer, sizeof *stored);
    if (!stored)
        return MPQ_E_NOMEM;
    plan.code = p->code;
    MPQ_TRY(mpq_export_codes(ctx, p->arena, &plan, stored));
    mpq_supernet_apply_codes(&p->net, p->fake_network.exec, stored);
    mpq_exec_sum_plainly(p->fake_network.exec, true);
    enum mpq_status status = compare_forms(ctx, scratch, p, path, out_on_integers, report);
    mpq_exec_sum_plainly(p->fake_network.exec, false);
    return status;
}

static enum mpq_status verify(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                              struct mpq_pipeline *p, const char *path, struct mpq_report *report)
{
    struct mpq_runner written;
    MPQ_TRY(check_same(ctx, scratch, p, path, &written, report));
    if (!p->report.n)
        return MPQ_OK;

    struct side_by_side s;
    MPQ_TRY(run_beside(ctx, p, &written, p->float_network.exec, p->run_graph, &p->report,
                       p->report.n, "measure", p->answers, &s));
    const struct mpq_comparison *c = &s.comparison[p->scored == UINT32_MAX ? 0 : p->scored];
    report->n_eval = p->report.n;
    report->sqnr_db = mpq_comparison_sqnr_db(c);
    if (p->scored != UINT32_MAX) {
        report->agreement = (double)c->n_agree / (double)c->n_sample;
        report->kl = c->kl_sum / (double)c->n_sample;
    }
    uint64_t n_lost = s.labelled ? s.n_lost : c->n_sample - c->n_agree; /* see --max-drop */
    if (p->options->max_drop > 0) {
        report->max_drop = p->options->max_drop / 100;
        report->drop_confidence =
            mpq_paired_confidence(c->n_sample, n_lost, s.n_won, report->max_drop);
    }
    if (s.labelled) {
        double n = (double)s.accuracy.n_sample;
        struct mpq_paired paired = mpq_paired_difference(s.accuracy.n_sample, s.n_lost, s.n_won);
        report->metric = "top1";
        report->metric_float = (double)s.reference_accuracy.n_top1 / n;
        report->metric_quantized = (double)s.accuracy.n_top1 / n;
        report->drop = paired.difference;
        report->drop_low = paired.low;
        report->drop_high = paired.high;
    }
    return MPQ_OK;
}

enum mpq_status mpq_pipeline_verify(struct mpq_ctx *ctx, struct mpq_pipeline *p, const char *path,
                                    struct mpq_report *report)
{
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    enum mpq_status status = scratch ? verify(ctx, scratch, p, path, report) : MPQ_E_NOMEM;
    mpq_arena_free(scratch);
    return status;
}

/* ---- report ---- */

/* The networks with what layers answer, where those there are keep nothing. */
static enum mpq_status keep_outputs(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                    const struct mpq_pipeline *p, struct mpq_network *in_float,
                                    struct mpq_network *fake)
{
    struct mpq_exec_options options = {0};
    bool *keep = mpq_arena_alloc(ctx, scratch, p->fake_graph->n_value, sizeof *keep);
    *in_float = p->float_network;
    *fake = p->fake_network;
    if (!keep)
        return MPQ_E_NOMEM;
    if (!mpq_pipeline_runs_plainly(p))
        return MPQ_OK;
    for (uint32_t l = 0; l < p->layers.n_layer; l++)
        keep[p->layers.layer[l].y] = true;
    options.keep = keep;
    MPQ_TRY(mpq_network_create(ctx, scratch, p->run_graph, p->batch, &options, in_float));
    return mpq_network_create(ctx, scratch, p->fake_graph, p->batch, &options, fake);
}

/* Each layer's output in the quantized network against the float one, on a few samples. */
static enum mpq_status layer_sqnr(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                  struct mpq_pipeline *p, struct mpq_report_layer *row)
{
    enum { SAMPLES = 8 };
    struct mpq_samples samples = mpq_pipeline_samples(&p->decide);
    uint32_t n = p->decide.n < SAMPLES ? p->decide.n : SAMPLES;
    struct mpq_network in_float, fake, *networks[] = {&in_float, &fake};
    struct mpq_comparison *comparison =
        mpq_arena_alloc(ctx, scratch, p->layers.n_layer, sizeof *comparison);
    if (!comparison)
        return MPQ_E_NOMEM;
    MPQ_TRY(keep_outputs(ctx, scratch, p, &in_float, &fake));
    mpq_supernet_apply_codes(&p->net, fake.exec, p->code);
    for (uint32_t first = 0; first < n; first += p->batch) {
        uint32_t n_here = n - first < p->batch ? n - first : p->batch;
        for (size_t i = 0; i < MPQ_COUNT(networks); i++) {
            MPQ_TRY(mpq_network_read(ctx, networks[i], &samples, p->decide.sample + first, n_here));
            mpq_exec_forward(networks[i]->exec, 0, networks[i]->graph->n_node);
        }
        for (uint32_t l = 0; l < p->layers.n_layer; l++) {
            mpq_value_id y = p->layers.layer[l].y;
            const struct mpq_tensor *want = mpq_exec_tensor(in_float.exec, y);
            const struct mpq_equal_edge *edge = mpq_equalize_edge(&p->equalize, l);
            if (edge)
                mpq_equalize_scale(edge, want);
            mpq_comparison_add(&comparison[l], want->data, mpq_exec_tensor(fake.exec, y)->data, 1,
                               mpq_shape_count(&want->shape), 0);
        }
    }
    for (uint32_t l = 0; l < p->layers.n_layer; l++)
        row[l].sqnr_db = mpq_comparison_sqnr_db(&comparison[l]);
    return MPQ_OK;
}

static enum mpq_status echo_options(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                    struct mpq_report *report)
{
    size_t n = mpq_option_count(), n_version = mpq_version_count();
    struct mpq_report_fact *fact = mpq_arena_alloc(ctx, p->arena, n + n_version + 10, sizeof *fact);
    if (!fact)
        return MPQ_E_NOMEM;
    uint32_t n_fact = 0;
    for (size_t i = 0; i < n; i++)
        if (p->options->text[i])
            fact[n_fact++] = (struct mpq_report_fact){
                mpq_arena_printf(ctx, p->arena, "option_%s", mpq_option_name(i)),
                p->options->text[i]};
    for (size_t i = 0; i < n_version; i++) {
        struct mpq_version version = mpq_version_at(i);
        fact[n_fact++] = (struct mpq_report_fact){
            mpq_arena_printf(ctx, p->arena, "version_%s", version.name), version.value};
    }
    const struct mpq_report_fact counts[] = {
        {"tune_steps", mpq_arena_printf(ctx, p->arena, "%u", p->n_step)},
        {"tuning", p->is_resumed      ? "from the checkpoint"
                   : !p->n_step       ? "none"
                   : p->tuning_helped ? "kept"
                                      : "left out"},
        {"refining", p->options->no_refine || p->options->baseline ? "none"
                     : p->refining_helped                          ? "kept"
                                                                   : "left out"},
        {"equalizing", p->options->no_equalize || p->options->baseline ? "none"
                       : p->equalize.n_edge                            ? "kept"
                                                                       : "left out"},
        {"uniform_bits", mpq_arena_printf(ctx, p->arena, "%d", p->found.uniform_bits)},
        {"uniform_loss", mpq_arena_printf(ctx, p->arena, "%.9g", p->found.uniform_loss)},
        {"tune_samples", mpq_arena_printf(ctx, p->arena, "%u", p->tune.n)},
        {"decide_samples", mpq_arena_printf(ctx, p->arena, "%u", p->decide.n)},
    };
    memcpy(fact + n_fact, counts, sizeof counts);
    n_fact += (uint32_t)MPQ_COUNT(counts);
    if (p->cut.n_carried) {
        report->n_carried = p->cut.n_carried;
        report->carried = mpq_cut_list(ctx, p->arena, &p->cut);
        fact[n_fact++] = (struct mpq_report_fact){"carried_nodes", report->carried};
    }
    for (uint32_t i = 0; i < n_fact; i++)
        if (!fact[i].key || !fact[i].value)
            return MPQ_E_NOMEM;
    report->fact = fact;
    report->n_fact = n_fact;
    return MPQ_OK;
}

static enum mpq_status report_search(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                     struct mpq_report *report)
{
    struct mpq_report_limit *limit = mpq_arena_alloc(ctx, p->arena, MPQ_N_COST, sizeof *limit);
    if (!limit)
        return MPQ_E_NOMEM;
    report->limit = limit;
    report->n_limit = 0;
    for (uint32_t c = 0; c < p->problem.n_cost; c++) {
        const struct mpq_cost *cost = &p->problem.cost[c];
        if (cost->budget != MPQ_NO_LIMIT)
            limit[report->n_limit++] = (struct mpq_report_limit){
                cost->name, cost->unit, (double)cost->budget * cost->shown,
                (double)p->found.cost[c] * cost->shown, p->found.price[c] / cost->shown};
    }
    report->loss = p->found.loss;
    mpq_search_mean(p->found.sample_loss, NULL, p->problem.n_sample, &report->loss_error);
    report->estimate = p->found.estimate;
    report->bound = p->found.bound;
    report->bound_is_reached = p->found.is_exact;
    return MPQ_OK;
}

enum mpq_status mpq_pipeline_report(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                    struct mpq_report *report)
{
    uint32_t n_layer = p->layers.n_layer;
    struct mpq_report_layer *row = mpq_arena_alloc(ctx, p->arena, n_layer, sizeof *row);
    if (!row)
        return MPQ_E_NOMEM;
    double bits_sum = 0, n_param = 0;
    for (uint32_t l = 0; l < n_layer; l++) {
        const struct mpq_layer *layer = &p->layers.layer[l];
        uint32_t group = input_group(p, layer);
        row[l] = (struct mpq_report_layer){
            .node = layer->name,
            .operator_type = p->graph->node[layer->node].op_type,
            .n_param = (uint64_t)layer->n_param,
            .macs = layer->macs,
            .weight_bits = p->bits[l],
            .activation_bits = group == MPQ_NO_GROUP ? 32 : p->act_quant[group].bits,
            .float_bytes = (uint64_t)layer->n_param * sizeof(float),
            .quantized_bytes = p->layer_bytes[l * MPQ_N_BITS + p->bits[l]],
            .n_saturating = p->n_saturating ? (uint64_t)p->n_saturating[l] : 0,
        };
        for (int b = 0; b < MPQ_N_BITS; b++) {
            row[l].sensitivity[b] = p->sensitivity[l * MPQ_N_BITS + b];
            row[l].bytes[b] = p->layer_bytes[l * MPQ_N_BITS + b];
        }
        row[l].chosen_by = p->options->plan ? "plan" : p->lock[l] ? "lock" : "search";
        bits_sum += (double)row[l].weight_bits * (double)row[l].n_param;
        n_param += (double)row[l].n_param;
        report->bitops +=
            row[l].macs * (uint64_t)row[l].weight_bits * (uint64_t)row[l].activation_bits;
    }
    if (!p->options->weights_only) {
        struct mpq_arena *scratch = mpq_arena_create(ctx);
        enum mpq_status status = scratch ? layer_sqnr(ctx, scratch, p, row) : MPQ_E_NOMEM;
        mpq_arena_free(scratch);
        MPQ_TRY(status);
    }
    for (uint32_t l = 0; l < n_layer && p->options->weights_only; l++)
        row[l].sqnr_db = -10 * log10(row[l].sensitivity[row[l].weight_bits]);
    MPQ_TRY(report_search(ctx, p, report));
    MPQ_TRY(echo_options(ctx, p, report));
    report->model = p->options->model;
    report->output = p->options->output;
    report->n_layer = n_layer;
    report->layer = row;
    report->n_stage = p->n_stage;
    report->stage = p->stage;
    report->n_left_float = p->n_left_float;
    report->left_float_macs = p->left_float_macs;
    report->n_repaired = (uint64_t)p->n_repaired;
    report->float_bytes = p->float_bytes;
    report->quantized_bytes = p->file.bytes + p->file.external_bytes;
    report->average_weight_bits = bits_sum / n_param;
    report->seed = ctx->seed;
    report->n_threads = ctx->n_threads;
    return MPQ_OK;
}
