#include "exporter/export.h"
#include "exporter/pack.h"
#include "importer/import.h"
#include "tests/unit/net.h"

#include <math.h>
#include <string.h>

#include "quantcore/base/rng.h"

/* Everything an export needs, made for the graph of a net. */
struct case_ {
    struct net *net;
    struct mpq_graph *graph;
    struct mpq_layer_table layers;
    struct mpq_act_plan act;
    struct mpq_export_plan plan;
    struct mpq_layer_code *code;
    uint8_t *bits;
};

/* Random levels and codes of that width for layer l, biases as in the graph. */
static void code_layer(struct case_ *c, uint32_t l, int bits)
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
        scale[i] = mpq_scale_round(0.01f + 0.001f * (float)(i % 5));
    const float *bias =
        layer->bias == MPQ_NO_VALUE ? NULL : c->graph->value[layer->bias].constant->data;
    c->code[l] = (struct mpq_layer_code){bits, n_level, level, q, scale, bias};
    c->bits[l] = (uint8_t)bits;
}

static void case_init(struct case_ *c, struct net *net)
{
    struct mpq_binding binding;
    *c = (struct case_){.net = net, .graph = net->graph};
    CHECK_OK(&net->ctx, mpq_graph_check(&net->ctx, c->graph));
    CHECK_OK(&net->ctx, mpq_bind_batch(&net->ctx, net->arena, c->graph, 1, &binding));
    CHECK_OK(&net->ctx,
             mpq_layer_table_build(&net->ctx, net->arena, c->graph, &binding, &c->layers));
    CHECK_OK(&net->ctx,
             mpq_act_plan_build(&net->ctx, net->arena, c->graph, &binding, &c->layers, &c->act));
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

static void stay_float(struct case_ *c)
{
    for (uint32_t v = 0; v < c->graph->n_value; v++)
        c->act.group[v] = MPQ_NO_GROUP;
}

/* Export, compare with the predicted size, read back. */
static struct mpq_graph *round_trip(struct case_ *c)
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

/* Another target, with activations in its form. */
static void aim(struct case_ *c, const char *target)
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

/* The value of input i of the node that has that name, computed by our own operators. */
static const struct mpq_tensor *constant_input(struct case_ *c, const struct mpq_graph *graph,
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
static uint32_t input_of(const struct case_ *c, const struct mpq_layer *layer, mpq_value_id value)
{
    const struct mpq_node *node = &c->graph->node[layer->node];
    for (uint32_t i = 0; i < node->n_in; i++)
        if (node->in[i] == value)
            return i;
    fail_msg("%s does not read its weight", layer->name);
    return 0;
}

/* The bias of a layer's node, or of the Add behind it. */
static const struct mpq_tensor *bias_input(struct case_ *c, const struct mpq_graph *graph,
                                           const char *name)
{
    mpq_value_id out = MPQ_NO_VALUE;
    for (uint32_t n = 0; n < graph->n_node; n++) {
        const struct mpq_node *node = &graph->node[n];
        if (strcmp(node->name, name) == 0 && node->n_in > 2)
            return constant_input(c, graph, name, 2);
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

/* Weights, and biases within float16 and one step, are what the codes say. */
static void check_layers(struct case_ *c, const struct mpq_graph *graph)
{
    for (uint32_t l = 0; l < c->layers.n_layer; l++) {
        const struct mpq_layer *layer = &c->layers.layer[l];
        const struct mpq_layer_code *code = &c->code[l];
        const char *name = c->graph->node[layer->node].name;
        const struct mpq_tensor *w =
            constant_input(c, graph, name, input_of(c, layer, layer->weight));
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

/* conv (135 weights, odd) -> Relu -> conv -> Flatten -> Gemm -> MatMul */
static void build_small(struct net *net)
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

static void test_every_width(void **state)
{
    struct case_ c;
    build_small(*state);
    case_init(&c, *state);
    assert_int_equal(c.layers.n_layer, 4);
    for (int bits = MPQ_MIN_BITS; bits <= MPQ_MAX_BITS; bits++)
        for (size_t t = 0; t < mpq_target_count(); t++) {
            aim(&c, mpq_target_at(t)->name);
            for (uint32_t l = 0; l < c.layers.n_layer; l++)
                code_layer(&c, l, bits);
            check_layers(&c, round_trip(&c));
        }
}

static enum mpq_dtype weight_type(const struct mpq_graph *graph, const char *node)
{
    for (uint32_t n = 0; n < graph->n_node; n++)
        if (strcmp(graph->node[n].name, node) == 0) {
            const struct mpq_node *dq = &graph->node[graph->value[graph->node[n].in[1]].producer];
            return graph->value[dq->in[0]].constant->dtype;
        }
    return MPQ_UNDEFINED;
}

static int64_t file_opset(struct case_ *c, int64_t *out_ir_version)
{
    struct mpq_export_file file;
    struct mpq_graph *graph;
    struct mpq_ctx *ctx = &c->net->ctx;
    CHECK_OK(ctx, mpq_export(ctx, c->net->arena, &c->plan, &file));
    CHECK_OK(ctx, mpq_import_bytes(ctx, c->net->arena, file.data, file.bytes, NULL, &graph));
    assert_int_equal(file.data[0], 1 << 3); /* ir_version is field 1, a varint */
    *out_ir_version = file.data[1];
    return graph->opset;
}

/* A file needs no later opset and IR than its types do; int2 stays away from where ONNX Runtime
 * gets it wrong (L1, L5). */
static void test_native_types(void **state)
{
    static const struct {
        const char *target;
        int bits;
        bool is_float;
        enum mpq_dtype conv, matmul; /* N = 11 */
        int64_t opset, ir_version;
    } cases[] = {
        {"onnx", 8, false, MPQ_INT8, MPQ_INT8, 13, 7},
        {"onnx", 5, false, MPQ_INT8, MPQ_INT8, 13, 7},
        {"onnx", 3, false, MPQ_INT4, MPQ_INT4, 21, 10},
        {"onnx", 2, false, MPQ_INT4, MPQ_INT4, 21, 10},
        {"onnx", 2, true, MPQ_INT2, MPQ_INT4, 25, 13},
        {"int8", 2, false, MPQ_INT8, MPQ_INT8, 13, 7},
        {"tensorrt", 3, false, MPQ_INT8, MPQ_INT8, 13, 7},
        {"qnn", 4, false, MPQ_INT4, MPQ_INT4, 21, 10},
        {"qnn16", 8, false, MPQ_INT8, MPQ_INT8, 21, 10},
    };
    for (size_t i = 0; i < MPQ_COUNT(cases); i++) {
        void *net;
        struct net *p;
        int64_t ir_version;
        assert_int_equal(net_setup(&net), 0);
        p = net;
        struct case_ c;
        build_small(p);
        case_init(&c, p);
        if (cases[i].is_float)
            stay_float(&c);
        aim(&c, cases[i].target);
        for (uint32_t l = 0; l < c.layers.n_layer; l++)
            code_layer(&c, l, cases[i].bits);
        struct mpq_graph *graph = round_trip(&c);
        assert_int_equal(weight_type(graph, "c2"), cases[i].conv);
        assert_int_equal(weight_type(graph, "y"), cases[i].matmul);
        assert_int_equal(file_opset(&c, &ir_version), cases[i].opset);
        assert_int_equal(ir_version, cases[i].ir_version);
        net_teardown(&net);
    }
    (void)state;
}

/* Signed types have zero point 0 and biases stay float. */
static void test_tensorrt(void **state)
{
    struct case_ c;
    build_small(*state);
    case_init(&c, *state);
    aim(&c, "tensorrt");
    for (uint32_t l = 0; l < c.layers.n_layer; l++)
        code_layer(&c, l, 8);
    struct mpq_graph *graph = round_trip(&c);
    for (uint32_t n = 0; n < graph->n_node; n++) {
        const struct mpq_node *node = &graph->node[n];
        if (strcmp(node->op_type, "QuantizeLinear") != 0 &&
            strcmp(node->op_type, "DequantizeLinear") != 0)
            continue;
        if (node->n_in < 3)
            continue;
        const struct mpq_tensor *zero = graph->value[node->in[2]].constant;
        assert_int_equal(zero->dtype, MPQ_INT8);
        for (int64_t i = 0; i < mpq_shape_count(&zero->shape); i++)
            assert_int_equal(mpq_tensor_int(zero, i), 0);
    }
    const struct mpq_node *conv = &graph->node[graph->value[mpq_graph_find(graph, "c1")].producer];
    assert_int_equal(graph->value[conv->in[2]].constant->dtype, MPQ_FLOAT);
}

/* What OpenVINO gets wrong or refuses otherwise: biases of convolutions are nodes of their own,
 * weights of recurrent layers behind two Casts. */
static void test_openvino(void **state)
{
    struct case_ c;
    build_small(*state);
    case_init(&c, *state);
    aim(&c, "openvino");
    for (uint32_t l = 0; l < c.layers.n_layer; l++)
        code_layer(&c, l, 8);
    struct mpq_graph *graph = round_trip(&c);
    assert_int_equal(net_count(graph, "Add"), 1); /* of c1; the Gemm keeps its own */
    mpq_value_id c1 = mpq_graph_find(graph, "c1");
    const struct mpq_node *add = &graph->node[graph->value[c1].producer];
    assert_string_equal(add->op_type, "Add");
    const struct mpq_node *conv = &graph->node[graph->value[add->in[0]].producer];
    assert_int_equal(conv->n_in, 2);
    assert_string_equal(conv->name, "c1");
}

static void test_openvino_recurrent(void **state)
{
    struct net *net = *state;
    struct case_ c;
    const struct mpq_attr attrs[] = {NET_INT("hidden_size", 34)};
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(7, 1, 23));
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(1, 102, 23), false);
    mpq_value_id r = net_random(net, "r", MPQ_SHAPE(1, 102, 34), false);
    net_output(net, net_node(net, "GRU", "h", MPQ_COUNT(attrs), attrs, NET_IN(x, w, r)));
    case_init(&c, net);
    assert_int_equal(c.layers.n_layer, 2);
    for (size_t t = 0; t < 2; t++) {
        aim(&c, t ? "openvino" : "int8");
        code_layer(&c, 0, 8);
        code_layer(&c, 1, 4);
        struct mpq_graph *graph = round_trip(&c);
        check_layers(&c, graph);
        assert_int_equal(net_count(graph, "DequantizeLinear"), t ? 0 : 2);
        assert_int_equal(net_count(graph, "Cast"), t ? 4 : 0);
    }
}

/* What was made for one target is refused by another, with a sentence. */
static void test_other_target(void **state)
{
    struct case_ c;
    build_small(*state);
    case_init(&c, *state);
    struct mpq_ctx *ctx = &c.net->ctx;
    struct mpq_export_file file;
    for (uint32_t l = 0; l < c.layers.n_layer; l++)
        code_layer(&c, l, 4); /* levels up to 63 */
    c.plan.target = mpq_target_find("onnx");
    CHECK_FAILS(ctx, mpq_export(ctx, c.net->arena, &c.plan, &file), MPQ_E_UNSUPPORTED, "levels");
    c.plan.target = mpq_target_find("tensorrt");
    CHECK_FAILS(ctx, mpq_export(ctx, c.net->arena, &c.plan, &file), MPQ_E_UNSUPPORTED,
                "zero point 7");
    assert_null(mpq_target_find("gpu"));
}

static void test_target_names(void **state)
{
    (void)state;
    char names[256] = "";
    for (size_t t = 0; t < mpq_target_count(); t++) {
        strcat(names, t ? "|" : "");
        strcat(names, mpq_target_at(t)->name);
    }
    assert_string_equal(names, MPQ_TARGET_NAMES);
}

/* Operators whose spelling changed between opset 13 and what int4 needs. */
static void test_later_opset(void **state)
{
    struct net *net = *state;
    struct case_ c;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 4, 6, 6));
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(4, 4, 1, 1), false);
    mpq_value_id y = net_node(net, "Conv", "c", NET_NO_ATTRS, NET_IN(x, w));
    mpq_value_id m = net_node(net, "ReduceMean", "m", NET_ATTRS(NET_INTS("axes", 2, 3)), NET_IN(y));
    net_output(net, m);
    case_init(&c, net);
    aim(&c, "onnx");
    code_layer(&c, 0, 4);
    struct mpq_graph *graph = round_trip(&c);
    assert_int_equal(graph->opset, 21);
    for (uint32_t n = 0; n < graph->n_node; n++)
        if (strcmp(graph->node[n].op_type, "ReduceMean") == 0) {
            assert_int_equal(graph->node[n].n_in, 2);
            assert_null(mpq_attr_find(&graph->node[n].attr_set, "axes"));
            assert_int_equal(mpq_tensor_int(graph->value[graph->node[n].in[1]].constant, 1), 3);
        }
}

/* table (odd count) -> GRU of two directions -> MatMul from the left -> ConvTranspose, with a
 * MatMul that shares the table: all weight-only. */
static void build_weight_only(struct net *net)
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

static void test_weight_only(void **state)
{
    struct net *net = *state;
    struct case_ c;
    build_weight_only(net);
    case_init(&c, net);
    assert_int_equal(c.layers.n_layer, 5);
    assert_int_equal(c.act.n_group, 0);
    for (int bits = MPQ_MIN_BITS; bits <= MPQ_MAX_BITS; bits++)
        for (size_t t = 0; t < mpq_target_count(); t++) {
            aim(&c, mpq_target_at(t)->name);
            for (uint32_t l = 0; l < c.layers.n_layer; l++)
                code_layer(&c, l, bits);
            struct mpq_graph *graph = round_trip(&c);
            check_layers(&c, graph);
            mpq_value_id table = mpq_graph_find(graph, "table"); /* unpacked once */
            for (mpq_node_id n = 0; n < graph->n_node; n++)
                if (strcmp(graph->node[n].name, "z") == 0)
                    assert_int_equal(graph->node[n].in[1], table);
        }
}

static void test_float_activations(void **state)
{
    struct case_ c;
    build_small(*state);
    case_init(&c, *state);
    stay_float(&c);
    for (uint32_t l = 0; l < c.layers.n_layer; l++)
        code_layer(&c, l, 3 + (int)l);
    struct mpq_graph *graph = round_trip(&c);
    check_layers(&c, graph);
    assert_int_equal(net_count(graph, "QuantizeLinear"), 0);
    assert_int_equal(net_count(graph, "DequantizeLinear"), 0);
}

/* 16384 weights of a width and more are stored as cells. */
static void test_large_layers(void **state)
{
    struct net *net = *state;
    struct case_ c;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 256));
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(256, 257), false);
    mpq_value_id v = net_random(net, "v", MPQ_SHAPE(257, 256), false);
    mpq_value_id m = net_node(net, "MatMul", "m", NET_NO_ATTRS, NET_IN(x, w));
    net_output(net, net_node(net, "MatMul", "y", NET_NO_ATTRS, NET_IN(m, v)));
    case_init(&c, net);
    for (int bits = MPQ_MIN_BITS; bits < MPQ_MAX_BITS; bits++) {
        code_layer(&c, 0, bits);
        code_layer(&c, 1, 9 - bits);
        struct mpq_graph *graph = round_trip(&c);
        check_layers(&c, graph);
        assert_int_equal(net_count(graph, "MatMulInteger"), 0);
    }
}

