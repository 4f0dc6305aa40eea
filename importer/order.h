/* The order in which the nodes of a file can be executed. */
#ifndef MPQ_IMPORTER_ORDER_H
#define MPQ_IMPORTER_ORDER_H

#include "quantcore/ir/graph.h"

/* Positions in node[0..n_node) such that each comes after those that compute what it reads, in its
 * bodies too; a file in order stays as it is. The values of `graph` are known, producer[n_value] is
 * a position or MPQ_NO_NODE, out_order [n_node]. What bodies read is marked in is_read[n_value].
 * FORMAT where a node depends on its own result. */
enum mpq_status mpq_execution_order(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_graph *graph, const struct mpq_node *node,
                                    uint32_t n_node, const uint32_t *producer, bool *is_read,
                                    uint32_t *out_order) MPQ_CHECKED;

#endif
