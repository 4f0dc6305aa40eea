/* The only file that knows libzip. */
#include "calibration/npz.h"

#include <stdlib.h>
#include <string.h>

#include <zip.h>

#include "quantcore/base/fileio.h"
#include "quantcore/base/strmap.h"

struct mpq_npz {
    struct mpq_arena *arena;
    const char *path;
    zip_t *zip;
    const char **name;    /* [n] without ".npy"          */
    zip_uint64_t *member; /* [n] position in the archive */
    uint32_t n;
    struct mpq_strmap by_name;
};

static void discard_zip(void *zip)
{
    zip_discard(zip);
}

static enum mpq_status list_members(struct mpq_ctx *ctx, struct mpq_npz *npz)
{
    zip_int64_t n_member = zip_get_num_entries(npz->zip, 0);
    MPQ_ASSERT(n_member >= 0);
    npz->name = mpq_arena_alloc(ctx, npz->arena, (size_t)n_member, sizeof *npz->name);
    npz->member = mpq_arena_alloc(ctx, npz->arena, (size_t)n_member, sizeof *npz->member);
    if (!npz->name || !npz->member)
        return MPQ_E_NOMEM;
    for (zip_int64_t i = 0; i < n_member; i++) {
        const char *full = zip_get_name(npz->zip, (zip_uint64_t)i, ZIP_FL_ENC_GUESS);
        size_t length = full ? strlen(full) : 0;
        if (length < 4 || strcmp(full + length - 4, ".npy") != 0)
            continue;
        char *name = mpq_arena_copy(ctx, npz->arena, full, length - 4 + 1);
        if (!name)
            return MPQ_E_NOMEM;
        name[length - 4] = 0;
        uint32_t found;
        MPQ_TRY(mpq_strmap_add(ctx, npz->arena, &npz->by_name, name, npz->n, &found));
        if (found != npz->n)
            return mpq_fail(ctx, MPQ_E_FORMAT, "%s: has two arrays '%s'", npz->path, name);
        npz->name[npz->n] = name;
        npz->member[npz->n++] = (zip_uint64_t)i;
    }
    return MPQ_OK;
}

enum mpq_status mpq_npz_open(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                             struct mpq_npz **out)
{
    struct mpq_npz *npz = mpq_arena_alloc(ctx, arena, 1, sizeof *npz);
    int code;
    if (!npz)
        return MPQ_E_NOMEM;
    *npz = (struct mpq_npz){.arena = arena};
    npz->path = mpq_arena_strdup(ctx, arena, path);
    if (!npz->path)
        return MPQ_E_NOMEM;
    npz->zip = zip_open(path, ZIP_RDONLY, &code);
    if (!npz->zip) {
        zip_error_t error;
        zip_error_init_with_code(&error, code);
        bool is_zip = code != ZIP_ER_OPEN && code != ZIP_ER_NOENT && code != ZIP_ER_READ;
        enum mpq_status status =
            mpq_fail(ctx, is_zip ? MPQ_E_FORMAT : MPQ_E_IO,
                     "%s: cannot be opened as an .npz file: %s", path, zip_error_strerror(&error));
        zip_error_fini(&error);
        return status;
    }
    enum mpq_status status = mpq_arena_defer(ctx, arena, discard_zip, npz->zip);
    if (status != MPQ_OK) {
        zip_discard(npz->zip);
        return status;
    }
    MPQ_TRY(list_members(ctx, npz));
    *out = npz;
    return MPQ_OK;
}

uint32_t mpq_npz_count(const struct mpq_npz *npz)
{
    return npz->n;
}

const char *mpq_npz_name(const struct mpq_npz *npz, uint32_t i)
{
    return npz->name[i];
}

bool mpq_npz_has(const struct mpq_npz *npz, const char *name)
{
    return mpq_strmap_get(&npz->by_name, name) != MPQ_STRMAP_NONE;
}

/* The bytes a member claims to hold. Deflate shrinks by 1032 at the most, so a claim beyond that
 * is damage, found before memory is asked for. */
static enum mpq_status member_bytes(struct mpq_ctx *ctx, const struct mpq_npz *npz, uint32_t i,
                                    size_t *out)
{
    zip_stat_t info;
    const zip_uint64_t need = ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE;
    zip_stat_init(&info);
    if (zip_stat_index(npz->zip, npz->member[i], 0, &info) != 0 || (info.valid & need) != need ||
        info.size / 1032 > info.comp_size)
        return mpq_fail(ctx, MPQ_E_FORMAT, "%s: array '%s' is damaged", npz->path, npz->name[i]);
    if (info.size > MPQ_LIMIT_DATA_BYTES)
        return mpq_fail(ctx, MPQ_E_LIMIT, "%s: array '%s' is larger than %zu GiB", npz->path,
                        npz->name[i], MPQ_LIMIT_DATA_BYTES >> 30);
    *out = (size_t)info.size;
    return MPQ_OK;
}

