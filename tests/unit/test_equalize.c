/* Channels brought to one range: where that can be done, by how much, and that it changes nothing.
 */
#include "quantcore/pass/equalize.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/net.h"

struct found {
    struct mpq_layer_table layers;
    struct mpq_equalize equalize;
};

static struct found find(struct net *net)
{
    struct found found;
    struct mpq_binding binding;
    CHECK_OK(&net->ctx, mpq_graph_check(&net->ctx, net->graph));
    CHECK_OK(&net->ctx, mpq_bind_batch(&net->ctx, net->arena, net->graph, 1, &binding));
    CHECK_OK(&net->ctx,
             mpq_layer_table_build(&net->ctx, net->arena, net->graph, &binding, &found.layers));
    CHECK_OK(&net->ctx, mpq_equalize_find(&net->ctx, net->arena, net->graph, net->graph, &binding,
                                          &found.layers, &found.equalize));
    return found;
}

/* Channel c of every edge reaches 1 / (c + 1). */
static void see(struct net *net, struct found *found)
{
    for (uint32_t e = 0; e < found->equalize.n_edge; e++) {
        struct mpq_equal_edge *edge = &found->equalize.edge[e];
        int64_t n = found->layers.layer[edge->from].n_channel;
        mpq_real *y = mpq_arena_alloc(&net->ctx, net->arena, (size_t)(4 * n), sizeof *y);
        bool is_last = edge->axis < 0; /* four rows; else two samples of two places */
        for (int64_t i = 0; i < 4 * n; i++)
            y[i] = (mpq_real)((i % 3 ? -1.0 : 0.5) / (double)((is_last ? i : i / 2) % n + 1));
        struct mpq_shape shape = is_last ? MPQ_SHAPE(4, n) : MPQ_SHAPE(2, n, 2);
        mpq_equalize_see(edge, &(struct mpq_tensor){MPQ_FLOAT, shape, y});
    }
    CHECK_OK(&net->ctx, mpq_equalize_gains(&net->ctx, net->arena, net->graph, &found->layers,
                                           &found->equalize));
}

static void check_same(struct net *net, struct found *found)
{
    struct mpq_graph *equal;
    CHECK_OK(&net->ctx, mpq_equalize_apply(&net->ctx, net->arena, net->graph, &found->layers,
                                           &found->equalize, &equal));
    for (uint32_t e = 0; e < found->equalize.n_edge; e++) {
        mpq_value_id w = found->layers.layer[found->equalize.edge[e].from].weight;
        const mpq_real *before = net->graph->value[w].constant->data;
        const mpq_real *after = equal->value[w].constant->data;
        size_t bytes = mpq_tensor_bytes(equal->value[w].constant);
        assert_true(memcmp(before, after, bytes) != 0);
    }
    net_check_same(net, net->graph, equal, 1e-5);
}

static mpq_value_id conv(struct net *net, mpq_value_id x, const char *name, int64_t out, int64_t in,
                         int64_t kernel, int64_t group)
{
    char weight[64], bias[64];
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    struct mpq_attr *attr = mpq_arena_alloc(&net->ctx, net->arena, 1, sizeof *attr);
    *attr = NET_INT("group", group);
    return net_node(net, "Conv", name, 1, attr,
                    NET_IN(x, net_random(net, weight, MPQ_SHAPE(out, in, kernel, kernel), false),
                           net_random(net, bias, MPQ_SHAPE(out), false)));
}

static mpq_value_id relu(struct net *net, mpq_value_id x, const char *name)
{
    return net_node(net, "Relu", name, NET_NO_ATTRS, NET_IN(x));
}