/* Layers of one width are unpacked together, and those that differ in their first dimension alone
 * are cut from one tensor. Some fill no whole cells; all of them together fill no whole byte. */
static void test_groups(void **state)
{
    static const int64_t size[] = {64, 64, 64, 64, 96, 64, 37, 6, 37, 37, 64, 64};
    struct net *net = *state;
    struct case_ c;
    mpq_value_id at = net_input(net, "x", MPQ_SHAPE(-1, size[0]));
    for (size_t l = 0; l + 1 < MPQ_COUNT(size); l++) {
        char *name = mpq_arena_printf(&net->ctx, net->arena, "l%d", (int)l);
        char *weight = mpq_arena_printf(&net->ctx, net->arena, "w%d", (int)l);
        mpq_value_id w = net_random(net, weight, MPQ_SHAPE(size[l], size[l + 1]), false);
        at = net_node(net, "MatMul", name, NET_NO_ATTRS, NET_IN(at, w));
    }
    net_output(net, at);
    case_init(&c, net);
    assert_int_equal(c.layers.n_layer, MPQ_COUNT(size) - 1);
    for (int bits = MPQ_MIN_BITS; bits < MPQ_MAX_BITS; bits++) {
        for (uint32_t l = 0; l < c.layers.n_layer; l++)
            code_layer(&c, l, bits);
        struct mpq_graph *graph = round_trip(&c);
        check_layers(&c, graph);
        assert_int_equal(net_count(graph, "MatMulInteger"), 1); /* 37 x 37 is odd */
        assert_int_equal(net_count(graph, "CumSum"), bits < 4 ? 2 : 1);
        code_layer(&c, 8, 8);
        graph = round_trip(&c);
        check_layers(&c, graph);
        assert_int_equal(net_count(graph, "MatMulInteger"), bits < 4); /* 37 x 6: no cells of 4 */
        assert_in_range(net_count(graph, "Reshape"), 3, 9);
    }
}

