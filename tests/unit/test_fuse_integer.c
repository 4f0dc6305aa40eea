/* Quantized graphs made to run on integers. That the arithmetic is ONNX Runtime's is shown by
 * tests/golden and tests/e2e; here is what fuses and what does not, and that results stay within a
 * step. */
#include "tests/unit/net.h"

#include <math.h>

static mpq_value_id zero_point(struct net *net, const char *name, enum mpq_dtype dtype, int value)
{
    struct mpq_tensor tensor;
    mpq_value_id v;
    CHECK_OK(&net->ctx, mpq_tensor_alloc(&net->ctx, net->arena, dtype,
                                         &(struct mpq_shape){.rank = 0}, &tensor));
    mpq_tensor_set_int(&tensor, 0, value);
    CHECK_OK(&net->ctx, mpq_graph_add_constant(&net->ctx, net->graph, name, &tensor, &v));
    return v;
}

/* v -> QuantizeLinear -> DequantizeLinear */
static mpq_value_id requantize_as(struct net *net, enum mpq_dtype dtype, mpq_value_id v,
                                  const char *q, const char *out, double scale, int zero)
{
    mpq_value_id s = net_scalar(net, "scale", scale), z = zero_point(net, "zero", dtype, zero);
    mpq_value_id codes = net_node(net, "QuantizeLinear", q, NET_NO_ATTRS, NET_IN(v, s, z));
    net->graph->value[codes].dtype = dtype;
    return net_node(net, "DequantizeLinear", out, NET_NO_ATTRS, NET_IN(codes, s, z));
}

static mpq_value_id requantize(struct net *net, mpq_value_id v, const char *q, const char *out,
                               double scale, int zero)
{
    return requantize_as(net, MPQ_UINT8, v, q, out, scale, zero);
}

/* An int8 weight with one scale, dequantized. */
static mpq_value_id weight(struct net *net, const char *name, const char *out,
                           struct mpq_shape shape, double scale)
{
    struct mpq_tensor tensor;
    mpq_value_id q;
    CHECK_OK(&net->ctx, mpq_tensor_alloc(&net->ctx, net->arena, MPQ_INT8, &shape, &tensor));
    for (int64_t i = 0; i < mpq_shape_count(&shape); i++)
        mpq_tensor_set_int(&tensor, i, (i * 37 + 11) % 255 - 127);
    CHECK_OK(&net->ctx, mpq_graph_add_constant(&net->ctx, net->graph, name, &tensor, &q));
    return net_node(net, "DequantizeLinear", out, NET_NO_ATTRS,
                    NET_IN(q, net_scalar(net, "w_scale", scale)));
}

static struct mpq_graph *fuse(struct net *net)
{
    struct mpq_graph *graph = NULL;
    CHECK_OK(&net->ctx, mpq_fuse_integer(&net->ctx, net->arena, net->graph, &graph));
    CHECK_OK(&net->ctx, mpq_simplify(&net->ctx, net->arena, graph, &graph));
    return graph;
}

static mpq_value_id quantized_input(struct net *net)
{
    return requantize(net, net_input(net, "x", MPQ_SHAPE(-1, 3, 6, 6)), "x_q", "x_dq", 0.03, 128);
}

static mpq_value_id conv(struct net *net, mpq_value_id x, const char *out)
{
    return net_node(net, "Conv", out, NET_ATTRS(NET_INTS("pads", 1, 1, 1, 1)),
                    NET_IN(x, weight(net, "w", "w_dq", MPQ_SHAPE(4, 3, 3, 3), 0.01),
                           net_random(net, "b", MPQ_SHAPE(4), false)));
}

/* A Relu that the zero point implies, and a pooling between it and the rounding. */
static void conv_fuses_with_relu_and_pool(void **state)
{
    struct net *net = *state;
    mpq_value_id y = conv(net, quantized_input(net), "conv");
    y = net_node(net, "Relu", "relu", NET_NO_ATTRS, NET_IN(y));
    y = net_node(net, "MaxPool", "pool",
                 NET_ATTRS(NET_INTS("kernel_shape", 2, 2), NET_INTS("strides", 2, 2)), NET_IN(y));
    net_output(net, requantize(net, y, "y_q", "y", 0.1, 0));
    struct mpq_graph *graph = fuse(net);
    assert_int_equal(net_count(graph, "QLinearConv"), 1);
    assert_int_equal(net_count(graph, "MaxPool"), 1);
    assert_int_equal(net_count(graph, "QuantizeLinear"), 1);
    assert_int_equal(net_count(graph, "DequantizeLinear"), 1);
    assert_int_equal(graph->n_node, 4);
    net_check_same(net, net->graph, graph, 0.1001);
}

/* The Relu cuts where the zero point does not. */
static void relu_that_is_needed_keeps_conv_float(void **state)
{
    struct net *net = *state;
    mpq_value_id y = conv(net, quantized_input(net), "conv");
    y = net_node(net, "Relu", "relu", NET_NO_ATTRS, NET_IN(y));
    net_output(net, requantize(net, y, "y_q", "y", 0.1, 5));
    struct mpq_graph *graph = fuse(net);
    assert_int_equal(net_count(graph, "QLinearConv"), 0);
    assert_int_equal(net_count(graph, "Relu"), 1);
    net_check_same(net, net->graph, graph, 0.1001);
}

