#include "cli/summary.h"

#include <inttypes.h>
#include <math.h>

void mpq_summary_print_drop(FILE *file, double drop, double low, double high, const char *reference,
                            uint64_t n_sample)
{
    fprintf(file, "drop %.2f points (95 %% interval %.2f .. %.2f)", 100 * drop, 100 * low,
            100 * high);
    if (low <= 0 && high >= 0)
        fprintf(file, ", not distinguishable from %s on these %" PRIu64 " samples", reference,
                n_sample);
    fputc('\n', file);
}

static void print_quality(FILE *file, const struct mpq_report *report)
{
    if (report->metric) {
        fprintf(file, "%-12s  %12.2f %%  %12.2f %%\n", report->metric, 100 * report->metric_float,
                100 * report->metric_quantized);
        fprintf(file, "%-12s  ", "");
        mpq_summary_print_drop(file, report->drop, report->drop_low, report->drop_high, "float",
                               report->n_eval);
    }
    if (!isnan(report->max_drop))
        fprintf(file, "%-12s  within %.2f points with a confidence of %.1f %%\n", "",
                100 * report->max_drop, 100 * report->drop_confidence);
    if (!isnan(report->agreement))
        fprintf(file, "%-12s  %14s  %12.2f %%  same top-1 as float\n", "agreement", "",
                100 * report->agreement);
    if (!isnan(report->kl))
        fprintf(file, "%-12s  %14s  %14.4g  nats\n", "KL", "", report->kl);
    if (!isnan(report->sqnr_db))
        fprintf(file, "%-12s  %14s  %14.1f  dB\n", "SQNR", "", report->sqnr_db);
}

/* A price says little by itself; what a tenth less loss would cost is a price one can compare. */
static void print_limit(FILE *file, const struct mpq_report *report, uint32_t i)
{
    const struct mpq_report_limit *limit = &report->limit[i];
    fprintf(file, "%-12s  %s %.7g of %.7g %s", i ? "" : "limits", limit->name, limit->used,
            limit->budget, limit->unit);
    if (limit->price > 0) {
        double cost = 0.1 * report->loss / limit->price;
        fprintf(file, ", binds: the next 10 %% less loss costs about %.*g %s", cost < 1e3 ? 3 : 9,
                cost < 1e3 ? cost : round(cost), limit->unit);
    }
    fputc('\n', file);
}

/* What old processors make of it, where that is worth a word. */
static void print_saturation(FILE *file, const struct mpq_report *report)
{
    uint64_t n_layer = 0, n_channel = 0;
    for (uint32_t l = 0; l < report->n_layer; l++) {
        n_layer += report->layer[l].n_saturating > 0;
        n_channel += report->layer[l].n_saturating;
    }
    if (n_channel)
        fprintf(file,
                "%-12s  %14s  %14" PRIu64 "  channels can, in %" PRIu64
                " of %u layers, on x86 without VNNI; see --saturation-safe\n",
                "saturate", "", n_channel, n_layer, report->n_layer);
    else if (report->n_repaired)
        fprintf(file, "%-12s  %14s  %14d  after %" PRIu64 " channels were changed\n", "saturate",
                "", 0, report->n_repaired);
}

static void print_verified(FILE *file, const struct mpq_report *report)
{
    if (!report->n_verify)
        return;
    fprintf(file, "%-12s  ", "verified");
    if (isinf(report->verify_float_db))
        fputs("the file is the tuned network bit for bit; ", file);
    else
        fprintf(file, "the file is %.0f dB from the tuned network; ", report->verify_float_db);
    if (isinf(report->verify_db))
        fprintf(file, "so on integers, on %" PRIu64 " inputs\n", report->n_verify);
    else
        fprintf(file, "%.1f dB on integers, by rounding ties, on %" PRIu64 " inputs\n",
                report->verify_db, report->n_verify);
}

void mpq_summary_print(FILE *file, const struct mpq_report *report)
{
    double seconds = 0;
    fprintf(file, "%-12s  %14s  %14s\n", "", "float", "quantized");
    if (report->n_eval)
        print_quality(file, report);
    fprintf(file, "%-12s  %14" PRIu64 "  %14" PRIu64 "  %.2f %% of float\n", "file bytes",
            report->float_bytes, report->quantized_bytes,
            100 * (double)report->quantized_bytes / (double)report->float_bytes);
    fprintf(file, "%-12s  %14d  %14.2f\n", "weight bits", 32, report->average_weight_bits);
    for (uint32_t i = 0; i < report->n_limit; i++)
        print_limit(file, report, i);
    if (report->n_left_float)
        fprintf(file,
                "%-12s  %14s  %14" PRIu32 "  layers, %.1f %% of the multiplications, whose "
                "activations would lose most; see --float-macs\n",
                "left float", "", report->n_left_float, 100 * report->left_float_macs);
    print_saturation(file, report);
    print_verified(file, report);
    if (report->carried)
        fprintf(file, "%-12s  %" PRIu32 " node%s not run, as before: %s\n", "carried",
                report->n_carried, report->n_carried == 1 ? "" : "s", report->carried);
    if (report->checkpoint)
        fprintf(file, "%-12s  from %s, neither calibrated nor tuned again\n", "resumed",
                report->checkpoint);
    fprintf(file, "%-12s", "seconds");
    for (uint32_t i = 0; i < report->n_stage; i++) {
        fprintf(file, "  %s %.1f", report->stage[i].name, report->stage[i].seconds);
        seconds += report->stage[i].seconds;
    }
    fprintf(file, "  total %.1f\n%-12s  %s\n", seconds, "written", report->output);
}

void mpq_summary_print_budget(FILE *file, const struct mpq_report *report, bool is_first)
{
    char top1[16] = "-", agreement[16] = "-", drop[48] = "-";
    if (is_first)
        fprintf(file, "%9s %9s %6s %8s %9s  %-26s  %s\n", "bytes", "of float", "bits", "top1",
                "agreement", "drop (95 % interval)", "file");
    if (report->metric) {
        snprintf(top1, sizeof top1, "%.2f %%", 100 * report->metric_quantized);
        snprintf(drop, sizeof drop, "%.2f (%.2f .. %.2f)%s", 100 * report->drop,
                 100 * report->drop_low, 100 * report->drop_high,
                 report->drop_low <= 0 && report->drop_high >= 0 ? " ~" : "");
    }
    if (!isnan(report->agreement))
        snprintf(agreement, sizeof agreement, "%.2f %%", 100 * report->agreement);
    fprintf(file, "%9" PRIu64 " %7.2f %% %6.2f %8s %9s  %-26s  %s\n", report->quantized_bytes,
            100 * (double)report->quantized_bytes / (double)report->float_bytes,
            report->average_weight_bits, top1, agreement, drop, report->output);
}

void mpq_summary_print_budget_note(FILE *file, const struct mpq_report *report, uint32_t n)
{
    bool has_mark = false;
    for (uint32_t i = 0; i < n; i++)
        has_mark |= report[i].metric && report[i].drop_low <= 0 && report[i].drop_high >= 0;
    if (has_mark)
        fprintf(file, "~ not distinguishable from float on these %" PRIu64 " samples\n",
                report->n_eval);
}
