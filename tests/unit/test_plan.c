/* The layer table, the activation plan and the fake quantization that follows from it. */
#include "tests/unit/net.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct plan {
    struct mpq_binding binding;
    struct mpq_layer_table layers;
    struct mpq_act_plan act;
};

static struct plan build(struct net *net)
{
    struct plan plan;
    CHECK_OK(&net->ctx, mpq_graph_check(&net->ctx, net->graph));
    CHECK_OK(&net->ctx, mpq_bind_batch(&net->ctx, net->arena, net->graph, 1, &plan.binding));
    CHECK_OK(&net->ctx,
             mpq_layer_table_build(&net->ctx, net->arena, net->graph, &plan.binding, &plan.layers));
    CHECK_OK(&net->ctx, mpq_act_plan_build(&net->ctx, net->arena, net->graph, &plan.binding,
                                           &plan.layers, (struct mpq_act_rules){0}, &plan.act));
    return plan;
}

static struct mpq_act_plan plan_by(struct net *net, struct plan *plan, struct mpq_act_rules rules)
{
    struct mpq_act_plan act;
    CHECK_OK(&net->ctx, mpq_act_plan_build(&net->ctx, net->arena, net->graph, &plan->binding,
                                           &plan->layers, rules, &act));
    return act;
}

static mpq_value_id gemm(struct net *net, mpq_value_id x, const char *name, int64_t in, int64_t out)
{
    char weight[64], bias[64];
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    return net_node(net, "Gemm", name, NET_ATTRS(NET_INT("transB", 1)),
                    NET_IN(x, net_random(net, weight, MPQ_SHAPE(out, in), false),
                           net_random(net, bias, MPQ_SHAPE(out), false)));
}

static void check_rejected(struct net *net, const char *part)
{
    struct plan plan = build(net);
    assert_int_equal(plan.layers.n_layer, 0);
    assert_int_equal(plan.layers.n_rejected, 1);
    if (!strstr(plan.layers.rejected[0].reason, part))
        fail_msg("\"%s\" does not say \"%s\"", plan.layers.rejected[0].reason, part);
}

static void layers_in_order(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 8));
    mpq_value_id a = gemm(net, x, "a", 8, 10);
    mpq_value_id r = net_node(net, "Relu", "r", NET_NO_ATTRS, NET_IN(a));
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(10, 6), false);
    mpq_value_id b = net_node(net, "MatMul", "b", NET_NO_ATTRS, NET_IN(r, w));
    net_output(net, net_node(net, "Softmax", "y", NET_NO_ATTRS, NET_IN(b)));
    struct plan plan = build(net);
    assert_int_equal(plan.layers.n_layer, 2);
    assert_int_equal(plan.layers.n_rejected, 0);
    const struct mpq_layer *one = &plan.layers.layer[0], *two = &plan.layers.layer[1];
    assert_string_equal(one->name, "a");
    assert_int_equal(one->x, x);
    assert_int_equal(one->y, r); /* after the activation */
    assert_int_equal(one->n_outer, 1);
    assert_int_equal(one->n_channel, 10);
    assert_int_equal(one->n_inner, 8);
    assert_int_equal(one->n_param, 80);
    assert_int_equal(one->macs, 80);
    assert_int_equal(two->n_outer, 10);
    assert_int_equal(two->n_channel, 6);
    assert_int_equal(two->n_inner, 1);
    assert_int_equal(two->weight, w);
    assert_int_equal(two->bias, MPQ_NO_VALUE);
    assert_int_equal(two->y, b);
}

static void depthwise_conv(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 4, 8, 8));
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(8, 1, 3, 3), false);
    mpq_value_id y = net_node(net, "Conv", "y", NET_ATTRS(NET_INT("group", 4)), NET_IN(x, w));
    net_output(net, y);
    struct plan plan = build(net);
    assert_int_equal(plan.layers.n_layer, 1);
    assert_true(plan.layers.layer[0].is_depthwise);
    assert_int_equal(plan.layers.layer[0].n_channel, 8);
    assert_int_equal(plan.layers.layer[0].n_inner, 9);
    assert_int_equal(plan.layers.layer[0].macs, 8 * 9 * 36);
}

