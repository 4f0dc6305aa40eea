/* AttributeProto -> neutral attribute. */
#ifndef MPQ_IMPORTER_IMPORT_ATTR_H
#define MPQ_IMPORTER_IMPORT_ATTR_H

#include <onnx.pb-c.h>

#include "quantcore/ir/graph.h"

/* The value of a Constant node, whose attributes have been read, in any of its forms. */
enum mpq_status mpq_import_constant_node(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                         const struct mpq_node *node,
                                         struct mpq_tensor *out) MPQ_CHECKED;

/* Every attribute of the node. Graphs, types, sparse tensors and lists of tensors become OPAQUE and
 * point at their AttributeProto; numbers alias the message. */
enum mpq_status mpq_import_attrs(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const Onnx__NodeProto *node, struct mpq_attr_set *out) MPQ_CHECKED;

#endif
