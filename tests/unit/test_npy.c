#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calibration/npy.h"
#include "quantcore/base/rng.h"
#include "tests/check.h"
#include "tests/unit/data_files.h"

static struct mpq_ctx ctx;
static struct mpq_arena *arena;

static int set_up(void **state)
{
    mpq_ctx_init(&ctx);
    arena = mpq_arena_create(&ctx);
    return arena ? data_files_set_up(state) : -1;
}

static int tear_down(void **state)
{
    mpq_arena_free(arena);
    return data_files_tear_down(state);
}

/* A file of the given version, dictionary and elements, in memory that ends where the file does. */
static uint8_t *make(int version, const char *dictionary, const void *data, size_t n_data,
                     size_t *out_n)
{
    size_t start = version == 1 ? 10 : 12, length = strlen(dictionary), n = start + length + n_data;
    uint8_t *bytes = mpq_arena_alloc(&ctx, arena, n, 1);
    assert_non_null(bytes);
    memcpy(bytes, "\x93NUMPY", 6);
    bytes[6] = (uint8_t)version;
    bytes[8] = (uint8_t)(length & 255);
    bytes[9] = (uint8_t)(length >> 8);
    memcpy(bytes + start, dictionary, length);
    if (n_data)
        memcpy(bytes + start + length, data, n_data);
    *out_n = n;
    return bytes;
}

static enum mpq_status parse(int version, const char *dictionary, const void *data, size_t n_data,
                             struct mpq_tensor *out)
{
    size_t n;
    uint8_t *bytes = make(version, dictionary, data, n_data, &n);
    return mpq_npy_parse(&ctx, arena, "x.npy", bytes, n, out);
}

/* What numpy 2 wrote for arange(6, dtype='>i2').reshape(2, 3).T: 3 x 2, Fortran order. */
static void reads_numpys_fortran_big_endian(void **state)
{
    (void)state;
    static const uint8_t data[] = {0, 0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5};
    static const int16_t want[] = {0, 3, 1, 4, 2, 5};
    struct mpq_tensor tensor;
    CHECK_OK(&ctx, parse(1, "{'descr': '>i2', 'fortran_order': True, 'shape': (3, 2), }   \n", data,
                         sizeof data, &tensor));
    assert_int_equal(tensor.dtype, MPQ_INT16);
    assert_true(mpq_shape_equal(&tensor.shape, &MPQ_SHAPE(3, 2)));
    assert_memory_equal(tensor.data, want, sizeof want);
}

static void fortran_order_in_three_dimensions(void **state)
{
    (void)state;
    uint8_t data[24];
    struct mpq_tensor tensor;
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 3; j++)
            for (int k = 0; k < 4; k++)
                data[i + 2 * j + 6 * k] = (uint8_t)(100 * i + 10 * j + k);
    CHECK_OK(&ctx, parse(3, "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3, 4), }\n", data,
                         sizeof data, &tensor));
    const uint8_t *x = tensor.data;
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 3; j++)
            for (int k = 0; k < 4; k++)
                assert_int_equal(x[i * 12 + j * 4 + k], 100 * i + 10 * j + k);
}

