/* Which constants are rounded to float16, and to what. */
#include "quantcore/pass/round_constant.h"

#include <math.h>
#include <stdio.h>

#include "tests/unit/net.h"

enum { N = 32 };

/* A layer's output, to which a constant can be beside. */
static mpq_value_id layer(struct net *net)
{
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, N));
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(N, N), false);
    return net_node(net, "MatMul", "m", NET_NO_ATTRS, NET_IN(x, w));
}

/* The graph ends in another layer. */
static void close(struct net *net, mpq_value_id v)
{
    mpq_value_id w = net_random(net, "w last", MPQ_SHAPE(N, N), false);
    net_output(net, net_node(net, "MatMul", "last", NET_NO_ATTRS, NET_IN(v, w)));
}

static mpq_value_id vector(struct net *net, const char *name)
{
    return net_random(net, name, MPQ_SHAPE(N), true);
}

static struct mpq_rounding find(struct net *net, bool is_plain)
{
    struct mpq_rounding rounding;
    struct mpq_layer_table layers;
    CHECK_OK(&net->ctx, mpq_graph_check(&net->ctx, net->graph));
    CHECK_OK(&net->ctx, mpq_layer_table_build(&net->ctx, net->arena, net->graph, NULL, &layers));
    CHECK_OK(&net->ctx,
             mpq_rounding_find(&net->ctx, net->arena, net->graph, &layers, is_plain, &rounding));
    return rounding;
}

static bool is_rounded(const struct net *net, const struct mpq_rounding *rounding, const char *name)
{
    return rounding->tensor[mpq_graph_find(net->graph, name)] != NULL;
}

static void check(const struct net *net, const struct mpq_rounding *rounding,
                  const char *const *name, size_t n, bool wanted)
{
    for (size_t i = 0; i < n; i++)
        if (is_rounded(net, rounding, name[i]) != wanted)
            fail_msg("'%s' is %srounded", name[i], wanted ? "not " : "");
}
#define CHECK_ROUNDED(net, rounding, wanted, ...)                                                  \
    check(net, rounding, (const char *const[]){__VA_ARGS__},                                       \
          MPQ_COUNT(((const char *const[]){__VA_ARGS__})), wanted)

/* A normalized sum with positions: all of that is rounded, the weight is not; without samples only
 * what is added to a product, or multiplies. */
static void test_beside_layers(void **state)
{
    struct net *net = *state;
    mpq_value_id m = layer(net), at;
    at = net_node(net, "Add", "biased", NET_NO_ATTRS, NET_IN(m, vector(net, "bias")));
    at = net_node(net, "Add", "placed", NET_NO_ATTRS, NET_IN(at, vector(net, "positions")));
    at = net_node(net, "Sub", "centered", NET_NO_ATTRS, NET_IN(at, vector(net, "mean")));
    at = net_node(net, "LayerNormalization", "normal", NET_NO_ATTRS,
                  NET_IN(at, vector(net, "scale"), vector(net, "shift")));
    at = net_node(net, "Div", "divided", NET_NO_ATTRS, NET_IN(at, vector(net, "divisor")));
    at = net_node(net, "Add", "affine", NET_NO_ATTRS, NET_IN(vector(net, "offset"), at));
    at = net_node(net, "BatchNormalization", "batch", NET_NO_ATTRS,
                  NET_IN(at, vector(net, "gamma"), vector(net, "beta"), vector(net, "mu"),
                         vector(net, "var")));
    close(net, net_node(net, "PRelu", "y", NET_NO_ATTRS, NET_IN(at, vector(net, "slope"))));
    struct mpq_rounding rounding = find(net, false), plain = find(net, true);
    assert_int_equal(rounding.n, 12);
    CHECK_ROUNDED(net, &rounding, true, "bias", "positions", "mean", "scale", "shift", "divisor",
                  "offset", "gamma", "beta", "mu", "var", "slope");
    CHECK_ROUNDED(net, &rounding, false, "w", "x", "m");
    assert_int_equal(plain.n, 9);
    CHECK_ROUNDED(net, &plain, false, "positions", "mean", "mu", "w");

    struct mpq_graph *graph;
    CHECK_OK(&net->ctx, mpq_rounding_apply(&net->ctx, net->arena, net->graph, &rounding, &graph));
    mpq_value_id v = mpq_graph_find(net->graph, "scale");
    for (int64_t i = 0; i < N; i++) {
        double before = mpq_tensor_double(net->graph->value[v].constant, i);
        double after = mpq_tensor_double(graph->value[v].constant, i);
        assert_true(after == (double)mpq_half_to_float(mpq_float_to_half((float)before)));
        CHECK_NEAR(after, before, 0x1p-11, 0);
    }
    net_check_same(net, net->graph, graph, 2e-2);
    assert_int_equal(find(net, false).n, 12); /* the graph itself is as it was */
    *net->graph = *graph;
    assert_int_equal(find(net, false).n, 0);
}