static void convolutions_through_activations_and_pools(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 3, 12, 12));
    mpq_value_id a = relu(net, conv(net, x, "a", 4, 3, 3, 1), "ra");
    mpq_value_id pool =
        net_node(net, "MaxPool", "pool", NET_ATTRS(NET_INTS("kernel_shape", 2, 2)), NET_IN(a));
    mpq_value_id deep = relu(net, conv(net, pool, "deep", 8, 1, 3, 4), "rd"); /* depthwise */
    mpq_value_id grouped = conv(net, deep, "grouped", 6, 4, 1, 2);            /* no activation */
    mpq_value_id mean = net_node(net, "GlobalAveragePool", "mean", NET_NO_ATTRS, NET_IN(grouped));
    net_output(net, conv(net, mean, "last", 5, 6, 1, 1));
    struct found found = find(net);
    assert_int_equal(found.equalize.n_edge, 3);
    assert_int_equal(found.equalize.edge[1].from, 1);
    assert_int_equal(found.equalize.edge[1].n_to, 1);
    assert_int_equal(found.equalize.edge[1].to[0].layer, 2);
    see(net, &found);
    const mpq_real *gain = mpq_equalize_edge(&found.equalize, 0)->gain;
    for (int c = 0; c < 4; c++) /* a depthwise layer reads */
        CHECK_NEAR((double)gain[c], c + 1, 1e-6, 0);
    assert_null(mpq_equalize_edge(&found.equalize, 3));
    check_same(net, &found);
}

static mpq_value_id concat(struct net *net, mpq_value_id a, mpq_value_id b, const char *name)
{
    return net_node(net, "Concat", name, NET_ATTRS(NET_INT("axis", 1)), NET_IN(a, b));
}

/* As in SqueezeNet and Inception: two branches, and beside them a value that is no layer's. */
static void branches_that_are_concatenated(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 3, 12, 12));
    mpq_value_id narrow = relu(net, conv(net, x, "narrow", 2, 3, 1, 1), "rn");
    mpq_value_id clip = net_node(net, "Clip", "clip", NET_NO_ATTRS,
                                 NET_IN(conv(net, x, "bounded", 3, 3, 1, 1),
                                        net_scalar(net, "low", 0), net_scalar(net, "high", 600)));
    mpq_value_id wide = relu(net, conv(net, x, "wide", 4, 3, 1, 1), "rw");
    mpq_value_id both = concat(net, concat(net, x, narrow, "first"), wide, "second");
    mpq_value_id all = concat(net, both, clip, "all");
    mpq_value_id pool =
        net_node(net, "MaxPool", "pool", NET_ATTRS(NET_INTS("kernel_shape", 2, 2)), NET_IN(all));
    net_output(net, conv(net, all, "grouped", 4, 6, 3, 2));
    net_output(net, conv(net, pool, "last", 5, 12, 1, 1));
    struct found found = find(net);
    assert_int_equal(found.equalize.n_edge, 3);
    const int64_t first[] = {3, 9, 5};
    const mpq_real most[] = {2, 1, 8};
    for (uint32_t e = 0; e < 3; e++) {
        struct mpq_equal_edge *edge = &found.equalize.edge[e];
        assert_int_equal(edge->from, e);
        assert_int_equal(edge->n_to, 2);
        for (uint32_t i = 0; i < 2; i++) {
            assert_int_equal(edge->to[i].first, first[e]);
            assert_int_equal(edge->to[i].n_all, 12);
        }
        assert_int_equal(edge->range, found.equalize.edge[0].range);
        mpq_real y[4] = {most[e], most[e] / 2, most[e] / 2, most[e] / 2};
        int64_t n = found.layers.layer[e].n_channel;
        mpq_equalize_see(edge, &(struct mpq_tensor){MPQ_FLOAT, MPQ_SHAPE(1, n), y});
    }
    CHECK_OK(&net->ctx,
             mpq_equalize_gains(&net->ctx, net->arena, net->graph, &found.layers, &found.equalize));
    assert_true((double)found.equalize.edge[0].gain[0] > 1);     /* towards `wide`'s first */
    CHECK_NEAR((double)found.equalize.edge[1].gain[0], 1, 0, 0); /* the Clip's widest stays */
    assert_true((double)found.equalize.edge[1].gain[1] > 1);
    CHECK_NEAR((double)found.equalize.edge[2].gain[0], 1, 0, 0);
    check_same(net, &found);
}

/* Twice through one Concat, along another axis, past an output. */
static void concats_that_gains_do_not_pass(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 3, 4, 4));
    mpq_value_id a = relu(net, conv(net, x, "a", 3, 3, 1, 1), "ra");
    mpq_value_id b = conv(net, concat(net, a, a, "twice"), "b", 3, 6, 1, 1);
    mpq_value_id rows =
        net_node(net, "Concat", "rows", NET_ATTRS(NET_INT("axis", 2)), NET_IN(b, x));
    mpq_value_id c = conv(net, rows, "c", 3, 3, 1, 1), d = conv(net, rows, "d", 3, 3, 1, 1);
    mpq_value_id seen = concat(net, c, d, "seen");
    net_output(net, seen);
    net_output(net, conv(net, seen, "e", 3, 6, 1, 1));
    assert_int_equal(find(net).equalize.n_edge, 0);
}

