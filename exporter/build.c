#include "exporter/build.h"

#include "exporter/write.h"

#include <stdlib.h>
#include <string.h>

static enum mpq_status take(struct mpq_build *build, char *const *name, size_t n)
{
    for (size_t i = 0; i < n; i++)
        MPQ_TRY(mpq_strmap_add(build->ctx, build->arena, &build->taken_inside, name[i], 0, NULL));
    return MPQ_OK;
}

static enum mpq_status take_graph(struct mpq_build *build, const Onnx__GraphProto *graph);

static enum mpq_status take_attr(struct mpq_build *build, const Onnx__AttributeProto *attr)
{
    if (attr->g)
        MPQ_TRY(take_graph(build, attr->g));
    for (size_t i = 0; i < attr->n_graphs; i++)
        MPQ_TRY(take_graph(build, attr->graphs[i]));
    return MPQ_OK;
}

/* Depth is bounded: the file's nesting was checked before it was unpacked. */
static enum mpq_status take_graph(struct mpq_build *build, const Onnx__GraphProto *graph)
{
    for (size_t i = 0; i < graph->n_node; i++) {
        const Onnx__NodeProto *node = graph->node[i];
        MPQ_TRY(take(build, node->input, node->n_input));
        MPQ_TRY(take(build, node->output, node->n_output));
        for (size_t a = 0; a < node->n_attribute; a++)
            MPQ_TRY(take_attr(build, node->attribute[a]));
    }
    for (size_t i = 0; i < graph->n_initializer; i++)
        MPQ_TRY(take(build, &graph->initializer[i]->name, 1));
    for (size_t i = 0; i < graph->n_input; i++)
        MPQ_TRY(take(build, &graph->input[i]->name, 1));
    for (size_t i = 0; i < graph->n_output; i++)
        MPQ_TRY(take(build, &graph->output[i]->name, 1));
    return MPQ_OK;
}

enum mpq_status mpq_build_init(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               const struct mpq_graph *graph, struct mpq_build *out)
{
    *out = (struct mpq_build){
        .ctx = ctx, .arena = arena, .taken = &graph->by_name, .n_candidate = MPQ_N_LETTER};
    for (uint32_t n = 0; n < graph->n_node; n++) {
        const struct mpq_attr_set *set = &graph->node[n].attr_set;
        for (size_t a = 0; a < set->n; a++)
            if (set->attr[a].kind == MPQ_ATTR_OPAQUE)
                MPQ_TRY(take_attr(out, set->attr[a].opaque));
    }
    return MPQ_OK;
}

/* Room for one more in an array of n: the array, moved where need be, or NULL. */
static void *room(struct mpq_build *build, void *array, size_t n, size_t *capacity, size_t size)
{
    if (n < *capacity)
        return array;
    size_t wanted = *capacity * 2 + 64;
    void *grown = mpq_arena_grow(build->ctx, build->arena, array, n, wanted, size);
    if (grown)
        *capacity = wanted;
    return grown;
}

const char *mpq_build_letter(size_t i)
{
    static const char letter[MPQ_N_LETTER][2] = {
        "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r",
        "s", "t", "u", "v", "w", "x", "y", "z", "A", "B", "C", "D", "E", "F", "G", "H", "I", "J",
        "K", "L", "M", "N", "O", "P", "Q", "R", "S", "T", "U", "V", "W", "X", "Y", "Z"};
    return letter[i];
}

/* The candidate of that number: those of one letter come first, then those of two, ... */
static void candidate(uint32_t number, char *out_name)
{
    static const char later[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    uint32_t block = MPQ_N_LETTER;
    int n = 1;
    for (; number >= block; n++) {
        number -= block;
        block *= 62;
    }
    out_name[n] = 0;
    out_name[0] = *mpq_build_letter(number % MPQ_N_LETTER);
    number /= MPQ_N_LETTER;
    for (int i = 1; i < n; i++, number /= 62)
        out_name[i] = later[number % 62];
}

/* The first from *number on that nothing in the graph has. */
static void next_name(const struct mpq_build *build, uint32_t *number, char *out_name)
{
    do
        candidate((*number)++, out_name);
    while (mpq_strmap_get(build->taken, out_name) != MPQ_STRMAP_NONE ||
           mpq_strmap_get(&build->taken_inside, out_name) != MPQ_STRMAP_NONE);
}

const char *mpq_build_name(struct mpq_build *build)
{
    struct mpq_build_name **list =
        room(build, build->name, build->n_name, &build->name_capacity, sizeof *list);
    struct mpq_build_name *made = mpq_arena_alloc(build->ctx, build->arena, 1, sizeof *made);
    if (!list || !made)
        return NULL;
    build->name = list;
    list[build->n_name++] = made;
    next_name(build, &build->n_candidate, made->text);
    return made->text;
}

static void count_uses(const struct mpq_strmap *map, struct mpq_build_name **made,
                       char *const *name, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t at = mpq_strmap_get(map, name[i]);
        if (at != MPQ_STRMAP_NONE)
            made[at]->n_use++;
    }
}

