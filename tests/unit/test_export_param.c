/* Scales and biases of channels in the file: what param.h of the exporter does. */
#include <math.h>

#include "quantcore/quant/scale.h"
#include "tests/unit/export_case.h"

/* A channel with next to no weights and an ordinary bias: in its own scale the bias would be 1e13
 * steps. It comes back, and the weights with the error of the larger scale. */
static void test_dead_channel(void **state)
{
    struct export_case c;
    export_build_small(*state);
    export_case_init(&c, *state);
    export_code_layers(&c, 4);
    const struct mpq_layer *layer = &c.layers.layer[0];
    ((float *)c.code[0].scale)[1] = mpq_scale_round(layer, 1e-12f);
    ((float *)c.code[0].scale)[2] = mpq_scale_round(layer, 1e-39f);
    ((float *)c.code[0].bias)[2] = 0;
    const char *targets[] = {"ort", "int8"};
    for (size_t t = 0; t < MPQ_COUNT(targets); t++) {
        c.plan.target = mpq_target_find(targets[t]);
        struct mpq_graph *graph = export_round_trip(&c);
        const float *b = export_constant_input(&c, graph, layer->name, 2)->data;
        const float *w = export_constant_input(&c, graph, layer->name, 1)->data;
        CHECK_NEAR(b[1], c.code[0].bias[1], 1e-3, 0);
        CHECK_NEAR(b[2], 0, 0, 0);
        for (int64_t i = layer->n_inner; i < 2 * layer->n_inner; i++)
            CHECK_NEAR(w[i], 0, 0, 1e-5);
        /* Channel 2: the scale grew to a normal one, in which all weights are nearest to level 0.
         */
        for (int64_t i = 2 * layer->n_inner; i < 3 * layer->n_inner; i++)
            CHECK_NEAR(w[i], 0, 0, 0);
        CHECK_NEAR(w[0], (float)c.code[0].q[0] * c.code[0].scale[0], 0, 0);
    }
}

/* Biases beyond float16 take four bytes; a larger file, the same network. */
static void test_large_bias(void **state)
{
    struct export_case c;
    export_build_small(*state);
    float *b1 = ((struct net *)*state)
                    ->graph->value[mpq_graph_find(((struct net *)*state)->graph, "b1")]
                    .constant->data;
    b1[2] = 1e5f;
    export_case_init(&c, *state);
    export_code_layers(&c, 4);
    struct mpq_graph *graph = export_round_trip(&c);
    export_check_layers(&c, graph);
    CHECK_NEAR(((const float *)export_constant_input(&c, graph, "c1", 2)->data)[2], 1e5, 1e-6, 0);
    export_stay_float(&c);
    export_check_layers(&c, export_round_trip(&c));
}

/* Integer biases have 11 bits, as float ones have, over all the range of int32. */
static void test_integer_biases(void **state)
{
    struct mpq_ctx *ctx = &((struct net *)*state)->ctx;
    struct mpq_layer_code stored[4];
    static const double steps[] = {0.4, 3, -2047, 2049, 1e5, -1e6, 1e8, 2.14e9, -2.14e9};
    struct export_case c;
    export_build_small(*state);
    export_case_init(&c, *state);
    export_code_layers(&c, 4);
    const struct mpq_layer *layer = &c.layers.layer[2];
    assert_int_equal(layer->n_channel, MPQ_COUNT(steps));
    const uint32_t group = mpq_act_plan_input(&c.act, layer->node, layer->x);
    double step[MPQ_COUNT(steps)];
    for (size_t i = 0; i < MPQ_COUNT(steps); i++) {
        step[i] = (double)c.plan.act_quant[group].scale * (double)c.code[2].scale[i];
        ((float *)c.code[2].bias)[i] = (float)(steps[i] * step[i]);
    }
    const char *targets[] = {"ort", "int8"};
    for (size_t t = 0; t < MPQ_COUNT(targets); t++) {
        c.plan.target = mpq_target_find(targets[t]);
        const float *b = export_constant_input(&c, export_round_trip(&c), layer->name, 2)->data;
        for (size_t i = 0; i < MPQ_COUNT(steps); i++)
            CHECK_NEAR(b[i], c.code[2].bias[i], 0x1.01p-12, 0.5001 * step[i]);
        assert_true(b[0] == 0 && b[2] == (float)(-2047 * step[2]));
        CHECK_OK(ctx, mpq_export_codes(ctx, c.net->arena, &c.plan, stored));
        for (size_t i = 0; i < MPQ_COUNT(steps); i++) /* no scale had to grow for its bias */
            assert_true(stored[2].scale[i] == c.code[2].scale[i]);
    }
}

static void use_bytes(struct export_case *c, int steps)
{
    for (uint32_t l = 0; l < c->layers.n_layer; l++)
        c->layers.layer[l].scale_steps = steps;
}