/* Channels are others, and as many as would go with the reader's weights. */
static void pads_of_channels_pass_nothing(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 3, 6, 6));
    mpq_value_id pads = net_ints(net, "pads", 8, (int64_t[]){0, 1, 0, 0, 0, 2, 0, 0});
    mpq_value_id padded = net_node(net, "Pad", "pad", NET_NO_ATTRS,
                                   NET_IN(relu(net, conv(net, x, "a", 3, 3, 1, 1), "r"), pads));
    net_output(net, conv(net, padded, "b", 2, 6, 3, 1));
    assert_int_equal(find(net).equalize.n_edge, 0);
}

/* However many edges meet there. */
static void weights_are_copied_once(void **state)
{
    enum { BRANCHES = 8, OUT = 4096 };
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 3, 2, 2)), all = x;
    for (int i = 0; i < BRANCHES; i++) {
        char name[32];
        snprintf(name, sizeof name, "branch%d", i);
        mpq_value_id branch = conv(net, x, name, 3, 3, 1, 1);
        snprintf(name, sizeof name, "all%d", i);
        all = concat(net, all, branch, name);
    }
    net_output(net, conv(net, all, "last", OUT, 3 * (BRANCHES + 1), 1, 1));
    struct found found = find(net);
    struct mpq_graph *equal;
    assert_int_equal(found.equalize.n_edge, BRANCHES);
    see(net, &found);
    check_same(net, &found);
    struct mpq_arena *arena = mpq_arena_create(&net->ctx);
    CHECK_OK(&net->ctx, mpq_equalize_apply(&net->ctx, arena, net->graph, &found.layers,
                                           &found.equalize, &equal));
    assert_true(mpq_arena_bytes(arena) <
                2 * sizeof(mpq_real) * OUT * 3 * (BRANCHES + 1)); /* of `last` alone */
    mpq_arena_free(arena);
}

static void products_and_several_readers(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 7));
    mpq_value_id a = relu(net,
                          net_node(net, "Gemm", "a", NET_ATTRS(NET_INT("transB", 1)),
                                   NET_IN(x, net_random(net, "aw", MPQ_SHAPE(5, 7), false),
                                          net_random(net, "ab", MPQ_SHAPE(5), false))),
                          "r");
    net_output(net, net_node(net, "Gemm", "b", NET_ATTRS(NET_INT("transB", 1)),
                             NET_IN(a, net_random(net, "bw", MPQ_SHAPE(4, 5), false))));
    net_output(net, net_node(net, "MatMul", "c", NET_NO_ATTRS,
                             NET_IN(a, net_random(net, "cw", MPQ_SHAPE(5, 3), false))));
    struct found found = find(net);
    assert_int_equal(found.equalize.n_edge, 1);
    assert_int_equal(found.equalize.edge[0].n_to, 2);
    see(net, &found);
    check_same(net, &found);
}

static void gains_end_at_16_and_dead_channels_have_none(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 3, 4, 4));
    mpq_value_id clip = net_node(net, "Clip", "clip", NET_NO_ATTRS,
                                 NET_IN(conv(net, x, "a", 3, 3, 1, 1), net_scalar(net, "low", 0),
                                        net_scalar(net, "high", 6)));
    net_output(net, conv(net, clip, "b", 3, 1, 1, 3));
    struct found found = find(net);
    assert_int_equal(found.equalize.n_edge, 1);
    mpq_real y[] = {(mpq_real)0.125, 0, 4};
    mpq_equalize_see(&found.equalize.edge[0], &(struct mpq_tensor){MPQ_FLOAT, MPQ_SHAPE(1, 3), y});
    CHECK_OK(&net->ctx,
             mpq_equalize_gains(&net->ctx, net->arena, net->graph, &found.layers, &found.equalize));
    const mpq_real *gain = mpq_equalize_edge(&found.equalize, 0)->gain;
    CHECK_NEAR((double)gain[0], 16, 0, 0);
    CHECK_NEAR((double)gain[1], 1, 0, 0);
    CHECK_NEAR((double)gain[2], 1, 0, 0);
}

