/* How channel scales are stored: the grid of bytes, bfloat16, and which of them a model gets. */
#include "tests/check.h"

#include <math.h>
#include <string.h>

#include "quantcore/base/rng.h"
#include "quantcore/quant/scale.h"
#include "tests/unit/net.h"

static const struct mpq_layer of_bytes = {.scale_form = MPQ_SCALE_BYTE};
static const struct mpq_layer of_halves = {.scale_form = MPQ_SCALE_BFLOAT16};

/* What Pow(2, step / 16) and a product make of it in a file, with a pow that rounds correctly. */
static void steps_are_powers(void **state)
{
    (void)state;
    for (int step = -126 * MPQ_SCALE_STEPS; step < 128 * MPQ_SCALE_STEPS; step++) {
        float scale = mpq_scale_of_step(step);
        assert_true(scale == (float)pow(2, (double)step / MPQ_SCALE_STEPS) * MPQ_SCALE_MIDDLE);
        assert_int_equal(mpq_scale_step(scale), step);
        assert_true(mpq_scale_round(&of_bytes, scale) == scale);
        assert_true(scale < mpq_scale_of_step(step + 1));
        int exponent;
        assert_true(frexpf(scale, &exponent) != 0.5f);
    }
}

/* The nearest in proportion, half a step of 4.4 % off at most. */
static void rounding_is_to_the_nearest(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 100000; i++) {
        double octaves = 60 * mpq_rng_uniform(3, MPQ_STREAM_TEST, 0, i) - 40;
        float scale = (float)pow(2, octaves), rounded = mpq_scale_round(&of_bytes, scale);
        CHECK_NEAR(log2((double)rounded), octaves, 0, 0.5 / MPQ_SCALE_STEPS + 1e-6);
        assert_true(mpq_scale_round(&of_bytes, rounded) == rounded);
        CHECK_NEAR(mpq_scale_round(&of_halves, scale), scale, 0x1p-8, 0);
    }
}

static void what_is_no_scale_stays(void **state)
{
    (void)state;
    assert_true(mpq_scale_round(&of_bytes, 0) == 0);
    assert_true(isnan(mpq_scale_round(&of_bytes, NAN)));
    assert_true(isinf(mpq_scale_round(&of_bytes, INFINITY)));
    assert_true(isnormal(mpq_scale_round(&of_bytes, 1e-40f)));
}

/* Two weights [channels, 3] with magnitudes 1; the form that their layers get after w[0][at] is set
 * for `at` < 3. */
static enum mpq_scale_form form_of(struct net *net, int64_t n_channel, int64_t n_set,
                                   const float *value, float factor)
{
    mpq_value_id w[2] = {net_random(net, "w", MPQ_SHAPE(n_channel, 3), false),
                         net_random(net, "v", MPQ_SHAPE(8, 3), false)};
    struct mpq_layer layer[2];
    for (int l = 0; l < 2; l++) {
        int64_t n = l ? 8 : n_channel;
        float *x = net->graph->value[w[l]].constant->data;
        for (int64_t i = 0; i < 3 * n; i++)
            x[i] = l ? factor : i % 2 ? 1.0f : -0.5f;
        for (int64_t i = 0; !l && i < n_set; i++)
            x[i] = value[i];
        layer[l] = (struct mpq_layer){
            .weight = w[l], .n_outer = 1, .n_channel = n, .n_inner = 3, .n_param = 3 * n};
    }
    CHECK_OK(&net->ctx, mpq_scale_choose(&net->ctx, net->arena, net->graph, layer, 2));
    assert_int_equal(layer[0].scale_form, layer[1].scale_form);
    return layer[0].scale_form;
}

static void few_channels_have_bfloat16(void **state)
{
    assert_int_equal(form_of(*state, 90, 0, NULL, 1), MPQ_SCALE_BFLOAT16);
}

static void many_channels_have_bytes(void **state)
{
    assert_int_equal(form_of(*state, 120, 0, NULL, 1), MPQ_SCALE_BYTE);
}

/* A layer's own channels spread by 2^6 and more: the least do not count, be they 0 or next to it.
 */
static void channels_without_weights_do_not_count(void **state)
{
    const float w[6] = {0, 0, 0, 1e-20f, -1e-30f, 0};
    assert_int_equal(form_of(*state, 120, 6, w, 1), MPQ_SCALE_BYTE);
}

static void layers_far_apart_have_bfloat16(void **state)
{
    assert_int_equal(form_of(*state, 120, 0, NULL, 0x1p-16f), MPQ_SCALE_BFLOAT16);
}

static void layers_within_the_window_have_bytes(void **state)
{
    assert_int_equal(form_of(*state, 120, 0, NULL, 0x1p-13f), MPQ_SCALE_BYTE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_are_powers),
        cmocka_unit_test(rounding_is_to_the_nearest),
        cmocka_unit_test(what_is_no_scale_stays),
        cmocka_unit_test_setup_teardown(few_channels_have_bfloat16, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(many_channels_have_bytes, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(channels_without_weights_do_not_count, net_setup,
                                        net_teardown),
        cmocka_unit_test_setup_teardown(layers_far_apart_have_bfloat16, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(layers_within_the_window_have_bytes, net_setup,
                                        net_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
