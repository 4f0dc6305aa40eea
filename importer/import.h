/* ONNX file -> IR. The only reader of ModelProto. */
#ifndef MPQ_IMPORTER_IMPORT_H
#define MPQ_IMPORTER_IMPORT_H

#include "quantcore/ir/graph.h"

/* Read and check the file, and bring every operator to the spelling of opset max(13, the model's):
 * upgrade.c. The graph aliases the tensor bytes of the message, which live in `arena` too. IO,
 * FORMAT, LIMIT, UNSUPPORTED (opset below 7 or above 26), SHAPE, NUMERIC (NaN or infinity in a
 * float weight); sentences begin with the path. Unknown operators are no error here. External data
 * count in out_file_bytes. */
enum mpq_status mpq_import_file(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                                struct mpq_graph **out_graph, size_t *out_file_bytes) MPQ_CHECKED;

/* The same from memory; `directory` is where external data are looked for (NULL: refused); data
 * need not outlive the call. */
enum mpq_status mpq_import_bytes(struct mpq_ctx *ctx, struct mpq_arena *arena, const uint8_t *data,
                                 size_t bytes, const char *directory,
                                 struct mpq_graph **out_graph) MPQ_CHECKED;

/* What the file says of itself, not of the graph it became. 0: the graph came from no file. */
struct mpq_import_versions {
    int64_t ir_version, opset;
    bool has_functions; /* local ones, whose calls are written out in the graph */
};
struct mpq_import_versions mpq_import_versions_of(const struct mpq_graph *graph);

/* What becomes of a node with bodies. */
enum mpq_unfold {
    MPQ_UNFOLD_NOT,
    MPQ_UNFOLD_THEN, /* If: that branch in its place                                           */
    MPQ_UNFOLD_ELSE,
    MPQ_UNFOLD_BOTH,   /* If: both, and Where chooses between what they give                   */
    MPQ_UNFOLD_REPEAT, /* Loop, Scan: the body n times                                         */
    MPQ_UNFOLD_WHILE   /* Loop: likewise, and the condition it begins with may be false        */
};

struct mpq_unfolding {
    enum mpq_unfold how;
    int64_t n;
};

/* The graph with some of its Ifs, Loops and Scans written out: unfolding[i] is for node i, `graph`
 * as import made it. Its message is edited: `graph` is of no use afterwards. */
enum mpq_status mpq_import_unfolded(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_graph *graph,
                                    const struct mpq_unfolding *unfolding,
                                    struct mpq_graph **out_graph) MPQ_CHECKED;

#endif
