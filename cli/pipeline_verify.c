/* The pipeline's last stage: what was written is read back, run and measured. */
#include <math.h>
#include <string.h>

#include "calibration/metric.h"
#include "cli/pipeline.h"
#include "cli/runner.h"
#include "importer/import.h"
#include "quantcore/pass/pass.h"

/* ---- side by side ---- */

/* Two networks fed the same samples, compared output by output. */
struct side_by_side {
    struct mpq_pipeline *p;
    struct mpq_exec
        *reference; /* fed from the runner's inputs and run beside it; NULL: has answered */
    const struct mpq_graph *reference_graph;
    struct mpq_tensor **output;        /* [n_output] of the reference, where it is there */
    struct mpq_comparison *comparison; /* [n_output] */
    struct mpq_accuracy accuracy, reference_accuracy;
    uint64_t n_lost, n_won;       /* right only in the reference, only in the runner's model */
    struct mpq_dataset *labelled; /* NULL: no labels */
    struct mpq_answers *answers;  /* of the reference, to keep or to take; NULL: neither */
    uint32_t n_seen, n_wanted;    /* samples so far; to be compared */
};

/* One or two, fed by one run: the quantized network and the float model. */
struct sides {
    struct side_by_side side[2];
    uint32_t n_side;
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
    MPQ_ASSERT(s->reference);
    for (uint32_t i = 0; i < graph->n_input; i++)
        memcpy(mpq_exec_tensor(s->reference, graph->input[i])->data, runner->input[i]->data,
               mpq_tensor_bytes(runner->input[i]));
    mpq_exec_forward(s->reference, 0, graph->n_node);
    if (s->answers)
        mpq_answers_keep(s->answers, runner->input, graph->n_input, s->output, runner->batch,
                         s->n_seen, n);
}

/* The first n samples of the batch. */
static void compare_with(struct side_by_side *s, const struct mpq_runner *runner,
                         const uint32_t *index, uint32_t n)
{
    const struct mpq_answers *answers = s->answers;
    if (!mpq_answers_know(answers, runner->input, s->reference_graph->n_input, runner->batch,
                          s->n_seen, n))
        run_reference(s, runner, n);
    for (uint32_t i = 0; i < s->reference_graph->n_output; i++) {
        const struct mpq_tensor *got = runner->output[i];
        if (s->p->binding.tensor[s->p->graph->output[i]].dtype != MPQ_FLOAT ||
            got->dtype != MPQ_FLOAT)
            continue;
        const mpq_real *reference =
            answers ? answers->output[i] + s->n_seen * answers->n_element[i] : s->output[i]->data;
        bool is_scored = i == s->p->scored;
        mpq_comparison_add(&s->comparison[i], reference, got->data, n, runner->n_element[i],
                           is_scored ? s->p->n_class : 0);
        if (is_scored && s->labelled)
            score_labels(s, reference, got->data, index, n);
    }
    s->n_seen += n;
}

static enum mpq_status compare_batch(struct mpq_ctx *ctx, void *arg,
                                     const struct mpq_runner *runner, const uint32_t *index,
                                     uint32_t n)
{
    (void)ctx;
    struct sides *sides = arg;
    for (uint32_t i = 0; i < sides->n_side; i++) {
        struct side_by_side *s = &sides->side[i];
        uint32_t left = s->n_wanted - s->n_seen;
        if (left)
            compare_with(s, runner, index, n < left ? n : left);
    }
    return MPQ_OK;
}

/* A side that compares the first n samples of the part with `reference`, or with its answers. */
static enum mpq_status make_side(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                 const struct mpq_network *network, const struct mpq_part *part,
                                 uint32_t n, struct mpq_answers *answers, struct side_by_side *out)
{
    struct mpq_exec *reference = network->exec;
    const struct mpq_graph *reference_graph = network->graph;
    *out = (struct side_by_side){.p = p,
                                 .reference = reference,
                                 .reference_graph = reference_graph,
                                 .n_wanted = n,
                                 .answers = answers};
    out->comparison =
        mpq_arena_alloc(ctx, p->arena, reference_graph->n_output, sizeof *out->comparison);
    if (!out->comparison)
        return MPQ_E_NOMEM;
    if (reference)
        MPQ_TRY(mpq_exec_tensors(ctx, p->arena, reference, reference_graph->output,
                                 reference_graph->n_output, &out->output));
    if (mpq_dataset_has_labels(part->dataset) && p->scored != UINT32_MAX)
        out->labelled = part->dataset;
    return MPQ_OK;
}

