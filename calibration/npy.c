#include "calibration/npy.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "quantcore/base/fileio.h"

/* FLOAT tensors are read and written as the file has them, four bytes an element. */
_Static_assert(sizeof(mpq_real) == 4, "calibration is not part of the double build");

static const struct {
    char kind, bytes;
    enum mpq_dtype dtype;
} numpy_type[] = {
    {'b', 1, MPQ_BOOL},   {'i', 1, MPQ_INT8},    {'i', 2, MPQ_INT16},  {'i', 4, MPQ_INT32},
    {'i', 8, MPQ_INT64},  {'u', 1, MPQ_UINT8},   {'u', 2, MPQ_UINT16}, {'u', 4, MPQ_UINT32},
    {'u', 8, MPQ_UINT64}, {'f', 2, MPQ_FLOAT16}, {'f', 4, MPQ_FLOAT},  {'f', 8, MPQ_DOUBLE},
};

static bool machine_is_little(void)
{
    const uint16_t one = 1;
    uint8_t first;
    memcpy(&first, &one, 1);
    return first == 1;
}

/* The dictionary, character by character: {'descr': '<f4', 'fortran_order': False,
 * 'shape': (3, 4), }. Keys in any order; either kind of quotes; 3L as Python 2 wrote it. */
struct scan {
    struct mpq_ctx *ctx;
    const char *where;
    const uint8_t *at, *end;
};

static enum mpq_status fail_dictionary(const struct scan *scan)
{
    return mpq_fail(scan->ctx, MPQ_E_FORMAT, "%s: the .npy header is damaged", scan->where);
}

static void skip_space(struct scan *scan)
{
    while (scan->at < scan->end && (*scan->at == ' ' || *scan->at == '\n' || *scan->at == '\t'))
        scan->at++;
}

/* Whether the next character is c; steps over it if so. */
static bool accept(struct scan *scan, char c)
{
    skip_space(scan);
    if (scan->at == scan->end || *scan->at != (uint8_t)c)
        return false;
    scan->at++;
    return true;
}

static bool accept_word(struct scan *scan, const char *word)
{
    size_t n = strlen(word);
    skip_space(scan);
    if ((size_t)(scan->end - scan->at) < n || memcmp(scan->at, word, n) != 0)
        return false;
    scan->at += n;
    return true;
}

/* A quoted string into text[64]; longer ones are cut, which no word that we know survives. */
static enum mpq_status read_string(struct scan *scan, char text[64])
{
    char quote = accept(scan, '\'') ? '\'' : accept(scan, '"') ? '"' : 0;
    size_t n = 0;
    if (!quote)
        return fail_dictionary(scan);
    for (; scan->at < scan->end && *scan->at != (uint8_t)quote; scan->at++)
        if (n < 63 && *scan->at >= ' ' && *scan->at < 127)
            text[n++] = (char)*scan->at;
    text[n] = 0;
    return accept(scan, quote) ? MPQ_OK : fail_dictionary(scan);
}

static enum mpq_status read_type(struct scan *scan, struct mpq_npy_header *out)
{
    char text[64];
    skip_space(scan);
    if (scan->at < scan->end && *scan->at == '[')
        return mpq_fail(scan->ctx, MPQ_E_FORMAT, "%s: holds records with named fields, not numbers",
                        scan->where);
    MPQ_TRY(read_string(scan, text));
    char order = text[0], digit = text[0] && text[1] ? text[2] : 0;
    if (digit && !text[3] && strchr("<>|=", order))
        for (size_t i = 0; i < MPQ_COUNT(numpy_type); i++)
            if (numpy_type[i].kind == text[1] && numpy_type[i].bytes == digit - '0') {
                out->dtype = numpy_type[i].dtype;
                out->swapped = order == (machine_is_little() ? '>' : '<');
                return MPQ_OK;
            }
    return mpq_fail(scan->ctx, MPQ_E_FORMAT, "%s: elements of numpy type '%s' are not %s",
                    scan->where, text, "booleans, integers or floats of 16 to 64 bits");
}

static enum mpq_status read_shape(struct scan *scan, struct mpq_npy_header *out)
{
    struct mpq_shape shape = {.rank = 0};
    if (!accept(scan, '('))
        return fail_dictionary(scan);
    while (!accept(scan, ')')) {
        int64_t dim = 0;
        const uint8_t *first = scan->at;
        for (; scan->at < scan->end && *scan->at >= '0' && *scan->at <= '9'; scan->at++)
            if (__builtin_mul_overflow(dim, 10, &dim) ||
                __builtin_add_overflow(dim, *scan->at - '0', &dim))
                return mpq_fail(scan->ctx, MPQ_E_LIMIT, "%s: a dimension is out of range",
                                scan->where);
        if (scan->at == first)
            return fail_dictionary(scan);
        if (shape.rank == MPQ_MAX_RANK)
            return mpq_fail(scan->ctx, MPQ_E_FORMAT, "%s: has more than %d dimensions", scan->where,
                            MPQ_MAX_RANK);
        shape.dim[shape.rank++] = dim;
        (void)accept(scan, 'L');
        if (!accept(scan, ',')) {
            if (!accept(scan, ')'))
                return fail_dictionary(scan);
            break;
        }
        skip_space(scan);
    }
    out->shape = shape;
    return MPQ_OK;
}

