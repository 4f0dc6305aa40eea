/* Arrays of an .npz: each graph input reads the array of its name; one that has none reads the
 * pictures of `images`. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "calibration/array.h"
#include "calibration/labels.h"
#include "calibration/npz.h"
#include "calibration/source.h"

#define PICTURES "images"
#define NO_INPUT UINT32_MAX

struct state {
    struct mpq_rows *array; /* [n_input] as stored                        */
    uint32_t picture_input; /* the input that reads PICTURES, or NO_INPUT */
    struct mpq_picture_layout layout;
    struct mpq_preprocess preprocess;
    struct mpq_pixel_table table;
};

static bool npz_accepts(const struct mpq_source_request *request)
{
    return !request->is_folder && request->magic[0] == 'P' && request->magic[1] == 'K';
}

/* "'images' uint8 [4000,32,32,3], 'labels' int64 [4000]" */
static enum mpq_status describe(struct mpq_ctx *ctx, struct mpq_npz *npz, char *text, size_t bytes)
{
    size_t at = (size_t)snprintf(text, bytes, "%s", mpq_npz_count(npz) ? "" : "no arrays");
    for (uint32_t i = 0; i < mpq_npz_count(npz) && at < bytes; i++) {
        struct mpq_npy_header header;
        const char *name = mpq_npz_name(npz, i);
        MPQ_TRY(mpq_npz_header(ctx, npz, name, &header));
        at += (size_t)snprintf(text + at, bytes - at, "%s'%s' %s %s", i ? ", " : "", name,
                               mpq_dtype_name(header.dtype), MPQ_SHAPE_TEXT(&header.shape));
    }
    return MPQ_OK;
}

/* An input without an array: say what the file holds and what the model needs. */
static enum mpq_status fail_missing(struct mpq_ctx *ctx, const struct mpq_dataset *dataset,
                                    struct mpq_npz *npz, uint32_t input)
{
    char found[1024];
    struct mpq_picture_layout layout;
    const struct mpq_tensor *want = &dataset->input[input];
    MPQ_TRY(describe(ctx, npz, found, sizeof found));
    bool takes_pictures = mpq_picture_layout_find(&want->shape, &layout);
    return mpq_fail(
        ctx, MPQ_E_FORMAT, "%s: no array for input '%s', %s %s%s; found %s", dataset->path,
        dataset->input_name[input], mpq_dtype_name(want->dtype), MPQ_SHAPE_TEXT(&want->shape),
        takes_pictures ? " (an array of that name, or pictures as '" PICTURES "')" : "", found);
}

static enum mpq_status set_count(struct mpq_ctx *ctx, struct mpq_dataset *dataset,
                                 const char *where, uint32_t n_sample)
{
    if (dataset->n_sample && dataset->n_sample != n_sample)
        return mpq_fail(ctx, MPQ_E_SHAPE, "%s holds %u samples, array '%s' %u", where, n_sample,
                        dataset->input_name[0], dataset->n_sample);
    dataset->n_sample = n_sample;
    return MPQ_OK;
}

static enum mpq_status open_pictures(struct mpq_ctx *ctx, struct mpq_dataset *dataset,
                                     struct mpq_npz *npz, const struct mpq_preprocess *preprocess,
                                     const char *where, uint32_t input)
{
    struct state *state = dataset->state;
    struct mpq_npy_header header;
    MPQ_TRY(mpq_npz_header(ctx, npz, PICTURES, &header));
    const struct mpq_shape *shape = &header.shape;
    int64_t channels = shape->rank == 4 ? shape->dim[3] : 1;
    bool is_picture = (shape->rank == 3 || shape->rank == 4) && header.dtype == MPQ_UINT8 &&
                      (channels == 1 || channels == 3 || channels == 4);
    if (!is_picture || shape->dim[0] < 1 || shape->dim[0] >= UINT32_MAX || shape->dim[1] < 1 ||
        shape->dim[2] < 1)
        return mpq_fail(ctx, MPQ_E_SHAPE,
                        "%s is %s %s, pictures are uint8 [n,H,W,C] with C 1, 3 or 4; an array "
                        "called '%s' would be fed as it is",
                        where, mpq_dtype_name(header.dtype), MPQ_SHAPE_TEXT(shape),
                        dataset->input_name[input]);
    MPQ_TRY(mpq_preprocess_check(ctx, preprocess, &state->layout, true));
    MPQ_TRY(set_count(ctx, dataset, where, (uint32_t)shape->dim[0]));
    state->picture_input = dataset->picture_input = input;
    state->preprocess = *preprocess;
    mpq_pixel_table_fill(preprocess, &state->table);
    return mpq_npz_rows(ctx, dataset->arena, npz, PICTURES, &state->array[input]);
}

static enum mpq_status open_array(struct mpq_ctx *ctx, struct mpq_dataset *dataset,
                                  struct mpq_npz *npz, const char *where, uint32_t input)
{
    struct state *state = dataset->state;
    struct mpq_npy_header header;
    uint32_t n_sample;
    const char *name = dataset->input_name[input];
    MPQ_TRY(mpq_npz_header(ctx, npz, name, &header));
    struct mpq_tensor claimed = {header.dtype, header.shape, NULL};
    MPQ_TRY(mpq_array_match(ctx, where, &claimed, name, &dataset->input[input], &n_sample));
    MPQ_TRY(set_count(ctx, dataset, where, n_sample));
    MPQ_TRY(mpq_npz_rows(ctx, dataset->arena, npz, name, &state->array[input]));
    return mpq_array_check(ctx, where, &state->array[input], &dataset->input[input], n_sample);
}

