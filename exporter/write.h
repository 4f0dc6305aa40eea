/* IR records -> protobuf structs. Strings and tensor data stay the IR's and are not copied; the
 * structs live in `arena`. NULL: no memory (the error is stored in ctx). */
#ifndef MPQ_EXPORTER_WRITE_H
#define MPQ_EXPORTER_WRITE_H

#include <onnx.pb-c.h>

#include "quantcore/ir/graph.h"

/* protobuf-c reads strings through a char pointer. */
static inline char *mpq_write_text(const char *s)
{
    union {
        const char *in;
        char *out;
    } cast = {s};
    return cast.out;
}

/* What a varint takes. */
size_t mpq_varint_bytes(uint64_t value);

/* Values are written as raw bytes, or with `compact`, where that is shorter, as the varints of
 * int32_data and int64_data. tensor->data NULL gives a tensor that can be measured, not packed. */
Onnx__TensorProto *mpq_write_tensor(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_tensor *tensor, const char *name,
                                    bool compact);

Onnx__AttributeProto *mpq_write_attr(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                     const struct mpq_attr *attr);

/* Name, element type and declared shape. */
Onnx__ValueInfoProto *mpq_write_value_info(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                           const struct mpq_value *value);

#endif
