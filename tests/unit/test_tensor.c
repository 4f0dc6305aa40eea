/* Element types, shapes, tensors. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quantcore/ir/small_float.h"
#include "quantcore/ir/tensor.h"
#include "tests/unit/fixture.h"

/* ---- dtype ---- */

static void types_have_the_sizes_onnx_gives_them(void **state)
{
    (void)state;
    static const struct {
        enum mpq_dtype dtype;
        const char *name;
        size_t bytes;
        int bits;
        bool is_integer;
    } type[] = {
        {MPQ_FLOAT, "float", sizeof(mpq_real), 32, false},
        {MPQ_INT8, "int8", 1, 8, true},
        {MPQ_INT64, "int64", 8, 64, true},
        {MPQ_BOOL, "bool", 1, 8, false},
        {MPQ_FLOAT16, "float16", 2, 16, false},
        {MPQ_UINT4, "uint4", 1, 4, true},
        {MPQ_INT2, "int2", 1, 2, true},
        {MPQ_STRING, "string", sizeof(char *), 0, false},
        {MPQ_UNDEFINED, "undefined", 0, 0, false},
        {MPQ_N_DTYPE, "unknown", 0, 0, false},
        {(enum mpq_dtype)1000000, "unknown", 0, 0, false},
    };
    for (size_t i = 0; i < MPQ_COUNT(type); i++) {
        assert_string_equal(mpq_dtype_name(type[i].dtype), type[i].name);
        assert_int_equal(mpq_dtype_bytes(type[i].dtype), type[i].bytes);
        assert_int_equal(mpq_dtype_bits(type[i].dtype), type[i].bits);
        assert_int_equal(mpq_dtype_is_integer(type[i].dtype), type[i].is_integer);
    }
    for (int d = 1; d < MPQ_N_DTYPE; d++) /* no row of the table is forgotten */
        assert_true(mpq_dtype_bytes((enum mpq_dtype)d) > 0);
}

/* ---- shape ---- */

static void shapes_print_as_users_read_them(void **state)
{
    (void)state;
    assert_string_equal(MPQ_SHAPE_TEXT(&MPQ_SHAPE(1, 3, 224, 224)), "[1,3,224,224]");
    assert_string_equal(MPQ_SHAPE_TEXT(&MPQ_SHAPE(MPQ_DIM_UNKNOWN, 10)), "[?,10]");
    assert_string_equal(MPQ_SHAPE_TEXT(&(struct mpq_shape){0}), "[]");
    assert_string_equal(MPQ_SHAPE_TEXT(&(struct mpq_shape){.rank = MPQ_RANK_UNKNOWN}), "[...]");
    struct mpq_shape longest = {.rank = MPQ_MAX_RANK};
    for (int i = 0; i < MPQ_MAX_RANK; i++)
        longest.dim[i] = INT64_MAX;
    assert_int_equal(strlen(MPQ_SHAPE_TEXT(&longest)), 1 + 8 * 19 + 7 + 1);
    char small[6];
    assert_string_equal(mpq_shape_print(&longest, small, sizeof small), "[9223");
}

static void shapes_are_counted(void **state)
{
    (void)state;
    struct mpq_shape shape = MPQ_SHAPE(2, 3, 4, 5);
    assert_int_equal(mpq_shape_count(&shape), 120);
    assert_int_equal(mpq_shape_count_range(&shape, 1, 3), 12);
    assert_int_equal(mpq_shape_count_range(&shape, 2, 2), 1);
    assert_int_equal(mpq_shape_count(&(struct mpq_shape){0}), 1);
    assert_true(mpq_shape_is_known(&shape));
    assert_true(mpq_shape_equal(&shape, &MPQ_SHAPE(2, 3, 4, 5)));
    assert_false(mpq_shape_equal(&shape, &MPQ_SHAPE(2, 3, 4)));
    assert_false(mpq_shape_equal(&shape, &MPQ_SHAPE(2, 3, 4, 6)));
    assert_false(mpq_shape_is_known(&MPQ_SHAPE(2, MPQ_DIM_UNKNOWN)));
    assert_false(mpq_shape_is_known(&(struct mpq_shape){.rank = MPQ_RANK_UNKNOWN}));
}

