#include "cli/options.h"

#include <stdlib.h>
#include <string.h>

#include "cli/pick.h"
#include "tests/check.h"

#define MAX_ARGUMENTS 16

struct fixture {
    struct mpq_ctx ctx;
    struct mpq_arena *arena;
    struct mpq_options options;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    mpq_ctx_init(&f->ctx);
    f->arena = mpq_arena_create(&f->ctx);
    *state = f;
    return f->arena ? 0 : -1;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    mpq_arena_free(f->arena);
    free(f);
    return 0;
}

/* The line's words, separated by single blanks, as arguments of a command. */
static enum mpq_status parse(struct fixture *f, enum mpq_command_bit command, const char *line)
{
    char *argv[MAX_ARGUMENTS];
    int argc = 0;
    char *copy = mpq_arena_strdup(&f->ctx, f->arena, line);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    const char *name = command == MPQ_COMMAND_CONVERT ? "convert"
                       : command == MPQ_COMMAND_EVAL  ? "eval"
                                                      : "inspect";
    return mpq_options_parse(&f->ctx, f->arena, command, name, argc, argv, &f->options);
}

static void defaults(void **state)
{
    struct fixture *f = *state;
    const struct mpq_options *o = &f->options;
    CHECK_OK(&f->ctx, parse(f, MPQ_COMMAND_CONVERT, "nets/a.onnx"));
    assert_string_equal(o->model, "nets/a.onnx");
    assert_string_equal(o->output, "nets/a.mpq.onnx");
    assert_string_equal(o->report, "nets/a.mpq.csv");
    assert_null(o->data);
    CHECK_NEAR(o->size.share, 0.2, 1e-12, 0);
    assert_int_equal(o->effort, MPQ_EFFORT_DEFAULT);
    assert_string_equal(o->target->name, "ort");
    assert_int_equal(o->steps, -1);
    assert_int_equal(o->seed, 1);
    assert_true(o->threads >= 1);
    assert_false(o->bits[7]);
    assert_true(o->bits[2] && o->bits[3] && o->bits[4] && o->bits[5] && o->bits[6] && o->bits[8]);
    assert_false(o->overwrite || o->no_freeze || o->no_align || o->no_refine || o->quiet ||
                 o->verbose);
}

static void everything_typed(void **state)
{
    struct fixture *f = *state;
    const struct mpq_options *o = &f->options;
    CHECK_OK(&f->ctx, parse(f, MPQ_COMMAND_CONVERT,
                            "-o out.onnx --size=1.5MB a.onnx --bits 2,4,8 --effort quick -q "
                            "--steps 7 --seed 18446744073709551615 --threads 3 --no-align"));
    assert_string_equal(o->output, "out.onnx");
    assert_string_equal(o->report, "out.csv");
    assert_int_equal(o->size.bytes, 1500000);
    assert_int_equal(o->effort, MPQ_EFFORT_QUICK);
    assert_int_equal(o->steps, 7);
    assert_true(o->seed == UINT64_MAX);
    assert_int_equal(o->threads, 3);
    assert_true(o->no_align && o->quiet && !o->no_freeze);
    assert_true(o->bits[2] && o->bits[4] && o->bits[8] && !o->bits[3] && !o->bits[5]);
    CHECK_OK(&f->ctx, parse(f, MPQ_COMMAND_CONVERT, "-ob.onnx -- -strange.onnx"));
    assert_string_equal(o->output, "b.onnx");
    assert_string_equal(o->model, "-strange.onnx");
}

