/* ONNX file -> IR. The only reader of ModelProto. */
#ifndef MPQ_IMPORTER_IMPORT_H
#define MPQ_IMPORTER_IMPORT_H

#include "quantcore/ir/graph.h"

/* Read and check the file, and bring every operator to the spelling of opset max(13, the model's):
 * upgrade.c. The graph aliases the tensor bytes of the message, which live in `arena` too. IO,
 * FORMAT, LIMIT, UNSUPPORTED (opset below 7 or above 26), SHAPE, NUMERIC (NaN or infinity in a
 * float weight); sentences begin with the path. Unknown operators are no error here. */
enum mpq_status mpq_import_file(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                                struct mpq_graph **out_graph, size_t *out_file_bytes) MPQ_CHECKED;

/* The same from memory; `directory` is where external data are looked for (NULL: refused); data
 * need not outlive the call. */
enum mpq_status mpq_import_bytes(struct mpq_ctx *ctx, struct mpq_arena *arena, const uint8_t *data,
                                 size_t bytes, const char *directory,
                                 struct mpq_graph **out_graph) MPQ_CHECKED;

enum mpq_branch { MPQ_BRANCH_KEEP, MPQ_BRANCH_THEN, MPQ_BRANCH_ELSE };

/* The graph with the branches taken of some of its Ifs in their place: branch[i] is for node i,
 * `graph` as import made it. Its message is edited: `graph` is of no use afterwards. */
enum mpq_status mpq_import_branches(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_graph *graph, const enum mpq_branch *branch,
                                    struct mpq_graph **out_graph) MPQ_CHECKED;

#endif
