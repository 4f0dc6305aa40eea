#include "exporter/report_csv.h"

#include <csv.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "quantcore/base/fileio.h"
#include "quantcore/base/workers.h"

/* Text that grows; the first failure stays in `status` and makes the rest do nothing. */
struct csv_text {
    struct mpq_ctx *ctx;
    struct mpq_arena *arena;
    char *data;
    size_t n, capacity;
    bool row_has_field;
    enum mpq_status status;
};

static void reserve(struct csv_text *csv, size_t more)
{
    if (csv->status != MPQ_OK || csv->capacity - csv->n >= more)
        return;
    size_t capacity = 2 * csv->capacity + more + 4096;
    char *data = mpq_arena_grow(csv->ctx, csv->arena, csv->data, csv->n, capacity, 1);
    if (!data) {
        csv->status = MPQ_E_NOMEM;
        return;
    }
    csv->data = data;
    csv->capacity = capacity;
}

/* One field, quoted by libcsv; numbers and the empty field need no quotes and get none. */
static void put(struct csv_text *csv, const char *text, bool quoted)
{
    size_t n = strlen(text);
    reserve(csv, 2 * n + 4); /* every quote doubled, two around, comma, end */
    if (csv->status != MPQ_OK)
        return;
    if (csv->row_has_field)
        csv->data[csv->n++] = ',';
    csv->row_has_field = true;
    if (quoted) {
        csv->n += csv_write(csv->data + csv->n, csv->capacity - csv->n, text, n);
    } else {
        memcpy(csv->data + csv->n, text, n);
        csv->n += n;
    }
}

static void put_text(struct csv_text *csv, const char *text)
{
    put(csv, text ? text : "", text && *text);
}

static void put_count(struct csv_text *csv, uint64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, value);
    put(csv, text, false);
}

/* printf follows the locale; CSV with a decimal comma would be another table. */
static void put_number(struct csv_text *csv, double value)
{
    char text[40] = "";
    if (!isnan(value))
        snprintf(text, sizeof text, "%.9g", value);
    for (char *c = text; *c; c++)
        if (*c == ',')
            *c = '.';
    put(csv, text, false);
}

static void end_row(struct csv_text *csv)
{
    reserve(csv, 2);
    if (csv->status != MPQ_OK)
        return;
    memcpy(csv->data + csv->n++, "\n", 2); /* with the terminating zero, not counted */
    csv->row_has_field = false;
}

static enum mpq_status finish(const struct csv_text *csv, char **out_text, size_t *out_bytes)
{
    MPQ_TRY(csv->status);
    *out_text = csv->data;
    *out_bytes = csv->n;
    return MPQ_OK;
}

/* ---- one row a layer ---- */

static void layer_header(struct csv_text *csv)
{
    static const char *const before[] = {"node",        "operator",       "parameters",
                                         "macs",        "weight_bits",    "activation_bits",
                                         "float_bytes", "quantized_bytes"};
    for (size_t i = 0; i < MPQ_COUNT(before); i++)
        put(csv, before[i], false);
    for (int bits = MPQ_MIN_BITS; bits <= MPQ_MAX_BITS; bits++) {
        char name[24];
        snprintf(name, sizeof name, "sensitivity_%d", bits);
        put(csv, name, false);
    }
    put(csv, "sqnr_db", false);
    put(csv, "saturating_channels", false);
    for (int bits = MPQ_MIN_BITS; bits <= MPQ_MAX_BITS; bits++) {
        char name[24];
        snprintf(name, sizeof name, "bytes_%d", bits);
        put(csv, name, false);
    }
    put(csv, "chosen_by", false);
    end_row(csv);
}

static void layer_row(struct csv_text *csv, const struct mpq_report_layer *layer)
{
    put_text(csv, layer->node);
    put_text(csv, layer->operator_type);
    put_count(csv, layer->n_param);
    put_count(csv, layer->macs);
    put_count(csv, (uint64_t)layer->weight_bits);
    put_count(csv, (uint64_t)layer->activation_bits);
    put_count(csv, layer->float_bytes);
    put_count(csv, layer->quantized_bytes);
    for (int bits = MPQ_MIN_BITS; bits <= MPQ_MAX_BITS; bits++)
        put_number(csv, layer->sensitivity[bits]);
    put_number(csv, layer->sqnr_db);
    put_count(csv, layer->n_saturating);
    for (int bits = MPQ_MIN_BITS; bits <= MPQ_MAX_BITS; bits++) {
        if (isnan(layer->sensitivity[bits]))
            put(csv, "", false);
        else
            put_count(csv, layer->bytes[bits]);
    }
    put_text(csv, layer->chosen_by);
    end_row(csv);
}

enum mpq_status mpq_report_layers_csv(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      const struct mpq_report *report, char **out_text,
                                      size_t *out_bytes)
{
    struct csv_text csv = {.ctx = ctx, .arena = arena};
    layer_header(&csv);
    for (uint32_t l = 0; l < report->n_layer; l++)
        layer_row(&csv, &report->layer[l]);
    return finish(&csv, out_text, out_bytes);
}

