#include "exporter/report_csv.h"

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "quantcore/base/fileio.h"
#include "quantcore/base/thread.h"
#include "tests/check.h"

struct fixture {
    struct mpq_ctx ctx;
    struct mpq_arena *arena;
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

#define NONE ((double)NAN)

static const struct mpq_report_layer layer[] = {
    {"conv,\"1\"",
     "Conv",
     432,
     442368,
     4,
     8,
     1728,
     280,
     {NONE, NONE, 0.5, 0.1 + 0.2, 1e-7, 0, NONE, NONE, 0},
     31.25,
     {0, 0, 108, 162, 216, 270, 0, 0, 432},
     "search",
     3},
    {"fc",
     "Gemm",
     640,
     640,
     8,
     8,
     2560,
     640,
     {NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, 1234567891234.0},
     NONE,
     {0, 0, 0, 0, 0, 0, 0, 0, 640},
     "lock",
     0},
};

static const struct mpq_report_stage stage[] = {{"calibrate", 1.5, 4096}, {"search", 0.25, 0}};
static const struct mpq_report_fact fact[] = {{"size", "15%"}, {"--x", "a,b\nc"}};

static const struct mpq_report_limit limit[] = {{"file size", "bytes", 1000, 990, 0.125},
                                                {"BitOPs", "G", 2.5, 1.5, 0}};

static const struct mpq_report report = {
    .model = "a.onnx",
    .output = "a.mpq.onnx",
    .n_layer = 2,
    .layer = layer,
    .n_stage = 2,
    .stage = stage,
    .n_fact = 2,
    .fact = fact,
    .n_limit = 2,
    .limit = limit,
    .loss = 0.25,
    .loss_error = 0.03125,
    .estimate = 1,
    .bound = 0.5,
    .float_bytes = 5000,
    .quantized_bytes = 990,
    .average_weight_bits = 6.25,
    .bitops = 10000000000000000000u,
    .n_left_float = 2,
    .left_float_macs = 0.125,
    .n_repaired = 7,
    .n_eval = 200,
    .metric = "top1",
    .metric_float = 0.915,
    .metric_quantized = 0.91,
    .drop = 0.005,
    .drop_low = -0.01,
    .drop_high = 0.02,
    .max_drop = 0.01,
    .drop_confidence = 0.75,
    .agreement = 0.985,
    .kl = NONE,
    .sqnr_db = 30,
    .n_verify = 64,
    .verify_float_db = 90,
    .verify_db = 41.5,
    .verify_difference = 0.25,
    .verify_difference_max = 2,
    .seed = UINT64_MAX,
    .n_threads = 2,
};

static const char layers_text[] =
    "node,operator,parameters,macs,weight_bits,activation_bits,float_bytes,quantized_bytes,"
    "sensitivity_2,sensitivity_3,sensitivity_4,sensitivity_5,sensitivity_6,sensitivity_7,"
    "sensitivity_8,sqnr_db,saturating_channels,bytes_2,bytes_3,bytes_4,bytes_5,bytes_6,bytes_7,"
    "bytes_8,chosen_by\n"
    "\"conv,\"\"1\"\"\",\"Conv\",432,442368,4,8,1728,280,0.5,0.3,1e-07,0,,,0,31.25,3,108,162,"
    "216,270,,,432,\"search\"\n"
    "\"fc\",\"Gemm\",640,640,8,8,2560,640,,,,,,,1.23456789e+12,,0,,,,,,,640,\"lock\"\n";

static const char summary_text[] =
    "key,value\n\"model\",\"a.onnx\"\n\"output\",\"a.mpq.onnx\"\n"
    "\"limit_file_size_budget\",1000\n\"limit_file_size_used\",990\n"
    "\"limit_file_size_price\",0.125\n\"limit_BitOPs_budget\",2.5\n"
    "\"limit_BitOPs_used\",1.5\n\"limit_BitOPs_price\",0\n"
    "\"binding_limits\",\"file size\"\n"
    "\"float_bytes\",5000\n\"quantized_bytes\",990\n\"average_weight_bits\",6.25\n"
    "\"decide_loss\",0.25\n\"decide_loss_error\",0.03125\n\"estimated_increase\",1\n"
    "\"estimated_increase_bound\",0.5\n\"bound_is_reached\",\"no\"\n"
    "\"bitops\",10000000000000000000\n\"left_float_layers\",2\n"
    "\"left_float_macs_share\",0.125\n\"saturating_channels\",3\n\"saturation_repaired_channels\","
    "7\n\"eval_samples\",200\n\"metric\",\"top1\"\n"
    "\"metric_float\",0.915\n\"metric_quantized\",0.91\n\"drop\",0.005\n\"drop_low\",-0.01\n"
    "\"drop_high\",0.02\n\"max_drop\",0.01\n\"drop_confidence\",0.75\n\"agreement\",0.985\n\"kl\","
    "\n\"sqnr_db\",30\n"
    "\"verify_samples\",64\n\"verify_float_db\",90\n\"verify_db\",41.5\n"
    "\"verify_difference_mean\",0.25\n\"verify_difference_max\",2\n"
    "\"calibrate_seconds\",1.5\n\"calibrate_peak_rss_bytes\",4096\n\"search_seconds\",0.25\n"
    "\"seed\",18446744073709551615\n\"threads\",2\n\"size\",\"15%\"\n\"--x\",\"a,b\nc\"\n";

static void exact_text(void **state)
{
    struct fixture *f = *state;
    char *text;
    size_t n;
    CHECK_OK(&f->ctx, mpq_report_layers_csv(&f->ctx, f->arena, &report, &text, &n));
    assert_string_equal(text, layers_text);
    assert_int_equal(n, strlen(layers_text));
    CHECK_OK(&f->ctx, mpq_report_summary_csv(&f->ctx, f->arena, &report, &text, &n));
    assert_string_equal(text, summary_text);
    assert_int_equal(n, strlen(summary_text));
}

static void decimal_point_in_any_locale(void **state)
{
    struct fixture *f = *state;
    char *text;
    size_t n;
    if (!setlocale(LC_ALL, "de_DE.UTF-8") && !setlocale(LC_ALL, "de_DE"))
        skip();
    CHECK_OK(&f->ctx, mpq_report_layers_csv(&f->ctx, f->arena, &report, &text, &n));
    setlocale(LC_ALL, "C");
    assert_string_equal(text, layers_text);
}

static void many_rows_grow_the_text(void **state)
{
    struct fixture *f = *state;
    static struct mpq_report_layer many[500];
    struct mpq_report big = report;
    char *text;
    size_t n, n_line = 0;
    for (size_t i = 0; i < MPQ_COUNT(many); i++)
        many[i] = layer[0];
    big.layer = many;
    big.n_layer = MPQ_COUNT(many);
    CHECK_OK(&f->ctx, mpq_report_layers_csv(&f->ctx, f->arena, &big, &text, &n));
    for (size_t i = 0; i < n; i++)
        n_line += text[i] == '\n';
    assert_int_equal(n_line, 501);
    assert_int_equal(strlen(text), n);
}

static void memory_may_end_anywhere(void **state)
{
    struct fixture *f = *state;
    char *text = NULL;
    size_t n;
    f->ctx.allocations_left = 0;
    assert_int_equal(mpq_report_summary_csv(&f->ctx, f->arena, &report, &text, &n), MPQ_E_NOMEM);
    assert_null(text);
    f->ctx.allocations_left = -1;
    mpq_ctx_clear(&f->ctx);
}

static void written_beside_each_other(void **state)
{
    struct fixture *f = *state;
    char folder[] = "/tmp/mpq_report_XXXXXX", path[64], summary[64];
    uint8_t *data;
    size_t n;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/a.csv", folder);
    snprintf(summary, sizeof summary, "%s/a.summary.csv", folder);
    CHECK_OK(&f->ctx, mpq_report_write(&f->ctx, f->arena, &report, path, false));
    CHECK_OK(&f->ctx, mpq_file_read(&f->ctx, f->arena, path, 10000, &data, &n));
    assert_string_equal(data, layers_text);
    CHECK_OK(&f->ctx, mpq_file_read(&f->ctx, f->arena, summary, 10000, &data, &n));
    assert_string_equal(data, summary_text);
    CHECK_FAILS(&f->ctx, mpq_report_write(&f->ctx, f->arena, &report, path, false), MPQ_E_IO,
                "exists already");
    mpq_thread_set_count(2);
    unlink(summary); /* no summary without the layers it sums up */
    CHECK_FAILS(&f->ctx, mpq_report_write(&f->ctx, f->arena, &report, path, false), MPQ_E_IO,
                "exists already");
    assert_int_not_equal(access(summary, F_OK), 0);
    mpq_thread_set_count(1);
    unlink(path);
    rmdir(folder);
    assert_string_equal(mpq_report_summary_path(&f->ctx, f->arena, "x/r.txt"),
                        "x/r.txt.summary.csv");
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(exact_text),
        TEST(decimal_point_in_any_locale),
        TEST(many_rows_grow_the_text),
        TEST(memory_may_end_anywhere),
        TEST(written_beside_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