static enum mpq_status fail_read(struct mpq_ctx *ctx, const struct mpq_npz *npz, uint32_t i,
                                 const char *why)
{
    return mpq_fail(ctx, MPQ_E_FORMAT, "%s: array '%s' cannot be read: %s", npz->path, npz->name[i],
                    why);
}

/* The next n bytes of a member; with `last`, these must be its end and match the checksum, which
 * libzip compares when it meets the end. */
static enum mpq_status read_next(struct mpq_ctx *ctx, const struct mpq_npz *npz, uint32_t i,
                                 zip_file_t *file, uint8_t *bytes, size_t n, bool last)
{
    size_t at = 0;
    zip_int64_t got = 1;
    while (at < n && got > 0) {
        got = zip_fread(file, bytes + at, n - at);
        at += got > 0 ? (size_t)got : 0;
    }
    uint8_t beyond;
    if (at < n || (last && zip_fread(file, &beyond, 1) != 0))
        return fail_read(ctx, npz, i, got < 0 ? zip_file_strerror(file) : "it is damaged");
    return MPQ_OK;
}

/* The first n bytes of a member, or all of it. */
static enum mpq_status read_member(struct mpq_ctx *ctx, const struct mpq_npz *npz, uint32_t i,
                                   uint8_t *bytes, size_t n, bool all)
{
    zip_file_t *file = zip_fopen_index(npz->zip, npz->member[i], 0);
    if (!file)
        return fail_read(ctx, npz, i, zip_strerror(npz->zip));
    enum mpq_status status = read_next(ctx, npz, i, file, bytes, n, all);
    zip_fclose(file);
    return status;
}

static const char *where_is(struct mpq_ctx *ctx, const struct mpq_npz *npz, uint32_t i)
{
    return mpq_arena_printf(ctx, npz->arena, "%s: array '%s'", npz->path, npz->name[i]);
}

enum mpq_status mpq_npz_header(struct mpq_ctx *ctx, struct mpq_npz *npz, const char *name,
                               struct mpq_npy_header *out)
{
    uint32_t i = mpq_strmap_get(&npz->by_name, name);
    size_t n_bytes = 0;
    MPQ_ASSERT(i != MPQ_STRMAP_NONE);
    MPQ_TRY(member_bytes(ctx, npz, i, &n_bytes));
    if (n_bytes > MPQ_NPY_HEADER_BYTES)
        n_bytes = MPQ_NPY_HEADER_BYTES;
    uint8_t *bytes = mpq_arena_alloc(ctx, npz->arena, n_bytes, 1);
    const char *where = where_is(ctx, npz, i);
    if (!bytes || !where)
        return MPQ_E_NOMEM;
    MPQ_TRY(read_member(ctx, npz, i, bytes, n_bytes, false));
    return mpq_npy_parse_header(ctx, where, bytes, n_bytes, out);
}

enum mpq_status mpq_npz_read(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_npz *npz,
                             const char *name, struct mpq_tensor *out)
{
    uint32_t i = mpq_strmap_get(&npz->by_name, name);
    size_t n_bytes = 0;
    MPQ_ASSERT(i != MPQ_STRMAP_NONE);
    MPQ_TRY(member_bytes(ctx, npz, i, &n_bytes));
    uint8_t *bytes = mpq_arena_alloc(ctx, arena, n_bytes, 1);
    const char *where = where_is(ctx, npz, i);
    if (!bytes || !where)
        return MPQ_E_NOMEM;
    MPQ_TRY(read_member(ctx, npz, i, bytes, n_bytes, true));
    return mpq_npy_parse(ctx, arena, where, bytes, n_bytes, out);
}

/* All n_bytes of a member, in pieces. */
static enum mpq_status unpack(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                              const struct mpq_npz *npz, uint32_t i, size_t n_bytes,
                              const struct mpq_file *to)
{
    const size_t piece = (size_t)1 << 18;
    uint8_t *bytes = mpq_arena_alloc(ctx, scratch, piece, 1);
    zip_file_t *file = bytes ? zip_fopen_index(npz->zip, npz->member[i], 0) : NULL;
    if (!bytes)
        return MPQ_E_NOMEM;
    if (!file)
        return fail_read(ctx, npz, i, zip_strerror(npz->zip));
    enum mpq_status status = MPQ_OK;
    for (size_t at = 0; at < n_bytes && status == MPQ_OK; at += piece) {
        size_t n = n_bytes - at < piece ? n_bytes - at : piece;
        status = read_next(ctx, npz, i, file, bytes, n, at + n == n_bytes);
        if (status == MPQ_OK)
            status = mpq_file_append(ctx, to, bytes, n);
    }
    zip_fclose(file);
    return status;
}