/* Only inputs and outputs are called as before; the size follows. */
static void test_short_names(void **state)
{
    struct case_ c;
    build_small(*state);
    case_init(&c, *state);
    for (uint32_t l = 0; l < c.layers.n_layer; l++)
        code_layer(&c, l, 4);
    size_t before, after;
    struct mpq_ctx *ctx = &c.net->ctx;
    CHECK_OK(ctx, mpq_export_size(ctx, &c.plan, c.bits, &before));
    c.plan.short_names = true;
    CHECK_OK(ctx, mpq_export_size(ctx, &c.plan, c.bits, &after));
    assert_true(after < before);
    struct mpq_graph *graph = round_trip(&c);
    assert_string_equal(graph->value[graph->input[0]].name, "a0");
    assert_string_equal(graph->value[graph->output[0]].name, "y");
    assert_int_equal(mpq_graph_find(graph, "r1"), MPQ_NO_VALUE);
    assert_int_equal(mpq_graph_find(graph, "w1"), MPQ_NO_VALUE);
    for (uint32_t n = 0; n < graph->n_node; n++)
        assert_string_equal(graph->node[n].name, "");
}

/* Beyond the limit, what is a page or longer lies in a file of its own, on page boundaries, and
 * both together have the size that was predicted. */
static void test_external_data(void **state)
{
    struct net *net = *state;
    struct mpq_ctx *ctx = &net->ctx;
    struct case_ c;
    struct mpq_export_file file;
    size_t predicted;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 256));
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(256, 257), false);
    mpq_value_id v = net_random(net, "v", MPQ_SHAPE(257, 256), false);
    mpq_value_id m = net_node(net, "MatMul", "m", NET_NO_ATTRS, NET_IN(x, w));
    net_output(net, net_node(net, "MatMul", "y", NET_NO_ATTRS, NET_IN(m, v)));
    case_init(&c, net);
    aim(&c, "int8");
    code_layer(&c, 0, 8);
    code_layer(&c, 1, 8);
    c.plan.message_limit = 100000;
    CHECK_OK(ctx, mpq_export(ctx, net->arena, &c.plan, &file));
    assert_int_equal(file.n_piece, 0); /* nobody said where to */
    c.plan.external_name = "model.onnx.data";
    CHECK_OK(ctx, mpq_export(ctx, net->arena, &c.plan, &file));
    CHECK_OK(ctx, mpq_export_size(ctx, &c.plan, c.bits, &predicted));
    assert_int_equal(file.n_piece, 2);
    assert_int_equal(file.piece[0].offset, 0);
    assert_int_equal(file.piece[0].bytes, 256 * 257);
    assert_memory_equal(file.piece[0].data, c.code[0].q, 256 * 257);
    assert_int_equal(file.piece[1].offset, 17 * 4096);
    assert_memory_equal(file.piece[1].data, c.code[1].q, 256 * 257);
    assert_int_equal(file.external_bytes, 17 * 4096 + 256 * 257);
    assert_true(file.bytes < 6000);
    assert_int_equal(file.bytes + file.external_bytes, predicted);
}

