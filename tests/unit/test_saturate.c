#include "exporter/saturate.h"

#include <math.h>
#include <string.h>

#include "tests/unit/export_case.h"

struct row {
    const char *op_type;
    double low, high; /* NAN: absent */
    struct mpq_act_quant quant;
    bool is_idle;
};

/* scale, zero point, bits */
static const struct row row[] = {
    {"Relu", 0, INFINITY, {0.02f, 0, 8}, true},
    {"Relu", 0, INFINITY, {0.02f, 0, 5}, true},
    {"Relu", 0, INFINITY, {0.02f, 1, 8}, false},
    {"Clip", 0, 6, {6.0f / 255, 0, 8}, true},
    {"Clip", 0, 6, {6.0f / 255 * 0.9f, 0, 8}, true},
    {"Clip", 0, 6, {6.0f / 254.6f, 0, 8}, true}, /* 6 rounds to 255 */
    {"Clip", 0, 6, {6.0f / 254.4f, 0, 8}, false},
    {"Clip", 0, 6, {6.0f / 31, 0, 5}, true},
    {"Clip", 0, 6, {6.0f / 31, 0, 8}, false},
    {"Clip", 0.1, 6, {6.0f / 255, 0, 8}, false},
    {"Clip", -1, 1, {2.0f / 256, 128, 8}, true},
    {"Clip", -1, 1, {2.0f / 250, 128, 8}, false},
    {"Clip", NAN, 6, {6.0f / 255, 0, 8}, true},
    {"Clip", 0, NAN, {0.02f, 0, 8}, true},
    {"Clip", NAN, NAN, {0.02f, 77, 8}, true},
    {"Clip", 6, 0, {6.0f / 255, 0, 8}, false},
    {"LeakyRelu", 0, INFINITY, {0.02f, 0, 8}, false},
};

/* x -> Conv "a" -> the operator "r" of the row -> Conv "y" and Neg "z" */
static mpq_node_id build(struct export_case *c, struct net *net, const struct row *r)
{
    bool is_clip = strcmp(r->op_type, "Clip") == 0;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 5, 6, 6));
    mpq_value_id w1 = net_random(net, "w1", MPQ_SHAPE(3, 5, 3, 3), false);
    mpq_value_id w2 = net_random(net, "w2", MPQ_SHAPE(7, 3, 1, 1), false);
    mpq_value_id in[3] = {net_node(net, "Conv", "a", NET_NO_ATTRS, NET_IN(x, w1))};
    in[1] = isnan(r->low) || !is_clip ? MPQ_NO_VALUE : net_scalar(net, "low", r->low);
    in[2] = isnan(r->high) || !is_clip ? MPQ_NO_VALUE : net_scalar(net, "high", r->high);
    mpq_value_id y = net_node(net, r->op_type, "r", NET_NO_ATTRS, is_clip ? 3 : 1, in);
    net_output(net, net_node(net, "Conv", "y", NET_NO_ATTRS, NET_IN(y, w2)));
    net_output(net, net_node(net, "Neg", "z", NET_NO_ATTRS, NET_IN(y)));
    export_case_init(c, net);
    for (uint32_t l = 0; l < c->layers.n_layer; l++)
        export_code_layer(c, l, 4);
    struct mpq_act_quant *quant =
        mpq_arena_copy(&net->ctx, net->arena, c->plan.act_quant, c->act.n_group * sizeof *quant);
    assert_int_not_equal(c->act.group[y], MPQ_NO_GROUP);
    quant[c->act.group[y]] = r->quant;
    c->plan.act_quant = quant;
    return net->graph->value[y].producer;
}

static float quantized(float x, const struct mpq_act_quant *quant)
{
    float q = rintf(x / quant->scale) + (float)quant->zero_point;
    return fminf(fmaxf(q, 0), (float)((1 << quant->bits) - 1));
}

/* It is idle just where no value, bounds and their neighbours among them, gets another integer. */
static void test_every_row(void **state)
{
    for (size_t i = 0; i < MPQ_COUNT(row); i++) {
        const struct row *r = &row[i];
        struct export_case c;
        struct net *net = *state;
        mpq_node_id n = build(&c, net, r);
        assert_int_equal(mpq_is_saturation(&c.plan, n), r->is_idle);
        struct mpq_graph *graph = export_round_trip(&c);
        export_check_layers(&c, graph);
        assert_int_equal(
            net_count(graph, "Relu") + net_count(graph, "LeakyRelu") +
                (mpq_graph_find(graph, "r") != MPQ_NO_VALUE && strcmp(r->op_type, "Clip") == 0),
            !r->is_idle);
        float low = isnan(r->low) ? -INFINITY : (float)r->low;
        float high = isnan(r->high) ? INFINITY : (float)r->high;
        bool differs = low > high || strcmp(r->op_type, "LeakyRelu") == 0;
        for (int k = -4000; k <= 4000; k++) {
            float x = k ? (float)k * 0.01f : low;
            differs |= quantized(fminf(fmaxf(x, low), high), &r->quant) != quantized(x, &r->quant);
        }
        assert_int_equal(differs, !r->is_idle);
        assert_int_equal(net_teardown(state), 0);
        assert_int_equal(net_setup(state), 0);
    }
}

/* All who read it get the quantized value of what it read. */
static void test_readers(void **state)
{
    struct export_case c;
    build(&c, *state, &row[0]);
    struct mpq_graph *graph = export_round_trip(&c);
    assert_int_equal(net_count(graph, "Neg"), 1);
    for (mpq_node_id n = 0; n < graph->n_node; n++) {
        if (strcmp(graph->node[n].op_type, "Neg") != 0)
            continue;
        const struct mpq_node *dq = &graph->node[graph->value[graph->node[n].in[0]].producer];
        assert_string_equal(dq->op_type, "DequantizeLinear");
        const struct mpq_node *q = &graph->node[graph->value[dq->in[0]].producer];
        assert_string_equal(graph->value[q->in[0]].name, "a");
    }
}

/* Where the value stays float, so does what makes it. */
static void test_float_stays(void **state)
{
    struct export_case c;
    mpq_node_id n = build(&c, *state, &row[0]);
    export_stay_float(&c);
    assert_false(mpq_is_saturation(&c.plan, n));
    assert_int_equal(net_count(export_round_trip(&c), "Relu"), 1);
    c.plan.act = NULL;
    assert_false(mpq_is_saturation(&c.plan, n));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_row, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_readers, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_float_stays, net_setup, net_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
