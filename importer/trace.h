/* What is known of a value before any shape is inferred: what the file declares, or what follows
 * from it along the operators that computed the value. */
#ifndef MPQ_IMPORTER_TRACE_H
#define MPQ_IMPORTER_TRACE_H

#include "quantcore/ir/graph.h"

/* Unknown dimensions are MPQ_DIM_UNKNOWN, an unknown rank MPQ_RANK_UNKNOWN. */
struct mpq_shape mpq_trace_shape(const struct mpq_graph *graph, mpq_value_id value);

enum mpq_dtype mpq_trace_dtype(const struct mpq_graph *graph,
                               mpq_value_id value); /* or UNDEFINED */

#endif