static void reads_every_type(void **state)
{
    (void)state;
    static const struct {
        const char *descr;
        enum mpq_dtype dtype;
        uint8_t bytes[8];
        double value;
    } row[] = {
        {"|b1", MPQ_BOOL, {7}, 1},
        {"|i1", MPQ_INT8, {0xfe}, -2},
        {"|u1", MPQ_UINT8, {0xfe}, 254},
        {"<i2", MPQ_INT16, {0xfe, 0xff}, -2},
        {"<u2", MPQ_UINT16, {0xfe, 0xff}, 65534},
        {"<i4", MPQ_INT32, {0xfe, 0xff, 0xff, 0xff}, -2},
        {">i4", MPQ_INT32, {0xff, 0xff, 0xff, 0xfe}, -2},
        {"<u4", MPQ_UINT32, {0, 0, 0, 0x80}, 2147483648.0},
        {"<i8", MPQ_INT64, {0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, -2},
        {"<u8", MPQ_UINT64, {3}, 3},
        {"<f2", MPQ_FLOAT16, {0x00, 0xc1}, -2.5},
        {"<f4", MPQ_FLOAT, {0, 0, 0x20, 0xc0}, -2.5},
        {">f4", MPQ_FLOAT, {0xc0, 0x20, 0, 0}, -2.5},
        {"<f8", MPQ_DOUBLE, {0, 0, 0, 0, 0, 0, 4, 0xc0}, -2.5},
    };
    for (size_t i = 0; i < MPQ_COUNT(row); i++) {
        char dictionary[96];
        struct mpq_tensor tensor;
        snprintf(dictionary, sizeof dictionary,
                 "{\"shape\": (1L,), 'fortran_order':False , 'descr': '%s'}", row[i].descr);
        CHECK_OK(&ctx, parse(2, dictionary, row[i].bytes, (size_t)mpq_dtype_bytes(row[i].dtype),
                             &tensor));
        assert_int_equal(tensor.dtype, row[i].dtype);
        CHECK_NEAR(mpq_tensor_double(&tensor, 0), row[i].value, 0, 0);
    }
}

static void scalars_and_empty_arrays(void **state)
{
    (void)state;
    struct mpq_tensor tensor;
    float value = 3.5f;
    CHECK_OK(&ctx, parse(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (), }", &value, 4,
                         &tensor));
    assert_int_equal(tensor.shape.rank, 0);
    CHECK_NEAR(mpq_tensor_double(&tensor, 0), 3.5, 0, 0);
    CHECK_OK(&ctx, parse(1, "{'descr': '<f4', 'fortran_order': True, 'shape': (3, 0), }", NULL, 0,
                         &tensor));
    assert_true(mpq_shape_equal(&tensor.shape, &MPQ_SHAPE(3, 0)));
}

static void refuses(const char *dictionary, size_t n_data, enum mpq_status status, const char *part)
{
    static const uint8_t data[64];
    struct mpq_tensor tensor;
    CHECK_FAILS(&ctx, parse(1, dictionary, data, n_data, &tensor), status, part);
}

static void refuses_what_it_cannot_read(void **state)
{
    (void)state;
    refuses("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }", 47, MPQ_E_FORMAT,
            "x.npy: an array [3,4] of float takes 48 bytes, 47 are there");
    refuses("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }", 49, MPQ_E_FORMAT,
            "49 are there");
    refuses("{'descr': '|O', 'fortran_order': False, 'shape': (3,), }", 24, MPQ_E_FORMAT,
            "numpy type '|O'");
    refuses("{'descr': '<U8', 'fortran_order': False, 'shape': (3,), }", 24, MPQ_E_FORMAT,
            "numpy type '<U8'");
    refuses("{'descr': '<c8', 'fortran_order': False, 'shape': (3,), }", 24, MPQ_E_FORMAT,
            "numpy type '<c8'");
    refuses("{'descr': '', 'fortran_order': False, 'shape': (3,), }", 24, MPQ_E_FORMAT,
            "numpy type ''");
    refuses("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }", 12, MPQ_E_FORMAT,
            "records");
    refuses("{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1), }", 4,
            MPQ_E_FORMAT, "more than 8 dimensions");
    refuses("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }", 4,
            MPQ_E_LIMIT, "out of range");
    refuses("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", 4,
            MPQ_E_LIMIT, "[4294967296,4294967296] is larger than 16 GiB");
    refuses("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967297,), }", 4, MPQ_E_LIMIT,
            "larger than 16 GiB");
    refuses("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296,), }", 4, MPQ_E_FORMAT,
            "takes 17179869184 bytes, 4 are there");

    static const char *const damaged[] = {
        "",
        "{",
        "{}",
        "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': Maybe, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 1}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1 2)}",
        "{'descr: 1}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'color': 'red'}",
        "{descr: '<f4', 'fortran_order': False, 'shape': (1,)}",
    };
    for (size_t i = 0; i < MPQ_COUNT(damaged); i++)
        refuses(damaged[i], 4, MPQ_E_FORMAT, "x.npy: the .npy header is damaged");
}

