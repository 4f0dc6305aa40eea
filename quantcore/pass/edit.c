#include "quantcore/pass/edit.h"

static enum mpq_status reserve_values(struct mpq_edit *edit)
{
    if (edit->graph->n_value <= edit->capacity)
        return MPQ_OK;
    uint32_t capacity = edit->graph->value_capacity;
    struct mpq_edit_value *value = mpq_arena_grow(edit->ctx, edit->arena, edit->value,
                                                  edit->capacity, capacity, sizeof *value);
    if (!value)
        return MPQ_E_NOMEM;
    for (uint32_t v = edit->capacity; v < capacity; v++)
        value[v] =
            (struct mpq_edit_value){.alias = v, .shape = {.rank = MPQ_RANK_UNKNOWN, .dim = {0}}};
    edit->value = value;
    edit->capacity = capacity;
    return MPQ_OK;
}

static bool has_fixed_inputs(const struct mpq_graph *graph)
{
    for (uint32_t i = 0; i < graph->n_input; i++)
        if (!mpq_shape_is_known(&graph->value[graph->input[i]].shape))
            return false;
    return true;
}

/* Shapes are a help, not a need: a graph that cannot be bound is simplified by its structure. So
 * the attempt has a ctx of its own, whose error is forgotten. */
static enum mpq_status bind_shapes(struct mpq_edit *edit)
{
    const struct mpq_graph *graph = edit->graph;
    struct mpq_ctx quiet = *edit->ctx;
    quiet.log = NULL;
    struct mpq_binding binding;
    enum mpq_status status = mpq_bind_batch(&quiet, edit->arena, graph, 1, &binding);
    edit->ctx->allocations_left = quiet.allocations_left;
    if (status == MPQ_E_NOMEM)
        return mpq_fail(edit->ctx, status, "%s", quiet.message);
    for (uint32_t v = 0; v < graph->n_value; v++) {
        edit->value[v].shape = graph->value[v].shape;
        if (status == MPQ_OK && binding.tensor[v].shape.rank >= 0)
            edit->value[v].shape = binding.tensor[v].shape;
    }
    if (status == MPQ_OK && has_fixed_inputs(graph)) {
        edit->static_value = binding.tensor;
        edit->n_static = graph->n_value;
    }
    return MPQ_OK;
}

/* A graph inside an attribute (If, Loop, Scan) may read any value of ours by its name. */
bool mpq_has_inner_graph(const struct mpq_graph *graph)
{
    for (uint32_t n = 0; n < graph->n_node; n++)
        for (size_t i = 0; i < graph->node[n].attr_set.n; i++)
            if (graph->node[n].attr_set.attr[i].kind == MPQ_ATTR_OPAQUE)
                return true;
    return false;
}

enum mpq_status mpq_edit_begin(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               const struct mpq_graph *graph, struct mpq_edit *out)
{
    struct mpq_edit edit = {.ctx = ctx, .arena = arena};
    MPQ_TRY(mpq_graph_clone(ctx, arena, graph, false, &edit.graph));
    edit.is_removed = mpq_arena_alloc(ctx, arena, graph->n_node, sizeof *edit.is_removed);
    if (!edit.is_removed)
        return MPQ_E_NOMEM;
    MPQ_TRY(reserve_values(&edit));
    for (uint32_t n = 0; n < graph->n_node; n++)
        for (uint32_t i = 0; i < graph->node[n].n_in; i++)
            if (graph->node[n].in[i] != MPQ_NO_VALUE)
                edit.value[graph->node[n].in[i]].n_read++;
    bool inner = mpq_has_inner_graph(graph);
    for (uint32_t v = 0; v < graph->n_value; v++)
        edit.value[v].is_pinned = inner;
    for (uint32_t i = 0; i < graph->n_output; i++)
        edit.value[graph->output[i]].is_output = edit.value[graph->output[i]].is_pinned = true;
    MPQ_TRY(bind_shapes(&edit));
    *out = edit;
    return MPQ_OK;
}

static enum mpq_status resolve_inputs(struct mpq_edit *edit, struct mpq_node *node)
{
    for (uint32_t i = 0; i < node->n_in; i++) {
        if (mpq_edit_resolve(edit, node->in[i]) == node->in[i])
            continue;
        mpq_value_id *in =
            mpq_arena_copy(edit->ctx, edit->arena, node->in, node->n_in * sizeof *node->in);
        if (!in)
            return MPQ_E_NOMEM;
        for (; i < node->n_in; i++)
            in[i] = mpq_edit_resolve(edit, in[i]);
        node->in = in;
    }
    return MPQ_OK;
}