static enum mpq_status open_input(struct mpq_ctx *ctx, struct mpq_dataset *dataset,
                                  struct mpq_npz *npz, const struct mpq_preprocess *preprocess,
                                  uint32_t input)
{
    struct state *state = dataset->state;
    bool by_name = mpq_npz_has(npz, dataset->input_name[input]);
    const char *where = mpq_arena_printf(ctx, dataset->arena, "%s: array '%s'", dataset->path,
                                         by_name ? dataset->input_name[input] : PICTURES);
    if (!where)
        return MPQ_E_NOMEM;
    if (by_name)
        return open_array(ctx, dataset, npz, where, input);
    if (state->picture_input == NO_INPUT && mpq_npz_has(npz, PICTURES) &&
        mpq_picture_layout_find(&dataset->input[input].shape, &state->layout))
        return open_pictures(ctx, dataset, npz, preprocess, where, input);
    return fail_missing(ctx, dataset, npz, input);
}

static enum mpq_status open_labels(struct mpq_ctx *ctx, struct mpq_dataset *dataset,
                                   struct mpq_npz *npz)
{
    struct mpq_tensor array;
    dataset->label_path =
        mpq_arena_printf(ctx, dataset->arena, "%s: array 'labels'", dataset->path);
    if (!dataset->label_path)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_npz_read(ctx, dataset->arena, npz, "labels", &array));
    return mpq_labels_from_array(ctx, dataset->arena, dataset->label_path, &array,
                                 dataset->n_sample, &dataset->label);
}

static enum mpq_status npz_open(struct mpq_ctx *ctx, const struct mpq_source_request *request,
                                struct mpq_dataset *dataset)
{
    struct mpq_npz *npz;
    struct state *state = mpq_arena_alloc(ctx, dataset->arena, 1, sizeof *state);
    if (!state)
        return MPQ_E_NOMEM;
    state->picture_input = NO_INPUT;
    state->array = mpq_arena_alloc(ctx, dataset->arena, dataset->n_input, sizeof *state->array);
    if (!state->array)
        return MPQ_E_NOMEM;
    dataset->state = state;
    MPQ_TRY(mpq_npz_open(ctx, dataset->arena, request->path, &npz));
    for (uint32_t i = 0; i < dataset->n_input; i++)
        MPQ_TRY(open_input(ctx, dataset, npz, request->preprocess, i));
    bool is_input = false;
    for (uint32_t i = 0; i < dataset->n_input; i++)
        is_input |= strcmp(dataset->input_name[i], "labels") == 0;
    if (request->want_labels && !is_input && mpq_npz_has(npz, "labels"))
        return open_labels(ctx, dataset, npz);
    return MPQ_OK;
}

static enum mpq_status npz_guess(struct mpq_ctx *ctx, const struct mpq_source_request *request,
                                 struct mpq_dataset *dataset)
{
    struct mpq_npz *npz;
    MPQ_TRY(mpq_npz_open(ctx, dataset->arena, request->path, &npz));
    for (uint32_t i = 0; i < dataset->n_input; i++) {
        struct mpq_npy_header header;
        bool by_name = mpq_npz_has(npz, dataset->input_name[i]);
        if (!by_name && !mpq_npz_has(npz, PICTURES))
            continue;
        const char *name = by_name ? dataset->input_name[i] : PICTURES;
        MPQ_TRY(mpq_npz_header(ctx, npz, name, &header));
        if (by_name)
            mpq_array_guess(&header.shape, &dataset->input[i].shape);
        else if (header.shape.rank >= 3)
            mpq_picture_guess(header.shape.dim[1], header.shape.dim[2], &dataset->input[i].shape);
    }
    return MPQ_OK;
}

static enum mpq_status read_picture(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                    const struct state *state, uint32_t sample,
                                    struct mpq_tensor *y)
{
    const struct mpq_rows *array = &state->array[state->picture_input];
    const struct mpq_shape *shape = &array->header.shape;
    const int64_t *dim = shape->dim;
    struct mpq_picture fitted, picture = {dim[1], dim[2], shape->rank == 4 ? dim[3] : 1, NULL};
    int64_t n = picture.height * picture.width * picture.channels;
    picture.pixel = mpq_arena_alloc(ctx, scratch, (size_t)n, 1);
    if (!picture.pixel)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_rows_read(ctx, array, sample * n, n, picture.pixel));
    MPQ_TRY(mpq_preprocess_fit(ctx, scratch, &state->preprocess, &state->layout, true, &picture,
                               &fitted));
    mpq_preprocess_write(&state->preprocess, &state->table, &state->layout, &fitted, y);
    return MPQ_OK;
}

static enum mpq_status npz_read(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                const struct mpq_dataset *dataset, uint32_t sample,
                                struct mpq_tensor *y)
{
    const struct state *state = dataset->state;
    for (uint32_t i = 0; i < dataset->n_input; i++)
        if (i == state->picture_input)
            MPQ_TRY(read_picture(ctx, scratch, state, sample, &y[i]));
        else
            MPQ_TRY(mpq_array_copy(ctx, scratch, &state->array[i], sample, &y[i]));
    return MPQ_OK;
}

const struct mpq_source mpq_source_npz = {
    .what = "an .npz file",
    .accepts = npz_accepts,
    .open = npz_open,
    .guess = npz_guess,
    .read = npz_read,
};
