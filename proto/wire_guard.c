#include "proto/wire_guard.h"

#include <onnx.pb-c.h>
#include <string.h>

#include "quantcore/base/limits.h"

enum wire_type { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_LENGTH = 2, WIRE_32 = 5 };

struct scan {
    struct mpq_ctx *ctx;
    const uint8_t *begin, *at, *end; /* of the innermost message               */
    bool has_graph;                  /* the field ModelProto.graph has begun   */
    size_t n_message, n_node;        /* in the whole file                      */
};

struct field {
    uint32_t number, type;
    const uint8_t *begin; /* of the payload of a WIRE_LENGTH field */
    size_t bytes;
    const ProtobufCFieldDescriptor *known; /* NULL: not in our schema */
};

/* Before a graph has been seen, damage means that this never was a model. */
static enum mpq_status malformed(struct scan *scan, const char *what)
{
    if (!scan->has_graph)
        return mpq_fail(scan->ctx, MPQ_E_FORMAT, "is not an ONNX model");
    return mpq_fail(scan->ctx, MPQ_E_FORMAT, "is damaged or cut off: %s at byte %zu", what,
                    (size_t)(scan->at - scan->begin));
}

/* A number of at most max_bytes groups of seven bits. */
static enum mpq_status read_varint(struct scan *scan, int max_bytes, uint64_t *out)
{
    uint64_t value = 0;
    for (int i = 0; i < max_bytes && scan->at < scan->end; i++) {
        uint8_t byte = *scan->at++;
        value |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (!(byte & 0x80)) {
            *out = value;
            return MPQ_OK;
        }
    }
    return malformed(scan, "an endless number");
}

static enum mpq_status skip(struct scan *scan, uint64_t bytes)
{
    if (bytes > (uint64_t)(scan->end - scan->at))
        return malformed(scan, "a field longer than what remains");
    scan->at += bytes;
    return MPQ_OK;
}

/* Read one field with its payload. */
static enum mpq_status read_field(struct scan *scan, const ProtobufCMessageDescriptor *message,
                                  struct field *out)
{
    uint64_t tag = 0, length = 0;
    MPQ_TRY(read_varint(scan, 5, &tag));
    *out = (struct field){.number = (uint32_t)(tag >> 3), .type = tag & 7};
    if (out->number == 0 || tag > UINT32_MAX)
        return malformed(scan, "an impossible field number");
    out->known = protobuf_c_message_descriptor_get_field(message, out->number);
    switch (out->type) {
    case WIRE_VARINT:
        return read_varint(scan, 10, &length);
    case WIRE_64:
        return skip(scan, 8);
    case WIRE_32:
        return skip(scan, 4);
    case WIRE_LENGTH:
        MPQ_TRY(read_varint(scan, 5, &length));
        if (message == &onnx__model_proto__descriptor && out->known &&
            out->known->descriptor == &onnx__graph_proto__descriptor)
            scan->has_graph = true;
        out->begin = scan->at;
        out->bytes = (size_t)length;
        return skip(scan, length);
    default:
        return malformed(scan, "a field of an unknown kind");
    }
}

/* Names are bounded; prose and metadata are not. */
static bool is_prose(const char *name)
{
    return strcmp(name, "doc_string") == 0 || strcmp(name, "value") == 0;
}

static enum mpq_status check_string(struct scan *scan, const struct field *field)
{
    if (field->bytes && memchr(field->begin, 0, field->bytes))
        return malformed(scan, "a string with a zero byte inside");
    if (field->bytes > MPQ_LIMIT_NAME_BYTES && !is_prose(field->known->name))
        return mpq_fail(scan->ctx, MPQ_E_LIMIT,
                        "a field '%s' has %zu bytes, at most %u are accepted", field->known->name,
                        field->bytes, MPQ_LIMIT_NAME_BYTES);
    return MPQ_OK;
}

static enum mpq_status count_message(struct scan *scan, const ProtobufCMessageDescriptor *message)
{
    if (++scan->n_message > MPQ_LIMIT_MESSAGES)
        return mpq_fail(scan->ctx, MPQ_E_LIMIT, "has more than %u parts", MPQ_LIMIT_MESSAGES);
    if (message == &onnx__node_proto__descriptor && ++scan->n_node > MPQ_LIMIT_NODES)
        return mpq_fail(scan->ctx, MPQ_E_LIMIT, "has more than %u nodes", MPQ_LIMIT_NODES);
    return MPQ_OK;
}

static enum mpq_status scan_message(struct scan *scan, const ProtobufCMessageDescriptor *message,
                                    int depth)
{
    if (depth > MPQ_LIMIT_DEPTH)
        return mpq_fail(scan->ctx, MPQ_E_LIMIT, "is nested more than %d levels deep",
                        MPQ_LIMIT_DEPTH);
    uint64_t seen = 0; /* bit i: field i of the message, where it may be given once */
    size_t n_attribute = 0;
    MPQ_ASSERT(message->n_fields <= 64);
    while (scan->at < scan->end) {
        struct field field;
        MPQ_TRY(read_field(scan, message, &field));
        if (!field.known || field.type != WIRE_LENGTH)
            continue;
        if (field.known->type == PROTOBUF_C_TYPE_STRING)
            MPQ_TRY(check_string(scan, &field));
        if (field.known->type != PROTOBUF_C_TYPE_MESSAGE)
            continue;
        uint64_t bit = (uint64_t)1 << (field.known - message->fields);
        if (field.known->label != PROTOBUF_C_LABEL_REPEATED && (seen & bit))
            return malformed(scan, "a part that is given twice");
        seen |= bit;
        const ProtobufCMessageDescriptor *inner = field.known->descriptor;
        if (inner == &onnx__attribute_proto__descriptor && ++n_attribute > MPQ_LIMIT_ATTRS)
            return mpq_fail(scan->ctx, MPQ_E_LIMIT, "a node has more than %u attributes",
                            MPQ_LIMIT_ATTRS);
        MPQ_TRY(count_message(scan, inner));
        struct scan outer = *scan;
        scan->at = field.begin;
        scan->end = field.begin + field.bytes;
        MPQ_TRY(scan_message(scan, inner, depth + 1));
        scan->at = outer.at;
        scan->end = outer.end;
    }
    return MPQ_OK;
}

enum mpq_status mpq_wire_guard(struct mpq_ctx *ctx, const uint8_t *data, size_t bytes)
{
    if (bytes == 0)
        return mpq_fail(ctx, MPQ_E_FORMAT, "is empty");
    if (bytes > MPQ_LIMIT_MODEL_BYTES)
        return mpq_fail(ctx, MPQ_E_LIMIT, "has %zu bytes, at most %zu are accepted", bytes,
                        MPQ_LIMIT_MODEL_BYTES);
    struct scan scan = {.ctx = ctx, .begin = data, .at = data, .end = data + bytes};
    MPQ_TRY(scan_message(&scan, &onnx__model_proto__descriptor, 1));
    if (!scan.has_graph)
        return mpq_fail(ctx, MPQ_E_FORMAT, "is not an ONNX model: it has no graph");
    return MPQ_OK;
}
