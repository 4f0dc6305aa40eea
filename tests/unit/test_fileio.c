#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <dirent.h>

#include "quantcore/base/fileio.h"
#include "tests/check.h"

static struct mpq_ctx ctx;
static struct mpq_arena *arena;
static char folder[] = "/tmp/test_fileio.XXXXXX";

static int set_up(void **state)
{
    (void)state;
    mpq_ctx_init(&ctx);
    arena = mpq_arena_create(&ctx);
    strcpy(folder + strlen(folder) - 6, "XXXXXX");
    return arena && mkdtemp(folder) ? 0 : -1;
}

static int entries(void)
{
    int n = 0;
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n - 2; /* . and .. */
}

static char *in_folder(const char *name)
{
    return mpq_arena_printf(&ctx, arena, "%s/%s", folder, name);
}

static int tear_down(void **state)
{
    (void)state;
    static const char *const name[] = {"a", "b", "link", "sub"};
    for (size_t i = 0; i < MPQ_COUNT(name); i++)
        remove(in_folder(name[i]));
    mpq_arena_free(arena);
    return rmdir(folder); /* fails where a test left a file behind */
}

static void assert_holds(const char *path, const void *data, size_t bytes)
{
    uint8_t *read_data;
    size_t read_bytes;
    CHECK_OK(&ctx, mpq_file_read(&ctx, arena, path, 1 << 20, &read_data, &read_bytes));
    assert_int_equal(read_bytes, bytes);
    assert_memory_equal(read_data, data, bytes);
    assert_int_equal(read_data[bytes], 0);
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    static const char data[] = "zero \0 inside";
    const char *path = in_folder("a");
    assert_false(mpq_file_exists(path));
    CHECK_OK(&ctx, mpq_file_write(&ctx, arena, path, false, data, sizeof data));
    assert_true(mpq_file_exists(path));
    assert_holds(path, data, sizeof data);
    CHECK_OK(&ctx, mpq_file_write(&ctx, arena, path, true, "", 0));
    assert_holds(path, "", 0);
    assert_int_equal(entries(), 1);
}

static void new_files_have_the_usual_permissions(void **state)
{
    (void)state;
    mode_t mask = umask(027);
    CHECK_OK(&ctx, mpq_file_write(&ctx, arena, in_folder("a"), false, "x", 1));
    assert_int_equal(umask(mask), 027);
    struct stat info;
    assert_int_equal(stat(in_folder("a"), &info), 0);
    assert_int_equal(info.st_mode & 0777, 0640);
}

static void nothing_shows_before_commit(void **state)
{
    (void)state;
    const char *path = in_folder("a");
    struct mpq_file_out out;
    CHECK_OK(&ctx, mpq_file_write(&ctx, arena, path, false, "old", 3));
    CHECK_OK(&ctx, mpq_file_out_open(&ctx, arena, path, true, &out));
    CHECK_OK(&ctx, mpq_file_out_write(&ctx, &out, "new", 3));
    assert_holds(path, "old", 3);
    CHECK_OK(&ctx, mpq_file_out_flush(&ctx, &out));
    assert_holds(path, "old", 3);
    CHECK_OK(&ctx, mpq_file_out_commit(&ctx, &out));
    assert_holds(path, "new", 3);
    assert_int_equal(entries(), 1);
    mpq_file_out_discard(&out);
    assert_holds(path, "new", 3);
}

static void commit_alone_leaves_no_temporary(void **state)
{
    (void)state;
    struct mpq_file_out out;
    CHECK_OK(&ctx, mpq_file_out_open(&ctx, arena, in_folder("a"), false, &out));
    CHECK_OK(&ctx, mpq_file_out_commit(&ctx, &out));
    assert_int_equal(entries(), 1);
}

static void discard_leaves_nothing(void **state)
{
    (void)state;
    struct mpq_file_out out;
    CHECK_OK(&ctx, mpq_file_out_open(&ctx, arena, in_folder("a"), false, &out));
    CHECK_OK(&ctx, mpq_file_out_write(&ctx, &out, "half", 4));
    mpq_file_out_discard(&out);
    mpq_file_out_discard(&out);
    assert_int_equal(entries(), 0);
}

static void existing_files_are_kept(void **state)
{
    (void)state;
    const char *path = in_folder("a");
    CHECK_OK(&ctx, mpq_file_write(&ctx, arena, path, false, "old", 3));
    CHECK_FAILS(&ctx, mpq_file_write(&ctx, arena, path, false, "new", 3), MPQ_E_IO, path);
    assert_holds(path, "old", 3);

    /* One that appears between open and commit is not replaced either. */
    struct mpq_file_out out;
    const char *late = in_folder("b");
    CHECK_OK(&ctx, mpq_file_out_open(&ctx, arena, late, false, &out));
    CHECK_OK(&ctx, mpq_file_write(&ctx, arena, late, false, "mine", 4));
    CHECK_FAILS(&ctx, mpq_file_out_commit(&ctx, &out), MPQ_E_IO, "exists");
    mpq_file_out_discard(&out);
    assert_holds(late, "mine", 4);
    assert_int_equal(entries(), 2);
}

