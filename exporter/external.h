/* Initializers moved out of a model that is too large for one protobuf message, into a file beside
 * it (onnx/docs/ExternalData.md). */
#ifndef MPQ_EXPORTER_EXTERNAL_H
#define MPQ_EXPORTER_EXTERNAL_H

#include <onnx.pb-c.h>

#include "exporter/export.h"

/* Where the model has `limit` bytes or more, let every initializer of 4 KiB or more say where in
 * the file `name` its bytes are; out_file gets these as pieces. Content is not looked at. */
enum mpq_status mpq_external_move(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  Onnx__ModelProto *model, const char *name, size_t limit,
                                  struct mpq_export_file *out_file) MPQ_CHECKED;

#endif