/* Somebody reads the float sum. */
static void conv_that_is_read_twice_stays_float(void **state)
{
    struct net *net = *state;
    mpq_value_id y = conv(net, quantized_input(net), "conv");
    net_output(net, net_node(net, "Abs", "abs", NET_NO_ATTRS, NET_IN(y)));
    net_output(net, requantize(net, y, "y_q", "y", 0.1, 5));
    assert_int_equal(net_count(fuse(net), "QLinearConv"), 0);
}

/* Two integer inputs through a Reshape; the sum, a product by a matrix, and a float output. */
static void reshape_add_and_gemm(void **state)
{
    struct net *net = *state;
    static const int64_t target[] = {-1, 108};
    mpq_value_id x = quantized_input(net), shape = net_ints(net, "target", 2, target);
    mpq_value_id flat = net_node(net, "Reshape", "flat", NET_NO_ATTRS, NET_IN(x, shape));
    mpq_value_id sum = net_node(net, "Add", "sum", NET_NO_ATTRS, NET_IN(flat, flat));
    sum = requantize(net, sum, "sum_q", "sum_dq", 0.06, 128);
    mpq_value_id w = weight(net, "w", "w_dq", MPQ_SHAPE(108, 5), 0.01);
    net_output(net, net_node(net, "MatMul", "y", NET_NO_ATTRS, NET_IN(sum, w)));
    struct mpq_graph *graph = fuse(net);
    assert_int_equal(net_count(graph, "QLinearAdd"), 1);
    assert_int_equal(net_count(graph, "MatMulIntegerToFloat"), 1);
    assert_int_equal(net_count(graph, "DequantizeLinear"), 0);
    net_check_same(net, net->graph, graph, 1e-4);
}

/* The same rounding again is no rounding; another scale is one. */
static void repeated_rounding_vanishes(void **state)
{
    struct net *net = *state;
    mpq_value_id x = quantized_input(net);
    x = requantize(net, x, "again_q", "again", 0.03, 128);
    net_output(net, requantize(net, x, "other_q", "other", 0.04, 128));
    struct mpq_graph *graph = fuse(net);
    assert_int_equal(net_count(graph, "QuantizeLinear"), 2);
    net_check_same(net, net->graph, graph, 1e-6);
}

/* int8 that one node reads runs as uint8; int8 that two read stays, and keeps a Conv float. */
static void signed_activations(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 3, 6, 6));
    x = requantize_as(net, MPQ_INT8, x, "x_q", "x_dq", 0.03, 0);
    mpq_value_id y = requantize_as(net, MPQ_INT8, conv(net, x, "conv"), "y_q", "y_dq", 0.1, -5);
    mpq_value_id w = weight(net, "w2", "w2_dq", MPQ_SHAPE(2, 4, 1, 1), 0.01);
    mpq_value_id z = net_node(net, "Conv", "again", NET_NO_ATTRS, NET_IN(y, w));
    net_output(net, requantize_as(net, MPQ_INT8, z, "z_q", "z_dq", 0.2, 3));
    struct mpq_graph *graph = fuse(net);
    assert_int_equal(net_count(graph, "QLinearConv"), 2);
    net_check_same(net, net->graph, graph, 0.2001);
    net_output(net, net_node(net, "Abs", "abs", NET_NO_ATTRS, NET_IN(y)));
    assert_int_equal(net_count(fuse(net), "QLinearConv"), 0);
}

/* A bias in float becomes int32; one in other units than x_scale * w_scale keeps the Conv float. */
static void bias_units(void **state)
{
    struct net *net = *state;
    struct mpq_tensor tensor;
    mpq_value_id q;
    CHECK_OK(&net->ctx, mpq_tensor_alloc(&net->ctx, net->arena, MPQ_INT32, &MPQ_SHAPE(4), &tensor));
    CHECK_OK(&net->ctx, mpq_graph_add_constant(&net->ctx, net->graph, "b", &tensor, &q));
    mpq_value_id bias = net_node(net, "DequantizeLinear", "b_dq", NET_NO_ATTRS,
                                 NET_IN(q, net_scalar(net, "unit", 0.0004)));
    mpq_value_id y = net_node(
        net, "Conv", "conv", NET_NO_ATTRS,
        NET_IN(quantized_input(net), weight(net, "w", "w_dq", MPQ_SHAPE(4, 3, 3, 3), 0.01), bias));
    net_output(net, requantize(net, y, "y_q", "y", 0.1, 5));
    assert_int_equal(net_count(fuse(net), "QLinearConv"), 0); /* 0.0003 would be right */
}

static void float_graph_stays(void **state)
{
    struct net *net = *state;
    struct mpq_graph *graph = NULL;
    net_output(net, net_node(net, "Relu", "y", NET_NO_ATTRS,
                             NET_IN(net_input(net, "x", MPQ_SHAPE(-1, 4)))));
    CHECK_OK(&net->ctx, mpq_fuse_integer(&net->ctx, net->arena, net->graph, &graph));
    assert_int_equal(graph->n_node, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(conv_fuses_with_relu_and_pool, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(relu_that_is_needed_keeps_conv_float, net_setup,
                                        net_teardown),
        cmocka_unit_test_setup_teardown(conv_that_is_read_twice_stays_float, net_setup,
                                        net_teardown),
        cmocka_unit_test_setup_teardown(reshape_add_and_gemm, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(repeated_rounding_vanishes, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(signed_activations, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(bias_units, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(float_graph_stays, net_setup, net_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