static int by_use(const void *a, const void *b)
{
    const struct mpq_build_name *x = *(struct mpq_build_name *const *)a;
    const struct mpq_build_name *y = *(struct mpq_build_name *const *)b;
    if (x->n_use != y->n_use)
        return x->n_use < y->n_use ? 1 : -1;
    return (x->number > y->number) - (x->number < y->number);
}

enum mpq_status mpq_build_shorten(struct mpq_build *build)
{
    struct mpq_strmap map = {0};
    struct mpq_build_name **made = build->name;
    for (uint32_t i = 0; i < build->n_name; i++) {
        made[i]->number = i;
        MPQ_TRY(mpq_strmap_add(build->ctx, build->arena, &map, made[i]->text, i, NULL));
    }
    for (size_t n = 0; n < build->n_node; n++) {
        Onnx__NodeProto *node = build->node[n];
        count_uses(&map, made, node->input, node->n_input);
        count_uses(&map, made, node->output, node->n_output);
        count_uses(&map, made, &node->name, node->name != NULL);
    }
    for (size_t i = 0; i < build->n_initializer; i++)
        count_uses(&map, made, &build->initializer[i]->name, 1);
    uint32_t number = 0;
    if (made)
        qsort(made, build->n_name, sizeof(void *), by_use);
    for (size_t i = 0; i < build->n_name; i++)
        next_name(build, &number, made[i]->text);
    return MPQ_OK;
}

bool mpq_build_append_node(struct mpq_build *build, Onnx__NodeProto *node)
{
    Onnx__NodeProto **list =
        room(build, build->node, build->n_node, &build->node_capacity, sizeof(Onnx__NodeProto *));
    if (!list)
        return false;
    build->node = list;
    list[build->n_node++] = node;
    return true;
}

bool mpq_build_append_initializer(struct mpq_build *build, Onnx__TensorProto *tensor)
{
    Onnx__TensorProto **list = room(build, build->initializer, build->n_initializer,
                                    &build->initializer_capacity, sizeof(Onnx__TensorProto *));
    if (!list)
        return false;
    build->initializer = list;
    list[build->n_initializer++] = tensor;
    return true;
}

static Onnx__AttributeProto *attr_of(struct mpq_build *build, const struct mpq_build_op *op)
{
    struct mpq_attr attr = {.name = op->attr, .kind = MPQ_ATTR_INT, .i = op->attr_int};
    if (op->attr_string)
        attr = (struct mpq_attr){.name = op->attr,
                                 .kind = MPQ_ATTR_STRING,
                                 .n = strlen(op->attr_string),
                                 .s = op->attr_string};
    return mpq_write_attr(build->ctx, build->arena, &attr);
}

const char *mpq_build_op(struct mpq_build *build, const struct mpq_build_op *op)
{
    if (build->ctx->status != MPQ_OK)
        return NULL;
    size_t n_in = 0;
    while (n_in < MPQ_COUNT(op->in) && op->in[n_in])
        n_in++;
    struct {
        Onnx__NodeProto node;
        char *in[MPQ_COUNT(op->in)], *out;
        Onnx__AttributeProto *attr;
    } *made = mpq_arena_alloc(build->ctx, build->arena, 1, sizeof *made);
    const char *out = op->out ? op->out : mpq_build_name(build);
    if (!made || !out)
        return NULL;
    onnx__node_proto__init(&made->node);
    made->node.op_type = mpq_write_text(op->op_type);
    for (size_t i = 0; i < n_in; i++)
        made->in[i] = mpq_write_text(op->in[i]);
    made->out = mpq_write_text(out);
    made->node.n_input = n_in;
    made->node.input = made->in;
    made->node.n_output = 1;
    made->node.output = &made->out;
    if (op->attr) {
        made->attr = attr_of(build, op);
        if (!made->attr)
            return NULL;
        made->node.n_attribute = 1;
        made->node.attribute = &made->attr;
    }
    return mpq_build_append_node(build, &made->node) ? out : NULL;
}