/* ---- key,value ---- */

static void text_row(struct csv_text *csv, const char *key, const char *value)
{
    put_text(csv, key);
    put_text(csv, value);
    end_row(csv);
}

static void count_row(struct csv_text *csv, const char *key, uint64_t value)
{
    put_text(csv, key);
    put_count(csv, value);
    end_row(csv);
}

static void number_row(struct csv_text *csv, const char *key, double value)
{
    put_text(csv, key);
    put_number(csv, value);
    end_row(csv);
}

static uint64_t n_saturating(const struct mpq_report *report)
{
    uint64_t n = 0;
    for (uint32_t l = 0; l < report->n_layer; l++)
        n += report->layer[l].n_saturating;
    return n;
}

static void stage_rows(struct csv_text *csv, const struct mpq_report_stage *stage)
{
    char key[96];
    snprintf(key, sizeof key, "%s_seconds", stage->name);
    number_row(csv, key, stage->seconds);
    if (!stage->peak_rss_bytes)
        return;
    snprintf(key, sizeof key, "%s_peak_rss_bytes", stage->name);
    count_row(csv, key, stage->peak_rss_bytes);
}

static const char *name_binding(const struct mpq_report *report, char *text, size_t size)
{
    snprintf(text, size, "none");
    for (uint32_t i = 0, n = 0; i < report->n_limit; i++)
        if (report->limit[i].price > 0 && n < size)
            n += (uint32_t)snprintf(text + n, size - n, "%s%s", n ? "; " : "",
                                    report->limit[i].name);
    return text;
}

/* limit_<name>_<what> for each limit, spaces as underscores, and which of them bind. */
static void limit_rows(struct csv_text *csv, const struct mpq_report *report)
{
    char binding[256];
    for (uint32_t i = 0; i < report->n_limit; i++) {
        const struct mpq_report_limit *limit = &report->limit[i];
        const double value[] = {limit->budget, limit->used, limit->price};
        static const char *const what[] = {"budget", "used", "price"};
        for (size_t j = 0; j < MPQ_COUNT(what); j++) {
            char key[96];
            snprintf(key, sizeof key, "limit_%s_%s", limit->name, what[j]);
            for (char *c = key; *c; c++)
                if (*c == ' ')
                    *c = '_';
            number_row(csv, key, value[j]);
        }
    }
    text_row(csv, "binding_limits", name_binding(report, binding, sizeof binding));
}

enum mpq_status mpq_report_summary_csv(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const struct mpq_report *report, char **out_text,
                                       size_t *out_bytes)
{
    struct csv_text csv = {.ctx = ctx, .arena = arena};
    put(&csv, "key", false);
    put(&csv, "value", false);
    end_row(&csv);
    text_row(&csv, "model", report->model);
    text_row(&csv, "output", report->output);
    limit_rows(&csv, report);
    count_row(&csv, "float_bytes", report->float_bytes);
    count_row(&csv, "quantized_bytes", report->quantized_bytes);
    number_row(&csv, "average_weight_bits", report->average_weight_bits);
    number_row(&csv, "decide_loss", report->loss);
    number_row(&csv, "decide_loss_error", report->loss_error);
    number_row(&csv, "estimated_increase", report->estimate);
    number_row(&csv, "estimated_increase_bound", report->bound);
    text_row(&csv, "bound_is_reached", report->bound_is_reached ? "yes" : "no");
    count_row(&csv, "bitops", report->bitops);
    count_row(&csv, "left_float_layers", report->n_left_float);
    number_row(&csv, "left_float_macs_share", report->left_float_macs);
    count_row(&csv, "saturating_channels", n_saturating(report));
    count_row(&csv, "saturation_repaired_channels", report->n_repaired);
    count_row(&csv, "eval_samples", report->n_eval);
    text_row(&csv, "metric", report->metric);
    number_row(&csv, "metric_float", report->metric_float);
    number_row(&csv, "metric_quantized", report->metric_quantized);
    number_row(&csv, "drop", report->drop);
    number_row(&csv, "drop_low", report->drop_low);
    number_row(&csv, "drop_high", report->drop_high);
    number_row(&csv, "max_drop", report->max_drop);
    number_row(&csv, "drop_confidence", report->drop_confidence);
    number_row(&csv, "agreement", report->agreement);
    number_row(&csv, "kl", report->kl);
    number_row(&csv, "sqnr_db", report->sqnr_db);
    count_row(&csv, "verify_samples", report->n_verify);
    number_row(&csv, "verify_float_db", report->verify_float_db);
    number_row(&csv, "verify_db", report->verify_db);
    number_row(&csv, "verify_difference_mean", report->verify_difference);
    number_row(&csv, "verify_difference_max", report->verify_difference_max);
    for (uint32_t i = 0; i < report->n_stage; i++)
        stage_rows(&csv, &report->stage[i]);
    count_row(&csv, "seed", report->seed);
    count_row(&csv, "threads", (uint64_t)report->n_threads);
    for (uint32_t i = 0; i < report->n_fact; i++)
        text_row(&csv, report->fact[i].key, report->fact[i].value);
    return finish(&csv, out_text, out_bytes);
}