static void what_is_read_where_it_lies_is_not_replaced(void **state)
{
    (void)state;
    char *a = in_folder("a"), *link_to_a = in_folder("link");
    struct mpq_file file;
    struct mpq_file_kept kept, again;
    size_t bytes;
    CHECK_OK(&ctx, mpq_file_write(&ctx, arena, a, false, "old", 3));
    assert_int_equal(symlink(a, link_to_a), 0);
    CHECK_OK(&ctx, mpq_file_open(&ctx, arena, a, &file, &bytes));
    CHECK_OK(&ctx, mpq_file_keep(&ctx, file.fd, &kept));
    CHECK_OK(&ctx, mpq_file_keep(&ctx, file.fd, &again));
    mpq_file_unkeep(&kept);
    CHECK_FAILS(&ctx, mpq_file_write(&ctx, arena, a, true, "new", 3), MPQ_E_USAGE, a);
    CHECK_FAILS(&ctx, mpq_file_write(&ctx, arena, link_to_a, true, "new", 3), MPQ_E_USAGE, "link");
    assert_holds(a, "old", 3);
    CHECK_OK(&ctx, mpq_file_write(&ctx, arena, in_folder("b"), true, "new", 3));
    mpq_file_unkeep(&again);
    CHECK_OK(&ctx, mpq_file_write(&ctx, arena, a, true, "new", 3));
    assert_holds(a, "new", 3);
}

static void names_that_cannot_be_written_are_refused(void **state)
{
    (void)state;
    struct mpq_file_out out;
    CHECK_FAILS(&ctx, mpq_file_out_open(&ctx, arena, in_folder("none/a"), false, &out), MPQ_E_IO,
                "none/a: cannot be written");
    mpq_file_out_discard(&out); /* safe after a failed open */
    CHECK_FAILS(&ctx, mpq_file_out_open(&ctx, arena, folder, true, &out), MPQ_E_IO, "not a file");
    CHECK_FAILS(&ctx, mpq_file_out_open(&ctx, arena, "/dev/null", true, &out), MPQ_E_IO,
                "not a file");
    assert_int_equal(symlink("nowhere", in_folder("link")), 0);
    CHECK_FAILS(&ctx, mpq_file_out_open(&ctx, arena, in_folder("link"), false, &out), MPQ_E_IO,
                "exists");
    if (geteuid() == 0) /* whom permissions do not stop */
        return;
    assert_int_equal(mkdir(in_folder("sub"), 0500), 0);
    CHECK_FAILS(&ctx, mpq_file_out_open(&ctx, arena, in_folder("sub/a"), false, &out), MPQ_E_IO,
                "Permission denied");
}

/* A limit on file size stands in for a full disk: write() fails half way. */
static void a_write_that_fails_leaves_the_old_file(void **state)
{
    (void)state;
    const char *path = in_folder("a");
    static char big[20000];
    CHECK_OK(&ctx, mpq_file_write(&ctx, arena, path, false, "old", 3));
    struct rlimit limit, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = limit;
    small.rlim_cur = 8192;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    enum mpq_status status = mpq_file_write(&ctx, arena, path, true, big, sizeof big);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    signal(SIGXFSZ, handler);
    CHECK_FAILS(&ctx, status, MPQ_E_IO, "a: cannot be written: File too large");
    assert_holds(path, "old", 3);
    assert_int_equal(entries(), 1);
}

static void one_file_has_many_names(void **state)
{
    (void)state;
    const char *path = in_folder("a");
    assert_true(mpq_file_is_same(path, in_folder("./a"))); /* before it is there, too */
    CHECK_OK(&ctx, mpq_file_write(&ctx, arena, path, false, "old", 3));
    CHECK_OK(&ctx, mpq_file_write(&ctx, arena, in_folder("b"), false, "old", 3));
    assert_int_equal(symlink("a", in_folder("link")), 0);
    assert_int_equal(mkdir(in_folder("sub"), 0700), 0);
    assert_true(mpq_file_is_same(path, path));
    assert_true(mpq_file_is_same(path, in_folder("./a")));
    assert_true(mpq_file_is_same(path, in_folder("sub/../a")));
    assert_true(mpq_file_is_same(path, in_folder("link")));
    assert_false(mpq_file_is_same(path, in_folder("b")));
    assert_false(mpq_file_is_same(path, in_folder("sub/a")));
    assert_false(mpq_file_is_same(in_folder("none/a"), in_folder("nowhere/a")));
    assert_true(mpq_file_is_same("test_fileio.none", "./test_fileio.none"));
}

static void names_that_cannot_be_read_are_refused(void **state)
{
    (void)state;
    uint8_t *data = NULL;
    size_t bytes = 77;
    CHECK_FAILS(&ctx, mpq_file_read(&ctx, arena, in_folder("none"), 100, &data, &bytes), MPQ_E_IO,
                "none: cannot be opened: No such file");
    CHECK_FAILS(&ctx, mpq_file_read(&ctx, arena, folder, 100, &data, &bytes), MPQ_E_IO,
                "not a file");
    CHECK_FAILS(&ctx, mpq_file_read(&ctx, arena, "/dev/zero", 100, &data, &bytes), MPQ_E_IO,
                "not a file");
    assert_null(data);
    assert_int_equal(bytes, 77);
}

static void the_limit_is_the_largest_file_read(void **state)
{
    (void)state;
    const char *path = in_folder("a");
    uint8_t *data;
    size_t bytes;
    CHECK_OK(&ctx, mpq_file_write(&ctx, arena, path, false, "12345", 5));
    CHECK_OK(&ctx, mpq_file_read(&ctx, arena, path, 5, &data, &bytes));
    CHECK_FAILS(&ctx, mpq_file_read(&ctx, arena, path, 4, &data, &bytes), MPQ_E_LIMIT, "5 bytes");
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_written_is_read),
        TEST(new_files_have_the_usual_permissions),
        TEST(nothing_shows_before_commit),
        TEST(commit_alone_leaves_no_temporary),
        TEST(discard_leaves_nothing),
        TEST(existing_files_are_kept),
        TEST(what_is_read_where_it_lies_is_not_replaced),
        TEST(names_that_cannot_be_written_are_refused),
        TEST(a_write_that_fails_leaves_the_old_file),
        TEST(one_file_has_many_names),
        TEST(names_that_cannot_be_read_are_refused),
        TEST(the_limit_is_the_largest_file_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
