/* Which activations are quantized, so that a runtime finds whole integer regions and nothing is
 * quantized that no integer kernel reads. */
#include "quantcore/pass/pass.h"

#include <string.h>

/* Operators besides the layers that runtimes have integer kernels for. A mover's output elements
 * are input elements (or zeros): it needs one scale on both sides. */
static const struct integer_op {
    const char *op_type;
    int n_data; /* inputs that are activations; -1: all */
    bool is_mover;
} integer_ops[] = {
    {"Add", 2, false},
    {"Mul", 2, false},
    {"Concat", -1, false},
    {"AveragePool", 1, false},
    {"GlobalAveragePool", 1, false},
    {"Relu", 1, false},
    {"Clip", 1, false},
    {"MaxPool", 1, true},
    {"Reshape", 1, true},
    {"Flatten", 1, true},
    {"Transpose", 1, true},
    {"Squeeze", 1, true},
    {"Unsqueeze", 1, true},
    {"Slice", 1, true},
    {"Pad", 1, true},
    {"Resize", 1, true},
};

struct planner {
    struct mpq_ctx *ctx;
    struct mpq_arena *arena;
    const struct mpq_graph *graph;
    const struct mpq_binding *binding;
    const struct mpq_layer_table *layers;
    struct mpq_act_rules rules;
    struct mpq_uses uses;
    const struct integer_op **op; /* [n_node] NULL: runs in float                            */
    mpq_value_id *output;         /* [n_node] where op: its output after a fused activation  */
    bool *is_absorbed;            /* [n_node] the activation fused into another node         */
    bool *is_fixed;               /* [n_value] without which a layer has no integer kernel   */
    bool *is_quantized;           /* [n_value] */
    mpq_value_id *parent;         /* [n_value] union-find of groups                          */
};

static const struct mpq_tensor *constant_input(const struct planner *p, const struct mpq_node *node,
                                               uint32_t i)
{
    if (i >= node->n_in || node->in[i] == MPQ_NO_VALUE)
        return NULL;
    const struct mpq_tensor *tensor = &p->binding->tensor[node->in[i]];
    return tensor->data ? tensor : NULL;
}

static uint32_t n_data(const struct planner *p, mpq_node_id n)
{
    int count = p->op[n]->n_data;
    return count < 0 ? p->graph->node[n].n_in : (uint32_t)count;
}

/* Constants and everything that is not float stay as they are. */
static bool can_quantize(const struct planner *p, mpq_value_id v)
{
    return v != MPQ_NO_VALUE && p->binding->tensor[v].dtype == MPQ_FLOAT &&
           !p->binding->tensor[v].data && !(p->rules.stays_float && p->rules.stays_float[v]);
}

/* Only the plain forms of Pad and Resize move elements. */
static bool is_plain(const struct planner *p, const struct mpq_node *node)
{
    if (mpq_node_is(node, "Resize"))
        return strcmp(mpq_attr_string(&node->attr_set, "mode", "nearest"), "nearest") == 0 &&
               strcmp(mpq_attr_string(&node->attr_set, "coordinate_transformation_mode", ""),
                      "tf_crop_and_resize") != 0;
    if (!mpq_node_is(node, "Pad") || node->n_in < 3 || node->in[2] == MPQ_NO_VALUE ||
        strcmp(mpq_attr_string(&node->attr_set, "mode", "constant"), "constant") != 0)
        return true;
    const struct mpq_tensor *filler = constant_input(p, node, 2);
    return filler && filler->dtype == MPQ_FLOAT && mpq_shape_count(&filler->shape) == 1 &&
           mpq_tensor_double(filler, 0) == 0;
}

static const struct integer_op *find_integer_op(const struct planner *p,
                                                const struct mpq_node *node)
{
    if (node->n_out == 0 || node->n_in == 0)
        return NULL;
    for (uint32_t i = 1; i < node->n_out; i++) /* MaxPool with indices has no integer kernel */
        if (node->out[i] != MPQ_NO_VALUE)
            return NULL;
    for (size_t i = 0; i < MPQ_COUNT(integer_ops); i++)
        if (mpq_node_is(node, integer_ops[i].op_type))
            return is_plain(p, node) ? &integer_ops[i] : NULL;
    return NULL;
}

/* Arithmetic whose only reader is a Relu or Clip is quantized after it: the runtime drops the
 * activation, since quantizing saturates just there. */
