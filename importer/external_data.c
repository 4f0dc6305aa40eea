#include "importer/external_data.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "quantcore/base/fileio.h"
#include "quantcore/base/limits.h"

struct loader {
    struct mpq_ctx *ctx;
    struct mpq_arena *arena;
    const char *directory;
    const char *location; /* of the open file; most models keep all their data in one */
    const uint8_t *data;  /* its bytes, as long as the arena lives; NULL: it is empty        */
    uint64_t file_bytes;
    uint64_t total_bytes; /* claimed so far: many tensors may claim the same bytes */
};

/* A file in memory, given back with the arena. */
struct mapping {
    void *data;
    size_t bytes;
    struct mpq_file_kept kept;
};

struct place {
    const char *location;
    uint64_t offset, length;
    bool has_length;
};

static enum mpq_status fail(struct loader *loader, const Onnx__TensorProto *tensor,
                            enum mpq_status status, const char *sentence, const char *detail)
{
    return mpq_fail(loader->ctx, status, "external data of tensor '%s': %s%s%s",
                    tensor->name ? tensor->name : "", sentence, detail ? " " : "",
                    detail ? detail : "");
}

static bool parse_size(const char *text, uint64_t *out)
{
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 10);
    return *text >= '0' && *text <= '9' && *end == '\0' && errno == 0 && *out <= INT64_MAX;
}

static enum mpq_status read_place(struct loader *loader, const Onnx__TensorProto *tensor,
                                  struct place *out)
{
    struct place place = {0};
    for (size_t i = 0; i < tensor->n_external_data; i++) {
        const char *key = tensor->external_data[i]->key;
        const char *value = tensor->external_data[i]->value;
        if (!key || !value)
            return fail(loader, tensor, MPQ_E_FORMAT, "an entry has no key or no value", NULL);
        bool good = true;
        if (strcmp(key, "location") == 0)
            place.location = value;
        else if (strcmp(key, "offset") == 0)
            good = parse_size(value, &place.offset);
        else if (strcmp(key, "length") == 0)
            place.has_length = good = parse_size(value, &place.length);
        if (!good)
            return fail(loader, tensor, MPQ_E_FORMAT, "not a number:", value);
    }
    if (!place.location || !*place.location)
        return fail(loader, tensor, MPQ_E_FORMAT, "no location is given", NULL);
    *out = place;
    return MPQ_OK;
}

/* Open one name, a folder or a file, inside the folder `at`, which is closed. -1: errno says why.
 */
