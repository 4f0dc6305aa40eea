#include "importer/import.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "importer/contrib.h"
#include "importer/dense.h"
#include "importer/external_data.h"
#include "importer/function.h"
#include "importer/import_attr.h"
#include "importer/import_tensor.h"
#include "importer/order.h"
#include "importer/subgraph.h"
#include "importer/unfold.h"
#include "importer/upgrade.h"
#include "importer/widen.h"
#include "proto/proto_model.h"
#include "quantcore/base/fileio.h"

#define OPSET_MIN 7
#define OPSET_MAX 28
#define OPSET_IR  13

struct import {
    struct mpq_ctx *ctx;
    struct mpq_arena *arena;
    const Onnx__GraphProto *proto;
    struct mpq_graph *graph;
    int64_t opset;         /* the file's                                         */
    struct mpq_node *node; /* [proto->n_node], as the file spells and lists them */
    uint32_t *order;       /* [proto->n_node]: positions in execution order      */
    uint32_t *producer;    /* [n_value]: position in node[], or MPQ_NO_NODE      */
    bool *is_read;         /* [n_value]                                          */
};

static const char *text(const char *string)
{
    return string ? string : "";
}

static bool is_default_domain(const char *domain)
{
    return !domain || !*domain || strcmp(domain, "ai.onnx") == 0;
}

/* --- Types and shapes ------------------------------------------------------------------------ */

static enum mpq_status set_shape(struct import *im, mpq_value_id id,
                                 const Onnx__TensorShapeProto *proto)
{
    struct mpq_value *value = &im->graph->value[id];
    if (proto->n_dim > MPQ_MAX_RANK)
        return mpq_fail(im->ctx, MPQ_E_LIMIT, "'%s' has rank %zu, at most %d is supported",
                        value->name, proto->n_dim, MPQ_MAX_RANK);
    const char **param = mpq_arena_alloc(im->ctx, im->arena, proto->n_dim, sizeof *param);
    if (!param)
        return MPQ_E_NOMEM;
    value->shape.rank = (int)proto->n_dim;
    for (size_t i = 0; i < proto->n_dim; i++) {
        const Onnx__TensorShapeProto__Dimension *dim = proto->dim[i];
        /* Exporters write 0 and -1 where they do not know. */
        value->shape.dim[i] = MPQ_DIM_UNKNOWN;
        if (dim->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE &&
            dim->dim_value > 0)
            value->shape.dim[i] = dim->dim_value;
        if (dim->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM &&
            *text(dim->dim_param))
            param[i] = dim->dim_param;
    }
    value->dim_param = param;
    return MPQ_OK;
}

/* What the file declares about a value; a constant knows better. */
static enum mpq_status set_type(struct import *im, mpq_value_id id,
                                const Onnx__ValueInfoProto *info)
{
    struct mpq_value *value = &im->graph->value[id];
    if (value->constant || !info->type ||
        info->type->value_case != ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE)
        return MPQ_OK;
    const Onnx__TypeProto__Tensor *type = info->type->tensor_type;
    if (type->elem_type > 0 && type->elem_type < MPQ_N_DTYPE)
        value->dtype = (enum mpq_dtype)type->elem_type;
    if (mpq_dtype_is_other_float(value->dtype) && !mpq_widen_keeps(im->proto, value->name)) {
        value->file_dtype = value->dtype;
        value->dtype = MPQ_FLOAT;
    }
    return type->shape ? set_shape(im, id, type->shape) : MPQ_OK;
}

/* --- Values ---------------------------------------------------------------------------------- */

static enum mpq_status check_no_nan(struct import *im, const char *name,
                                    const struct mpq_tensor *tensor)
{
    if (tensor->dtype != MPQ_FLOAT)
        return MPQ_OK;
    int64_t i = mpq_tensor_find_nonfinite(tensor), n = mpq_shape_count(&tensor->shape);
    for (; i >= 0 && i < n; i++)
        if (isnan(((const mpq_real *)tensor->data)[i]))
            return mpq_fail(im->ctx, MPQ_E_NUMERIC,
                            "initializer '%s' is not a number at index %" PRId64, name, i);
    return MPQ_OK;
}

static enum mpq_status set_constant(struct import *im, mpq_value_id id,
                                    const struct mpq_tensor *tensor)
{
    struct mpq_tensor *copy = mpq_arena_copy(im->ctx, im->arena, tensor, sizeof *tensor);
    if (!copy)
        return MPQ_E_NOMEM;
    im->graph->value[id].dtype = tensor->dtype;
    im->graph->value[id].shape = tensor->shape;
    im->graph->value[id].constant = copy;
    return MPQ_OK;
}