static mpq_value_id activated_output(const struct planner *p, mpq_node_id n)
{
    mpq_value_id y = p->graph->node[n].out[0];
    mpq_node_id reader = p->op[n]->is_mover ? MPQ_NO_NODE : mpq_uses_single(&p->uses, y);
    if (reader == MPQ_NO_NODE)
        return y;
    const struct mpq_node *node = &p->graph->node[reader];
    bool is_activation =
        mpq_node_is(node, "Relu") || (mpq_node_is(node, "Clip") && node->in[0] == y);
    return is_activation ? node->out[0] : y;
}

static bool inputs_are_quantized(const struct planner *p, mpq_node_id n)
{
    for (uint32_t i = 0; i < n_data(p, n); i++) {
        mpq_value_id v = p->graph->node[n].in[i];
        if (v == MPQ_NO_VALUE || !p->is_quantized[v])
            return false;
    }
    return true;
}

/* Whether node n runs on integers, as things stand: inputs and output quantized. */
static bool is_integer(const struct planner *p, mpq_node_id n)
{
    return p->op[n] && p->is_quantized[p->output[n]] && inputs_are_quantized(p, n);
}

static bool has_integer_reader(const struct planner *p, mpq_value_id v)
{
    for (uint32_t i = p->uses.first[v]; i < p->uses.first[v + 1]; i++)
        if (is_integer(p, p->uses.node[i]))
            return true;
    return false;
}

/* Begin with every candidate quantized and take away what has no integer producer or no integer
 * reader until that holds for all: forwards for the former, backwards for the latter. */
static void settle(struct planner *p)
{
    bool has_changed = true;
    while (has_changed) {
        has_changed = false;
        for (uint32_t step = 0; step < 2 * p->graph->n_node; step++) {
            mpq_node_id n = step < p->graph->n_node ? step : 2 * p->graph->n_node - 1 - step;
            if (!p->op[n])
                continue;
            mpq_value_id y = p->output[n];
            if (!p->is_quantized[y] || p->is_fixed[y])
                continue;
            if (inputs_are_quantized(p, n) && has_integer_reader(p, y))
                continue;
            p->is_quantized[y] = false;
            has_changed = true;
        }
        for (uint32_t l = 0; l < p->layers->n_layer; l++) {
            mpq_value_id y = p->layers->layer[l].y;
            if (!p->is_quantized[y] || p->is_fixed[y] || has_integer_reader(p, y))
                continue;
            p->is_quantized[y] = false;
            has_changed = true;
        }
    }
}

/* What integer kernels make of a product may be float; of a convolution they make integers. */
static bool needs_output(const struct mpq_graph *graph, struct mpq_act_rules rules,
                         const struct mpq_layer *layer)
{
    return rules.quantizes_outputs || mpq_node_is(&graph->node[layer->node], "Conv");
}

/* The input of an integer layer is quantized, and so is its output where the kernel needs it; else
 * that is up to its readers. The activation fused into the layer is none of them. */
static void propose_layer(struct planner *p, const struct mpq_layer *layer)
{
    mpq_node_id last = p->graph->value[layer->y].producer;
    if (layer->is_weight_only)
        return;
    p->is_fixed[layer->x] = p->is_quantized[layer->x] = can_quantize(p, layer->x);
    p->is_quantized[layer->y] = can_quantize(p, layer->y);
    if (needs_output(p->graph, p->rules, layer))
        p->is_fixed[layer->y] = p->is_quantized[layer->y];
    if (last != layer->node)
        p->is_absorbed[last] = true;
}

static void propose(struct planner *p)
{
    for (uint32_t l = 0; l < p->layers->n_layer; l++)
        propose_layer(p, &p->layers->layer[l]);
    for (mpq_node_id n = 0; n < p->graph->n_node; n++) {
        bool is_float = p->binding->is_folded[n] || p->is_absorbed[n];
        p->op[n] = is_float ? NULL : find_integer_op(p, &p->graph->node[n]);
        if (!p->op[n])
            continue;
        p->output[n] = activated_output(p, n);
        if (p->output[n] != p->graph->node[n].out[0])
            p->is_absorbed[p->graph->value[p->output[n]].producer] = true;
        if (can_quantize(p, p->output[n]) && !p->uses.is_output[p->output[n]])
            p->is_quantized[p->output[n]] = true;
    }
}

static mpq_value_id find(struct planner *p, mpq_value_id v)
{
    while (p->parent[v] != v)
        v = p->parent[v] = p->parent[p->parent[v]];
    return v;
}

