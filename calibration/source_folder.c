/* A folder of JPEG and PNG pictures, in the order of their names. Pictures are decoded when first
 * wanted and kept, cropped, as bytes in a file without a name; those beyond CACHE_BYTES are decoded
 * every time. */
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "calibration/labels.h"
#include "calibration/source.h"
#include "quantcore/base/fileio.h"
#include "quantcore/base/thread.h"
#include "quantcore/base/workers.h"

#define CACHE_BYTES   ((size_t)512 << 20)
#define MOST_A_THREAD 32 /* pictures decoded between two steps */

enum slot { SLOT_EMPTY, SLOT_WANTED, SLOT_READY };

struct state {
    struct mpq_picture_layout layout;
    struct mpq_preprocess preprocess;
    struct mpq_pixel_table table;
    const char **file; /* [n_sample] paths                                    */
    size_t picture_bytes;
    uint32_t n_cached;     /* samples 0 .. n_cached-1 have a place in the cache */
    struct mpq_file cache; /* [n_cached, H, W, C]                             */
    unsigned char *slot;   /* [n_cached] enum slot                              */
    uint32_t *wanted;      /* [n_cached] room for prepare                       */
};

static bool folder_accepts(const struct mpq_source_request *request)
{
    return request->is_folder;
}

static enum mpq_status folder_guess(struct mpq_ctx *ctx, const struct mpq_source_request *request,
                                    struct mpq_dataset *dataset)
{
    int crop = request->preprocess->crop;
    (void)ctx;
    for (uint32_t i = 0; crop && i < dataset->n_input; i++)
        mpq_picture_guess(crop, crop, &dataset->input[i].shape);
    return MPQ_OK;
}

static bool is_picture_name(const char *name)
{
    const char *dot = strrchr(name, '.');
    return name[0] != '.' && dot &&
           (strcasecmp(dot, ".jpg") == 0 || strcasecmp(dot, ".jpeg") == 0 ||
            strcasecmp(dot, ".png") == 0);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Names of the pictures, sorted. */
static enum mpq_status list_pictures(struct mpq_ctx *ctx, struct mpq_arena *arena, DIR *folder,
                                     const char ***out_name, uint32_t *out_n)
{
    const char **name = NULL;
    uint32_t n = 0, capacity = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (!is_picture_name(entry->d_name))
            continue;
        if (n == capacity) {
            capacity = capacity * 2 + 64;
            name = mpq_arena_grow(ctx, arena, name, n, capacity, sizeof *name);
            if (!name)
                return MPQ_E_NOMEM;
        }
        name[n] = mpq_arena_strdup(ctx, arena, entry->d_name);
        if (!name[n++])
            return MPQ_E_NOMEM;
    }
    if (n)
        qsort(name, n, sizeof *name, compare_names);
    *out_name = name;
    *out_n = n;
    return MPQ_OK;
}

static enum mpq_status list_folder(struct mpq_ctx *ctx, const char *path,
                                   struct mpq_dataset *dataset, struct state *state)
{
    const char **name;
    uint32_t n;
    DIR *folder = opendir(path);
    if (!folder)
        return mpq_fail(ctx, MPQ_E_IO, "%s: cannot be read: %s", path, strerror(errno));
    enum mpq_status status = list_pictures(ctx, dataset->arena, folder, &name, &n);
    closedir(folder);
    MPQ_TRY(status);
    if (n == 0)
        return mpq_fail(ctx, MPQ_E_FORMAT, "%s: this folder holds no JPEG or PNG pictures", path);
    state->file = mpq_arena_alloc(ctx, dataset->arena, n, sizeof *state->file);
    if (!state->file)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < n; i++) {
        state->file[i] = mpq_arena_printf(ctx, dataset->arena, "%s/%s", path, name[i]);
        if (!state->file[i])
            return MPQ_E_NOMEM;
    }
    dataset->sample_name = name;
    dataset->n_sample = n;
    return MPQ_OK;
}

static enum mpq_status make_cache(struct mpq_ctx *ctx, struct mpq_dataset *dataset,
                                  struct state *state)
{
    const struct mpq_picture_layout *layout = &state->layout;
    state->picture_bytes = (size_t)(layout->height * layout->width * layout->channels);
    size_t n = CACHE_BYTES / state->picture_bytes;
    state->n_cached = n < dataset->n_sample ? (uint32_t)n : dataset->n_sample;
    MPQ_TRY(mpq_file_open_scratch(ctx, dataset->arena, &state->cache));
    state->slot = mpq_arena_alloc(ctx, dataset->arena, state->n_cached, sizeof *state->slot);
    state->wanted = mpq_arena_alloc(ctx, dataset->arena, state->n_cached, sizeof *state->wanted);
    return state->slot && state->wanted ? MPQ_OK : MPQ_E_NOMEM;
}

static enum mpq_status open_labels(struct mpq_ctx *ctx, const char *path,
                                   struct mpq_dataset *dataset)
{
    const char *file = mpq_arena_printf(ctx, dataset->arena, "%s/labels.csv", path);
    if (!file)
        return MPQ_E_NOMEM;
    if (!mpq_file_exists(file))
        return MPQ_OK;
    dataset->label_path = file;
    return mpq_labels_read(ctx, dataset->arena, file, dataset->sample_name, dataset->n_sample,
                           &dataset->label);
}