static enum mpq_status read_order(struct scan *scan, struct mpq_npy_header *out)
{
    out->fortran_order = accept_word(scan, "True");
    return out->fortran_order || accept_word(scan, "False") ? MPQ_OK : fail_dictionary(scan);
}

static enum mpq_status read_dictionary(struct scan *scan, struct mpq_npy_header *out)
{
    static const struct {
        const char *key;
        enum mpq_status (*read)(struct scan *scan, struct mpq_npy_header *out);
    } entry[] = {{"descr", read_type}, {"fortran_order", read_order}, {"shape", read_shape}};
    unsigned seen = 0;
    if (!accept(scan, '{'))
        return fail_dictionary(scan);
    while (!accept(scan, '}')) {
        char key[64];
        size_t i = 0;
        MPQ_TRY(read_string(scan, key));
        while (i < MPQ_COUNT(entry) && strcmp(entry[i].key, key) != 0)
            i++;
        if (i == MPQ_COUNT(entry) || seen >> i & 1 || !accept(scan, ':'))
            return fail_dictionary(scan);
        MPQ_TRY(entry[i].read(scan, out));
        seen |= 1u << i;
        if (!accept(scan, ',')) {
            if (!accept(scan, '}'))
                return fail_dictionary(scan);
            break;
        }
    }
    return seen == 7 ? MPQ_OK : fail_dictionary(scan);
}

/* Elements and bytes of a shape that came from outside. Not mpq_shape_count_checked(): a set of
 * samples may be larger than one tensor of a model. */
static enum mpq_status count_elements(struct mpq_ctx *ctx, const char *where,
                                      struct mpq_npy_header *header)
{
    int64_t count = 1, bytes;
    bool empty = false, overflow = false;
    for (int i = 0; i < header->shape.rank; i++) {
        empty |= header->shape.dim[i] == 0;
        overflow |= __builtin_mul_overflow(count, header->shape.dim[i], &count);
    }
    if (empty)
        count = 0;
    else if (overflow ||
             __builtin_mul_overflow(count, (int64_t)mpq_dtype_bytes(header->dtype), &bytes) ||
             (uint64_t)bytes > MPQ_LIMIT_DATA_BYTES)
        return mpq_fail(ctx, MPQ_E_LIMIT, "%s: an array of shape %s is larger than %zu GiB", where,
                        MPQ_SHAPE_TEXT(&header->shape), MPQ_LIMIT_DATA_BYTES >> 30);
    header->count = count;
    return MPQ_OK;
}

enum mpq_status mpq_npy_parse_header(struct mpq_ctx *ctx, const char *where, const uint8_t *bytes,
                                     size_t n_bytes, struct mpq_npy_header *out)
{
    if (n_bytes < 10 || memcmp(bytes, "\x93NUMPY", 6) != 0)
        return mpq_fail(ctx, MPQ_E_FORMAT, "%s: is not a .npy array", where);
    int version = bytes[6];
    size_t start = version == 1 ? 10 : 12;
    if (version < 1 || version > 3)
        return mpq_fail(ctx, MPQ_E_FORMAT, "%s: .npy version %d is not known", where, version);
    size_t length = (size_t)bytes[8] | (size_t)bytes[9] << 8;
    if (version > 1 && n_bytes >= 12)
        length |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
    if (n_bytes < start || length > n_bytes - start)
        return mpq_fail(ctx, MPQ_E_FORMAT, "%s: ends inside the .npy header", where);
    struct scan scan = {ctx, where, bytes + start, bytes + start + length};
    struct mpq_npy_header header = {.data_offset = start + length};
    MPQ_TRY(read_dictionary(&scan, &header));
    MPQ_TRY(count_elements(ctx, where, &header));
    *out = header;
    return MPQ_OK;
}

enum mpq_status mpq_npy_check_bytes(struct mpq_ctx *ctx, const char *where,
                                    const struct mpq_npy_header *header, size_t n_bytes)
{
    size_t want = (size_t)header->count * mpq_dtype_bytes(header->dtype);
    size_t have = n_bytes - header->data_offset;
    if (have == want)
        return MPQ_OK;
    return mpq_fail(ctx, MPQ_E_FORMAT, "%s: an array %s of %s takes %zu bytes, %zu are there",
                    where, MPQ_SHAPE_TEXT(&header->shape), mpq_dtype_name(header->dtype), want,
                    have);
}

static void swap_bytes(uint8_t *data, int64_t count, size_t width)
{
    for (int64_t i = 0; i < count; i++, data += width)
        for (size_t j = 0; j < width / 2; j++) {
            uint8_t byte = data[j];
            data[j] = data[width - 1 - j];
            data[width - 1 - j] = byte;
        }
}