enum mpq_status mpq_npz_rows(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_npz *npz,
                             const char *name, struct mpq_rows *out)
{
    uint32_t i = mpq_strmap_get(&npz->by_name, name);
    struct mpq_rows rows = {0};
    struct mpq_tensor tensor;
    size_t n_bytes = 0;
    MPQ_TRY(mpq_npz_header(ctx, npz, name, &rows.header));
    MPQ_TRY(member_bytes(ctx, npz, i, &n_bytes));
    const char *where = where_is(ctx, npz, i);
    if (!where)
        return MPQ_E_NOMEM;
    if (!mpq_rows_stay_on_disk(&rows.header)) {
        MPQ_TRY(mpq_npz_read(ctx, arena, npz, name, &tensor));
        *out = mpq_rows_of(&tensor);
        return MPQ_OK;
    }
    MPQ_TRY(mpq_npy_check_bytes(ctx, where, &rows.header, n_bytes));
    MPQ_TRY(mpq_file_open_scratch(ctx, arena, &rows.file));
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    enum mpq_status status = unpack(ctx, scratch, npz, i, n_bytes, &rows.file);
    mpq_arena_free(scratch);
    *out = rows;
    return status;
}

/* Add one array to the archive. libzip reads `bytes` when the archive is closed; the arena keeps
 * them until then. */
static bool add_member(zip_t *zip, const char *file_name, const uint8_t *bytes, size_t n_bytes)
{
    zip_source_t *source = zip_source_buffer(zip, bytes, n_bytes, 0);
    if (!source)
        return false;
    zip_int64_t i = zip_file_add(zip, file_name, source, ZIP_FL_ENC_UTF_8);
    if (i < 0) {
        zip_source_free(source);
        return false;
    }
    /* 1 January 1980, the first day a zip can tell. */
    return zip_set_file_compression(zip, (zip_uint64_t)i, ZIP_CM_STORE, 0) == 0 &&
           zip_file_set_dostime(zip, (zip_uint64_t)i, 0, 1 << 5 | 1, 0) == 0;
}

static enum mpq_status add_members(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                                   zip_t *zip, const char *const *name,
                                   const struct mpq_tensor *tensor, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint8_t *bytes;
        size_t n_bytes;
        const char *file_name = mpq_arena_printf(ctx, arena, "%s.npy", name[i]);
        if (!file_name)
            return MPQ_E_NOMEM;
        MPQ_TRY(mpq_npy_print(ctx, arena, &tensor[i], &bytes, &n_bytes));
        if (!add_member(zip, file_name, bytes, n_bytes))
            return mpq_fail(ctx, MPQ_E_FORMAT, "%s: array '%s' cannot be added: %s", path, name[i],
                            zip_strerror(zip));
    }
    return MPQ_OK;
}

/* The archive as bytes: libzip writes into `memory`, from which they are copied. */
static enum mpq_status take_bytes(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                                  zip_source_t *memory, uint8_t **out_bytes, size_t *out_n_bytes)
{
    zip_stat_t info;
    zip_stat_init(&info);
    if (zip_source_stat(memory, &info) != 0 || !(info.valid & ZIP_STAT_SIZE))
        return mpq_fail(ctx, MPQ_E_IO, "%s: the archive cannot be made", path);
    uint8_t *bytes = mpq_arena_alloc(ctx, arena, (size_t)info.size, 1);
    if (!bytes)
        return MPQ_E_NOMEM;
    bool read = zip_source_open(memory) == 0 &&
                zip_source_read(memory, bytes, info.size) == (zip_int64_t)info.size &&
                zip_source_close(memory) == 0;
    if (!read)
        return mpq_fail(ctx, MPQ_E_IO, "%s: the archive cannot be made", path);
    *out_bytes = bytes;
    *out_n_bytes = (size_t)info.size;
    return MPQ_OK;
}

enum mpq_status mpq_npz_write(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                              bool overwrite, const char *const *name,
                              const struct mpq_tensor *tensor, uint32_t n)
{
    zip_error_t error;
    zip_error_init(&error);
    zip_source_t *memory = zip_source_buffer_create(NULL, 0, 0, &error);
    zip_t *zip = memory ? zip_open_from_source(memory, ZIP_TRUNCATE, &error) : NULL;
    zip_error_fini(&error);
    if (!zip) {
        zip_source_free(memory);
        return mpq_fail(ctx, MPQ_E_NOMEM, "out of memory");
    }
    zip_source_keep(memory); /* zip_close frees one reference */
    uint8_t *bytes = NULL;
    size_t n_bytes = 0;
    enum mpq_status status = add_members(ctx, arena, path, zip, name, tensor, n);
    if (status != MPQ_OK)
        zip_discard(zip);
    else if (zip_close(zip) != 0) {
        status =
            mpq_fail(ctx, MPQ_E_IO, "%s: the archive cannot be made: %s", path, zip_strerror(zip));
        zip_discard(zip);
    } else
        status = take_bytes(ctx, arena, path, memory, &bytes, &n_bytes);
    zip_source_free(memory);
    MPQ_TRY(status);
    return mpq_file_write(ctx, arena, path, overwrite, bytes, n_bytes);
}