enum mpq_status mpq_edit_finish(struct mpq_edit *edit, struct mpq_graph **out)
{
    struct mpq_graph *work = edit->graph, *graph;
    MPQ_TRY(mpq_graph_clone(edit->ctx, edit->arena, work, true, &graph));
    for (uint32_t n = 0; n < work->n_node; n++) {
        if (edit->is_removed[n])
            continue;
        MPQ_TRY(resolve_inputs(edit, &work->node[n]));
        MPQ_TRY(mpq_graph_add_node(edit->ctx, graph, &work->node[n], NULL));
    }
    /* Constants nobody reads any more must not reach the file. */
    for (uint32_t v = 0; v < graph->n_value; v++)
        if (edit->value[v].n_read == 0 && !edit->value[v].is_pinned)
            graph->value[v].constant = NULL;
    MPQ_TRY(mpq_graph_check(edit->ctx, graph));
    *out = graph;
    return MPQ_OK;
}

enum mpq_status mpq_edit_sweep(struct mpq_edit *edit,
                               enum mpq_status (*rewrite)(struct mpq_edit *, mpq_node_id))
{
    for (mpq_node_id n = 0; n < edit->graph->n_node; n++) {
        if (edit->is_removed[n])
            continue;
        MPQ_TRY(resolve_inputs(edit, &edit->graph->node[n]));
        MPQ_TRY(rewrite(edit, n));
    }
    return MPQ_OK;
}

mpq_value_id mpq_edit_resolve(const struct mpq_edit *edit, mpq_value_id v)
{
    while (v != MPQ_NO_VALUE && edit->value[v].alias != v)
        v = edit->value[v].alias = edit->value[edit->value[v].alias].alias;
    return v;
}

mpq_value_id mpq_edit_input(const struct mpq_edit *edit, const struct mpq_node *node, uint32_t i)
{
    return i < node->n_in ? mpq_edit_resolve(edit, node->in[i]) : MPQ_NO_VALUE;
}

const struct mpq_tensor *mpq_edit_constant(const struct mpq_edit *edit, mpq_value_id v)
{
    v = mpq_edit_resolve(edit, v);
    return v == MPQ_NO_VALUE ? NULL : edit->graph->value[v].constant;
}

const struct mpq_tensor *mpq_edit_integers(const struct mpq_edit *edit, mpq_value_id v)
{
    const struct mpq_tensor *tensor = mpq_edit_constant(edit, v);
    bool is_list = tensor && (mpq_dtype_is_integer(tensor->dtype) || tensor->dtype == MPQ_BOOL);
    return is_list ? tensor : NULL;
}

bool mpq_edit_number(const struct mpq_edit *edit, mpq_value_id v, double *out)
{
    const struct mpq_tensor *tensor = mpq_edit_constant(edit, v);
    if (!tensor || mpq_shape_count(&tensor->shape) != 1 ||
        (tensor->dtype != MPQ_FLOAT && !mpq_edit_integers(edit, v)))
        return false;
    *out = mpq_tensor_double(tensor, 0);
    return true;
}

struct mpq_node *mpq_edit_producer(const struct mpq_edit *edit, mpq_value_id v)
{
    v = mpq_edit_resolve(edit, v);
    if (v == MPQ_NO_VALUE || edit->graph->value[v].producer == MPQ_NO_NODE)
        return NULL;
    return &edit->graph->node[edit->graph->value[v].producer];
}

bool mpq_edit_is_private(const struct mpq_edit *edit, mpq_value_id v)
{
    v = mpq_edit_resolve(edit, v);
    return edit->value[v].n_read == 1 && !edit->value[v].is_pinned;
}

static void count_reads(struct mpq_edit *edit, const struct mpq_node *node, uint32_t change)
{
    for (uint32_t i = 0; i < node->n_in; i++) {
        mpq_value_id v = mpq_edit_resolve(edit, node->in[i]);
        if (v != MPQ_NO_VALUE)
            edit->value[v].n_read += change;
    }
}

void mpq_edit_remove(struct mpq_edit *edit, struct mpq_node *node)
{
    mpq_node_id id = (mpq_node_id)(node - edit->graph->node);
    MPQ_ASSERT(!edit->is_removed[id]);
    count_reads(edit, node, (uint32_t)-1);
    for (uint32_t i = 0; i < node->n_out; i++)
        if (node->out[i] != MPQ_NO_VALUE && edit->graph->value[node->out[i]].producer == id)
            edit->graph->value[node->out[i]].producer = MPQ_NO_NODE;
    edit->is_removed[id] = true;
    edit->has_changed = true;
}

enum mpq_status mpq_edit_set_inputs(struct mpq_edit *edit, struct mpq_node *node, uint32_t n,
                                    const mpq_value_id *in)
{
    mpq_value_id *copy = mpq_arena_copy(edit->ctx, edit->arena, in, n * sizeof *in);
    if (!copy)
        return MPQ_E_NOMEM;
    count_reads(edit, node, (uint32_t)-1);
    node->in = copy;
    node->n_in = n;
    count_reads(edit, node, 1);
    edit->has_changed = true;
    return MPQ_OK;
}

enum mpq_status mpq_edit_set_input(struct mpq_edit *edit, struct mpq_node *node, uint32_t i,
                                   mpq_value_id v)
{
    mpq_value_id *in = mpq_arena_copy(edit->ctx, edit->arena, node->in, node->n_in * sizeof *in);
    if (!in)
        return MPQ_E_NOMEM;
    in[i] = v;
    return mpq_edit_set_inputs(edit, node, node->n_in, in);
}

