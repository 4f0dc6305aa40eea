/* onnx-mpq eval: run a model over data by our engine; accuracy where there are labels, agreement
 * where there is a reference, else what the outputs look like. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "calibration/metric.h"
#include "calibration/npz.h"
#include "cli/command.h"
#include "cli/deliver.h"
#include "cli/input_shape.h"
#include "cli/memory.h"
#include "cli/progress.h"
#include "cli/runner.h"
#include "cli/summary.h"
#include "cli/unfold.h"
#include "importer/import.h"
#include "quantcore/pass/pass.h"

#define NO_OUTPUT UINT32_MAX

struct eval_model {
    const char *path;
    size_t file_bytes;
    const struct mpq_graph *graph; /* simplified, then as mpq_batch_choose() wants it */
    struct mpq_binding binding;    /* of the simplified graph at batch 1              */
    uint32_t batch;
    struct mpq_runner runner;
};

struct evaluation {
    struct eval_model model, reference; /* reference.path NULL: none */
    struct mpq_dataset *dataset;
    uint32_t n_sample;

    uint32_t scored; /* the first output that looks like scores of classes, or NO_OUTPUT */
    int64_t n_class;
    bool has_labels;

    struct mpq_accuracy accuracy, reference_accuracy;
    uint64_t n_lost, n_won;            /* right only in the reference, only in the model */
    struct mpq_spread *spread;         /* [n_output] of the model                        */
    struct mpq_comparison *comparison; /* [n_output] where there is a reference          */

    struct mpq_tensor *collected; /* [n_output] all samples, for --outputs; or NULL */
    uint32_t n_collected;
};

static enum mpq_status open_model(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_options *options, const char *path,
                                  struct eval_model *out)
{
    struct mpq_graph *read, *fused, *simple;
    out->path = path;
    MPQ_TRY(mpq_import_file(ctx, arena, path, &read, &out->file_bytes));
    MPQ_TRY(mpq_input_shape_assume(ctx, arena, options, options->data, read));
    MPQ_TRY(mpq_unfold(ctx, arena, options, &read));
    MPQ_TRY(mpq_fuse_integer(ctx, arena, read, &fused));
    MPQ_TRY(mpq_simplify(ctx, arena, fused, &simple));
    out->graph = simple;
    enum mpq_status status = mpq_bind_batch(ctx, arena, simple, 1, &out->binding);
    if (status == MPQ_E_SHAPE || status == MPQ_E_UNSUPPORTED)
        mpq_fail_prefix(ctx, path);
    return status;
}

static void find_scores(struct evaluation *eval)
{
    const struct mpq_graph *graph = eval->model.graph;
    eval->scored = NO_OUTPUT;
    for (uint32_t i = graph->n_output; i-- > 0;) {
        int64_t n_class = mpq_metric_classes(&eval->model.binding.tensor[graph->output[i]]);
        if (n_class) {
            eval->scored = i;
            eval->n_class = n_class;
        }
    }
}

static enum mpq_status open_data(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const struct mpq_options *options, struct evaluation *eval)
{
    const struct mpq_graph *graph = eval->model.graph;
    struct mpq_shape *shape = mpq_arena_alloc(ctx, arena, graph->n_input, sizeof *shape);
    if (!shape)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_bind_shapes(ctx, graph, 1, shape));
    MPQ_TRY(mpq_dataset_open(ctx, arena, options->data, options->labels, graph, shape,
                             eval->n_class, &options->preprocess, &eval->dataset));
    eval->n_sample = mpq_dataset_count(eval->dataset);
    eval->has_labels = mpq_dataset_has_labels(eval->dataset) && eval->scored != NO_OUTPUT;
    if (mpq_dataset_has_labels(eval->dataset) && !eval->has_labels)
        mpq_log(ctx, MPQ_LOG_WARNING, "labels are not used: no output looks like class scores");
    return MPQ_OK;
}