static enum mpq_status add_initializers(struct import *im)
{
    for (size_t i = 0; i < im->proto->n_initializer; i++) {
        const Onnx__TensorProto *proto = im->proto->initializer[i];
        if (!*text(proto->name))
            return mpq_fail(im->ctx, MPQ_E_FORMAT, "initializer %zu has no name", i);
        mpq_value_id id;
        MPQ_TRY(mpq_graph_add_value(im->ctx, im->graph, proto->name, &id));
        char *what = mpq_arena_printf(im->ctx, im->arena, "initializer '%s'", proto->name);
        if (!what)
            return MPQ_E_NOMEM;
        struct mpq_tensor tensor;
        MPQ_TRY(mpq_import_tensor_as_float(im->ctx, im->arena, what, proto, &tensor));
        MPQ_TRY(check_no_nan(im, proto->name, &tensor));
        MPQ_TRY(set_constant(im, id, &tensor));
        if (mpq_dtype_is_other_float((enum mpq_dtype)proto->data_type))
            im->graph->value[id].file_dtype = (enum mpq_dtype)proto->data_type;
    }
    return MPQ_OK;
}

/* Initializers that old files list as inputs too are constants. */
static enum mpq_status add_inputs(struct import *im)
{
    struct mpq_graph *graph = im->graph;
    graph->input = mpq_arena_alloc(im->ctx, im->arena, im->proto->n_input, sizeof *graph->input);
    if (!graph->input)
        return MPQ_E_NOMEM;
    for (size_t i = 0; i < im->proto->n_input; i++) {
        const Onnx__ValueInfoProto *info = im->proto->input[i];
        if (!*text(info->name))
            return mpq_fail(im->ctx, MPQ_E_FORMAT, "graph input %zu has no name", i);
        mpq_value_id id = mpq_graph_find(graph, info->name);
        if (id != MPQ_NO_VALUE && graph->value[id].constant)
            continue;
        MPQ_TRY(mpq_graph_add_value(im->ctx, graph, info->name, &id));
        MPQ_TRY(set_type(im, id, info));
        graph->input[graph->n_input++] = id;
    }
    return MPQ_OK;
}

static enum mpq_status add_node_outputs(struct import *im, uint32_t n)
{
    const Onnx__NodeProto *proto = im->proto->node[n];
    struct mpq_node *node = &im->node[n];
    mpq_value_id *out = mpq_arena_alloc(im->ctx, im->arena, proto->n_output, sizeof *out);
    if (!out)
        return MPQ_E_NOMEM;
    node->out = out;
    for (size_t i = 0; i < proto->n_output; i++) {
        out[i] = MPQ_NO_VALUE;
        if (!*proto->output[i])
            continue;
        node->n_out = (uint32_t)i + 1; /* absent ones at the end do not count */
        if (mpq_graph_find(im->graph, proto->output[i]) != MPQ_NO_VALUE)
            return mpq_fail_node(im->ctx, node, MPQ_E_FORMAT,
                                 "computes '%s', a name that is taken already", proto->output[i]);
        MPQ_TRY(mpq_graph_add_value(im->ctx, im->graph, proto->output[i], &out[i]));
    }
    if (node->n_out == 0)
        return mpq_fail_node(im->ctx, node, MPQ_E_FORMAT, "has no output");
    return MPQ_OK;
}

static enum mpq_status add_nodes(struct import *im)
{
    size_t n_node = im->proto->n_node;
    if (n_node == 0)
        return mpq_fail(im->ctx, MPQ_E_FORMAT, "the graph has no nodes");
    im->node = mpq_arena_alloc(im->ctx, im->arena, n_node, sizeof *im->node);
    if (!im->node)
        return MPQ_E_NOMEM;
    for (uint32_t n = 0; n < n_node; n++) {
        const Onnx__NodeProto *proto = im->proto->node[n];
        if (!*text(proto->op_type))
            return mpq_fail(im->ctx, MPQ_E_FORMAT, "node %u ('%s') has no operator", n,
                            text(proto->name));
        im->node[n] =
            (struct mpq_node){.name = text(proto->name),
                              .op_type = proto->op_type,
                              .domain = is_default_domain(proto->domain) ? "" : proto->domain,
                              .source = n};
        MPQ_TRY(add_node_outputs(im, n));
        MPQ_TRY(mpq_import_attrs(im->ctx, im->arena, proto, &im->node[n].attr_set));
    }
    return MPQ_OK;
}

