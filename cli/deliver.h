/* Between the stages of the pipeline and the files on disk: what convert, search and apply share.
 */
#ifndef MPQ_CLI_DELIVER_H
#define MPQ_CLI_DELIVER_H

#include "cli/pipeline.h"

/* Run one stage and note what it took. */
enum mpq_status mpq_deliver_stage(struct mpq_ctx *ctx, struct mpq_pipeline *p, const char *name,
                                  enum mpq_status (*stage)(struct mpq_ctx *,
                                                           struct mpq_pipeline *)) MPQ_CHECKED;

/* USAGE where what these options write would take the place of what they read, or of another
 * output; IO where an output cannot be written. Options without a model to be written, `output`
 * NULL, have a report alone, without a summary. */
enum mpq_status mpq_deliver_check(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_options *options) MPQ_CHECKED;

/* Fill in what a checkpoint keeps of the options that made it. */
enum mpq_status mpq_deliver_restore(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_options *options) MPQ_CHECKED;

/* The stages from the data to the tuned state, which may come from the checkpoint. */
enum mpq_status mpq_deliver_tuned(struct mpq_ctx *ctx, struct mpq_pipeline *p) MPQ_CHECKED;

/* The allocation p->bits, refined, as a file, verified and measured, with its report beside it. */
enum mpq_status mpq_deliver(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_pipeline *p,
                            struct mpq_report *report) MPQ_CHECKED;

#endif
