/* Tensors whose bytes lie in files beside the model. */
#ifndef MPQ_IMPORTER_EXTERNAL_DATA_H
#define MPQ_IMPORTER_EXTERNAL_DATA_H

#include <onnx.pb-c.h>

#include "quantcore/base/arena.h"

/* Map the external data of every tensor in the model, those in attributes and subgraphs included,
 * into its raw_data, so that the message stands alone afterwards; *out_bytes is how many there
 * were. `directory` NULL: a model with external data is UNSUPPORTED.
 *
 * A location comes from an untrusted file (onnx/onnx, docs/ExternalDataSecurity.md). It must be
 * relative, without "..", and is opened folder by folder without following symbolic links, so it
 * cannot leave the directory, not even by a link swapped in meanwhile. FORMAT, IO, LIMIT. */
enum mpq_status mpq_external_data_load(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const char *directory, Onnx__ModelProto *model,
                                       uint64_t *out_bytes) MPQ_CHECKED;

#endif
