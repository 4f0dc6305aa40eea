#include "cli/progress.h"

#include <string.h>

#include "cli/summary.h"
#include "tests/check.h"

static void expect_line(const struct mpq_progress *progress, uint64_t first, double elapsed_s,
                        const char *expected)
{
    char line[80];
    mpq_progress_print(progress, first, elapsed_s, line, sizeof line);
    assert_string_equal(line, expected);
}

static void lines(void **state)
{
    const double none = (double)NAN;
    (void)state;
    expect_line(&(struct mpq_progress){"tune", 100, 400, 0.0123456}, 0, 20,
                "tune 100/400  loss 0.01235  1:00 left");
    expect_line(&(struct mpq_progress){"tune", 60, 100, none}, 50, 10, "tune 60/100  0:40 left");
    expect_line(&(struct mpq_progress){"tune", 1, 400, none}, 0, 0.2, "tune 1/400");
    expect_line(&(struct mpq_progress){"search", 7, 0, none}, 0, 20, "search 7");
    expect_line(&(struct mpq_progress){"export", 0, 0, none}, 0, 20, "export");
    expect_line(&(struct mpq_progress){"tune", 400, 400, 1}, 0, 20,
                "tune 400/400  loss 1  0:00 left");
}

/* What a file, which is no terminal, gets: warnings, info where asked for, never a redrawn line. */
static void expect_log(bool quiet, bool verbose, const char *expected)
{
    struct mpq_ctx ctx;
    struct mpq_terminal terminal;
    char text[256] = "";
    FILE *file = tmpfile();
    assert_non_null(file);
    mpq_ctx_init(&ctx);
    mpq_terminal_attach(&terminal, file, quiet, verbose, &ctx);
    assert_int_equal(mpq_step(&ctx, "tune", 1, 2, 0.5), MPQ_OK);
    mpq_log(&ctx, MPQ_LOG_WARNING, "%d samples", 3);
    mpq_log(&ctx, MPQ_LOG_INFO, "batch %d", 32);
    mpq_terminal_clear(&terminal);
    rewind(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    assert_string_equal(text, expected);
}

static void logs(void **state)
{
    (void)state;
    expect_log(false, false, "onnx-mpq: warning: 3 samples\n");
    expect_log(false, true, "onnx-mpq: warning: 3 samples\nonnx-mpq: batch 32\n");
    expect_log(true, false, "");
}

static void differences_in_words(void **state)
{
    (void)state;
    char text[512] = "";
    FILE *file = tmpfile();
    assert_non_null(file);
    mpq_summary_print_drop(file, 0.002, -0.0031, 0.0071, "float", 1000);
    mpq_summary_print_drop(file, 0.02, 0.011, 0.029, "float", 1000);
    mpq_summary_print_drop(file, -0.02, -0.029, -0.011, "float", 1000);
    rewind(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    assert_string_equal(text, "drop 0.20 points (95 % interval -0.31 .. 0.71), not distinguishable "
                              "from float on these 1000 samples\n"
                              "drop 2.00 points (95 % interval 1.10 .. 2.90)\n"
                              "drop -2.00 points (95 % interval -2.90 .. -1.10)\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines),
        cmocka_unit_test(logs),
        cmocka_unit_test(differences_in_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
