#include "tests/unit/net.h"

#include <string.h>

static const struct mpq_shape image = {4, {-1, 3, 8, 8}};

static const struct mpq_node *producer(const struct mpq_graph *graph, mpq_value_id v)
{
    assert_int_not_equal(graph->value[v].producer, MPQ_NO_NODE);
    return &graph->node[graph->value[v].producer];
}

static mpq_value_id batchnorm(struct net *net, mpq_value_id x, int64_t channels, const char *out)
{
    return net_node(net, "BatchNormalization", out, NET_ATTRS(NET_FLOAT("epsilon", 1e-3f)),
                    NET_IN(x, net_random(net, "bn.weight", MPQ_SHAPE(channels), false),
                           net_random(net, "bn.bias", MPQ_SHAPE(channels), false),
                           net_random(net, "bn.mean", MPQ_SHAPE(channels), false),
                           net_random(net, "bn.var", MPQ_SHAPE(channels), true)));
}

static void batchnorm_into_conv(void **state)
{
    struct net *net = *state;
    mpq_value_id w = net_random(net, "conv.weight", MPQ_SHAPE(4, 3, 3, 3), false);
    mpq_value_id y = net_node(net, "Conv", "conv_out", NET_ATTRS(NET_INTS("pads", 1, 1, 1, 1)),
                              NET_IN(net_input(net, "x", image), w));
    net_output(net, y = batchnorm(net, y, 4, "bn_out"));
    struct mpq_graph *graph = net_simplify(net);
    assert_int_equal(graph->n_node, 1);
    const struct mpq_node *conv = producer(graph, y);
    assert_int_equal(conv->n_in, 3);
    assert_int_equal(conv->in[1], w); /* the name survives */
    assert_string_equal(graph->value[conv->in[2]].name, "bn.bias");
    assert_null(graph->value[mpq_graph_find(graph, "bn.mean")].constant);
    net_check_same(net, net->graph, graph, 1e-5);
}

static void batchnorm_into_conv_with_bias(void **state)
{
    struct net *net = *state;
    mpq_value_id b = net_random(net, "conv.bias", MPQ_SHAPE(4), false);
    mpq_value_id y =
        net_node(net, "Conv", "conv_out", NET_ATTRS(NET_INT("group", 1)),
                 NET_IN(net_input(net, "x", image),
                        net_random(net, "conv.weight", MPQ_SHAPE(4, 3, 3, 3), false), b));
    net_output(net, y = batchnorm(net, y, 4, "bn_out"));
    struct mpq_graph *graph = net_simplify(net);
    assert_int_equal(graph->n_node, 1);
    assert_int_equal(producer(graph, y)->in[2], b);
    net_check_same(net, net->graph, graph, 1e-5);
}

static void batchnorm_into_grouped_transposed_conv(void **state)
{
    struct net *net = *state;
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(4, 3, 2, 2), false); /* 2 groups of 2 -> 3 */
    mpq_value_id y = net_node(net, "ConvTranspose", "up", NET_ATTRS(NET_INT("group", 2)),
                              NET_IN(net_input(net, "x", MPQ_SHAPE(-1, 4, 3, 3)), w));
    net_output(net, batchnorm(net, y, 6, "y"));
    struct mpq_graph *graph = net_simplify(net);
    assert_int_equal(graph->n_node, 1);
    net_check_same(net, net->graph, graph, 1e-5);
}

/* Somebody else sees the value before the normalization. */
static void batchnorm_stays_where_conv_is_read_twice(void **state)
{
    struct net *net = *state;
    mpq_value_id y = net_node(
        net, "Conv", "conv_out", NET_NO_ATTRS,
        NET_IN(net_input(net, "x", image), net_random(net, "w", MPQ_SHAPE(4, 3, 3, 3), false)));
    net_output(net, y);
    net_output(net, batchnorm(net, y, 4, "bn_out"));
    struct mpq_graph *graph = net_simplify(net);
    assert_int_equal(net_count(graph, "BatchNormalization"), 1);
}

