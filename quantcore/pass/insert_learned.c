/* The graph that a supernet with learned steps is trained on. */
#include "quantcore/pass/pass.h"

struct inserter {
    struct mpq_ctx *ctx;
    const struct mpq_graph *from;
    struct mpq_uses uses;
    struct mpq_graph *to;
    struct mpq_learned_layer **layer_of; /* [n_node of from] the layer whose input is quantized  */
    struct mpq_learned_layer **norm_of;  /* [n_node of from] the layer it normalizes, or NULL    */
};

static bool is_parameter(const struct mpq_graph *graph, mpq_value_id v, int64_t n)
{
    const struct mpq_tensor *constant = graph->value[v].constant;
    return constant && constant->dtype == MPQ_FLOAT && mpq_shape_count(&constant->shape) == n;
}

/* The BatchNormalization that alone reads the output of the layer's node, or NO_NODE. */
static mpq_node_id find_norm(const struct inserter *s, const struct mpq_layer *layer)
{
    mpq_value_id y = s->from->node[layer->node].out[0];
    mpq_node_id reader = mpq_uses_single(&s->uses, y);
    if (reader == MPQ_NO_NODE || !mpq_node_is(&s->from->node[reader], "BatchNormalization"))
        return MPQ_NO_NODE;
    const struct mpq_node *norm = &s->from->node[reader];
    bool is_plain = norm->in[0] == y && !mpq_attr_int(&norm->attr_set, "training_mode", 0);
    for (uint32_t i = 1; i < norm->n_out; i++)
        is_plain = is_plain && norm->out[i] == MPQ_NO_VALUE;
    for (uint32_t i = 1; i < 5; i++)
        is_plain = is_plain && is_parameter(s->from, norm->in[i], layer->n_channel);
    return is_plain ? reader : MPQ_NO_NODE;
}

static enum mpq_status add_float_value(struct inserter *s, const char *of, const char *suffix,
                                       mpq_value_id *out)
{
    char *stem = mpq_arena_printf(s->ctx, s->to->arena, "%s_%s", of, suffix);
    if (!stem)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_graph_add_unique(s->ctx, s->to, stem, out));
    s->to->value[*out].dtype = MPQ_FLOAT;
    return MPQ_OK;
}

/* *inout_x = LearnedFakeQuant(*inout_x, step). */
static enum mpq_status quantize_input(struct inserter *s, struct mpq_learned_layer *layer,
                                      mpq_value_id *inout_x)
{
    const char *name = s->from->value[*inout_x].name;
    struct mpq_tensor step;
    mpq_value_id quantized;
    MPQ_TRY(mpq_tensor_alloc(s->ctx, s->to->arena, MPQ_FLOAT, &MPQ_SHAPE(1), &step));
    mpq_tensor_set_double(&step, 0, 1);
    MPQ_TRY(mpq_graph_add_constant(s->ctx, s->to, "step", &step, &layer->input_step));
    MPQ_TRY(add_float_value(s, name, "quantized", &quantized));
    struct mpq_node node = {.name = s->to->value[quantized].name,
                            .op_type = "LearnedFakeQuant",
                            .domain = "onnx_mpq",
                            .op = mpq_op_find("onnx_mpq", "LearnedFakeQuant"),
                            .attrs = &layer->input_range,
                            .n_in = 2,
                            .n_out = 1,
                            .in = (mpq_value_id[]){*inout_x, layer->input_step},
                            .out = &quantized,
                            .source = MPQ_NO_NODE};
    MPQ_TRY(mpq_graph_add_node(s->ctx, s->to, &node, &layer->first));
    *inout_x = quantized;
    return MPQ_OK;
}

