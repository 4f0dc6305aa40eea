#include "importer/rewrite.h"

#include <string.h>

#include "quantcore/base/limits.h"

enum { IN_BODY, IN_GRAPH };

static enum mpq_status take(struct mpq_rewrite *rewrite, const char *name, uint32_t where)
{
    uint32_t known;
    if (!name || !*name)
        return MPQ_OK;
    MPQ_TRY(mpq_strmap_add(rewrite->ctx, rewrite->arena, rewrite->taken, name, where, &known));
    if (known < where)
        mpq_strmap_set(rewrite->taken, name, where);
    return MPQ_OK;
}

static enum mpq_status take_graph(struct mpq_rewrite *rewrite, const Onnx__GraphProto *graph,
                                  uint32_t where)
{
    for (size_t i = 0; i < graph->n_input; i++)
        MPQ_TRY(take(rewrite, graph->input[i]->name, where));
    for (size_t i = 0; i < graph->n_initializer; i++)
        MPQ_TRY(take(rewrite, graph->initializer[i]->name, where));
    for (size_t n = 0; n < graph->n_node; n++) {
        const Onnx__NodeProto *node = graph->node[n];
        for (size_t i = 0; i < node->n_output; i++)
            MPQ_TRY(take(rewrite, node->output[i], where));
        for (size_t i = 0; i < node->n_attribute; i++) {
            if (node->attribute[i]->g)
                MPQ_TRY(take_graph(rewrite, node->attribute[i]->g, IN_BODY));
            for (size_t j = 0; j < node->attribute[i]->n_graphs; j++)
                MPQ_TRY(take_graph(rewrite, node->attribute[i]->graphs[j], IN_BODY));
        }
    }
    return MPQ_OK;
}

enum mpq_status mpq_rewrite_begin(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  Onnx__GraphProto *graph, struct mpq_rewrite *out)
{
    *out = (struct mpq_rewrite){.ctx = ctx,
                                .arena = arena,
                                .graph = graph,
                                .taken = mpq_arena_alloc(ctx, arena, 1, sizeof *out->taken),
                                .number = mpq_arena_alloc(ctx, arena, 1, sizeof *out->number),
                                .initializer = graph->initializer,
                                .n_initializer = graph->n_initializer,
                                .initializer_capacity = graph->n_initializer};
    return out->taken && out->number ? take_graph(out, graph, IN_GRAPH) : MPQ_E_NOMEM;
}

void mpq_rewrite_begin_body(const struct mpq_rewrite *outer, Onnx__GraphProto *body,
                            struct mpq_rewrite *out)
{
    *out = (struct mpq_rewrite){.ctx = outer->ctx,
                                .arena = outer->arena,
                                .graph = body,
                                .taken = outer->taken,
                                .number = outer->number,
                                .initializer = body->initializer,
                                .n_initializer = body->n_initializer,
                                .initializer_capacity = body->n_initializer};
}

void mpq_rewrite_end(struct mpq_rewrite *rewrite)
{
    rewrite->graph->node = rewrite->node;
    rewrite->graph->n_node = rewrite->n_node;
    rewrite->graph->initializer = rewrite->initializer;
    rewrite->graph->n_initializer = rewrite->n_initializer;
}

static enum mpq_status make_name(struct mpq_rewrite *rewrite, const char *stem, uint32_t where,
                                 char **out)
{
    uint32_t number;
    char *name = mpq_arena_strdup(rewrite->ctx, rewrite->arena, stem);
    if (!name)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_strmap_add(rewrite->ctx, rewrite->arena, rewrite->number, name, 1, &number));
    while (mpq_strmap_get(rewrite->taken, name) != MPQ_STRMAP_NONE) {
        name = mpq_arena_printf(rewrite->ctx, rewrite->arena, "%s_%u", stem, number++);
        if (!name)
            return MPQ_E_NOMEM;
    }
    mpq_strmap_set(rewrite->number, stem, number);
    *out = name;
    return take(rewrite, name, where);
}

enum mpq_status mpq_rewrite_name(struct mpq_rewrite *rewrite, const char *stem, char **out)
{
    return make_name(rewrite, stem, IN_GRAPH, out);
}