static void sizes(void **state)
{
    static const struct {
        const char *text;
        double share;
        uint64_t bytes;
    } cases[] = {
        {"15%", 0.15, 0},    {"100%", 1, 0},        {"0.5%", 0.005, 0}, {"150kB", 0, 150000},
        {"150k", 0, 150000}, {"150000", 0, 150000}, {"7B", 0, 7},       {"1.5MB", 0, 1500000},
        {"64KiB", 0, 65536}, {"2MiB", 0, 2097152},  {".5M", 0, 500000},
    };
    struct fixture *f = *state;
    for (size_t i = 0; i < MPQ_COUNT(cases); i++) {
        char line[64];
        snprintf(line, sizeof line, "a.onnx --size %s", cases[i].text);
        CHECK_OK(&f->ctx, parse(f, MPQ_COMMAND_CONVERT, line));
        CHECK_NEAR(f->options.size.share, cases[i].share, 1e-12, 0);
        assert_int_equal(f->options.size.bytes, cases[i].bytes);
    }
    static const char *const bad[] = {"0",  "0%",  "101%", "-5%", "x",    "15%%",
                                      "5Q", "inf", "nan",  "kB",  "0.5B", "1e99"};
    for (size_t i = 0; i < MPQ_COUNT(bad); i++) {
        char line[64];
        snprintf(line, sizeof line, "a.onnx --size=%s", bad[i]);
        CHECK_FAILS(&f->ctx, parse(f, MPQ_COMMAND_CONVERT, line), MPQ_E_USAGE, "is not a size");
    }
    CHECK_OK(&f->ctx, parse(f, MPQ_COMMAND_CONVERT, "a.onnx --bits 8"));
    assert_true(f->options.size.bytes == 0 && !(f->options.size.share > 0)); /* no limit */
    assert_int_equal(mpq_size_bytes(&(struct mpq_size){.share = 0.15}, 1001), 150);
    assert_int_equal(mpq_size_bytes(&(struct mpq_size){.share = 0.15}, 1), 1);
    assert_int_equal(mpq_size_bytes(&(struct mpq_size){.bytes = 99}, 1001), 99);
}

/* The budget of 29 % of 100 bytes is 29, although 29.0 / 100 * 100 is a little less. */
static void shares_do_not_lose_a_byte(void **state)
{
    struct fixture *f = *state;
    for (unsigned percent = 1; percent <= 100; percent++) {
        char line[64];
        snprintf(line, sizeof line, "a.onnx --size %u%%", percent);
        CHECK_OK(&f->ctx, parse(f, MPQ_COMMAND_CONVERT, line));
        assert_int_equal(mpq_size_bytes(&f->options.size, 1000), 10 * percent);
    }
}

static void preprocessing(void **state)
{
    struct fixture *f = *state;
    const struct mpq_preprocess *p = &f->options.preprocess;
    CHECK_OK(&f->ctx, parse(f, MPQ_COMMAND_EVAL, "a.onnx --data d --preprocess imagenet"));
    CHECK_NEAR(p->mean[1], 0.456, 1e-6, 0);
    assert_int_equal(p->resize, -1);
    assert_false(p->bgr);
    CHECK_OK(&f->ctx, parse(f, MPQ_COMMAND_EVAL,
                            "a.onnx --data d --mean -1,2,.5 --channel-order bgr "
                            "--std 2 --preprocess imagenet --crop 96 --resize 100"));
    CHECK_NEAR(p->mean[0], -1, 0, 0);
    CHECK_NEAR(p->mean[2], 0.5, 0, 0);
    CHECK_NEAR(p->std[0], 2, 0, 0);
    CHECK_NEAR(p->std[3], 2, 0, 0);
    CHECK_NEAR(p->scale, 1.0 / 255, 1e-6, 0);
    assert_int_equal(p->crop, 96);
    assert_int_equal(p->resize, 100);
    assert_true(p->bgr);
}

