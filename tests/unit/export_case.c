#include "tests/unit/export_case.h"

#include <math.h>
#include <string.h>

#include "importer/import.h"
#include "quantcore/base/rng.h"
#include "quantcore/quant/scale.h"

void export_code_layer(struct export_case *c, uint32_t l, int bits)
{
    const struct mpq_layer *layer = &c->layers.layer[l];
    struct mpq_arena *arena = c->net->arena;
    struct mpq_ctx *ctx = &c->net->ctx;
    uint32_t n_level = bits == 8 ? 255 : 1u << bits;
    int8_t *level = mpq_arena_alloc(ctx, arena, n_level, 1);
    int8_t *q = mpq_arena_alloc(ctx, arena, (size_t)layer->n_param, 1);
    float *scale = mpq_arena_alloc(ctx, arena, (size_t)layer->n_channel, sizeof *scale);
    int first = bits == 8 ? -127 : -63, step = bits == 8 ? 1 : 126 / (1 << bits);
    if (bits == 7)
        first = -64, step = 1;
    if (mpq_target_integer_widths(c->plan.target) >> bits & 1)
        first = -(1 << (bits - 1)), step = 1;
    for (uint32_t i = 0; i < n_level; i++)
        level[i] = (int8_t)(first + (int)i * step);
    for (int64_t i = 0; i < layer->n_param; i++)
        q[i] = level[mpq_rng_below(7, MPQ_STREAM_TEST, l, (uint32_t)i, n_level)];
    for (int64_t i = 0; i < layer->n_channel; i++)
        scale[i] = mpq_scale_round(layer, 0.01f + 0.001f * (float)(i % 5));
    const float *bias =
        layer->bias == MPQ_NO_VALUE ? NULL : c->graph->value[layer->bias].constant->data;
    c->code[l] = (struct mpq_layer_code){bits, n_level, level, q, scale, bias};
    c->bits[l] = (uint8_t)bits;
}

void export_code_layers(struct export_case *c, int bits)
{
    for (uint32_t l = 0; l < c->layers.n_layer; l++)
        export_code_layer(c, l, bits);
}

void export_case_init(struct export_case *c, struct net *net)
{
    struct mpq_binding binding;
    *c = (struct export_case){.net = net, .graph = net->graph};
    CHECK_OK(&net->ctx, mpq_graph_check(&net->ctx, c->graph));
    CHECK_OK(&net->ctx, mpq_bind_batch(&net->ctx, net->arena, c->graph, 1, &binding));
    CHECK_OK(&net->ctx,
             mpq_layer_table_build(&net->ctx, net->arena, c->graph, &binding, &c->layers));
    CHECK_OK(&net->ctx,
             mpq_act_plan_build(&net->ctx, net->arena, c->graph, &binding, &c->layers,
                                (struct mpq_act_rules){.quantizes_outputs = true}, &c->act));
    c->code = mpq_arena_alloc(&net->ctx, net->arena, c->layers.n_layer, sizeof *c->code);
    c->bits = mpq_arena_alloc(&net->ctx, net->arena, c->layers.n_layer, 1);
    struct mpq_act_quant *quant =
        mpq_arena_alloc(&net->ctx, net->arena, c->act.n_group, sizeof *quant);
    for (uint32_t g = 0; g < c->act.n_group; g++)
        quant[g] = (struct mpq_act_quant){0.02f + 0.001f * (float)g, 7, 8};
    c->plan = (struct mpq_export_plan){.graph = c->graph,
                                       .layers = &c->layers,
                                       .code = c->code,
                                       .act = &c->act,
                                       .act_quant = quant,
                                       .target = mpq_target_find("ort")};
}

void export_stay_float(struct export_case *c)
{
    for (uint32_t v = 0; v < c->graph->n_value; v++)
        c->act.group[v] = MPQ_NO_GROUP;
}

