#include "cli/command.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/memory.h"
#include "cli/progress.h"
#include "cli/version.h"
#include "quantcore/base/thread.h"

static const struct command {
    const char *name;
    enum mpq_command_bit bit;
    const char *arguments, *summary;
    mpq_command_fn *run;
} commands[] = {
    {"convert", MPQ_COMMAND_CONVERT, "MODEL.onnx",
     "Quantize: write a smaller mixed-precision QDQ model and a report.", mpq_cmd_convert},
    {"search", MPQ_COMMAND_SEARCH, "CHECKPOINT",
     "From the checkpoint of one tuning, a file for each of many budgets.", mpq_cmd_search},
    {"apply", MPQ_COMMAND_APPLY, "CHECKPOINT PLAN.csv",
     "From a checkpoint and an edited layer CSV, the file with these widths.", mpq_cmd_apply},
    {"eval", MPQ_COMMAND_EVAL, "MODEL.onnx",
     "Run a float or QDQ model over data and print its metrics.", mpq_cmd_eval},
    {"inspect", MPQ_COMMAND_INSPECT, "MODEL.onnx",
     "Show layers, parameters and MACs; what stays float and why.", mpq_cmd_inspect},
    {"lint", MPQ_COMMAND_LINT, "MODEL.onnx",
     "Say what runtimes make of a quantized model; exit code 5 where it is wrong.", mpq_cmd_lint},
};

static const char exit_codes[] =
    "exit codes: 0 done, 1 failed, 2 usage, 3 unsupported model, 4 budget infeasible,\n"
    "            5 errors found by lint, 130 interrupted\n";

static volatile sig_atomic_t is_cancelled;

static void cancel(int signal_number)
{
    (void)signal_number;
    is_cancelled = 1;
}

/* External data are read where they lie in the page cache: where somebody shortens their file, a
 * read of what is gone ends here. */
static void lose_file(int signal_number, siginfo_t *info, void *context)
{
    static const char text[] =
        "onnx-mpq: a file of external data was cut short while it was read\n";
    (void)context;
    if (info->si_code != BUS_ADRERR) {
        signal(signal_number, SIG_DFL); /* a mistake of ours: it happens again, and is seen */
        return;
    }
    ssize_t written = write(STDERR_FILENO, text, sizeof text - 1);
    (void)written; /* if nobody hears it, the exit code still says so */
    _exit(EXIT_FAILURE);
}

/* The first signal asks to stop at the next step, the second ends the process at once. */
static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = cancel, .sa_flags = SA_RESTART | (int)SA_RESETHAND};
    struct sigaction lost = {.sa_sigaction = lose_file, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    sigemptyset(&lost.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGBUS, &lost, NULL);
}

static void print_usage(FILE *file)
{
    fputs("usage: onnx-mpq COMMAND FILE [OPTIONS]\n\n", file);
    for (size_t i = 0; i < MPQ_COUNT(commands); i++)
        fprintf(file, "  %-8s %s\n", commands[i].name, commands[i].summary);
    fputs("\nonnx-mpq COMMAND --help lists its options; --version says what it is built with.\n",
          file);
}

static void print_command_help(const struct command *command)
{
    printf("usage: onnx-mpq %s %s [OPTIONS]\n\n%s\n\noptions:\n", command->name, command->arguments,
           command->summary);
    mpq_options_help(stdout, command->bit);
    printf("\n%s", exit_codes);
}

static void print_help(void)
{
    print_usage(stdout);
    fputs("\noptions of every command:\n", stdout);
    mpq_options_help(stdout, MPQ_COMMAND_ANY);
    printf("\n%s", exit_codes);
}

static void print_versions(void)
{
    for (size_t i = 0; i < mpq_version_count(); i++)
        printf("%s %s\n", mpq_version_at(i).name, mpq_version_at(i).value);
}

static int exit_code(enum mpq_status status)
{
    switch (status) {
    case MPQ_OK:
        return 0;
    case MPQ_E_USAGE:
        return 2;
    case MPQ_E_UNSUPPORTED:
        return 3;
    case MPQ_E_INFEASIBLE:
        return 4;
    case MPQ_E_LINT:
        return 5;
    case MPQ_E_CANCELLED:
        return 130;
    default:
        return 1;
    }
}

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < MPQ_COUNT(commands); i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

static enum mpq_status unknown_command(struct mpq_ctx *ctx, const char *typed)
{
    const char *name[MPQ_COUNT(commands)];
    for (size_t i = 0; i < MPQ_COUNT(commands); i++)
        name[i] = commands[i].name;
    const char *nearest = mpq_suggest(typed, name, MPQ_COUNT(commands));
    if (nearest)
        return mpq_fail(ctx, MPQ_E_USAGE, "'%s' is not a command; did you mean %s?", typed,
                        nearest);
    return mpq_fail(ctx, MPQ_E_USAGE, "'%s' is not a command; see onnx-mpq --help", typed);
}

/* What was printed must have arrived: a full disk behind a redirection is a failure. */
static enum mpq_status flush_results(struct mpq_ctx *ctx)
{
    if (fflush(stdout) != 0 || ferror(stdout))
        return mpq_fail(ctx, MPQ_E_IO, "standard output cannot be written");
    return MPQ_OK;
}

static enum mpq_status run_command(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct command *command, int argc, char *const *argv)
{
    struct mpq_options options;
    MPQ_TRY(mpq_options_parse(ctx, arena, command->bit, command->name, argc, argv, &options));
    if (options.help) {
        print_command_help(command);
        return flush_results(ctx);
    }
    struct mpq_terminal terminal;
    mpq_terminal_attach(&terminal, stderr, options.quiet, options.verbose, ctx);
    mpq_thread_set_count((int)options.threads);
    ctx->n_threads = mpq_thread_count();
    ctx->seed = options.seed;
    if (options.max_memory)
        mpq_memory_return_early();
    enum mpq_status status = command->run(ctx, arena, &options);
    mpq_terminal_clear(&terminal);
    ctx->log = NULL; /* the terminal goes with this function */
    ctx->progress = NULL;
    return status == MPQ_OK ? flush_results(ctx) : status;
}

static enum mpq_status dispatch(struct mpq_ctx *ctx, struct mpq_arena *arena, int argc,
                                char *const *argv)
{
    if (argc == 0) {
        print_usage(stderr);
        return MPQ_E_USAGE;
    }
    if (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0) {
        print_help();
        return flush_results(ctx);
    }
    if (strcmp(argv[0], "--version") == 0) {
        print_versions();
        return flush_results(ctx);
    }
    const struct command *command = find_command(argv[0]);
    if (!command)
        return unknown_command(ctx, argv[0]);
    return run_command(ctx, arena, command, argc - 1, argv + 1);
}

int mpq_main(int argc, char *const *argv)
{
    struct mpq_ctx ctx;
    mpq_ctx_init(&ctx);
    ctx.cancel = &is_cancelled;
    catch_signals();
    struct mpq_arena *arena = mpq_arena_create(&ctx);
    enum mpq_status status = arena ? dispatch(&ctx, arena, argc, argv) : MPQ_E_NOMEM;
    mpq_arena_free(arena);
    if (ctx.status != MPQ_OK)
        fprintf(stderr, "onnx-mpq: %s\n", ctx.message);
    return exit_code(status);
}