/* Run the first samples of the part, as many as a side wants, and compare. */
static enum mpq_status run_beside(struct mpq_ctx *ctx, struct mpq_runner *runner,
                                  const struct mpq_part *part, const char *stage,
                                  struct sides *sides)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < sides->n_side; i++)
        n = sides->side[i].n_wanted > n ? sides->side[i].n_wanted : n;
    return mpq_runner_run(ctx, runner, part->dataset, part->sample, n, stage, compare_batch, sides);
}

/* ---- the file ---- */

/* How the file runs: how many samples at once, and in batches of how many. */
struct pace {
    uint32_t n_sample, batch;
};

static bool are_known(const struct mpq_answers *answers, uint32_t n)
{
    return !n || (answers && answers->n_sample >= n);
}

/* Of n samples, n_beside of which are compared with `answers` and those that report with the float
 * model's: each thread runs batches of its own, but where a network has to run beside the file, all
 * threads share the loops of both. */
static struct pace pace_of(const struct mpq_pipeline *p, const struct mpq_answers *answers,
                           uint32_t n_beside, uint32_t n)
{
    bool is_known = are_known(answers, n_beside) && are_known(p->answers, p->report.n);
    if (!is_known || p->options->max_memory)
        return (struct pace){1, p->batch};
    bool is_frugal = mpq_pipeline_runs_plainly(p); /* its batches are a thread's already */
    return (struct pace){n, is_frugal ? p->batch : mpq_pipeline_thread_batch(p->batch)};
}

/* The file, in float arithmetic or on integers as ONNX Runtime runs it. */
static enum mpq_status read_written(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_pipeline *p, const char *path, bool on_integers,
                                    struct pace pace, struct mpq_runner *out)
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
    return mpq_runner_create_many(ctx, arena, graph, pace.batch, pace.n_sample, out);
}

