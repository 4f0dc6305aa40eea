#include "importer/widen.h"

#include <string.h>

#include "importer/import_tensor.h"
#include "importer/rewrite.h"

struct widening {
    struct mpq_ctx *ctx;
    struct mpq_arena *arena;
};

static bool is_wide(int32_t type)
{
    return mpq_dtype_is_other_float((enum mpq_dtype)type);
}

static enum mpq_status widen_tensor(struct widening *w, Onnx__TensorProto *proto)
{
    struct mpq_tensor tensor;
    if (!proto || !is_wide(proto->data_type))
        return MPQ_OK;
    MPQ_TRY(mpq_import_tensor_as_float(w->ctx, w->arena, "a constant", proto, &tensor));
    proto->data_type = MPQ_FLOAT;
    proto->n_int32_data = proto->n_double_data = 0;
    proto->has_raw_data = 1;
    proto->raw_data = (ProtobufCBinaryData){mpq_tensor_bytes(&tensor), tensor.data};
    return MPQ_OK;
}

static bool declares_wide(const Onnx__ValueInfoProto *info)
{
    const Onnx__TypeProto *type = info->type;
    return type && type->value_case == ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE &&
           is_wide(type->tensor_type->elem_type);
}

static bool is_bit_cast(const Onnx__NodeProto *node)
{
    return node->op_type && strcmp(node->op_type, "BitCast") == 0;
}

bool mpq_widen_keeps(const Onnx__GraphProto *graph, const char *name)
{
    for (size_t n = 0; n < graph->n_node; n++) {
        const Onnx__NodeProto *node = graph->node[n];
        if (is_bit_cast(node) && node->n_input == 1 && node->n_output == 1 &&
            (strcmp(node->input[0], name) == 0 || strcmp(node->output[0], name) == 0))
            return true;
    }
    return false;
}

/* Of values of a graph, be it the main one or a body. */
static void widen_declarations(const Onnx__GraphProto *graph, Onnx__ValueInfoProto **info, size_t n)
{
    bool has_bit_cast = false; /* few graphs have one, and all may have many values */
    for (size_t i = 0; i < graph->n_node; i++)
        has_bit_cast |= is_bit_cast(graph->node[i]);
    for (size_t i = 0; i < n; i++)
        if (declares_wide(info[i]) && info[i]->name &&
            !(has_bit_cast && mpq_widen_keeps(graph, info[i]->name)))
            info[i]->type->tensor_type->elem_type = MPQ_FLOAT;
}

/* Attributes whose integer is an element type. */
static bool names_type(const char *attr)
{
    static const char *const name[] = {
        "to",           "dtype",     "output_datatype",  "stash_type",
        "output_dtype", "precision", "softmax_precision"};
    for (size_t i = 0; i < MPQ_COUNT(name); i++)
        if (strcmp(attr, name[i]) == 0)
            return true;
    return false;
}

static enum mpq_status widen_body(struct widening *w, Onnx__GraphProto *body);

static enum mpq_status widen_nodes(struct widening *w, Onnx__NodeProto **node, size_t n_node)
{
    for (size_t n = 0; n < n_node; n++)
        for (size_t i = 0; i < node[n]->n_attribute; i++) {
            Onnx__AttributeProto *attr = node[n]->attribute[i];
            if (attr->has_i && attr->name && names_type(attr->name) && attr->i > 0 &&
                attr->i < MPQ_N_DTYPE && is_wide((int32_t)attr->i) && !is_bit_cast(node[n]))
                attr->i = MPQ_FLOAT;
            MPQ_TRY(widen_tensor(w, attr->t));
            for (size_t j = 0; j < attr->n_tensors; j++)
                MPQ_TRY(widen_tensor(w, attr->tensors[j]));
            if (attr->g)
                MPQ_TRY(widen_body(w, attr->g));
            for (size_t j = 0; j < attr->n_graphs; j++)
                MPQ_TRY(widen_body(w, attr->graphs[j]));
        }
    return MPQ_OK;
}

static enum mpq_status widen_body(struct widening *w, Onnx__GraphProto *body)
{
    for (size_t i = 0; i < body->n_initializer; i++)
        MPQ_TRY(widen_tensor(w, body->initializer[i]));
    widen_declarations(body, body->input, body->n_input);
    widen_declarations(body, body->output, body->n_output);
    widen_declarations(body, body->value_info, body->n_value_info);
    return widen_nodes(w, body->node, body->n_node);
}

/* Bodies that read an input or output of the main graph whose declared type differs from the one
 * it is computed in read a copy, which has no declaration. */
static enum mpq_status shield_bodies(struct widening *w, Onnx__GraphProto *graph,
                                     Onnx__ValueInfoProto **info, size_t n)
{
    struct mpq_rewrite rewrite;
    bool is_begun = false;
    for (size_t i = 0; i < n; i++) {
        if (!info[i]->name || !declares_wide(info[i]) ||
            !mpq_rewrite_bodies_read(graph, info[i]->name))
            continue;
        char *copy = NULL;
        if (!is_begun)
            MPQ_TRY(mpq_rewrite_begin(w->ctx, w->arena, graph, &rewrite));
        is_begun = true;
        MPQ_TRY(mpq_rewrite_name(&rewrite, info[i]->name, &copy));
        MPQ_TRY(mpq_rewrite_op(&rewrite, "Identity", 1, (char *[]){info[i]->name}, copy));
        mpq_rewrite_rename_in_bodies(graph, info[i]->name, copy);
    }
    if (!is_begun)
        return MPQ_OK;
    for (size_t k = 0; k < graph->n_node; k++)
        MPQ_TRY(mpq_rewrite_append(&rewrite, graph->node[k]));
    mpq_rewrite_end(&rewrite);
    return MPQ_OK;
}

enum mpq_status mpq_widen(struct mpq_ctx *ctx, struct mpq_arena *arena, Onnx__ModelProto *model)
{
    struct widening w = {ctx, arena};
    Onnx__GraphProto *graph = model->graph;
    MPQ_TRY(shield_bodies(&w, graph, graph->input, graph->n_input));
    MPQ_TRY(shield_bodies(&w, graph, graph->output, graph->n_output));
    widen_declarations(graph, graph->value_info, graph->n_value_info);
    return widen_nodes(&w, graph->node, graph->n_node);
}
