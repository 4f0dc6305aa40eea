/* Histograms and the ranges found on them. */
#include "quantcore/quant/histogram.h"

#include <string.h>

#include "quantcore/base/rng.h"
#include "tests/check.h"

enum { N = 20000 };

static void fill_normal(mpq_real *x, int n, uint64_t seed)
{
    for (int i = 0; i < n; i++)
        x[i] = (mpq_real)mpq_rng_normal(seed, MPQ_STREAM_TEST, 0, (uint32_t)i);
}

static void histogram_grows_without_losing_values(void **state)
{
    (void)state;
    static struct mpq_histogram h;
    memset(&h, 0, sizeof h);
    const mpq_real batches[][3] = {
        {MPQ_REAL(0.1), MPQ_REAL(0.2), MPQ_REAL(0.3)}, {-5, 0, 1}, {100, MPQ_REAL(-0.5), 2}};
    for (size_t i = 0; i < 3; i++)
        mpq_histogram_add(&h, batches[i], 3);
    uint64_t n = 0;
    for (int i = 0; i < MPQ_HISTOGRAM_BINS; i++)
        n += h.count[i];
    assert_int_equal(n, 9);
    assert_int_equal(h.n, 9);
    CHECK_NEAR(h.minimum, -5, 0, 0);
    CHECK_NEAR(h.maximum, 100, 0, 0);
    assert_true(h.low <= -5 && h.low + h.width * MPQ_HISTOGRAM_BINS > 100);
}

static void ranges_hold_zero_and_beat_minmax(void **state)
{
    (void)state;
    static mpq_real x[N];
    static struct mpq_histogram h;
    for (int sign = 0; sign < 2; sign++)
        for (int bits = 2; bits <= 8; bits++) {
            struct mpq_act_quant quant, full;
            memset(&h, 0, sizeof h);
            fill_normal(x, N, 3);
            for (int i = 0; i < N && !sign; i++)
                x[i] = x[i] > 0 ? x[i] : 0;
            mpq_histogram_add(&h, x, N);
            mpq_histogram_range(&h, (struct mpq_act_form){bits, false, false, 0}, &quant);
            assert_true(quant.zero_point >= 0 && quant.zero_point < 1 << bits);
            if (!sign)
                assert_int_equal(quant.zero_point, 0);
            full = quant;
            full.scale = (float)((h.maximum - fmin(h.minimum, 0)) / ((1 << bits) - 1));
            full.zero_point = (int)rint(-fmin(h.minimum, 0) / (double)full.scale);
            assert_true(mpq_histogram_mse(&h, &quant) <= mpq_histogram_mse(&h, &full));
        }
    /* ReLU at 4 bits, against the best of a fine ladder of steps on the sample itself. */
    memset(&h, 0, sizeof h);
    fill_normal(x, N, 3);
    for (int i = 0; i < N; i++)
        x[i] = x[i] > 0 ? x[i] : 0;
    struct mpq_act_quant quant;
    mpq_histogram_add(&h, x, N);
    mpq_histogram_range(&h, (struct mpq_act_form){4, false, false, 0}, &quant);
    double relu_mse = 1;
    for (double step = 0.1; step < 0.4; step += 0.001) {
        double sum = 0;
        for (int i = 0; i < N; i++) {
            double q = fmin(rint((double)x[i] / step), 15);
            sum += ((double)x[i] - q * step) * ((double)x[i] - q * step);
        }
        relu_mse = fmin(relu_mse, sum / N);
    }
    CHECK_NEAR(mpq_histogram_mse(&h, &quant), relu_mse, 0.03, 0);
    /* Zero point 0 and a sign leave it the same 16 integers of 5 bits, and the same range. */
    mpq_histogram_range(&h, (struct mpq_act_form){5, true, false, 0}, &quant);
    CHECK_NEAR(mpq_histogram_mse(&h, &quant), relu_mse, 0.03, 0);
}

/* Many small values, and few that are far away: the more these count, the less of them is cut off.
 */
static void what_is_cut_off_counts_as_the_form_says(void **state)
{
    (void)state;
    static mpq_real x[N];
    static struct mpq_histogram h;
    struct mpq_act_quant plain, quant;
    fill_normal(x, N, 5);
    for (int i = 0; i < N; i += N / 4)
        x[i] = 40;
    memset(&h, 0, sizeof h);
    mpq_histogram_add(&h, x, N);
    for (int bits = 4; bits <= 8; bits += 4) {
        float before = 0;
        mpq_histogram_range(&h, (struct mpq_act_form){bits, true, false, 0}, &plain);
        for (double weight = 1; weight < 1e6; weight *= 10) {
            mpq_histogram_range(&h, (struct mpq_act_form){bits, true, false, weight}, &quant);
            assert_true(quant.scale >= before);
            if (weight == 1)
                CHECK_NEAR(quant.scale, plain.scale, 0, 0);
            before = quant.scale;
        }
        assert_true(plain.scale < before);
        CHECK_NEAR(before, 40.0 / ((1 << (bits - 1)) - 1), 0.07, 0);
    }
}

/* Squared error of a quantization on a value. */
static double square_error(const struct mpq_act_quant *quant, double x)
{
    double q = rint(x / (double)quant->scale) + quant->zero_point;
    q = fmin(fmax(q, 0), (1 << quant->bits) - 1);
    double error = x - (q - quant->zero_point) * (double)quant->scale;
    return error * error;
}

/* Of few samples of few values, against others of the same distribution; many values need nothing.
 */
