#include "exporter/pack.h"
#include "importer/import.h"
#include "tests/unit/export_case.h"

#include <math.h>
#include <string.h>

#include "quantcore/base/rng.h"

static void test_every_width(void **state)
{
    struct export_case c;
    export_build_small(*state);
    export_case_init(&c, *state);
    assert_int_equal(c.layers.n_layer, 4);
    for (int bits = MPQ_MIN_BITS; bits <= MPQ_MAX_BITS; bits++)
        for (size_t t = 0; t < mpq_target_count(); t++) {
            export_aim(&c, mpq_target_at(t)->name);
            export_code_layers(&c, bits);
            export_check_layers(&c, export_round_trip(&c));
        }
}

static void test_weight_only(void **state)
{
    struct net *net = *state;
    struct export_case c;
    export_build_weight_only(net);
    export_case_init(&c, net);
    assert_int_equal(c.layers.n_layer, 5);
    assert_int_equal(c.act.n_group, 0);
    for (int bits = MPQ_MIN_BITS; bits <= MPQ_MAX_BITS; bits++)
        for (size_t t = 0; t < mpq_target_count(); t++) {
            export_aim(&c, mpq_target_at(t)->name);
            export_code_layers(&c, bits);
            struct mpq_graph *graph = export_round_trip(&c);
            export_check_layers(&c, graph);
            mpq_value_id table = mpq_graph_find(graph, "table"); /* unpacked once */
            for (mpq_node_id n = 0; n < graph->n_node; n++)
                if (strcmp(graph->node[n].name, "z") == 0)
                    assert_int_equal(graph->node[n].in[1], table);
        }
}

static void test_float_activations(void **state)
{
    struct export_case c;
    export_build_small(*state);
    export_case_init(&c, *state);
    export_stay_float(&c);
    for (uint32_t l = 0; l < c.layers.n_layer; l++)
        export_code_layer(&c, l, 3 + (int)l);
    struct mpq_graph *graph = export_round_trip(&c);
    export_check_layers(&c, graph);
    assert_int_equal(net_count(graph, "QuantizeLinear"), 0);
    assert_int_equal(net_count(graph, "DequantizeLinear"), 0);
}

/* 32768 weights of a width and more are stored as cells. */
static void test_large_layers(void **state)
{
    struct net *net = *state;
    struct export_case c;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 256));
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(256, 257), false);
    mpq_value_id v = net_random(net, "v", MPQ_SHAPE(257, 256), false);
    mpq_value_id m = net_node(net, "MatMul", "m", NET_NO_ATTRS, NET_IN(x, w));
    net_output(net, net_node(net, "MatMul", "y", NET_NO_ATTRS, NET_IN(m, v)));
    export_case_init(&c, net);
    for (int bits = MPQ_MIN_BITS; bits < MPQ_MAX_BITS; bits++) {
        export_code_layer(&c, 0, bits);
        export_code_layer(&c, 1, 9 - bits);
        struct mpq_graph *graph = export_round_trip(&c);
        export_check_layers(&c, graph);
        assert_int_equal(net_count(graph, "MatMulInteger"), 0);
    }
}

/* Layers of one width are unpacked together, and those that differ in their first dimension alone
 * are cut from one tensor. Some fill no whole cells; all of them together fill no whole byte. */
static void test_groups(void **state)
{
    static const int64_t size[] = {64, 64, 64, 64, 96, 64, 37, 6, 37, 37, 64, 64};
    struct net *net = *state;
    struct export_case c;
    export_build_chain(net, size, MPQ_COUNT(size));
    export_case_init(&c, net);
    assert_int_equal(c.layers.n_layer, MPQ_COUNT(size) - 1);
    for (int bits = MPQ_MIN_BITS; bits < MPQ_MAX_BITS; bits++) {
        export_code_layers(&c, bits);
        struct mpq_graph *graph = export_round_trip(&c);
        export_check_layers(&c, graph);
        assert_int_equal(net_count(graph, "MatMulInteger"), 1); /* 37 x 37 is odd */
        assert_int_equal(net_count(graph, "CumSum"), 1);
        export_code_layer(&c, 8, 8);
        graph = export_round_trip(&c);
        export_check_layers(&c, graph);
        assert_int_equal(net_count(graph, "MatMulInteger"), bits < 4); /* 37 x 6: no cells of 4 */
        assert_in_range(net_count(graph, "Reshape"), 3, 9);
        export_code_layer(&c, 0, 8); /* the others are few enough for planes */
        graph = export_round_trip(&c);
        export_check_layers(&c, graph);
        assert_int_equal(net_count(graph, "CumSum"), 1);
        assert_int_equal(net_count(graph, "MatMulInteger"), bits < 4 ? 2 : 1);
    }
}

