/* What the targets ask of a file: types, opsets, forms of activations and biases. */
#include <string.h>

#include "importer/import.h"
#include "tests/unit/export_case.h"

static enum mpq_dtype weight_type(const struct mpq_graph *graph, const char *node)
{
    for (uint32_t n = 0; n < graph->n_node; n++)
        if (strcmp(graph->node[n].name, node) == 0) {
            const struct mpq_node *dq = &graph->node[graph->value[graph->node[n].in[1]].producer];
            return graph->value[dq->in[0]].constant->dtype;
        }
    return MPQ_UNDEFINED;
}

static int64_t file_opset(struct export_case *c, int64_t *out_ir_version)
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
        struct export_case c;
        export_build_small(p);
        export_case_init(&c, p);
        if (cases[i].is_float)
            export_stay_float(&c);
        export_aim(&c, cases[i].target);
        for (uint32_t l = 0; l < c.layers.n_layer; l++)
            export_code_layer(&c, l, cases[i].bits);
        struct mpq_graph *graph = export_round_trip(&c);
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
    struct export_case c;
    export_build_small(*state);
    export_case_init(&c, *state);
    export_aim(&c, "tensorrt");
    export_code_layers(&c, 8);
    struct mpq_graph *graph = export_round_trip(&c);
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
    struct export_case c;
    export_build_small(*state);
    export_case_init(&c, *state);
    export_aim(&c, "openvino");
    export_code_layers(&c, 8);
    struct mpq_graph *graph = export_round_trip(&c);
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
    struct export_case c;
    const struct mpq_attr attrs[] = {NET_INT("hidden_size", 34)};
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(7, 1, 23));
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(1, 102, 23), false);
    mpq_value_id r = net_random(net, "r", MPQ_SHAPE(1, 102, 34), false);
    net_output(net, net_node(net, "GRU", "h", MPQ_COUNT(attrs), attrs, NET_IN(x, w, r)));
    export_case_init(&c, net);
    assert_int_equal(c.layers.n_layer, 2);
    for (size_t t = 0; t < 2; t++) {
        export_aim(&c, t ? "openvino" : "int8");
        export_code_layer(&c, 0, 8);
        export_code_layer(&c, 1, 4);
        struct mpq_graph *graph = export_round_trip(&c);
        export_check_layers(&c, graph);
        assert_int_equal(net_count(graph, "DequantizeLinear"), t ? 0 : 2);
        assert_int_equal(net_count(graph, "Cast"), t ? 4 : 0);
    }
}

/* What was made for one target is refused by another, with a sentence. */
static void test_other_target(void **state)
{
    struct export_case c;
    export_build_small(*state);
    export_case_init(&c, *state);
    struct mpq_ctx *ctx = &c.net->ctx;
    struct mpq_export_file file;
    export_code_layers(&c, 4); /* levels up to 63 */
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
    struct export_case c;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 4, 6, 6));
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(4, 4, 1, 1), false);
    mpq_value_id y = net_node(net, "Conv", "c", NET_NO_ATTRS, NET_IN(x, w));
    mpq_value_id m = net_node(net, "ReduceMean", "m", NET_ATTRS(NET_INTS("axes", 2, 3)), NET_IN(y));
    net_output(net, m);
    export_case_init(&c, net);
    export_aim(&c, "onnx");
    export_code_layer(&c, 0, 4);
    struct mpq_graph *graph = export_round_trip(&c);
    assert_int_equal(graph->opset, 21);
    for (uint32_t n = 0; n < graph->n_node; n++)
        if (strcmp(graph->node[n].op_type, "ReduceMean") == 0) {
            assert_int_equal(graph->node[n].n_in, 2);
            assert_null(mpq_attr_find(&graph->node[n].attr_set, "axes"));
            assert_int_equal(mpq_tensor_int(graph->value[graph->node[n].in[1]].constant, 1), 3);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_native_types),
        cmocka_unit_test(test_target_names),
        cmocka_unit_test_setup_teardown(test_tensorrt, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_openvino, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_openvino_recurrent, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_other_target, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_later_opset, net_setup, net_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
