/* An .npy file: the samples of the only graph input. */
#include <stdio.h>
#include <string.h>

#include "calibration/array.h"
#include "calibration/source.h"

static bool npy_accepts(const struct mpq_source_request *request)
{
    return !request->is_folder && memcmp(request->magic, "\x93NUMPY", 6) == 0;
}

static enum mpq_status npy_open(struct mpq_ctx *ctx, const struct mpq_source_request *request,
                                struct mpq_dataset *dataset)
{
    if (dataset->n_input != 1)
        return mpq_fail(ctx, MPQ_E_FORMAT,
                        "%s: the model has %u inputs; an .npy file can feed only one, an .npz file "
                        "all of them",
                        request->path, dataset->n_input);
    struct mpq_rows *array = mpq_arena_alloc(ctx, dataset->arena, 1, sizeof *array);
    if (!array)
        return MPQ_E_NOMEM;
    dataset->state = array;
    MPQ_TRY(mpq_rows_open(ctx, dataset->arena, request->path, array));
    struct mpq_tensor claimed = {array->header.dtype, array->header.shape, NULL};
    MPQ_TRY(mpq_array_match(ctx, request->path, &claimed, dataset->input_name[0],
                            &dataset->input[0], &dataset->n_sample));
    return mpq_array_check(ctx, request->path, array, &dataset->input[0], dataset->n_sample);
}

static enum mpq_status npy_guess(struct mpq_ctx *ctx, const struct mpq_source_request *request,
                                 struct mpq_dataset *dataset)
{
    struct mpq_npy_header header;
    uint8_t *bytes = mpq_arena_alloc(ctx, dataset->arena, MPQ_NPY_HEADER_BYTES, 1);
    FILE *file = bytes ? fopen(request->path, "rb") : NULL;
    size_t n = file ? fread(bytes, 1, MPQ_NPY_HEADER_BYTES, file) : 0;
    if (file)
        fclose(file);
    if (!bytes)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_npy_parse_header(ctx, request->path, bytes, n, &header));
    mpq_array_guess(&header.shape, &dataset->input[0].shape);
    return MPQ_OK;
}

static enum mpq_status npy_read(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                const struct mpq_dataset *dataset, uint32_t sample,
                                struct mpq_tensor *y)
{
    return mpq_array_copy(ctx, scratch, dataset->state, sample, &y[0]);
}

const struct mpq_source mpq_source_npy = {
    .what = "an .npy file",
    .accepts = npy_accepts,
    .open = npy_open,
    .guess = npy_guess,
    .read = npy_read,
};