/* Room for one more in a list of pointers. */
static void *room(struct mpq_rewrite *rewrite, void *list, size_t n, size_t *capacity)
{
    if (n < *capacity)
        return list;
    *capacity = 2 * n + 64;
    return mpq_arena_grow(rewrite->ctx, rewrite->arena, list, n, *capacity, sizeof(void *));
}

/* What calls itself many times over could grow without bound. */
enum mpq_status mpq_rewrite_append(struct mpq_rewrite *rewrite, Onnx__NodeProto *node)
{
    if (rewrite->n_node == MPQ_LIMIT_NODES)
        return mpq_fail(rewrite->ctx, MPQ_E_LIMIT,
                        "has more than %u nodes once functions and loops are written out",
                        MPQ_LIMIT_NODES);
    rewrite->node = room(rewrite, rewrite->node, rewrite->n_node, &rewrite->node_capacity);
    if (!rewrite->node)
        return MPQ_E_NOMEM;
    rewrite->node[rewrite->n_node++] = node;
    return MPQ_OK;
}

enum mpq_status mpq_rewrite_append_initializer(struct mpq_rewrite *rewrite,
                                               Onnx__TensorProto *tensor)
{
    if (rewrite->n_initializer >= MPQ_LIMIT_NODES)
        return mpq_fail(rewrite->ctx, MPQ_E_LIMIT,
                        "has more than %u constants once functions and loops are written out",
                        MPQ_LIMIT_NODES);
    rewrite->initializer =
        room(rewrite, rewrite->initializer, rewrite->n_initializer, &rewrite->initializer_capacity);
    if (!rewrite->initializer)
        return MPQ_E_NOMEM;
    rewrite->initializer[rewrite->n_initializer++] = tensor;
    return MPQ_OK;
}

enum mpq_status mpq_rewrite_op_with(struct mpq_rewrite *rewrite, const char *op_type, size_t n_in,
                                    char *const *in, const char *out, const char *attr,
                                    int64_t value)
{
    struct {
        Onnx__NodeProto node;
        Onnx__AttributeProto attr, *attrs;
        char *out;
    } *made = mpq_arena_alloc(rewrite->ctx, rewrite->arena, 1, sizeof *made);
    char **list = mpq_arena_copy(rewrite->ctx, rewrite->arena, in, n_in * sizeof *in);
    if (!made || !list)
        return MPQ_E_NOMEM;
    onnx__node_proto__init(&made->node);
    made->node.op_type = (char *)(uintptr_t)op_type; /* nobody writes to the text of a message */
    made->node.n_input = n_in;
    made->node.input = list;
    made->out = (char *)(uintptr_t)out;
    made->node.n_output = 1;
    made->node.output = &made->out;
    if (attr) {
        onnx__attribute_proto__init(&made->attr);
        made->attr.name = (char *)(uintptr_t)attr;
        made->attr.has_type = made->attr.has_i = 1;
        made->attr.type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT;
        made->attr.i = value;
        made->attrs = &made->attr;
        made->node.n_attribute = 1;
        made->node.attribute = &made->attrs;
    }
    return mpq_rewrite_append(rewrite, &made->node);
}

enum mpq_status mpq_rewrite_op(struct mpq_rewrite *rewrite, const char *op_type, size_t n_in,
                               char *const *in, const char *out)
{
    return mpq_rewrite_op_with(rewrite, op_type, n_in, in, out, NULL, 0);
}

enum mpq_status mpq_rewrite_constant(struct mpq_rewrite *rewrite, enum mpq_dtype dtype, int rank,
                                     int64_t n, const int64_t *value, char **out)
{
    struct {
        Onnx__TensorProto proto;
        int64_t dim;
    } *made = mpq_arena_alloc(rewrite->ctx, rewrite->arena, 1, sizeof *made);
    struct mpq_tensor tensor;
    MPQ_TRY(mpq_tensor_alloc(rewrite->ctx, rewrite->arena, dtype, &MPQ_SHAPE(n), &tensor));
    if (!made)
        return MPQ_E_NOMEM;
    for (int64_t i = 0; i < n; i++)
        mpq_tensor_set_int(&tensor, i, value[i]);
    onnx__tensor_proto__init(&made->proto);
    MPQ_TRY(mpq_rewrite_name(rewrite, "constant", &made->proto.name));
    made->proto.has_data_type = made->proto.has_raw_data = 1;
    made->proto.data_type = (int32_t)dtype;
    made->proto.n_dims = (size_t)rank;
    made->proto.dims = &made->dim;
    made->dim = n;
    made->proto.raw_data = (ProtobufCBinaryData){mpq_tensor_bytes(&tensor), tensor.data};
    *out = made->proto.name;
    return mpq_rewrite_append_initializer(rewrite, &made->proto);
}