/* w[n_outer][n_channel][n_inner], without integer kernels: x and y stay float, no bias. */
static void check_weight_only(const struct mpq_layer *layer, int64_t n_outer, int64_t n_channel,
                              int64_t n_inner)
{
    assert_true(layer->is_weight_only);
    assert_int_equal(layer->bias, MPQ_NO_VALUE);
    assert_int_equal(layer->n_outer, n_outer);
    assert_int_equal(layer->n_channel, n_channel);
    assert_int_equal(layer->n_inner, n_inner);
    assert_int_equal(layer->n_param, n_outer * n_channel * n_inner);
}

/* The one layer of a net whose activations all stay float. */
static struct mpq_layer only_layer(struct net *net)
{
    struct plan plan = build(net);
    assert_int_equal(plan.layers.n_layer, 1);
    assert_int_equal(plan.layers.n_rejected, 0);
    assert_int_equal(plan.act.n_group, 0);
    return plan.layers.layer[0];
}

static void shared_weights_are_one_layer(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 8));
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(8, 8), false);
    mpq_value_id a = net_node(net, "MatMul", "a", NET_NO_ATTRS, NET_IN(x, w));
    net_output(net, net_node(net, "MatMul", "b", NET_NO_ATTRS, NET_IN(a, w)));
    struct mpq_layer layer = only_layer(net);
    check_weight_only(&layer, 8, 8, 1);
    assert_string_equal(layer.name, "a");
    assert_int_equal(layer.x, x);
}

/* The table of an embedding that the last layer reads transposed; it is the same layer with and
 * without shapes. Large enough, or it would be folded into two. */
static void a_transposed_table_is_one_layer(void **state)
{
    struct net *net = *state;
    mpq_value_id ids = net_input(net, "ids", MPQ_SHAPE(-1, 7));
    net->graph->value[ids].dtype = MPQ_INT64;
    mpq_value_id table = net_random(net, "table", MPQ_SHAPE(512, 33), false);
    mpq_value_id e = net_node(net, "Gather", "e", NET_NO_ATTRS, NET_IN(table, ids));
    mpq_value_id t =
        net_node(net, "Transpose", "t", NET_ATTRS(NET_INTS("perm", 1, 0)), NET_IN(table));
    net_output(net, net_node(net, "MatMul", "y", NET_NO_ATTRS, NET_IN(e, t)));
    net->graph = net_simplify(net);
    assert_int_equal(net_count(net->graph, "Transpose"), 1);
    struct mpq_layer layer = only_layer(net);
    assert_true(layer.is_weight_only);
    assert_int_equal(layer.weight, table);
    struct mpq_layer_table layers;
    CHECK_OK(&net->ctx, mpq_layer_table_build(&net->ctx, net->arena, net->graph, NULL, &layers));
    assert_int_equal(layers.n_layer, 1);
}

static void a_weight_that_is_also_an_operand_is_rejected(void **state)
{
    struct net *net = *state;
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(8, 8), false);
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(8, 8));
    mpq_value_id a = net_node(net, "MatMul", "a", NET_NO_ATTRS, NET_IN(x, w));
    net_output(net, net_node(net, "Add", "b", NET_NO_ATTRS, NET_IN(a, w)));
    struct plan plan = build(net);
    assert_int_equal(plan.layers.n_layer, 0);
    assert_string_equal(plan.layers.rejected[0].reason, "its weight is shared with node 'b' (Add)");
}

static void left_weights_are_weight_only(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 40, 3));
    net_output(net, net_node(net, "MatMul", "y", NET_NO_ATTRS,
                             NET_IN(net_random(net, "w", MPQ_SHAPE(32, 40), false), x)));
    struct mpq_layer layer = only_layer(net);
    check_weight_only(&layer, 1, 32, 40);
    struct mpq_layer_input in = mpq_layer_input(&layer, &MPQ_SHAPE(5, 40, 3));
    assert_int_equal(in.outer, 5);
    assert_int_equal(in.n, 40);
    assert_int_equal(in.inner, 3);
}

static void small_left_weights_are_rejected(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(8, 3));
    net_output(net, net_node(net, "MatMul", "y", NET_NO_ATTRS,
                             NET_IN(net_random(net, "w", MPQ_SHAPE(8, 8), false), x)));
    check_rejected(net, "is small");
}

static void infinite_weights_are_rejected(void **state)
{
    struct net *net = *state;
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(8, 8), false);
    mpq_tensor_set_double((struct mpq_tensor *)net->graph->value[w].constant, 5, -INFINITY);
    net_output(net, net_node(net, "MatMul", "y", NET_NO_ATTRS,
                             NET_IN(net_input(net, "x", MPQ_SHAPE(3, 8)), w)));
    check_rejected(net, "infinite");
}