/* The smaller id leads, so that the result does not depend on the order of unions. */
static void unite(struct planner *p, mpq_value_id a, mpq_value_id b)
{
    a = find(p, a);
    b = find(p, b);
    if (a != b)
        p->parent[a < b ? b : a] = a < b ? a : b;
}

/* A Concat shares one scale with its inputs where it alone reads them: then nobody else pays for
 * the wider range, and the Concat need not requantize. */
static bool owns_inputs(const struct planner *p, const struct mpq_node *concat)
{
    for (uint32_t i = 0; i < concat->n_in; i++)
        if (mpq_uses_single(&p->uses, concat->in[i]) == MPQ_NO_NODE ||
            p->graph->value[concat->in[i]].producer == MPQ_NO_NODE)
            return false;
    return true;
}

static void group_values(struct planner *p, bool *lossless)
{
    for (mpq_value_id v = 0; v < p->graph->n_value; v++)
        p->parent[v] = v;
    for (mpq_node_id n = 0; n < p->graph->n_node; n++) {
        if (!is_integer(p, n))
            continue;
        const struct mpq_node *node = &p->graph->node[n];
        bool is_shared =
            p->op[n]->is_mover || (mpq_node_is(node, "Concat") && owns_inputs(p, node));
        for (uint32_t i = 0; i < n_data(p, n) && is_shared; i++)
            unite(p, node->in[i], node->out[0]);
        lossless[node->out[0]] = is_shared && p->output[n] == node->out[0];
    }
}

static enum mpq_status alloc_planner(struct planner *p, struct mpq_act_plan *plan)
{
    uint32_t n_value = p->graph->n_value, n_node = p->graph->n_node;
    p->op = mpq_arena_alloc(p->ctx, p->arena, n_node, sizeof *p->op);
    p->output = mpq_arena_alloc(p->ctx, p->arena, n_node, sizeof *p->output);
    p->is_absorbed = mpq_arena_alloc(p->ctx, p->arena, n_node, sizeof *p->is_absorbed);
    p->is_fixed = mpq_arena_alloc(p->ctx, p->arena, n_value, sizeof *p->is_fixed);
    p->is_quantized = mpq_arena_alloc(p->ctx, p->arena, n_value, sizeof *p->is_quantized);
    p->parent = mpq_arena_alloc(p->ctx, p->arena, n_value, sizeof *p->parent);
    plan->group = mpq_arena_alloc(p->ctx, p->arena, n_value, sizeof *plan->group);
    plan->lossless = mpq_arena_alloc(p->ctx, p->arena, n_value, sizeof *plan->lossless);
    if (!p->op || !p->output || !p->is_absorbed || !p->is_fixed || !p->is_quantized || !p->parent ||
        !plan->group || !plan->lossless)
        return MPQ_E_NOMEM;
    return MPQ_OK;
}

enum mpq_status mpq_act_plan_build(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_graph *graph, const struct mpq_binding *binding,
                                   const struct mpq_layer_table *layers, struct mpq_act_rules rules,
                                   struct mpq_act_plan *out)
{
    struct planner p = {.ctx = ctx,
                        .arena = arena,
                        .graph = graph,
                        .binding = binding,
                        .layers = layers,
                        .rules = rules};
    struct mpq_act_plan plan = {.n_value = graph->n_value};
    MPQ_TRY(mpq_graph_uses(ctx, arena, graph, &p.uses));
    MPQ_TRY(alloc_planner(&p, &plan));
    propose(&p);
    settle(&p);
    group_values(&p, plan.lossless);
    for (mpq_value_id v = 0; v < graph->n_value; v++)
        plan.group[v] = MPQ_NO_GROUP;
    for (mpq_value_id v = 0; v < graph->n_value; v++) { /* leaders come before their group */
        if (!p.is_quantized[v])
            continue;
        mpq_value_id leader = find(&p, v);
        plan.group[v] = leader == v ? plan.n_group++ : plan.group[leader];
    }
    *out = plan;
    return MPQ_OK;
}

void mpq_layers_leave_float(const struct mpq_graph *graph, struct mpq_act_rules rules,
                            struct mpq_layer_table *layers)
{
    for (uint32_t l = 0; l < layers->n_layer && rules.stays_float; l++) {
        struct mpq_layer *layer = &layers->layer[l];
        if (!layer->is_weight_only &&
            (rules.stays_float[layer->x] ||
             (rules.stays_float[layer->y] && needs_output(graph, rules, layer))))
            layer->is_weight_only = true;
    }
}
