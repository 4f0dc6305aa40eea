#include "calibration/dataset.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "calibration/labels.h"
#include "calibration/source.h"
#include "quantcore/base/workers.h"

#define MPQ_SOURCE(symbol) extern const struct mpq_source mpq_source_##symbol;
#include "calibration/source_list.inc"
#undef MPQ_SOURCE

static const struct mpq_source *const registry[] = {
#define MPQ_SOURCE(symbol) &mpq_source_##symbol,
#include "calibration/source_list.inc"
#undef MPQ_SOURCE
};

static enum mpq_status create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                              const struct mpq_graph *graph, const struct mpq_shape *shape,
                              struct mpq_dataset **out)
{
    struct mpq_dataset *dataset = mpq_arena_alloc(ctx, arena, 1, sizeof *dataset);
    if (!dataset)
        return MPQ_E_NOMEM;
    *dataset = (struct mpq_dataset){
        .arena = arena, .n_input = graph->n_input, .picture_input = UINT32_MAX};
    dataset->input_name = mpq_arena_alloc(ctx, arena, graph->n_input, sizeof *dataset->input_name);
    dataset->input = mpq_arena_alloc(ctx, arena, graph->n_input, sizeof *dataset->input);
    if (!dataset->input_name || !dataset->input)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < graph->n_input; i++) {
        const struct mpq_value *value = &graph->value[graph->input[i]];
        dataset->input_name[i] = value->name;
        dataset->input[i] = (struct mpq_tensor){value->dtype, shape[i], NULL};
    }
    *out = dataset;
    return MPQ_OK;
}

static enum mpq_status check_inputs(struct mpq_ctx *ctx, const struct mpq_dataset *dataset)
{
    for (uint32_t i = 0; i < dataset->n_input; i++) {
        const struct mpq_tensor *input = &dataset->input[i];
        enum mpq_dtype dtype = input->dtype;
        int64_t count;
        bool is_number = dtype == MPQ_FLOAT || dtype == MPQ_FLOAT16 || dtype == MPQ_BFLOAT16 ||
                         dtype == MPQ_DOUBLE || dtype == MPQ_BOOL || mpq_dtype_is_integer(dtype);
        if (!is_number)
            return mpq_fail(ctx, MPQ_E_UNSUPPORTED, "input '%s' has elements of type %s",
                            dataset->input_name[i], mpq_dtype_name(dtype));
        MPQ_TRY(mpq_shape_count_checked(ctx, &input->shape, mpq_dtype_bytes(dtype), &count));
        if (count == 0)
            return mpq_fail(ctx, MPQ_E_SHAPE, "input '%s' has no elements, shape %s",
                            dataset->input_name[i], MPQ_SHAPE_TEXT(&input->shape));
    }
    return MPQ_OK;
}

/* What kind of thing the path is, and how it begins. */
static enum mpq_status look_at(struct mpq_ctx *ctx, const char *path,
                               struct mpq_source_request *request)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return mpq_fail(ctx, MPQ_E_IO, "%s: there is no such file or folder", path);
    request->is_folder = S_ISDIR(info.st_mode);
    if (request->is_folder)
        return MPQ_OK;
    FILE *file = fopen(path, "rb");
    if (!file)
        return mpq_fail(ctx, MPQ_E_IO, "%s: cannot be opened", path);
    size_t n = fread(request->magic, 1, sizeof request->magic, file);
    fclose(file);
    memset(request->magic + n, 0, sizeof request->magic - n);
    return MPQ_OK;
}

static const struct mpq_source *find_source(const struct mpq_source_request *request)
{
    for (size_t i = 0; i < MPQ_COUNT(registry); i++)
        if (registry[i]->accepts(request))
            return registry[i];
    return NULL;
}

/* "an .npz file, an .npy file or a folder of pictures" */
static enum mpq_status fail_unknown(struct mpq_ctx *ctx, const char *path)
{
    char list[512] = "";
    size_t n = MPQ_COUNT(registry), at = 0;
    for (size_t i = 0; i < n && at < sizeof list; i++)
        at += (size_t)snprintf(list + at, sizeof list - at, "%s%s",
                               i == 0       ? ""
                               : i + 1 == n ? " or "
                                            : ", ",
                               registry[i]->what);
    return mpq_fail(ctx, MPQ_E_FORMAT, "%s: is not data that can be read; expected %s", path, list);
}