static void refuses_other_files(void **state)
{
    (void)state;
    struct mpq_npy_header header;
    static const uint8_t next[] = "\x93NUMPY\x04\x00\x00\x00\x00\x00";
    static const uint8_t cut[] = "\x93NUMPY\x01\x00\x76\x00{'descr'";
    static const uint8_t cut2[] = "\x93NUMPY\x02\x00\x76\x00";
    CHECK_FAILS(&ctx, mpq_npy_parse_header(&ctx, "x.npy", (const uint8_t *)"", 0, &header),
                MPQ_E_FORMAT, "x.npy: is not a .npy array");
    CHECK_FAILS(&ctx,
                mpq_npy_parse_header(&ctx, "x.npy", (const uint8_t *)"PK34567890", 10, &header),
                MPQ_E_FORMAT, "is not a .npy array");
    CHECK_FAILS(&ctx, mpq_npy_parse_header(&ctx, "x.npy", next, 12, &header), MPQ_E_FORMAT,
                "version 4");
    CHECK_FAILS(&ctx, mpq_npy_parse_header(&ctx, "x.npy", cut, sizeof cut - 1, &header),
                MPQ_E_FORMAT, "ends inside the .npy header");
    CHECK_FAILS(&ctx, mpq_npy_parse_header(&ctx, "x.npy", cut2, 10, &header), MPQ_E_FORMAT,
                "ends inside the .npy header");
    struct mpq_tensor tensor;
    CHECK_FAILS(&ctx, mpq_npy_read(&ctx, arena, data_file("absent.npy"), &tensor), MPQ_E_IO,
                "absent.npy");
}

/* The header that numpy 2 writes for arange(12, dtype=float32).reshape(3, 4). */
static void writes_numpys_bytes(void **state)
{
    (void)state;
    static const char head[] = "\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, "
                               "'shape': (3, 4), }";
    float value[12];
    struct mpq_tensor tensor = {MPQ_FLOAT, MPQ_SHAPE(3, 4), value};
    uint8_t *bytes;
    size_t n;
    for (int i = 0; i < 12; i++)
        value[i] = (float)i;
    CHECK_OK(&ctx, mpq_npy_print(&ctx, arena, &tensor, &bytes, &n));
    assert_int_equal(n, 128 + 48);
    assert_memory_equal(bytes, head, sizeof head - 1);
    for (size_t i = sizeof head - 1; i < 127; i++)
        assert_int_equal(bytes[i], ' ');
    assert_int_equal(bytes[127], '\n');
    assert_memory_equal(bytes + 128, value, 48);
}