static void a_computed_bias_leaves_the_weight_alone(void **state)
{
    struct net *net = *state;
    mpq_value_id b = net_input(net, "b", MPQ_SHAPE(8));
    net_output(net, net_node(net, "Gemm", "y", NET_NO_ATTRS,
                             NET_IN(net_input(net, "x", MPQ_SHAPE(3, 8)),
                                    net_random(net, "w", MPQ_SHAPE(8, 8), false), b)));
    struct mpq_layer layer = only_layer(net);
    check_weight_only(&layer, 8, 8, 1);
}

static void transposed_convolutions(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 16, 5, 5));
    mpq_value_id a = net_node(net, "ConvTranspose", "a", NET_NO_ATTRS,
                              NET_IN(x, net_random(net, "w", MPQ_SHAPE(16, 8, 3, 3), false)));
    mpq_value_id b = net_node(net, "ConvTranspose", "b", NET_ATTRS(NET_INT("group", 2)),
                              NET_IN(a, net_random(net, "v", MPQ_SHAPE(8, 16, 3, 3), false)));
    net_output(net, b);
    struct plan plan = build(net);
    assert_int_equal(plan.layers.n_layer, 2);
    check_weight_only(&plan.layers.layer[0], 16, 8, 9);
    check_weight_only(&plan.layers.layer[1], 1, 8, 144); /* by input channel */
    assert_int_equal(plan.layers.layer[1].n_group, 8);
    assert_int_equal(plan.act.n_group, 0);
}

static void recurrent_nodes_have_two_layers(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(7, 1, 12));
    const struct mpq_attr attrs[] = {NET_INT("hidden_size", 20),
                                     NET_STRING("direction", "bidirectional")};
    mpq_value_id y = net_node(net, "GRU", "y", MPQ_COUNT(attrs), attrs,
                              NET_IN(x, net_random(net, "w", MPQ_SHAPE(2, 60, 12), false),
                                     net_random(net, "r", MPQ_SHAPE(2, 60, 20), false)));
    net_output(net, y);
    struct plan plan = build(net);
    assert_int_equal(plan.layers.n_layer, 2);
    const struct mpq_layer *w = &plan.layers.layer[0], *r = &plan.layers.layer[1];
    check_weight_only(w, 1, 120, 12);
    check_weight_only(r, 1, 120, 20);
    assert_string_equal(w->name, "y.W");
    assert_string_equal(r->name, "y.R");
    assert_int_equal(w->x, x);
    assert_int_equal(w->macs, 7 * 120 * 12);
    assert_int_equal(r->macs, 7 * 120 * 20);
    /* R sees the states of its own direction. */
    assert_int_equal(r->x, y);
    assert_int_equal(r->n_group, 2);
    struct mpq_layer_input in = mpq_layer_input(r, &MPQ_SHAPE(7, 2, 3, 20));
    assert_int_equal(in.outer, 7);
    assert_int_equal(in.group, 2);
    assert_int_equal(in.middle, 3);
    assert_int_equal(in.n, 20);
    assert_int_equal(in.inner, 1);
}

/* Rows that differ in size get a scale each, where that pays; else columns do. */
static void tables_have_scales_by_row_or_column(void **state)
{
    for (int differ = 0; differ < 2; differ++) {
        struct net *net;
        net_setup((void **)&net);
        mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 4));
        net->graph->value[x].dtype = MPQ_INT64;
        mpq_value_id w = net_random(net, "w", MPQ_SHAPE(100, 24), false);
        float *table = net->graph->value[w].constant->data;
        for (int i = 0; differ && i < 2400; i++)
            table[i] *= (float)(1 << i / 24 / 10);
        net_output(net, net_node(net, "Gather", "y", NET_NO_ATTRS, NET_IN(w, x)));
        struct mpq_layer layer = only_layer(net);
        if (differ)
            check_weight_only(&layer, 1, 100, 24);
        else
            check_weight_only(&layer, 100, 24, 1);
        assert_int_equal(layer.x, MPQ_NO_VALUE);
        void *done = net;
        net_teardown(&done);
    }
    (void)state;
}

