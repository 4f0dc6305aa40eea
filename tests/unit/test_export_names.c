#include "tests/unit/export_case.h"

#include <string.h>

/* Only inputs and outputs are called as before; the size follows. */
static void test_short_names(void **state)
{
    struct export_case c;
    export_build_small(*state);
    export_case_init(&c, *state);
    export_code_layers(&c, 4);
    size_t before, after;
    struct mpq_ctx *ctx = &c.net->ctx;
    CHECK_OK(ctx, mpq_export_size(ctx, &c.plan, c.bits, &before));
    c.plan.names = MPQ_NAMES_NODES;
    struct mpq_graph *graph = export_round_trip(&c);
    assert_int_equal(mpq_graph_find(graph, "r1"), MPQ_NO_VALUE);
    size_t n_named = 0;
    for (mpq_node_id n = 0; n < graph->n_node; n++)
        n_named += *graph->node[n].name != 0;
    assert_int_equal(n_named, c.graph->n_node);
    c.plan.names = MPQ_NAMES_LAYERS;
    graph = export_round_trip(&c);
    export_check_layers(&c, graph); /* which finds them by their names */
    for (mpq_node_id n = 0; n < graph->n_node; n++)
        n_named -= *graph->node[n].name != 0;
    assert_int_equal(n_named, c.graph->n_node - c.layers.n_layer);
    c.plan.names = MPQ_NAMES_NONE;
    CHECK_OK(ctx, mpq_export_size(ctx, &c.plan, c.bits, &after));
    assert_true(after < before);
    graph = export_round_trip(&c);
    assert_string_equal(graph->value[graph->input[0]].name, "a0");
    assert_string_equal(graph->value[graph->output[0]].name, "y");
    assert_int_equal(mpq_graph_find(graph, "r1"), MPQ_NO_VALUE);
    assert_int_equal(mpq_graph_find(graph, "w1"), MPQ_NO_VALUE);
    for (uint32_t n = 0; n < graph->n_node; n++)
        assert_string_equal(graph->node[n].name, "");
}

/* Equal constants of the graph are one, unless they are outputs or keep their names. */
static void test_equal_constants(void **state)
{
    struct net *net = *state;
    struct export_case c;
    const int64_t shape[] = {-1, 4, 16};
    mpq_value_id at = net_input(net, "x", MPQ_SHAPE(-1, 64));
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(64, 64), false);
    at = net_node(net, "MatMul", "m", NET_NO_ATTRS, NET_IN(at, w));
    mpq_value_id first = net_ints(net, "first", 3, shape),
                 second = net_ints(net, "second", 3, shape);
    mpq_value_id third = net_ints(net, "third", 3, shape);
    mpq_value_id r = net_node(net, "Reshape", "r", NET_NO_ATTRS, NET_IN(at, first));
    mpq_value_id s = net_node(net, "Reshape", "s", NET_NO_ATTRS, NET_IN(at, second));
    net_output(net, net_node(net, "Add", "y", NET_NO_ATTRS, NET_IN(r, s)));
    net_output(net, third);
    export_case_init(&c, net);
    export_code_layer(&c, 0, 4);
    for (int names = MPQ_NAMES_ALL; names <= MPQ_NAMES_NONE; names++) {
        c.plan.names = (enum mpq_names)names;
        struct mpq_graph *graph = export_round_trip(&c);
        size_t n = 0;
        for (mpq_value_id v = 0; v < graph->n_value; v++)
            n += graph->value[v].constant && mpq_shape_count(&graph->value[v].shape) == 3 &&
                 graph->value[v].dtype == MPQ_INT64;
        assert_int_equal(n, names == MPQ_NAMES_ALL ? 3 : 2);
        assert_int_not_equal(mpq_graph_find(graph, "third"), MPQ_NO_VALUE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_short_names, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_equal_constants, net_setup, net_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
