/* Arrays that stay on the disk: the same elements, and memory that does not depend on how many. */
#include <stdlib.h>
#include <string.h>

#include "calibration/array.h"
#include "calibration/dataset.h"
#include "calibration/npz.h"
#include "tests/check.h"
#include "tests/unit/data_files.h"

enum { MANY = 4000, ELEMENTS = 100 };

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

/* [n, ELEMENTS] of i mod 251, or of i. */
static struct mpq_tensor numbers(enum mpq_dtype dtype, int64_t n)
{
    struct mpq_tensor tensor;
    CHECK_OK(&ctx, mpq_tensor_alloc(&ctx, arena, dtype, &MPQ_SHAPE(n, ELEMENTS), &tensor));
    for (int64_t i = 0; i < n * ELEMENTS; i++)
        mpq_tensor_set_double(&tensor, i, (double)(dtype == MPQ_UINT8 ? i % 251 : i));
    return tensor;
}

static void check_numbers(const struct mpq_rows *rows, const struct mpq_tensor *want)
{
    static const int64_t row[] = {0, 1, 7, 1999, MANY - 1};
    size_t bytes = ELEMENTS * mpq_dtype_bytes(want->dtype);
    void *got = mpq_arena_alloc(&ctx, arena, bytes, 1);
    assert_int_equal(rows->header.dtype, want->dtype);
    assert_true(mpq_shape_equal(&rows->header.shape, &want->shape));
    for (size_t i = 0; i < MPQ_COUNT(row); i++) {
        CHECK_OK(&ctx, mpq_rows_read(&ctx, rows, row[i] * ELEMENTS, ELEMENTS, got));
        assert_memory_equal(got, (char *)want->data + (size_t)row[i] * bytes, bytes);
    }
}

static struct mpq_npz *open_npz(char *path)
{
    struct mpq_npz *npz;
    CHECK_OK(&ctx, mpq_npz_open(&ctx, arena, path, &npz));
    return npz;
}

static char *write_npz(const char *file, const struct mpq_tensor *tensor)
{
    static const char *const name[] = {"x"};
    char *path = data_file(file);
    CHECK_OK(&ctx, mpq_npz_write(&ctx, arena, path, true, name, tensor, 1));
    return path;
}

static void stored_deflated_and_plain(void **state)
{
    (void)state;
    static const enum mpq_dtype dtype[] = {MPQ_UINT8, MPQ_FLOAT, MPQ_INT64};
    for (size_t i = 0; i < MPQ_COUNT(dtype); i++) {
        struct mpq_tensor x = numbers(dtype[i], MANY);
        struct mpq_rows rows;
        uint8_t *bytes;
        size_t n;
        CHECK_OK(&ctx, mpq_npz_rows(&ctx, arena, open_npz(write_npz("s.npz", &x)), "x", &rows));
        check_numbers(&rows, &x);
        CHECK_OK(&ctx, mpq_npy_print(&ctx, arena, &x, &bytes, &n));
        char *deflated = data_file_deflated("d.npz", "x.npy", bytes, n);
        CHECK_OK(&ctx, mpq_npz_rows(&ctx, arena, open_npz(deflated), "x", &rows));
        check_numbers(&rows, &x);
        CHECK_OK(&ctx, mpq_rows_open(&ctx, arena, data_file_write("x.npy", bytes, n), &rows));
        check_numbers(&rows, &x);
    }
}

static void the_other_byte_order(void **state)
{
    (void)state;
    struct mpq_tensor x = numbers(MPQ_INT64, MANY);
    struct mpq_rows rows;
    uint8_t *bytes;
    size_t n;
    CHECK_OK(&ctx, mpq_npy_print(&ctx, arena, &x, &bytes, &n));
    for (size_t i = n - sizeof(int64_t) * MANY * ELEMENTS; i < n; i += 8)
        for (size_t k = 0; k < 4; k++) {
            uint8_t byte = bytes[i + k];
            bytes[i + k] = bytes[i + 7 - k];
            bytes[i + 7 - k] = byte;
        }
    *strchr((char *)bytes + 10, '<') = '>';
    CHECK_OK(&ctx, mpq_rows_open(&ctx, arena, data_file_write("x.npy", bytes, n), &rows));
    check_numbers(&rows, &x);
}

