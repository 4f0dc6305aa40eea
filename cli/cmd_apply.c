/* onnx-mpq apply: the widths of an edited layer CSV, from the tuned state of a checkpoint. */
#include <stdio.h>

#include "cli/command.h"
#include "cli/deliver.h"
#include "cli/progress.h"
#include "cli/summary.h"

enum mpq_status mpq_cmd_apply(struct mpq_ctx *ctx, struct mpq_arena *arena,
                              const struct mpq_options *given)
{
    struct mpq_pipeline *p = mpq_arena_alloc(ctx, arena, 1, sizeof *p);
    struct mpq_options *options = mpq_arena_copy(ctx, arena, given, sizeof *options);
    struct mpq_report report = {0};
    if (!p || !options)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_deliver_restore(ctx, arena, options));
    MPQ_TRY(mpq_pipeline_open(ctx, arena, options, p));
    MPQ_TRY(mpq_deliver_check(ctx, arena, options));
    MPQ_TRY(mpq_deliver_tuned(ctx, p));
    MPQ_TRY(mpq_deliver_stage(ctx, p, "apply", mpq_pipeline_apply));
    MPQ_TRY(mpq_deliver(ctx, arena, p, &report));
    mpq_progress_clear(ctx);
    if (!options->quiet)
        mpq_summary_print(stdout, &report);
    return MPQ_OK;
}