static void test_mixed_widths_and_determinism(void **state)
{
    struct case_ c;
    build_small(*state);
    case_init(&c, *state);
    for (uint32_t l = 0; l < c.layers.n_layer; l++)
        code_layer(&c, l, (int[]){2, 7, 5, 8}[l]);
    check_layers(&c, round_trip(&c));
    struct mpq_export_file file, again;
    struct mpq_ctx *ctx = &c.net->ctx;
    CHECK_OK(ctx, mpq_export(ctx, c.net->arena, &c.plan, &file));
    CHECK_OK(ctx, mpq_export(ctx, c.net->arena, &c.plan, &again));
    assert_int_equal(file.bytes, again.bytes);
    assert_memory_equal(file.data, again.data, file.bytes);
}

static void test_quantized_values(void **state)
{
    struct case_ c;
    build_small(*state);
    case_init(&c, *state);
    for (uint32_t l = 0; l < c.layers.n_layer; l++)
        code_layer(&c, l, 4);
    size_t n_value = 0;
    for (uint32_t v = 0; v < c.graph->n_value; v++)
        n_value += c.act.group[v] != MPQ_NO_GROUP;
    struct mpq_graph *graph = round_trip(&c);
    assert_int_equal(net_count(graph, "QuantizeLinear"), n_value);
    assert_int_equal(net_count(graph, "Clip"), 0);
    /* Interface and node names stay; the output is the quantized value. */
    assert_string_equal(graph->value[graph->input[0]].name, "a0");
    assert_int_equal(graph->value[graph->input[0]].shape.dim[0], MPQ_DIM_UNKNOWN);
    assert_string_equal(graph->value[graph->output[0]].name, "y");
    const struct mpq_value *y = &graph->value[graph->output[0]];
    assert_string_equal(graph->node[y->producer].op_type, "DequantizeLinear");
    /* Readers get the dequantized value, the value itself keeps its name. */
    mpq_value_id r1 = mpq_graph_find(graph, "r1");
    assert_int_not_equal(r1, MPQ_NO_VALUE);
    for (uint32_t n = 0; n < graph->n_node; n++)
        for (uint32_t i = 0; i < graph->node[n].n_in; i++)
            if (graph->node[n].in[i] == r1)
                assert_string_equal(graph->node[n].op_type, "QuantizeLinear");
}

