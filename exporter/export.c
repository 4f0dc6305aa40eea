#include "exporter/export.h"

#include "exporter/build.h"
#include "exporter/external.h"
#include "exporter/function.h"
#include "exporter/qdq.h"
#include "exporter/respell.h"
#include "exporter/unsaid.h"
#include "exporter/write.h"
#include "proto/proto_model.h"
#include "quantcore/base/limits.h"

#include <string.h>

static const Onnx__ModelProto *source_of(const struct mpq_graph *graph)
{
    return graph->source;
}

/* Whether a node keeps its name: reports speak of layers, and of nodes that we carry unread. */
static bool keeps_name(const struct mpq_qdq *qdq, mpq_node_id n)
{
    enum mpq_names names = qdq->plan->names;
    bool is_layer = qdq->n_done && qdq->plan->layers->layer[qdq->n_done - 1].node == n;
    if (names == MPQ_NAMES_LAYERS)
        return is_layer || !qdq->plan->graph->node[n].op;
    return names != MPQ_NAMES_NONE;
}

/* ONNX Runtime 1.19 turns the Slices and Gathers of a value into one Split named after the first of
 * them, and refuses two Splits of one name; so those that have no name get one. */
static const char *node_name(struct mpq_qdq *qdq, mpq_node_id n)
{
    const struct mpq_node *node = &qdq->plan->graph->node[n];
    bool needs_name = strcmp(node->op_type, "Slice") == 0 || strcmp(node->op_type, "Gather") == 0;
    const char *name = keeps_name(qdq, n) ? node->name : "";
    return *name || !needs_name ? name : mpq_build_name(&qdq->build);
}

/* A node as the file had it where nothing says otherwise: documentation, metadata and fields
 * unknown to us come from the source, everything the IR speaks of from the IR. out_at: its place
 * among the nodes written. */
static enum mpq_status write_node(struct mpq_qdq *qdq, mpq_node_id n, size_t *out_at)
{
    struct mpq_ctx *ctx = qdq->build.ctx;
    struct mpq_arena *arena = qdq->build.arena;
    const struct mpq_graph *graph = qdq->plan->graph;
    const struct mpq_node *node = &graph->node[n];
    if (node->is_stale)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED,
                             "its body is written in an opset older than 13 and cannot be brought "
                             "to opset %lld; convert the model first",
                             (long long)graph->opset);
    Onnx__NodeProto *out = mpq_arena_alloc(ctx, arena, 1, sizeof *out);
    char **input = mpq_arena_alloc(ctx, arena, node->n_in, sizeof *input);
    char **output = mpq_arena_alloc(ctx, arena, node->n_out, sizeof *output);
    Onnx__AttributeProto **attr = mpq_arena_alloc(ctx, arena, node->attr_set.n, sizeof *attr);
    const char *name = node_name(qdq, n);
    if (!out || !input || !output || !attr || !name)
        return MPQ_E_NOMEM;
    onnx__node_proto__init(out);
    if (source_of(graph) && node->source != MPQ_NO_NODE)
        *out = *source_of(graph)->graph->node[node->source];
    out->name = *name ? mpq_write_text(name) : NULL;
    out->op_type = mpq_write_text(node->op_type);
    out->domain = *node->domain ? mpq_write_text(node->domain) : NULL;
    out->n_input = node->n_in;
    out->input = input;
    out->n_output = node->n_out;
    out->output = output;
    out->n_attribute = 0;
    out->attribute = attr;
    for (uint32_t i = 0; i < out->n_input; i++) {
        input[i] = mpq_write_text(mpq_qdq_input(qdq, n, i));
        if (!input[i])
            return ctx->status;
    }
    for (uint32_t i = 0; i < node->n_out; i++)
        output[i] = node->out[i] == MPQ_NO_VALUE ? mpq_write_text("")
                                                 : mpq_write_text(qdq->made_as[node->out[i]]);
    for (size_t a = 0; a < node->attr_set.n; a++) {
        if (mpq_attr_goes_unsaid(node, &node->attr_set.attr[a]))
            continue;
        attr[out->n_attribute] = mpq_write_attr(ctx, arena, &node->attr_set.attr[a]);
        if (!attr[out->n_attribute++])
            return MPQ_E_NOMEM;
    }
    MPQ_TRY(mpq_respell(&qdq->build, node, graph->opset, qdq->opset, out));
    const char *bias = mpq_qdq_added_bias(qdq, n), *sum = output[0];
    if (bias) {
        out->n_input = 2;
        output[0] = mpq_write_text(mpq_build_name(&qdq->build));
    }
    *out_at = qdq->build.n_node;
    if (ctx->status != MPQ_OK || !mpq_build_append_node(&qdq->build, out) ||
        (bias && !MPQ_BUILD_OP(&qdq->build, "Add", {output[0], bias}, .out = sum)))
        return MPQ_E_NOMEM;
    return MPQ_OK;
}