static void check_rows(struct net *net, int64_t last, size_t n_cumsum)
{
    struct export_case c;
    const int64_t size[] = {128, 128, 128, 128, 128, 128, last};
    export_build_chain(net, size, MPQ_COUNT(size));
    export_case_init(&c, net);
    export_code_layers(&c, 4);
    struct mpq_graph *graph = export_round_trip(&c);
    export_check_layers(&c, graph);
    assert_int_equal(net_count(graph, "GatherElements"), 2);
    assert_int_equal(net_count(graph, "CumSum"), n_cumsum);
}

/* Codes of 4 bits in long rows are looked up by themselves, in tables of layers or of rows. */
static void test_layers_are_rows(void **state)
{
    check_rows(*state, 128, 0);
}

static void test_layers_have_rows(void **state)
{
    check_rows(*state, 64, 1);
}

/* Attributes that say what goes without saying are not written; what readers differ on is. */
static void test_defaults_go_unsaid(void **state)
{
    struct net *net = *state;
    struct export_case c;
    const struct mpq_attr attrs[] = {NET_INTS("dilations", 1, 1), NET_INT("group", 1),
                                     NET_INTS("kernel_shape", 3, 3), NET_INTS("pads", 1, 0, 0, 0),
                                     NET_INTS("strides", 1, 2)};
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 5, 9, 9));
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(7, 5, 3, 3), false);
    net_output(net, net_node(net, "Conv", "y", MPQ_COUNT(attrs), attrs, NET_IN(x, w)));
    export_case_init(&c, net);
    export_code_layer(&c, 0, 8);
    struct mpq_graph *graph = export_round_trip(&c);
    for (mpq_node_id n = 0; n < graph->n_node; n++) {
        const struct mpq_attr_set *set = &graph->node[n].attr_set;
        if (strcmp(graph->node[n].op_type, "Conv") != 0)
            continue;
        assert_int_equal(set->n, 3);
        assert_non_null(mpq_attr_find(set, "kernel_shape"));
        assert_non_null(mpq_attr_find(set, "pads"));
        assert_non_null(mpq_attr_find(set, "strides"));
    }
}

/* Beyond the limit, what is a page or longer lies in a file of its own, on page boundaries, and
 * both together have the size that was predicted. */
static void test_external_data(void **state)
{
    struct net *net = *state;
    struct mpq_ctx *ctx = &net->ctx;
    struct export_case c;
    struct mpq_export_file file;
    size_t predicted;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 256));
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(256, 257), false);
    mpq_value_id v = net_random(net, "v", MPQ_SHAPE(257, 256), false);
    mpq_value_id m = net_node(net, "MatMul", "m", NET_NO_ATTRS, NET_IN(x, w));
    net_output(net, net_node(net, "MatMul", "y", NET_NO_ATTRS, NET_IN(m, v)));
    export_case_init(&c, net);
    export_aim(&c, "int8");
    export_code_layer(&c, 0, 8);
    export_code_layer(&c, 1, 8);
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
    struct export_case c;
    export_build_small(*state);
    export_case_init(&c, *state);
    for (uint32_t l = 0; l < c.layers.n_layer; l++)
        export_code_layer(&c, l, (int[]){2, 7, 5, 8}[l]);
    export_check_layers(&c, export_round_trip(&c));
    struct mpq_export_file file, again;
    struct mpq_ctx *ctx = &c.net->ctx;
    CHECK_OK(ctx, mpq_export(ctx, c.net->arena, &c.plan, &file));
    CHECK_OK(ctx, mpq_export(ctx, c.net->arena, &c.plan, &again));
    assert_int_equal(file.bytes, again.bytes);
    assert_memory_equal(file.data, again.data, file.bytes);
}

static void test_quantized_values(void **state)
{
    struct export_case c;
    export_build_small(*state);
    export_case_init(&c, *state);
    export_code_layers(&c, 4);
    size_t n_value = 0;
    for (uint32_t v = 0; v < c.graph->n_value; v++)
        n_value += c.act.group[v] != MPQ_NO_GROUP;
    struct mpq_graph *graph = export_round_trip(&c);
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
    struct export_case c;
    export_build_small(*state);
    export_case_init(&c, *state);
    export_code_layers(&c, 4);
    struct mpq_act_quant *quant =
        mpq_arena_copy(&c.net->ctx, c.net->arena, c.plan.act_quant, c.act.n_group * sizeof *quant);
    for (uint32_t g = 0; g < c.act.n_group; g++)
        quant[g].bits = 5;
    c.plan.act_quant = quant;
    struct mpq_graph *graph = export_round_trip(&c);
    assert_int_equal(net_count(graph, "Clip"), net_count(graph, "QuantizeLinear"));
}