/* The same normalization by the statistics of the batch, with parameters that nobody shares. */
static enum mpq_status train_norm(struct inserter *s, struct mpq_learned_layer *layer,
                                  struct mpq_node *node)
{
    mpq_value_id *in =
        mpq_arena_copy(s->ctx, s->to->arena, node->in, node->n_in * sizeof *node->in);
    mpq_value_id out[3] = {node->out[0]};
    const struct mpq_attr attr[] = {
        {.name = "training_mode", .kind = MPQ_ATTR_INT, .i = 1},
        {.name = "momentum", .kind = MPQ_ATTR_FLOAT, .f = 0},
    };
    if (!in)
        return MPQ_E_NOMEM;
    for (uint32_t i = 1; i < 5; i++) {
        const struct mpq_value *value = &s->from->value[in[i]];
        layer->norm[i - 1] = value->constant;
        MPQ_TRY(mpq_graph_add_constant(s->ctx, s->to, value->name, value->constant, &in[i]));
    }
    layer->y = node->out[0];
    layer->gamma = in[1];
    layer->beta = in[2];
    layer->epsilon = (double)mpq_attr_float(&node->attr_set, "epsilon", 1e-5f);
    const char *name = s->from->value[layer->y].name;
    MPQ_TRY(add_float_value(s, name, "mean", &layer->batch_mean));
    MPQ_TRY(add_float_value(s, name, "var", &layer->batch_var));
    out[1] = layer->batch_mean;
    out[2] = layer->batch_var;
    node->in = in;
    node->n_out = 3;
    node->out = out;
    for (size_t i = 0; i < MPQ_COUNT(attr); i++)
        MPQ_TRY(
            mpq_attr_set_with(s->ctx, s->to->arena, &node->attr_set, &attr[i], &node->attr_set));
    MPQ_TRY(mpq_op_resolve(s->ctx, s->to->arena, node));
    return mpq_graph_add_node(s->ctx, s->to, node, NULL);
}

static enum mpq_status add_node(struct inserter *s, mpq_node_id id)
{
    struct mpq_node node = s->from->node[id];
    struct mpq_learned_layer *layer = s->layer_of[id];
    if (s->norm_of[id])
        return train_norm(s, s->norm_of[id], &node);
    if (!layer)
        return mpq_graph_add_node(s->ctx, s->to, &node, NULL);
    mpq_value_id *in = mpq_arena_copy(s->ctx, s->to->arena, node.in, node.n_in * sizeof *node.in);
    if (!in)
        return MPQ_E_NOMEM;
    node.in = in;
    MPQ_TRY(quantize_input(s, layer, &in[0]));
    return mpq_graph_add_node(s->ctx, s->to, &node, NULL);
}

enum mpq_status mpq_insert_learned(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_graph *graph,
                                   const struct mpq_layer_table *layers,
                                   struct mpq_learned_layer *layer, struct mpq_graph **out)
{
    struct inserter s = {.ctx = ctx, .from = graph};
    MPQ_TRY(mpq_graph_clone(ctx, arena, graph, true, &s.to));
    MPQ_TRY(mpq_graph_uses(ctx, arena, graph, &s.uses));
    s.layer_of = mpq_arena_alloc(ctx, arena, graph->n_node, sizeof(struct mpq_learned_layer *));
    s.norm_of = mpq_arena_alloc(ctx, arena, graph->n_node, sizeof(struct mpq_learned_layer *));
    if (!s.layer_of || !s.norm_of)
        return MPQ_E_NOMEM;
    for (uint32_t l = 0; l < layers->n_layer; l++) {
        const struct mpq_layer *shape = &layers->layer[l];
        mpq_node_id norm = shape->is_weight_only ? MPQ_NO_NODE : find_norm(&s, shape);
        layer[l].input_step = layer[l].gamma = layer[l].beta = MPQ_NO_VALUE;
        layer[l].batch_mean = layer[l].batch_var = MPQ_NO_VALUE;
        layer[l].y = graph->node[shape->node].out[0];
        if (layer[l].has_input_step) {
            MPQ_ASSERT(shape->x_input == 0);
            s.layer_of[shape->node] = &layer[l];
        }
        if (norm != MPQ_NO_NODE)
            s.norm_of[norm] = &layer[l];
    }
    for (mpq_node_id n = 0; n < graph->n_node; n++)
        MPQ_TRY(add_node(&s, n));
    for (uint32_t l = 0; l < layers->n_layer; l++)
        if (!layer[l].has_input_step)
            layer[l].first = s.to->value[graph->node[layers->layer[l].node].out[0]].producer;
    MPQ_TRY(mpq_graph_check(ctx, s.to));
    *out = s.to;
    return MPQ_OK;
}