static void sizes_that_overflow_are_refused(void **state)
{
    (void)state;
    int64_t count = 0, limit = (int64_t)(MPQ_LIMIT_TENSOR_BYTES / 4);
    CHECK_OK(&ctx, mpq_shape_count_checked(&ctx, &MPQ_SHAPE(limit / 2, 2), 4, &count));
    assert_int_equal(count, limit);
    CHECK_OK(&ctx, mpq_shape_count_checked(&ctx, &MPQ_SHAPE(INT64_MAX, 0, INT64_MAX), 4, &count));
    assert_int_equal(count, 0);
    CHECK_OK(&ctx, mpq_shape_count_checked(&ctx, &(struct mpq_shape){0}, 8, &count));
    assert_int_equal(count, 1);

    static const struct mpq_shape bad[] = {
        {2, {INT64_MAX, 2}},
        {3, {(int64_t)1 << 32, (int64_t)1 << 32, 3}},
        {1, {INT64_MAX / 2}},
        {1, {MPQ_LIMIT_TENSOR_BYTES / 4 + 1}},
    };
    for (size_t i = 0; i < MPQ_COUNT(bad); i++)
        CHECK_FAILS(&ctx, mpq_shape_count_checked(&ctx, &bad[i], 4, &count), MPQ_E_LIMIT,
                    MPQ_SHAPE_TEXT(&bad[i]));
    CHECK_FAILS(&ctx, mpq_shape_count_checked(&ctx, &MPQ_SHAPE(MPQ_DIM_UNKNOWN), 4, &count),
                MPQ_E_SHAPE, "[?]");
    assert_int_equal(count, 1);
}

/* As numpy.broadcast_shapes says. */
static void shapes_broadcast_as_in_numpy(void **state)
{
    (void)state;
    static const struct {
        struct mpq_shape a, b, out;
        bool fits;
    } row[] = {
        {{2, {3, 4}}, {2, {3, 4}}, {2, {3, 4}}, true},
        {{2, {3, 4}}, {0, {0}}, {2, {3, 4}}, true},
        {{2, {3, 4}}, {1, {4}}, {2, {3, 4}}, true},
        {{2, {3, 1}}, {1, {4}}, {2, {3, 4}}, true},
        {{4, {8, 1, 6, 1}}, {3, {7, 1, 5}}, {4, {8, 7, 6, 5}}, true},
        {{2, {0, 1}}, {2, {1, 3}}, {2, {0, 3}}, true},
        {{1, {1}}, {1, {0}}, {1, {0}}, true},
        {{2, {3, 4}}, {1, {3}}, {0, {0}}, false},
        {{1, {2}}, {1, {0}}, {0, {0}}, false},
    };
    for (size_t i = 0; i < MPQ_COUNT(row); i++)
        for (int swap = 0; swap < 2; swap++) {
            struct mpq_shape out = MPQ_SHAPE(77);
            const struct mpq_shape *a = swap ? &row[i].b : &row[i].a;
            const struct mpq_shape *b = swap ? &row[i].a : &row[i].b;
            assert_int_equal(mpq_shape_broadcast(a, b, &out), row[i].fits);
            assert_true(mpq_shape_equal(&out, row[i].fits ? &row[i].out : &MPQ_SHAPE(77)));
        }
    struct mpq_shape alias = MPQ_SHAPE(1, 4);
    assert_true(mpq_shape_broadcast(&alias, &MPQ_SHAPE(5, 1, 1), &alias));
    assert_true(mpq_shape_equal(&alias, &MPQ_SHAPE(5, 1, 4)));
}

/* ---- tensor ---- */