enum mpq_status mpq_renaming_add(struct mpq_rewrite *rewrite, struct mpq_renaming *renaming,
                                 const char *from, char *to)
{
    uint32_t index;
    MPQ_TRY(
        mpq_strmap_add(rewrite->ctx, rewrite->arena, &renaming->from, from, renaming->n, &index));
    if (index == renaming->n) {
        if (renaming->n == renaming->capacity) {
            renaming->capacity = 2 * renaming->n + 16;
            renaming->to = mpq_arena_grow(rewrite->ctx, rewrite->arena, renaming->to, renaming->n,
                                          renaming->capacity, sizeof *renaming->to);
            if (!renaming->to)
                return MPQ_E_NOMEM;
        }
        renaming->n++;
    }
    renaming->to[index] = to;
    return *to ? mpq_strmap_add(rewrite->ctx, rewrite->arena, &renaming->target, to, 0, NULL)
               : MPQ_OK;
}

char *mpq_renaming_get(const struct mpq_renaming *renaming, char *name)
{
    uint32_t index = name ? mpq_strmap_get(&renaming->from, name) : MPQ_STRMAP_NONE;
    return index == MPQ_STRMAP_NONE ? name : renaming->to[index];
}

static enum mpq_status adopt_name(struct mpq_rewrite *rewrite, const char *name, bool keeps_names,
                                  struct mpq_renaming *renaming)
{
    char *fresh = NULL;
    if (!name || !*name)
        return MPQ_OK;
    if (keeps_names && mpq_strmap_get(rewrite->taken, name) != IN_GRAPH)
        return take(rewrite, name, IN_GRAPH);
    MPQ_TRY(mpq_rewrite_name(rewrite, name, &fresh));
    return mpq_renaming_add(rewrite, renaming, name, fresh);
}

enum mpq_status mpq_rewrite_adopt_initializers(struct mpq_rewrite *rewrite,
                                               const Onnx__GraphProto *body, bool keeps_names,
                                               struct mpq_renaming *renaming)
{
    for (size_t i = 0; i < body->n_initializer; i++) {
        MPQ_TRY(adopt_name(rewrite, body->initializer[i]->name, keeps_names, renaming));
        Onnx__TensorProto *copy =
            mpq_arena_copy(rewrite->ctx, rewrite->arena, body->initializer[i], sizeof *copy);
        if (!copy)
            return MPQ_E_NOMEM;
        copy->name = mpq_renaming_get(renaming, copy->name);
        MPQ_TRY(mpq_rewrite_append_initializer(rewrite, copy));
    }
    return MPQ_OK;
}

enum mpq_status mpq_rewrite_adopt_values(struct mpq_rewrite *rewrite, const Onnx__GraphProto *body,
                                         bool keeps_names, struct mpq_renaming *renaming)
{
    for (size_t n = 0; n < body->n_node; n++)
        for (size_t i = 0; i < body->node[n]->n_output; i++)
            MPQ_TRY(adopt_name(rewrite, body->node[n]->output[i], keeps_names, renaming));
    return MPQ_OK;
}

static enum mpq_status copy_names(struct mpq_rewrite *rewrite, const struct mpq_renaming *renaming,
                                  char **name, size_t n, char ***out)
{
    char **copy = mpq_arena_alloc(rewrite->ctx, rewrite->arena, n, sizeof *copy);
    if (!copy)
        return MPQ_E_NOMEM;
    for (size_t i = 0; i < n; i++)
        copy[i] = mpq_renaming_get(renaming, name[i]);
    *out = copy;
    return MPQ_OK;
}