static int descend(int at, const char *name)
{
    int fd = openat(at, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    int error = errno;
    close(at);
    errno = error;
    return fd;
}

static void unmap(void *object)
{
    struct mapping *mapping = object;
    mpq_file_unkeep(&mapping->kept);
    munmap(mapping->data, mapping->bytes);
}

/* The file is seen where it lies in the page cache: what nobody reads takes no memory, and what is
 * read is not copied. */
static enum mpq_status map_file(struct loader *loader, const Onnx__TensorProto *tensor, int fd,
                                uint64_t bytes)
{
    struct mapping *mapping = mpq_arena_alloc(loader->ctx, loader->arena, 1, sizeof *mapping);
    if (!mapping)
        return MPQ_E_NOMEM;
    loader->file_bytes = bytes;
    loader->data = NULL;
    if (bytes == 0) /* nothing to map */
        return MPQ_OK;
    if (bytes > SIZE_MAX)
        return fail(loader, tensor, MPQ_E_LIMIT, "are larger than memory can be", NULL);
    mapping->bytes = (size_t)bytes;
    mapping->data = mmap(NULL, mapping->bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (mapping->data == MAP_FAILED)
        return fail(loader, tensor, MPQ_E_IO, "cannot be read:", strerror(errno));
    enum mpq_status status = mpq_file_keep(loader->ctx, fd, &mapping->kept);
    if (status == MPQ_OK)
        status = mpq_arena_defer(loader->ctx, loader->arena, unmap, mapping);
    if (status != MPQ_OK) {
        unmap(mapping);
        return status;
    }
    loader->data = mapping->data;
    return MPQ_OK;
}

static enum mpq_status open_location(struct loader *loader, const Onnx__TensorProto *tensor,
                                     const char *location)
{
    if (location[0] == '/')
        return fail(loader, tensor, MPQ_E_FORMAT, "the path is absolute:", location);
    char *path = mpq_arena_strdup(loader->ctx, loader->arena, location);
    if (!path)
        return MPQ_E_NOMEM;
    int fd = open(loader->directory, O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    for (char *name = path, *slash = name; fd >= 0 && slash; name = slash + 1) {
        slash = strchr(name, '/');
        if (slash)
            *slash = '\0';
        if (strcmp(name, "..") == 0 || (!*name && !slash)) {
            close(fd);
            return fail(loader, tensor, MPQ_E_FORMAT,
                        "the path leaves the folder of the model:", location);
        }
        if (*name && strcmp(name, ".") != 0)
            fd = descend(fd, name);
    }
    struct stat info;
    if (fd >= 0 && fstat(fd, &info) == 0 && S_ISREG(info.st_mode)) {
        enum mpq_status status = map_file(loader, tensor, fd, (uint64_t)info.st_size);
        close(fd);
        loader->location = location;
        return status;
    }
    if (fd >= 0) {
        close(fd);
        return fail(loader, tensor, MPQ_E_IO, "is not a file:", location);
    }
    if (errno == ELOOP || errno == EMLINK)
        return fail(loader, tensor, MPQ_E_FORMAT, "symbolic links are not followed:", location);
    return mpq_fail(loader->ctx, MPQ_E_IO, "external data of tensor '%s': cannot open %s: %s",
                    tensor->name ? tensor->name : "", location, strerror(errno));
}

static enum mpq_status load_tensor(struct loader *loader, Onnx__TensorProto *tensor)
{
    if (!tensor || tensor->data_location != ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL)
        return MPQ_OK;
    if (!loader->directory)
        return fail(loader, tensor, MPQ_E_UNSUPPORTED, "there is no folder to look in", NULL);
    struct place place = {0};
    MPQ_TRY(read_place(loader, tensor, &place));
    if (!loader->location || strcmp(loader->location, place.location) != 0)
        MPQ_TRY(open_location(loader, tensor, place.location));
    if (place.offset > loader->file_bytes)
        return fail(loader, tensor, MPQ_E_FORMAT, "begin after the end of", place.location);
    if (!place.has_length)
        place.length = loader->file_bytes - place.offset;
    if (place.length > loader->file_bytes - place.offset)
        return fail(loader, tensor, MPQ_E_FORMAT, "reach beyond the end of", place.location);
    if (place.length > MPQ_LIMIT_TENSOR_BYTES)
        return fail(loader, tensor, MPQ_E_LIMIT, "are larger than 2 GiB", NULL);
    loader->total_bytes += place.length;
    if (loader->total_bytes > MPQ_LIMIT_EXTERNAL_BYTES)
        return fail(loader, tensor, MPQ_E_LIMIT, "bring the model to more than 16 GiB", NULL);
    tensor->has_raw_data = 1;
    tensor->raw_data.len = (size_t)place.length;
    /* Nobody writes to the payload of a message. */
    tensor->raw_data.data =
        place.length ? (uint8_t *)(uintptr_t)(loader->data + place.offset) : NULL;
    tensor->n_external_data = 0;
    tensor->has_data_location = 0;
    tensor->data_location = ONNX__TENSOR_PROTO__DATA_LOCATION__DEFAULT;
    return MPQ_OK;
}

static enum mpq_status load_sparse(struct loader *loader, Onnx__SparseTensorProto *sparse)
{
    if (!sparse)
        return MPQ_OK;
    MPQ_TRY(load_tensor(loader, sparse->values));
    return load_tensor(loader, sparse->indices);
}

static enum mpq_status load_graph(struct loader *loader, Onnx__GraphProto *graph);

static enum mpq_status load_attribute(struct loader *loader, Onnx__AttributeProto *attr)
{
    MPQ_TRY(load_tensor(loader, attr->t));
    for (size_t i = 0; i < attr->n_tensors; i++)
        MPQ_TRY(load_tensor(loader, attr->tensors[i]));
    MPQ_TRY(load_sparse(loader, attr->sparse_tensor));
    for (size_t i = 0; i < attr->n_sparse_tensors; i++)
        MPQ_TRY(load_sparse(loader, attr->sparse_tensors[i]));
    MPQ_TRY(load_graph(loader, attr->g));
    for (size_t i = 0; i < attr->n_graphs; i++)
        MPQ_TRY(load_graph(loader, attr->graphs[i]));
    return MPQ_OK;
}

static enum mpq_status load_nodes(struct loader *loader, Onnx__NodeProto **node, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < node[i]->n_attribute; j++)
            MPQ_TRY(load_attribute(loader, node[i]->attribute[j]));
    return MPQ_OK;
}

static enum mpq_status load_graph(struct loader *loader, Onnx__GraphProto *graph)
{
    if (!graph)
        return MPQ_OK;
    for (size_t i = 0; i < graph->n_initializer; i++)
        MPQ_TRY(load_tensor(loader, graph->initializer[i]));
    for (size_t i = 0; i < graph->n_sparse_initializer; i++)
        MPQ_TRY(load_sparse(loader, graph->sparse_initializer[i]));
    return load_nodes(loader, graph->node, graph->n_node);
}

static enum mpq_status load_model(struct loader *loader, Onnx__ModelProto *model)
{
    MPQ_TRY(load_graph(loader, model->graph));
    for (size_t i = 0; i < model->n_functions; i++)
        MPQ_TRY(load_nodes(loader, model->functions[i]->node, model->functions[i]->n_node));
    for (size_t i = 0; i < model->n_training_info; i++) {
        MPQ_TRY(load_graph(loader, model->training_info[i]->initialization));
        MPQ_TRY(load_graph(loader, model->training_info[i]->algorithm));
    }
    return MPQ_OK;
}

enum mpq_status mpq_external_data_load(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const char *directory, Onnx__ModelProto *model,
                                       uint64_t *out_bytes)
{
    struct loader loader = {.ctx = ctx, .arena = arena, .directory = directory};
    enum mpq_status status = load_model(&loader, model);
    if (status == MPQ_OK)
        *out_bytes = loader.total_bytes;
    return status;
}