static void test_narrow_activations(void **state)
{
    struct case_ c;
    build_small(*state);
    case_init(&c, *state);
    for (uint32_t l = 0; l < c.layers.n_layer; l++)
        code_layer(&c, l, 4);
    struct mpq_act_quant *quant =
        mpq_arena_copy(&c.net->ctx, c.net->arena, c.plan.act_quant, c.act.n_group * sizeof *quant);
    for (uint32_t g = 0; g < c.act.n_group; g++)
        quant[g].bits = 5;
    c.plan.act_quant = quant;
    struct mpq_graph *graph = round_trip(&c);
    assert_int_equal(net_count(graph, "Clip"), net_count(graph, "QuantizeLinear"));
}

/* Values stay float, and each layer quantizes its input for itself, at a width of its own. */
static void test_own_inputs(void **state)
{
    struct case_ c;
    struct mpq_act_quant quant[8];
    uint32_t own_group[8];
    build_small(*state);
    case_init(&c, *state);
    stay_float(&c);
    assert_true(c.graph->n_node <= MPQ_COUNT(own_group) && c.layers.n_layer <= MPQ_COUNT(quant));
    for (uint32_t n = 0; n < c.graph->n_node; n++)
        own_group[n] = MPQ_NO_GROUP;
    for (uint32_t l = 0; l < c.layers.n_layer; l++) {
        code_layer(&c, l, 4);
        if (l > 0)
            own_group[c.layers.layer[l].node] = l;
        quant[l] = (struct mpq_act_quant){0.125f * (float)(l + 1), 2, 5 + (int)l};
    }
    c.act.own_group = own_group;
    c.act.n_group = c.layers.n_layer;
    c.plan.act_quant = quant;
    struct mpq_graph *graph = round_trip(&c);
    assert_int_equal(net_count(graph, "QuantizeLinear"), c.layers.n_layer - 1);
    assert_int_equal(net_count(graph, "Clip"), 2); /* layers 1 and 2: 6 and 7 bits */
    for (uint32_t n = 0; n < graph->n_node; n++) {
        const struct mpq_node *node = &graph->node[n];
        if (strcmp(node->name, "c2") != 0)
            continue;
        const struct mpq_node *dq = &graph->node[graph->value[node->in[0]].producer];
        const struct mpq_node *clip = &graph->node[graph->value[dq->in[0]].producer];
        const struct mpq_node *q = &graph->node[graph->value[clip->in[0]].producer];
        assert_string_equal(dq->op_type, "DequantizeLinear");
        assert_string_equal(clip->op_type, "Clip");
        assert_string_equal(graph->value[q->in[0]].name, "r1");
        assert_true(*(const float *)graph->value[q->in[1]].constant->data == quant[1].scale);
        assert_int_equal(*(const uint8_t *)graph->value[clip->in[2]].constant->data, 63);
    }
    const struct mpq_tensor *w = constant_input(&c, graph, "c1", 1); /* its input is float */
    assert_non_null(w->data);
    assert_string_equal(graph->value[graph->output[0]].name, "y");
}

