#include "importer/dense.h"

#include <string.h>

#include "importer/import_tensor.h"

static char value_name[] = "value";

static enum mpq_status make_tensor(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const Onnx__SparseTensorProto *sparse, Onnx__TensorProto **out)
{
    Onnx__TensorProto *made = mpq_arena_alloc(ctx, arena, 1, sizeof *made);
    struct mpq_tensor tensor;
    if (!made)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_import_sparse(ctx, arena, "a sparse tensor", sparse, &tensor));
    if (mpq_dtype_bits(tensor.dtype) < 8)
        return mpq_fail(ctx, MPQ_E_UNSUPPORTED, "a sparse tensor of type %s",
                        mpq_dtype_name(tensor.dtype));
    onnx__tensor_proto__init(made);
    made->name = sparse->values->name;
    made->has_data_type = made->has_raw_data = 1;
    made->data_type = (int32_t)tensor.dtype;
    made->n_dims = sparse->n_dims;
    made->dims = sparse->dims;
    made->raw_data = (ProtobufCBinaryData){mpq_tensor_bytes(&tensor), tensor.data};
    *out = made;
    return MPQ_OK;
}

static enum mpq_status densify(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               Onnx__GraphProto *graph);

static enum mpq_status densify_attr(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const Onnx__NodeProto *node, Onnx__AttributeProto *attr)
{
    if (attr->g)
        MPQ_TRY(densify(ctx, arena, attr->g));
    for (size_t i = 0; i < attr->n_graphs; i++)
        MPQ_TRY(densify(ctx, arena, attr->graphs[i]));
    if (!attr->sparse_tensor || !node->op_type || strcmp(node->op_type, "Constant") != 0)
        return MPQ_OK;
    MPQ_TRY(make_tensor(ctx, arena, attr->sparse_tensor, &attr->t));
    attr->sparse_tensor = NULL;
    attr->name = value_name;
    attr->has_type = 1;
    attr->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TENSOR;
    return MPQ_OK;
}

static enum mpq_status densify(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               Onnx__GraphProto *graph)
{
    if (graph->n_sparse_initializer) {
        size_t n = graph->n_initializer + graph->n_sparse_initializer;
        graph->initializer = mpq_arena_grow(ctx, arena, graph->initializer, graph->n_initializer, n,
                                            sizeof(Onnx__TensorProto *));
        if (!graph->initializer)
            return MPQ_E_NOMEM;
        for (size_t i = 0; i < graph->n_sparse_initializer; i++)
            MPQ_TRY(make_tensor(ctx, arena, graph->sparse_initializer[i],
                                &graph->initializer[graph->n_initializer++]));
        graph->n_sparse_initializer = 0;
    }
    for (size_t n = 0; n < graph->n_node; n++)
        for (size_t i = 0; i < graph->node[n]->n_attribute; i++)
            MPQ_TRY(densify_attr(ctx, arena, graph->node[n], graph->node[n]->attribute[i]));
    return MPQ_OK;
}

enum mpq_status mpq_make_dense(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               Onnx__ModelProto *model)
{
    return densify(ctx, arena, model->graph);
}
