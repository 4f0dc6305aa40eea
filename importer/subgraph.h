/* The bodies of If, Loop and Scan: graphs inside attributes, carried as they are. */
#ifndef MPQ_IMPORTER_SUBGRAPH_H
#define MPQ_IMPORTER_SUBGRAPH_H

#include "quantcore/ir/graph.h"

/* The values of `graph` that bodies of the node, at any depth, read by name: it depends on them as
 * on its inputs. None where the node has no body. FORMAT where a body reads a name that nothing
 * computes. */
enum mpq_status mpq_subgraph_captures(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      const struct mpq_graph *graph, const struct mpq_node *node,
                                      mpq_value_id **out_id, uint32_t *out_n) MPQ_CHECKED;

/* Whether a body has an operator that opset 13 spells otherwise: bodies are not rewritten. */
bool mpq_subgraph_is_stale(const struct mpq_node *node, int64_t opset);

#endif