static bool same_tensors(const struct eval_model *a, const mpq_value_id *id_a, uint32_t n_a,
                         const struct eval_model *b, const mpq_value_id *id_b, uint32_t n_b)
{
    if (n_a != n_b)
        return false;
    for (uint32_t i = 0; i < n_a; i++) {
        const struct mpq_tensor *x = &a->binding.tensor[id_a[i]], *y = &b->binding.tensor[id_b[i]];
        if (x->dtype != y->dtype || !mpq_shape_equal(&x->shape, &y->shape))
            return false;
    }
    return true;
}

/* The reference is fed the model's inputs as they are, so the two must take and give the same. */
static enum mpq_status check_same_form(struct mpq_ctx *ctx, const struct eval_model *model,
                                       const struct eval_model *reference)
{
    const struct mpq_graph *a = model->graph, *b = reference->graph;
    const char *what = NULL;
    if (!same_tensors(model, a->input, a->n_input, reference, b->input, b->n_input))
        what = "inputs";
    else if (!same_tensors(model, a->output, a->n_output, reference, b->output, b->n_output))
        what = "outputs";
    if (!what)
        return MPQ_OK;
    return mpq_fail(ctx, MPQ_E_SHAPE, "%s and %s have different %s and cannot be compared",
                    model->path, reference->path, what);
}

/* What each of the two models may take to be run. */
static enum mpq_status memory_left(struct mpq_ctx *ctx, const struct mpq_arena *arena,
                                   const struct mpq_options *options, const struct evaluation *eval,
                                   size_t *out_bytes)
{
    const struct mpq_graph *graph = eval->model.graph;
    size_t least = 0, held = mpq_memory_taken(arena), n_model = eval->reference.path ? 2 : 1;
    double again;
    for (uint32_t i = 0; options->outputs && i < graph->n_output; i++) /* and the file's bytes */
        held +=
            3 * eval->n_sample * mpq_tensor_bytes(&eval->model.binding.tensor[graph->output[i]]);
    MPQ_TRY(mpq_exec_measure(ctx, graph, &eval->model.binding, &(struct mpq_exec_options){0},
                             &least, &again));
    least = held + n_model * least;
    if (options->max_memory < least)
        return mpq_memory_fail(ctx, options->max_memory, least, "eval");
    *out_bytes = (options->max_memory - held) / n_model;
    return MPQ_OK;
}

static enum mpq_status make_runners(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_options *options, struct evaluation *eval)
{
    struct eval_model *model = &eval->model, *reference = &eval->reference;
    bool is_free;
    size_t left = 0;
    if (options->max_memory)
        MPQ_TRY(memory_left(ctx, arena, options, eval, &left));
    MPQ_TRY(mpq_batch_choose(ctx, arena, model->graph, eval->dataset, left, false, &model->graph,
                             &model->batch, &is_free));
    if (reference->path) {
        MPQ_TRY(mpq_batch_choose(ctx, arena, reference->graph, eval->dataset, left, false,
                                 &reference->graph, &reference->batch, &is_free));
        if (reference->batch < model->batch)
            model->batch = reference->batch;
        MPQ_TRY(mpq_runner_create(ctx, arena, reference->graph, model->batch, NULL,
                                  &reference->runner));
    }
    return mpq_runner_create(ctx, arena, model->graph, model->batch, NULL, &model->runner);
}

static enum mpq_status make_records(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_options *options, struct evaluation *eval)
{
    const struct mpq_runner *runner = &eval->model.runner;
    uint32_t n = runner->graph->n_output;
    eval->spread = mpq_arena_alloc(ctx, arena, n, sizeof *eval->spread);
    eval->comparison = mpq_arena_alloc(ctx, arena, n, sizeof *eval->comparison);
    if (!eval->spread || !eval->comparison)
        return MPQ_E_NOMEM;
    if (!options->outputs)
        return MPQ_OK;
    eval->collected = mpq_arena_alloc(ctx, arena, n, sizeof *eval->collected);
    if (!eval->collected)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < n; i++) {
        struct mpq_shape shape = runner->output[i]->shape;
        if (shape.rank)
            shape.dim[0] = shape.dim[0] / runner->batch * eval->n_sample;
        else
            shape = MPQ_SHAPE(eval->n_sample);
        MPQ_TRY(
            mpq_tensor_alloc(ctx, arena, runner->output[i]->dtype, &shape, &eval->collected[i]));
    }
    return MPQ_OK;
}

