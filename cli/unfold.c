#include "cli/unfold.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "importer/import.h"
#include "quantcore/pass/bind.h"

/* NAME=INTEGER,...: the data of those inputs. value [n_input] */
static enum mpq_status read_values(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_graph *graph, const char *text, void **value)
{
    while (text && *text) {
        const char *equals = strchr(text, '=');
        char *end = NULL;
        errno = 0;
        long long number = equals ? strtoll(equals + 1, &end, 10) : 0;
        uint32_t i = 0;
        if (!equals || end == equals + 1 || (*end && *end != ',') || errno)
            return mpq_fail(ctx, MPQ_E_USAGE, "--input-value: '%s' is not NAME=INTEGER", text);
        for (; i < graph->n_input; i++) {
            const char *name = graph->value[graph->input[i]].name;
            if (strlen(name) == (size_t)(equals - text) && !strncmp(name, text, strlen(name)))
                break;
        }
        const struct mpq_value *input = i < graph->n_input ? &graph->value[graph->input[i]] : NULL;
        bool is_integer = input && (mpq_dtype_is_integer(input->dtype) || input->dtype == MPQ_BOOL);
        if (!is_integer || !mpq_shape_is_known(&input->shape) ||
            mpq_shape_count(&input->shape) != 1)
            return mpq_fail(ctx, MPQ_E_USAGE,
                            "--input-value: '%.*s' is no input of one integer or bool",
                            (int)(equals - text), text);
        struct mpq_tensor tensor;
        MPQ_TRY(mpq_tensor_alloc(ctx, arena, input->dtype, &input->shape, &tensor));
        mpq_tensor_set_int(&tensor, 0, number);
        if (input->dtype != MPQ_BOOL && mpq_tensor_int(&tensor, 0) != number)
            return mpq_fail(ctx, MPQ_E_USAGE, "--input-value: %lld is beyond the %s of '%s'",
                            number, mpq_dtype_name(input->dtype), input->name);
        value[i] = tensor.data;
        text = *end ? end + 1 : end;
    }
    return MPQ_OK;
}

/* The graph at two batches, as far as it can be bound at each. */
struct view {
    struct mpq_binding binding[2];
};

static enum mpq_status look(struct mpq_ctx *ctx, struct mpq_arena *arena,
                            const struct mpq_graph *graph, void *const *value, struct view *out)
{
    struct mpq_shape *shape = mpq_arena_alloc(ctx, arena, graph->n_input, sizeof *shape);
    if (!shape)
        return MPQ_E_NOMEM;
    for (int64_t batch = 1; batch <= 2; batch++) {
        struct mpq_ctx quiet = *ctx;
        if (mpq_bind_shapes(&quiet, graph, batch, shape) != MPQ_OK)
            for (uint32_t i = 0; i < graph->n_input; i++)
                shape[i] = graph->value[graph->input[i]].shape;
        MPQ_TRY(mpq_bind_partly(ctx, arena, graph, shape, value, &out->binding[batch - 1]));
    }
    return MPQ_OK;
}

/* One integer or bool that is known and, as far as can be told, the same at every batch. */
static bool known_number(const struct view *view, mpq_value_id v, int64_t *out)
{
    int64_t number[2];
    int n = 0;
    if (v == MPQ_NO_VALUE)
        return false;
    for (int i = 0; i < 2; i++) {
        const struct mpq_tensor *tensor = &view->binding[i].tensor[v];
        if (tensor->data && (mpq_dtype_is_integer(tensor->dtype) || tensor->dtype == MPQ_BOOL) &&
            mpq_shape_count(&tensor->shape) == 1)
            number[n++] = mpq_tensor_int(tensor, 0);
        else if (i == 0)
            return false;
    }
    if (n == 2 && number[0] != number[1])
        return false;
    *out = number[0];
    return true;
}

static struct mpq_unfolding unfold_if(const struct view *view, const struct mpq_node *node)
{
    int64_t condition;
    if (node->n_in != 1 || !known_number(view, node->in[0], &condition))
        return (struct mpq_unfolding){MPQ_UNFOLD_NOT, 0};
    return (struct mpq_unfolding){condition ? MPQ_UNFOLD_THEN : MPQ_UNFOLD_ELSE, 0};
}

