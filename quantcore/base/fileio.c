#include "quantcore/base/fileio.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static enum mpq_status read_fd(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                               int fd, size_t max_bytes, uint8_t **out_data, size_t *out_bytes)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return mpq_fail(ctx, MPQ_E_IO, "%s: cannot be read: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return mpq_fail(ctx, MPQ_E_IO, "%s: is not a file", path);
    size_t n_bytes = (size_t)info.st_size;
    if (n_bytes > max_bytes)
        return mpq_fail(ctx, MPQ_E_LIMIT, "%s: %zu bytes, at most %zu are accepted", path, n_bytes,
                        max_bytes);
    uint8_t *data = mpq_arena_alloc(ctx, arena, n_bytes + 1, 1);
    if (!data)
        return MPQ_E_NOMEM;
    for (size_t done = 0; done < n_bytes;) {
        ssize_t n = read(fd, data + done, n_bytes - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return mpq_fail(ctx, MPQ_E_IO, "%s: cannot be read: %s", path, strerror(errno));
        if (n == 0)
            return mpq_fail(ctx, MPQ_E_IO, "%s: ends after %zu of %zu bytes", path, done, n_bytes);
        done += (size_t)n;
    }
    *out_data = data;
    *out_bytes = n_bytes;
    return MPQ_OK;
}

enum mpq_status mpq_file_read(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                              size_t max_bytes, uint8_t **out_data, size_t *out_bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return mpq_fail(ctx, MPQ_E_IO, "%s: cannot be opened: %s", path, strerror(errno));
    enum mpq_status status = read_fd(ctx, arena, path, fd, max_bytes, out_data, out_bytes);
    close(fd);
    return status;
}