/* Rows that are moved, joined with what a layer makes and added to it. */
static void test_moved_constants(void **state)
{
    struct net *net = *state;
    const int64_t two_rows[] = {1, N}, first[] = {0}, second[] = {1};
    mpq_value_id m = layer(net);
    mpq_value_id token = net_node(net, "Reshape", "row", NET_NO_ATTRS,
                                  NET_IN(vector(net, "token"), net_ints(net, "to", 2, two_rows)));
    const struct mpq_attr axis[] = {NET_INT("axis", 0)};
    mpq_value_id joined = net_node(net, "Concat", "joined", 1, axis, NET_IN(token, m));
    mpq_value_id table = net_random(net, "table", MPQ_SHAPE(2, N), false);
    mpq_value_id part =
        net_node(net, "Slice", "part", NET_NO_ATTRS,
                 NET_IN(table, net_ints(net, "from", 1, first), net_ints(net, "until", 1, second)));
    close(net, net_node(net, "Add", "y", NET_NO_ATTRS, NET_IN(joined, part)));
    struct mpq_rounding rounding = find(net, false);
    CHECK_ROUNDED(net, &rounding, true, "token", "table");
    rounding = find(net, true);
    assert_int_equal(rounding.n, 0);
}

/* Frequencies meet positions and not activations, one reader of several is enough to bar a
 * constant, and so is being an output. */
static void test_other_readers(void **state)
{
    struct net *net = *state;
    mpq_value_id m = layer(net), position = net_input(net, "position", MPQ_SHAPE(-1, 1));
    mpq_value_id angle =
        net_node(net, "Mul", "angle", NET_NO_ATTRS, NET_IN(position, vector(net, "frequency")));
    mpq_value_id sine = net_node(net, "Sin", "sine", NET_NO_ATTRS, NET_IN(angle));
    mpq_value_id sum = net_node(net, "Mul", "rotated", NET_NO_ATTRS, NET_IN(m, sine));
    mpq_value_id both = vector(net, "both"), shown = vector(net, "shown");
    sum = net_node(net, "Add", "sum", NET_NO_ATTRS, NET_IN(sum, both));
    sum = net_node(net, "Pow", "power", NET_NO_ATTRS, NET_IN(sum, both));
    sum = net_node(net, "Add", "total", NET_NO_ATTRS, NET_IN(sum, shown));
    mpq_value_id length = net_node(net, "Shape", "length", NET_NO_ATTRS, NET_IN(m));
    const struct mpq_attr to[] = {NET_INT("to", MPQ_FLOAT)};
    length = net_node(net, "Cast", "size", 1, to, NET_IN(length));
    const struct mpq_attr axis[] = {NET_INT("axis", 0)};
    net_output(net, net_node(net, "Concat", "grid", 1, axis, NET_IN(length, vector(net, "cells"))));
    net_output(net, shown);
    close(net, sum);
    struct mpq_rounding rounding = find(net, false);
    assert_int_equal(rounding.n, 0);
}

/* Behind the last layer a bias is rounded, and so is what multiplies; not where boxes lie. */
static void test_last_layer(void **state)
{
    struct net *net = *state;
    mpq_value_id at = layer(net);
    at = net_node(net, "Add", "biased", NET_NO_ATTRS, NET_IN(vector(net, "bias"), at));
    at = net_node(net, "Mul", "sized", NET_NO_ATTRS, NET_IN(at, vector(net, "sizes")));
    at = net_node(net, "Add", "placed", NET_NO_ATTRS, NET_IN(at, vector(net, "anchors")));
    const struct mpq_attr axis[] = {NET_INT("axis", 0)};
    mpq_value_id row = net_random(net, "row", MPQ_SHAPE(1, N), false);
    net_output(net, net_node(net, "Concat", "y", 1, axis, NET_IN(at, row)));
    for (int is_plain = 0; is_plain < 2; is_plain++) {
        struct mpq_rounding rounding = find(net, is_plain);
        assert_int_equal(rounding.n, 2);
        CHECK_ROUNDED(net, &rounding, true, "bias", "sizes");
    }
}

/* Nothing that float16 cannot say with eleven bits; small summands may lose what does not count
 * beside the largest, small factors less, divisors nothing. */
static void test_values(void **state)
{
    struct net *net = *state;
    static const struct {
        const char *op_type, *name;
        float value[2];
        bool is_rounded;
    } cases[] = {
        {"Add", "plain", {1.1f, -0.3f}, true},
        {"Add", "exact", {1.5f, -2048}, false},
        {"Add", "large", {1.1f, -1e9f}, false},
        {"Add", "infinite", {1.1f, -INFINITY}, false},
        {"Add", "nan", {1.1f, NAN}, false},
        {"Add", "small", {0.01f, 9.2e-8f}, true},
        {"Add", "all small", {1e-5f, 9.2e-8f}, false},
        {"Mul", "small factor", {0.1f, 9.2e-8f}, true},
        {"Mul", "smaller factors", {0.01f, 9.2e-8f}, false},
        {"Div", "divisor", {1.1f, 1.1e-4f}, true},
        {"Div", "small divisor", {1.1f, 9.2e-8f}, false},
    };
    mpq_value_id at = layer(net);
    for (size_t i = 0; i < MPQ_COUNT(cases); i++) {
        mpq_value_id v = vector(net, cases[i].name);
        struct mpq_tensor tensor = *net->graph->value[v].constant;
        for (int64_t k = 0; k < N; k++)
            mpq_tensor_set_double(&tensor, k, (double)cases[i].value[k % 2]);
        char out[16];
        snprintf(out, sizeof out, "y%zu", i);
        at = net_node(net, cases[i].op_type, out, NET_NO_ATTRS, NET_IN(at, v));
    }
    close(net, at);
    struct mpq_rounding rounding = find(net, false);
    for (size_t i = 0; i < MPQ_COUNT(cases); i++)
        CHECK_ROUNDED(net, &rounding, cases[i].is_rounded, cases[i].name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_beside_layers, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_moved_constants, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_other_readers, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_last_layer, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_values, net_setup, net_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
