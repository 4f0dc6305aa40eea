/* Version differences of an operator -> the one spelling the IR speaks. */
#ifndef MPQ_IMPORTER_UPGRADE_H
#define MPQ_IMPORTER_UPGRADE_H

#include "importer/trace.h"

struct mpq_upgrade {
    struct mpq_graph *graph;
    int64_t opset;          /* the file's                                                        */
    const bool *is_read;    /* by value id, for the values of the file: a node or the graph's output
                               list reads it                                                     */
    struct mpq_trace trace; /* of the nodes appended so far                                   */
};

/* Append `node`, spelled in upgrade->opset, to the graph, spelled in opset 13 or the file's own
 * where that is later, resolved against the registry. Attributes that became inputs become
 * constants; a node may turn into several, of which the new ones have source MPQ_NO_NODE.
 * UNSUPPORTED where opset 13 cannot say it. */
enum mpq_status mpq_upgrade_append(struct mpq_ctx *ctx, struct mpq_upgrade *upgrade,
                                   const struct mpq_node *node) MPQ_CHECKED;

/* Whether an operator of ai.onnx of that opset is spelled otherwise in opset 13. */
bool mpq_upgrade_changes(const char *op_type, int64_t opset);

#endif