static struct mpq_unfolding unfold_loop(const struct view *view, const struct mpq_node *node)
{
    const struct mpq_unfolding none = {MPQ_UNFOLD_NOT, 0};
    int64_t count, condition = 1;
    mpq_value_id asks = node->n_in > 1 ? node->in[1] : MPQ_NO_VALUE;
    bool is_known = asks == MPQ_NO_VALUE || known_number(view, asks, &condition);
    if (is_known && !condition)
        return (struct mpq_unfolding){MPQ_UNFOLD_REPEAT, 0};
    if (node->n_in == 0 || !known_number(view, node->in[0], &count) || count > MPQ_LIMIT_ITERATIONS)
        return none;
    return (struct mpq_unfolding){is_known ? MPQ_UNFOLD_REPEAT : MPQ_UNFOLD_WHILE,
                                  count < 0 ? 0 : count};
}

/* As often as the first input that it walks along is long. */
static struct mpq_unfolding unfold_scan(const struct view *view, const struct mpq_node *node)
{
    const struct mpq_unfolding none = {MPQ_UNFOLD_NOT, 0};
    int64_t n_walked = mpq_attr_int(&node->attr_set, "num_scan_inputs", 0);
    size_t n_axis;
    const int64_t *axes = mpq_attr_ints(&node->attr_set, "scan_input_axes", &n_axis);
    if (n_walked < 1 || n_walked > node->n_in)
        return none;
    mpq_value_id walked = node->in[node->n_in - (uint32_t)n_walked];
    int64_t length[2] = {-1, -1};
    for (int i = 0; i < 2 && walked != MPQ_NO_VALUE; i++) {
        const struct mpq_shape *shape = &view->binding[i].tensor[walked].shape;
        int64_t axis = n_axis ? axes[0] : 0;
        axis += axis < 0 ? shape->rank : 0;
        if (mpq_shape_is_known(shape) && axis >= 0 && axis < shape->rank)
            length[i] = shape->dim[axis];
    }
    if (length[0] < 0 || length[0] > MPQ_LIMIT_ITERATIONS ||
        (length[1] >= 0 && length[1] != length[0]))
        return none;
    return (struct mpq_unfolding){MPQ_UNFOLD_REPEAT, length[0]};
}

static struct mpq_unfolding choose(const struct view *view, const struct mpq_node *node)
{
    if (mpq_node_is(node, "If"))
        return unfold_if(view, node);
    if (mpq_node_is(node, "Loop"))
        return unfold_loop(view, node);
    if (mpq_node_is(node, "Scan"))
        return unfold_scan(view, node);
    return (struct mpq_unfolding){MPQ_UNFOLD_NOT, 0};
}

static void tell(struct mpq_ctx *ctx, const struct mpq_node *node,
                 const struct mpq_unfolding *unfolding)
{
    switch (unfolding->how) {
    case MPQ_UNFOLD_NOT:
        break;
    case MPQ_UNFOLD_THEN:
    case MPQ_UNFOLD_ELSE:
        mpq_log(ctx, MPQ_LOG_INFO, "If '%s' takes its %s branch", node->name,
                unfolding->how == MPQ_UNFOLD_THEN ? "then" : "else");
        break;
    case MPQ_UNFOLD_BOTH:
        mpq_log(ctx, MPQ_LOG_INFO, "If '%s' depends on data: both branches are computed",
                node->name);
        break;
    default:
        mpq_log(ctx, MPQ_LOG_INFO, "%s '%s' is written out %" PRId64 " times", node->op_type,
                node->name, unfolding->n);
    }
}

/* A condition of a known shape is computed from data; one without may be known later on. */
static bool depends_on_data(const struct view *view, const struct mpq_node *node)
{
    if (!mpq_node_is(node, "If") || node->n_in != 1 || node->in[0] == MPQ_NO_VALUE)
        return false;
    const struct mpq_tensor *condition = &view->binding[0].tensor[node->in[0]];
    return mpq_shape_is_known(&condition->shape) && mpq_shape_count(&condition->shape) == 1;
}

/* Names of what Where chooses between, where an If depended on data. */
struct chosen {
    const char **name;
    uint32_t n, capacity;
};

