/* A CSV file as a table of strings (RFC 4180; a byte order mark is skipped; blank lines, and those
 * of empty fields that a spreadsheet leaves behind the last row, are not rows). */
#ifndef MPQ_CALIBRATION_CSV_H
#define MPQ_CALIBRATION_CSV_H

#include "quantcore/base/arena.h"

struct mpq_csv {
    const char **field;  /* of all rows, one after the other                        */
    uint32_t *row_begin; /* [n_row + 1] row r is field[row_begin[r] .. row_begin[r+1]) */
    uint32_t n_row, n_field;
};

/* IO, LIMIT (256 MiB), FORMAT for quotes out of place; sentences begin with the path. */
enum mpq_status mpq_csv_read(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                             struct mpq_csv *out) MPQ_CHECKED;

uint32_t mpq_csv_columns(const struct mpq_csv *csv, uint32_t row);
const char *mpq_csv_field(const struct mpq_csv *csv, uint32_t row, uint32_t column); /* or NULL */

/* The first column that the first row calls `name`; false where there is none. */
bool mpq_csv_find_column(const struct mpq_csv *csv, const char *name, uint32_t *out);

/* The same of a column that must be there: FORMAT where it is not. */
enum mpq_status mpq_csv_column(struct mpq_ctx *ctx, const char *path, const struct mpq_csv *csv,
                               const char *name, uint32_t *out) MPQ_CHECKED;

#endif