struct mpq_graph *export_round_trip(struct export_case *c)
{
    struct mpq_ctx *ctx = &c->net->ctx;
    struct mpq_export_file file;
    size_t predicted;
    struct mpq_graph *graph;
    CHECK_OK(ctx, mpq_export(ctx, c->net->arena, &c->plan, &file));
    CHECK_OK(ctx, mpq_export_size(ctx, &c->plan, c->bits, &predicted));
    assert_int_equal(file.bytes, predicted);
    CHECK_OK(ctx, mpq_import_bytes(ctx, c->net->arena, file.data, file.bytes, NULL, &graph));
    CHECK_OK(ctx, mpq_graph_check(ctx, graph));
    return graph;
}

void export_aim(struct export_case *c, const char *target)
{
    c->plan.target = mpq_target_find(target);
    assert_non_null(c->plan.target);
    struct mpq_act_form form = c->plan.target->act;
    struct mpq_act_quant *quant =
        mpq_arena_alloc(&c->net->ctx, c->net->arena, c->act.n_group, sizeof *quant);
    for (uint32_t g = 0; g < c->act.n_group; g++)
        quant[g] = (struct mpq_act_quant){0.02f + 0.001f * (float)g,
                                          form.is_symmetric ? 1 << (form.bits - 1) : 7, form.bits};
    c->plan.act_quant = quant;
}

const struct mpq_tensor *export_constant_input(struct export_case *c, const struct mpq_graph *graph,
                                               const char *node, uint32_t i)
{
    struct mpq_binding binding;
    CHECK_OK(&c->net->ctx, mpq_bind_batch(&c->net->ctx, c->net->arena, graph, 1, &binding));
    for (uint32_t n = 0; n < graph->n_node; n++)
        if (strcmp(graph->node[n].name, node) == 0)
            return &binding.tensor[graph->node[n].in[i]];
    fail_msg("there is no node '%s'", node);
    return NULL;
}

/* The position of a constant among the inputs of the layer's node. */
static uint32_t input_of(const struct export_case *c, const struct mpq_layer *layer,
                         mpq_value_id value)
{
    const struct mpq_node *node = &c->graph->node[layer->node];
    for (uint32_t i = 0; i < node->n_in; i++)
        if (node->in[i] == value)
            return i;
    fail_msg("%s does not read its weight", layer->name);
    return 0;
}

/* The bias of a layer's node, or of the Add behind it. */
static const struct mpq_tensor *bias_input(struct export_case *c, const struct mpq_graph *graph,
                                           const char *name)
{
    mpq_value_id out = MPQ_NO_VALUE;
    for (uint32_t n = 0; n < graph->n_node; n++) {
        const struct mpq_node *node = &graph->node[n];
        if (strcmp(node->name, name) == 0 && node->n_in > 2)
            return export_constant_input(c, graph, name, 2);
        if (strcmp(node->name, name) == 0)
            out = node->out[0];
        struct mpq_binding binding;
        if (strcmp(node->op_type, "Add") != 0 || node->in[0] != out)
            continue;
        CHECK_OK(&c->net->ctx, mpq_bind_batch(&c->net->ctx, c->net->arena, graph, 1, &binding));
        return &binding.tensor[node->in[1]];
    }
    fail_msg("'%s' has no bias", name);
    return NULL;
}

void export_check_layers(struct export_case *c, const struct mpq_graph *graph)
{
    for (uint32_t l = 0; l < c->layers.n_layer; l++) {
        const struct mpq_layer *layer = &c->layers.layer[l];
        const struct mpq_layer_code *code = &c->code[l];
        const char *name = c->graph->node[layer->node].name;
        const struct mpq_tensor *w =
            export_constant_input(c, graph, name, input_of(c, layer, layer->weight));
        assert_non_null(w->data);
        assert_int_equal(mpq_shape_count(&w->shape), layer->n_param);
        assert_true(mpq_shape_equal(&w->shape, &c->graph->value[layer->weight].constant->shape));
        for (int64_t i = 0; i < layer->n_param; i++) {
            int64_t channel = i / layer->n_inner % layer->n_channel;
            float want = (float)code->q[i] * code->scale[channel];
            if (((const float *)w->data)[i] != want)
                fail_msg("%s, %d bits: weight %d is %g, expected %g", layer->name, code->bits,
                         (int)i, (double)((const float *)w->data)[i], (double)want);
        }
        if (!code->bias)
            continue;
        const struct mpq_tensor *b = bias_input(c, graph, name);
        for (int64_t i = 0; i < layer->n_channel; i++)
            CHECK_NEAR(((const float *)b->data)[i], code->bias[i], 1e-3, 1e-3);
    }
}

