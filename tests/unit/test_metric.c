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

static double probability(int n, int lost, int won, double p_lost, double p_won)
{
    int rest = n - lost - won;
    return exp(lgamma(n + 1) - lgamma(lost + 1) - lgamma(won + 1) - lgamma(rest + 1) +
               lost * log(p_lost) + won * log(p_won) + rest * log1p(-p_lost - p_won));
}

/* How often the interval holds the truth, exactly: by the probability of every outcome. The plain
 * interval of Wald, for comparison, fails where few samples change sides. */
static void paired_interval_covers(void **state)
{
    (void)state;
    static const double share[] = {0.001, 0.005, 0.02, 0.05, 0.1};
    static const int size[] = {50, 200, 600};
    double sum = 0, least = 1, least_wald = 1, least_one_sided = 1;
    int n_case = 0;
    for (size_t k = 0; k < MPQ_COUNT(size) * MPQ_COUNT(share) * MPQ_COUNT(share); k++) {
        int n = size[k % 3];
        double a = share[k / 3 % 5], b = share[k / 15], covered = 0, wald = 0, one_sided = 0;
        for (int lost = 0; lost <= n && lost < n * a + 60; lost++)
            for (int won = 0; lost + won <= n && won < n * b + 60; won++) {
                double p = probability(n, lost, won, a, b);
                struct mpq_paired i =
                    mpq_paired_difference((uint64_t)n, (uint64_t)lost, (uint64_t)won);
                double d = (lost - won) / (double)n;
                double half = 1.96 * sqrt(((lost + won) / (double)n - d * d) / n);
                covered += i.low <= a - b && a - b <= i.high ? p : 0;
                wald += d - half <= a - b && a - b <= d + half ? p : 0;
                one_sided +=
                    mpq_paired_confidence((uint64_t)n, (uint64_t)lost, (uint64_t)won, a - b) < 0.8
                        ? p
                        : 0;
            }
        n_case++;
        sum += covered;
        least = fmin(least, covered);
        least_wald = fmin(least_wald, wald);
        least_one_sided = fmin(least_one_sided, one_sided);
    }
    assert_true(least > 0.93);
    assert_true(sum / n_case > 0.945 && sum / n_case < 0.985);
    assert_true(least_one_sided > 0.7); /* a limit that is wrong is trusted in 20 % of the cases */
    assert_true(least_wald < 0.8);
}

static void paired_confidence(void **state)
{
    (void)state;
    CHECK_NEAR(mpq_paired_confidence(1000, 12, 7, 5.0 / 1002), 0.5, 1e-12, 0);
    CHECK_NEAR(mpq_paired_confidence(1000, 12, 7, 0.013948449), 0.975, 1e-6, 0);
    CHECK_NEAR(mpq_paired_confidence(1000, 12, 7, -0.003968409), 0.025, 0, 1e-6);
    assert_true(isnan(mpq_paired_confidence(0, 0, 0, 0)));
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
        cmocka_unit_test(paired_interval_covers),
        cmocka_unit_test(paired_confidence),
        cmocka_unit_test(comparison_sums),
        cmocka_unit_test(spread_of_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