static void shared_weight_is_not_scaled(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", image);
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(4, 3, 3, 3), false);
    net_output(net, batchnorm(net, net_node(net, "Conv", "a", NET_NO_ATTRS, NET_IN(x, w)), 4, "A"));
    net_output(net, net_node(net, "Conv", "b", NET_NO_ATTRS, NET_IN(x, w)));
    struct mpq_graph *graph = net_simplify(net);
    assert_int_equal(net_count(graph, "BatchNormalization"), 1);
    net_check_same(net, net->graph, graph, 1e-6);
}

static void arithmetic_into_conv(void **state)
{
    struct net *net = *state;
    mpq_value_id y = net_node(
        net, "Conv", "conv", NET_NO_ATTRS,
        NET_IN(net_input(net, "x", image), net_random(net, "w", MPQ_SHAPE(4, 3, 3, 3), false)));
    y = net_node(net, "Mul", "mul", NET_NO_ATTRS,
                 NET_IN(net_random(net, "scale", MPQ_SHAPE(1, 4, 1, 1), false), y));
    y = net_node(net, "Add", "add", NET_NO_ATTRS,
                 NET_IN(y, net_random(net, "bias", MPQ_SHAPE(4, 1, 1), false)));
    y = net_node(net, "Sub", "sub", NET_NO_ATTRS, NET_IN(net_scalar(net, "one", 1), y));
    y = net_node(net, "Div", "div", NET_NO_ATTRS, NET_IN(y, net_scalar(net, "three", 3)));
    net_output(net, y);
    struct mpq_graph *graph = net_simplify(net);
    assert_int_equal(graph->n_node, 1);
    assert_string_equal(graph->value[graph->node[0].in[2]].name, "bias");
    net_check_same(net, net->graph, graph, 1e-5);
}

/* [8] broadcasts along the width, not the 4 channels; so does [4,1] along the height. */
static void arithmetic_that_is_not_per_channel_stays(void **state)
{
    struct net *net = *state;
    mpq_value_id y = net_node(net, "Conv", "conv", NET_ATTRS(NET_INTS("pads", 1, 1, 1, 1)),
                              NET_IN(net_input(net, "x", MPQ_SHAPE(-1, 3, 4, 4)),
                                     net_random(net, "w", MPQ_SHAPE(4, 3, 3, 3), false)));
    y = net_node(net, "Add", "a", NET_NO_ATTRS,
                 NET_IN(y, net_random(net, "row", MPQ_SHAPE(4), false)));
    y = net_node(net, "Add", "b", NET_NO_ATTRS,
                 NET_IN(y, net_random(net, "column", MPQ_SHAPE(4, 1), false)));
    net_output(net, y);
    struct mpq_graph *graph = net_simplify(net);
    assert_int_equal(net_count(graph, "Add"), 2);
}

static void matmul_and_add_become_gemm(void **state)
{
    struct net *net = *state;
    mpq_value_id y = net_node(net, "MatMul", "product", NET_NO_ATTRS,
                              NET_IN(net_input(net, "x", MPQ_SHAPE(-1, 5)),
                                     net_random(net, "w", MPQ_SHAPE(5, 4), false)));
    net_output(net, y = net_node(net, "Add", "y", NET_NO_ATTRS,
                                 NET_IN(y, net_random(net, "b", MPQ_SHAPE(1, 4), false))));
    struct mpq_graph *graph = net_simplify(net);
    assert_int_equal(graph->n_node, 1);
    assert_string_equal(producer(graph, y)->op_type, "Gemm");
    assert_string_equal(graph->value[producer(graph, y)->in[2]].name, "b");
    net_check_same(net, net->graph, graph, 1e-6);
}