static void add_labels(struct evaluation *eval, const mpq_real *score, const mpq_real *reference,
                       const uint32_t *index, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        int64_t label = mpq_dataset_label(eval->dataset, index[i]);
        const mpq_real *row = score + i * eval->n_class;
        mpq_accuracy_add(&eval->accuracy, row, eval->n_class, label);
        if (!reference)
            continue;
        const mpq_real *reference_row = reference + i * eval->n_class;
        mpq_accuracy_add(&eval->reference_accuracy, reference_row, eval->n_class, label);
        bool right = mpq_metric_is_in_top(row, eval->n_class, label, 1);
        bool was_right = mpq_metric_is_in_top(reference_row, eval->n_class, label, 1);
        eval->n_lost += was_right && !right;
        eval->n_won += right && !was_right;
    }
}

static void run_reference(struct evaluation *eval)
{
    struct mpq_runner *from = &eval->model.runner, *to = &eval->reference.runner;
    for (uint32_t i = 0; i < to->graph->n_input; i++)
        memcpy(to->input[i]->data, from->input[i]->data, mpq_tensor_bytes(to->input[i]));
    mpq_exec_forward(to->exec, 0, to->graph->n_node);
}

static enum mpq_status add_batch(struct mpq_ctx *ctx, void *arg, const struct mpq_runner *runner,
                                 const uint32_t *index, uint32_t n)
{
    struct evaluation *eval = arg;
    (void)ctx;
    if (eval->reference.path)
        run_reference(eval);
    for (uint32_t i = 0; i < runner->graph->n_output; i++) {
        const struct mpq_tensor *y = runner->output[i];
        int64_t n_element = runner->n_element[i];
        if (eval->collected) {
            size_t bytes = (size_t)n_element * mpq_dtype_bytes(y->dtype);
            memcpy((char *)eval->collected[i].data + eval->n_collected * bytes, y->data, n * bytes);
        }
        if (y->dtype != MPQ_FLOAT)
            continue;
        const struct mpq_tensor *r = eval->reference.path ? eval->reference.runner.output[i] : NULL;
        mpq_spread_add(&eval->spread[i], y->data, n * n_element);
        if (r)
            mpq_comparison_add(&eval->comparison[i], r->data, y->data, n, n_element,
                               i == eval->scored ? eval->n_class : 0);
        if (eval->has_labels && i == eval->scored)
            add_labels(eval, y->data, r ? r->data : NULL, index, n);
    }
    eval->n_collected += n;
    return MPQ_OK;
}

/* ---- printing ---- */

static double percent(uint64_t part, uint64_t whole)
{
    return 100 * (double)part / (double)whole;
}

static void print_accuracy(const struct evaluation *eval)
{
    const struct mpq_accuracy *a = &eval->accuracy, *r = &eval->reference_accuracy;
    bool has_reference = eval->reference.path != NULL;
    printf("%-11s%.2f %%", "top-1", percent(a->n_top1, a->n_sample));
    if (has_reference)
        printf(", reference %.2f %%", percent(r->n_top1, r->n_sample));
    putchar('\n');
    if (eval->n_class >= 10) {
        printf("%-11s%.2f %%", "top-5", percent(a->n_top5, a->n_sample));
        if (has_reference)
            printf(", reference %.2f %%", percent(r->n_top5, r->n_sample));
        putchar('\n');
    }
    if (has_reference) {
        struct mpq_paired paired = mpq_paired_difference(a->n_sample, eval->n_lost, eval->n_won);
        printf("%-11s", "");
        mpq_summary_print_drop(stdout, paired.difference, paired.low, paired.high, "the reference",
                               a->n_sample);
    }
}

