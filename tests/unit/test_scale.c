/* How channel scales are stored: the grid of bytes, bfloat16, and which of them a model gets. */
#include "tests/check.h"

#include <math.h>
#include <string.h>

#include "quantcore/base/rng.h"
#include "quantcore/quant/scale.h"
#include "tests/unit/net.h"

static const int of_octave[] = {16, 32, 64};

/* What Pow(2, step / steps + offset) makes of it in a file: any pow that is right to a 30th of a
 * last digit, since no power is nearer than that to where rounding tips. The exponent has to be
 * one that float has. */
static void steps_are_powers(void **state)
{
    (void)state;
    for (size_t i = 0; i < MPQ_COUNT(of_octave); i++) {
        const int steps = of_octave[i];
        const struct mpq_layer layer = {.scale_steps = steps};
        for (int step = -125 * steps; step < 127 * steps; step++) {
            float scale = mpq_scale_of_step(steps, step);
            float exponent = (float)(step & 255) * (1.0f / (float)steps) +
                             (float)((double)(step - (step & 255)) / steps + MPQ_SCALE_OFFSET);
            double power = pow(2, (double)exponent);
            double digit = (double)(nextafterf(scale, INFINITY) - scale);
            assert_true(scale == (float)power);
            CHECK_NEAR(scale, power, 0, (0.5 - 1.0 / 30) * digit);
            assert_int_equal(mpq_scale_step(steps, scale), step);
            assert_true(mpq_scale_round(&layer, scale) == scale);
            assert_true(scale < mpq_scale_of_step(steps, step + 1));
            int whole;
            assert_true(frexpf(scale, &whole) != 0.5f);
        }
    }
}

/* The nearest in proportion, half a step off at most. */
static void rounding_is_to_the_nearest(void **state)
{
    (void)state;
    const struct mpq_layer halves = {.scale_steps = 0};
    for (uint32_t i = 0; i < 100000; i++) {
        const struct mpq_layer bytes = {.scale_steps = of_octave[i % MPQ_COUNT(of_octave)]};
        double octaves = 60 * mpq_rng_uniform(3, MPQ_STREAM_TEST, 0, i) - 40;
        float scale = (float)pow(2, octaves), rounded = mpq_scale_round(&bytes, scale);
        CHECK_NEAR(log2((double)rounded), octaves, 0, 0.5 / bytes.scale_steps + 1e-6);
        assert_true(mpq_scale_round(&bytes, rounded) == rounded);
        CHECK_NEAR(mpq_scale_round(&halves, scale), scale, 0x1p-8, 0);
    }
}

static void what_is_no_scale_stays(void **state)
{
    (void)state;
    for (size_t i = 0; i < MPQ_COUNT(of_octave); i++) {
        const struct mpq_layer layer = {.scale_steps = of_octave[i]};
        assert_true(mpq_scale_round(&layer, 0) == 0);
        assert_true(isnan(mpq_scale_round(&layer, NAN)));
        assert_true(isinf(mpq_scale_round(&layer, INFINITY)));
        assert_true(isnormal(mpq_scale_round(&layer, 1e-40f)));
    }
}

/* Two weights [channels, 3] with magnitudes 1 and `factor`; the steps that their layers get after
 * w[0][at] is set for `at` < n_set. */
static int steps_of(struct net *net, int64_t n_channel, int64_t n_set, const float *value,
                    float factor)
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
    assert_int_equal(layer[0].scale_steps, layer[1].scale_steps);
    return layer[0].scale_steps;
}

static void few_channels_have_bfloat16(void **state)
{
    assert_int_equal(steps_of(*state, 90, 0, NULL, 1), 0);
}

/* A layer's own channels spread by 2^6 and more: the least do not count, be they 0 or next to it.
 */
static void channels_without_weights_do_not_count(void **state)
{
    const float w[6] = {0, 0, 0, 1e-20f, -1e-30f, 0};
    assert_int_equal(steps_of(*state, 120, 6, w, 1), 16);
}

/* 256 steps, an octave of them to spare. */
static void steps_are_as_fine_as_the_spread_allows(void **state)
{
    static const struct {
        double octaves;
        int steps;
    } of[] = {{0, 64},    {2.99, 64}, {3.01, 32}, {6.99, 32}, {7.01, 16},
              {14.9, 16}, {15.1, 0},  {-2.9, 64}, {-6.9, 32}, {-14.9, 16}};
    for (size_t i = 0; i < MPQ_COUNT(of); i++)
        assert_int_equal(steps_of(*state, 120, 0, NULL, (float)pow(2, -of[i].octaves)),
                         of[i].steps);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_are_powers),
        cmocka_unit_test(rounding_is_to_the_nearest),
        cmocka_unit_test(what_is_no_scale_stays),
        cmocka_unit_test_setup_teardown(few_channels_have_bfloat16, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(channels_without_weights_do_not_count, net_setup,
                                        net_teardown),
        cmocka_unit_test_setup_teardown(steps_are_as_fine_as_the_spread_allows, net_setup,
                                        net_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