/* Bytes hold the scales exactly, wherever they are; a byte less a channel for 99 bytes of nodes. */
static void test_byte_scales(void **state)
{
    struct export_case c;
    size_t halves, bytes;
    export_build_small(*state);
    export_case_init(&c, *state);
    struct mpq_ctx *ctx = &c.net->ctx;
    int64_t n_channel = 0;
    for (uint32_t l = 0; l < c.layers.n_layer; l++) {
        export_code_layer(&c, l, 5);
        n_channel += c.layers.layer[l].n_channel;
    }
    CHECK_OK(ctx, mpq_export_size(ctx, &c.plan, c.bits, &halves));
    for (int steps = 16; steps <= 64; steps *= 2) {
        use_bytes(&c, steps);
        CHECK_OK(ctx, mpq_export_size(ctx, &c.plan, c.bits, &bytes));
        assert_int_equal(halves + 99 - bytes, n_channel);
    }
    for (int steps = 16; steps <= 64; steps *= 2) {
        use_bytes(&c, steps);
        for (int first = -60 * steps; first <= 20 * steps; first += 20 * steps - 3)
            for (size_t t = 0; t < mpq_target_count(); t++) {
                export_aim(&c, mpq_target_at(t)->name);
                for (uint32_t l = 0; l < c.layers.n_layer; l++) {
                    export_code_layer(&c, l, 5);
                    for (int64_t i = 0; i < c.layers.layer[l].n_channel; i++) /* the window */
                        ((float *)c.code[l].scale)[i] = mpq_scale_of_step(
                            steps, first + (i ? (int)(61 * l + 7 * (uint32_t)i) % 256 : 255));
                    if (first < -20 * steps)
                        c.code[l].bias = NULL, c.layers.layer[l].bias = MPQ_NO_VALUE;
                }
                export_check_layers(&c, export_round_trip(&c));
            }
    }
}

/* A channel whose scale lies below what a byte can say beside the largest: it gets the least scale
 * and the levels nearest to its weights in that, as mpq_export_codes() tells. */
static void test_channel_below_window(void **state)
{
    const int steps = 32;
    struct export_case c;
    export_build_small(*state);
    export_case_init(&c, *state);
    use_bytes(&c, steps);
    struct mpq_ctx *ctx = &c.net->ctx;
    struct mpq_layer_code stored[4];
    export_code_layers(&c, 8);
    const struct mpq_layer *layer = &c.layers.layer[1];
    float top = mpq_scale_of_step(steps, -75), least = mpq_scale_of_step(steps, -75 - 255);
    ((float *)c.code[0].scale)[2] = top;
    ((float *)c.code[1].scale)[3] = mpq_scale_of_step(steps, -75 - 255 - 11);
    ((float *)c.code[1].scale)[4] = least;
    assert_int_equal(c.layers.n_layer, 4);
    CHECK_OK(ctx, mpq_export_codes(ctx, c.net->arena, &c.plan, stored));
    struct mpq_graph *graph = export_round_trip(&c);
    const float *w = export_constant_input(&c, graph, layer->name, 1)->data;
    for (int64_t ch = 0; ch < layer->n_channel; ch++)
        for (int64_t i = ch * layer->n_inner; i < (ch + 1) * layer->n_inner; i++) {
            float wanted = (float)c.code[1].q[i] * c.code[1].scale[ch];
            CHECK_NEAR(w[i], wanted, 0, ch == 3 ? 0.5001 * (double)least : 0);
            assert_true(w[i] == (float)stored[1].q[i] * stored[1].scale[ch]);
        }
    assert_true(stored[1].scale[3] == least);
    assert_true(stored[1].scale[4] == least);
    assert_true(stored[0].scale[2] == top);
    c.plan.target = mpq_target_find("int8"); /* where scales are float nothing is lost */
    CHECK_OK(ctx, mpq_export_codes(ctx, c.net->arena, &c.plan, stored));
    assert_true(stored[1].scale[3] == c.code[1].scale[3]);
}

/* Zero points of many channels are made at load, once for all layers of as many; of few, or where
 * nothing is computed at load, they are constants. */
static void test_zero_points(void **state)
{
    static const int64_t size[] = {32, 64, 64, 40, 64};
    struct net *net = *state;
    struct export_case c;
    export_build_chain(net, size, MPQ_COUNT(size));
    export_case_init(&c, net);
    export_code_layers(&c, 8);
    struct mpq_graph *graph = export_round_trip(&c);
    export_check_layers(&c, graph);
    assert_int_equal(net_count(graph, "Expand"), 1);
    c.plan.target = mpq_target_find("int8");
    graph = export_round_trip(&c);
    export_check_layers(&c, graph);
    assert_int_equal(net_count(graph, "Expand"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_dead_channel, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_large_bias, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_integer_biases, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_zero_points, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_byte_scales, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_channel_below_window, net_setup, net_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