/* No output may be farther off than least_db. */
static enum mpq_status judge_written(struct mpq_ctx *ctx, const struct mpq_pipeline *p,
                                     const char *path, const struct side_by_side *out,
                                     double least_db)
{
    for (uint32_t i = 0; i < p->graph->n_output; i++) {
        const char *name = p->graph->value[p->graph->output[i]].name;
        double db = mpq_comparison_sqnr_db(&out->comparison[i]);
        mpq_log(ctx, MPQ_LOG_INFO, "output '%s': the file is %.1f dB from the tuned network", name,
                db);
        if (out->comparison[i].n_element && !(db >= least_db))
            return mpq_fail(ctx, MPQ_E_NUMERIC,
                            "%s: the written file's output '%s' is only %.1f dB from the tuned "
                            "network on %u inputs, so it is not kept",
                            path, name, db, out->n_seen);
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

/* What the file answers on integers beside the float model. */
static void report_measured(const struct mpq_pipeline *p, const struct side_by_side *s,
                            struct mpq_report *report)
{
    const struct mpq_comparison *c = &s->comparison[p->scored == UINT32_MAX ? 0 : p->scored];
    report->n_eval = p->report.n;
    report->sqnr_db = mpq_comparison_sqnr_db(c);
    if (p->scored != UINT32_MAX) {
        report->agreement = (double)c->n_agree / (double)c->n_sample;
        report->kl = c->kl_sum / (double)c->n_sample;
    }
    uint64_t n_lost = s->labelled ? s->n_lost : c->n_sample - c->n_agree; /* see --max-drop */
    if (p->options->max_drop > 0) {
        report->max_drop = p->options->max_drop / 100;
        report->drop_confidence =
            mpq_paired_confidence(c->n_sample, n_lost, s->n_won, report->max_drop);
    }
    if (s->labelled) {
        double n = (double)s->accuracy.n_sample;
        struct mpq_paired paired = mpq_paired_difference(s->accuracy.n_sample, s->n_lost, s->n_won);
        report->metric = "top1";
        report->metric_float = (double)s->reference_accuracy.n_top1 / n;
        report->metric_quantized = (double)s->accuracy.n_top1 / n;
        report->drop = paired.difference;
        report->drop_low = paired.low;
        report->drop_high = paired.high;
    }
}

/* Twice: in float the file and the fake-quantized network compute the same, weights, biases and
 * activations, but for the order of sums, which proves the file; a few samples do, of outputs whose
 * every element depends on all layers. On integers, as it will run, both round the same numbers,
 * one from an int32 sum and one from a sum of floats: they part where a value lies next to a
 * rounding tie, and a deep network makes much of that. So this difference is reported, and only one
 * that no rounding explains is an error. The same run is measured against the float model where the
 * samples are the same. */
static enum mpq_status compare_forms(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                     struct mpq_pipeline *p, const char *path, uint32_t n,
                                     struct mpq_answers *answers, struct mpq_report *report)
{
    enum { IN_FLOAT = 4 };
    const double least_db = 25, least_integer_db = 10;
    struct mpq_runner written;
    struct sides sides = {.n_side = 1}, measured = {.n_side = 1};
    uint32_t n_float = n < IN_FLOAT ? n : IN_FLOAT;
    MPQ_TRY(make_side(ctx, p, &p->fake_network, &p->decide, n_float, answers, &sides.side[0]));
    MPQ_TRY(read_written(ctx, scratch, p, path, false, pace_of(p, answers, n, n_float), &written));
    MPQ_TRY(run_beside(ctx, &written, &p->decide, "verify", &sides));
    MPQ_TRY(judge_written(ctx, p, path, &sides.side[0], least_db));
    report->verify_float_db = least_sqnr_db(p, &sides.side[0]);
    mpq_arena_reset(scratch); /* one form at a time */
    MPQ_TRY(read_written(ctx, scratch, p, path, true,
                         pace_of(p, answers, n, p->report.n > n ? p->report.n : n), &written));
    MPQ_TRY(make_side(ctx, p, &p->fake_network, &p->decide, n, answers, &sides.side[0]));
    struct side_by_side *reported = &sides.side[1];
    if (p->decides_on_report)
        sides.n_side = 2;
    else
        reported = &measured.side[0];
    if (p->report.n)
        MPQ_TRY(
            make_side(ctx, p, &p->float_network, &p->report, p->report.n, p->answers, reported));
    const struct mpq_part *part = p->decides_on_report ? &p->report : &p->decide;
    MPQ_TRY(run_beside(ctx, &written, part, "verify", &sides));
    MPQ_TRY(judge_written(ctx, p, path, &sides.side[0], least_integer_db));
    report_difference(p, &sides.side[0], report);
    if (!p->report.n)
        return MPQ_OK;
    if (!p->decides_on_report)
        MPQ_TRY(run_beside(ctx, &written, &p->report, "measure", &measured));
    report_measured(p, reported, report);
    return MPQ_OK;
}

static enum mpq_status verify(struct mpq_ctx *ctx, struct mpq_arena *own, struct mpq_arena *scratch,
                              struct mpq_pipeline *p, const char *path, struct mpq_report *report)
{
    enum { MAX_SAMPLES = 16 };
    uint32_t n = p->decide.n < MAX_SAMPLES ? p->decide.n : MAX_SAMPLES;
    struct mpq_answers *answers;
    enum mpq_status status = mpq_pipeline_run_pair(ctx, own, p, n, &answers);
    if (status == MPQ_OK)
        status = compare_forms(ctx, scratch, p, path, n, answers, report);
    if (p->fake_network.exec)
        mpq_exec_sum_plainly(p->fake_network.exec, false);
    return status;
}

enum mpq_status mpq_pipeline_verify(struct mpq_ctx *ctx, struct mpq_pipeline *p, const char *path,
                                    struct mpq_report *report)
{
    struct mpq_arena *own = mpq_arena_create(ctx), *scratch = mpq_arena_create(ctx);
    enum mpq_status status =
        own && scratch ? verify(ctx, own, scratch, p, path, report) : MPQ_E_NOMEM;
    mpq_arena_free(scratch);
    mpq_arena_free(own);
    return status;
}
