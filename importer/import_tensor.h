/* TensorProto -> tensor. */
#ifndef MPQ_IMPORTER_IMPORT_TENSOR_H
#define MPQ_IMPORTER_IMPORT_TENSOR_H

#include <onnx.pb-c.h>

#include "quantcore/ir/tensor.h"

/* Element types of two and four bits come out one per byte; everything else aliases the message
 * where its bytes already lie as in memory, else it is copied. `what` names the tensor in messages
 * ("initializer 'w'"). External data have been loaded before (external_data.h). FORMAT where the
 * payload is shorter or longer than the shape says, UNSUPPORTED for unknown element types, LIMIT.
 */
enum mpq_status mpq_import_tensor(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *what,
                                  const Onnx__TensorProto *proto,
                                  struct mpq_tensor *out) MPQ_CHECKED;

/* The same, and FLOAT16, BFLOAT16 and DOUBLE become FLOAT; finite numbers that are too large for it
 * become the largest there are. */
enum mpq_status mpq_import_tensor_as_float(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                           const char *what, const Onnx__TensorProto *proto,
                                           struct mpq_tensor *out) MPQ_CHECKED;

/* A sparse tensor with its zeros; FORMAT where an index is outside of the shape or out of order. */
enum mpq_status mpq_import_sparse(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *what,
                                  const Onnx__SparseTensorProto *proto,
                                  struct mpq_tensor *out) MPQ_CHECKED;

#endif
