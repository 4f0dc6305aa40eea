#include "importer/import_attr.h"

#include <string.h>

#include "importer/import_tensor.h"
#include "importer/rewrite.h"

typedef Onnx__AttributeProto__AttributeType attr_type;
#define TYPE(name) ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__##name

/* Files older than IR version 2 do not say which field counts. */
static attr_type type_of(const Onnx__AttributeProto *proto)
{
    if (proto->has_type && proto->type != TYPE(UNDEFINED))
        return proto->type;
    if (proto->has_f)
        return TYPE(FLOAT);
    if (proto->has_i)
        return TYPE(INT);
    if (proto->has_s)
        return TYPE(STRING);
    if (proto->t)
        return TYPE(TENSOR);
    if (proto->n_floats)
        return TYPE(FLOATS);
    if (proto->n_ints)
        return TYPE(INTS);
    if (proto->n_strings)
        return TYPE(STRINGS);
    return TYPE(UNDEFINED);
}

static char *copy_string(struct mpq_ctx *ctx, struct mpq_arena *arena,
                         const ProtobufCBinaryData *bytes)
{
    char *copy = mpq_arena_alloc(ctx, arena, bytes->len + 1, 1);
    if (copy && bytes->len)
        memcpy(copy, bytes->data, bytes->len);
    return copy;
}

static enum mpq_status read_string(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const Onnx__AttributeProto *proto, struct mpq_attr *attr)
{
    attr->kind = MPQ_ATTR_STRING;
    attr->n = proto->s.len;
    attr->s = copy_string(ctx, arena, &proto->s);
    return attr->s ? MPQ_OK : MPQ_E_NOMEM;
}

/* A list of strings has no lengths; one with a zero byte inside is carried as it is. */
static enum mpq_status read_strings(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const Onnx__AttributeProto *proto, struct mpq_attr *attr)
{
    const char **string = mpq_arena_alloc(ctx, arena, proto->n_strings, sizeof *string);
    if (!string)
        return MPQ_E_NOMEM;
    for (size_t i = 0; i < proto->n_strings; i++) {
        string[i] = copy_string(ctx, arena, &proto->strings[i]);
        if (!string[i])
            return MPQ_E_NOMEM;
        if (strlen(string[i]) != proto->strings[i].len)
            return MPQ_OK;
    }
    attr->kind = MPQ_ATTR_STRINGS;
    attr->n = proto->n_strings;
    attr->strings = string;
    return MPQ_OK;
}

static enum mpq_status read_tensor(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const Onnx__AttributeProto *proto, struct mpq_attr *attr)
{
    struct mpq_tensor *tensor = mpq_arena_alloc(ctx, arena, 1, sizeof *tensor);
    char *what = mpq_arena_printf(ctx, arena, "the attribute '%s'", proto->name);
    if (!tensor || !what)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_import_tensor(ctx, arena, what, proto->t, tensor));
    attr->kind = MPQ_ATTR_TENSOR;
    attr->tensor = tensor;
    return MPQ_OK;
}

static enum mpq_status read_attr(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const Onnx__AttributeProto *proto, struct mpq_attr *attr)
{
    *attr = (struct mpq_attr){.name = proto->name, .kind = MPQ_ATTR_OPAQUE, .opaque = proto};
    if (proto->ref_attr_name && *proto->ref_attr_name)
        return MPQ_OK;
    switch (type_of(proto)) {
    case TYPE(FLOAT):
        attr->kind = MPQ_ATTR_FLOAT;
        attr->f = proto->f;
        break;
    case TYPE(INT):
        attr->kind = MPQ_ATTR_INT;
        attr->i = proto->i;
        break;
    case TYPE(STRING):
        return read_string(ctx, arena, proto, attr);
    case TYPE(TENSOR):
        if (proto->t)
            return read_tensor(ctx, arena, proto, attr);
        break;
    case TYPE(FLOATS):
        attr->kind = MPQ_ATTR_FLOATS;
        attr->n = proto->n_floats;
        attr->floats = proto->floats;
        break;
    case TYPE(INTS):
        attr->kind = MPQ_ATTR_INTS;
        attr->n = proto->n_ints;
        attr->ints = proto->ints;
        break;
    case TYPE(STRINGS):
        return read_strings(ctx, arena, proto, attr);
    default:
        break;
    }
    return MPQ_OK;
}

