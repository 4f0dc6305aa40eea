#include <stdlib.h>
#include <string.h>

#include "quantcore/base/rng.h"
#include "tests/check.h"

/* kat_vectors of Random123 1.14, philox4x32 with 10 rounds. */
static void philox_gives_the_published_numbers(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < 3; i++) {
        uint32_t out[4];
        mpq_philox4x32(known[i].counter, known[i].key, out);
        assert_memory_equal(out, known[i].out, sizeof out);
    }
}

static void each_argument_matters(void **state)
{
    (void)state;
    uint64_t r = mpq_rng_u64(1, MPQ_STREAM_TEST, 2, 3);
    assert_true(r == mpq_rng_u64(1, MPQ_STREAM_TEST, 2, 3));
    assert_true(r != mpq_rng_u64(2, MPQ_STREAM_TEST, 2, 3));
    assert_true(r != mpq_rng_u64(1 | 1ull << 40, MPQ_STREAM_TEST, 2, 3));
    assert_true(r != mpq_rng_u64(1, MPQ_STREAM_BATCH, 2, 3));
    assert_true(r != mpq_rng_u64(1, MPQ_STREAM_TEST, 3, 3));
    assert_true(r != mpq_rng_u64(1, MPQ_STREAM_TEST, 2 | 1ull << 40, 3));
    assert_true(r != mpq_rng_u64(1, MPQ_STREAM_TEST, 2, 4));
}

/* The bounds on moments are five standard errors: a generator that is right fails them once in a
 * million keys, and the key is fixed. */
static void uniform_is_in_range_and_even(void **state)
{
    (void)state;
    enum { N = 200000 };
    double sum = 0, square = 0;
    for (uint32_t i = 0; i < N; i++) {
        double u = mpq_rng_uniform(11, MPQ_STREAM_TEST, 0, i);
        assert_true(u >= 0 && u < 1);
        sum += u;
        square += u * u;
    }
    CHECK_NEAR(sum / N, 0.5, 0, 5 * sqrt(1.0 / 12 / N));
    CHECK_NEAR(square / N, 1.0 / 3, 0, 5 * sqrt(4.0 / 45 / N));
}

static void normal_has_the_moments_of_one(void **state)
{
    (void)state;
    enum { N = 200000 };
    double moment[5] = {0};
    for (uint32_t i = 0; i < N; i++) {
        double x = mpq_rng_normal(12, MPQ_STREAM_TEST, 0, i), power = 1;
        assert_true(isfinite(x));
        for (int k = 1; k <= 4; k++)
            moment[k] += (power *= x) / N;
    }
    CHECK_NEAR(moment[1], 0, 0, 5 * sqrt(1.0 / N));
    CHECK_NEAR(moment[2], 1, 0, 5 * sqrt(2.0 / N));
    CHECK_NEAR(moment[3], 0, 0, 5 * sqrt(15.0 / N));
    CHECK_NEAR(moment[4], 3, 0, 5 * sqrt(96.0 / N));
}

static void below_reaches_every_number(void **state)
{
    (void)state;
    enum { N = 70000 };
    int count[7] = {0};
    for (uint32_t i = 0; i < N; i++) {
        uint32_t r = mpq_rng_below(13, MPQ_STREAM_TEST, 0, i, 7);
        assert_true(r < 7);
        count[r]++;
    }
    for (int k = 0; k < 7; k++)
        CHECK_NEAR(count[k], N / 7, 0, 5 * sqrt(N * (1.0 / 7) * (6.0 / 7)));
    assert_int_equal(mpq_rng_below(13, MPQ_STREAM_TEST, 0, 0, 1), 0);
}

static void permutation_holds_each_index_once(void **state)
{
    (void)state;
    static const uint32_t size[] = {0, 1, 2, 3, 10, 1000};
    uint32_t order[1000];
    for (size_t s = 0; s < sizeof size / sizeof *size; s++) {
        unsigned char seen[1000] = {0};
        mpq_rng_permutation(14, MPQ_STREAM_TEST, 5, size[s], order);
        for (uint32_t i = 0; i < size[s]; i++) {
            assert_true(order[i] < size[s]);
            assert_int_equal(seen[order[i]]++, 0);
        }
    }
    uint32_t other[1000];
    mpq_rng_permutation(14, MPQ_STREAM_TEST, 6, 1000, other);
    assert_true(memcmp(order, other, sizeof order) != 0);
}

/* All six orders of three things, equally often. */
static void permutations_are_even(void **state)
{
    (void)state;
    enum { N = 60000 };
    int count[27] = {0};
    for (uint64_t step = 0; step < N; step++) {
        uint32_t p[3];
        mpq_rng_permutation(15, MPQ_STREAM_TEST, step, 3, p);
        count[p[0] * 9 + p[1] * 3 + p[2]]++;
    }
    static const int order[] = {5, 7, 11, 15, 19, 21}; /* 012 021 102 120 201 210 in base three */
    for (int k = 0; k < 6; k++)
        CHECK_NEAR(count[order[k]], N / 6, 0, 5 * sqrt(N * (1.0 / 6) * (5.0 / 6)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_published_numbers),
        cmocka_unit_test(each_argument_matters),
        cmocka_unit_test(uniform_is_in_range_and_even),
        cmocka_unit_test(normal_has_the_moments_of_one),
        cmocka_unit_test(below_reaches_every_number),
        cmocka_unit_test(permutation_holds_each_index_once),
        cmocka_unit_test(permutations_are_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