static void ranges_leave_room_for_samples_not_seen(void **state)
{
    (void)state;
    enum { SAMPLES = 12, SIZE = 8, TRIALS = 100, OTHERS = 1000 };
    static struct mpq_histogram h, by_values;
    static mpq_real x[N], other[OTHERS];
    const struct mpq_act_form form = {8, false, false, 0};
    struct mpq_act_quant quant, plain;
    double with = 0, without = 0;
    fill_normal(other, OTHERS, 1000);
    for (unsigned trial = 0; trial < TRIALS; trial++) {
        memset(&h, 0, sizeof h);
        memset(&by_values, 0, sizeof by_values);
        fill_normal(x, SAMPLES * SIZE, trial);
        mpq_histogram_add_samples(&h, x, SAMPLES * SIZE, SAMPLES);
        mpq_histogram_add(&by_values, x, SAMPLES * SIZE);
        assert_memory_equal(h.count, by_values.count, sizeof h.count);
        mpq_histogram_range(&h, form, &quant);
        mpq_histogram_range(&by_values, form, &plain);
        for (int i = 0; i < OTHERS; i++) {
            with += square_error(&quant, (double)other[i]);
            without += square_error(&plain, (double)other[i]);
        }
    }
    assert_true(with < without / 3);
    /* An end that two samples share is a bound, and so is what the caller says; both ends of x are
     * looked at. */
    for (int which = 0; which < 3; which++) {
        memset(&h, 0, sizeof h);
        memset(&by_values, 0, sizeof by_values);
        h.is_bounded = which == 2;
        for (int i = 0; i < SAMPLES * SIZE; i++)
            x[i] = which == 1 ? -(mpq_real)fabs((double)x[i]) : (mpq_real)fabs((double)x[i]);
        for (int i = 0; i < SAMPLES && which < 2; i++)
            x[i * SIZE] = which == 1 ? -2 : 2;
        for (int i = 0; i < SAMPLES * SIZE && which < 2; i++)
            x[i] = (mpq_real)fmin(fmax((double)x[i], -2), 2);
        mpq_histogram_add_samples(&h, x, SAMPLES * SIZE, SAMPLES);
        mpq_histogram_add(&by_values, x, SAMPLES * SIZE);
        mpq_histogram_range(&h, form, &quant);
        mpq_histogram_range(&by_values, form, &plain);
        CHECK_NEAR(quant.scale, plain.scale, 0, 0);
        assert_int_equal(quant.zero_point, plain.zero_point);
    }
    /* Samples of many values: one clipped value of a sample means nothing. */
    memset(&h, 0, sizeof h);
    fill_normal(x, N, 5);
    mpq_histogram_add_samples(&h, x, N, 2);
    mpq_histogram_range(&h, form, &quant);
    assert_true(255 * (double)quant.scale <= (h.maximum - h.minimum) * 1.02);
}

static void other_forms_of_activations(void **state)
{
    (void)state;
    static struct mpq_histogram h;
    static mpq_real x[N];
    struct mpq_act_quant quant;
    memset(&h, 0, sizeof h);
    fill_normal(x, N, 3);
    mpq_histogram_add(&h, x, N);
    mpq_histogram_range(&h, (struct mpq_act_form){8, true, false, 0}, &quant);
    assert_int_equal(quant.zero_point, 128);
    assert_true(quant.bits == 8 &&
                127 * (double)quant.scale <= fmax(-h.minimum, h.maximum) * 1.0001);
    double eight = mpq_histogram_mse(&h, &quant);
    mpq_histogram_range(&h, (struct mpq_act_form){16, false, false, 0}, &quant);
    CHECK_NEAR(quant.scale, (h.maximum - h.minimum) / 65535, 1e-6, 0);
    CHECK_NEAR(quant.zero_point, -h.minimum / (double)quant.scale, 0, 0.5);
    assert_true(mpq_histogram_mse(&h, &quant) < eight / 1000);
    struct mpq_act_form all = {.bits = 4, .is_min_max = true};
    mpq_histogram_range(&h, all, &quant);
    CHECK_NEAR(quant.scale, (h.maximum - h.minimum) / 15, 1e-6, 0);
    memset(&h, 0, sizeof h);
    mpq_histogram_range(&h, (struct mpq_act_form){8, true, false, 0}, &quant);
    assert_true(quant.scale > 0 && quant.zero_point == 128);
}

static void empty_and_constant_values_have_a_range(void **state)
{
    (void)state;
    static struct mpq_histogram h;
    struct mpq_act_quant quant;
    memset(&h, 0, sizeof h);
    mpq_histogram_range(&h, (struct mpq_act_form){8, false, false, 0}, &quant);
    assert_true(quant.scale > 0);
    const mpq_real zeros[4] = {0}, sevens[4] = {7, 7, 7, 7};
    mpq_histogram_add(&h, zeros, 4);
    mpq_histogram_range(&h, (struct mpq_act_form){8, false, false, 0}, &quant);
    assert_true(quant.scale > 0 && quant.zero_point == 0);
    memset(&h, 0, sizeof h);
    mpq_histogram_add(&h, sevens, 4);
    mpq_histogram_range(&h, (struct mpq_act_form){8, false, false, 0}, &quant);
    CHECK_NEAR(rint(7 / (double)quant.scale) * (double)quant.scale, 7, 0.01, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(histogram_grows_without_losing_values),
        cmocka_unit_test(ranges_hold_zero_and_beat_minmax),
        cmocka_unit_test(what_is_cut_off_counts_as_the_form_says),
        cmocka_unit_test(ranges_leave_room_for_samples_not_seen),
        cmocka_unit_test(other_forms_of_activations),
        cmocka_unit_test(empty_and_constant_values_have_a_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