enum mpq_status mpq_edit_set_output(struct mpq_edit *edit, struct mpq_node *node, mpq_value_id v)
{
    MPQ_ASSERT(node->n_out == 1 && edit->graph->value[v].producer == MPQ_NO_NODE);
    mpq_value_id *out = mpq_arena_copy(edit->ctx, edit->arena, &v, sizeof v);
    if (!out)
        return MPQ_E_NOMEM;
    edit->graph->value[node->out[0]].producer = MPQ_NO_NODE;
    node->out = out;
    edit->graph->value[v].producer = (mpq_node_id)(node - edit->graph->node);
    edit->has_changed = true;
    return MPQ_OK;
}

enum mpq_status mpq_edit_place(struct mpq_edit *edit, struct mpq_node *slot,
                               const struct mpq_node *node)
{
    mpq_node_id id = (mpq_node_id)(slot - edit->graph->node);
    MPQ_ASSERT(edit->is_removed[id]);
    *slot = *node;
    slot->in = mpq_arena_copy(edit->ctx, edit->arena, node->in, node->n_in * sizeof *node->in);
    slot->out = mpq_arena_copy(edit->ctx, edit->arena, node->out, node->n_out * sizeof *node->out);
    if (!slot->in || !slot->out)
        return MPQ_E_NOMEM;
    count_reads(edit, slot, 1);
    for (uint32_t i = 0; i < slot->n_out; i++)
        if (slot->out[i] != MPQ_NO_VALUE)
            edit->graph->value[slot->out[i]].producer = id;
    edit->is_removed[id] = false;
    edit->has_changed = true;
    return MPQ_OK;
}

enum mpq_status mpq_edit_set_attr(struct mpq_edit *edit, struct mpq_node *node,
                                  const struct mpq_attr *attr)
{
    edit->has_changed = true;
    return mpq_attr_set_with(edit->ctx, edit->arena, &node->attr_set, attr, &node->attr_set);
}

/* `to` is to be called `from`, the name of a graph output: its producer writes `from` directly. */
static enum mpq_status rename_output(struct mpq_edit *edit, mpq_value_id from, mpq_value_id to,
                                     struct mpq_node *producer)
{
    mpq_value_id *out = mpq_arena_copy(edit->ctx, edit->arena, producer->out,
                                       producer->n_out * sizeof *producer->out);
    if (!out)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < producer->n_out; i++)
        if (out[i] == to)
            out[i] = from;
    producer->out = out;
    edit->graph->value[from].producer = edit->graph->value[to].producer;
    edit->graph->value[to].producer = MPQ_NO_NODE;
    return MPQ_OK;
}

enum mpq_status mpq_edit_bypass(struct mpq_edit *edit, mpq_value_id from, mpq_value_id to,
                                bool *out_done)
{
    struct mpq_node *producer = mpq_edit_producer(edit, to);
    *out_done = !edit->value[from].is_pinned || (producer && !edit->value[to].is_pinned);
    if (!*out_done)
        return MPQ_OK;
    mpq_edit_remove(edit, mpq_edit_producer(edit, from));
    if (edit->value[from].is_pinned) {
        MPQ_TRY(rename_output(edit, from, to, producer));
        mpq_value_id kept = from;
        from = to;
        to = kept;
    }
    edit->value[to].n_read += edit->value[from].n_read;
    edit->value[from].n_read = 0;
    edit->value[from].alias = to;
    return MPQ_OK;
}

enum mpq_status mpq_edit_new_constant(struct mpq_edit *edit, mpq_value_id old,
                                      const struct mpq_tensor *tensor, mpq_value_id *out)
{
    old = mpq_edit_resolve(edit, old);
    edit->has_changed = true;
    mpq_value_id id = old;
    if (mpq_edit_is_private(edit, old)) {
        struct mpq_value *value = &edit->graph->value[old];
        value->constant = mpq_arena_copy(edit->ctx, edit->arena, tensor, sizeof *tensor);
        if (!value->constant)
            return MPQ_E_NOMEM;
        value->dtype = tensor->dtype;
        value->shape = tensor->shape;
        value->dim_param = NULL;
    } else {
        MPQ_TRY(mpq_graph_add_constant(edit->ctx, edit->graph, edit->graph->value[old].name, tensor,
                                       &id));
        MPQ_TRY(reserve_values(edit));
    }
    edit->value[id].shape = tensor->shape;
    *out = id;
    return MPQ_OK;
}

enum mpq_status mpq_edit_new_value(struct mpq_edit *edit, const char *stem, enum mpq_dtype dtype,
                                   const struct mpq_shape *shape, mpq_value_id *out)
{
    mpq_value_id id;
    MPQ_TRY(mpq_graph_add_unique(edit->ctx, edit->graph, stem, &id));
    MPQ_TRY(reserve_values(edit));
    edit->graph->value[id].dtype = dtype;
    edit->value[id].shape = *shape;
    *out = id;
    return MPQ_OK;
}
