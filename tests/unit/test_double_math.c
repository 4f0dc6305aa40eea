/* Against libm, in units of the last place. */
#include "quantcore/base/double_math.h"
#include "quantcore/base/rng.h"
#include "tests/check.h"

static double ulps(double got, double want)
{
    double ulp = nextafter(fabs(want), INFINITY) - fabs(want);
    return fabs(got - want) / ulp;
}

static void expm1_is_within_two_ulp(void **state)
{
    const double scale[] = {1e-12, 1e-6, 1e-3, 0.1, 0.5, 1, 3, 20, 300};
    (void)state;
    for (uint32_t s = 0; s < sizeof scale / sizeof *scale; s++)
        for (uint32_t i = 0; i < 20000; i++) {
            double x = scale[s] * mpq_rng_normal(1, MPQ_STREAM_TEST, s, i);
            if (fabs(x) < 700 && !(ulps(mpq_expm1_saturated(x), expm1(x)) <= 2))
                fail_msg("expm1(%a) = %a, expected %a", x, mpq_expm1_saturated(x), expm1(x));
        }
    CHECK_NEAR(mpq_expm1_saturated(0), 0, 0, 0);
    CHECK_NEAR(mpq_expm1_saturated(1e300), expm1(700), 1e-15, 0);
    CHECK_NEAR(mpq_expm1_saturated(-INFINITY), -1, 0, 0);
    assert_true(isnan(mpq_expm1_saturated(NAN)));
}

static void log1p_is_within_two_ulp(void **state)
{
    const double scale[] = {1e-18, 1e-12, 1e-6, 1e-3, 0.1, 0.5, 1, 30, 600};
    (void)state;
    for (uint32_t s = 0; s < sizeof scale / sizeof *scale; s++)
        for (uint32_t i = 0; i < 20000; i++) {
            double z = scale[s] * mpq_rng_normal(2, MPQ_STREAM_TEST, s, i);
            double x = s > 6 ? exp(z) : z;
            x = z < -20 ? -1 + 1e-12 : x;
            if (x > -1 && isfinite(x) && !(ulps(mpq_log1p(x), log1p(x)) <= 2))
                fail_msg("log1p(%a) = %a, expected %a", x, mpq_log1p(x), log1p(x));
        }
    CHECK_NEAR(mpq_log1p(0), 0, 0, 0);
    CHECK_NEAR(mpq_log1p(1e304), log1p(1e304), 1e-15, 0);
    assert_true(isnan(mpq_log1p(NAN)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(expm1_is_within_two_ulp),
        cmocka_unit_test(log1p_is_within_two_ulp),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