static void einsum_operands(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 5, 40));
    net_output(net,
               net_node(net, "Einsum", "y", NET_ATTRS(NET_STRING("equation", "bsi, ihd -> bhsd")),
                        NET_IN(x, net_random(net, "w", MPQ_SHAPE(40, 4, 8), false))));
    struct mpq_layer layer = only_layer(net);
    check_weight_only(&layer, 40 * 4, 8, 1);
}

/* Without shapes everything that could be a layer is a weight-only one. */
static void layers_of_an_unbound_graph(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 8));
    mpq_value_id a = gemm(net, x, "a", 8, 10);
    net_output(net, net_node(net, "Relu", "r", NET_NO_ATTRS, NET_IN(a)));
    struct mpq_layer_table layers;
    CHECK_OK(&net->ctx, mpq_layer_table_build(&net->ctx, net->arena, net->graph, NULL, &layers));
    assert_int_equal(layers.n_layer, 1);
    check_weight_only(&layers.layer[0], 1, 10, 8);
}

static void other_operators_are_rejected(void **state)
{
    struct net *net = *state;
    net_output(net, net_node(net, "Add", "y", NET_NO_ATTRS,
                             NET_IN(net_input(net, "x", MPQ_SHAPE(-1, 64)),
                                    net_random(net, "position", MPQ_SHAPE(64), false))));
    check_rejected(net, "operator Add is not quantized");
}

/* Two branches, an Add with its Relu, a layer: the Add's own output stays float, the Relu's is
 * quantized; the Softmax at the end is not. */
static void add_and_relu(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 8));
    mpq_value_id a = gemm(net, x, "a", 8, 8), b = gemm(net, x, "b", 8, 8);
    mpq_value_id sum = net_node(net, "Add", "sum", NET_NO_ATTRS, NET_IN(a, b));
    mpq_value_id relu = net_node(net, "Relu", "relu", NET_NO_ATTRS, NET_IN(sum));
    mpq_value_id again = net_node(net, "Add", "again", NET_NO_ATTRS, NET_IN(relu, a));
    mpq_value_id c = gemm(net, again, "c", 8, 8);
    mpq_value_id y = net_node(net, "Softmax", "y", NET_NO_ATTRS, NET_IN(c));
    net_output(net, y);
    struct plan plan = build(net);
    const uint32_t *group = plan.act.group;
    assert_int_equal(group[sum], MPQ_NO_GROUP);
    assert_int_equal(group[c], MPQ_NO_GROUP);
    assert_int_equal(group[y], MPQ_NO_GROUP);
    mpq_value_id quantized[] = {x, a, b, relu, again};
    assert_int_equal(plan.act.n_group, MPQ_COUNT(quantized));
    for (size_t i = 0; i < MPQ_COUNT(quantized); i++) {
        assert_int_not_equal(group[quantized[i]], MPQ_NO_GROUP);
        assert_false(plan.act.lossless[quantized[i]]);
        for (size_t j = 0; j < i; j++)
            assert_int_not_equal(group[quantized[i]], group[quantized[j]]);
    }
}

/* An Add that ends in float, and one with a float side, run in float. */
static void float_arithmetic_stays(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 8));
    mpq_value_id a = gemm(net, x, "a", 8, 8);
    mpq_value_id e = net_node(net, "Exp", "e", NET_NO_ATTRS, NET_IN(a));
    mpq_value_id mixed = net_node(net, "Add", "mixed", NET_NO_ATTRS, NET_IN(a, e));
    mpq_value_id next = net_node(net, "Add", "next", NET_NO_ATTRS, NET_IN(mixed, a));
    mpq_value_id last = net_node(net, "Add", "last", NET_NO_ATTRS, NET_IN(a, a));
    mpq_value_id tail = net_node(net, "Exp", "tail", NET_NO_ATTRS, NET_IN(last));
    net_output(net, next);
    net_output(net, tail);
    struct plan plan = build(net);
    assert_int_equal(plan.act.n_group, 1); /* x */
    assert_int_equal(plan.act.group[a], MPQ_NO_GROUP);
    assert_int_equal(plan.act.group[mixed], MPQ_NO_GROUP);
    assert_int_equal(plan.act.group[next], MPQ_NO_GROUP);
    assert_int_equal(plan.act.group[last], MPQ_NO_GROUP);
}

/* What only moves elements shares the scale of its input and needs no rounding of its own. */
/* Kernels of Gemm and MatMul give floats as well as integers: who reads decides. A convolution's
 * do not. */
