/* Bytes <-> ModelProto. Nothing else unpacks or packs. */
#ifndef MPQ_PROTO_PROTO_MODEL_H
#define MPQ_PROTO_PROTO_MODEL_H

#include <onnx.pb-c.h>

#include "quantcore/base/arena.h"

/* The message in `arena`, sharing nothing with data; fields that the schema does not know are kept
 * and packed again. FORMAT, LIMIT as mpq_wire_guard(), which runs first. Give it back with the
 * arena, never with protobuf-c's free. */
enum mpq_status mpq_proto_unpack(struct mpq_ctx *ctx, struct mpq_arena *arena, const uint8_t *data,
                                 size_t bytes, Onnx__ModelProto **out) MPQ_CHECKED;

size_t mpq_proto_bytes(const Onnx__ModelProto *model); /* when packed */

/* LIMIT above 2 GiB, which no reader of protobuf accepts. */
enum mpq_status mpq_proto_pack(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               const Onnx__ModelProto *model, uint8_t **out_data,
                               size_t *out_bytes) MPQ_CHECKED;

#endif
