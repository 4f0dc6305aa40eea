#include "calibration/rows.h"

#include <string.h>

bool mpq_rows_stay_on_disk(const struct mpq_npy_header *header)
{
    const size_t small = (size_t)1 << 18;
    bool is_fortran = header->fortran_order && header->shape.rank > 1;
    return !is_fortran && (size_t)header->count * mpq_dtype_bytes(header->dtype) > small;
}

struct mpq_rows mpq_rows_of(const struct mpq_tensor *tensor)
{
    return (struct mpq_rows){.header = {.dtype = tensor->dtype,
                                        .shape = tensor->shape,
                                        .count = mpq_shape_count(&tensor->shape)},
                             .data = tensor->data};
}

enum mpq_status mpq_rows_open(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                              struct mpq_rows *out)
{
    struct mpq_rows rows = {0};
    struct mpq_tensor tensor;
    size_t n_bytes;
    MPQ_TRY(mpq_file_open(ctx, arena, path, &rows.file, &n_bytes));
    size_t n_head = n_bytes < MPQ_NPY_HEADER_BYTES ? n_bytes : MPQ_NPY_HEADER_BYTES;
    uint8_t *head = mpq_arena_alloc(ctx, arena, n_head, 1);
    if (!head)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_file_read_at(ctx, &rows.file, 0, head, n_head));
    MPQ_TRY(mpq_npy_parse_header(ctx, path, head, n_head, &rows.header));
    if (!mpq_rows_stay_on_disk(&rows.header)) {
        MPQ_TRY(mpq_npy_read(ctx, arena, path, &tensor));
        *out = mpq_rows_of(&tensor);
        return MPQ_OK;
    }
    *out = rows;
    return mpq_npy_check_bytes(ctx, path, &rows.header, n_bytes);
}

enum mpq_status mpq_rows_read(struct mpq_ctx *ctx, const struct mpq_rows *rows, int64_t first,
                              int64_t count, void *out)
{
    size_t width = mpq_dtype_bytes(rows->header.dtype), bytes = (size_t)count * width;
    MPQ_ASSERT(first >= 0 && count >= 0 && first <= rows->header.count - count);
    if (rows->data) {
        if (bytes)
            memcpy(out, (const uint8_t *)rows->data + (size_t)first * width, bytes);
        return MPQ_OK;
    }
    MPQ_TRY(mpq_file_read_at(ctx, &rows->file, rows->header.data_offset + (size_t)first * width,
                             out, bytes));
    mpq_npy_order(&rows->header, out, count);
    return MPQ_OK;
}