/* A weight that something else reads too: the layer gets its own, the other keeps the float. */
static void test_shared_weight(void **state)
{
    struct net *net = *state;
    struct case_ c;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 8));
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(8, 8), false);
    mpq_value_id m = net_node(net, "MatMul", "m", NET_NO_ATTRS, NET_IN(x, w));
    mpq_value_id s = net_node(net, "Mul", "s", NET_NO_ATTRS, NET_IN(m, w));
    net_output(net, s);
    case_init(&c, net);
    if (c.layers.n_layer == 0)
        return; /* then the table keeps it float */
    code_layer(&c, 0, 4);
    struct mpq_graph *graph = round_trip(&c);
    check_layers(&c, graph);
    const struct mpq_tensor *kept = constant_input(&c, graph, "s", 1);
    assert_memory_equal(kept->data, c.graph->value[w].constant->data, 64 * sizeof(float));
}

/* Two values, even infinite ones or zeros of both signs, take a bit an element and come back bit
 * for bit; three do not. */
static void test_constants_of_two_values(void **state)
{
    enum { N = 24 * 32 };
    struct net *net = *state;
    struct case_ c;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 24, 32));
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(32, 32), false);
    mpq_value_id m = net_node(net, "MatMul", "m", NET_NO_ATTRS, NET_IN(x, w));
    mpq_value_id mask[3], at = m;
    static const char *const name[] = {"mask0", "mask1", "mask2"}, *const sum[] = {"s0", "s1",
                                                                                   "s2"};
    const float pair[3][2] = {{0.0f, -INFINITY}, {-0.0f, 0.0f}, {1.0f, 2.0f}};
    for (int i = 0; i < 3; i++) {
        mask[i] = net_random(net, name[i], MPQ_SHAPE(24, 32), false);
        float *value = net->graph->value[mask[i]].constant->data;
        for (uint32_t k = 0; k < N; k++)
            value[k] = pair[i][mpq_rng_below(3, MPQ_STREAM_TEST, (uint32_t)i, k, 2)];
        if (i == 2)
            value[N - 1] = 3.0f;
        at = net_node(net, "Add", sum[i], NET_NO_ATTRS, NET_IN(at, mask[i]));
    }
    net_output(net, at);
    case_init(&c, net);
    code_layer(&c, 0, 4);
    struct mpq_graph *graph = round_trip(&c);
    for (int i = 0; i < 3; i++) {
        const struct mpq_tensor *back = constant_input(&c, graph, sum[i], 1);
        assert_memory_equal(back->data, c.graph->value[mask[i]].constant->data, N * sizeof(float));
        mpq_value_id v = mpq_graph_find(graph, name[i]);
        assert_true((graph->value[v].constant != NULL) == (i == 2));
    }
    aim(&c, "int8");
    code_layer(&c, 0, 8);
    graph = round_trip(&c); /* who does not fold gets them as they are */
    assert_non_null(graph->value[mpq_graph_find(graph, name[0])].constant);
}

