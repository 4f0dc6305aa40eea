#include "importer/dense.h"

#include <string.h>

#include "importer/import_tensor.h"
#include "quantcore/base/limits.h"

static char value_name[] = "value";

struct densifying {
    struct mpq_ctx *ctx;
    struct mpq_arena *arena;
    size_t bytes; /* of all that was made: a few bytes of a file can claim any number */
};

static enum mpq_status make_tensor(struct densifying *d, const Onnx__SparseTensorProto *sparse,
                                   Onnx__TensorProto **out)
{
    struct mpq_ctx *ctx = d->ctx;
    Onnx__TensorProto *made = mpq_arena_alloc(ctx, d->arena, 1, sizeof *made);
    struct mpq_tensor tensor;
    if (!made)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_import_sparse(ctx, d->arena, "a sparse tensor", sparse, &tensor));
    d->bytes += mpq_tensor_bytes(&tensor);
    if (d->bytes > MPQ_LIMIT_TENSOR_BYTES)
        return mpq_fail(ctx, MPQ_E_LIMIT,
                        "has sparse tensors of more than 2 GiB once zeros are written out");
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

static enum mpq_status densify(struct densifying *d, Onnx__GraphProto *graph);

static enum mpq_status densify_attr(struct densifying *d, const Onnx__NodeProto *node,
                                    Onnx__AttributeProto *attr)
{
    if (attr->g)
        MPQ_TRY(densify(d, attr->g));
    for (size_t i = 0; i < attr->n_graphs; i++)
        MPQ_TRY(densify(d, attr->graphs[i]));
    if (!attr->sparse_tensor || !node->op_type || strcmp(node->op_type, "Constant") != 0)
        return MPQ_OK;
    MPQ_TRY(make_tensor(d, attr->sparse_tensor, &attr->t));
    attr->sparse_tensor = NULL;
    attr->name = value_name;
    attr->has_type = 1;
    attr->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TENSOR;
    return MPQ_OK;
}

static enum mpq_status densify_nodes(struct densifying *d, Onnx__NodeProto **node, size_t n_node)
{
    for (size_t n = 0; n < n_node; n++)
        for (size_t i = 0; i < node[n]->n_attribute; i++)
            MPQ_TRY(densify_attr(d, node[n], node[n]->attribute[i]));
    return MPQ_OK;
}

static enum mpq_status densify(struct densifying *d, Onnx__GraphProto *graph)
{
    if (graph->n_sparse_initializer) {
        size_t n = graph->n_initializer + graph->n_sparse_initializer;
        graph->initializer = mpq_arena_grow(d->ctx, d->arena, graph->initializer,
                                            graph->n_initializer, n, sizeof(Onnx__TensorProto *));
        if (!graph->initializer)
            return MPQ_E_NOMEM;
        for (size_t i = 0; i < graph->n_sparse_initializer; i++)
            MPQ_TRY(make_tensor(d, graph->sparse_initializer[i],
                                &graph->initializer[graph->n_initializer++]));
        graph->n_sparse_initializer = 0;
    }
    return densify_nodes(d, graph->node, graph->n_node);
}

enum mpq_status mpq_make_dense(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               Onnx__ModelProto *model)
{
    struct densifying d = {ctx, arena, 0};
    for (size_t i = 0; i < model->n_functions; i++)
        MPQ_TRY(densify_nodes(&d, model->functions[i]->node, model->functions[i]->n_node));
    return densify(&d, model->graph);
}