/* Values stay float, and each layer quantizes its input for itself, at a width of its own. */
static void test_own_inputs(void **state)
{
    struct export_case c;
    struct mpq_act_quant quant[8];
    uint32_t own_group[8];
    export_build_small(*state);
    export_case_init(&c, *state);
    export_stay_float(&c);
    assert_true(c.graph->n_node <= MPQ_COUNT(own_group) && c.layers.n_layer <= MPQ_COUNT(quant));
    for (uint32_t n = 0; n < c.graph->n_node; n++)
        own_group[n] = MPQ_NO_GROUP;
    for (uint32_t l = 0; l < c.layers.n_layer; l++) {
        export_code_layer(&c, l, 4);
        if (l > 0)
            own_group[c.layers.layer[l].node] = l;
        quant[l] = (struct mpq_act_quant){0.125f * (float)(l + 1), 2, 5 + (int)l};
    }
    c.act.own_group = own_group;
    c.act.n_group = c.layers.n_layer;
    c.plan.act_quant = quant;
    struct mpq_graph *graph = export_round_trip(&c);
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
    const struct mpq_tensor *w = export_constant_input(&c, graph, "c1", 1); /* its input is float */
    assert_non_null(w->data);
    assert_string_equal(graph->value[graph->output[0]].name, "y");
}

/* A weight that something else reads too: the layer gets its own, the other keeps the float. */
static void test_shared_weight(void **state)
{
    struct net *net = *state;
    struct export_case c;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 8));
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(8, 8), false);
    mpq_value_id m = net_node(net, "MatMul", "m", NET_NO_ATTRS, NET_IN(x, w));
    mpq_value_id s = net_node(net, "Mul", "s", NET_NO_ATTRS, NET_IN(m, w));
    net_output(net, s);
    export_case_init(&c, net);
    if (c.layers.n_layer == 0)
        return; /* then the table keeps it float */
    export_code_layer(&c, 0, 4);
    struct mpq_graph *graph = export_round_trip(&c);
    export_check_layers(&c, graph);
    const struct mpq_tensor *kept = export_constant_input(&c, graph, "s", 1);
    assert_memory_equal(kept->data, c.graph->value[w].constant->data, 64 * sizeof(float));
}

/* Two values, even infinite ones or zeros of both signs, take a bit an element and come back bit
 * for bit; three do not. */
static void test_constants_of_two_values(void **state)
{
    enum { N = 24 * 32 };
    struct net *net = *state;
    struct export_case c;
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
            value[N - 1] = 1.0f / 3; /* no float16 */
        at = net_node(net, "Add", sum[i], NET_NO_ATTRS, NET_IN(at, mask[i]));
    }
    net_output(net, at);
    export_case_init(&c, net);
    export_code_layer(&c, 0, 4);
    struct mpq_graph *graph = export_round_trip(&c);
    for (int i = 0; i < 3; i++) {
        const struct mpq_tensor *back = export_constant_input(&c, graph, sum[i], 1);
        assert_memory_equal(back->data, c.graph->value[mask[i]].constant->data, N * sizeof(float));
        mpq_value_id v = mpq_graph_find(graph, name[i]);
        assert_true((graph->value[v].constant != NULL) == (i == 2));
    }
    c.plan.names = MPQ_NAMES_NODES;
    graph = export_round_trip(&c);
    for (int i = 0; i < 3; i++)
        assert_memory_equal(export_constant_input(&c, graph, sum[i], 1)->data,
                            c.graph->value[mask[i]].constant->data, N * sizeof(float));
    c.plan.names = MPQ_NAMES_ALL;
    export_aim(&c, "int8");
    export_code_layer(&c, 0, 8);
    graph = export_round_trip(&c); /* who does not fold gets them as they are */
    assert_non_null(graph->value[mpq_graph_find(graph, name[0])].constant);
}

static void test_no_memory(void **state)
{
    struct export_case c;
    export_build_small(*state);
    export_case_init(&c, *state);
    export_code_layers(&c, 3);
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
        cmocka_unit_test_setup_teardown(test_weight_only, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_float_activations, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_large_layers, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_layers_are_rows, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_layers_have_rows, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_groups, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_defaults_go_unsaid, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_external_data, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_mixed_widths_and_determinism, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_quantized_values, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_narrow_activations, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_own_inputs, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_shared_weight, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_constants_of_two_values, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_no_memory, net_setup, net_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