/* A channel with next to no weights and an ordinary bias: in its own scale the bias would be 1e13
 * steps. It comes back, and the weights with the error of the larger scale. */
static void test_dead_channel(void **state)
{
    struct case_ c;
    build_small(*state);
    case_init(&c, *state);
    for (uint32_t l = 0; l < c.layers.n_layer; l++)
        code_layer(&c, l, 4);
    const struct mpq_layer *layer = &c.layers.layer[0];
    ((float *)c.code[0].scale)[1] = mpq_scale_round(1e-12f);
    ((float *)c.code[0].scale)[2] = mpq_scale_round(1e-39f);
    ((float *)c.code[0].bias)[2] = 0;
    const char *targets[] = {"ort", "int8"};
    for (size_t t = 0; t < MPQ_COUNT(targets); t++) {
        c.plan.target = mpq_target_find(targets[t]);
        struct mpq_graph *graph = round_trip(&c);
        const float *b = constant_input(&c, graph, layer->name, 2)->data;
        const float *w = constant_input(&c, graph, layer->name, 1)->data;
        CHECK_NEAR(b[1], c.code[0].bias[1], 1e-3, 0);
        CHECK_NEAR(b[2], 0, 0, 0);
        for (int64_t i = layer->n_inner; i < 2 * layer->n_inner; i++)
            CHECK_NEAR(w[i], 0, 0, 1e-5);
        /* Channel 2: the scale grew to a normal one, in which all weights are nearest to level 0.
         */
        for (int64_t i = 2 * layer->n_inner; i < 3 * layer->n_inner; i++)
            CHECK_NEAR(w[i], 0, 0, 0);
        CHECK_NEAR(w[0], (float)c.code[0].q[0] * c.code[0].scale[0], 0, 0);
    }
}

