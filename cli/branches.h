/* Ifs whose condition is known give way to the branch they take. */
#ifndef MPQ_CLI_BRANCHES_H
#define MPQ_CLI_BRANCHES_H

#include "cli/options.h"

/* As long as the condition of an If follows from constants, the sizes of inputs and --input-value.
 * After mpq_input_shape_assume(); *graph becomes another. The branches not taken are gone, from the
 * file that is written as well. */
enum mpq_status mpq_branches_take(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_options *options,
                                  struct mpq_graph **graph) MPQ_CHECKED;

#endif