static enum mpq_status choose_source(struct mpq_ctx *ctx, const char *path,
                                     struct mpq_source_request *request,
                                     struct mpq_dataset *dataset)
{
    request->path = dataset->path = mpq_arena_strdup(ctx, dataset->arena, path);
    if (!dataset->path)
        return MPQ_E_NOMEM;
    MPQ_TRY(look_at(ctx, path, request));
    dataset->source = find_source(request);
    return dataset->source ? MPQ_OK : fail_unknown(ctx, path);
}

enum mpq_status mpq_dataset_guess(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                                  const struct mpq_graph *graph,
                                  const struct mpq_preprocess *preprocess, struct mpq_shape *shape)
{
    struct mpq_dataset *dataset;
    struct mpq_source_request request = {.preprocess = preprocess};
    MPQ_TRY(create(ctx, arena, graph, shape, &dataset));
    MPQ_TRY(choose_source(ctx, path, &request, dataset));
    if (dataset->source->guess)
        MPQ_TRY(dataset->source->guess(ctx, &request, dataset));
    for (uint32_t i = 0; i < dataset->n_input; i++)
        shape[i] = dataset->input[i].shape;
    return MPQ_OK;
}

enum mpq_status mpq_dataset_open(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                                 const char *labels_path, const struct mpq_graph *graph,
                                 const struct mpq_shape *shape, int64_t n_class,
                                 const struct mpq_preprocess *preprocess, struct mpq_dataset **out)
{
    struct mpq_dataset *dataset;
    struct mpq_source_request request = {.preprocess = preprocess, .want_labels = !labels_path};
    MPQ_TRY(create(ctx, arena, graph, shape, &dataset));
    MPQ_TRY(check_inputs(ctx, dataset));
    MPQ_TRY(choose_source(ctx, path, &request, dataset));
    MPQ_TRY(dataset->source->open(ctx, &request, dataset));
    if (labels_path) {
        dataset->label_path = labels_path;
        MPQ_TRY(mpq_labels_read(ctx, arena, labels_path, dataset->sample_name, dataset->n_sample,
                                &dataset->label));
    }
    if (dataset->label && n_class > 0)
        MPQ_TRY(mpq_labels_check(ctx, dataset->label_path, dataset->label, dataset->sample_name,
                                 dataset->n_sample, n_class));
    *out = dataset;
    return MPQ_OK;
}

enum mpq_status mpq_dataset_synthetic(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      const struct mpq_graph *graph, const struct mpq_shape *shape,
                                      uint32_t n_sample, struct mpq_dataset **out)
{
    struct mpq_dataset *dataset;
    MPQ_TRY(create(ctx, arena, graph, shape, &dataset));
    MPQ_TRY(check_inputs(ctx, dataset));
    dataset->source = &mpq_source_synthetic;
    dataset->n_sample = n_sample;
    MPQ_TRY(dataset->source->open(ctx, NULL, dataset));
    *out = dataset;
    return MPQ_OK;
}

uint32_t mpq_dataset_count(const struct mpq_dataset *dataset)
{
    return dataset->n_sample;
}

bool mpq_dataset_has_labels(const struct mpq_dataset *dataset)
{
    return dataset->label != NULL;
}

int64_t mpq_dataset_label(const struct mpq_dataset *dataset, uint32_t sample)
{
    MPQ_ASSERT(dataset->label && sample < dataset->n_sample);
    return dataset->label[sample];
}

bool mpq_dataset_pictures(const struct mpq_dataset *dataset, uint32_t *out_input,
                          struct mpq_picture_layout *out)
{
    *out_input = dataset->picture_input;
    return *out_input != UINT32_MAX &&
           mpq_picture_layout_find(&dataset->input[*out_input].shape, out);
}

/* One call of mpq_dataset_read(). A scalar input has one element whatever n is; its n samples go to
 * `scalar` first and must turn out to be equal. */
struct batch {
    const struct mpq_dataset *dataset;
    const uint32_t *index;
    struct mpq_tensor *const *input;
    uint8_t **scalar; /* [n_input] n elements where the input is a scalar, else NULL */
};

