#include "tests/unit/model_builder.h"

#include <string.h>

#include "tests/check.h"

static void *take(struct builder *b, size_t n, size_t size)
{
    void *object = mpq_arena_alloc(&b->ctx, b->arena, n, size);
    assert_non_null(object);
    return object;
}

static char *text(struct builder *b, const char *string)
{
    char *copy = mpq_arena_strdup(&b->ctx, b->arena, string);
    assert_non_null(copy);
    return copy;
}

/* One more pointer at the end of a repeated field. */
#define APPEND(b, list, n, item)                                                                   \
    do {                                                                                           \
        void *grown_ = take(b, (n) + 1, sizeof *(list));                                           \
        if (n)                                                                                     \
            memcpy(grown_, list, (n) * sizeof *(list));                                            \
        (list) = grown_;                                                                           \
        (list)[(n)++] = item;                                                                      \
    } while (0)

Onnx__GraphProto *builder_graph(struct builder *b)
{
    Onnx__GraphProto *graph = take(b, 1, sizeof *graph);
    onnx__graph_proto__init(graph);
    graph->name = text(b, "graph");
    return graph;
}

void builder_init(struct builder *b, int64_t opset)
{
    mpq_ctx_init(&b->ctx);
    b->arena = mpq_arena_create(&b->ctx);
    assert_non_null(b->arena);
    b->model = take(b, 1, sizeof *b->model);
    onnx__model_proto__init(b->model);
    b->model->has_ir_version = 1;
    b->model->ir_version = 7;
    b->model->graph = b->graph = builder_graph(b);
    Onnx__OperatorSetIdProto *set = take(b, 1, sizeof *set);
    onnx__operator_set_id_proto__init(set);
    set->has_version = 1;
    set->version = opset;
    APPEND(b, b->model->opset_import, b->model->n_opset_import, set);
}

void builder_release(struct builder *b)
{
    mpq_arena_free(b->arena);
}

static Onnx__TypeProto *tensor_type(struct builder *b, enum mpq_dtype dtype,
                                    const struct mpq_shape *shape)
{
    Onnx__TypeProto *type = take(b, 1, sizeof *type);
    onnx__type_proto__init(type);
    type->value_case = ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE;
    type->tensor_type = take(b, 1, sizeof *type->tensor_type);
    onnx__type_proto__tensor__init(type->tensor_type);
    type->tensor_type->has_elem_type = 1;
    type->tensor_type->elem_type = (int32_t)dtype;
    Onnx__TensorShapeProto *proto = type->tensor_type->shape = take(b, 1, sizeof *proto);
    onnx__tensor_shape_proto__init(proto);
    for (int i = 0; i < shape->rank; i++) {
        Onnx__TensorShapeProto__Dimension *dim = take(b, 1, sizeof *dim);
        onnx__tensor_shape_proto__dimension__init(dim);
        if (shape->dim[i] >= 0) {
            dim->value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE;
            dim->dim_value = shape->dim[i];
        } else {
            dim->value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM;
            dim->dim_param = text(b, "N");
        }
        APPEND(b, proto->dim, proto->n_dim, dim);
    }
    return type;
}

void builder_input(struct builder *b, const char *name, enum mpq_dtype dtype,
                   const struct mpq_shape *shape)
{
    Onnx__ValueInfoProto *info = take(b, 1, sizeof *info);
    onnx__value_info_proto__init(info);
    info->name = text(b, name);
    info->type = tensor_type(b, dtype, shape);
    APPEND(b, b->graph->input, b->graph->n_input, info);
}

void builder_output(struct builder *b, const char *name)
{
    Onnx__ValueInfoProto *info = take(b, 1, sizeof *info);
    onnx__value_info_proto__init(info);
    info->name = text(b, name);
    APPEND(b, b->graph->output, b->graph->n_output, info);
}

Onnx__TensorProto *builder_initializer(struct builder *b, const char *name, enum mpq_dtype dtype,
                                       const struct mpq_shape *shape)
{
    Onnx__TensorProto *tensor = take(b, 1, sizeof *tensor);
    onnx__tensor_proto__init(tensor);
    tensor->name = text(b, name);
    tensor->has_data_type = 1;
    tensor->data_type = (int32_t)dtype;
    tensor->n_dims = (size_t)shape->rank;
    tensor->dims = take(b, tensor->n_dims, sizeof *tensor->dims);
    memcpy(tensor->dims, shape->dim, tensor->n_dims * sizeof *tensor->dims);
    APPEND(b, b->graph->initializer, b->graph->n_initializer, tensor);
    return tensor;
}

