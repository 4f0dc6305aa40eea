/* Times of the layers, measured by the user on the machine that matters. */
#ifndef MPQ_CLI_LATENCY_H
#define MPQ_CLI_LATENCY_H

#include "quantcore/ir/graph.h"
#include "quantcore/quant/layer.h"

/* Read a CSV with the columns node, weight_bits, seconds and perhaps activation_bits, in any order
 * among others. out_seconds [n_layer * MPQ_N_BITS^2] at [(l * MPQ_N_BITS + b) * MPQ_N_BITS + a], a
 * 0 the same as 8: rows of a file without activation_bits hold for all; a width without a row takes
 * the time of the next wider one that has, else of the next narrower. Rows of nodes that stay
 * float, excluded ones among them, are passed over: one table serves whatever is excluded. FORMAT,
 * naming file and row, where a row is no such row, names no layer, or a layer has no row. */
enum mpq_status mpq_latency_read(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                                 const struct mpq_graph *graph,
                                 const struct mpq_layer_table *layers,
                                 double **out_seconds) MPQ_CHECKED;

#endif
