#include <stdlib.h>
#include <string.h>

#include "calibration/npz.h"
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

/* Two arrays: `a` float [2,3] of 0..5 and `b/c:0` int64 [1000] of zeros. */
static char *write_two(const char *name)
{
    static float a[6] = {0, 1, 2, 3, 4, 5};
    static int64_t b[1000];
    const char *names[] = {"a", "b/c:0"};
    struct mpq_tensor tensor[] = {{MPQ_FLOAT, MPQ_SHAPE(2, 3), a}, {MPQ_INT64, MPQ_SHAPE(1000), b}};
    char *path = data_file(name);
    CHECK_OK(&ctx, mpq_npz_write(&ctx, arena, path, true, names, tensor, 2));
    return path;
}

static void reads_what_it_wrote(void **state)
{
    (void)state;
    struct mpq_npz *npz;
    struct mpq_tensor tensor;
    struct mpq_npy_header header;
    CHECK_OK(&ctx, mpq_npz_open(&ctx, arena, write_two("x.npz"), &npz));
    assert_int_equal(mpq_npz_count(npz), 2);
    assert_string_equal(mpq_npz_name(npz, 1), "b/c:0");
    assert_true(mpq_npz_has(npz, "a"));
    assert_false(mpq_npz_has(npz, "a.npy"));
    CHECK_OK(&ctx, mpq_npz_header(&ctx, npz, "b/c:0", &header));
    assert_int_equal(header.dtype, MPQ_INT64);
    assert_int_equal(header.count, 1000);
    CHECK_OK(&ctx, mpq_npz_read(&ctx, arena, npz, "a", &tensor));
    assert_true(mpq_shape_equal(&tensor.shape, &MPQ_SHAPE(2, 3)));
    for (int i = 0; i < 6; i++)
        CHECK_NEAR(mpq_tensor_double(&tensor, i), i, 0, 0);
}

static void writes_the_same_bytes_twice(void **state)
{
    (void)state;
    size_t n, m;
    uint8_t *first = data_file_read(write_two("x.npz"), &n);
    uint8_t *second = data_file_read(write_two("y.npz"), &m);
    assert_int_equal(n, m);
    assert_memory_equal(first, second, n);
    free(first);
    free(second);
}

static void refuses_to_overwrite(void **state)
{
    (void)state;
    const char *name = "a";
    float value = 1;
    struct mpq_tensor tensor = {MPQ_FLOAT, MPQ_SHAPE(1), &value};
    char *path = write_two("x.npz");
    CHECK_FAILS(&ctx, mpq_npz_write(&ctx, arena, path, false, &name, &tensor, 1), MPQ_E_IO,
                "exists already");
}

static void reads_deflated_members(void **state)
{
    (void)state;
    static int32_t value[5000];
    struct mpq_tensor tensor = {MPQ_INT32, MPQ_SHAPE(50, 100), value}, again;
    struct mpq_npz *npz;
    uint8_t *bytes;
    size_t n;
    for (int i = 0; i < 5000; i++)
        value[i] = i / 7;
    CHECK_OK(&ctx, mpq_npy_print(&ctx, arena, &tensor, &bytes, &n));
    CHECK_OK(&ctx, mpq_npz_open(&ctx, arena, data_file_deflated("x.npz", "x.npy", bytes, n), &npz));
    assert_int_equal(mpq_npz_count(npz), 1);
    CHECK_OK(&ctx, mpq_npz_read(&ctx, arena, npz, "x", &again));
    assert_memory_equal(again.data, value, sizeof value);
}

static void names_damaged_members(void **state)
{
    (void)state;
    struct mpq_npz *npz;
    struct mpq_tensor tensor;
    CHECK_OK(&ctx, mpq_npz_open(&ctx, arena, data_file_deflated("x.npz", "x.npy", "hi", 2), &npz));
    CHECK_FAILS(&ctx, mpq_npz_read(&ctx, arena, npz, "x", &tensor), MPQ_E_FORMAT,
                "x.npz: array 'x': is not a .npy array");
    /* A flipped bit in the elements is found by the checksum alone. */
    size_t n;
    char *path = write_two("y.npz");
    uint8_t *bytes = data_file_read(path, &n);
    bytes[30 + 5 + 128 + 3] ^= 1;
    path = data_file_write("y.npz", bytes, n);
    free(bytes);
    CHECK_OK(&ctx, mpq_npz_open(&ctx, arena, path, &npz));
    CHECK_FAILS(&ctx, mpq_npz_read(&ctx, arena, npz, "a", &tensor), MPQ_E_FORMAT,
                "y.npz: array 'a' cannot be read");
}