/* Gemm takes matrices only; a factor needs no bias and is folded all the same. */
static void batched_matmul_keeps_its_add(void **state)
{
    struct net *net = *state;
    mpq_value_id y = net_node(net, "MatMul", "product", NET_NO_ATTRS,
                              NET_IN(net_input(net, "x", MPQ_SHAPE(-1, 3, 5)),
                                     net_random(net, "w", MPQ_SHAPE(5, 4), false)));
    y = net_node(net, "Mul", "m", NET_NO_ATTRS,
                 NET_IN(y, net_random(net, "scale", MPQ_SHAPE(4), false)));
    net_output(net, net_node(net, "Add", "y", NET_NO_ATTRS,
                             NET_IN(y, net_random(net, "b", MPQ_SHAPE(4), false))));
    struct mpq_graph *graph = net_simplify(net);
    assert_int_equal(net_count(graph, "MatMul"), 1);
    assert_int_equal(net_count(graph, "Mul"), 0);
    assert_int_equal(net_count(graph, "Add"), 1);
    net_check_same(net, net->graph, graph, 1e-5);
}

static void gemm_with_factors(void **state)
{
    struct net *net = *state;
    mpq_value_id y =
        net_node(net, "Gemm", "g",
                 NET_ATTRS(NET_FLOAT("alpha", 0.5f), NET_FLOAT("beta", 3.0f), NET_INT("transB", 1)),
                 NET_IN(net_input(net, "x", MPQ_SHAPE(-1, 5)),
                        net_random(net, "w", MPQ_SHAPE(4, 5), false), net_scalar(net, "b", 0.7)));
    net_output(net, batchnorm(net, y, 4, "y"));
    struct mpq_graph *graph = net_simplify(net);
    assert_int_equal(graph->n_node, 1);
    net_check_same(net, net->graph, graph, 1e-5);
}

/* Zero pads, asymmetric, on top of the Conv's own. */
static void pad_into_conv(void **state)
{
    struct net *net = *state;
    mpq_value_id pads = net_ints(net, "pads", 8, (int64_t[]){0, 0, 0, 1, 0, 0, 2, 1});
    mpq_value_id y =
        net_node(net, "Pad", "padded", NET_NO_ATTRS, NET_IN(net_input(net, "x", image), pads));
    net_output(net, net_node(net, "Conv", "y", NET_ATTRS(NET_INTS("pads", 0, 0, 1, 0)),
                             NET_IN(y, net_random(net, "w", MPQ_SHAPE(4, 3, 3, 3), false))));
    struct mpq_graph *graph = net_simplify(net);
    assert_int_equal(graph->n_node, 1);
    size_t n;
    const int64_t *total = mpq_attr_ints(&graph->node[0].attr_set, "pads", &n);
    assert_int_equal(n, 4);
    assert_memory_equal(total, ((int64_t[]){0, 1, 3, 1}), sizeof(int64_t[4]));
    net_check_same(net, net->graph, graph, 1e-6);
}

/* A Conv after Pad(x, pads, value, axes) with a mode; whether the Pad is folded. */
static void check_pad(struct net *net, const int64_t pads[8], double value, const char *mode,
                      struct mpq_attr conv_attr, size_t expected_pads)
{
    struct mpq_attr attr = NET_STRING("mode", "constant");
    attr.s = mode;
    attr.n = strlen(mode);
    mpq_value_id y = net_node(net, "Pad", "padded", 1, &attr,
                              NET_IN(net_input(net, "x", image), net_ints(net, "pads", 8, pads),
                                     net_scalar(net, "value", value)));
    net_output(net, net_node(net, "Conv", "y", NET_ATTRS(conv_attr),
                             NET_IN(y, net_random(net, "w", MPQ_SHAPE(4, 3, 3, 3), false))));
    struct mpq_graph *graph = net_simplify(net);
    assert_int_equal(net_count(graph, "Pad"), expected_pads);
    net_check_same(net, net->graph, graph, 1e-6);
}

static const int64_t one_around[8] = {0, 0, 1, 1, 0, 0, 1, 1};

static void pad_by_value_stays(void **state)
{
    check_pad(*state, one_around, 0.5, "constant", NET_INT("group", 1), 1);
}

static void pad_that_crops_stays(void **state)
{
    check_pad(*state, (int64_t[]){0, 0, -1, 1, 0, 0, 1, 1}, 0, "constant", NET_INT("group", 1), 1);
}

static void pad_by_reflection_stays(void **state)
{
    check_pad(*state, one_around, 0, "reflect", NET_INT("group", 1), 1);
}