/* Add to the run what others may read: the node's outputs, and weights that are no integers. */
static enum mpq_status publish(struct mpq_qdq *qdq, mpq_node_id n, struct mpq_run *run)
{
    const struct mpq_layer *layer = qdq->plan->layers->layer;
    const struct mpq_node *node = &qdq->plan->graph->node[n];
    uint32_t first = qdq->n_done;
    while (first > 0 && layer[first - 1].node == n)
        first--;
    const char **name =
        mpq_arena_alloc(qdq->build.ctx, qdq->build.arena,
                        run->n_out + 2 * node->n_out + qdq->n_done - first, sizeof *name);
    if (!name)
        return MPQ_E_NOMEM;
    if (run->n_out)
        memcpy(name, run->out, run->n_out * sizeof *name);
    run->out = name;
    for (uint32_t i = 0; i < node->n_out; i++) {
        if (node->out[i] == MPQ_NO_VALUE)
            continue;
        name[run->n_out++] = qdq->read_as[node->out[i]];
        name[run->n_out++] =
            mpq_qdq_is_read_inside(qdq, node->out[i]) ? qdq->made_as[node->out[i]] : "";
    }
    for (uint32_t l = first; l < qdq->n_done; l++)
        name[run->n_out++] = qdq->param[l].x_scale > 0.0f ? "" : qdq->weight[l];
    return MPQ_OK;
}

/* The value is for a node of the run alone. */
static void unpublish(const struct mpq_qdq *qdq, mpq_value_id v, struct mpq_run *run)
{
    for (size_t k = 0; k < run->n_out; k++)
        if (strcmp(run->out[k], qdq->read_as[v]) == 0 || strcmp(run->out[k], qdq->made_as[v]) == 0)
            run->out[k] = "";
}

/* Whether what follows node n, which is not written, belongs to the run before it: that makes its
 * input, for nobody else. */
static bool joins(const struct mpq_qdq *qdq, const struct mpq_uses *uses, mpq_node_id n,
                  const struct mpq_run *last, mpq_node_id last_node)
{
    mpq_value_id x = qdq->plan->graph->node[n].in[0];
    return last->end == qdq->build.n_node && qdq->plan->graph->value[x].producer == last_node &&
           mpq_uses_single(uses, x) == n && !mpq_qdq_is_read_inside(qdq, x);
}