static void what_floats_read_of_products_stays_float(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 8));
    mpq_value_id a = gemm(net, x, "a", 8, 8), b = gemm(net, a, "b", 8, 8);
    mpq_value_id r = net_node(net, "Relu", "r", NET_NO_ATTRS, NET_IN(b));
    net_output(net, net_node(net, "Sigmoid", "s", NET_NO_ATTRS, NET_IN(r)));
    mpq_value_id logits = gemm(net, a, "logits", 8, 3);
    net_output(net, logits);
    mpq_value_id image = net_input(net, "image", MPQ_SHAPE(-1, 3, 4, 4));
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(2, 3, 3, 3), false);
    mpq_value_id c = net_node(net, "Conv", "c", NET_NO_ATTRS, NET_IN(image, w));
    net_output(net, c);
    struct plan plan = build(net);
    assert_int_not_equal(plan.act.group[a], MPQ_NO_GROUP);
    assert_int_equal(plan.act.group[b], MPQ_NO_GROUP);
    assert_int_equal(plan.act.group[r], MPQ_NO_GROUP);
    assert_int_equal(plan.act.group[logits], MPQ_NO_GROUP);
    assert_int_not_equal(plan.act.group[c], MPQ_NO_GROUP);
    struct mpq_act_plan all =
        plan_by(net, &plan, (struct mpq_act_rules){.quantizes_outputs = true});
    assert_int_not_equal(all.group[r], MPQ_NO_GROUP);
    assert_int_not_equal(all.group[logits], MPQ_NO_GROUP);
}

/* A value that is barred takes its integer kernel from the layer that reads it, and from the
 * convolution, but not from the product, that makes it. */
static void barred_values_leave_layers_float(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 3, 8, 8)), y[3];
    const char *const name[] = {"a", "b", "c"};
    for (int i = 0; i < 3; i++) {
        mpq_value_id w = net_random(net, mpq_arena_printf(&net->ctx, net->arena, "w%d", i),
                                    MPQ_SHAPE(3, 3, 1, 1), false);
        y[i] = net_node(net, "Conv", name[i], NET_NO_ATTRS, NET_IN(i ? y[i - 1] : x, w));
    }
    mpq_value_id f = net_node(net, "Flatten", "f", NET_NO_ATTRS, NET_IN(y[2]));
    mpq_value_id g = gemm(net, f, "g", 192, 8), h = gemm(net, g, "h", 8, 8);
    net_output(net, h);
    struct plan plan = build(net);
    bool *barred = mpq_arena_alloc(&net->ctx, net->arena, net->graph->n_value, sizeof *barred);
    struct mpq_act_rules rules = {.stays_float = barred};
    barred[y[0]] = barred[g] = true;
    mpq_layers_leave_float(net->graph, rules, &plan.layers);
    const bool is_float[] = {true, true, false, false, true};
    assert_int_equal(plan.layers.n_layer, MPQ_COUNT(is_float));
    for (uint32_t l = 0; l < plan.layers.n_layer; l++)
        assert_int_equal(plan.layers.layer[l].is_weight_only, is_float[l]);
    assert_int_not_equal(plan.layers.layer[4].bias, MPQ_NO_VALUE);
    struct mpq_act_plan act = plan_by(net, &plan, rules);
    const mpq_value_id stays[] = {x, y[0], g, h}, becomes[] = {y[1], y[2], f};
    for (size_t i = 0; i < MPQ_COUNT(stays); i++)
        assert_int_equal(act.group[stays[i]], MPQ_NO_GROUP);
    for (size_t i = 0; i < MPQ_COUNT(becomes); i++)
        assert_int_not_equal(act.group[becomes[i]], MPQ_NO_GROUP);
}

static void movers_share_a_group(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 8));
    mpq_value_id a = gemm(net, x, "a", 8, 8), b = gemm(net, x, "b", 8, 8);
    mpq_value_id t = net_node(net, "Flatten", "t", NET_NO_ATTRS, NET_IN(a));
    mpq_value_id both =
        net_node(net, "Concat", "both", NET_ATTRS(NET_INT("axis", 1)), NET_IN(t, b));
    mpq_value_id shared =
        net_node(net, "Concat", "shared", NET_ATTRS(NET_INT("axis", 1)), NET_IN(x, both));
    net_output(net, gemm(net, shared, "y", 24, 4));
    struct plan plan = build(net);
    const uint32_t *group = plan.act.group;
    assert_int_equal(group[t], group[a]);
    assert_int_equal(group[both], group[a]);
    assert_int_equal(group[both], group[b]);
    assert_true(plan.act.lossless[t]);
    assert_true(plan.act.lossless[both]);
    assert_int_not_equal(group[shared], group[both]); /* x is read elsewhere */
    assert_int_not_equal(group[shared], group[x]);
    assert_false(plan.act.lossless[shared]);
    assert_false(plan.act.lossless[a]);
}