static void pad_before_same_stays(void **state)
{
    check_pad(*state, one_around, 0, "constant", NET_STRING("auto_pad", "SAME_UPPER"), 1);
}

static void pad_before_valid_goes(void **state)
{
    check_pad(*state, one_around, 0, "constant", NET_STRING("auto_pad", "VALID"), 0);
}

static void check_pool(struct net *net, const char *op_type, const char *before,
                       struct mpq_attr attr, size_t expected_pads)
{
    mpq_value_id y = net_input(net, "x", image);
    if (before)
        y = net_node(net, before, "before", NET_NO_ATTRS, NET_IN(y));
    y = net_node(net, "Pad", "padded", NET_NO_ATTRS,
                 NET_IN(y, net_ints(net, "pads", 8, one_around)));
    net_output(net,
               net_node(net, op_type, "y",
                        NET_ATTRS(NET_INTS("kernel_shape", 3, 3), NET_INTS("strides", 2, 2), attr),
                        NET_IN(y)));
    struct mpq_graph *graph = net_simplify(net);
    assert_int_equal(net_count(graph, "Pad"), expected_pads);
    net_check_same(net, net->graph, graph, 1e-6);
}

static void pad_into_averagepool(void **state)
{
    check_pool(*state, "AveragePool", NULL, NET_INT("ceil_mode", 0), 0);
}

/* The pool's own pads are not counted, those of the Pad are. */
static void pad_before_padded_averagepool_stays(void **state)
{
    check_pool(*state, "AveragePool", NULL, NET_INTS("pads", 1, 1, 1, 1), 1);
}

static void pad_into_maxpool_after_relu(void **state)
{
    check_pool(*state, "MaxPool", "Relu", NET_INT("ceil_mode", 0), 0);
}

static void pad_before_maxpool_of_negatives_stays(void **state)
{
    check_pool(*state, "MaxPool", NULL, NET_INT("ceil_mode", 0), 1);
}

static mpq_value_id transpose(struct net *net, mpq_value_id x, bool to_nhwc, const char *out)
{
    return to_nhwc
               ? net_node(net, "Transpose", out, NET_ATTRS(NET_INTS("perm", 0, 2, 3, 1)), NET_IN(x))
               : net_node(net, "Transpose", out, NET_ATTRS(NET_INTS("perm", 0, 3, 1, 2)),
                          NET_IN(x));
}

/* A channels-last residual block as tf2onnx writes it: every Conv between two Transposes, bias and
 * join in NHWC. One Transpose remains at either end. */
static void transposes_meet(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 6, 5, 4));
    mpq_value_id w1 = net_random(net, "w1", MPQ_SHAPE(4, 4, 1, 1), false);
    mpq_value_id w2 = net_random(net, "w2", MPQ_SHAPE(4, 4, 1, 1), false);
    mpq_value_id y =
        net_node(net, "Conv", "c1", NET_NO_ATTRS, NET_IN(transpose(net, x, false, "t1"), w1));
    y = net_node(net, "Relu", "relu1", NET_NO_ATTRS, NET_IN(transpose(net, y, true, "t2")));
    mpq_value_id shortcut = y;
    y = net_node(net, "Conv", "c2", NET_NO_ATTRS, NET_IN(transpose(net, y, false, "t3"), w2));
    y = net_node(net, "Add", "biased", NET_NO_ATTRS,
                 NET_IN(transpose(net, y, true, "t4"), net_random(net, "b", MPQ_SHAPE(4), false)));
    y = net_node(net, "Add", "joined", NET_NO_ATTRS, NET_IN(y, shortcut));
    y = net_node(net, "Concat", "both", NET_ATTRS(NET_INT("axis", -1)), NET_IN(y, shortcut));
    net_output(net, net_node(net, "Mul", "y", NET_NO_ATTRS,
                             NET_IN(y, net_random(net, "map", MPQ_SHAPE(5, 8), false))));
    struct mpq_graph *graph = net_simplify(net);
    net_check_same(net, net->graph, graph, 1e-5);
    assert_int_equal(net_count(graph, "Transpose"), 2);
    assert_int_equal(net_count(graph, "Add"), 1); /* the bias went into the Conv */
}

