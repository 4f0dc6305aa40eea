#include "cli/deliver.h"

#include <math.h>

#include "cli/checkpoint.h"
#include "cli/output.h"
#include "cli/recipe.h"
#include "cli/stopwatch.h"
#include "exporter/report_csv.h"
#include "quantcore/base/fileio.h"

enum mpq_status mpq_deliver_stage(struct mpq_ctx *ctx, struct mpq_pipeline *p, const char *name,
                                  enum mpq_status (*stage)(struct mpq_ctx *, struct mpq_pipeline *))
{
    double start = mpq_seconds();
    mpq_peak_rss_reset();
    MPQ_TRY(stage(ctx, p));
    MPQ_ASSERT(p->n_stage < MPQ_MAX_STAGES);
    p->stage[p->n_stage++] =
        (struct mpq_report_stage){name, mpq_seconds() - start, mpq_peak_rss_bytes()};
    return MPQ_OK;
}

/* A file that a command reads or writes; path NULL: it does neither. */
struct place {
    const char *name, *path;
    bool is_written;
};

static enum mpq_status check_apart(struct mpq_ctx *ctx, const struct place *place, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++)
            if (place[i].path && place[j].path && (place[i].is_written || place[j].is_written) &&
                mpq_file_is_same(place[i].path, place[j].path))
                return mpq_fail(ctx, MPQ_E_USAGE, "%s and %s are the same file, '%s'",
                                place[j].name, place[i].name, place[i].path);
    return MPQ_OK;
}

/* Now, not after ten minutes of tuning. */
static enum mpq_status check_writable(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      const char *path, bool overwrite)
{
    struct mpq_file_out out;
    enum mpq_status status = mpq_file_out_open(ctx, arena, path, overwrite, &out);
    mpq_file_out_discard(&out);
    return status;
}

enum mpq_status mpq_deliver_check(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_options *options)
{
    const char *summary =
        options->output ? mpq_report_summary_path(ctx, arena, options->report) : NULL;
    if (options->output && !summary)
        return MPQ_E_NOMEM;
    const struct place place[] = {
        {"the model", options->model, false},
        {"the plan", options->plan, false},
        {"--data", options->data, false},
        {"--eval", options->eval, false},
        {"--labels", options->labels, false},
        {"--latency", options->latency, false},
        {"--reference", options->reference, false},
        {"the checkpoint", options->checkpoint, !mpq_options_resume(options)},
        {"--output", options->output, true},
        {"--report", options->report, true},
        {"the summary beside --report", summary, true},
        {"--outputs", options->outputs, true},
    };
    MPQ_TRY(check_apart(ctx, place, MPQ_COUNT(place)));
    for (size_t i = 0; i < MPQ_COUNT(place); i++)
        if (place[i].is_written && place[i].path)
            MPQ_TRY(check_writable(ctx, arena, place[i].path, options->overwrite));
    return MPQ_OK;
}

/* Write beside the final name, read back, run, measure; only a file that does what it should gets
 * its name. */
static enum mpq_status write_verified(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      struct mpq_pipeline *p, struct mpq_report *report)
{
    bool only = p->options->weights_only;
    struct mpq_output out;
    double start = mpq_seconds();
    mpq_peak_rss_reset();
    enum mpq_status status =
        mpq_output_write(ctx, arena, p->options->output, p->options->overwrite, &p->file, &out);
    if (status == MPQ_OK)
        status = (only ? mpq_pipeline_verify_weights
                       : mpq_pipeline_verify)(ctx, p, out.model.temporary, report);
    p->stage[p->n_stage++] =
        (struct mpq_report_stage){"verify", mpq_seconds() - start, mpq_peak_rss_bytes()};
    if (status == MPQ_OK)
        status = mpq_pipeline_report(ctx, p, report);
    if (status == MPQ_OK)
        status = mpq_output_commit(ctx, &out);
    mpq_output_discard(&out);
    return status;
}

enum mpq_status mpq_deliver(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_pipeline *p,
                            struct mpq_report *report)
{
    bool only = p->options->weights_only;
    const double none = (double)NAN;
    *report = (struct mpq_report){.verify_float_db = none,
                                  .verify_db = none,
                                  .verify_difference = none,
                                  .verify_difference_max = none,
                                  .metric_float = none,
                                  .metric_quantized = none,
                                  .drop = none,
                                  .drop_low = none,
                                  .drop_high = none,
                                  .max_drop = none,
                                  .drop_confidence = none,
                                  .agreement = none,
                                  .kl = none,
                                  .sqnr_db = none};
    if (!only)
        MPQ_TRY(mpq_deliver_stage(ctx, p, "refine",
                                  p->paper ? mpq_paper_refine_stage : mpq_pipeline_refine));
    mpq_room_clear(p->room);
    MPQ_TRY(mpq_deliver_stage(ctx, p, "export",
                              only ? mpq_pipeline_export_weights : mpq_pipeline_export));
    MPQ_TRY(write_verified(ctx, arena, p, report));
    return mpq_report_write(ctx, arena, report, p->options->report, p->options->overwrite);
}

enum mpq_status mpq_deliver_restore(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_options *options)
{
    char *kept;
    MPQ_TRY(mpq_checkpoint_options(ctx, arena, options->checkpoint, &kept));
    MPQ_TRY(mpq_options_restore(ctx, arena, kept, options));
    ctx->seed = options->seed; /* the same samples decide */
    return MPQ_OK;
}

enum mpq_status mpq_deliver_tuned(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    MPQ_TRY(mpq_deliver_stage(ctx, p, "data", mpq_pipeline_data));
    MPQ_TRY(mpq_deliver_stage(ctx, p, "calibrate", mpq_pipeline_calibrate));
    MPQ_TRY(mpq_deliver_stage(ctx, p, "prepare", mpq_pipeline_prepare));
    return mpq_deliver_stage(ctx, p, "tune", mpq_pipeline_tune);
}