static enum mpq_status read_sample(struct mpq_ctx *ctx, struct mpq_arena *scratch, void *arg,
                                   int64_t i)
{
    const struct batch *batch = arg;
    const struct mpq_dataset *dataset = batch->dataset;
    struct mpq_tensor *y = mpq_arena_alloc(ctx, scratch, dataset->n_input, sizeof *y);
    if (!y)
        return MPQ_E_NOMEM;
    for (uint32_t k = 0; k < dataset->n_input; k++) {
        y[k] = dataset->input[k];
        uint8_t *data = batch->scalar[k] ? batch->scalar[k] : batch->input[k]->data;
        y[k].data = data + (size_t)i * mpq_tensor_bytes(&y[k]);
    }
    return dataset->source->read(ctx, scratch, dataset, batch->index[i], y);
}

static enum mpq_status make_scalars(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct batch *batch, uint32_t n)
{
    const struct mpq_dataset *dataset = batch->dataset;
    for (uint32_t k = 0; k < dataset->n_input; k++) {
        int64_t count = mpq_shape_count(&batch->input[k]->shape);
        MPQ_ASSERT(batch->input[k]->dtype == dataset->input[k].dtype);
        if (n > 1 && dataset->input[k].shape.rank == 0) {
            MPQ_ASSERT(count == 1);
            batch->scalar[k] =
                mpq_arena_alloc(ctx, arena, n, mpq_dtype_bytes(dataset->input[k].dtype));
            if (!batch->scalar[k])
                return MPQ_E_NOMEM;
        } else
            MPQ_ASSERT(count == n * mpq_shape_count(&dataset->input[k].shape));
    }
    return MPQ_OK;
}

static enum mpq_status take_scalars(struct mpq_ctx *ctx, const struct batch *batch, uint32_t n)
{
    const struct mpq_dataset *dataset = batch->dataset;
    for (uint32_t k = 0; k < dataset->n_input; k++) {
        size_t bytes = mpq_dtype_bytes(dataset->input[k].dtype);
        if (!batch->scalar[k])
            continue;
        for (uint32_t i = 1; i < n; i++)
            if (memcmp(batch->scalar[k], batch->scalar[k] + i * bytes, bytes) != 0)
                return mpq_fail(ctx, MPQ_E_SHAPE,
                                "input '%s' is a scalar, and samples %u and %u of one batch differ "
                                "in it",
                                dataset->input_name[k], batch->index[0], batch->index[i]);
        memcpy(batch->input[k]->data, batch->scalar[k], bytes);
    }
    return MPQ_OK;
}

enum mpq_status mpq_dataset_prepare(struct mpq_ctx *ctx, struct mpq_dataset *dataset,
                                    const uint32_t *index, uint32_t n)
{
    return dataset->source->prepare ? dataset->source->prepare(ctx, dataset, index, n) : MPQ_OK;
}

static enum mpq_status read_batch(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  struct mpq_dataset *dataset, const uint32_t *index, uint32_t n,
                                  struct mpq_tensor *const *input)
{
    struct batch batch = {dataset, index, input, NULL};
    batch.scalar = mpq_arena_alloc(ctx, arena, dataset->n_input, sizeof *batch.scalar);
    if (!batch.scalar)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < n; i++)
        MPQ_ASSERT(index[i] < dataset->n_sample);
    MPQ_TRY(make_scalars(ctx, arena, &batch, n));
    MPQ_TRY(mpq_dataset_prepare(ctx, dataset, index, n));
    MPQ_TRY(mpq_workers_run(ctx, n, read_sample, &batch));
    return take_scalars(ctx, &batch, n);
}

enum mpq_status mpq_dataset_read(struct mpq_ctx *ctx, struct mpq_dataset *dataset,
                                 const uint32_t *index, uint32_t n, struct mpq_tensor *const *input)
{
    struct mpq_arena *arena = mpq_arena_create(ctx);
    if (!arena)
        return MPQ_E_NOMEM;
    enum mpq_status status = read_batch(ctx, arena, dataset, index, n, input);
    mpq_arena_free(arena);
    return status;
}
