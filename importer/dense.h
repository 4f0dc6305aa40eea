/* Sparse tensors become dense ones. */
#ifndef MPQ_IMPORTER_DENSE_H
#define MPQ_IMPORTER_DENSE_H

#include <onnx.pb-c.h>

#include "quantcore/base/arena.h"

/* Sparse initializers, of bodies too, become initializers, and `sparse_value` of Constant, in
 * functions too, its `value`. After external data have been loaded; FORMAT as mpq_import_sparse().
 */
enum mpq_status mpq_make_dense(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               Onnx__ModelProto *model) MPQ_CHECKED;

#endif
