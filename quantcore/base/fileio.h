/* Files: read whole, written whole. The only place that calls POSIX for it. */
#ifndef MPQ_BASE_FILEIO_H
#define MPQ_BASE_FILEIO_H

#include <sys/types.h>

#include "quantcore/base/arena.h"

/* The bytes of `path`, followed by one zero byte that out_bytes does not count. IO where it cannot
 * be read (a folder included), LIMIT where it is longer than max_bytes; messages name the path. */
enum mpq_status mpq_file_read(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                              size_t max_bytes, uint8_t **out_data, size_t *out_bytes) MPQ_CHECKED;

/* A file read in parts, closed with the arena: one that exists, or one without a name for what is
 * too large for memory, in the folder that TMPDIR names or else /var/tmp, gone when it is closed.
 * Both ..._at may be called on several threads at once, each with a ctx of its own. */
struct mpq_file {
    const char *path; /* for sentences */
    int fd;
};

enum mpq_status mpq_file_open(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                              struct mpq_file *out, size_t *out_bytes) MPQ_CHECKED;
enum mpq_status mpq_file_open_scratch(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      struct mpq_file *out) MPQ_CHECKED;
enum mpq_status mpq_file_append(struct mpq_ctx *ctx, const struct mpq_file *file, const void *data,
                                size_t bytes) MPQ_CHECKED;
enum mpq_status mpq_file_write_at(struct mpq_ctx *ctx, const struct mpq_file *file, size_t offset,
                                  const void *data, size_t bytes) MPQ_CHECKED;
enum mpq_status mpq_file_read_at(struct mpq_ctx *ctx, const struct mpq_file *file, size_t offset,
                                 void *data, size_t bytes) MPQ_CHECKED;

/* Whether something of that name exists, a dangling link included. */
bool mpq_file_exists(const char *path);

/* Whether two names are one file: what is written to either is read from the other. Of files that
 * are not there yet, whether they would be. */
bool mpq_file_is_same(const char *a, const char *b);

/* A file that is read where it lies, as external data are: from keep to unkeep none is opened for
 * writing that would take its place. `kept` stays where it is until then, after an error, IO, too.
 */
struct mpq_file_kept {
    struct mpq_ctx *ctx;
    dev_t device;
    ino_t number;
    struct mpq_file_kept *next;
};

enum mpq_status mpq_file_keep(struct mpq_ctx *ctx, int fd, struct mpq_file_kept *kept) MPQ_CHECKED;
void mpq_file_unkeep(struct mpq_file_kept *kept);

/* A file written beside its final name and renamed over it only when complete, so that the name
 * holds the old content or the new one and never half of it.
 *
 *     open -> write ... -> commit     or     open -> write ... -> discard
 *
 * commit flushes to the disk, checks every error, refuses an existing file unless overwrite was
 * said at open, and renames. discard (also safe after commit or a failed open) removes the
 * temporary. */
struct mpq_file_out {
    char *path, *temporary;
    int fd;
    mode_t mode; /* of the file */
    bool overwrite;
};

enum mpq_status mpq_file_out_open(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                                  bool overwrite, struct mpq_file_out *out) MPQ_CHECKED;
/* The same with the temporary in a folder of its own, under the final name: for files that name
 * each other. mpq_folder_create makes such a folder beside `path`; the last discard or commit does
 * not remove it, mpq_folder_remove does once it is empty (NULL is fine). */
enum mpq_status mpq_folder_create(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                                  char **out_folder) MPQ_CHECKED;
void mpq_folder_remove(const char *folder);
enum mpq_status mpq_file_out_open_in(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                     const char *folder, const char *path, bool overwrite,
                                     struct mpq_file_out *out) MPQ_CHECKED;

enum mpq_status mpq_file_out_write(struct mpq_ctx *ctx, struct mpq_file_out *out, const void *data,
                                   size_t bytes) MPQ_CHECKED;
/* What takes commit long, to be done before it, on several threads for several files: to the disk,
 * under the temporary name still. Nothing may be written afterwards. */
enum mpq_status mpq_file_out_flush(struct mpq_ctx *ctx, struct mpq_file_out *out) MPQ_CHECKED;
enum mpq_status mpq_file_out_commit(struct mpq_ctx *ctx, struct mpq_file_out *out) MPQ_CHECKED;
void mpq_file_out_discard(struct mpq_file_out *out);

/* open, write, commit. */
enum mpq_status mpq_file_write(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                               bool overwrite, const void *data, size_t bytes) MPQ_CHECKED;

#endif