static void reads_what_it_wrote(void **state)
{
    (void)state;
    static const enum mpq_dtype dtype[] = {MPQ_BOOL,   MPQ_INT8,    MPQ_INT16,  MPQ_INT32,
                                           MPQ_INT64,  MPQ_UINT8,   MPQ_UINT16, MPQ_UINT32,
                                           MPQ_UINT64, MPQ_FLOAT16, MPQ_FLOAT,  MPQ_DOUBLE};
    const struct mpq_shape shape[] = {{.rank = 0},
                                      MPQ_SHAPE(5),
                                      MPQ_SHAPE(0),
                                      MPQ_SHAPE(2, 1, 3),
                                      MPQ_SHAPE(1, 1, 1, 1, 1, 1, 1, 2)};
    for (size_t t = 0; t < MPQ_COUNT(dtype); t++)
        for (size_t s = 0; s < MPQ_COUNT(shape); s++) {
            struct mpq_tensor tensor, again;
            uint8_t *bytes;
            size_t n;
            CHECK_OK(&ctx, mpq_tensor_alloc(&ctx, arena, dtype[t], &shape[s], &tensor));
            for (int64_t i = 0; i < mpq_shape_count(&shape[s]); i++)
                mpq_tensor_set_double(&tensor, i, (double)(i % 2));
            CHECK_OK(&ctx, mpq_npy_print(&ctx, arena, &tensor, &bytes, &n));
            char *path = data_file_write("x.npy", bytes, n);
            CHECK_OK(&ctx, mpq_npy_read(&ctx, arena, path, &again));
            assert_int_equal(again.dtype, dtype[t]);
            assert_true(mpq_shape_equal(&again.shape, &shape[s]));
            assert_memory_equal(again.data, tensor.data, mpq_tensor_bytes(&tensor));
        }
}

/* Random damage to a good file: any status, but no crash, no overrun, no huge allocation. */
static void survives_damage(void **state)
{
    (void)state;
    const uint64_t seed = 20240607;
    static const uint8_t data[24];
    size_t n;
    uint8_t *good = make(1, "{'descr': '<i4', 'fortran_order': True, 'shape': (3, 2), }\n", data,
                         sizeof data, &n);
    int n_ok = 0, n_round = 20000;
    print_message("seed=%llu\n", (unsigned long long)seed);
    for (int round = 0; round < n_round; round++) {
        struct mpq_arena *one = mpq_arena_create(&ctx);
        size_t cut = round % 8 == 0 ? mpq_rng_below(seed, MPQ_STREAM_TEST, (uint64_t)round, 99,
                                                    (uint32_t)n + 1)
                                    : n;
        uint8_t *bytes = malloc(cut + !cut);
        memcpy(bytes, good, cut);
        for (uint32_t flip = 0; flip <= (uint32_t)round % 4 && cut; flip++) {
            uint64_t r = mpq_rng_u64(seed, MPQ_STREAM_TEST, (uint64_t)round, flip);
            size_t at = r % cut;
            uint8_t flipped = (uint8_t)(bytes[at] ^ 1u << (r >> 40) % 8);
            bytes[at] = flip % 2 ? (uint8_t)(r >> 32) : flipped;
        }
        struct mpq_tensor tensor;
        if (mpq_npy_parse(&ctx, one, "x.npy", bytes, cut, &tensor) == MPQ_OK) {
            n_ok++;
            assert_true(mpq_tensor_bytes(&tensor) <= cut);
            for (int64_t i = 0; i < mpq_shape_count(&tensor.shape); i++)
                (void)mpq_tensor_double(&tensor, i);
        }
        mpq_ctx_clear(&ctx);
        free(bytes);
        mpq_arena_free(one);
    }
    assert_in_range(n_ok, 1, n_round - 1);
}

static void reports_missing_memory(void **state)
{
    (void)state;
    static const uint8_t data[24];
    struct mpq_tensor tensor;
    size_t n;
    uint8_t *bytes = make(1, "{'descr': '<i4', 'fortran_order': True, 'shape': (3, 2), }\n", data,
                          sizeof data, &n);
    ctx.allocations_left = 0;
    CHECK_FAILS(&ctx, mpq_npy_parse(&ctx, arena, "x.npy", bytes, n, &tensor), MPQ_E_NOMEM,
                "out of memory");
    ctx.allocations_left = -1;
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(reads_numpys_fortran_big_endian),
        TEST(fortran_order_in_three_dimensions),
        TEST(reads_every_type),
        TEST(scalars_and_empty_arrays),
        TEST(refuses_what_it_cannot_read),
        TEST(refuses_other_files),
        TEST(writes_numpys_bytes),
        TEST(reads_what_it_wrote),
        TEST(survives_damage),
        TEST(reports_missing_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