static enum mpq_status write_fd(struct mpq_ctx *ctx, const char *path, int fd, const void *data,
                                size_t bytes)
{
    const uint8_t *p = data;
    while (bytes) {
        ssize_t n = write(fd, p, bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return mpq_fail(ctx, MPQ_E_IO, "%s: cannot be written: %s", path, strerror(errno));
        p += n;
        bytes -= (size_t)n;
    }
    return MPQ_OK;
}

/* ---- in parts ---- */

static void close_file(void *fd)
{
    close((int)(intptr_t)fd);
}

/* The file is the arena's from here on. */
static enum mpq_status keep_open(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                                 int fd, struct mpq_file *out)
{
    if (fd < 0)
        return mpq_fail(ctx, MPQ_E_IO, "%s: cannot be opened: %s", path, strerror(errno));
    enum mpq_status status = mpq_arena_defer(ctx, arena, close_file, (void *)(intptr_t)fd);
    if (status != MPQ_OK)
        close(fd);
    else
        *out = (struct mpq_file){path, fd};
    return status;
}

enum mpq_status mpq_file_open(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                              struct mpq_file *out, size_t *out_bytes)
{
    struct stat info;
    const char *name = mpq_arena_strdup(ctx, arena, path);
    if (!name)
        return MPQ_E_NOMEM;
    MPQ_TRY(keep_open(ctx, arena, name, open(path, O_RDONLY | O_CLOEXEC), out));
    if (fstat(out->fd, &info) != 0 || !S_ISREG(info.st_mode))
        return mpq_fail(ctx, MPQ_E_IO, "%s: is not a file", path);
    *out_bytes = (size_t)info.st_size;
    return MPQ_OK;
}

enum mpq_status mpq_file_open_scratch(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      struct mpq_file *out)
{
    const char *folder = getenv("TMPDIR");
    char *path =
        mpq_arena_printf(ctx, arena, "%s/onnx-mpq.XXXXXX", folder && *folder ? folder : "/var/tmp");
    if (!path)
        return MPQ_E_NOMEM;
    int fd = mkstemp(path);
    if (fd < 0)
        return mpq_fail(ctx, MPQ_E_IO, "%s: cannot be written: %s (TMPDIR names another folder)",
                        path, strerror(errno));
    unlink(path);
    return keep_open(ctx, arena, path, fd, out);
}

enum mpq_status mpq_file_append(struct mpq_ctx *ctx, const struct mpq_file *file, const void *data,
                                size_t bytes)
{
    return write_fd(ctx, file->path, file->fd, data, bytes);
}

enum mpq_status mpq_file_write_at(struct mpq_ctx *ctx, const struct mpq_file *file, size_t offset,
                                  const void *data, size_t bytes)
{
    const uint8_t *p = data;
    while (bytes) {
        ssize_t n = pwrite(file->fd, p, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return mpq_fail(ctx, MPQ_E_IO, "%s: cannot be written: %s", file->path,
                            strerror(errno));
        p += n;
        offset += (size_t)n;
        bytes -= (size_t)n;
    }
    return MPQ_OK;
}

enum mpq_status mpq_file_read_at(struct mpq_ctx *ctx, const struct mpq_file *file, size_t offset,
                                 void *data, size_t bytes)
{
    uint8_t *p = data;
    while (bytes) {
        ssize_t n = pread(file->fd, p, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return mpq_fail(ctx, MPQ_E_IO, "%s: cannot be read: %s", file->path, strerror(errno));
        if (n == 0)
            return mpq_fail(ctx, MPQ_E_IO, "%s: has become shorter", file->path);
        p += n;
        offset += (size_t)n;
        bytes -= (size_t)n;
    }
    return MPQ_OK;
}

/* ---- whole ---- */

bool mpq_file_exists(const char *path)
{
    struct stat info;
    return lstat(path, &info) == 0;
}

static bool is_same_inode(const char *a, const char *b)
{
    struct stat info_a, info_b;
    return stat(a, &info_a) == 0 && stat(b, &info_b) == 0 && info_a.st_dev == info_b.st_dev &&
           info_a.st_ino == info_b.st_ino;
}

/* The folder of a path, into out [PATH_MAX]; returns the name in it. Too long: what is there of it
 * is no folder. */
static const char *split_path(const char *path, char *out)
{
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) + 1 : 0;
    snprintf(out, PATH_MAX, "%.*s", n ? (int)n : 1, n ? path : ".");
    return path + n;
}

bool mpq_file_is_same(const char *a, const char *b)
{
    char folder_a[PATH_MAX], folder_b[PATH_MAX];
    const char *name_a = split_path(a, folder_a), *name_b = split_path(b, folder_b);
    return is_same_inode(a, b) ||
           (strcmp(name_a, name_b) == 0 && is_same_inode(folder_a, folder_b));
}

enum mpq_status mpq_file_keep(struct mpq_ctx *ctx, int fd, struct mpq_file_kept *kept)
{
    struct stat info;
    *kept = (struct mpq_file_kept){.ctx = ctx};
    if (fstat(fd, &info) != 0)
        return mpq_fail(ctx, MPQ_E_IO, "a file cannot be looked at: %s", strerror(errno));
    *kept = (struct mpq_file_kept){ctx, info.st_dev, info.st_ino, ctx->kept};
    ctx->kept = kept;
    return MPQ_OK;
}

void mpq_file_unkeep(struct mpq_file_kept *kept)
{
    struct mpq_file_kept **at = &kept->ctx->kept;
    while (*at && *at != kept)
        at = &(*at)->next;
    if (*at)
        *at = kept->next;
}

/* Whether a file may be put there. */
static enum mpq_status check_place(struct mpq_ctx *ctx, const char *path, bool overwrite)
{
    struct stat info;
    if (!overwrite && mpq_file_exists(path))
        return mpq_fail(ctx, MPQ_E_IO, "%s: exists already (--overwrite replaces it)", path);
    if (stat(path, &info) != 0)
        return MPQ_OK;
    if (!S_ISREG(info.st_mode))
        return mpq_fail(ctx, MPQ_E_IO, "%s: is not a file", path);
    for (const struct mpq_file_kept *kept = ctx->kept; kept; kept = kept->next)
        if (info.st_dev == kept->device && info.st_ino == kept->number)
            return mpq_fail(ctx, MPQ_E_USAGE, "%s: is read as external data of a model", path);
    return MPQ_OK;
}

static enum mpq_status open_temporary(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      const char *path, char *temporary, bool is_template,
                                      struct mpq_file_out *out)
{
    char *final_path = mpq_arena_strdup(ctx, arena, path);
    if (!final_path || !temporary)
        return MPQ_E_NOMEM;
    int fd = is_template ? mkstemp(temporary)
                         : open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return mpq_fail(ctx, MPQ_E_IO, "%s: cannot be written: %s", path, strerror(errno));
    /* umask() can be read by setting it alone, which no two threads may do at once. */
    mode_t mask = umask(0);
    umask(mask);
    out->mode = 0666 & ~mask;
    out->fd = fd;
    out->path = final_path;
    out->temporary = temporary;
    return MPQ_OK;
}

enum mpq_status mpq_file_out_open(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                                  bool overwrite, struct mpq_file_out *out)
{
    *out = (struct mpq_file_out){.fd = -1, .overwrite = overwrite};
    MPQ_TRY(check_place(ctx, path, overwrite));
    return open_temporary(ctx, arena, path, mpq_arena_printf(ctx, arena, "%s.XXXXXX", path), true,
                          out);
}

enum mpq_status mpq_folder_create(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                                  char **out_folder)
{
    char *folder = mpq_arena_printf(ctx, arena, "%s.XXXXXX", path);
    if (!folder)
        return MPQ_E_NOMEM;
    if (!mkdtemp(folder))
        return mpq_fail(ctx, MPQ_E_IO, "%s: cannot be written: %s", path, strerror(errno));
    *out_folder = folder;
    return MPQ_OK;
}

void mpq_folder_remove(const char *folder)
{
    if (folder)
        rmdir(folder);
}

enum mpq_status mpq_file_out_open_in(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                     const char *folder, const char *path, bool overwrite,
                                     struct mpq_file_out *out)
{
    const char *slash = strrchr(path, '/');
    *out = (struct mpq_file_out){.fd = -1, .overwrite = overwrite};
    MPQ_TRY(check_place(ctx, path, overwrite));
    char *temporary = mpq_arena_printf(ctx, arena, "%s/%s", folder, slash ? slash + 1 : path);
    return open_temporary(ctx, arena, path, temporary, false, out);
}

enum mpq_status mpq_file_out_write(struct mpq_ctx *ctx, struct mpq_file_out *out, const void *data,
                                   size_t bytes)
{
    return write_fd(ctx, out->path, out->fd, data, bytes);
}

enum mpq_status mpq_file_out_flush(struct mpq_ctx *ctx, struct mpq_file_out *out)
{
    /* mkstemp made the file private; give it the permissions any new file would have. */
    bool written = fchmod(out->fd, out->mode) == 0 && fsync(out->fd) == 0;
    int error = errno;
    if (close(out->fd) != 0 && written) {
        written = false;
        error = errno;
    }
    out->fd = -1;
    if (!written)
        return mpq_fail(ctx, MPQ_E_IO, "%s: cannot be written: %s", out->path, strerror(error));
    return MPQ_OK;
}

enum mpq_status mpq_file_out_commit(struct mpq_ctx *ctx, struct mpq_file_out *out)
{
    if (out->fd >= 0)
        MPQ_TRY(mpq_file_out_flush(ctx, out));
    /* link() fails on an existing name, so nothing that appeared meanwhile is lost. Some file
     * systems have no links; there the check and the rename are two steps. */
    if (!out->overwrite) {
        if (link(out->temporary, out->path) == 0) {
            unlink(out->temporary);
            out->temporary = NULL;
            return MPQ_OK;
        }
        if (errno == EEXIST || mpq_file_exists(out->path))
            return mpq_fail(ctx, MPQ_E_IO, "%s: exists already (--overwrite replaces it)",
                            out->path);
    }
    if (rename(out->temporary, out->path) != 0)
        return mpq_fail(ctx, MPQ_E_IO, "%s: cannot be written: %s", out->path, strerror(errno));
    out->temporary = NULL;
    return MPQ_OK;
}

void mpq_file_out_discard(struct mpq_file_out *out)
{
    if (out->fd >= 0)
        close(out->fd);
    out->fd = -1;
    if (out->temporary)
        unlink(out->temporary);
    out->temporary = NULL;
}

enum mpq_status mpq_file_write(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                               bool overwrite, const void *data, size_t bytes)
{
    struct mpq_file_out out;
    enum mpq_status status = mpq_file_out_open(ctx, arena, path, overwrite, &out);
    if (status == MPQ_OK)
        status = mpq_file_out_write(ctx, &out, data, bytes);
    if (status == MPQ_OK)
        status = mpq_file_out_commit(ctx, &out);
    mpq_file_out_discard(&out);
    return status;
}