static void tensors_are_zeroed_and_bounded(void **state)
{
    (void)state;
    struct mpq_tensor t;
    CHECK_OK(&ctx, mpq_tensor_alloc(&ctx, arena, MPQ_INT16, &MPQ_SHAPE(2, 3), &t));
    assert_int_equal(mpq_tensor_bytes(&t), 12);
    for (int64_t i = 0; i < 6; i++)
        assert_int_equal(mpq_tensor_int(&t, i), 0);
    CHECK_FAILS(&ctx, mpq_tensor_alloc(&ctx, arena, MPQ_UNDEFINED, &MPQ_SHAPE(2), &t),
                MPQ_E_UNSUPPORTED, "undefined");
    CHECK_FAILS(&ctx, mpq_tensor_alloc(&ctx, arena, MPQ_INT16, &MPQ_SHAPE(-1), &t), MPQ_E_SHAPE,
                "[?]");
    assert_int_equal(mpq_tensor_bytes(&t), 12);
}

static void elements_saturate(void **state)
{
    (void)state;
    static const struct {
        enum mpq_dtype dtype;
        double low, high;
    } type[] = {
        {MPQ_UINT8, 0, 255},
        {MPQ_INT8, -128, 127},
        {MPQ_UINT4, 0, 15},
        {MPQ_INT4, -8, 7},
        {MPQ_UINT2, 0, 3},
        {MPQ_INT2, -2, 1},
        {MPQ_UINT16, 0, 65535},
        {MPQ_INT16, -32768, 32767},
        {MPQ_INT32, -0x1p31, 0x1p31 - 1},
        {MPQ_UINT32, 0, 0x1p32 - 1},
        {MPQ_INT64, -0x1p63, 0x1p63}, /* as double; the integers are checked below */
        {MPQ_UINT64, 0, 0x1p64},
    };
    for (size_t i = 0; i < MPQ_COUNT(type); i++) {
        struct mpq_tensor t;
        CHECK_OK(&ctx, mpq_tensor_alloc(&ctx, arena, type[i].dtype, &MPQ_SHAPE(3), &t));
        mpq_tensor_set_double(&t, 0, 1);
        mpq_tensor_set_double(&t, 2, 1);
        const double given[] = {type[i].low,      type[i].high,      1e30,       -1e30,
                                (double)INFINITY, -(double)INFINITY, (double)NAN};
        const double want[] = {
            type[i].low, type[i].high, type[i].high, type[i].low, type[i].high, type[i].low, 0};
        for (size_t k = 0; k < MPQ_COUNT(given); k++) {
            mpq_tensor_set_double(&t, 1, given[k]);
            CHECK_NEAR(mpq_tensor_double(&t, 1), want[k], 0, 0);
        }
        CHECK_NEAR(mpq_tensor_double(&t, 0), 1, 0, 0); /* the neighbours stay */
        CHECK_NEAR(mpq_tensor_double(&t, 2), 1, 0, 0);
    }
    struct mpq_tensor t;
    CHECK_OK(&ctx, mpq_tensor_alloc(&ctx, arena, MPQ_INT64, &MPQ_SHAPE(1), &t));
    mpq_tensor_set_double(&t, 0, 1e30);
    assert_true(mpq_tensor_int(&t, 0) == INT64_MAX);
    mpq_tensor_set_double(&t, 0, -1e30);
    assert_true(mpq_tensor_int(&t, 0) == INT64_MIN);
}

static void integers_wrap_as_a_cast_does(void **state)
{
    (void)state;
    static const struct {
        enum mpq_dtype dtype;
        int64_t given, want;
    } row[] = {
        {MPQ_UINT8, 256 + 7, 7},
        {MPQ_INT8, 128, -128},
        {MPQ_UINT4, 17, 1},
        {MPQ_INT4, 9, -7},
        {MPQ_INT4, -8, -8},
        {MPQ_UINT2, 5, 1},
        {MPQ_INT2, 3, -1},
        {MPQ_UINT16, -1, 65535},
        {MPQ_INT16, 65535, -1},
        {MPQ_UINT32, -1, 0xffffffff},
        {MPQ_INT32, 0xffffffff, -1},
        {MPQ_INT64, INT64_MIN, INT64_MIN},
        {MPQ_BOOL, 2, 1},
    };
    for (size_t i = 0; i < MPQ_COUNT(row); i++) {
        struct mpq_tensor t;
        CHECK_OK(&ctx, mpq_tensor_alloc(&ctx, arena, row[i].dtype, &MPQ_SHAPE(3), &t));
        mpq_tensor_set_int(&t, 0, row[i].given);
        assert_true(mpq_tensor_int(&t, 0) == row[i].want);
        int64_t some[2] = {row[i].given, 1};
        mpq_tensor_set_ints(&t, 1, 2, some);
        assert_true(mpq_tensor_int(&t, 1) == row[i].want && mpq_tensor_int(&t, 2) == 1);
        mpq_tensor_ints(&t, 0, 2, some);
        assert_true(some[0] == row[i].want && some[1] == row[i].want);
    }
}

