/* onnx-mpq convert: a float model in, a quantized file and its report out. */
#include <stdio.h>

#include "cli/command.h"
#include "cli/deliver.h"
#include "cli/progress.h"
#include "cli/recipe.h"
#include "cli/summary.h"

static enum mpq_status convert_by_running(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                          const struct mpq_options *options, struct mpq_pipeline *p,
                                          struct mpq_report *report)
{
    MPQ_TRY(mpq_pipeline_open(ctx, arena, options, p));
    MPQ_TRY(mpq_deliver_check(ctx, arena, options));
    for (const struct mpq_recipe_stage *s = mpq_recipe_at(options->recipe)->stage; s->name; s++)
        MPQ_TRY(mpq_deliver_stage(ctx, p, s->name, s->run));
    return mpq_deliver(ctx, arena, p, report);
}

static enum mpq_status convert_weights(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const struct mpq_options *options, struct mpq_pipeline *p,
                                       struct mpq_report *report)
{
    MPQ_TRY(mpq_pipeline_open_weights(ctx, arena, options, p));
    MPQ_TRY(mpq_deliver_check(ctx, arena, options));
    MPQ_TRY(mpq_deliver_stage(ctx, p, "fit", mpq_pipeline_fit_weights));
    MPQ_TRY(mpq_deliver_stage(ctx, p, "search", mpq_pipeline_search));
    return mpq_deliver(ctx, arena, p, report);
}

enum mpq_status mpq_cmd_convert(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                const struct mpq_options *options)
{
    struct mpq_pipeline *p = mpq_arena_alloc(ctx, arena, 1, sizeof *p);
    struct mpq_report report = {0};
    if (!p)
        return MPQ_E_NOMEM;
    if (options->weights_only)
        MPQ_TRY(convert_weights(ctx, arena, options, p, &report));
    else
        MPQ_TRY(convert_by_running(ctx, arena, options, p, &report));
    mpq_progress_clear(ctx);
    if (!options->quiet)
        mpq_summary_print(stdout, &report);
    return MPQ_OK;
}