static void refuses_other_files(void **state)
{
    (void)state;
    struct mpq_npz *npz;
    size_t n;
    uint8_t *bytes = data_file_read(write_two("x.npz"), &n);
    char *cut = data_file_write("cut.npz", bytes, n / 2);
    free(bytes);
    CHECK_FAILS(&ctx, mpq_npz_open(&ctx, arena, cut, &npz), MPQ_E_FORMAT,
                "cut.npz: cannot be opened as an .npz file");
    CHECK_FAILS(&ctx, mpq_npz_open(&ctx, arena, data_file_text("t.npz", "text"), &npz),
                MPQ_E_FORMAT, "t.npz: cannot be opened as an .npz file");
    CHECK_FAILS(&ctx, mpq_npz_open(&ctx, arena, data_file("absent.npz"), &npz), MPQ_E_IO,
                "absent.npz: cannot be opened");
}

static void survives_damage(void **state)
{
    (void)state;
    const uint64_t seed = 77;
    size_t n;
    uint8_t *good = data_file_read(write_two("x.npz"), &n);
    uint8_t *bytes = malloc(n);
    print_message("seed=%llu\n", (unsigned long long)seed);
    for (int round = 0; round < 400; round++) {
        struct mpq_arena *one = mpq_arena_create(&ctx);
        struct mpq_npz *npz;
        size_t cut = n;
        memcpy(bytes, good, n);
        for (uint32_t flip = 0; flip < 4; flip++) {
            uint64_t r = mpq_rng_u64(seed, MPQ_STREAM_TEST, (uint64_t)round, flip);
            /* Most damage goes where the structure is: the end, and the first member's head. */
            size_t at = flip == 0 ? r % n : flip == 1 ? r % 180 : n - 1 - r % 200;
            bytes[at] = (uint8_t)(r >> 32);
        }
        if (round % 10 == 0)
            cut = mpq_rng_below(seed, MPQ_STREAM_TEST, (uint64_t)round, 9, (uint32_t)n);
        char *path = data_file_write("y.npz", bytes, cut);
        if (mpq_npz_open(&ctx, one, path, &npz) == MPQ_OK)
            for (uint32_t i = 0; i < mpq_npz_count(npz); i++) {
                struct mpq_tensor tensor;
                if (mpq_npz_read(&ctx, one, npz, mpq_npz_name(npz, i), &tensor) != MPQ_OK)
                    mpq_ctx_clear(&ctx);
            }
        mpq_ctx_clear(&ctx);
        mpq_arena_free(one);
    }
    free(good);
    free(bytes);
}

/* Every allocation fails once; each time there is a clean status and nothing is left open. */
static void reports_missing_memory(void **state)
{
    (void)state;
    char *path = write_two("x.npz");
    enum mpq_status status = MPQ_E_NOMEM;
    for (long n = 0; status != MPQ_OK; n++) {
        struct mpq_arena *one = mpq_arena_create(&ctx);
        struct mpq_npz *npz;
        struct mpq_tensor tensor;
        const char *name = "a";
        ctx.allocations_left = n;
        status = mpq_npz_open(&ctx, one, path, &npz);
        if (status == MPQ_OK)
            status = mpq_npz_read(&ctx, one, npz, "a", &tensor);
        if (status == MPQ_OK)
            status = mpq_npz_write(&ctx, one, path, true, &name, &tensor, 1);
        assert_true(status == MPQ_OK || status == MPQ_E_NOMEM);
        ctx.allocations_left = -1;
        mpq_ctx_clear(&ctx);
        mpq_arena_free(one);
        assert_true(n < 100);
    }
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(reads_what_it_wrote),    TEST(writes_the_same_bytes_twice), TEST(refuses_to_overwrite),
        TEST(reads_deflated_members), TEST(names_damaged_members),       TEST(refuses_other_files),
        TEST(survives_damage),        TEST(reports_missing_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