static void real_elements_keep_their_value(void **state)
{
    (void)state;
    static const struct {
        enum mpq_dtype dtype;
        double given, want;
    } row[] = {
        {MPQ_FLOAT, 0.1, (double)MPQ_REAL(0.1)},
        {MPQ_DOUBLE, 0.1, 0.1},
        {MPQ_FLOAT16, 0.1, 0x1.998p-4},
        {MPQ_FLOAT16, 1e6, (double)INFINITY},
        {MPQ_BFLOAT16, 0.1, 0x1.9ap-4},
        {MPQ_BFLOAT16, 0x1.01p0, 0x1p0},    /* half way: to the even neighbour below, */
        {MPQ_BFLOAT16, 0x1.03p0, 0x1.04p0}, /* above                                  */
        {MPQ_BFLOAT16, -0x1.0103p0, -0x1.02p0},
        {MPQ_BOOL, -0.5, 1},
    };
    for (size_t i = 0; i < MPQ_COUNT(row); i++) {
        struct mpq_tensor t;
        CHECK_OK(&ctx, mpq_tensor_alloc(&ctx, arena, row[i].dtype, &MPQ_SHAPE(1), &t));
        mpq_tensor_set_double(&t, 0, row[i].given);
        double got = mpq_tensor_double(&t, 0);
        if (!(got == row[i].want))
            fail_msg("row %zu: %a, expected %a", i, got, row[i].want);
    }
    struct mpq_tensor t;
    CHECK_OK(&ctx, mpq_tensor_alloc(&ctx, arena, MPQ_BFLOAT16, &MPQ_SHAPE(1), &t));
    mpq_tensor_set_double(&t, 0, (double)NAN);
    assert_true(isnan(mpq_tensor_double(&t, 0)));
}

static void what_is_not_finite_is_found(void **state)
{
    (void)state;
    struct mpq_tensor t;
    CHECK_OK(&ctx, mpq_tensor_alloc(&ctx, arena, MPQ_FLOAT, &MPQ_SHAPE(5), &t));
    assert_int_equal(mpq_tensor_find_nonfinite(&t), -1);
    mpq_tensor_set_double(&t, 4, (double)NAN);
    assert_int_equal(mpq_tensor_find_nonfinite(&t), 4);
    mpq_tensor_set_double(&t, 2, -(double)INFINITY);
    assert_int_equal(mpq_tensor_find_nonfinite(&t), 2);
    CHECK_OK(&ctx, mpq_tensor_alloc(&ctx, arena, MPQ_FLOAT, &MPQ_SHAPE(0), &t));
    assert_int_equal(mpq_tensor_find_nonfinite(&t), -1);
}

/* ---- half precision ---- */

/* IEEE 754 binary16 by its definition, finite values only. */
static double half_value(unsigned half)
{
    int exponent = (int)(half >> 10 & 31), mantissa = (int)(half & 0x3ff);
    double magnitude = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
    return half & 0x8000 ? -magnitude : magnitude;
}

static void every_half_survives_the_round_trip(void **state)
{
    (void)state;
    for (unsigned half = 0; half < 0x10000; half++) {
        float single = mpq_half_to_float((uint16_t)half);
        if ((half & 0x7fff) > 0x7c00) {
            assert_true(isnan(single));
            assert_int_equal(mpq_float_to_half(single) & 0xfe00, (half & 0x8000) | 0x7e00);
            continue;
        }
        if ((half & 0x7fff) == 0x7c00)
            assert_true(isinf(single));
        else
            assert_true((double)single == half_value(half));
        assert_int_equal(!!signbit(single), half >> 15); /* of zero too */
        assert_int_equal(mpq_float_to_half(single), half);
    }
}