static void fake_quant_is_read_by_everyone(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 8));
    mpq_value_id a = gemm(net, x, "a", 8, 8);
    mpq_value_id t = net_node(net, "Flatten", "t", NET_NO_ATTRS, NET_IN(a));
    mpq_value_id e = net_node(net, "Exp", "e", NET_NO_ATTRS, NET_IN(x));
    mpq_value_id y = gemm(net, t, "y", 8, 4);
    net_output(net, y);
    net_output(net, e);
    struct plan plan = build(net);
    plan.act = plan_by(net, &plan, (struct mpq_act_rules){.quantizes_outputs = true});
    struct mpq_act_quant quant[8] = {{.scale = 1}};
    struct mpq_graph *graph;
    mpq_node_id node_of[8];
    assert_int_equal(plan.act.n_group, 3);
    CHECK_OK(&net->ctx, mpq_insert_fake_quant(&net->ctx, net->arena, net->graph, &plan.act, quant,
                                              &graph, node_of));
    CHECK_OK(&net->ctx, mpq_graph_check(&net->ctx, graph));
    assert_int_equal(net_count(graph, "FakeQuant"), 3); /* x, a, y; t is lossless */
    assert_int_equal(graph->n_value, net->graph->n_value + 3);
    for (mpq_node_id n = 0; n < net->graph->n_node; n++)
        assert_int_equal(graph->node[node_of[n]].out[0], net->graph->node[n].out[0]);
    const struct mpq_node *first = &graph->node[0];
    assert_string_equal(first->op_type, "FakeQuant");
    assert_int_equal(first->in[0], x);
    assert_ptr_equal(first->attrs, &quant[plan.act.group[x]]);
    assert_int_equal(graph->node[graph->value[a].producer].in[0], first->out[0]);
    assert_int_equal(graph->node[graph->value[e].producer].in[0], first->out[0]);
    assert_int_equal(graph->node[graph->value[y].producer].in[0], t);
    assert_string_equal(graph->value[graph->output[0]].name, "y_quantized");
    assert_int_equal(graph->output[1], e);
}

static void a_quantization_of_its_own_is_read_by_one_node(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 8));
    mpq_value_id a = gemm(net, x, "a", 8, 8), b = gemm(net, x, "b", 8, 8);
    mpq_value_id y = net_node(net, "Add", "y", NET_NO_ATTRS, NET_IN(a, b));
    net_output(net, y);
    struct plan plan = build(net);
    struct mpq_act_quant quant[2] = {{.scale = 1}, {.scale = 2}};
    uint32_t own[3] = {MPQ_NO_GROUP, 1, MPQ_NO_GROUP};
    struct mpq_graph *graph;
    mpq_node_id node_of[3];
    for (mpq_value_id v = 0; v < net->graph->n_value; v++)
        plan.act.group[v] = v == x ? 0 : MPQ_NO_GROUP;
    plan.act.own_group = own;
    CHECK_OK(&net->ctx, mpq_insert_fake_quant(&net->ctx, net->arena, net->graph, &plan.act, quant,
                                              &graph, node_of));
    CHECK_OK(&net->ctx, mpq_graph_check(&net->ctx, graph));
    assert_int_equal(net_count(graph, "FakeQuant"), 2);
    mpq_value_id a_reads = graph->node[graph->value[a].producer].in[0];
    mpq_value_id b_reads = graph->node[graph->value[b].producer].in[0];
    const struct mpq_node *first = &graph->node[graph->value[a_reads].producer];
    const struct mpq_node *second = &graph->node[graph->value[b_reads].producer];
    assert_ptr_equal(first->attrs, &quant[0]);
    assert_int_equal(first->in[0], x);
    assert_ptr_equal(second->attrs, &quant[1]);
    assert_int_equal(second->in[0], a_reads); /* what others read, quantized once more */
    assert_int_equal(mpq_act_plan_input(&plan.act, 0, x), 0);
    assert_int_equal(mpq_act_plan_input(&plan.act, 1, x), 1);
}

