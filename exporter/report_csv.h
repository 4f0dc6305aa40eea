/* The report as CSV (quoting of RFC 4180 by libcsv, rows end in a line feed, '.' for the decimal
 * point, 9 significant digits; an empty field is a number that was not measured). Two files,
 * because one table a file is what spreadsheets and pandas.read_csv() take as it is:
 *
 *   PATH                       one row a layer
 *   PATH with .summary.csv     key,value: everything about the run as a whole
 *
 * in place of PATH's .csv. */
#ifndef MPQ_EXPORTER_REPORT_CSV_H
#define MPQ_EXPORTER_REPORT_CSV_H

#include "quantcore/quant/report.h"

/* "dir/a.csv" -> "dir/a.summary.csv"; NULL without memory. */
char *mpq_report_summary_path(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path);

/* The bytes of the two files, zero-terminated. */
enum mpq_status mpq_report_layers_csv(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      const struct mpq_report *report, char **out_text,
                                      size_t *out_bytes) MPQ_CHECKED;
enum mpq_status mpq_report_summary_csv(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const struct mpq_report *report, char **out_text,
                                       size_t *out_bytes) MPQ_CHECKED;

/* One row a report, totals alone: of many budgets from one tuning. */
enum mpq_status mpq_report_budgets_csv(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const struct mpq_report *report, uint32_t n, char **out_text,
                                       size_t *out_bytes) MPQ_CHECKED;
enum mpq_status mpq_report_write_budgets(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                         const struct mpq_report *report, uint32_t n,
                                         const char *path, bool overwrite) MPQ_CHECKED;

/* Write both, each complete or not at all, and the summary only beside the layers. */
enum mpq_status mpq_report_write(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const struct mpq_report *report, const char *path,
                                 bool overwrite) MPQ_CHECKED;

/* "3.0.3", of the libcsv that is built in. */
const char *mpq_report_csv_library(void);

#endif
