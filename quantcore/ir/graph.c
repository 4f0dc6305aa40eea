#include "quantcore/ir/graph.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum mpq_status mpq_graph_create(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *name,
                                 int64_t opset, struct mpq_graph **out)
{
    struct mpq_graph *graph = mpq_arena_alloc(ctx, arena, 1, sizeof *graph);
    char *copy = mpq_arena_strdup(ctx, arena, name);
    if (!graph || !copy)
        return MPQ_E_NOMEM;
    graph->arena = arena;
    graph->name = copy;
    graph->opset = opset;
    *out = graph;
    return MPQ_OK;
}

enum mpq_status mpq_graph_clone(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                const struct mpq_graph *graph, bool without_nodes,
                                struct mpq_graph **out)
{
    struct mpq_graph *copy = mpq_arena_alloc(ctx, arena, 1, sizeof *copy);
    if (!copy)
        return MPQ_E_NOMEM;
    *copy = *graph;
    copy->arena = arena;
    copy->by_name = (struct mpq_strmap){0};
    copy->value_capacity = graph->n_value;
    copy->value = mpq_arena_copy(ctx, arena, graph->value, graph->n_value * sizeof *graph->value);
    copy->input = mpq_arena_copy(ctx, arena, graph->input, graph->n_input * sizeof *graph->input);
    copy->output =
        mpq_arena_copy(ctx, arena, graph->output, graph->n_output * sizeof *graph->output);
    copy->node = mpq_arena_copy(ctx, arena, graph->node, graph->n_node * sizeof *graph->node);
    if (!copy->value || !copy->input || !copy->output || !copy->node)
        return MPQ_E_NOMEM;
    copy->node_capacity = graph->n_node;
    for (uint32_t v = 0; v < copy->n_value; v++)
        MPQ_TRY(mpq_strmap_add(ctx, arena, &copy->by_name, copy->value[v].name, v, NULL));
    if (without_nodes) {
        copy->n_node = 0;
        for (uint32_t v = 0; v < copy->n_value; v++)
            copy->value[v].producer = MPQ_NO_NODE;
    }
    *out = copy;
    return MPQ_OK;
}

enum mpq_status mpq_graph_add_value(struct mpq_ctx *ctx, struct mpq_graph *graph, const char *name,
                                    mpq_value_id *out)
{
    if (graph->n_value == MPQ_LIMIT_NODES)
        return mpq_fail(ctx, MPQ_E_LIMIT, "more than %u values", MPQ_LIMIT_NODES);
    if (graph->n_value == graph->value_capacity) {
        uint32_t capacity = graph->value_capacity * 2 + 64;
        struct mpq_value *value = mpq_arena_grow(ctx, graph->arena, graph->value, graph->n_value,
                                                 capacity, sizeof *value);
        if (!value)
            return MPQ_E_NOMEM;
        graph->value = value;
        graph->value_capacity = capacity;
    }
    char *copy = mpq_arena_strdup(ctx, graph->arena, name);
    if (!copy)
        return MPQ_E_NOMEM;
    uint32_t id;
    MPQ_TRY(mpq_strmap_add(ctx, graph->arena, &graph->by_name, copy, graph->n_value, &id));
    if (id != graph->n_value)
        return mpq_fail(ctx, MPQ_E_FORMAT, "the name '%s' is given twice", name);
    graph->value[id] =
        (struct mpq_value){.name = copy, .shape.rank = MPQ_RANK_UNKNOWN, .producer = MPQ_NO_NODE};
    graph->n_value++;
    *out = id;
    return MPQ_OK;
}

enum mpq_status mpq_graph_add_unique(struct mpq_ctx *ctx, struct mpq_graph *graph, const char *stem,
                                     mpq_value_id *out)
{
    const char *name = stem;
    for (unsigned i = 1; mpq_graph_find(graph, name) != MPQ_NO_VALUE; i++) {
        name = mpq_arena_printf(ctx, graph->arena, "%s_%u", stem, i);
        if (!name)
            return MPQ_E_NOMEM;
    }
    return mpq_graph_add_value(ctx, graph, name, out);
}

