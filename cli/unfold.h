/* If, Loop and Scan, which the engine does not run, give way to what they do. */
#ifndef MPQ_CLI_UNFOLD_H
#define MPQ_CLI_UNFOLD_H

#include "cli/options.h"

/* Where a condition follows from constants, the sizes of inputs and --input-value, an If gives way
 * to the branch it takes; the other is gone, from the file that is written as well. Where it
 * depends on data, both branches are computed and one is chosen. Loop and Scan are written out as
 * often as they run, if that follows likewise and does not depend on the batch. What remains is for
 * whoever runs the graph to complain about.
 *
 * After mpq_input_shape_assume(); *graph becomes another. SHAPE where the branches of an If give
 * different shapes and its condition depends on data. */
enum mpq_status mpq_unfold(struct mpq_ctx *ctx, struct mpq_arena *arena,
                           const struct mpq_options *options, struct mpq_graph **graph) MPQ_CHECKED;

#endif
