/* The short tables that people read. */
#ifndef MPQ_CLI_SUMMARY_H
#define MPQ_CLI_SUMMARY_H

#include <stdio.h>

#include "quantcore/quant/report.h"

/* What convert prints at the end. */
void mpq_summary_print(FILE *file, const struct mpq_report *report);

/* A row of what search prints: a budget; the first with a header above. */
void mpq_summary_print_budget(FILE *file, const struct mpq_report *report, bool is_first);
/* What the mark in these rows means, where there is one. */
void mpq_summary_print_budget_note(FILE *file, const struct mpq_report *report, uint32_t n);

/* "drop 0.20 points (95 % interval -0.31 .. 0.71), not distinguishable from float on these 1000
 * samples": the last part where the interval contains 0. Arguments are shares of 1. */
void mpq_summary_print_drop(FILE *file, double drop, double low, double high, const char *reference,
                            uint64_t n_sample);

#endif
