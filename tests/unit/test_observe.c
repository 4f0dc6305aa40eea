/* What calibration learns of layers, against plain sums; and that it looks at no more values than
 * the plan knows. */
#include "calibration/observe.h"
#include "tests/unit/net.h"

struct case_ {
    struct net *net;
    struct mpq_layer_table layers;
    struct mpq_act_plan act;
    struct mpq_observer observer;
    struct mpq_exec *exec;
    struct mpq_binding binding;
};

/* The net at the batch, with inputs that follow from their position, run and observed once; all
 * samples of the batch but n_new count as repeated. */
static void observe_new(struct case_ *c, struct net *net, uint32_t batch, uint32_t n_new)
{
    struct mpq_ctx *ctx = &net->ctx;
    struct mpq_binding one;
    struct mpq_graph *graph;
    bool has_changed;
    *c = (struct case_){.net = net};
    CHECK_OK(ctx, mpq_bind_batch(ctx, net->arena, net->graph, 1, &one));
    CHECK_OK(ctx, mpq_layer_table_build(ctx, net->arena, net->graph, &one, &c->layers));
    CHECK_OK(ctx, mpq_act_plan_build(ctx, net->arena, net->graph, &one, &c->layers,
                                     (struct mpq_act_rules){0}, &c->act));
    CHECK_OK(ctx, mpq_rebatch(ctx, net->arena, net->graph, &graph, &has_changed));
    CHECK_OK(ctx, mpq_bind_batch(ctx, net->arena, graph, batch, &c->binding));
    CHECK_OK(ctx, mpq_observer_create(ctx, net->arena, graph, &c->layers, &c->act, &c->observer));
    CHECK_OK(ctx, mpq_exec_create(ctx, net->arena, graph, &c->binding,
                                  &(struct mpq_exec_options){.keep = c->observer.keep}, &c->exec));
    for (uint32_t i = 0; i < graph->n_input; i++) {
        struct mpq_tensor *x = mpq_exec_tensor(c->exec, graph->input[i]);
        for (int64_t k = 0; k < mpq_shape_count(&x->shape); k++)
            mpq_tensor_set_double(x, k, (double)(k * 7 % 11) / 11 - 0.3);
    }
    mpq_exec_forward(c->exec, 0, graph->n_node);
    CHECK_OK(ctx,
             mpq_observer_add(ctx, &c->observer, graph, c->exec, 0, graph->n_node, batch, n_new));
}

static void observe(struct case_ *c, struct net *net, uint32_t batch)
{
    observe_new(c, net, batch, batch);
}

/* Mean and mean square over the elements first, first + step, ... n of them. */
static void check_place(const struct case_ *c, uint32_t l, int64_t place, mpq_value_id x,
                        int64_t first, int64_t step, int64_t n)
{
    const struct mpq_tensor *tensor = mpq_exec_tensor(c->exec, x);
    double sum = 0, square = 0;
    for (int64_t i = 0; i < n; i++) {
        double value = mpq_tensor_double(tensor, first + i * step);
        sum += value;
        square += value * value;
    }
    CHECK_NEAR(c->observer.stats[l].input_mean[place], sum / (double)n, 1e-5, 1e-6);
    CHECK_NEAR(c->observer.stats[l].input_power[place], square / (double)n, 1e-5, 1e-6);
}

/* The copy that runs at any batch has a value more, the target of the Reshape. */
static void rebatched_graphs_have_more_values(void **state)
{
    struct net *net = *state;
    struct case_ c;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(1, 8));
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(8, 6), false);
    mpq_value_id m = net_node(net, "MatMul", "m", NET_NO_ATTRS, NET_IN(x, w));
    mpq_value_id target = net_ints(net, "target", 3, (int64_t[]){1, 2, 3});
    net_output(net, net_node(net, "Reshape", "y", NET_NO_ATTRS, NET_IN(m, target)));
    observe(&c, net, 5);
    for (int64_t k = 0; k < 8; k++)
        check_place(&c, 0, k, x, k, 8, 5);
}

/* Their extremes are not those of several samples, which would pass for a bound. */
static void repeated_samples_do_not_count(void **state)
{
    struct net *net = *state;
    struct case_ c;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(1, 8));
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(8, 6), false);
    net_output(net, net_node(net, "MatMul", "y", NET_NO_ATTRS, NET_IN(x, w)));
    observe_new(&c, net, 5, 2);
    const struct mpq_histogram *histogram = &c.observer.histogram[c.act.group[x]];
    assert_int_equal(histogram->n_sample, 2);
    assert_int_equal(histogram->n, 16);
}

static void a_left_operand_sees_columns(void **state)
{
    struct net *net = *state;
    struct case_ c;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(1, 40, 3));
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(32, 40), false);
    net_output(net, net_node(net, "MatMul", "y", NET_NO_ATTRS, NET_IN(w, x)));
    observe(&c, net, 1);
    for (int64_t k = 0; k < 40; k++)
        check_place(&c, 0, k, x, 3 * k, 1, 3);
}

static void a_transposed_convolution_has_taps(void **state)
{
    struct net *net = *state;
    struct case_ c;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(1, 16, 5, 5));
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(16, 8, 3, 3), false);
    net_output(net, net_node(net, "ConvTranspose", "y", NET_NO_ATTRS, NET_IN(x, w)));
    observe(&c, net, 1);
    for (int64_t k = 0; k < 16 * 9; k++)
        check_place(&c, 0, k, x, k / 9 * 25, 1, 25);
}

/* R of the second direction sees the states of the second direction: one sequence of one row. */
static void recurrent_weights_see_inputs_and_states(void **state)
{
    enum { STEPS = 7, INPUT = 12, HIDDEN = 20 };
    struct net *net = *state;
    struct case_ c;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(STEPS, 1, INPUT));
    const struct mpq_attr attrs[] = {NET_INT("hidden_size", HIDDEN),
                                     NET_STRING("direction", "bidirectional")};
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(2, 4 * HIDDEN, INPUT), false);
    mpq_value_id r = net_random(net, "r", MPQ_SHAPE(2, 4 * HIDDEN, HIDDEN), false);
    mpq_value_id y = net_node(net, "LSTM", "y", MPQ_COUNT(attrs), attrs, NET_IN(x, w, r));
    net_output(net, y);
    observe(&c, net, 1);
    for (int64_t k = 0; k < INPUT; k++)
        check_place(&c, 0, k, x, k, INPUT, STEPS);
    for (int64_t k = 0; k < 2 * HIDDEN; k++)
        check_place(&c, 1, k, y, k, 2 * HIDDEN, STEPS);
}

static void tables_see_nothing(void **state)
{
    struct net *net = *state;
    struct case_ c;
    mpq_value_id ids = net_input(net, "ids", MPQ_SHAPE(1, 4));
    net->graph->value[ids].dtype = MPQ_INT64;
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(100, 24), false);
    net_output(net, net_node(net, "Gather", "y", NET_NO_ATTRS, NET_IN(w, ids)));
    observe(&c, net, 1);
    assert_null(c.observer.stats[0].input_power);
    assert_true(c.observer.stats[0].output_power > 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, net_setup, net_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(rebatched_graphs_have_more_values),
        TEST(repeated_samples_do_not_count),
        TEST(a_left_operand_sees_columns),
        TEST(a_transposed_convolution_has_taps),
        TEST(recurrent_weights_see_inputs_and_states),
        TEST(tables_see_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