/* A node with room for its names, which the caller fills in. */
static Onnx__NodeProto *wide_node(struct mpq_build *build, const char *op_type, size_t n_in,
                                  size_t n_out)
{
    Onnx__NodeProto *node = mpq_arena_alloc(build->ctx, build->arena, 1, sizeof *node);
    char **name = mpq_arena_alloc(build->ctx, build->arena, n_in + n_out, sizeof *name);
    if (!node || !name)
        return NULL;
    onnx__node_proto__init(node);
    node->op_type = mpq_write_text(op_type);
    node->n_input = n_in;
    node->input = name;
    node->n_output = n_out;
    node->output = name + n_in;
    return mpq_build_append_node(build, node) ? node : NULL;
}

static bool put_axis(struct mpq_build *build, Onnx__NodeProto *node, int axis)
{
    Onnx__AttributeProto **attr = mpq_arena_alloc(build->ctx, build->arena, 1, sizeof *attr);
    if (!attr)
        return false;
    *attr = attr_of(build, &(struct mpq_build_op){.attr = "axis", .attr_int = axis});
    node->n_attribute = 1;
    node->attribute = attr;
    return *attr != NULL;
}

bool mpq_build_split_as(struct mpq_build *build, const char *in, const int64_t *length, size_t n,
                        int axis, const char *const *piece)
{
    const char *lengths = mpq_build_shared_ints(build, length, n);
    if (build->ctx->status != MPQ_OK)
        return false;
    Onnx__NodeProto *node = wide_node(build, "Split", 2, n);
    if (!node || (axis && !put_axis(build, node, axis)))
        return false;
    node->input[0] = mpq_write_text(in);
    node->input[1] = mpq_write_text(lengths);
    for (size_t i = 0; i < n; i++)
        node->output[i] = mpq_write_text(piece[i]);
    return true;
}

bool mpq_build_split(struct mpq_build *build, const char *in, const int64_t *length, size_t n,
                     int axis, const char **out_piece)
{
    for (size_t i = 0; i < n; i++) {
        out_piece[i] = mpq_build_name(build);
        if (!out_piece[i])
            return false;
    }
    return mpq_build_split_as(build, in, length, n, axis, out_piece);
}

static const char *add_constant(struct mpq_build *build, const struct mpq_tensor *tensor,
                                const char *name, bool compact)
{
    if (!name)
        name = mpq_build_name(build);
    if (build->ctx->status != MPQ_OK)
        return NULL;
    Onnx__TensorProto *made = mpq_write_tensor(build->ctx, build->arena, tensor, name, compact);
    return made && mpq_build_append_initializer(build, made) ? name : NULL;
}

const char *mpq_build_constant(struct mpq_build *build, const struct mpq_tensor *tensor,
                               const char *name)
{
    return add_constant(build, tensor, name, false);
}

const char *mpq_build_keep(struct mpq_build *build, const struct mpq_tensor *tensor,
                           const char *name)
{
    return add_constant(build, tensor, name, true);
}

const char *mpq_build_shared(struct mpq_build *build, const struct mpq_tensor *tensor)
{
    size_t bytes = mpq_tensor_bytes(tensor);
    for (size_t i = 0; i < build->n_shared; i++) {
        const struct mpq_tensor *other = &build->shared[i].tensor;
        if (other->dtype == tensor->dtype && mpq_shape_equal(&other->shape, &tensor->shape) &&
            memcmp(other->data, tensor->data, bytes) == 0)
            return build->shared[i].name;
    }
    struct mpq_tensor own = *tensor;
    own.data = mpq_arena_copy(build->ctx, build->arena, tensor->data, bytes);
    struct mpq_build_shared *list =
        room(build, build->shared, build->n_shared, &build->shared_capacity, sizeof *build->shared);
    if (!own.data || !list)
        return NULL;
    build->shared = list;
    const char *name = add_constant(build, &own, NULL, true);
    if (name)
        list[build->n_shared++] = (struct mpq_build_shared){own, name};
    return name;
}

const char *mpq_build_shared_ints(struct mpq_build *build, const int64_t *value, size_t n)
{
    struct mpq_tensor tensor = {MPQ_INT64, MPQ_SHAPE((int64_t)n), NULL};
    tensor.data = mpq_arena_copy(build->ctx, build->arena, value, n * sizeof *value);
    return tensor.data ? mpq_build_shared(build, &tensor) : NULL;
}

const char *mpq_build_shared_int32(struct mpq_build *build, int32_t value)
{
    return mpq_build_shared(build, &(struct mpq_tensor){.dtype = MPQ_INT32, .data = &value});
}

const char *mpq_build_shared_uint8(struct mpq_build *build, uint8_t value)
{
    return mpq_build_shared(build, &(struct mpq_tensor){.dtype = MPQ_UINT8, .data = &value});
}

const char *mpq_build_shared_float(struct mpq_build *build, float value)
{
    return mpq_build_shared(build, &(struct mpq_tensor){.dtype = MPQ_FLOAT, .data = &value});
}