Onnx__TensorProto *builder_raw(struct builder *b, const char *name, enum mpq_dtype dtype,
                               const struct mpq_shape *shape, const void *data, size_t bytes)
{
    Onnx__TensorProto *tensor = builder_initializer(b, name, dtype, shape);
    tensor->has_raw_data = 1;
    tensor->raw_data.len = bytes;
    tensor->raw_data.data = take(b, bytes, 1);
    memcpy(tensor->raw_data.data, data, bytes);
    return tensor;
}

Onnx__NodeProto *builder_node(struct builder *b, const char *op_type, const char *in,
                              const char *out)
{
    Onnx__NodeProto *node = take(b, 1, sizeof *node);
    onnx__node_proto__init(node);
    node->op_type = text(b, op_type);
    node->name = mpq_arena_printf(&b->ctx, b->arena, "%s_%zu", op_type, b->graph->n_node);
    for (char *name = strtok(text(b, in), " "); name; name = strtok(NULL, " "))
        APPEND(b, node->input, node->n_input, strcmp(name, "-") == 0 ? text(b, "") : name);
    for (char *name = strtok(text(b, out), " "); name; name = strtok(NULL, " "))
        APPEND(b, node->output, node->n_output, strcmp(name, "-") == 0 ? text(b, "") : name);
    APPEND(b, b->graph->node, b->graph->n_node, node);
    return node;
}

Onnx__AttributeProto *builder_attr(struct builder *b, Onnx__NodeProto *node, const char *name,
                                   int type)
{
    Onnx__AttributeProto *attr = take(b, 1, sizeof *attr);
    onnx__attribute_proto__init(attr);
    attr->name = text(b, name);
    attr->has_type = 1;
    attr->type = (Onnx__AttributeProto__AttributeType)type;
    APPEND(b, node->attribute, node->n_attribute, attr);
    return attr;
}

void builder_attr_int(struct builder *b, Onnx__NodeProto *node, const char *name, int64_t value)
{
    Onnx__AttributeProto *attr =
        builder_attr(b, node, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT);
    attr->has_i = 1;
    attr->i = value;
}

void builder_attr_float(struct builder *b, Onnx__NodeProto *node, const char *name, float value)
{
    Onnx__AttributeProto *attr =
        builder_attr(b, node, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT);
    attr->has_f = 1;
    attr->f = value;
}

void builder_attr_string(struct builder *b, Onnx__NodeProto *node, const char *name,
                         const char *value)
{
    Onnx__AttributeProto *attr =
        builder_attr(b, node, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRING);
    attr->has_s = 1;
    attr->s.len = strlen(value);
    attr->s.data = (uint8_t *)text(b, value);
}

void builder_attr_ints(struct builder *b, Onnx__NodeProto *node, const char *name,
                       const int64_t *value, size_t n)
{
    Onnx__AttributeProto *attr =
        builder_attr(b, node, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS);
    attr->n_ints = n;
    attr->ints = take(b, n, sizeof *attr->ints);
    memcpy(attr->ints, value, n * sizeof *value);
}

void builder_external(struct builder *b, Onnx__TensorProto *tensor, const char *key,
                      const char *value)
{
    Onnx__StringStringEntryProto *entry = take(b, 1, sizeof *entry);
    onnx__string_string_entry_proto__init(entry);
    entry->key = text(b, key);
    entry->value = text(b, value);
    tensor->has_data_location = 1;
    tensor->data_location = ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL;
    APPEND(b, tensor->external_data, tensor->n_external_data, entry);
}

void builder_small_net(struct builder *b)
{
    static const float w[12] = {1, -2, 3, 4, 5, 6, -7, 8, 9, 10, 11, 12}, bias[4] = {0, 1, 2, 3};
    builder_init(b, 13);
    builder_input(b, "x", MPQ_FLOAT, &MPQ_SHAPE(2, 3));
    builder_output(b, "y");
    builder_raw(b, "w", MPQ_FLOAT, &MPQ_SHAPE(3, 4), w, sizeof w);
    builder_raw(b, "b", MPQ_FLOAT, &MPQ_SHAPE(4), bias, sizeof bias);
    builder_attr_float(b, builder_node(b, "Gemm", "x w b", "h"), "alpha", 1.0f);
    builder_node(b, "Relu", "h", "y");
}

void builder_pack(struct builder *b, uint8_t **out_data, size_t *out_bytes)
{
    CHECK_OK(&b->ctx, mpq_proto_pack(&b->ctx, b->arena, b->model, out_data, out_bytes));
}