enum mpq_status mpq_graph_add_constant(struct mpq_ctx *ctx, struct mpq_graph *graph,
                                       const char *stem, const struct mpq_tensor *tensor,
                                       mpq_value_id *out)
{
    mpq_value_id id;
    MPQ_TRY(mpq_graph_add_unique(ctx, graph, stem, &id));
    struct mpq_tensor *copy = mpq_arena_copy(ctx, graph->arena, tensor, sizeof *tensor);
    if (!copy)
        return MPQ_E_NOMEM;
    graph->value[id].dtype = tensor->dtype;
    graph->value[id].shape = tensor->shape;
    graph->value[id].constant = copy;
    *out = id;
    return MPQ_OK;
}

mpq_value_id mpq_graph_find(const struct mpq_graph *graph, const char *name)
{
    return mpq_strmap_get(&graph->by_name, name);
}

enum mpq_status mpq_graph_add_node(struct mpq_ctx *ctx, struct mpq_graph *graph,
                                   const struct mpq_node *node, mpq_node_id *out)
{
    if (graph->n_node == MPQ_LIMIT_NODES)
        return mpq_fail(ctx, MPQ_E_LIMIT, "more than %u nodes", MPQ_LIMIT_NODES);
    if (graph->n_node == graph->node_capacity) {
        uint32_t capacity = graph->node_capacity * 2 + 64;
        struct mpq_node *grown =
            mpq_arena_grow(ctx, graph->arena, graph->node, graph->n_node, capacity, sizeof *grown);
        if (!grown)
            return MPQ_E_NOMEM;
        graph->node = grown;
        graph->node_capacity = capacity;
    }
    mpq_node_id id = graph->n_node;
    struct mpq_node *slot = &graph->node[id];
    *slot = *node;
    slot->in = mpq_arena_copy(ctx, graph->arena, node->in, node->n_in * sizeof *node->in);
    slot->out = mpq_arena_copy(ctx, graph->arena, node->out, node->n_out * sizeof *node->out);
    if (!slot->in || !slot->out)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < node->n_out; i++) {
        if (node->out[i] == MPQ_NO_VALUE)
            continue;
        struct mpq_value *value = &graph->value[node->out[i]];
        if (value->producer != MPQ_NO_NODE)
            return mpq_fail_node(ctx, node, MPQ_E_FORMAT,
                                 "computes '%s', which is computed already", value->name);
        value->producer = id;
    }
    graph->n_node++;
    if (out)
        *out = id;
    return MPQ_OK;
}

enum mpq_status mpq_graph_check(struct mpq_ctx *ctx, const struct mpq_graph *graph)
{
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    enum mpq_status status = MPQ_OK;
    bool *ready = mpq_arena_alloc(ctx, scratch, graph->n_value, sizeof *ready);
    if (!ready) {
        status = MPQ_E_NOMEM;
        goto out;
    }
    for (uint32_t v = 0; v < graph->n_value; v++)
        ready[v] = graph->value[v].constant != NULL;
    for (uint32_t i = 0; i < graph->n_input; i++) {
        MPQ_ASSERT(graph->input[i] < graph->n_value);
        ready[graph->input[i]] = true;
    }
    for (uint32_t n = 0; n < graph->n_node && status == MPQ_OK; n++) {
        const struct mpq_node *node = &graph->node[n];
        for (uint32_t i = 0; i < node->n_in && status == MPQ_OK; i++) {
            if (node->in[i] == MPQ_NO_VALUE)
                continue;
            MPQ_ASSERT(node->in[i] < graph->n_value);
            if (!ready[node->in[i]])
                status = mpq_fail_node(ctx, node, MPQ_E_FORMAT,
                                       "reads '%s', which nothing before it computes",
                                       graph->value[node->in[i]].name);
        }
        for (uint32_t i = 0; i < node->n_out && status == MPQ_OK; i++) {
            if (node->out[i] == MPQ_NO_VALUE)
                continue;
            MPQ_ASSERT(node->out[i] < graph->n_value);
            MPQ_ASSERT(graph->value[node->out[i]].producer == n);
            if (ready[node->out[i]])
                status =
                    mpq_fail_node(ctx, node, MPQ_E_FORMAT, "computes '%s', which exists already",
                                  graph->value[node->out[i]].name);
            ready[node->out[i]] = true;
        }
    }
    for (uint32_t i = 0; i < graph->n_output && status == MPQ_OK; i++)
        if (!ready[graph->output[i]])
            status = mpq_fail(ctx, MPQ_E_FORMAT, "the graph output '%s' is not computed",
                              graph->value[graph->output[i]].name);
out:
    mpq_arena_free(scratch);
    return status;
}

