/* The only reader that knows libcsv. */
#include "calibration/csv.h"

#include <string.h>

#include <csv.h>

#include "quantcore/base/fileio.h"

#define LIMIT_BYTES ((size_t)256 << 20)

/* libcsv tells of fields and rows by callbacks, which cannot return an error: after a failure they
 * do nothing. */
struct reader {
    struct mpq_ctx *ctx;
    struct mpq_arena *arena;
    struct mpq_csv csv;
    uint32_t field_capacity, row_capacity;
    enum mpq_status status;
};

static void on_field(void *text, size_t n, void *arg)
{
    struct reader *reader = arg;
    struct mpq_csv *csv = &reader->csv;
    if (reader->status != MPQ_OK)
        return;
    if (csv->n_field == reader->field_capacity) {
        uint32_t capacity = reader->field_capacity * 2 + 64;
        csv->field = mpq_arena_grow(reader->ctx, reader->arena, csv->field, csv->n_field, capacity,
                                    sizeof *csv->field);
        reader->field_capacity = capacity;
    }
    char *copy = mpq_arena_alloc(reader->ctx, reader->arena, n + 1, 1);
    if (!csv->field || !copy) {
        reader->status = MPQ_E_NOMEM;
        return;
    }
    if (n)
        memcpy(copy, text, n);
    csv->field[csv->n_field++] = copy;
}

/* Forget the fields of a row that says nothing. */
static bool drop_blank(struct mpq_csv *csv)
{
    uint32_t begin = csv->row_begin[csv->n_row];
    for (uint32_t i = begin; i < csv->n_field; i++)
        if (*csv->field[i])
            return false;
    csv->n_field = begin;
    return true;
}

static void on_row(int terminator, void *arg)
{
    struct reader *reader = arg;
    struct mpq_csv *csv = &reader->csv;
    (void)terminator;
    if (reader->status != MPQ_OK)
        return;
    if (csv->n_row + 1 >= reader->row_capacity) {
        uint32_t capacity = reader->row_capacity * 2 + 64;
        csv->row_begin = mpq_arena_grow(reader->ctx, reader->arena, csv->row_begin,
                                        reader->row_capacity, capacity, sizeof *csv->row_begin);
        reader->row_capacity = capacity;
    }
    if (!csv->row_begin) {
        reader->status = MPQ_E_NOMEM;
        return;
    }
    if (!drop_blank(csv))
        csv->row_begin[++csv->n_row] = csv->n_field;
}

enum mpq_status mpq_csv_read(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                             struct mpq_csv *out)
{
    uint8_t *bytes;
    size_t n;
    struct csv_parser parser;
    struct reader reader = {.ctx = ctx, .arena = arena};
    MPQ_TRY(mpq_file_read(ctx, arena, path, LIMIT_BYTES, &bytes, &n));
    size_t mark = n >= 3 && memcmp(bytes, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    if (csv_init(&parser, CSV_STRICT | CSV_STRICT_FINI) != 0)
        return mpq_fail(ctx, MPQ_E_NOMEM, "out of memory");
    bool parsed =
        csv_parse(&parser, bytes + mark, n - mark, on_field, on_row, &reader) == n - mark &&
        csv_fini(&parser, on_field, on_row, &reader) == 0;
    bool no_memory = csv_error(&parser) == CSV_ENOMEM;
    csv_free(&parser);
    MPQ_TRY(reader.status);
    if (no_memory)
        return mpq_fail(ctx, MPQ_E_NOMEM, "out of memory");
    if (!parsed)
        return mpq_fail(ctx, MPQ_E_FORMAT, "%s: a quote is out of place after row %u", path,
                        reader.csv.n_row);
    *out = reader.csv;
    return MPQ_OK;
}

uint32_t mpq_csv_columns(const struct mpq_csv *csv, uint32_t row)
{
    return csv->row_begin[row + 1] - csv->row_begin[row];
}

const char *mpq_csv_field(const struct mpq_csv *csv, uint32_t row, uint32_t column)
{
    return column < mpq_csv_columns(csv, row) ? csv->field[csv->row_begin[row] + column] : NULL;
}

bool mpq_csv_find_column(const struct mpq_csv *csv, const char *name, uint32_t *out)
{
    for (uint32_t c = 0; csv->n_row && c < mpq_csv_columns(csv, 0); c++)
        if (strcmp(mpq_csv_field(csv, 0, c), name) == 0) {
            *out = c;
            return true;
        }
    return false;
}

enum mpq_status mpq_csv_column(struct mpq_ctx *ctx, const char *path, const struct mpq_csv *csv,
                               const char *name, uint32_t *out)
{
    if (mpq_csv_find_column(csv, name, out))
        return MPQ_OK;
    return mpq_fail(ctx, MPQ_E_FORMAT, "%s: the header has no column '%s' (commas part columns)",
                    path, name);
}
