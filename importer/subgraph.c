#include "importer/subgraph.h"

#include <onnx.pb-c.h>
#include <string.h>

#include "importer/upgrade.h"

/* A body and those around it; a name means the innermost definition. */
struct scope {
    const struct scope *outer;
    struct mpq_strmap defined;
};

struct search {
    struct mpq_ctx *ctx;
    struct mpq_arena *arena;
    const struct mpq_graph *graph;
    const struct mpq_node *node;
    struct mpq_strmap seen; /* names in id[] */
    mpq_value_id *id;
    uint32_t n, capacity;
};

static enum mpq_status define(struct search *search, struct scope *scope, const char *name)
{
    if (!name || !*name)
        return MPQ_OK;
    return mpq_strmap_add(search->ctx, search->arena, &scope->defined, name, 0, NULL);
}

static enum mpq_status define_all(struct search *search, struct scope *scope,
                                  const Onnx__GraphProto *body)
{
    for (size_t i = 0; i < body->n_input; i++)
        MPQ_TRY(define(search, scope, body->input[i]->name));
    for (size_t i = 0; i < body->n_initializer; i++)
        MPQ_TRY(define(search, scope, body->initializer[i]->name));
    for (size_t i = 0; i < body->n_sparse_initializer; i++)
        if (body->sparse_initializer[i]->values)
            MPQ_TRY(define(search, scope, body->sparse_initializer[i]->values->name));
    for (size_t n = 0; n < body->n_node; n++)
        for (size_t i = 0; i < body->node[n]->n_output; i++)
            MPQ_TRY(define(search, scope, body->node[n]->output[i]));
    return MPQ_OK;
}

static enum mpq_status read_name(struct search *search, const struct scope *scope, const char *name)
{
    if (!name || !*name)
        return MPQ_OK;
    for (; scope; scope = scope->outer)
        if (mpq_strmap_get(&scope->defined, name) != MPQ_STRMAP_NONE)
            return MPQ_OK;
    mpq_value_id id = mpq_graph_find(search->graph, name);
    if (id == MPQ_NO_VALUE)
        return mpq_fail_node(search->ctx, search->node, MPQ_E_FORMAT,
                             "its body reads '%s', which nothing computes", name);
    uint32_t known;
    MPQ_TRY(mpq_strmap_add(search->ctx, search->arena, &search->seen, name, search->n, &known));
    if (known != search->n)
        return MPQ_OK;
    if (search->n == search->capacity) {
        search->capacity = search->capacity * 2 + 8;
        search->id = mpq_arena_grow(search->ctx, search->arena, search->id, search->n,
                                    search->capacity, sizeof *search->id);
        if (!search->id)
            return MPQ_E_NOMEM;
    }
    search->id[search->n++] = id;
    return MPQ_OK;
}

/* Bodies nest no deeper than messages do, which was checked before they were unpacked. */
static enum mpq_status search_body(struct search *search, const struct scope *outer,
                                   const Onnx__GraphProto *body)
{
    struct scope scope = {.outer = outer};
    MPQ_TRY(define_all(search, &scope, body));
    for (size_t n = 0; n < body->n_node; n++) {
        const Onnx__NodeProto *node = body->node[n];
        for (size_t i = 0; i < node->n_input; i++)
            MPQ_TRY(read_name(search, &scope, node->input[i]));
        for (size_t i = 0; i < node->n_attribute; i++) {
            const Onnx__AttributeProto *attr = node->attribute[i];
            if (attr->g)
                MPQ_TRY(search_body(search, &scope, attr->g));
            for (size_t j = 0; j < attr->n_graphs; j++)
                MPQ_TRY(search_body(search, &scope, attr->graphs[j]));
        }
    }
    for (size_t i = 0; i < body->n_output; i++)
        MPQ_TRY(read_name(search, &scope, body->output[i]->name));
    return MPQ_OK;
}

enum mpq_status mpq_subgraph_captures(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      const struct mpq_graph *graph, const struct mpq_node *node,
                                      mpq_value_id **out_id, uint32_t *out_n)
{
    struct search search = {.ctx = ctx, .arena = arena, .graph = graph, .node = node};
    for (size_t i = 0; i < node->attr_set.n; i++) {
        if (node->attr_set.attr[i].kind != MPQ_ATTR_OPAQUE)
            continue;
        const Onnx__AttributeProto *attr = node->attr_set.attr[i].opaque;
        if (attr->g)
            MPQ_TRY(search_body(&search, NULL, attr->g));
        for (size_t j = 0; j < attr->n_graphs; j++)
            MPQ_TRY(search_body(&search, NULL, attr->graphs[j]));
    }
    *out_id = search.id;
    *out_n = search.n;
    return MPQ_OK;
}

static bool is_stale_body(int64_t opset, const Onnx__GraphProto *body);

static bool is_stale_attr(int64_t opset, const Onnx__AttributeProto *attr)
{
    bool is_stale = attr->g && is_stale_body(opset, attr->g);
    for (size_t i = 0; i < attr->n_graphs && !is_stale; i++)
        is_stale = is_stale_body(opset, attr->graphs[i]);
    return is_stale;
}

static bool is_stale_body(int64_t opset, const Onnx__GraphProto *body)
{
    for (size_t n = 0; n < body->n_node; n++) {
        const Onnx__NodeProto *node = body->node[n];
        bool is_onnx = !node->domain || !*node->domain || strcmp(node->domain, "ai.onnx") == 0;
        if (is_onnx && node->op_type && mpq_upgrade_changes(node->op_type, opset))
            return true;
        for (size_t i = 0; i < node->n_attribute; i++)
            if (is_stale_attr(opset, node->attribute[i]))
                return true;
    }
    return false;
}

bool mpq_subgraph_is_stale(const struct mpq_node *node, int64_t opset)
{
    for (size_t i = 0; i < node->attr_set.n; i++)
        if (node->attr_set.attr[i].kind == MPQ_ATTR_OPAQUE &&
            is_stale_attr(opset, node->attr_set.attr[i].opaque))
            return true;
    return false;
}