/* Names -> ids, now that every value is known. */
static enum mpq_status wire_inputs(struct import *im)
{
    im->producer = mpq_arena_alloc(im->ctx, im->arena, im->graph->n_value, sizeof *im->producer);
    im->is_read = mpq_arena_alloc(im->ctx, im->arena, im->graph->n_value, sizeof *im->is_read);
    if (!im->producer || !im->is_read)
        return MPQ_E_NOMEM;
    for (uint32_t v = 0; v < im->graph->n_value; v++)
        im->producer[v] = MPQ_NO_NODE;
    for (uint32_t n = 0; n < im->proto->n_node; n++) {
        const Onnx__NodeProto *proto = im->proto->node[n];
        struct mpq_node *node = &im->node[n];
        mpq_value_id *in = mpq_arena_alloc(im->ctx, im->arena, proto->n_input, sizeof *in);
        if (!in)
            return MPQ_E_NOMEM;
        node->in = in;
        for (uint32_t i = 0; i < proto->n_input; i++) {
            in[i] = MPQ_NO_VALUE;
            if (!*proto->input[i])
                continue;
            in[i] = mpq_graph_find(im->graph, proto->input[i]);
            if (in[i] == MPQ_NO_VALUE)
                return mpq_fail_node(im->ctx, node, MPQ_E_FORMAT,
                                     "reads '%s', which nothing computes", proto->input[i]);
            node->n_in = i + 1;
            im->is_read[in[i]] = true;
        }
        for (uint32_t i = 0; i < node->n_out; i++)
            if (node->out[i] != MPQ_NO_VALUE)
                im->producer[node->out[i]] = n;
    }
    return MPQ_OK;
}

static enum mpq_status add_outputs(struct import *im)
{
    struct mpq_graph *graph = im->graph;
    if (im->proto->n_output == 0)
        return mpq_fail(im->ctx, MPQ_E_FORMAT, "the graph has no output");
    graph->output = mpq_arena_alloc(im->ctx, im->arena, im->proto->n_output, sizeof *graph->output);
    bool *is_output = mpq_arena_alloc(im->ctx, im->arena, graph->n_value, sizeof *is_output);
    if (!graph->output || !is_output)
        return MPQ_E_NOMEM;
    for (size_t i = 0; i < im->proto->n_output; i++) {
        const Onnx__ValueInfoProto *info = im->proto->output[i];
        mpq_value_id id = mpq_graph_find(graph, text(info->name));
        if (id == MPQ_NO_VALUE)
            return mpq_fail(im->ctx, MPQ_E_FORMAT, "the graph output '%s' is not computed",
                            text(info->name));
        if (is_output[id])
            return mpq_fail(im->ctx, MPQ_E_FORMAT, "the graph output '%s' is listed twice",
                            info->name);
        MPQ_TRY(set_type(im, id, info));
        is_output[id] = im->is_read[id] = true;
        graph->output[graph->n_output++] = id;
    }
    for (size_t i = 0; i < im->proto->n_value_info; i++) {
        const Onnx__ValueInfoProto *info = im->proto->value_info[i];
        mpq_value_id id = mpq_graph_find(graph, text(info->name));
        if (id != MPQ_NO_VALUE && im->producer[id] != MPQ_NO_NODE && !is_output[id])
            MPQ_TRY(set_type(im, id, info));
    }
    return MPQ_OK;
}

static enum mpq_status sort_nodes(struct import *im)
{
    uint32_t n_node = (uint32_t)im->proto->n_node;
    im->order = mpq_arena_alloc(im->ctx, im->arena, n_node, sizeof *im->order);
    if (!im->order)
        return MPQ_E_NOMEM;
    return mpq_execution_order(im->ctx, im->arena, im->graph, im->node, n_node, im->producer,
                               im->is_read, im->order);
}

/* --- Constant nodes -------------------------------------------------------------------------- */

static bool is_constant_node(const struct mpq_node *node)
{
    return !*node->domain && strcmp(node->op_type, "Constant") == 0;
}

static enum mpq_status import_constant(struct import *im, const struct mpq_node *node)
{
    struct mpq_tensor tensor;
    MPQ_TRY(mpq_import_constant_node(im->ctx, im->arena, node, &tensor));
    return set_constant(im, node->out[0], &tensor);
}

/* --- Nodes ----------------------------------------------------------------------------------- */