static void rebatch_frees_the_first_dimension(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(1, 8));
    mpq_value_id target = net_ints(net, "target", 3, (int64_t[]){1, 2, -1});
    mpq_value_id y = net_node(net, "Reshape", "y", NET_NO_ATTRS, NET_IN(x, target));
    net_output(net, y);
    struct mpq_graph *graph;
    bool has_changed;
    CHECK_OK(&net->ctx, mpq_rebatch(&net->ctx, net->arena, net->graph, &graph, &has_changed));
    assert_true(has_changed);
    assert_int_equal(graph->value[x].shape.dim[0], MPQ_DIM_UNKNOWN);
    struct mpq_binding binding;
    CHECK_OK(&net->ctx, mpq_bind_batch(&net->ctx, net->arena, graph, 5, &binding));
    assert_true(mpq_shape_equal(&binding.tensor[y].shape, &MPQ_SHAPE(5, 2, 4)));
    assert_int_equal(mpq_tensor_int(net->graph->value[target].constant, 0), 1);
    CHECK_OK(&net->ctx, mpq_rebatch(&net->ctx, net->arena, graph, &graph, &has_changed));
    assert_false(has_changed);
}

/* A weight that is computed from constants has no batch, though it may begin with 1. */
static void rebatch_leaves_weights_alone(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(1, 8));
    mpq_value_id w = net_node(net, "Neg", "w", NET_NO_ATTRS,
                              NET_IN(net_random(net, "v", MPQ_SHAPE(4, 2), false)));
    mpq_value_id target = net_ints(net, "target", 2, (int64_t[]){1, 8});
    mpq_value_id row = net_node(net, "Reshape", "row", NET_NO_ATTRS, NET_IN(w, target));
    net_output(net, net_node(net, "Add", "y", NET_NO_ATTRS, NET_IN(x, row)));
    struct mpq_graph *graph;
    struct mpq_binding binding;
    bool has_changed;
    CHECK_OK(&net->ctx, mpq_rebatch(&net->ctx, net->arena, net->graph, &graph, &has_changed));
    assert_true(has_changed);
    CHECK_OK(&net->ctx, mpq_bind_batch(&net->ctx, net->arena, graph, 5, &binding));
    assert_true(mpq_shape_equal(&binding.tensor[row].shape, &MPQ_SHAPE(1, 8)));
}

static void open_sizes_are_assumed(void **state)
{
    struct net *net = *state;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 3, -1));
    net_output(net, net_node(net, "Relu", "y", NET_NO_ATTRS, NET_IN(x)));
    struct mpq_shape shape, assumed = MPQ_SHAPE(-1, 3, 7);
    CHECK_FAILS(&net->ctx, mpq_bind_shapes(&net->ctx, net->graph, 5, &shape), MPQ_E_SHAPE,
                "how large dimension 2 is");
    net->graph->assumed = &assumed;
    CHECK_OK(&net->ctx, mpq_bind_shapes(&net->ctx, net->graph, 5, &shape));
    assert_true(mpq_shape_equal(&shape, &MPQ_SHAPE(5, 3, 7)));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, net_setup, net_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(layers_in_order),
        TEST(depthwise_conv),
        TEST(shared_weights_are_one_layer),
        TEST(a_transposed_table_is_one_layer),
        TEST(a_weight_that_is_also_an_operand_is_rejected),
        TEST(left_weights_are_weight_only),
        TEST(small_left_weights_are_rejected),
        TEST(infinite_weights_are_rejected),
        TEST(a_computed_bias_leaves_the_weight_alone),
        TEST(transposed_convolutions),
        TEST(recurrent_nodes_have_two_layers),
        cmocka_unit_test(tables_have_scales_by_row_or_column),
        TEST(einsum_operands),
        TEST(layers_of_an_unbound_graph),
        TEST(other_operators_are_rejected),
        TEST(add_and_relu),
        TEST(float_arithmetic_stays),
        TEST(what_floats_read_of_products_stays_float),
        TEST(barred_values_leave_layers_float),
        TEST(movers_share_a_group),
        TEST(fake_quant_is_read_by_everyone),
        TEST(a_quantization_of_its_own_is_read_by_one_node),
        TEST(rebatch_frees_the_first_dimension),
        TEST(rebatch_leaves_weights_alone),
        TEST(open_sizes_are_assumed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