/* Biases beyond float16 take four bytes; a larger file, the same network. */
static void test_large_bias(void **state)
{
    struct case_ c;
    build_small(*state);
    float *b1 = ((struct net *)*state)
                    ->graph->value[mpq_graph_find(((struct net *)*state)->graph, "b1")]
                    .constant->data;
    b1[2] = 1e5f;
    case_init(&c, *state);
    for (uint32_t l = 0; l < c.layers.n_layer; l++)
        code_layer(&c, l, 4);
    struct mpq_graph *graph = round_trip(&c);
    check_layers(&c, graph);
    CHECK_NEAR(((const float *)constant_input(&c, graph, "c1", 2)->data)[2], 1e5, 1e-6, 0);
    stay_float(&c);
    check_layers(&c, round_trip(&c));
}

static void test_no_memory(void **state)
{
    struct case_ c;
    build_small(*state);
    case_init(&c, *state);
    for (uint32_t l = 0; l < c.layers.n_layer; l++)
        code_layer(&c, l, 3);
    struct mpq_ctx *ctx = &c.net->ctx;
    struct mpq_export_file file;
    long n = 0;
    enum mpq_status status;
    do {
        ctx->allocations_left = n++;
        status = mpq_export(ctx, c.net->arena, &c.plan, &file);
        ctx->allocations_left = -1;
        assert_true(status == MPQ_OK || status == MPQ_E_NOMEM);
        mpq_ctx_clear(ctx);
    } while (status != MPQ_OK);
    assert_true(n > 100);
}

static void test_pack_planes(void **state)
{
    (void)state;
    /* codes 5, 2, 7 of 3 bits behind one bit: planes 101, 011, 101 lowest bit first */
    uint8_t bytes[2] = {1, 0};
    mpq_pack_planes((const uint8_t[]){5, 2, 7}, 3, 3, 3, bytes, 1);
    assert_int_equal(bytes[0], 1 | 5 << 1 | 6 << 4 | (5 & 1) << 7);
    assert_int_equal(bytes[1], 5 >> 1);
}

static void test_pack_cells(void **state)
{
    (void)state;
    uint8_t low[2] = {0, 0}, high[1] = {0};
    const uint8_t code[8] = {1, 2, 3, 4, 5, 6, 7, 0}; /* two cells of 12 bits */
    unsigned first = 1 | 2 << 3 | 3 << 6 | 4 << 9, second = 5 | 6 << 3 | 7 << 6;
    mpq_pack_cells(code, 8, 3, 4, 0, 8, low, 0);
    mpq_pack_cells(code, 4, 3, 4, 8, 4, high, 0);
    mpq_pack_cells(code + 4, 4, 3, 4, 8, 4, high, 1);
    assert_int_equal(low[0], first & 255);
    assert_int_equal(low[1], second & 255);
    assert_int_equal(high[0], first >> 8 | second >> 8 << 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pack_planes),
        cmocka_unit_test(test_pack_cells),
        cmocka_unit_test_setup_teardown(test_every_width, net_setup, net_teardown),
        cmocka_unit_test(test_native_types),
        cmocka_unit_test(test_target_names),
        cmocka_unit_test_setup_teardown(test_tensorrt, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_openvino, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_openvino_recurrent, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_other_target, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_later_opset, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_weight_only, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_float_activations, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_large_layers, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_groups, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_short_names, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_external_data, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_mixed_widths_and_determinism, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_quantized_values, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_narrow_activations, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_own_inputs, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_shared_weight, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_constants_of_two_values, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_dead_channel, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_large_bias, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_no_memory, net_setup, net_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
