/* Sizes for dimensions of inputs that a model leaves open: as the user says, else as the data have
 * them. Only bound at, never written: the file that is made stays open. */
#ifndef MPQ_CLI_INPUT_SHAPE_H
#define MPQ_CLI_INPUT_SHAPE_H

#include "cli/options.h"

/* Sets graph->assumed, right after import. `data` may be NULL. USAGE where --input-shape names no
 * input or contradicts the model. */
enum mpq_status mpq_input_shape_assume(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const struct mpq_options *options, const char *data,
                                       struct mpq_graph *graph) MPQ_CHECKED;

#endif
