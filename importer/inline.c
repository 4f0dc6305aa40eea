#include "importer/inline.h"

#include <string.h>

struct inlining {
    struct mpq_ctx *ctx;
    struct mpq_arena *arena;
    Onnx__GraphProto *graph;
    struct mpq_strmap taken; /* names of values outside of bodies */
    Onnx__NodeProto **node;  /* the new list */
    size_t n_node, capacity;
};

static enum mpq_status take_name(struct inlining *in, const char *name)
{
    if (!name || !*name)
        return MPQ_OK;
    return mpq_strmap_add(in->ctx, in->arena, &in->taken, name, 0, NULL);
}

static enum mpq_status append(struct inlining *in, Onnx__NodeProto *node)
{
    if (in->n_node == in->capacity) {
        size_t capacity = 2 * in->capacity + 64;
        in->node = mpq_arena_grow(in->ctx, in->arena, in->node, in->n_node, capacity,
                                  sizeof(Onnx__NodeProto *));
        if (!in->node)
            return MPQ_E_NOMEM;
        in->capacity = capacity;
    }
    in->node[in->n_node++] = node;
    return MPQ_OK;
}

static void replace(char **name, const char *from, char *to)
{
    if (*name && strcmp(*name, from) == 0)
        *name = to;
}

/* Everywhere in a body and in bodies inside of it: names are unique along the nesting. */
static void rename_in_body(Onnx__GraphProto *body, const char *from, char *to)
{
    for (size_t i = 0; i < body->n_initializer; i++)
        replace(&body->initializer[i]->name, from, to);
    for (size_t i = 0; i < body->n_value_info; i++)
        replace(&body->value_info[i]->name, from, to);
    for (size_t i = 0; i < body->n_output; i++)
        replace(&body->output[i]->name, from, to);
    for (size_t n = 0; n < body->n_node; n++) {
        Onnx__NodeProto *node = body->node[n];
        for (size_t i = 0; i < node->n_input; i++)
            replace(&node->input[i], from, to);
        for (size_t i = 0; i < node->n_output; i++)
            replace(&node->output[i], from, to);
        for (size_t i = 0; i < node->n_attribute; i++) {
            if (node->attribute[i]->g)
                rename_in_body(node->attribute[i]->g, from, to);
            for (size_t j = 0; j < node->attribute[i]->n_graphs; j++)
                rename_in_body(node->attribute[i]->graphs[j], from, to);
        }
    }
}

/* A name that the body defines becomes one of the graph's. */
static enum mpq_status adopt_name(struct inlining *in, Onnx__GraphProto *body, const char *name)
{
    char *fresh = (char *)name;
    if (!name || !*name)
        return MPQ_OK;
    for (unsigned i = 1; mpq_strmap_get(&in->taken, fresh) != MPQ_STRMAP_NONE; i++) {
        fresh = mpq_arena_printf(in->ctx, in->arena, "%s_%u", name, i);
        if (!fresh)
            return MPQ_E_NOMEM;
    }
    if (fresh != name)
        rename_in_body(body, name, fresh);
    return take_name(in, fresh);
}

static enum mpq_status adopt_names(struct inlining *in, Onnx__GraphProto *body)
{
    for (size_t i = 0; i < body->n_initializer; i++)
        MPQ_TRY(adopt_name(in, body, body->initializer[i]->name));
    for (size_t n = 0; n < body->n_node; n++)
        for (size_t i = 0; i < body->node[n]->n_output; i++)
            MPQ_TRY(adopt_name(in, body, body->node[n]->output[i]));
    return MPQ_OK;
}

static enum mpq_status adopt_initializers(struct inlining *in, const Onnx__GraphProto *body)
{
    Onnx__GraphProto *graph = in->graph;
    size_t n = graph->n_initializer + body->n_initializer;
    Onnx__TensorProto **list = mpq_arena_grow(in->ctx, in->arena, graph->initializer,
                                              graph->n_initializer, n, sizeof(Onnx__TensorProto *));
    if (!list)
        return MPQ_E_NOMEM;
    for (size_t i = 0; i < body->n_initializer; i++)
        list[graph->n_initializer + i] = body->initializer[i];
    graph->initializer = list;
    graph->n_initializer = n;
    return MPQ_OK;
}

/* to = from, a value of the branch or of the graph around it. */
static enum mpq_status append_identity(struct inlining *in, char *from, char *to)
{
    Onnx__NodeProto *node = mpq_arena_alloc(in->ctx, in->arena, 1, sizeof *node);
    char **name = mpq_arena_alloc(in->ctx, in->arena, 2, sizeof *name);
    char *op_type = mpq_arena_strdup(in->ctx, in->arena, "Identity");
    if (!node || !name || !op_type)
        return MPQ_E_NOMEM;
    onnx__node_proto__init(node);
    name[0] = from;
    name[1] = to;
    node->op_type = op_type;
    node->n_input = node->n_output = 1;
    node->input = &name[0];
    node->output = &name[1];
    return append(in, node);
}

static enum mpq_status inline_branch(struct inlining *in, const Onnx__NodeProto *owner,
                                     const char *which)
{
    Onnx__GraphProto *body = NULL;
    for (size_t i = 0; i < owner->n_attribute; i++)
        if (owner->attribute[i]->name && strcmp(owner->attribute[i]->name, which) == 0)
            body = owner->attribute[i]->g;
    if (!body || body->n_output < owner->n_output || body->n_input || body->n_sparse_initializer)
        return mpq_fail(in->ctx, MPQ_E_FORMAT, "node '%s' (If) has no %s with %zu outputs",
                        owner->name ? owner->name : "", which, owner->n_output);
    for (size_t i = 0; i < owner->n_output; i++)
        if (!body->output[i]->name)
            return mpq_fail(in->ctx, MPQ_E_FORMAT, "node '%s' (If): output %zu of %s has no name",
                            owner->name ? owner->name : "", i, which);
    MPQ_TRY(adopt_names(in, body));
    MPQ_TRY(adopt_initializers(in, body));
    for (size_t n = 0; n < body->n_node; n++)
        MPQ_TRY(append(in, body->node[n]));
    for (size_t i = 0; i < owner->n_output; i++)
        if (*owner->output[i])
            MPQ_TRY(append_identity(in, body->output[i]->name, owner->output[i]));
    return MPQ_OK;
}

enum mpq_status mpq_inline_branches(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const enum mpq_branch *branch, Onnx__GraphProto *graph)
{
    struct inlining in = {.ctx = ctx, .arena = arena, .graph = graph};
    for (size_t i = 0; i < graph->n_input; i++)
        MPQ_TRY(take_name(&in, graph->input[i]->name));
    for (size_t i = 0; i < graph->n_initializer; i++)
        MPQ_TRY(take_name(&in, graph->initializer[i]->name));
    for (size_t n = 0; n < graph->n_node; n++)
        for (size_t i = 0; i < graph->node[n]->n_output; i++)
            MPQ_TRY(take_name(&in, graph->node[n]->output[i]));
    for (size_t n = 0; n < graph->n_node; n++)
        if (branch[n] == MPQ_BRANCH_KEEP)
            MPQ_TRY(append(&in, graph->node[n]));
        else
            MPQ_TRY(inline_branch(&in, graph->node[n],
                                  branch[n] == MPQ_BRANCH_THEN ? "then_branch" : "else_branch"));
    graph->node = in.node;
    graph->n_node = in.n_node;
    return MPQ_OK;
}