static enum mpq_status append_nodes(struct import *im)
{
    struct mpq_upgrade upgrade = {.graph = im->graph, .opset = im->opset, .is_read = im->is_read};
    for (size_t i = 0; i < im->proto->n_node; i++)
        if (is_constant_node(&im->node[i]))
            MPQ_TRY(import_constant(im, &im->node[i]));
    for (size_t i = 0; i < im->proto->n_node; i++) {
        struct mpq_node *node = &im->node[im->order[i]];
        if (is_constant_node(node))
            continue;
        node->is_stale = mpq_subgraph_is_stale(node, im->opset);
        MPQ_TRY(mpq_upgrade_append(im->ctx, &upgrade, node));
    }
    return MPQ_OK;
}

/* Infinities have honest uses (attention masks, open bounds), but not where they are multiplied. */
static enum mpq_status check_weights(struct import *im)
{
    static const char *const weighted[] = {
        "BatchNormalization", "Conv", "ConvTranspose", "GRU", "Gemm", "LSTM", "MatMul", "RNN"};
    for (uint32_t n = 0; n < im->graph->n_node; n++) {
        const struct mpq_node *node = &im->graph->node[n];
        bool is_weighted = false;
        for (size_t i = 0; i < MPQ_COUNT(weighted); i++)
            is_weighted |= strcmp(node->op_type, weighted[i]) == 0;
        for (uint32_t i = 0; is_weighted && i < node->n_in; i++) {
            if (node->in[i] == MPQ_NO_VALUE)
                continue;
            const struct mpq_value *value = &im->graph->value[node->in[i]];
            int64_t at = value->constant && value->dtype == MPQ_FLOAT
                             ? mpq_tensor_find_nonfinite(value->constant)
                             : -1;
            if (at >= 0)
                return mpq_fail_node(im->ctx, node, MPQ_E_NUMERIC,
                                     "the weight '%s' is not finite at index %" PRId64, value->name,
                                     at);
        }
    }
    return MPQ_OK;
}

/* --- Model ----------------------------------------------------------------------------------- */

static enum mpq_status find_opset(struct mpq_ctx *ctx, const Onnx__ModelProto *model, int64_t *out)
{
    bool is_used = false;
    for (size_t i = 0; i < model->graph->n_node; i++)
        is_used |= is_default_domain(model->graph->node[i]->domain);
    for (size_t i = 0; i < model->n_opset_import; i++) {
        const Onnx__OperatorSetIdProto *set = model->opset_import[i];
        if (!is_default_domain(set->domain))
            continue;
        if (set->version < OPSET_MIN || set->version > OPSET_MAX)
            return mpq_fail(ctx, MPQ_E_UNSUPPORTED,
                            "is written in opset %" PRId64 ", opsets %d to %d are supported",
                            set->version, OPSET_MIN, OPSET_MAX);
        *out = set->version;
        return MPQ_OK;
    }
    if (is_used)
        return mpq_fail(ctx, MPQ_E_FORMAT, "does not say in which opset it is written");
    *out = OPSET_IR;
    return MPQ_OK;
}

struct mpq_import_versions mpq_import_versions_of(const struct mpq_graph *graph)
{
    const Onnx__ModelProto *model = graph->source;
    struct mpq_import_versions versions = {0};
    if (!model)
        return versions;
    versions.ir_version = model->ir_version;
    versions.has_functions = model->functions != NULL; /* inlining forgot their number alone */
    for (size_t i = 0; i < model->n_opset_import; i++)
        if (is_default_domain(model->opset_import[i]->domain))
            versions.opset = model->opset_import[i]->version;
    return versions;
}

static enum mpq_status add_opsets(struct import *im, const Onnx__ModelProto *model)
{
    struct mpq_opset *list =
        mpq_arena_alloc(im->ctx, im->arena, model->n_opset_import, sizeof *list);
    if (!list)
        return MPQ_E_NOMEM;
    for (size_t i = 0; i < model->n_opset_import; i++) {
        const Onnx__OperatorSetIdProto *set = model->opset_import[i];
        if (!is_default_domain(set->domain))
            list[im->graph->n_import++] = (struct mpq_opset){set->domain, set->version};
    }
    im->graph->import = list;
    return MPQ_OK;
}

static enum mpq_status import_graph(struct import *im)
{
    MPQ_TRY(add_initializers(im));
    MPQ_TRY(add_inputs(im));
    MPQ_TRY(add_nodes(im));
    MPQ_TRY(wire_inputs(im));
    MPQ_TRY(add_outputs(im));
    MPQ_TRY(sort_nodes(im));
    MPQ_TRY(append_nodes(im));
    MPQ_TRY(check_weights(im));
    return mpq_graph_check(im->ctx, im->graph);
}