enum mpq_status mpq_import_attrs(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const Onnx__NodeProto *node, struct mpq_attr_set *out)
{
    struct mpq_attr *attr = mpq_arena_alloc(ctx, arena, node->n_attribute, sizeof *attr);
    if (!attr)
        return MPQ_E_NOMEM;
    struct mpq_attr_set set = {0, attr};
    for (size_t i = 0; i < node->n_attribute; i++) {
        const Onnx__AttributeProto *proto = node->attribute[i];
        if (!proto->name || !*proto->name)
            return mpq_fail(ctx, MPQ_E_FORMAT, "node '%s' (%s): attribute %zu has no name",
                            mpq_rewrite_label(node), node->op_type, i);
        if (mpq_attr_find(&set, proto->name))
            return mpq_fail(ctx, MPQ_E_FORMAT, "node '%s' (%s): the attribute '%s' is given twice",
                            mpq_rewrite_label(node), node->op_type, proto->name);
        MPQ_TRY(read_attr(ctx, arena, proto, &attr[i]));
        set.n++;
    }
    *out = set;
    return MPQ_OK;
}

static enum mpq_status constant_of_attr(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                        const struct mpq_node *node, const struct mpq_attr *attr,
                                        struct mpq_tensor *out)
{
    const struct mpq_shape list = MPQ_SHAPE((int64_t)attr->n), scalar = {.rank = 0};
    const void *data = NULL;
    size_t bytes = 0;
    switch (attr->kind) {
    case MPQ_ATTR_TENSOR:
        *out = *attr->tensor;
        return MPQ_OK;
    case MPQ_ATTR_FLOAT:
        *out = (struct mpq_tensor){MPQ_FLOAT, scalar, NULL};
        data = &attr->f;
        bytes = sizeof attr->f;
        break;
    case MPQ_ATTR_FLOATS:
        *out = (struct mpq_tensor){MPQ_FLOAT, list, NULL};
        data = attr->floats;
        bytes = attr->n * sizeof *attr->floats;
        break;
    case MPQ_ATTR_INT:
        *out = (struct mpq_tensor){MPQ_INT64, scalar, NULL};
        data = &attr->i;
        bytes = sizeof attr->i;
        break;
    case MPQ_ATTR_INTS:
        *out = (struct mpq_tensor){MPQ_INT64, list, NULL};
        data = attr->ints;
        bytes = attr->n * sizeof *attr->ints;
        break;
    case MPQ_ATTR_STRING:
        *out = (struct mpq_tensor){MPQ_STRING, scalar, NULL};
        data = &attr->s;
        bytes = sizeof attr->s;
        break;
    case MPQ_ATTR_STRINGS:
        *out = (struct mpq_tensor){MPQ_STRING, list, NULL};
        data = attr->strings;
        bytes = attr->n * sizeof *attr->strings;
        break;
    default:
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "a constant in the form of '%s'",
                             attr->name);
    }
    out->data = mpq_arena_copy(ctx, arena, data, bytes);
    return out->data ? MPQ_OK : MPQ_E_NOMEM;
}

enum mpq_status mpq_import_constant_node(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                         const struct mpq_node *node, struct mpq_tensor *out)
{
    if (node->n_in != 0 || node->n_out != 1 || node->attr_set.n != 1)
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT,
                             "a constant has one attribute and one output, not %zu and %u",
                             node->attr_set.n, node->n_out);
    return constant_of_attr(ctx, arena, node, &node->attr_set.attr[0], out);
}
