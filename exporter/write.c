#include "exporter/write.h"

#include <string.h>

size_t mpq_varint_bytes(uint64_t value)
{
    size_t n = 1;
    for (; value >= 128; value >>= 7)
        n++;
    return n;
}

/* Elements of fewer than 8 bits lie one a byte in memory; in a file they are a stream of bits, the
 * first in the low bits of each byte. */
static uint8_t *pack_small(struct mpq_ctx *ctx, struct mpq_arena *arena,
                           const struct mpq_tensor *tensor, int bits, size_t bytes)
{
    size_t n = (size_t)mpq_shape_count(&tensor->shape), at = 0;
    uint8_t *packed = mpq_arena_alloc(ctx, arena, bytes, 1);
    if (!packed)
        return NULL;
    for (size_t i = 0; i < n; i++, at += (size_t)bits) {
        unsigned element = ((const uint8_t *)tensor->data)[i] & ((1u << bits) - 1);
        element <<= at % 8;
        packed[at / 8] |= (uint8_t)element;
        if (element > UINT8_MAX)
            packed[at / 8 + 1] |= (uint8_t)(element >> 8);
    }
    return packed;
}

static bool write_strings(struct mpq_ctx *ctx, struct mpq_arena *arena,
                          const struct mpq_tensor *tensor, Onnx__TensorProto *out)
{
    size_t n = (size_t)mpq_shape_count(&tensor->shape);
    const char *const *string = tensor->data;
    out->string_data = mpq_arena_alloc(ctx, arena, n, sizeof *out->string_data);
    if (!out->string_data)
        return false;
    out->n_string_data = n;
    for (size_t i = 0; i < n; i++)
        out->string_data[i] = (ProtobufCBinaryData){.len = strlen(string[i]),
                                                    .data = (uint8_t *)mpq_write_text(string[i])};
    return true;
}

static bool is_shorter_as_varints(const struct mpq_tensor *tensor)
{
    int64_t n = mpq_shape_count(&tensor->shape);
    size_t bytes = 0;
    for (int64_t i = 0; i < n; i++)
        bytes += mpq_varint_bytes((uint64_t)mpq_tensor_int(tensor, i));
    return bytes < mpq_tensor_bytes(tensor);
}

Onnx__TensorProto *mpq_write_tensor(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_tensor *tensor, const char *name, bool compact)
{
    Onnx__TensorProto *out = mpq_arena_alloc(ctx, arena, 1, sizeof *out);
    if (!out)
        return NULL;
    onnx__tensor_proto__init(out);
    out->name = mpq_write_text(name);
    out->has_data_type = 1;
    out->data_type = (int32_t)tensor->dtype;
    out->n_dims = (size_t)tensor->shape.rank;
    out->dims = mpq_arena_copy(ctx, arena, tensor->shape.dim, out->n_dims * sizeof *out->dims);
    if (!out->dims)
        return NULL;
    if (tensor->dtype == MPQ_STRING)
        return write_strings(ctx, arena, tensor, out) ? out : NULL;

    size_t n = (size_t)mpq_shape_count(&tensor->shape);
    if (compact && tensor->dtype == MPQ_INT64 && is_shorter_as_varints(tensor)) {
        out->n_int64_data = n;
        out->int64_data = tensor->data;
        return out;
    }
    if (compact && tensor->dtype == MPQ_INT32 && is_shorter_as_varints(tensor)) {
        out->n_int32_data = n;
        out->int32_data = tensor->data;
        return out;
    }
    out->has_raw_data = 1;
    out->raw_data.data = tensor->data;
    out->raw_data.len = mpq_tensor_bytes(tensor);
    int bits = mpq_dtype_bits(tensor->dtype);
    if (bits < 8)
        out->raw_data.len = (n * (size_t)bits + 7) / 8;
    if (bits < 8 && tensor->data) {
        out->raw_data.data = pack_small(ctx, arena, tensor, bits, out->raw_data.len);
        if (!out->raw_data.data)
            return NULL;
    }
    return out;
}

static bool write_strings_attr(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               const struct mpq_attr *attr, Onnx__AttributeProto *out)
{
    out->strings = mpq_arena_alloc(ctx, arena, attr->n, sizeof *out->strings);
    if (!out->strings)
        return false;
    out->n_strings = attr->n;
    for (size_t i = 0; i < attr->n; i++)
        out->strings[i] = (ProtobufCBinaryData){
            .len = strlen(attr->strings[i]), .data = (uint8_t *)mpq_write_text(attr->strings[i])};
    return true;
}

