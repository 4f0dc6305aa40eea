/* What is known of a value before shapes are inferred: what the file declares, and what follows
 * from it along the nodes. Enough to tell ranks and lengths of shape vectors; it never guesses. */
#ifndef MPQ_IMPORTER_TRACE_H
#define MPQ_IMPORTER_TRACE_H

#include "quantcore/ir/graph.h"

struct mpq_trace {
    struct mpq_trace_entry {
        struct mpq_shape shape; /* unknown dimensions -1, unknown rank -1 */
        enum mpq_dtype dtype;   /* or UNDEFINED                           */
    } * entry;                  /* by value id                            */
    uint32_t n, capacity;
};

/* Take note of what a node computes; call for each node of the graph in execution order. */
enum mpq_status mpq_trace_node(struct mpq_ctx *ctx, struct mpq_trace *trace,
                               const struct mpq_graph *graph,
                               const struct mpq_node *node) MPQ_CHECKED;

/* The value is a graph input, a constant, or computed by a node seen. */
struct mpq_trace_entry mpq_trace_get(const struct mpq_trace *trace, const struct mpq_graph *graph,
                                     mpq_value_id value);

#endif
