/* Whole commands in-process: memory may end at any allocation, and a request to stop may come at
 * any time; each must end in the right status, and the sanitizers must have nothing to say. */
#include "cli/command.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "importer/import.h"
#include "tests/check.h"

static struct mpq_options parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                enum mpq_command_bit command, char *const *argv)
{
    struct mpq_options options;
    int argc = 0;
    while (argv[argc])
        argc++;
    CHECK_OK(ctx, mpq_options_parse(ctx, arena, command, "test", argc, argv, &options));
    return options;
}

/* Run with 0, 1, 2, ... allocations allowed until it succeeds. */
static void starve(mpq_command_fn *command, enum mpq_command_bit bit, char *const *argv)
{
    enum mpq_status status = MPQ_E_NOMEM;
    long n = 0;
    for (; status != MPQ_OK; n++) {
        struct mpq_ctx ctx;
        mpq_ctx_init(&ctx);
        struct mpq_arena *arena = mpq_arena_create(&ctx);
        struct mpq_options options = parse(&ctx, arena, bit, argv);
        ctx.allocations_left = n;
        status = command(&ctx, arena, &options);
        mpq_arena_free(arena);
        if (status != MPQ_OK && status != MPQ_E_NOMEM)
            fail_msg("after %ld allocations: status %d, %s", n, (int)status, ctx.message);
    }
    assert_true(n > 100);
}

static void inspect_without_memory(void **state)
{
    (void)state;
    starve(mpq_cmd_inspect, MPQ_COMMAND_INSPECT, (char *[]){MPQ_MODELS "/digits_cnn.onnx", NULL});
}

static void eval_without_memory(void **state)
{
    (void)state;
    starve(mpq_cmd_eval, MPQ_COMMAND_EVAL,
           (char *[]){MPQ_MODELS "/digits_mlp.onnx", "--data", MPQ_MODELS "/digits_eval.npz",
                      "--preprocess", "unit", "--max-memory", "1G", NULL});
}

static volatile sig_atomic_t stop;

static void stop_at_step(void *user, const struct mpq_progress *progress)
{
    (void)user;
    stop = strcmp(progress->stage, "eval") == 0 && progress->step > 100;
}

static void eval_interrupted(void **state)
{
    (void)state;
    struct mpq_ctx ctx;
    mpq_ctx_init(&ctx);
    struct mpq_arena *arena = mpq_arena_create(&ctx);
    struct mpq_options options = parse(
        &ctx, arena, MPQ_COMMAND_EVAL,
        (char *[]){MPQ_MODELS "/digits_mlp.onnx", "--data", MPQ_MODELS "/digits_eval.npz", NULL});
    ctx.cancel = &stop;
    ctx.progress = stop_at_step;
    CHECK_FAILS(&ctx, mpq_cmd_eval(&ctx, arena, &options), MPQ_E_CANCELLED, "interrupted");
    mpq_arena_free(arena);
}

/* A folder for what commands write. */
static char folder[] = "/tmp/mpq_command_XXXXXX";