/* Declarations inside a body, whose names may be captured from outside. */
static enum mpq_status copy_infos(struct mpq_rewrite *rewrite, const struct mpq_renaming *renaming,
                                  Onnx__ValueInfoProto **info, size_t n,
                                  Onnx__ValueInfoProto ***out)
{
    Onnx__ValueInfoProto **list =
        mpq_arena_alloc(rewrite->ctx, rewrite->arena, n, sizeof(Onnx__ValueInfoProto *));
    if (!list)
        return MPQ_E_NOMEM;
    for (size_t i = 0; i < n; i++) {
        list[i] = mpq_arena_copy(rewrite->ctx, rewrite->arena, info[i], sizeof **list);
        if (!list[i])
            return MPQ_E_NOMEM;
        list[i]->name = mpq_renaming_get(renaming, list[i]->name);
    }
    *out = list;
    return MPQ_OK;
}

static enum mpq_status copy_initializers(struct mpq_rewrite *rewrite,
                                         const struct mpq_renaming *renaming,
                                         Onnx__GraphProto *graph)
{
    Onnx__TensorProto **list =
        mpq_arena_alloc(rewrite->ctx, rewrite->arena, graph->n_initializer, sizeof *list);
    if (!list)
        return MPQ_E_NOMEM;
    for (size_t i = 0; i < graph->n_initializer; i++) {
        list[i] =
            mpq_arena_copy(rewrite->ctx, rewrite->arena, graph->initializer[i], sizeof *list[i]);
        if (!list[i])
            return MPQ_E_NOMEM;
        list[i]->name = mpq_renaming_get(renaming, list[i]->name);
    }
    graph->initializer = list;
    return MPQ_OK;
}

static enum mpq_status copy_nodes(struct mpq_rewrite *rewrite, struct mpq_renaming *renaming,
                                  Onnx__NodeProto **node, size_t n, Onnx__NodeProto ***out)
{
    Onnx__NodeProto **list =
        mpq_arena_alloc(rewrite->ctx, rewrite->arena, n, sizeof(Onnx__NodeProto *));
    if (!list)
        return MPQ_E_NOMEM;
    for (size_t i = 0; i < n; i++)
        MPQ_TRY(mpq_rewrite_copy_node(rewrite, renaming, node[i], &list[i]));
    *out = list;
    return MPQ_OK;
}

/* Names that a body defines although the renaming knows them, and what it had for them. */
struct hiding {
    struct hidden {
        char *name, *to;
    } * hidden;
    size_t n;
};

/* A name that a body defines means that there, not what it becomes outside; and nothing outside
 * that is read there may come to be called like it, as an argument of a function could. What the
 * body computes may not be called like a value of the graph even if the body does not read that. */
static enum mpq_status hide(struct mpq_rewrite *rewrite, struct mpq_renaming *renaming, char *name,
                            bool is_input, struct hiding *hiding)
{
    char *fresh = NULL;
    if (!name || !*name)
        return MPQ_OK;
    if (mpq_strmap_get(&renaming->from, name) == MPQ_STRMAP_NONE &&
        mpq_strmap_get(&renaming->target, name) == MPQ_STRMAP_NONE &&
        (is_input || mpq_strmap_get(rewrite->taken, name) != IN_GRAPH))
        return take(rewrite, name, IN_BODY);
    hiding->hidden[hiding->n++] = (struct hidden){name, mpq_renaming_get(renaming, name)};
    MPQ_TRY(make_name(rewrite, name, IN_BODY, &fresh));
    return mpq_renaming_add(rewrite, renaming, name, fresh);
}

static enum mpq_status hide_all(struct mpq_rewrite *rewrite, struct mpq_renaming *renaming,
                                const Onnx__GraphProto *body, struct hiding *out)
{
    size_t n = body->n_input + body->n_initializer;
    for (size_t i = 0; i < body->n_node; i++)
        n += body->node[i]->n_output;
    *out = (struct hiding){
        .hidden = mpq_arena_alloc(rewrite->ctx, rewrite->arena, n, sizeof *out->hidden)};
    if (!out->hidden)
        return MPQ_E_NOMEM;
    for (size_t i = 0; i < body->n_input; i++)
        MPQ_TRY(hide(rewrite, renaming, body->input[i]->name, true, out));
    for (size_t i = 0; i < body->n_initializer; i++)
        MPQ_TRY(hide(rewrite, renaming, body->initializer[i]->name, false, out));
    for (size_t i = 0; i < body->n_node; i++)
        for (size_t k = 0; k < body->node[i]->n_output; k++)
            MPQ_TRY(hide(rewrite, renaming, body->node[i]->output[k], false, out));
    return MPQ_OK;
}