static void usage_errors(void **state)
{
    static const struct {
        enum mpq_command_bit command;
        const char *line, *part;
    } cases[] = {
        {MPQ_COMMAND_CONVERT, "", "convert needs a model"},
        {MPQ_COMMAND_CONVERT, "a.onnx b.onnx", "one model at a time"},
        {MPQ_COMMAND_CONVERT, "a.onnx --sise 15%", "did you mean --size?"},
        {MPQ_COMMAND_CONVERT, "a.onnx --over", "did you mean --overwrite?"},
        {MPQ_COMMAND_CONVERT, "a.onnx --qqqqq", "see onnx-mpq convert --help"},
        {MPQ_COMMAND_CONVERT, "a.onnx -x", "-x is not an option"},
        {MPQ_COMMAND_INSPECT, "a.onnx --size 15%", "--size is not an option of inspect"},
        {MPQ_COMMAND_CONVERT, "a.onnx --size", "--size needs a value"},
        {MPQ_COMMAND_CONVERT, "a.onnx --output --overwrite", "--output needs a value"},
        {MPQ_COMMAND_CONVERT, "a.onnx --overwrite=yes", "takes no value"},
        {MPQ_COMMAND_CONVERT, "a.onnx --effort some", "none|quick|default|thorough"},
        {MPQ_COMMAND_CONVERT, "a.onnx --effort quick|default", "is not one of"},
        {MPQ_COMMAND_CONVERT, "a.onnx --bits 1,2", "--bits: '1,2' is not a list of widths"},
        {MPQ_COMMAND_CONVERT, "a.onnx --bits 2,9", "--bits"},
        {MPQ_COMMAND_CONVERT, "a.onnx --bits 2,", "--bits"},
        {MPQ_COMMAND_CONVERT, "a.onnx --bits 22", "--bits"},
        {MPQ_COMMAND_CONVERT, "a.onnx --threads 0", "--threads"},
        {MPQ_COMMAND_CONVERT, "a.onnx --seed -1", "--seed"},
        {MPQ_COMMAND_CONVERT, "a.onnx --seed 18446744073709551616", "--seed"},
        {MPQ_COMMAND_CONVERT, "a.onnx --steps 1.5", "--steps"},
        {MPQ_COMMAND_CONVERT, "a.onnx --std 1,0,1", "--std"},
        {MPQ_COMMAND_CONVERT, "a.onnx --mean 1,2,3,4,5", "--mean"},
        {MPQ_COMMAND_CONVERT, "a.onnx --mean 1,,3", "--mean"},
        {MPQ_COMMAND_CONVERT, "a.onnx --scale 0", "--scale"},
        {MPQ_COMMAND_CONVERT, "a.onnx --preprocess resnet", "imagenet"},
        {MPQ_COMMAND_CONVERT, "a.onnx --labels l.csv", "--eval PATH"},
        {MPQ_COMMAND_CONVERT, "a.onnx -q -v", "exclude each other"},
        {MPQ_COMMAND_CONVERT, "a.onnx --baseline mse --checkpoint c.npz", "--baseline excludes"},
        {MPQ_COMMAND_CONVERT, "a.onnx --recipe paper --latency t.csv",
         "--latency does not go with"},
        {MPQ_COMMAND_CONVERT, "a.onnx --recipe paper --float-macs 0%", "--float-macs does not go"},
        {MPQ_COMMAND_CONVERT, "a.onnx --weights-only --max-drop 1", "--max-drop does not go with"},
        {MPQ_COMMAND_CONVERT, "a.onnx --weights-only --steps 9", "--steps does not go with"},
        {MPQ_COMMAND_CONVERT, "a.onnx --baseline mse --steps 9", "--steps does not go with"},
        {MPQ_COMMAND_CONVERT, "a.onnx --baseline mse --float-macs 5%", "--float-macs does not go"},
        {MPQ_COMMAND_EVAL, "a.onnx", "--data PATH"},
    };
    struct fixture *f = *state;
    for (size_t i = 0; i < MPQ_COUNT(cases); i++)
        CHECK_FAILS(&f->ctx, parse(f, cases[i].command, cases[i].line), MPQ_E_USAGE, cases[i].part);
}

static void names_need_not_be_patterns(void **state)
{
    struct fixture *f = *state;
    struct mpq_node node[] = {{.op_type = "Conv"}, {.op_type = "Gemm"}};
    struct mpq_layer layer[] = {{.name = "a(b", .node = 0}, {.name = "e[0", .node = 1}};
    struct mpq_graph graph = {.node = node, .n_node = 2};
    struct mpq_layer_table layers = {.layer = layer, .n_layer = 2};
    uint8_t bits[2];
    CHECK_OK(&f->ctx,
             mpq_pick_lock(&f->ctx, f->arena, "a(b=4,Gemm=8", &graph, &layers, 0x1fc, bits));
    assert_int_equal(bits[0], 4);
    assert_int_equal(bits[1], 8);
    CHECK_FAILS(&f->ctx, mpq_pick_exclude(&f->ctx, f->arena, "(", &graph, &layers), MPQ_E_USAGE,
                "'(' is no regular expression: ");
    CHECK_OK(&f->ctx, mpq_pick_exclude(&f->ctx, f->arena, "e[0", &graph, &layers));
    assert_int_equal(layers.n_layer, 1);
}

static void help_comes_first(void **state)
{
    struct fixture *f = *state;
    CHECK_OK(&f->ctx, parse(f, MPQ_COMMAND_CONVERT, "--nonsense -h"));
    assert_true(f->options.help);
    CHECK_OK(&f->ctx, parse(f, MPQ_COMMAND_INSPECT, "a.onnx -- --help.onnx") == MPQ_E_USAGE
                          ? MPQ_OK
                          : MPQ_E_USAGE);
    assert_false(f->options.help);
}

static void help_fits_the_screen(void **state)
{
    (void)state;
    FILE *file = tmpfile();
    assert_non_null(file);
    mpq_options_help(file, MPQ_COMMAND_CONVERT);
    rewind(file);
    char line[512];
    bool has_default = false;
    while (fgets(line, sizeof line, file)) {
        if (strlen(line) > 81)
            fail_msg("longer than 80 columns: %s", line);
        has_default = has_default || strstr(line, "Default: 20%.") != NULL;
    }
    fclose(file);
    assert_true(has_default);
}