Onnx__AttributeProto *mpq_write_attr(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                     const struct mpq_attr *attr)
{
    Onnx__AttributeProto *out = mpq_arena_alloc(ctx, arena, 1, sizeof *out);
    if (!out)
        return NULL;
    if (attr->kind == MPQ_ATTR_OPAQUE) {
        memcpy(out, attr->opaque, sizeof *out);
        return out;
    }
    onnx__attribute_proto__init(out);
    out->name = mpq_write_text(attr->name);
    out->has_type = 1;
    switch (attr->kind) {
    case MPQ_ATTR_INT:
        out->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT;
        out->has_i = 1;
        out->i = attr->i;
        break;
    case MPQ_ATTR_FLOAT:
        out->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT;
        out->has_f = 1;
        out->f = attr->f;
        break;
    case MPQ_ATTR_STRING:
        out->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRING;
        out->has_s = 1;
        out->s = (ProtobufCBinaryData){.len = attr->n, .data = (uint8_t *)mpq_write_text(attr->s)};
        break;
    case MPQ_ATTR_TENSOR:
        out->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TENSOR;
        out->t = mpq_write_tensor(ctx, arena, attr->tensor, NULL, true);
        return out->t ? out : NULL;
    case MPQ_ATTR_INTS:
        out->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS;
        out->n_ints = attr->n;
        out->ints = mpq_arena_copy(ctx, arena, attr->ints, attr->n * sizeof *attr->ints);
        return out->ints ? out : NULL;
    case MPQ_ATTR_FLOATS:
        out->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOATS;
        out->n_floats = attr->n;
        out->floats = mpq_arena_copy(ctx, arena, attr->floats, attr->n * sizeof *attr->floats);
        return out->floats ? out : NULL;
    case MPQ_ATTR_STRINGS:
        out->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRINGS;
        return write_strings_attr(ctx, arena, attr, out) ? out : NULL;
    case MPQ_ATTR_OPAQUE:
        break;
    }
    return out;
}

static Onnx__TensorShapeProto *write_shape(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                           const struct mpq_value *value)
{
    size_t rank = (size_t)value->shape.rank;
    Onnx__TensorShapeProto *out = mpq_arena_alloc(ctx, arena, 1, sizeof *out);
    Onnx__TensorShapeProto__Dimension *dim = mpq_arena_alloc(ctx, arena, rank, sizeof *dim);
    Onnx__TensorShapeProto__Dimension **list = mpq_arena_alloc(ctx, arena, rank, sizeof *list);
    if (!out || !dim || !list)
        return NULL;
    onnx__tensor_shape_proto__init(out);
    out->n_dim = rank;
    out->dim = list;
    for (size_t d = 0; d < rank; d++) {
        onnx__tensor_shape_proto__dimension__init(&dim[d]);
        list[d] = &dim[d];
        if (value->shape.dim[d] >= 0) {
            dim[d].value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE;
            dim[d].dim_value = value->shape.dim[d];
        } else if (value->dim_param && value->dim_param[d]) {
            dim[d].value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM;
            dim[d].dim_param = mpq_write_text(value->dim_param[d]);
        }
    }
    return out;
}

Onnx__ValueInfoProto *mpq_write_value_info(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                           const struct mpq_value *value)
{
    struct {
        Onnx__ValueInfoProto info;
        Onnx__TypeProto type;
        Onnx__TypeProto__Tensor tensor;
    } *out = mpq_arena_alloc(ctx, arena, 1, sizeof *out);
    if (!out)
        return NULL;
    onnx__value_info_proto__init(&out->info);
    out->info.name = mpq_write_text(value->name);
    if (value->dtype == MPQ_UNDEFINED)
        return &out->info;
    onnx__type_proto__init(&out->type);
    onnx__type_proto__tensor__init(&out->tensor);
    out->info.type = &out->type;
    out->type.value_case = ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE;
    out->type.tensor_type = &out->tensor;
    out->tensor.has_elem_type = 1;
    out->tensor.elem_type = (int32_t)value->dtype;
    if (value->shape.rank == MPQ_RANK_UNKNOWN)
        return &out->info;
    out->tensor.shape = write_shape(ctx, arena, value);
    return out->tensor.shape ? &out->info : NULL;
}