/* Bodies nest no deeper than messages do, which was checked before they were unpacked. */
static enum mpq_status copy_graph(struct mpq_rewrite *rewrite, struct mpq_renaming *renaming,
                                  Onnx__GraphProto **graph)
{
    Onnx__GraphProto *copy = mpq_arena_copy(rewrite->ctx, rewrite->arena, *graph, sizeof *copy);
    struct hiding hiding;
    if (!copy)
        return MPQ_E_NOMEM;
    *graph = copy;
    copy->n_value_info = 0;
    MPQ_TRY(hide_all(rewrite, renaming, copy, &hiding));
    if (hiding.n) {
        MPQ_TRY(copy_infos(rewrite, renaming, copy->input, copy->n_input, &copy->input));
        MPQ_TRY(copy_initializers(rewrite, renaming, copy));
    }
    MPQ_TRY(copy_infos(rewrite, renaming, copy->output, copy->n_output, &copy->output));
    MPQ_TRY(copy_nodes(rewrite, renaming, copy->node, copy->n_node, &copy->node));
    while (hiding.n-- > 0) {
        const struct hidden *last = &hiding.hidden[hiding.n];
        MPQ_TRY(mpq_renaming_add(rewrite, renaming, last->name, last->to));
    }
    return MPQ_OK;
}

static enum mpq_status copy_attr(struct mpq_rewrite *rewrite, struct mpq_renaming *renaming,
                                 Onnx__AttributeProto **attr)
{
    Onnx__AttributeProto *copy = mpq_arena_copy(rewrite->ctx, rewrite->arena, *attr, sizeof *copy);
    if (!copy)
        return MPQ_E_NOMEM;
    *attr = copy;
    if (copy->g)
        MPQ_TRY(copy_graph(rewrite, renaming, &copy->g));
    if (!copy->n_graphs)
        return MPQ_OK;
    copy->graphs = mpq_arena_copy(rewrite->ctx, rewrite->arena, copy->graphs,
                                  copy->n_graphs * sizeof(Onnx__GraphProto *));
    if (!copy->graphs)
        return MPQ_E_NOMEM;
    for (size_t i = 0; i < copy->n_graphs; i++)
        MPQ_TRY(copy_graph(rewrite, renaming, &copy->graphs[i]));
    return MPQ_OK;
}

enum mpq_status mpq_rewrite_copy_node(struct mpq_rewrite *rewrite, struct mpq_renaming *renaming,
                                      const Onnx__NodeProto *node, Onnx__NodeProto **out)
{
    Onnx__NodeProto *copy = mpq_arena_copy(rewrite->ctx, rewrite->arena, node, sizeof *copy);
    if (!copy)
        return MPQ_E_NOMEM;
    MPQ_TRY(copy_names(rewrite, renaming, node->input, node->n_input, &copy->input));
    MPQ_TRY(copy_names(rewrite, renaming, node->output, node->n_output, &copy->output));
    copy->attribute = mpq_arena_copy(rewrite->ctx, rewrite->arena, node->attribute,
                                     node->n_attribute * sizeof(Onnx__AttributeProto *));
    if (!copy->attribute)
        return MPQ_E_NOMEM;
    for (size_t i = 0; i < copy->n_attribute; i++)
        MPQ_TRY(copy_attr(rewrite, renaming, &copy->attribute[i]));
    *out = copy;
    return MPQ_OK;
}

static bool node_clashes(const struct mpq_rewrite *rewrite, const Onnx__NodeProto *node);

/* Whether a body, or one in it, computes something that is called like a value of the graph. */
static bool clashes(const struct mpq_rewrite *rewrite, const Onnx__GraphProto *body)
{
    bool any = false;
    for (size_t i = 0; i < body->n_initializer; i++)
        any |= body->initializer[i]->name &&
               mpq_strmap_get(rewrite->taken, body->initializer[i]->name) == IN_GRAPH;
    for (size_t n = 0; n < body->n_node; n++) {
        for (size_t i = 0; i < body->node[n]->n_output; i++)
            any |= mpq_strmap_get(rewrite->taken, body->node[n]->output[i]) == IN_GRAPH;
        any |= node_clashes(rewrite, body->node[n]);
    }
    return any;
}