static enum mpq_status folder_open(struct mpq_ctx *ctx, const struct mpq_source_request *request,
                                   struct mpq_dataset *dataset)
{
    struct state *state = mpq_arena_alloc(ctx, dataset->arena, 1, sizeof *state);
    if (!state)
        return MPQ_E_NOMEM;
    dataset->state = state;
    if (dataset->n_input != 1)
        return mpq_fail(ctx, MPQ_E_SHAPE,
                        "%s: the model has %u inputs, pictures can feed only one; an .npz file can "
                        "feed all",
                        request->path, dataset->n_input);
    if (!mpq_picture_layout_find(&dataset->input[0].shape, &state->layout))
        return mpq_fail(ctx, MPQ_E_SHAPE,
                        "%s: input '%s', shape %s, takes no pictures: they need [1,C,H,W] or "
                        "[1,H,W,C] with C 1, 3 or 4",
                        request->path, dataset->input_name[0],
                        MPQ_SHAPE_TEXT(&dataset->input[0].shape));
    dataset->picture_input = 0;
    state->preprocess = *request->preprocess;
    mpq_pixel_table_fill(&state->preprocess, &state->table);
    MPQ_TRY(mpq_preprocess_check(ctx, &state->preprocess, &state->layout, false));
    MPQ_TRY(list_folder(ctx, request->path, dataset, state));
    MPQ_TRY(make_cache(ctx, dataset, state));
    return request->want_labels ? open_labels(ctx, request->path, dataset) : MPQ_OK;
}

static enum mpq_status decode(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                              const struct state *state, uint32_t sample, struct mpq_picture *out)
{
    struct mpq_picture picture;
    MPQ_TRY(mpq_picture_read(ctx, scratch, state->file[sample], &picture));
    enum mpq_status status =
        mpq_preprocess_fit(ctx, scratch, &state->preprocess, &state->layout, false, &picture, out);
    if (status != MPQ_OK)
        mpq_fail_prefix(ctx, state->file[sample]);
    return status;
}

/* Pictures wanted[0..n) of the state's. */
struct decoding {
    const struct state *state;
    const uint32_t *wanted;
};

static enum mpq_status decode_wanted(struct mpq_ctx *ctx, struct mpq_arena *scratch, void *arg,
                                     int64_t i)
{
    const struct decoding *decoding = arg;
    const struct state *state = decoding->state;
    uint32_t sample = decoding->wanted[i];
    struct mpq_picture fitted;
    MPQ_TRY(decode(ctx, scratch, state, sample, &fitted));
    return mpq_file_write_at(ctx, &state->cache, sample * state->picture_bytes, fitted.pixel,
                             state->picture_bytes);
}

/* A few at a time, between which the listener is told. */
static enum mpq_status decode_all(struct mpq_ctx *ctx, const struct state *state, uint32_t n_wanted)
{
    uint32_t most = MOST_A_THREAD * (uint32_t)mpq_thread_count();
    for (uint32_t first = 0, n; first < n_wanted; first += n) {
        n = n_wanted - first < most ? n_wanted - first : most;
        if (n < n_wanted)
            MPQ_TRY(mpq_step(ctx, "read pictures", first, n_wanted, (double)NAN));
        MPQ_TRY(mpq_workers_run(ctx, n, decode_wanted,
                                &(struct decoding){state, state->wanted + first}));
    }
    return MPQ_OK;
}

/* Fill the cache before the batch is read, so that a sample that occurs twice in a batch is written
 * by one thread only. */
static enum mpq_status folder_prepare(struct mpq_ctx *ctx, struct mpq_dataset *dataset,
                                      const uint32_t *index, uint32_t n)
{
    struct state *state = dataset->state;
    uint32_t n_wanted = 0;
    for (uint32_t i = 0; i < n; i++)
        if (index[i] < state->n_cached && state->slot[index[i]] == SLOT_EMPTY) {
            state->slot[index[i]] = SLOT_WANTED;
            state->wanted[n_wanted++] = index[i];
        }
    if (!n_wanted)
        return MPQ_OK;
    enum mpq_status status = decode_all(ctx, state, n_wanted);
    for (uint32_t i = 0; i < n_wanted; i++)
        state->slot[state->wanted[i]] = status == MPQ_OK ? SLOT_READY : SLOT_EMPTY;
    return status;
}

static enum mpq_status folder_read(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                   const struct mpq_dataset *dataset, uint32_t sample,
                                   struct mpq_tensor *y)
{
    const struct state *state = dataset->state;
    const struct mpq_picture_layout *layout = &state->layout;
    struct mpq_picture fitted = {layout->height, layout->width, layout->channels, NULL};
    if (sample < state->n_cached) {
        fitted.pixel = mpq_arena_alloc(ctx, scratch, state->picture_bytes, 1);
        if (!fitted.pixel)
            return MPQ_E_NOMEM;
        MPQ_TRY(mpq_file_read_at(ctx, &state->cache, sample * state->picture_bytes, fitted.pixel,
                                 state->picture_bytes));
    } else
        MPQ_TRY(decode(ctx, scratch, state, sample, &fitted));
    mpq_preprocess_write(&state->preprocess, &state->table, layout, &fitted, &y[0]);
    return MPQ_OK;
}

const struct mpq_source mpq_source_folder = {
    .what = "a folder of pictures",
    .accepts = folder_accepts,
    .open = folder_open,
    .guess = folder_guess,
    .prepare = folder_prepare,
    .read = folder_read,
};