void export_build_chain(struct net *net, const int64_t *size, size_t n)
{
    mpq_value_id at = net_input(net, "x", MPQ_SHAPE(-1, size[0]));
    for (size_t l = 0; l + 1 < n; l++) {
        char *name = mpq_arena_printf(&net->ctx, net->arena, "l%d", (int)l);
        char *weight = mpq_arena_printf(&net->ctx, net->arena, "w%d", (int)l);
        mpq_value_id w = net_random(net, weight, MPQ_SHAPE(size[l], size[l + 1]), false);
        at = net_node(net, "MatMul", name, NET_NO_ATTRS, NET_IN(at, w));
    }
    net_output(net, at);
}

void export_build_small(struct net *net)
{
    mpq_value_id x = net_input(net, "a0", MPQ_SHAPE(-1, 5, 6, 6)); /* a name we might choose */
    mpq_value_id w1 = net_random(net, "w1", MPQ_SHAPE(3, 5, 3, 3), false);
    mpq_value_id b1 = net_random(net, "b1", MPQ_SHAPE(3), false);
    mpq_value_id c1 = net_node(net, "Conv", "c1", NET_NO_ATTRS, NET_IN(x, w1, b1));
    mpq_value_id r1 = net_node(net, "Relu", "r1", NET_NO_ATTRS, NET_IN(c1));
    mpq_value_id w2 = net_random(net, "w2", MPQ_SHAPE(7, 3, 1, 1), false);
    mpq_value_id c2 = net_node(net, "Conv", "c2", NET_NO_ATTRS, NET_IN(r1, w2));
    mpq_value_id f = net_node(net, "Flatten", "f", NET_NO_ATTRS, NET_IN(c2));
    mpq_value_id w3 = net_random(net, "w3", MPQ_SHAPE(9, 112), false);
    mpq_value_id b3 = net_random(net, "b3", MPQ_SHAPE(9), false);
    mpq_value_id g = net_node(net, "Gemm", "g", NET_ATTRS(NET_INT("transB", 1)), NET_IN(f, w3, b3));
    mpq_value_id w4 = net_random(net, "w4", MPQ_SHAPE(9, 11), false);
    net_output(net, net_node(net, "MatMul", "y", NET_NO_ATTRS, NET_IN(g, w4)));
}

void export_build_weight_only(struct net *net)
{
    mpq_value_id ids = net_input(net, "ids", MPQ_SHAPE(7, 1));
    net->graph->value[ids].dtype = MPQ_INT64;
    mpq_value_id table = net_random(net, "table", MPQ_SHAPE(45, 23), false);
    mpq_value_id e = net_node(net, "Gather", "e", NET_NO_ATTRS, NET_IN(table, ids));
    const struct mpq_attr attrs[] = {NET_INT("hidden_size", 17),
                                     NET_STRING("direction", "bidirectional")};
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(2, 51, 23), false);
    mpq_value_id r = net_random(net, "r", MPQ_SHAPE(2, 51, 17), false);
    mpq_value_id h = net_node(net, "GRU", "h", MPQ_COUNT(attrs), attrs, NET_IN(e, w, r));
    mpq_value_id columns =
        net_node(net, "Transpose", "columns", NET_ATTRS(NET_INTS("perm", 1, 2, 3, 0)), NET_IN(h));
    mpq_value_id left = net_random(net, "left", MPQ_SHAPE(61, 17), false);
    mpq_value_id m = net_node(net, "MatMul", "m", NET_NO_ATTRS, NET_IN(left, columns));
    mpq_value_id deconv = net_random(net, "deconv", MPQ_SHAPE(1, 3, 19, 19), false);
    net_output(net, net_node(net, "ConvTranspose", "y", NET_NO_ATTRS, NET_IN(m, deconv)));
    mpq_value_id tied = net_input(net, "x", MPQ_SHAPE(-1, 45));
    net_output(net, net_node(net, "MatMul", "z", NET_NO_ATTRS, NET_IN(tied, table)));
}
