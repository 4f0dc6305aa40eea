/* If with a known condition: its branch takes its place. */
#ifndef MPQ_IMPORTER_INLINE_H
#define MPQ_IMPORTER_INLINE_H

#include <onnx.pb-c.h>

#include "importer/import.h"

/* Put branch[i] in the place of node i of the graph where it is not MPQ_BRANCH_KEEP. Names of a
 * branch that are taken outside of it get a number. FORMAT where there is no such branch or its
 * outputs are not as many as the node's. */
enum mpq_status mpq_inline_branches(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const enum mpq_branch *branch,
                                    Onnx__GraphProto *graph) MPQ_CHECKED;

#endif