/* Half way between two neighbours the even one is taken; a little to either side, the nearer. The
 * last pair is the largest half and what would follow it, 65536, which is infinity. */
static void floats_round_to_the_nearest_half(void **state)
{
    (void)state;
    for (unsigned half = 0; half < 0x7c00; half++) {
        unsigned next = half + 1, even = half & 1 ? next : half;
        double above = next == 0x7c00 ? 65536 : half_value(next);
        float middle = (float)((half_value(half) + above) / 2); /* exact: 12 bits */
        assert_int_equal(mpq_float_to_half(middle), even);
        assert_int_equal(mpq_float_to_half(nextafterf(middle, 0)), half);
        assert_int_equal(mpq_float_to_half(nextafterf(middle, INFINITY)), next);
        assert_int_equal(mpq_float_to_half(-middle), even | 0x8000);
    }
    assert_int_equal(mpq_float_to_half(1e30f), 0x7c00);
    assert_int_equal(mpq_float_to_half(-1e-30f), 0x8000);
}

/* Every code that is a number comes back from it, and numbers between two codes go to the nearer.
 */
static void small_floats_come_back(void **state)
{
    static const struct {
        enum mpq_dtype dtype;
        int n_code;
        double value, nearest; /* from the tables of ONNX */
        double largest;
        uint8_t beyond; /* code of what is too large, where it does not saturate */
    } cases[] = {
        {MPQ_FLOAT8E4M3FN, 256, 1.0625, 1, 448, 0x7f},
        {MPQ_FLOAT8E4M3FN, 256, 0x1p-10, 0, 448, 0x7f},
        {MPQ_FLOAT8E4M3FNUZ, 256, 1.1875, 1.25, 240, 0x80},
        {MPQ_FLOAT8E5M2, 256, 1.125, 1, 57344, 0x7c},
        {MPQ_FLOAT8E5M2FNUZ, 256, 1.376, 1.5, 57344, 0x80},
        {MPQ_FLOAT4E2M1, 16, 2.5, 2, 6, 0x7},
        {MPQ_FLOAT6E2M3, 64, 1.0625, 1, 7.5, 0x1f},
        {MPQ_FLOAT6E3M2, 64, 7.25, 7, 28, 0x1f},
        {MPQ_FLOAT8E8M0, 256, 2.5, 4, 0x1p127, 0xff},
    };
    (void)state;
    for (size_t i = 0; i < MPQ_COUNT(cases); i++) {
        for (int code = 0; code < cases[i].n_code; code++) {
            double value = mpq_small_float_decode(cases[i].dtype, (uint8_t)code);
            if (isfinite(value))
                assert_int_equal(mpq_small_float_encode(cases[i].dtype, value, true), code);
        }
        uint8_t code = mpq_small_float_encode(cases[i].dtype, cases[i].value, true);
        CHECK_NEAR(mpq_small_float_decode(cases[i].dtype, code), cases[i].nearest, 0, 0);
        code = mpq_small_float_encode(cases[i].dtype, 1e39, true);
        CHECK_NEAR(mpq_small_float_decode(cases[i].dtype, code), cases[i].largest, 0, 0);
        assert_int_equal(mpq_small_float_encode(cases[i].dtype, 1e39, false), cases[i].beyond);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(types_have_the_sizes_onnx_gives_them),
        TEST(shapes_print_as_users_read_them),
        TEST(shapes_are_counted),
        TEST(sizes_that_overflow_are_refused),
        TEST(shapes_broadcast_as_in_numpy),
        TEST(tensors_are_zeroed_and_bounded),
        TEST(elements_saturate),
        TEST(integers_wrap_as_a_cast_does),
        TEST(real_elements_keep_their_value),
        TEST(what_is_not_finite_is_found),
        TEST(every_half_survives_the_round_trip),
        TEST(floats_round_to_the_nearest_half),
        cmocka_unit_test(small_floats_come_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