static bool node_clashes(const struct mpq_rewrite *rewrite, const Onnx__NodeProto *node)
{
    bool any = false;
    for (size_t i = 0; i < node->n_attribute; i++) {
        any |= node->attribute[i]->g && clashes(rewrite, node->attribute[i]->g);
        for (size_t j = 0; j < node->attribute[i]->n_graphs; j++)
            any |= clashes(rewrite, node->attribute[i]->graphs[j]);
    }
    return any;
}

enum mpq_status mpq_rewrite_part_scopes(struct mpq_rewrite *rewrite)
{
    for (size_t n = 0; n < rewrite->n_node; n++) {
        struct mpq_renaming none = {0};
        if (node_clashes(rewrite, rewrite->node[n]))
            MPQ_TRY(mpq_rewrite_copy_node(rewrite, &none, rewrite->node[n], &rewrite->node[n]));
    }
    return MPQ_OK;
}

/* Calls fn for every name that nodes and outputs of the body, and of bodies in it, read, unless it
 * is a value of theirs that is called `from`; true where one of the calls is. */
static bool walk_body(Onnx__GraphProto *body, bool (*fn)(char **name, const char *from, char *to),
                      const char *from, char *to);

static bool walk_bodies(Onnx__GraphProto *graph, bool (*fn)(char **, const char *, char *),
                        const char *from, char *to)
{
    bool any = false;
    for (size_t n = 0; n < graph->n_node; n++)
        for (size_t i = 0; i < graph->node[n]->n_attribute; i++) {
            Onnx__AttributeProto *attr = graph->node[n]->attribute[i];
            if (attr->g)
                any |= walk_body(attr->g, fn, from, to);
            for (size_t j = 0; j < attr->n_graphs; j++)
                any |= walk_body(attr->graphs[j], fn, from, to);
        }
    return any;
}

static bool defines(const Onnx__GraphProto *body, const char *name)
{
    bool any = false;
    for (size_t i = 0; i < body->n_input; i++)
        any |= body->input[i]->name && strcmp(body->input[i]->name, name) == 0;
    for (size_t i = 0; i < body->n_initializer; i++)
        any |= body->initializer[i]->name && strcmp(body->initializer[i]->name, name) == 0;
    for (size_t n = 0; n < body->n_node; n++)
        for (size_t i = 0; i < body->node[n]->n_output; i++)
            any |= strcmp(body->node[n]->output[i], name) == 0;
    return any;
}

static bool walk_body(Onnx__GraphProto *body, bool (*fn)(char **, const char *, char *),
                      const char *from, char *to)
{
    if (defines(body, from))
        return false;
    bool any = walk_bodies(body, fn, from, to);
    for (size_t n = 0; n < body->n_node; n++)
        for (size_t i = 0; i < body->node[n]->n_input; i++)
            any |= fn(&body->node[n]->input[i], from, to);
    for (size_t i = 0; i < body->n_output; i++)
        any |= fn(&body->output[i]->name, from, to);
    return any;
}

static bool is_same(char **name, const char *from, char *to)
{
    (void)to;
    return *name && strcmp(*name, from) == 0;
}

static bool replace(char **name, const char *from, char *to)
{
    if (!is_same(name, from, to))
        return false;
    *name = to;
    return true;
}

bool mpq_rewrite_bodies_read(const Onnx__GraphProto *graph, const char *name)
{
    return walk_bodies((Onnx__GraphProto *)(uintptr_t)graph, is_same, name, NULL);
}

void mpq_rewrite_rename_in_bodies(Onnx__GraphProto *graph, const char *from, char *to)
{
    walk_bodies(graph, replace, from, to);
}

const char *mpq_rewrite_label(const Onnx__NodeProto *node)
{
    if (node->name && *node->name)
        return node->name;
    for (size_t i = 0; i < node->n_output; i++)
        if (*node->output[i])
            return node->output[i];
    return "";
}

Onnx__AttributeProto *mpq_rewrite_attr(const Onnx__NodeProto *node, const char *name)
{
    for (size_t i = 0; i < node->n_attribute; i++)
        if (node->attribute[i]->name && strcmp(node->attribute[i]->name, name) == 0)
            return node->attribute[i];
    return NULL;
}