static const char *in_folder(const char *name)
{
    static char path[64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder + strlen(folder) - 6, "XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

/* Fails where something is left in the folder. */
static int remove_folder(void **state)
{
    (void)state;
    return rmdir(folder);
}

/* A model beyond the limit is written as two files; where that fails, as none. */
static enum mpq_status convert_beyond_limit(struct mpq_ctx *ctx, long n_allocation)
{
    char output[64];
    snprintf(output, sizeof output, "%s", in_folder("a.onnx"));
    mpq_ctx_init(ctx);
    struct mpq_arena *arena = mpq_arena_create(ctx);
    struct mpq_options options =
        parse(ctx, arena, MPQ_COMMAND_CONVERT,
              (char *[]){MPQ_MODELS "/digits_cnn.onnx", "--weights-only", "--bits", "8", "--size",
                         "100%", "-o", output, "-q", NULL});
    options.message_limit = 60000;
    ctx->allocations_left = n_allocation;
    enum mpq_status status = mpq_cmd_convert(ctx, arena, &options);
    mpq_arena_free(arena);
    return status;
}

static void remove_outputs(void)
{
    static const char *const name[] = {"a.onnx", "a.onnx.data", "a.csv", "a.summary.csv"};
    for (size_t i = 0; i < MPQ_COUNT(name); i++)
        unlink(in_folder(name[i]));
}

static void large_models_are_two_files(void **state)
{
    (void)state;
    struct mpq_ctx ctx;
    struct mpq_graph *graph;
    size_t bytes;
    struct stat model, data;
    CHECK_OK(&ctx, convert_beyond_limit(&ctx, -1));
    assert_int_equal(stat(in_folder("a.onnx"), &model), 0);
    assert_int_equal(stat(in_folder("a.onnx.data"), &data), 0);
    assert_true(model.st_size < 60000 && data.st_size > 30000);
    struct mpq_arena *arena = mpq_arena_create(&ctx);
    CHECK_OK(&ctx, mpq_import_file(&ctx, arena, in_folder("a.onnx"), &graph, &bytes));
    mpq_arena_free(arena);
    /* An old file of either name is not replaced, and the other is not written beside it. */
    assert_int_equal(convert_beyond_limit(&ctx, -1), MPQ_E_IO);
    unlink(in_folder("a.csv"));
    unlink(in_folder("a.summary.csv"));
    unlink(in_folder("a.onnx"));
    assert_int_equal(convert_beyond_limit(&ctx, -1), MPQ_E_IO);
    assert_true(strstr(ctx.message, "a.onnx.data: exists already"));
    assert_int_equal(stat(in_folder("a.onnx"), &model), -1);
    remove_outputs();
}

static void large_models_without_memory(void **state)
{
    (void)state;
    struct mpq_ctx ctx;
    enum mpq_status status = MPQ_E_NOMEM;
    for (long n = 0; status != MPQ_OK; n += 1 + n / 40) {
        status = convert_beyond_limit(&ctx, n);
        if (status != MPQ_OK && status != MPQ_E_NOMEM)
            fail_msg("after %ld allocations: status %d, %s", n, (int)status, ctx.message);
        if (status == MPQ_E_NOMEM && stat(in_folder("a.onnx"), &(struct stat){0}) == 0)
            break; /* the report could not be written */
    }
    remove_outputs();
}

/* What a command does when the file it reads weights from is shortened under it: in a process of
 * its own, which gets the handlers of commands first. */
static void external_data_cut_short(void **state)
{
    (void)state;
    int pipe_end[2], status = 0;
    assert_int_equal(pipe(pipe_end), 0);
    pid_t child = fork();
    if (child == 0) {
        FILE *file = tmpfile();
        long page = sysconf(_SC_PAGESIZE);
        if (!file || ftruncate(fileno(file), 2 * page) != 0 ||
            dup2(pipe_end[1], STDERR_FILENO) < 0 || mpq_main(1, (char *[]){"--version"}) != 0)
            _exit(100);
        volatile char *data = mmap(NULL, 2 * (size_t)page, PROT_READ, MAP_PRIVATE, fileno(file), 0);
        if (data == MAP_FAILED || ftruncate(fileno(file), page) != 0)
            _exit(101);
        _exit(data[page] + 102);
    }
    char text[200] = {0};
    assert_true(child > 0);
    close(pipe_end[1]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(read(pipe_end[0], text, sizeof text - 1) > 0);
    close(pipe_end[0]);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 1);
    assert_non_null(strstr(text, "cut short"));
}

int main(void)
{
    /* What the commands print is tested by tests/cli/. */
    if (!freopen("/dev/null", "w", stdout))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inspect_without_memory),
        cmocka_unit_test(eval_without_memory),
        cmocka_unit_test(eval_interrupted),
        cmocka_unit_test(external_data_cut_short),
        cmocka_unit_test_setup_teardown(large_models_are_two_files, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(large_models_without_memory, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