static enum mpq_status write_nodes(struct mpq_qdq *qdq)
{
    const struct mpq_graph *graph = qdq->plan->graph;
    struct mpq_uses uses;
    struct mpq_run *run =
        mpq_arena_alloc(qdq->build.ctx, qdq->build.arena, graph->n_node, sizeof *run);
    size_t n_run = 0;
    mpq_node_id last = MPQ_NO_NODE;
    if (!run)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_graph_uses(qdq->build.ctx, qdq->build.arena, graph, &uses));
    for (mpq_node_id n = 0; n < graph->n_node; n++) {
        struct mpq_run here = {.first = qdq->build.n_node, .own = MPQ_NO_OWN};
        bool is_left_out = mpq_qdq_leaves_out(qdq, n);
        if (is_left_out && n_run && joins(qdq, &uses, n, &run[n_run - 1], last)) {
            here = run[--n_run];
            unpublish(qdq, graph->node[n].in[0], &here);
        }
        MPQ_TRY(mpq_qdq_before_node(qdq, n));
        if (is_left_out)
            qdq->made_as[graph->node[n].out[0]] = mpq_qdq_input(qdq, n, 0);
        else
            MPQ_TRY(write_node(qdq, n, &here.own));
        for (uint32_t i = 0; i < graph->node[n].n_out; i++)
            if (graph->node[n].out[i] != MPQ_NO_VALUE)
                MPQ_TRY(mpq_qdq_after_value(qdq, graph->node[n].out[i]));
        here.end = qdq->build.n_node;
        MPQ_TRY(publish(qdq, n, &here));
        last = n;
        run[n_run++] = here;
    }
    MPQ_TRY(mpq_qdq_end(qdq));
    if (!qdq->plan->target->has_functions || qdq->plan->names == MPQ_NAMES_ALL)
        return MPQ_OK;
    const Onnx__ModelProto *source = source_of(graph);
    return mpq_write_functions(&qdq->build, qdq->opset, source ? source->opset_import : NULL,
                               source ? source->n_opset_import : 0, run, n_run, &qdq->functions);
}

/* The declarations of the source, word for word, where it has them. */
static enum mpq_status write_declarations(struct mpq_qdq *qdq, const mpq_value_id *value,
                                          uint32_t n, Onnx__ValueInfoProto *const *source,
                                          size_t n_source, Onnx__ValueInfoProto ***out)
{
    const struct mpq_graph *graph = qdq->plan->graph;
    Onnx__ValueInfoProto **list =
        mpq_arena_alloc(qdq->build.ctx, qdq->build.arena, n, sizeof *list);
    if (!list)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < n; i++) {
        const struct mpq_value *v = &graph->value[value[i]];
        for (size_t s = 0; s < n_source && !list[i]; s++)
            if (strcmp(source[s]->name, v->name) == 0)
                list[i] = source[s];
        if (!list[i])
            list[i] = mpq_write_value_info(qdq->build.ctx, qdq->build.arena, v);
        if (!list[i])
            return MPQ_E_NOMEM;
    }
    *out = list;
    return MPQ_OK;
}

/* Of values in between, only those whose types no runtime can infer: what operators make that are
 * not known. The rest would be a few percent of a small file. */
static enum mpq_status write_value_info(struct mpq_qdq *qdq, Onnx__GraphProto *out)
{
    const struct mpq_graph *graph = qdq->plan->graph;
    Onnx__ValueInfoProto **list =
        mpq_arena_alloc(qdq->build.ctx, qdq->build.arena, out->n_value_info, sizeof *list);
    if (!list)
        return MPQ_E_NOMEM;
    size_t n = 0;
    for (size_t i = 0; i < out->n_value_info; i++) {
        mpq_value_id v = mpq_graph_find(graph, out->value_info[i]->name);
        mpq_node_id producer = v == MPQ_NO_VALUE ? MPQ_NO_NODE : graph->value[v].producer;
        if (producer != MPQ_NO_NODE && !graph->node[producer].op)
            list[n++] = out->value_info[i];
    }
    out->value_info = list;
    out->n_value_info = n;
    return MPQ_OK;
}

static enum mpq_status write_graph(struct mpq_qdq *qdq, Onnx__GraphProto *out)
{
    const struct mpq_graph *graph = qdq->plan->graph;
    onnx__graph_proto__init(out);
    if (source_of(graph)) {
        const Onnx__GraphProto *source = source_of(graph)->graph;
        *out = *source;
        MPQ_TRY(write_value_info(qdq, out));
        out->n_quantization_annotation = 0;
        out->n_sparse_initializer = 0;
    }
    out->name = mpq_write_text(graph->name);
    MPQ_TRY(mpq_qdq_begin(qdq));
    MPQ_TRY(write_nodes(qdq));
    MPQ_TRY(mpq_build_shorten(&qdq->build));
    MPQ_TRY(write_declarations(qdq, graph->input, graph->n_input, out->input, out->n_input,
                               &out->input));
    MPQ_TRY(write_declarations(qdq, graph->output, graph->n_output, out->output, out->n_output,
                               &out->output));
    out->n_input = graph->n_input;
    out->n_output = graph->n_output;
    out->n_node = qdq->build.n_node;
    out->node = qdq->build.node;
    out->n_initializer = qdq->build.n_initializer;
    out->initializer = qdq->build.initializer;
    return MPQ_OK;
}

