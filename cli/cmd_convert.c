/* onnx-mpq convert: a float model in, a quantized file and its report out. */
#include <math.h>
#include <stdio.h>

#include "cli/command.h"
#include "cli/pipeline.h"
#include "cli/progress.h"
#include "cli/stopwatch.h"
#include "cli/summary.h"
#include "exporter/report_csv.h"
#include "quantcore/base/fileio.h"

/* Run one stage and note what it took. */
static enum mpq_status timed(struct mpq_ctx *ctx, struct mpq_pipeline *p, const char *name,
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

static enum mpq_status check_writable(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      const struct mpq_options *options)
{
    /* Now, not after ten minutes of tuning. */
    const char *path[] = {options->output, options->report,
                          mpq_report_summary_path(ctx, arena, options->report)};
    for (size_t i = 0; i < MPQ_COUNT(path); i++) {
        struct mpq_file_out out;
        if (!path[i])
            return MPQ_E_NOMEM;
        enum mpq_status status = mpq_file_out_open(ctx, arena, path[i], options->overwrite, &out);
        mpq_file_out_discard(&out);
        MPQ_TRY(status);
    }
    return MPQ_OK;
}

typedef enum mpq_status verify_fn(struct mpq_ctx *ctx, struct mpq_pipeline *p, const char *path,
                                  struct mpq_report *report);

/* Write beside the final name, read back, run, measure; only a file that does what it should gets
 * its name. */
static enum mpq_status write_verified(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      struct mpq_pipeline *p, verify_fn *verify,
                                      struct mpq_report *report)
{
    struct mpq_file_out out;
    double start = mpq_seconds();
    mpq_peak_rss_reset();
    enum mpq_status status =
        mpq_file_out_open(ctx, arena, p->options->output, p->options->overwrite, &out);
    if (status == MPQ_OK)
        status = mpq_file_out_write(ctx, &out, p->file, p->file_bytes);
    if (status == MPQ_OK)
        status = verify(ctx, p, out.temporary, report);
    p->stage[p->n_stage++] =
        (struct mpq_report_stage){"verify", mpq_seconds() - start, mpq_peak_rss_bytes()};
    if (status == MPQ_OK)
        status = mpq_pipeline_report(ctx, p, report);
    if (status == MPQ_OK)
        status = mpq_file_out_commit(ctx, &out);
    mpq_file_out_discard(&out);
    return status;
}

static enum mpq_status convert_by_running(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                          const struct mpq_options *options, struct mpq_pipeline *p,
                                          struct mpq_report *report)
{
    MPQ_TRY(mpq_pipeline_open(ctx, arena, options, p));
    MPQ_TRY(check_writable(ctx, arena, options));
    MPQ_TRY(timed(ctx, p, "data", mpq_pipeline_data));
    MPQ_TRY(timed(ctx, p, "calibrate", mpq_pipeline_calibrate));
    MPQ_TRY(timed(ctx, p, "prepare", mpq_pipeline_prepare));
    MPQ_TRY(timed(ctx, p, "tune", mpq_pipeline_tune));
    MPQ_TRY(timed(ctx, p, "search", mpq_pipeline_search));
    MPQ_TRY(timed(ctx, p, "export", mpq_pipeline_export));
    return write_verified(ctx, arena, p, mpq_pipeline_verify, report);
}

static enum mpq_status convert_weights(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const struct mpq_options *options, struct mpq_pipeline *p,
                                       struct mpq_report *report)
{
    MPQ_TRY(mpq_pipeline_open_weights(ctx, arena, options, p));
    MPQ_TRY(check_writable(ctx, arena, options));
    MPQ_TRY(timed(ctx, p, "fit", mpq_pipeline_fit_weights));
    MPQ_TRY(timed(ctx, p, "search", mpq_pipeline_search));
    MPQ_TRY(timed(ctx, p, "export", mpq_pipeline_export_weights));
    return write_verified(ctx, arena, p, mpq_pipeline_verify_weights, report);
}

enum mpq_status mpq_cmd_convert(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                const struct mpq_options *options)
{
    struct mpq_pipeline *p = mpq_arena_alloc(ctx, arena, 1, sizeof *p);
    const double none = (double)NAN;
    struct mpq_report report = {.metric_float = none,
                                .metric_quantized = none,
                                .drop = none,
                                .drop_low = none,
                                .drop_high = none,
                                .agreement = none,
                                .kl = none,
                                .sqnr_db = none};
    if (!p)
        return MPQ_E_NOMEM;
    if (options->weights_only)
        MPQ_TRY(convert_weights(ctx, arena, options, p, &report));
    else if (convert_by_running(ctx, arena, options, p, &report) != MPQ_OK) {
        if (ctx->status == MPQ_E_UNSUPPORTED)
            mpq_fail_append(ctx, "; convert --weights-only needs not run the model");
        return ctx->status;
    }
    MPQ_TRY(mpq_report_write(ctx, arena, &report, options->report, options->overwrite));
    mpq_progress_clear(ctx);
    if (!options->quiet)
        mpq_summary_print(stdout, &report);
    return MPQ_OK;
}
