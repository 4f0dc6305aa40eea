/* Attributes that need not be written: they say what the operator does without them. */
#ifndef MPQ_EXPORTER_UNSAID_H
#define MPQ_EXPORTER_UNSAID_H

#include "quantcore/ir/graph.h"

/* Whether the node of the ONNX domain means the same without its attribute, by a default that all
 * opsets share and that readers of files rely on, too. kernel_shape is never one: it follows from
 * the weight, but not every reader looks there. */
bool mpq_attr_goes_unsaid(const struct mpq_node *node, const struct mpq_attr *attr);

#endif