static bool is_default_domain(const char *domain)
{
    return !domain || !*domain || strcmp(domain, "ai.onnx") == 0;
}

/* That of ai.onnx, and those of other domains as they were. */
static enum mpq_status write_opsets(struct mpq_ctx *ctx, struct mpq_arena *arena, int64_t opset,
                                    Onnx__ModelProto *out)
{
    size_t n = out->n_opset_import;
    Onnx__OperatorSetIdProto *own = mpq_arena_alloc(ctx, arena, 1, sizeof *own);
    Onnx__OperatorSetIdProto **list = mpq_arena_alloc(ctx, arena, n + 1, sizeof *list);
    if (!own || !list)
        return MPQ_E_NOMEM;
    onnx__operator_set_id_proto__init(own);
    own->domain = mpq_write_text("");
    own->has_version = 1;
    own->version = opset;
    list[0] = own;
    size_t n_list = 1;
    for (size_t i = 0; i < n; i++)
        if (!is_default_domain(out->opset_import[i]->domain))
            list[n_list++] = out->opset_import[i];
    out->n_opset_import = n_list;
    out->opset_import = list;
    return MPQ_OK;
}

/* We are the producer now; who made the original stays on record. */
static enum mpq_status write_producer(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      Onnx__ModelProto *out)
{
    const char *name = out->producer_name, *version = out->producer_version;
    out->producer_name = mpq_write_text("onnx-mpq");
    out->producer_version = mpq_write_text(MPQ_VERSION);
    if (!name || !*name || strcmp(name, out->producer_name) == 0)
        return MPQ_OK;
    size_t n = out->n_metadata_props;
    Onnx__StringStringEntryProto *entry = mpq_arena_alloc(ctx, arena, 1, sizeof *entry);
    Onnx__StringStringEntryProto **list = mpq_arena_alloc(ctx, arena, n + 1, sizeof *list);
    if (!entry || !list)
        return MPQ_E_NOMEM;
    onnx__string_string_entry_proto__init(entry);
    entry->key = mpq_write_text("source_producer");
    entry->value = version && *version ? mpq_arena_printf(ctx, arena, "%s %s", name, version)
                                       : mpq_write_text(name);
    if (!entry->value)
        return MPQ_E_NOMEM;
    for (size_t i = 0; i < n; i++)
        list[i] = out->metadata_props[i];
    list[n] = entry;
    out->n_metadata_props = n + 1;
    out->metadata_props = list;
    return MPQ_OK;
}

static enum mpq_status add_functions(struct mpq_qdq *qdq, Onnx__ModelProto *out)
{
    const struct mpq_functions *functions = &qdq->functions;
    size_t n = out->n_opset_import;
    if (!functions->n)
        return MPQ_OK;
    Onnx__OperatorSetIdProto *own =
        mpq_arena_alloc(qdq->build.ctx, qdq->build.arena, 1, sizeof *own);
    Onnx__OperatorSetIdProto **list =
        mpq_arena_alloc(qdq->build.ctx, qdq->build.arena, n + 1, sizeof *list);
    if (!own || !list)
        return MPQ_E_NOMEM;
    onnx__operator_set_id_proto__init(own);
    own->domain = mpq_write_text(functions->domain);
    own->has_version = 1;
    own->version = 1;
    memcpy(list, out->opset_import, n * sizeof(void *));
    list[n] = own;
    out->n_opset_import = n + 1;
    out->opset_import = list;
    out->n_functions = functions->n;
    out->functions = functions->function;
    if (out->ir_version < MPQ_FUNCTION_IR_VERSION)
        out->ir_version = MPQ_FUNCTION_IR_VERSION;
    return MPQ_OK;
}