/* What opening takes, of arrays on the disk. */
static size_t bytes_to_open(char *path, bool is_npz)
{
    struct mpq_arena *one = mpq_arena_create(&ctx);
    struct mpq_npz *npz;
    struct mpq_rows rows;
    if (is_npz) {
        CHECK_OK(&ctx, mpq_npz_open(&ctx, one, path, &npz));
        CHECK_OK(&ctx, mpq_npz_rows(&ctx, one, npz, "x", &rows));
    } else
        CHECK_OK(&ctx, mpq_rows_open(&ctx, one, path, &rows));
    assert_null(rows.data);
    size_t bytes = mpq_arena_bytes(one);
    mpq_arena_free(one);
    return bytes;
}

static void memory_is_independent_of_the_number(void **state)
{
    (void)state;
    struct mpq_tensor few = numbers(MPQ_FLOAT, 1000), many = numbers(MPQ_FLOAT, MANY);
    assert_int_equal(bytes_to_open(write_npz("few.npz", &few), true),
                     bytes_to_open(write_npz("far.npz", &many), true));
    uint8_t *bytes;
    size_t n, m;
    CHECK_OK(&ctx, mpq_npy_print(&ctx, arena, &few, &bytes, &n));
    size_t of_few = bytes_to_open(data_file_write("few.npy", bytes, n), false);
    CHECK_OK(&ctx, mpq_npy_print(&ctx, arena, &many, &bytes, &m));
    assert_int_equal(of_few, bytes_to_open(data_file_write("far.npy", bytes, m), false));
}

static void damage_is_found(void **state)
{
    (void)state;
    struct mpq_tensor x = numbers(MPQ_FLOAT, MANY);
    struct mpq_rows rows;
    size_t n;
    char *path = write_npz("x.npz", &x);
    uint8_t *bytes = data_file_read(path, &n);
    bytes[n / 2] ^= 1;
    path = data_file_write("y.npz", bytes, n);
    free(bytes);
    CHECK_FAILS(&ctx, mpq_npz_rows(&ctx, arena, open_npz(path), "x", &rows), MPQ_E_FORMAT,
                "y.npz: array 'x' cannot be read");
    CHECK_OK(&ctx, mpq_npy_print(&ctx, arena, &x, &bytes, &n));
    path = data_file_write("x.npy", bytes, n - 3);
    CHECK_FAILS(&ctx, mpq_rows_open(&ctx, arena, path, &rows), MPQ_E_FORMAT,
                "x.npy: an array [4000,100] of float takes 1600000 bytes, 1599997 are there");
    /* A file that is cut off while it is read. */
    CHECK_OK(&ctx, mpq_rows_open(&ctx, arena, data_file_write("z.npy", bytes, n), &rows));
    data_file_write("z.npy", bytes, n / 2);
    CHECK_FAILS(&ctx, mpq_rows_read(&ctx, &rows, rows.header.count - 1, 1, &n), MPQ_E_IO,
                "z.npy: has become shorter");
}

static void nowhere_to_unpack(void **state)
{
    (void)state;
    struct mpq_tensor x = numbers(MPQ_FLOAT, MANY);
    struct mpq_rows rows;
    const char *was = getenv("TMPDIR");
    char *kept = was ? mpq_arena_strdup(&ctx, arena, was) : NULL;
    setenv("TMPDIR", data_file("absent"), 1);
    enum mpq_status status =
        mpq_npz_rows(&ctx, arena, open_npz(write_npz("x.npz", &x)), "x", &rows);
    if (kept)
        setenv("TMPDIR", kept, 1);
    else
        unsetenv("TMPDIR");
    CHECK_FAILS(&ctx, status, MPQ_E_IO, "TMPDIR names another folder");
}

/* A value that the input cannot take, among samples that are read one by one. */
static void values_are_checked(void **state)
{
    (void)state;
    struct mpq_tensor x = numbers(MPQ_FLOAT, MANY), input = {MPQ_FLOAT, MPQ_SHAPE(ELEMENTS), NULL};
    struct mpq_rows rows;
    mpq_tensor_set_double(&x, 3000 * ELEMENTS + 5, NAN);
    CHECK_OK(&ctx, mpq_npz_rows(&ctx, arena, open_npz(write_npz("x.npz", &x)), "x", &rows));
    CHECK_FAILS(&ctx, mpq_array_check(&ctx, "here", &rows, &input, MANY), MPQ_E_NUMERIC,
                "here, sample 3000: element 5 is ");
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(stored_deflated_and_plain),
        TEST(the_other_byte_order),
        TEST(memory_is_independent_of_the_number),
        TEST(damage_is_found),
        TEST(nowhere_to_unpack),
        TEST(values_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