/* The report's echo: what was typed or the default, for this command's options only. */
static void echo(void **state)
{
    struct fixture *f = *state;
    bool found = false;
    CHECK_OK(&f->ctx, parse(f, MPQ_COMMAND_CONVERT, "a.onnx --size 17%"));
    for (size_t i = 0; i < mpq_option_count(); i++) {
        const char *name = mpq_option_name(i), *text = f->options.text[i];
        if (strcmp(name, "size") == 0 && text) /* the row of another command has none */
            assert_string_equal(text, "17%");
        else if (strcmp(name, "effort") == 0)
            assert_string_equal(text, "default");
        else if (strcmp(name, "reference") == 0)
            assert_null(text);
        found = found || (strcmp(name, "size") == 0 && text);
    }
    assert_true(found);
}

static void limits(void **state)
{
    struct fixture *f = *state;
    const struct mpq_options *o = &f->options;
    CHECK_OK(&f->ctx, parse(f, MPQ_COMMAND_CONVERT, "a.onnx --avg-bits 3.5 --bitops 1.5G"));
    CHECK_NEAR(o->avg_bits, 3.5, 0, 0);
    CHECK_NEAR(o->bitops.number, 1.5e9, 0, 0);
    assert_true(o->size.share == 0 && o->size.bytes == 0); /* another limit replaces the default */
    CHECK_OK(&f->ctx, parse(f, MPQ_COMMAND_CONVERT, "a.onnx --bitops 25% --size 10%"));
    CHECK_NEAR(o->bitops.share, 0.25, 1e-15, 0);
    CHECK_NEAR(o->size.share, 0.1, 1e-15, 0);
    CHECK_OK(&f->ctx, parse(f, MPQ_COMMAND_CONVERT, "a.onnx --bitops W4A6"));
    assert_int_equal(o->bitops.weight_bits, 4);
    assert_int_equal(o->bitops.activation_bits, 6);
    CHECK_OK(&f->ctx, parse(f, MPQ_COMMAND_CONVERT, "a.onnx --latency t.csv --max-latency 800us"));
    CHECK_NEAR(o->max_latency, 8e-4, 1e-15, 0);
    static const char *const bad[] = {"--bitops 0",      "--bitops W1A4",    "--bitops W4A4x",
                                      "--bitops 3Q",     "--bitops -1",      "--avg-bits 1.5",
                                      "--max-latency 3", "--max-latency 0s", "--act-bits 1,4",
                                      "--latency t.csv"};
    for (size_t i = 0; i < MPQ_COUNT(bad); i++) {
        char line[64];
        snprintf(line, sizeof line, "a.onnx %s", bad[i]);
        CHECK_FAILS(&f->ctx, parse(f, MPQ_COMMAND_CONVERT, line), MPQ_E_USAGE, "--");
    }
}

static void a_checkpoint_keeps_values_of_several_lines(void **state)
{
    struct fixture *f = *state;
    struct mpq_options again;
    char checkpoint[] = "c.npz", size[] = "--size=10%";
    char *argv[] = {checkpoint, size};
    CHECK_OK(&f->ctx, parse(f, MPQ_COMMAND_CONVERT,
                            "a\n\tb.onnx --exclude x\ny,\n\n\tz\\n --checkpoint c.npz --seed 7"));
    char *kept = mpq_options_kept(&f->ctx, f->arena, &f->options);
    assert_non_null(kept);
    CHECK_OK(&f->ctx,
             mpq_options_parse(&f->ctx, f->arena, MPQ_COMMAND_SEARCH, "search", 2, argv, &again));
    CHECK_OK(&f->ctx, mpq_options_restore(&f->ctx, f->arena, kept, &again));
    assert_string_equal(again.model, "a\n\tb.onnx");
    assert_string_equal(again.exclude, f->options.exclude);
    assert_int_equal(again.seed, 7);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(defaults),
        TEST(everything_typed),
        TEST(sizes),
        TEST(shares_do_not_lose_a_byte),
        TEST(preprocessing),
        TEST(usage_errors),
        TEST(names_need_not_be_patterns),
        TEST(a_checkpoint_keeps_values_of_several_lines),
        TEST(help_comes_first),
        TEST(help_fits_the_screen),
        TEST(echo),
        TEST(limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
