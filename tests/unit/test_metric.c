#include "calibration/metric.h"

#include <string.h>

#include "tests/check.h"

static void classes_of_shapes(void **state)
{
    (void)state;
    static const struct {
        enum mpq_dtype dtype;
        struct mpq_shape shape;
        int64_t n_class;
    } cases[] = {
        {MPQ_FLOAT, {2, {8, 10}}, 10},
        {MPQ_FLOAT, {4, {8, 1000, 1, 1}}, 1000},
        {MPQ_FLOAT, {3, {8, 1, 12}}, 12},
        {MPQ_FLOAT, {2, {8, 1}}, 0},
        {MPQ_FLOAT, {4, {8, 21, 513, 513}}, 0},
        {MPQ_INT64, {2, {8, 10}}, 0},
        {MPQ_FLOAT, {1, {10}}, 0},
        {MPQ_FLOAT, {0, {0}}, 0},
    };
    for (size_t i = 0; i < MPQ_COUNT(cases); i++) {
        struct mpq_tensor tensor = {cases[i].dtype, cases[i].shape, NULL};
        assert_int_equal(mpq_metric_classes(&tensor), cases[i].n_class);
    }
}

static void ties_go_to_the_lowest_index(void **state)
{
    (void)state;
    const mpq_real score[] = {1, 4, 4, 2, 4};
    assert_int_equal(mpq_metric_argmax(score, 5), 1);
    assert_true(mpq_metric_is_in_top(score, 5, 1, 1));
    assert_false(mpq_metric_is_in_top(score, 5, 2, 1));
    assert_true(mpq_metric_is_in_top(score, 5, 2, 2));
    assert_true(mpq_metric_is_in_top(score, 5, 4, 3));
    assert_false(mpq_metric_is_in_top(score, 5, 3, 3));
    assert_true(mpq_metric_is_in_top(score, 5, 0, 5));
}

static void nan_never_wins(void **state)
{
    (void)state;
    const mpq_real score[] = {(mpq_real)NAN, 1, (mpq_real)NAN, 2};
    assert_int_equal(mpq_metric_argmax(score, 4), 3);
    assert_false(mpq_metric_is_in_top(score, 4, 0, 5));
    assert_true(mpq_metric_is_in_top(score, 4, 3, 1));
}

/* Expected values from numpy. */
static void divergence_of_logits(void **state)
{
    (void)state;
    const mpq_real a[] = {1.5f, -0.25f, 3, 0}, b[] = {1, 0.5f, 2.5f, -1};
    CHECK_NEAR(mpq_metric_kl(a, b, 4), 0.03905142527, 1e-6, 0);
    CHECK_NEAR(mpq_metric_kl(a, a, 4), 0, 0, 1e-12);
    const mpq_real large[] = {1000, 0}, small[] = {0, 1000};
    CHECK_NEAR(mpq_metric_kl(large, small, 2), 1000, 1e-9, 0);
}

static void divergence_of_probabilities(void **state)
{
    (void)state;
    const mpq_real p[] = {0.7f, 0.2f, 0.1f, 0}, q[] = {0.5f, 0.25f, 0, 0.2f};
    CHECK_NEAR(mpq_metric_kl(p, q, 4), 1.7514181666, 1e-6, 0);
    CHECK_NEAR(mpq_metric_kl(p, p, 4), 0, 0, 1e-7);
}

static void paired_interval(void **state)
{
    (void)state;
    struct mpq_paired a = mpq_paired_difference(1000, 12, 7);
    CHECK_NEAR(a.difference, 0.005, 1e-12, 0);
    CHECK_NEAR(a.low, -0.003968409, 0, 1e-9);
    CHECK_NEAR(a.high, 0.013948449, 0, 1e-9);
    struct mpq_paired unchanged = mpq_paired_difference(100, 0, 0);
    assert_true(unchanged.difference == 0 && unchanged.low < 0 && unchanged.high > 0);
    assert_true(mpq_paired_difference(1000, 40, 5).low > 0);
    assert_true(isnan(mpq_paired_difference(0, 0, 0).low));
}

static void comparison_sums(void **state)
{
    (void)state;
    struct mpq_comparison c = {0};
    const mpq_real r[] = {1, 2, 3, 0, 4, 0}, y[] = {1, 2, 3.5f, 1, 0, 0};
    mpq_comparison_add(&c, r, y, 2, 3, 3);
    assert_int_equal(c.n_sample, 2);
    assert_int_equal(c.n_agree, 1);
    assert_int_equal(c.n_element, 6);
    CHECK_NEAR(c.difference_max, 4, 0, 0);
    CHECK_NEAR(c.difference_sum, 5.5, 1e-12, 0);
    CHECK_NEAR(mpq_comparison_sqnr_db(&c), 10 * log10(30 / 17.25), 1e-12, 0);
    struct mpq_comparison equal = {0};
    mpq_comparison_add(&equal, r, r, 2, 3, 3);
    assert_true(isinf(mpq_comparison_sqnr_db(&equal)));
}

static void spread_of_values(void **state)
{
    (void)state;
    struct mpq_spread s = {0};
    const mpq_real a[] = {1000001, (mpq_real)NAN}, b[] = {1000002, 1000004, (mpq_real)INFINITY};
    mpq_spread_add(&s, a, 2);
    mpq_spread_add(&s, b, 3);
    assert_int_equal(s.n_finite, 3);
    assert_int_equal(s.n_nonfinite, 2);
    CHECK_NEAR(s.min, 1000001, 0, 0);
    CHECK_NEAR(s.max, 1000004, 0, 0);
    CHECK_NEAR(s.mean, 1000002.333333333, 1e-14, 0);
    CHECK_NEAR(mpq_spread_deviation(&s), 1.247219129, 1e-8, 0);
    struct mpq_spread nothing = {0};
    assert_true(isnan(mpq_spread_deviation(&nothing)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(classes_of_shapes),
        cmocka_unit_test(ties_go_to_the_lowest_index),
        cmocka_unit_test(nan_never_wins),
        cmocka_unit_test(divergence_of_logits),
        cmocka_unit_test(divergence_of_probabilities),
        cmocka_unit_test(paired_interval),
        cmocka_unit_test(comparison_sums),
        cmocka_unit_test(spread_of_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
