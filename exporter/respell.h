/* A target may need a later opset than the graph is spelled in, for the types of its weights. Few
 * operators are spelled otherwise between opsets 13 and 25; this is the list of them. */
#ifndef MPQ_EXPORTER_RESPELL_H
#define MPQ_EXPORTER_RESPELL_H

#include "exporter/build.h"

/* Edit `out`, the message of `node` in opset `from`, to say the same in opset `to`; may append
 * constants to the build. UNSUPPORTED, naming the node, where we do not know how. */
enum mpq_status mpq_respell(struct mpq_build *build, const struct mpq_node *node, int64_t from,
                            int64_t to, Onnx__NodeProto *out) MPQ_CHECKED;

#endif