/* Error of activations by w^2 / g^2, that of weights by x^2 g^2. */
static void weights_are_weighed_too(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 2));
    mpq_value_id a = net_node(net, "MatMul", "a", NET_NO_ATTRS,
                              NET_IN(x, net_random(net, "aw", MPQ_SHAPE(2, 4), false)));
    mpq_value_id w = net_random(net, "bw", MPQ_SHAPE(4, 1), false);
    const mpq_real weight[] = {1, 1, 4, 100};
    memcpy((mpq_real *)net->graph->value[w].constant->data, weight, sizeof weight);
    net_output(net, net_node(net, "MatMul", "b", NET_NO_ATTRS, NET_IN(a, w)));
    struct found found = find(net);
    see(net, &found); /* 1, 1/2, 1/3, 1/4 */
    const mpq_real *gain = mpq_equalize_edge(&found.equalize, 0)->gain;
    CHECK_NEAR((double)gain[0], 1, 0, 0);
    CHECK_NEAR((double)gain[1], sqrt(2), 1e-6, 0);
    CHECK_NEAR((double)gain[2], 3, 1e-6, 0); /* sqrt(12) is out of range */
    CHECK_NEAR((double)gain[3], 4, 1e-6, 0);
    check_same(net, &found);
}

/* Of two branches one is read by a plain convolution, too, which weighs the gains of that alone. */
static void only_depthwise_layers_read_a_branch(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 3, 4, 4));
    mpq_value_id a = conv(net, x, "a", 3, 3, 1, 1), b = conv(net, x, "b", 3, 3, 1, 1);
    net_output(net, conv(net, concat(net, a, b, "both"), "depthwise", 6, 1, 3, 6));
    net_output(net, conv(net, b, "plain", 3, 3, 1, 1));
    struct found found = find(net);
    assert_int_equal(found.equalize.n_edge, 2);
    for (uint32_t e = 0; e < 2; e++) {
        mpq_real y[] = {e ? 8 : 1, e ? 8 : 1, e ? 8 : 1};
        mpq_equalize_see(&found.equalize.edge[e],
                         &(struct mpq_tensor){MPQ_FLOAT, MPQ_SHAPE(1, 3), y});
    }
    CHECK_OK(&net->ctx,
             mpq_equalize_gains(&net->ctx, net->arena, net->graph, &found.layers, &found.equalize));
    for (int c = 0; c < 3; c++)
        CHECK_NEAR((double)found.equalize.edge[0].gain[c], 8, 0, 0);
}

/* Each of these reads the channels in a way that a gain would show in. */
static void what_is_not_homogeneous_stays(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 3, 4, 4));
    mpq_value_id a = conv(net, x, "a", 3, 3, 1, 1);
    mpq_value_id b =
        conv(net, net_node(net, "Sigmoid", "s", NET_NO_ATTRS, NET_IN(a)), "b", 3, 3, 1, 1);
    mpq_value_id c =
        conv(net, net_node(net, "Add", "sum", NET_NO_ATTRS, NET_IN(b, x)), "c", 3, 3, 1, 1);
    mpq_value_id clip = net_node(net, "Clip", "clip", NET_NO_ATTRS,
                                 NET_IN(c, net_scalar(net, "low", -1), net_scalar(net, "high", 6)));
    mpq_value_id d = conv(net, clip, "d", 3, 3, 1, 1);
    net_output(net, d); /* read from outside as well */
    net_output(net, conv(net, d, "e", 3, 3, 1, 1));
    assert_int_equal(find(net).equalize.n_edge, 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, net_setup, net_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(convolutions_through_activations_and_pools),
        TEST(branches_that_are_concatenated),
        TEST(concats_that_gains_do_not_pass),
        TEST(pads_of_channels_pass_nothing),
        TEST(weights_are_copied_once),
        TEST(products_and_several_readers),
        TEST(gains_end_at_16_and_dead_channels_have_none),
        TEST(weights_are_weighed_too),
        TEST(only_depthwise_layers_read_a_branch),
        TEST(what_is_not_homogeneous_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