static void print_comparison(const struct evaluation *eval, uint32_t output)
{
    const struct mpq_comparison *c = &eval->comparison[output];
    if (output == eval->scored)
        printf("  against the reference: same top-1 %.2f %%, KL %.4g nats\n",
               percent(c->n_agree, c->n_sample), c->kl_sum / (double)c->n_sample);
    printf("  against the reference: SQNR %.2f dB, difference mean %.4g, largest %.4g\n",
           mpq_comparison_sqnr_db(c), c->difference_sum / (double)c->n_element, c->difference_max);
}

static void print_outputs(const struct evaluation *eval)
{
    const struct mpq_runner *runner = &eval->model.runner;
    for (uint32_t i = 0; i < runner->graph->n_output; i++) {
        const struct mpq_spread *spread = &eval->spread[i];
        const char *name = runner->graph->value[runner->graph->output[i]].name;
        printf("%-11s%s %s, %" PRId64 " a sample", i ? "" : "outputs", name,
               mpq_dtype_name(runner->output[i]->dtype), runner->n_element[i]);
        if (runner->output[i]->dtype != MPQ_FLOAT) {
            putchar('\n');
            continue;
        }
        printf(": mean %.4g, deviation %.4g, from %.4g to %.4g", spread->mean,
               mpq_spread_deviation(spread), spread->min, spread->max);
        if (spread->n_nonfinite)
            printf("; %" PRIu64 " not finite", spread->n_nonfinite);
        putchar('\n');
        if (eval->reference.path)
            print_comparison(eval, i);
    }
}

static void print_evaluation(const struct evaluation *eval, const struct mpq_options *options)
{
    printf("%-11s%s, %zu bytes\n", "model", eval->model.path, eval->model.file_bytes);
    if (eval->reference.path)
        printf("%-11s%s, %zu bytes\n", "reference", eval->reference.path,
               eval->reference.file_bytes);
    printf("%-11s%s, %" PRIu32 " samples%s\n", "data", options->data, eval->n_sample,
           eval->has_labels ? "" : ", no labels");
    if (eval->has_labels)
        print_accuracy(eval);
    print_outputs(eval);
}

static enum mpq_status write_outputs(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                     const struct mpq_options *options,
                                     const struct evaluation *eval)
{
    const struct mpq_graph *graph = eval->model.graph;
    const char **name = mpq_arena_alloc(ctx, arena, graph->n_output, sizeof *name);
    if (!name)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < graph->n_output; i++)
        name[i] = graph->value[graph->output[i]].name;
    return mpq_npz_write(ctx, arena, options->outputs, options->overwrite, name, eval->collected,
                         graph->n_output);
}

enum mpq_status mpq_cmd_eval(struct mpq_ctx *ctx, struct mpq_arena *arena,
                             const struct mpq_options *options)
{
    struct evaluation eval = {.reference = {.path = NULL}};
    MPQ_TRY(mpq_deliver_check(ctx, arena, options));
    MPQ_TRY(open_model(ctx, arena, options, options->model, &eval.model));
    if (options->reference) {
        MPQ_TRY(open_model(ctx, arena, options, options->reference, &eval.reference));
        MPQ_TRY(check_same_form(ctx, &eval.model, &eval.reference));
    }
    find_scores(&eval);
    MPQ_TRY(open_data(ctx, arena, options, &eval));
    MPQ_TRY(make_runners(ctx, arena, options, &eval));
    MPQ_TRY(make_records(ctx, arena, options, &eval));
    MPQ_TRY(mpq_runner_run(ctx, &eval.model.runner, eval.dataset, NULL, eval.n_sample, "eval",
                           add_batch, &eval));
    if (options->outputs)
        MPQ_TRY(write_outputs(ctx, arena, options, &eval));
    mpq_progress_clear(ctx);
    print_evaluation(&eval, options);
    return MPQ_OK;
}