static enum mpq_status import_model(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const Onnx__ModelProto *model, struct mpq_graph **out_graph)
{
    struct import im = {.ctx = ctx, .arena = arena, .proto = model->graph};
    MPQ_TRY(find_opset(ctx, model, &im.opset));
    MPQ_TRY(mpq_graph_create(ctx, arena, text(model->graph->name),
                             im.opset > OPSET_IR ? im.opset : OPSET_IR, &im.graph));
    im.graph->source = model;
    MPQ_TRY(add_opsets(&im, model));
    MPQ_TRY(import_graph(&im));
    *out_graph = im.graph;
    return MPQ_OK;
}

static enum mpq_status import_message(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      const uint8_t *data, size_t bytes, const char *directory,
                                      struct mpq_graph **out_graph, uint64_t *out_external_bytes)
{
    Onnx__ModelProto *model;
    MPQ_TRY(mpq_proto_unpack(ctx, arena, data, bytes, &model));
    MPQ_TRY(mpq_external_data_load(ctx, arena, directory, model, out_external_bytes));
    MPQ_TRY(mpq_make_dense(ctx, arena, model));
    MPQ_TRY(mpq_inline_functions(ctx, arena, model));
    MPQ_TRY(mpq_translate_contrib(ctx, arena, model));
    MPQ_TRY(mpq_widen(ctx, arena, model));
    return import_model(ctx, arena, model, out_graph);
}

enum mpq_status mpq_import_bytes(struct mpq_ctx *ctx, struct mpq_arena *arena, const uint8_t *data,
                                 size_t bytes, const char *directory, struct mpq_graph **out_graph)
{
    uint64_t external_bytes;
    return import_message(ctx, arena, data, bytes, directory, out_graph, &external_bytes);
}

enum mpq_status mpq_import_unfolded(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_graph *graph,
                                    const struct mpq_unfolding *unfolding,
                                    struct mpq_graph **out_graph)
{
    Onnx__ModelProto *model = (Onnx__ModelProto *)graph->source;
    struct mpq_unfolding *by_source =
        mpq_arena_alloc(ctx, arena, model->graph->n_node, sizeof *by_source);
    if (!by_source)
        return MPQ_E_NOMEM;
    for (uint32_t n = 0; n < graph->n_node; n++)
        if (unfolding[n].how != MPQ_UNFOLD_NOT)
            by_source[graph->node[n].source] = unfolding[n];
    MPQ_TRY(mpq_unfold_nodes(ctx, arena, by_source, model->graph));
    MPQ_TRY(mpq_translate_contrib(ctx, arena, model)); /* what bodies held */
    MPQ_TRY(import_model(ctx, arena, model, out_graph));
    (*out_graph)->assumed = graph->assumed;
    return MPQ_OK;
}

/* The part of `path` before its last slash. */
static char *folder_of(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return mpq_arena_strdup(ctx, arena, ".");
    return mpq_arena_printf(ctx, arena, "%.*s", slash == path ? 1 : (int)(slash - path), path);
}

static enum mpq_status import_path(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   struct mpq_arena *scratch, const char *path,
                                   struct mpq_graph **out_graph, size_t *out_file_bytes)
{
    uint8_t *data;
    size_t bytes;
    uint64_t external_bytes;
    MPQ_TRY(mpq_file_read(ctx, scratch, path, MPQ_LIMIT_MODEL_BYTES, &data, &bytes));
    char *folder = folder_of(ctx, scratch, path);
    if (!folder)
        return MPQ_E_NOMEM;
    enum mpq_status status =
        import_message(ctx, arena, data, bytes, folder, out_graph, &external_bytes);
    if (status != MPQ_OK)
        mpq_fail_prefix(ctx, path);
    else
        *out_file_bytes = bytes + (size_t)external_bytes;
    return status;
}

enum mpq_status mpq_import_file(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                                struct mpq_graph **out_graph, size_t *out_file_bytes)
{
    struct mpq_arena *scratch =
        mpq_arena_create(ctx); /* the raw bytes go as soon as they are read */
    if (!scratch)
        return MPQ_E_NOMEM;
    enum mpq_status status = import_path(ctx, arena, scratch, path, out_graph, out_file_bytes);
    mpq_arena_free(scratch);
    return status;
}