static enum mpq_status write_model(struct mpq_qdq *qdq, Onnx__ModelProto **out_model)
{
    const struct mpq_graph *graph = qdq->plan->graph;
    struct mpq_ctx *ctx = qdq->build.ctx;
    struct mpq_arena *arena = qdq->build.arena;
    Onnx__ModelProto *out = mpq_arena_alloc(ctx, arena, 1, sizeof *out);
    Onnx__GraphProto *out_graph = mpq_arena_alloc(ctx, arena, 1, sizeof *out_graph);
    if (!out || !out_graph)
        return MPQ_E_NOMEM;
    onnx__model_proto__init(out);
    if (source_of(graph))
        *out = *source_of(graph);
    out->n_training_info = 0; /* it speaks of initializers that are no more */
    out->has_ir_version = 1;
    int64_t lowest = mpq_target_ir_version_of(qdq->opset > graph->opset ? qdq->opset : 0);
    if (out->ir_version < lowest)
        out->ir_version = lowest;
    out->graph = out_graph;
    MPQ_TRY(write_opsets(ctx, arena, qdq->opset, out));
    MPQ_TRY(write_producer(ctx, arena, out));
    MPQ_TRY(write_graph(qdq, out_graph));
    MPQ_TRY(add_functions(qdq, out));
    *out_model = out;
    return MPQ_OK;
}

/* The message, its large initializers moved out where it would be too large. */
static enum mpq_status make_model(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_export_plan *plan, const uint8_t *bits,
                                  Onnx__ModelProto **out_model, struct mpq_export_file *out_file)
{
    struct mpq_qdq *qdq = mpq_arena_alloc(ctx, arena, 1, sizeof *qdq);
    size_t limit = plan->message_limit ? plan->message_limit : MPQ_LIMIT_MODEL_BYTES;
    if (!qdq)
        return MPQ_E_NOMEM;
    *out_file = (struct mpq_export_file){0};
    MPQ_TRY(mpq_qdq_init(ctx, arena, plan, bits, qdq));
    MPQ_TRY(write_model(qdq, out_model));
    out_file->weight_name = qdq->weight;
    if (!plan->external_name)
        return MPQ_OK;
    return mpq_external_move(ctx, arena, *out_model, plan->external_name, limit, out_file);
}

static void free_arena(void *arena)
{
    mpq_arena_free(arena);
}

enum mpq_status mpq_export(struct mpq_ctx *ctx, struct mpq_arena *arena,
                           const struct mpq_export_plan *plan, struct mpq_export_file *out)
{
    Onnx__ModelProto *model;
    struct mpq_export_file file;
    /* Pieces and names stay where they were made. */
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    if (mpq_arena_defer(ctx, arena, free_arena, scratch) != MPQ_OK) {
        mpq_arena_free(scratch);
        return MPQ_E_NOMEM;
    }
    MPQ_TRY(make_model(ctx, scratch, plan, NULL, &model, &file));
    MPQ_TRY(mpq_proto_pack(ctx, arena, model, &file.data, &file.bytes));
    *out = file;
    return MPQ_OK;
}

enum mpq_status mpq_export_codes(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const struct mpq_export_plan *plan,
                                 struct mpq_layer_code *out_code)
{
    struct mpq_qdq qdq;
    MPQ_TRY(mpq_qdq_init(ctx, arena, plan, NULL, &qdq));
    for (uint32_t l = 0; l < plan->layers->n_layer; l++) {
        out_code[l] = plan->code[l];
        out_code[l].q = qdq.param[l].q;
        out_code[l].scale = qdq.param[l].scale;
        if (!plan->code[l].bias)
            continue;
        mpq_param_settle(&qdq.param[l]);
        out_code[l].bias = qdq.param[l].bias;
    }
    return MPQ_OK;
}

enum mpq_status mpq_export_size(struct mpq_ctx *ctx, const struct mpq_export_plan *plan,
                                const uint8_t *bits, size_t *out_bytes)
{
    Onnx__ModelProto *model;
    struct mpq_export_file file;
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    enum mpq_status status = make_model(ctx, scratch, plan, bits, &model, &file);
    if (status == MPQ_OK)
        *out_bytes = mpq_proto_bytes(model) + file.external_bytes;
    mpq_arena_free(scratch);
    return status;
}
