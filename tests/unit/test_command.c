/* Whole commands in-process: memory may end at any allocation, and a request to stop may come at
 * any time; each must end in the right status, and the sanitizers must have nothing to say. */
#include "cli/command.h"

#include <stdlib.h>
#include <string.h>

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
                      "--preprocess", "unit", NULL});
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

int main(void)
{
    /* What the commands print is tested by tests/cli/. */
    if (!freopen("/dev/null", "w", stdout))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inspect_without_memory),
        cmocka_unit_test(eval_without_memory),
        cmocka_unit_test(eval_interrupted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