/* Three turns of three axes are none, two are one in the other direction. */
static void transposes_add_up(void **state)
{
    struct net *net = *state;
    struct mpq_attr turn = NET_INTS("perm", 1, 2, 0);
    mpq_value_id y = net_input(net, "x", MPQ_SHAPE(2, 3, 4));
    y = net_node(net, "Transpose", "t1", 1, &turn, NET_IN(y));
    y = net_node(net, "Transpose", "t2", 1, &turn, NET_IN(y));
    net_output(net, y);
    net_output(net, net_node(net, "Relu", "r", NET_NO_ATTRS,
                             NET_IN(net_node(net, "Transpose", "t3", 1, &turn, NET_IN(y)))));
    struct mpq_attr swap = NET_INTS("perm", 0, 2, 1);
    y = net_node(net, "Transpose", "t4", 1, &swap, NET_IN(y));
    net_output(net, net_node(net, "Exp", "e", NET_NO_ATTRS, NET_IN(y)));
    struct mpq_graph *graph = net_simplify(net);
    assert_int_equal(net_count(graph, "Transpose"), 2);
    net_check_same(net, net->graph, graph, 0);
}

static void idle_nodes_go(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 4));
    mpq_value_id y = net_node(net, "Identity", "i1", NET_NO_ATTRS, NET_IN(x));
    y = net_node(net, "Dropout", "d", NET_NO_ATTRS, NET_IN(y));
    net_node(net, "Exp", "unread", NET_NO_ATTRS, NET_IN(y));
    mpq_value_id r = net_node(net, "Relu", "r", NET_NO_ATTRS, NET_IN(y));
    net_node(net, "Neg", "unread too", NET_NO_ATTRS, NET_IN(r));
    y = net_node(net, "Identity", "y", NET_NO_ATTRS, NET_IN(r));
    net_output(net, y);
    net_output(net, net_node(net, "Identity", "copy", NET_NO_ATTRS, NET_IN(x)));
    struct mpq_graph *graph = net_simplify(net);
    assert_int_equal(graph->n_node, 2); /* the input itself cannot be the output "copy" */
    assert_int_equal(net_count(graph, "Identity"), 1);
    assert_int_equal(graph->output[0], y);
    assert_string_equal(producer(graph, y)->op_type, "Relu");
}

static void training_dropout_stays(void **state)
{
    struct net *net = *state;
    mpq_value_id training = net_ints(net, "training", 1, (int64_t[]){1});
    net_output(net,
               net_node(net, "Dropout", "y", NET_NO_ATTRS,
                        NET_IN(net_input(net, "x", MPQ_SHAPE(-1, 4)), MPQ_NO_VALUE, training)));
    assert_int_equal(net_count(net_simplify(net), "Dropout"), 1);
}

static void constants_are_folded(void **state)
{
    struct net *net = *state;
    mpq_value_id a = net_random(net, "a", MPQ_SHAPE(4), true);
    mpq_value_id b = net_node(net, "Sqrt", "b", NET_NO_ATTRS, NET_IN(a));
    mpq_value_id c = net_node(net, "Mul", "c", NET_NO_ATTRS, NET_IN(a, b));
    net_output(net, net_node(net, "Mul", "y", NET_NO_ATTRS,
                             NET_IN(net_input(net, "x", MPQ_SHAPE(-1, 4)), c)));
    net_output(net, net_node(net, "Neg", "constant output", NET_NO_ATTRS, NET_IN(b)));
    struct mpq_graph *graph = net_simplify(net);
    assert_int_equal(graph->n_node, 2);
    assert_non_null(graph->value[c].constant);
    CHECK_NEAR(mpq_tensor_double(graph->value[c].constant, 1),
               pow(mpq_tensor_double(net->graph->value[a].constant, 1), 1.5), 1e-6, 0);
    net_check_same(net, net->graph, graph, 1e-6);
}