/* ---- one row a budget ---- */

static void budget_row(struct csv_text *csv, const struct mpq_report *report)
{
    char binding[256];
    const double ratio = (double)report->quantized_bytes / (double)report->float_bytes;
    put_text(csv, report->output);
    put_count(csv, report->quantized_bytes);
    put_number(csv, ratio);
    put_number(csv, report->average_weight_bits);
    put_count(csv, report->bitops);
    put_text(csv, name_binding(report, binding, sizeof binding));
    put_number(csv, report->loss);
    put_number(csv, report->loss_error);
    put_count(csv, report->n_eval);
    put_text(csv, report->metric);
    const double rest[] = {report->metric_float, report->metric_quantized, report->drop,
                           report->drop_low,     report->drop_high,        report->agreement,
                           report->kl,           report->sqnr_db};
    for (size_t i = 0; i < MPQ_COUNT(rest); i++)
        put_number(csv, rest[i]);
    end_row(csv);
}

enum mpq_status mpq_report_budgets_csv(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const struct mpq_report *report, uint32_t n, char **out_text,
                                       size_t *out_bytes)
{
    static const char *const column[] = {
        "output",       "quantized_bytes", "share_of_float", "average_weight_bits",
        "bitops",       "binding_limits",  "decide_loss",    "decide_loss_error",
        "eval_samples", "metric",          "metric_float",   "metric_quantized",
        "drop",         "drop_low",        "drop_high",      "agreement",
        "kl",           "sqnr_db"};
    struct csv_text csv = {.ctx = ctx, .arena = arena};
    for (size_t i = 0; i < MPQ_COUNT(column); i++)
        put(&csv, column[i], false);
    end_row(&csv);
    for (uint32_t i = 0; i < n; i++)
        budget_row(&csv, &report[i]);
    return finish(&csv, out_text, out_bytes);
}

enum mpq_status mpq_report_write_budgets(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                         const struct mpq_report *report, uint32_t n,
                                         const char *path, bool overwrite)
{
    char *text;
    size_t bytes;
    MPQ_TRY(mpq_report_budgets_csv(ctx, arena, report, n, &text, &bytes));
    return mpq_file_write(ctx, arena, path, overwrite, text, bytes);
}

/* ---- files ---- */

char *mpq_report_summary_path(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path)
{
    size_t n = strlen(path);
    if (n > 4 && strcmp(path + n - 4, ".csv") == 0)
        n -= 4;
    return mpq_arena_printf(ctx, arena, "%.*s.summary.csv", (int)n, path);
}

struct file {
    struct mpq_file_out out;
    char *text;
    size_t bytes;
};

static enum mpq_status write_file(struct mpq_ctx *ctx, struct mpq_arena *scratch, void *arg,
                                  int64_t i)
{
    struct file *file = (struct file *)arg + i;
    (void)scratch;
    MPQ_TRY(mpq_file_out_write(ctx, &file->out, file->text, file->bytes));
    return mpq_file_out_flush(ctx, &file->out);
}

/* To the disk at the same time, as each waits for it; a file gets its name once those before it
 * have theirs. */
static enum mpq_status write_files(struct mpq_ctx *ctx, struct file *file, uint32_t n)
{
    MPQ_TRY(mpq_workers_run(ctx, n, write_file, file));
    for (uint32_t i = 0; i < n; i++)
        MPQ_TRY(mpq_file_out_commit(ctx, &file[i].out));
    return MPQ_OK;
}

enum mpq_status mpq_report_write(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const struct mpq_report *report, const char *path, bool overwrite)
{
    struct file file[2] = {{.out.fd = -1}, {.out.fd = -1}};
    const char *summary = mpq_report_summary_path(ctx, arena, path);
    if (!summary)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_report_layers_csv(ctx, arena, report, &file[0].text, &file[0].bytes));
    MPQ_TRY(mpq_report_summary_csv(ctx, arena, report, &file[1].text, &file[1].bytes));
    enum mpq_status status = mpq_file_out_open(ctx, arena, path, overwrite, &file[0].out);
    if (status == MPQ_OK)
        status = mpq_file_out_open(ctx, arena, summary, overwrite, &file[1].out);
    if (status == MPQ_OK)
        status = write_files(ctx, file, MPQ_COUNT(file));
    for (size_t i = 0; i < MPQ_COUNT(file); i++)
        mpq_file_out_discard(&file[i].out);
    return status;
}

#define TEXT(x)          #x
#define VERSION(a, b, c) TEXT(a) "." TEXT(b) "." TEXT(c)

const char *mpq_report_csv_library(void)
{
    return VERSION(CSV_MAJOR, CSV_MINOR, CSV_RELEASE);
}
