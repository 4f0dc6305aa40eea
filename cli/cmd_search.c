/* onnx-mpq search: one tuning, a file for each of many budgets. */
#include <math.h>
#include <stdio.h>

#include "cli/command.h"
#include "cli/deliver.h"
#include "cli/progress.h"
#include "cli/summary.h"
#include "exporter/report_csv.h"
#include "quantcore/base/fileio.h"

struct budgets {
    uint32_t n;
    struct mpq_options *options; /* [n] of a conversion each */
    struct mpq_report *report;   /* [n] */
};

/* The options of a conversion to that size. */
static enum mpq_status set_budget(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_options *all, const struct mpq_size *size,
                                  const char *label, struct mpq_options *out)
{
    *out = *all;
    out->size = *size;
    out->output = mpq_path_labelled(ctx, arena, all->output, label);
    if (!out->output)
        return MPQ_E_NOMEM;
    out->report = mpq_path_csv(ctx, arena, out->output);
    return out->report ? MPQ_OK : MPQ_E_NOMEM;
}

/* Sizes at equal ratios from the smallest file to that with all layers at their widest; fewer where
 * these are fewer bytes apart. */
static enum mpq_status make_curve(struct mpq_ctx *ctx, struct mpq_pipeline *p, uint32_t n,
                                  struct mpq_sizes *out)
{
    uint64_t low, high;
    MPQ_TRY(mpq_pipeline_size_range(ctx, p, &low, &high));
    for (uint32_t i = 0; i < n; i++) {
        double share = pow((double)high / (double)low, (double)i / (n - 1));
        uint64_t bytes = i + 1 == n ? high : i ? (uint64_t)((double)low * share) : low;
        struct mpq_labelled_size *size = &out->of[out->n];
        if (out->n && bytes <= size[-1].size.bytes)
            continue;
        size->size.bytes = bytes;
        snprintf(size->label, sizeof size->label, "%llu", (unsigned long long)bytes);
        out->n++;
    }
    return MPQ_OK;
}

/* The list of budgets is written last and must not take the place of what a budget wrote. */
static enum mpq_status check_list(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *list,
                                  const struct mpq_options *budget)
{
    const char *written[] = {budget->output, budget->report,
                             mpq_report_summary_path(ctx, arena, budget->report)};
    for (size_t i = 0; i < MPQ_COUNT(written); i++) {
        if (!written[i])
            return MPQ_E_NOMEM;
        if (mpq_file_is_same(list, written[i]))
            return mpq_fail(ctx, MPQ_E_USAGE,
                            "--report and a file of a budget are the same file, '%s'", list);
    }
    return MPQ_OK;
}

/* All that can be refused is, before the first file is written. */
static enum mpq_status make_budgets(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_pipeline *p, const struct mpq_options *options,
                                    struct budgets *out)
{
    struct mpq_sizes *sizes = mpq_arena_copy(ctx, arena, &options->sizes, sizeof *sizes);
    if (!sizes)
        return MPQ_E_NOMEM;
    if (options->pareto)
        MPQ_TRY(make_curve(ctx, p, (uint32_t)options->pareto, sizes));
    out->n = sizes->n ? sizes->n : 1;
    out->options = mpq_arena_alloc(ctx, arena, out->n, sizeof *out->options);
    out->report = mpq_arena_alloc(ctx, arena, out->n, sizeof *out->report);
    if (!out->options || !out->report)
        return MPQ_E_NOMEM;
    out->options[0] = *options;
    if (!sizes->n) /* other limits alone: one file, and its layer report takes the place of the list
                    */
        return mpq_deliver_check(ctx, arena, options);
    for (uint32_t i = 0; i < sizes->n; i++) {
        const struct mpq_labelled_size *size = &sizes->of[i];
        MPQ_TRY(set_budget(ctx, arena, options, &size->size, size->label, &out->options[i]));
        MPQ_TRY(mpq_deliver_check(ctx, arena, &out->options[i]));
        MPQ_TRY(check_list(ctx, arena, options->report, &out->options[i]));
        MPQ_TRY(mpq_pipeline_check_size(ctx, p, mpq_size_bytes(&size->size, p->float_bytes)));
    }
    struct mpq_options list = *options;
    list.output = NULL;
    return mpq_deliver_check(ctx, arena, &list);
}

/* Let the report outlive its layers and stages. */
static enum mpq_status keep_totals(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   struct mpq_report *report)
{
    report->limit =
        mpq_arena_copy(ctx, arena, report->limit, report->n_limit * sizeof *report->limit);
    report->n_layer = report->n_stage = report->n_fact = 0;
    return report->limit ? MPQ_OK : MPQ_E_NOMEM;
}

/* One budget; everything but the report is in an arena of its own. */
static enum mpq_status run_budget(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_pipeline *tuned,
                                  const struct mpq_options *options, struct mpq_report *report)
{
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    struct mpq_pipeline *p = mpq_arena_copy(ctx, arena, tuned, sizeof *p);
    enum mpq_status status = scratch && p ? MPQ_OK : MPQ_E_NOMEM;
    if (status == MPQ_OK) {
        p->options = options;
        p->arena = scratch;
        p->problem.arg = p;
        p->n_stage = 0;
        status = mpq_pipeline_name_output(ctx, p);
    }
    if (status == MPQ_OK)
        status = mpq_deliver_stage(ctx, p, "search", mpq_pipeline_search);
    if (status == MPQ_OK)
        status = mpq_deliver(ctx, scratch, p, report);
    if (status == MPQ_OK)
        status = keep_totals(ctx, arena, report);
    mpq_arena_free(scratch);
    return status;
}

enum mpq_status mpq_cmd_search(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               const struct mpq_options *given)
{
    struct mpq_pipeline *p = mpq_arena_alloc(ctx, arena, 1, sizeof *p);
    struct mpq_options *options = mpq_arena_copy(ctx, arena, given, sizeof *options);
    struct budgets budgets;
    if (!p || !options)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_deliver_restore(ctx, arena, options));
    MPQ_TRY(mpq_pipeline_open(ctx, arena, options, p));
    MPQ_TRY(mpq_deliver_tuned(ctx, p));
    MPQ_TRY(mpq_pipeline_prepare_search(ctx, p));
    MPQ_TRY(mpq_pipeline_keep_answers(ctx, p));
    MPQ_TRY(make_budgets(ctx, arena, p, options, &budgets));
    for (uint32_t i = 0; i < budgets.n; i++) {
        MPQ_TRY(run_budget(ctx, arena, p, &budgets.options[i], &budgets.report[i]));
        mpq_progress_clear(ctx);
        if (!options->quiet)
            mpq_summary_print_budget(stdout, &budgets.report[i], i == 0);
    }
    if (!options->quiet)
        mpq_summary_print_budget_note(stdout, budgets.report, budgets.n);
    if (budgets.options[0].report == options->report)
        return MPQ_OK;
    return mpq_report_write_budgets(ctx, arena, budgets.report, budgets.n, options->report,
                                    options->overwrite);
}