/* 300 x 300 floats out of 600 are not worth their place in the file. */
static void giants_are_not_folded(void **state)
{
    struct net *net = *state;
    mpq_value_id giant = net_node(net, "Mul", "giant", NET_NO_ATTRS,
                                  NET_IN(net_random(net, "a", MPQ_SHAPE(300, 1), false),
                                         net_random(net, "b", MPQ_SHAPE(1, 300), false)));
    net_output(net, net_node(net, "Mul", "y", NET_NO_ATTRS,
                             NET_IN(net_input(net, "x", MPQ_SHAPE(300, 300)), giant)));
    assert_int_equal(net_count(net_simplify(net), "Mul"), 2);
}

/* Only what the structure tells can be done: nobody knows Mystery's shape. */
static void unknown_operators_are_kept(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_node(net, "Mystery", "m", NET_NO_ATTRS,
                              NET_IN(net_input(net, "x", (struct mpq_shape){.rank = -1})));
    x = net_node(net, "Identity", "i", NET_NO_ATTRS, NET_IN(x));
    mpq_value_id y = net_node(net, "Conv", "c", NET_NO_ATTRS,
                              NET_IN(x, net_random(net, "w", MPQ_SHAPE(4, 3, 3, 3), false)));
    net_output(net, batchnorm(net, y, 4, "y"));
    struct mpq_graph *graph = net_simplify(net);
    assert_int_equal(graph->n_node, 2);
    assert_int_equal(net->ctx.status, MPQ_OK);
}

/* A graph inside an attribute may read any value by name. */
static void inner_graphs_pin_all_values(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 4));
    net_node(net, "Identity", "named inside", NET_NO_ATTRS, NET_IN(x));
    struct mpq_attr inner = {.name = "then_branch", .kind = MPQ_ATTR_OPAQUE};
    net_output(net, net_node(net, "If", "y", NET_ATTRS(inner), NET_IN(x)));
    assert_int_equal(net_simplify(net)->n_node, 2);
}

static void simplify_survives_lack_of_memory(void **state)
{
    struct net *net = *state;
    mpq_value_id y = net_node(
        net, "Conv", "conv_out", NET_NO_ATTRS,
        NET_IN(net_input(net, "x", image), net_random(net, "w", MPQ_SHAPE(4, 3, 3, 3), false)));
    net_output(net, batchnorm(net, y, 4, "y"));
    for (long n = 0;; n++) {
        struct mpq_graph *graph;
        net->ctx.allocations_left = n;
        enum mpq_status status = mpq_simplify(&net->ctx, net->arena, net->graph, &graph);
        net->ctx.allocations_left = -1;
        if (status == MPQ_OK) {
            assert_true(n > 10);
            assert_int_equal(graph->n_node, 1);
            return;
        }
        assert_int_equal(status, MPQ_E_NOMEM);
        assert_int_equal(net->ctx.status, MPQ_E_NOMEM);
        mpq_ctx_clear(&net->ctx);
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, net_setup, net_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(batchnorm_into_conv),
        TEST(batchnorm_into_conv_with_bias),
        TEST(batchnorm_into_grouped_transposed_conv),
        TEST(batchnorm_stays_where_conv_is_read_twice),
        TEST(shared_weight_is_not_scaled),
        TEST(arithmetic_into_conv),
        TEST(arithmetic_that_is_not_per_channel_stays),
        TEST(matmul_and_add_become_gemm),
        TEST(batched_matmul_keeps_its_add),
        TEST(gemm_with_factors),
        TEST(pad_into_conv),
        TEST(pad_by_value_stays),
        TEST(pad_that_crops_stays),
        TEST(pad_by_reflection_stays),
        TEST(pad_before_same_stays),
        TEST(pad_before_valid_goes),
        TEST(pad_into_averagepool),
        TEST(pad_before_padded_averagepool_stays),
        TEST(pad_into_maxpool_after_relu),
        TEST(pad_before_maxpool_of_negatives_stays),
        TEST(transposes_meet),
        TEST(transposes_add_up),
        TEST(idle_nodes_go),
        TEST(training_dropout_stays),
        TEST(constants_are_folded),
        TEST(giants_are_not_folded),
        TEST(unknown_operators_are_kept),
        TEST(inner_graphs_pin_all_values),
        TEST(simplify_survives_lack_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
