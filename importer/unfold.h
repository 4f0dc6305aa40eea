/* If, Loop and Scan give way to what they do. */
#ifndef MPQ_IMPORTER_UNFOLD_H
#define MPQ_IMPORTER_UNFOLD_H

#include <onnx.pb-c.h>

#include "importer/import.h"

/* Do unfolding[i] to node i of the graph. New values are named after those of the bodies, with a
 * number where that name is taken. FORMAT where a body's inputs and outputs are not as many as the
 * node's, UNSUPPORTED where the length of an output would depend on data. */
enum mpq_status mpq_unfold_nodes(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const struct mpq_unfolding *unfolding,
                                 Onnx__GraphProto *graph) MPQ_CHECKED;

#endif