void mpq_npy_order(const struct mpq_npy_header *header, uint8_t *data, int64_t count)
{
    if (header->swapped)
        swap_bytes(data, count, mpq_dtype_bytes(header->dtype));
    if (header->dtype == MPQ_BOOL)
        for (int64_t i = 0; i < count; i++)
            data[i] = data[i] != 0;
}

/* From first index fastest to last index fastest: walk `to` in order, counting the indices up. */
static void transpose(const struct mpq_npy_header *header, const uint8_t *from, uint8_t *to)
{
    size_t width = mpq_dtype_bytes(header->dtype);
    int rank = header->shape.rank;
    int64_t index[MPQ_MAX_RANK] = {0}, stride[MPQ_MAX_RANK], offset = 0, step = 1;
    for (int d = 0; d < rank; d++) {
        stride[d] = step;
        step *= header->shape.dim[d];
    }
    for (int64_t i = 0; i < header->count; i++) {
        memcpy(to + (size_t)i * width, from + (size_t)offset * width, width);
        for (int d = rank - 1; d >= 0; d--) {
            offset += stride[d];
            if (++index[d] < header->shape.dim[d])
                break;
            offset -= stride[d] * index[d];
            index[d] = 0;
        }
    }
}

enum mpq_status mpq_npy_parse(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *where,
                              uint8_t *bytes, size_t n_bytes, struct mpq_tensor *out)
{
    struct mpq_npy_header header;
    MPQ_TRY(mpq_npy_parse_header(ctx, where, bytes, n_bytes, &header));
    MPQ_TRY(mpq_npy_check_bytes(ctx, where, &header, n_bytes));
    size_t width = mpq_dtype_bytes(header.dtype), want = (size_t)header.count * width;
    uint8_t *data = bytes + header.data_offset;
    mpq_npy_order(&header, data, header.count);
    bool fortran = header.fortran_order && header.shape.rank > 1;
    if (fortran || (uintptr_t)data % width != 0) {
        uint8_t *copy = mpq_arena_alloc(ctx, arena, (size_t)header.count, width);
        if (!copy)
            return MPQ_E_NOMEM;
        if (fortran)
            transpose(&header, data, copy);
        else if (want)
            memcpy(copy, data, want);
        data = copy;
    }
    *out = (struct mpq_tensor){header.dtype, header.shape, data};
    return MPQ_OK;
}

enum mpq_status mpq_npy_read(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                             struct mpq_tensor *out)
{
    uint8_t *bytes;
    size_t n_bytes;
    MPQ_TRY(mpq_file_read(ctx, arena, path, MPQ_LIMIT_DATA_BYTES + MPQ_NPY_HEADER_BYTES, &bytes,
                          &n_bytes));
    return mpq_npy_parse(ctx, arena, path, bytes, n_bytes, out);
}

enum mpq_status mpq_npy_print(struct mpq_ctx *ctx, struct mpq_arena *arena,
                              const struct mpq_tensor *tensor, uint8_t **out_bytes,
                              size_t *out_n_bytes)
{
    char shape[MPQ_MAX_RANK * 22 + 2] = "", text[384];
    size_t at = 0, i = 0;
    while (i < MPQ_COUNT(numpy_type) && numpy_type[i].dtype != tensor->dtype)
        i++;
    MPQ_ASSERT(i < MPQ_COUNT(numpy_type));
    for (int d = 0; d < tensor->shape.rank; d++)
        at += (size_t)snprintf(shape + at, sizeof shape - at, "%s%" PRId64, d ? ", " : "",
                               tensor->shape.dim[d]);
    if (tensor->shape.rank == 1)
        snprintf(shape + at, sizeof shape - at, ","); /* (3,) is a tuple, (3) would be a number */
    char order = numpy_type[i].bytes == 1 ? '|' : machine_is_little() ? '<' : '>';
    int n =
        snprintf(text, sizeof text, "{'descr': '%c%c%d', 'fortran_order': False, 'shape': (%s), }",
                 order, numpy_type[i].kind, numpy_type[i].bytes, shape);
    MPQ_ASSERT(n > 0 && (size_t)n < sizeof text);

    /* Padded with spaces and a line feed so that the elements start at a multiple of 64. */
    size_t used = 10 + (size_t)n, start = (used + 1 + 63) / 64 * 64;
    size_t data_bytes = mpq_tensor_bytes(tensor), length = start - 10;
    uint8_t *bytes = mpq_arena_alloc(ctx, arena, start + data_bytes, 1);
    if (!bytes)
        return MPQ_E_NOMEM;
    memcpy(bytes, "\x93NUMPY\x01\x00", 8);
    bytes[8] = (uint8_t)(length & 255);
    bytes[9] = (uint8_t)(length >> 8);
    memcpy(bytes + 10, text, (size_t)n);
    memset(bytes + used, ' ', start - used);
    bytes[start - 1] = '\n';
    if (data_bytes)
        memcpy(bytes + start, tensor->data, data_bytes);
    *out_bytes = bytes;
    *out_n_bytes = start + data_bytes;
    return MPQ_OK;
}