enum mpq_status mpq_graph_uses(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               const struct mpq_graph *graph, struct mpq_uses *out)
{
    uint32_t *first = mpq_arena_alloc(ctx, arena, (size_t)graph->n_value + 2, sizeof *first);
    bool *is_output = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *is_output);
    size_t n_use = 0;
    for (uint32_t n = 0; n < graph->n_node; n++)
        n_use += graph->node[n].n_in;
    mpq_node_id *list = mpq_arena_alloc(ctx, arena, n_use, sizeof *list);
    if (!first || !is_output || !list)
        return MPQ_E_NOMEM;
    /* Counting sort. first[] is filled one place ahead, so that it ends where it should. */
    for (uint32_t n = 0; n < graph->n_node; n++)
        for (uint32_t i = 0; i < graph->node[n].n_in; i++)
            if (graph->node[n].in[i] != MPQ_NO_VALUE)
                first[graph->node[n].in[i] + 2]++;
    for (uint32_t v = 0; v < graph->n_value; v++)
        first[v + 2] += first[v + 1];
    for (uint32_t n = 0; n < graph->n_node; n++)
        for (uint32_t i = 0; i < graph->node[n].n_in; i++)
            if (graph->node[n].in[i] != MPQ_NO_VALUE)
                list[first[graph->node[n].in[i] + 1]++] = n;
    for (uint32_t i = 0; i < graph->n_output; i++)
        is_output[graph->output[i]] = true;
    *out = (struct mpq_uses){first, list, is_output};
    return MPQ_OK;
}

mpq_node_id mpq_uses_single(const struct mpq_uses *uses, mpq_value_id v)
{
    if (uses->is_output[v] || uses->first[v + 1] - uses->first[v] != 1)
        return MPQ_NO_NODE;
    return uses->node[uses->first[v]];
}

const char *mpq_node_label(const struct mpq_graph *graph, const struct mpq_node *node)
{
    const char *label = node->name;
    for (uint32_t i = 0; i < node->n_out && !*label; i++)
        if (node->out[i] != MPQ_NO_VALUE)
            label = graph->value[node->out[i]].name;
    return label;
}

bool mpq_node_is(const struct mpq_node *node, const char *op_type)
{
    return strcmp(node->op_type, op_type) == 0 &&
           (node->domain[0] == '\0' || strcmp(node->domain, "ai.onnx") == 0);
}

int64_t mpq_node_opset(const struct mpq_graph *graph, const struct mpq_node *node)
{
    if (!*node->domain || strcmp(node->domain, "ai.onnx") == 0)
        return graph->opset;
    for (uint32_t i = 0; i < graph->n_import; i++)
        if (strcmp(graph->import[i].domain, node->domain) == 0)
            return graph->import[i].version;
    return 0;
}

enum mpq_status mpq_fail_node(struct mpq_ctx *ctx, const struct mpq_node *node,
                              enum mpq_status status, const char *format, ...)
{
    char sentence[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    if (!*node->name && node->source != MPQ_NO_NODE)
        return mpq_fail(ctx, status, "node %u (%s): %s", node->source, node->op_type, sentence);
    return mpq_fail(ctx, status, "node '%s' (%s): %s", node->name, node->op_type, sentence);
}
