#include "calibration/labels.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calibration/csv.h"
#include "calibration/npy.h"
#include "quantcore/base/strmap.h"

enum mpq_status mpq_labels_from_array(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      const char *where, const struct mpq_tensor *array,
                                      uint32_t n_sample, const int64_t **out_label)
{
    const struct mpq_shape *shape = &array->shape;
    bool is_list = shape->rank == 1 || (shape->rank == 2 && shape->dim[1] == 1);
    if (!is_list || shape->dim[0] != n_sample)
        return mpq_fail(ctx, MPQ_E_FORMAT,
                        "%s has shape %s, expected one label for each of the %u "
                        "samples",
                        where, MPQ_SHAPE_TEXT(shape), n_sample);
    int64_t *label = mpq_arena_alloc(ctx, arena, n_sample, sizeof *label);
    if (!label)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < n_sample; i++) {
        double value = mpq_tensor_double(array, i);
        if (!(fabs(value) < 0x1p53) || value != floor(value))
            return mpq_fail(ctx, MPQ_E_FORMAT, "%s: label %g of sample %u is no whole number",
                            where, value, i);
        label[i] = (int64_t)value;
    }
    *out_label = label;
    return MPQ_OK;
}

static bool parse_label(const char *text, int64_t *out)
{
    char *end;
    errno = 0;
    long long value = text ? strtoll(text, &end, 10) : 0;
    if (!text || end == text || *end || errno)
        return false;
    *out = value;
    return true;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The label column is the second, or the only one. */
static const char *label_field(const struct mpq_csv *csv, uint32_t row)
{
    return mpq_csv_field(csv, row, mpq_csv_columns(csv, row) > 1);
}

static enum mpq_status fail_row(struct mpq_ctx *ctx, const char *path, const struct mpq_csv *csv,
                                uint32_t row)
{
    const char *text = label_field(csv, row);
    return mpq_fail(ctx, MPQ_E_FORMAT, "%s: row %u has the label '%s', which is no whole number",
                    path, row + 1, text ? text : "");
}

static enum mpq_status labels_in_order(struct mpq_ctx *ctx, const char *path,
                                       const struct mpq_csv *csv, uint32_t first_row,
                                       uint32_t n_sample, int64_t *label)
{
    uint32_t n_row = csv->n_row - first_row;
    int64_t value;
    for (uint32_t i = 0; i < n_row; i++) {
        if (!parse_label(label_field(csv, first_row + i), &value))
            return fail_row(ctx, path, csv, first_row + i);
        if (i < n_sample)
            label[i] = value;
    }
    if (n_row != n_sample)
        return mpq_fail(ctx, MPQ_E_FORMAT, "%s: has %u labels for %u samples", path, n_row,
                        n_sample);
    return MPQ_OK;
}

static enum mpq_status labels_by_name(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      const char *path, const struct mpq_csv *csv,
                                      uint32_t first_row, const char *const *sample_name,
                                      uint32_t n_sample, int64_t *label)
{
    struct mpq_strmap row_of = {0};
    for (uint32_t row = first_row; row < csv->n_row; row++) {
        const char *name = base_name(mpq_csv_field(csv, row, 0));
        uint32_t found;
        int64_t value;
        if (!parse_label(label_field(csv, row), &value))
            return fail_row(ctx, path, csv, row);
        MPQ_TRY(mpq_strmap_add(ctx, arena, &row_of, name, row, &found));
        if (found != row)
            return mpq_fail(ctx, MPQ_E_FORMAT, "%s: rows %u and %u are both about '%s'", path,
                            found + 1, row + 1, name);
    }
    for (uint32_t i = 0; i < n_sample; i++) {
        uint32_t row = mpq_strmap_get(&row_of, sample_name[i]);
        if (row == MPQ_STRMAP_NONE)
            return mpq_fail(ctx, MPQ_E_FORMAT, "%s: has no label for '%s'", path, sample_name[i]);
        if (!parse_label(label_field(csv, row), &label[i]))
            return fail_row(ctx, path, csv, row);
    }
    return MPQ_OK;
}

static enum mpq_status read_csv(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                                const char *const *sample_name, uint32_t n_sample,
                                const int64_t **out_label)
{
    struct mpq_csv csv;
    int64_t ignored;
    MPQ_TRY(mpq_csv_read(ctx, arena, path, &csv));
    if (csv.n_row == 0)
        return mpq_fail(ctx, MPQ_E_FORMAT, "%s: holds no labels", path);
    uint32_t first_row = parse_label(label_field(&csv, 0), &ignored) ? 0 : 1;
    bool by_name = mpq_csv_columns(&csv, 0) > 1;
    if (by_name && !sample_name)
        return mpq_fail(ctx, MPQ_E_FORMAT,
                        "%s: names files, but the samples have no names; one "
                        "label a row is expected",
                        path);
    int64_t *label = mpq_arena_alloc(ctx, arena, n_sample, sizeof *label);
    if (!label)
        return MPQ_E_NOMEM;
    if (by_name)
        MPQ_TRY(labels_by_name(ctx, arena, path, &csv, first_row, sample_name, n_sample, label));
    else
        MPQ_TRY(labels_in_order(ctx, path, &csv, first_row, n_sample, label));
    *out_label = label;
    return MPQ_OK;
}

enum mpq_status mpq_labels_read(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                                const char *const *sample_name, uint32_t n_sample,
                                const int64_t **out_label)
{
    size_t length = strlen(path);
    const char *suffix = path + (length < 4 ? length : length - 4);
    struct mpq_tensor array;
    if (strcmp(suffix, ".npz") == 0)
        return mpq_fail(ctx, MPQ_E_FORMAT,
                        "%s: labels are read from .csv or .npy, or from 'labels' in the .npz file "
                        "of the samples",
                        path);
    if (strcmp(suffix, ".npy") != 0)
        return read_csv(ctx, arena, path, sample_name, n_sample, out_label);
    MPQ_TRY(mpq_npy_read(ctx, arena, path, &array));
    return mpq_labels_from_array(ctx, arena, path, &array, n_sample, out_label);
}

enum mpq_status mpq_labels_check(struct mpq_ctx *ctx, const char *where, const int64_t *label,
                                 const char *const *sample_name, uint32_t n_sample, int64_t n_class)
{
    for (uint32_t i = 0; i < n_sample; i++)
        if (label[i] < 0 || label[i] >= n_class) {
            const char *name = sample_name ? sample_name[i] : "";
            return mpq_fail(ctx, MPQ_E_FORMAT,
                            "%s: sample %u%s%s%s has label %" PRId64 ", the model has %" PRId64
                            " classes",
                            where, i, *name ? " (" : "", name, *name ? ")" : "", label[i], n_class);
        }
    return MPQ_OK;
}