static enum mpq_status remember(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                const struct mpq_graph *graph, const struct mpq_node *node,
                                struct chosen *chosen)
{
    for (uint32_t i = 0; i < node->n_out; i++) {
        if (node->out[i] == MPQ_NO_VALUE)
            continue;
        if (chosen->n == chosen->capacity) {
            chosen->capacity = 2 * chosen->n + 8;
            chosen->name = mpq_arena_grow(ctx, arena, chosen->name, chosen->n, chosen->capacity,
                                          sizeof *chosen->name);
            if (!chosen->name)
                return MPQ_E_NOMEM;
        }
        chosen->name[chosen->n++] = graph->value[node->out[i]].name;
    }
    return MPQ_OK;
}

/* Where would broadcast one branch to the shape of the other. */
static enum mpq_status check_chosen(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_graph *graph, void *const *value,
                                    const struct chosen *chosen)
{
    struct view view;
    if (chosen->n)
        MPQ_TRY(look(ctx, arena, graph, value, &view));
    for (uint32_t i = 0; i < chosen->n; i++) {
        mpq_value_id v = mpq_graph_find(graph, chosen->name[i]);
        if (v == MPQ_NO_VALUE || graph->value[v].producer == MPQ_NO_NODE)
            continue;
        const struct mpq_node *node = &graph->node[graph->value[v].producer];
        const struct mpq_tensor *tensor = view.binding[0].tensor;
        if (mpq_node_is(node, "Where") && node->n_in == 3 &&
            mpq_shape_is_known(&tensor[node->in[1]].shape) &&
            mpq_shape_is_known(&tensor[node->in[2]].shape) &&
            !mpq_shape_equal(&tensor[node->in[1]].shape, &tensor[node->in[2]].shape))
            return mpq_fail(ctx, MPQ_E_UNSUPPORTED,
                            "the shape of '%s' depends on data: an If gives %s or %s",
                            chosen->name[i], MPQ_SHAPE_TEXT(&tensor[node->in[1]].shape),
                            MPQ_SHAPE_TEXT(&tensor[node->in[2]].shape));
    }
    return MPQ_OK;
}

static bool has_bodies(const struct mpq_graph *graph)
{
    for (uint32_t n = 0; n < graph->n_node; n++)
        if (mpq_node_is(&graph->node[n], "If") || mpq_node_is(&graph->node[n], "Loop") ||
            mpq_node_is(&graph->node[n], "Scan"))
            return true;
    return false;
}

/* One round: what is known now, or, where nothing new is, Ifs that depend on data. */
static enum mpq_status unfold_round(struct mpq_ctx *ctx, struct mpq_arena *arena, bool must_run,
                                    void *const *value, struct chosen *chosen,
                                    struct mpq_graph **graph, bool *out_any)
{
    const struct mpq_graph *before = *graph;
    struct mpq_unfolding *unfolding =
        mpq_arena_alloc(ctx, arena, before->n_node, sizeof *unfolding);
    struct view view;
    if (!unfolding)
        return MPQ_E_NOMEM;
    MPQ_TRY(look(ctx, arena, before, value, &view));
    *out_any = false;
    for (uint32_t n = 0; n < before->n_node; n++) {
        unfolding[n] = choose(&view, &before->node[n]);
        *out_any |= unfolding[n].how != MPQ_UNFOLD_NOT;
    }
    for (uint32_t n = 0; n < before->n_node && must_run && !*out_any; n++)
        if (depends_on_data(&view, &before->node[n])) {
            unfolding[n].how = MPQ_UNFOLD_BOTH;
            MPQ_TRY(remember(ctx, arena, before, &before->node[n], chosen));
            *out_any = true;
        }
    for (uint32_t n = 0; n < before->n_node; n++)
        tell(ctx, &before->node[n], &unfolding[n]);
    return *out_any ? mpq_import_unfolded(ctx, arena, before, unfolding, graph) : MPQ_OK;
}

enum mpq_status mpq_unfold(struct mpq_ctx *ctx, struct mpq_arena *arena,
                           const struct mpq_options *options, struct mpq_graph **graph)
{
    struct chosen chosen = {0};
    void **value = mpq_arena_alloc(ctx, arena, (*graph)->n_input, sizeof *value);
    if (!value)
        return MPQ_E_NOMEM;
    MPQ_TRY(read_values(ctx, arena, *graph, options->input_value, value));
    for (bool any = true; any && has_bodies(*graph);)
        MPQ_TRY(unfold_round(ctx, arena, !options->weights_only, value, &chosen, graph, &any));
    return check_chosen(ctx, arena, *graph, value, &chosen);
}
