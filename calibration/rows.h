/* An array of samples that is read a few elements at a time, so that memory does not depend on how
 * many samples there are. */
#ifndef MPQ_CALIBRATION_ROWS_H
#define MPQ_CALIBRATION_ROWS_H

#include "calibration/npy.h"
#include "quantcore/base/fileio.h"

struct mpq_rows {
    struct mpq_npy_header header; /* type and shape of all; where in the file                   */
    struct mpq_file file;         /* the .npy file, or a copy of it                             */
    const void *data;             /* the elements in memory: the file is not used. NULL: it is  */
};

/* Whether an array of that header is left on the disk: not where it is small, nor in Fortran order,
 * whose rows do not lie together. */
bool mpq_rows_stay_on_disk(const struct mpq_npy_header *header);

struct mpq_rows mpq_rows_of(const struct mpq_tensor *tensor);

/* The .npy file at `path`. Errors as of mpq_npy_read(). */
enum mpq_status mpq_rows_open(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                              struct mpq_rows *out) MPQ_CHECKED;

/* Elements [first, first + count), as a tensor has them. On any thread. */
enum mpq_status mpq_rows_read(struct mpq_ctx *ctx, const struct mpq_rows *rows, int64_t first,
                              int64_t count, void *out) MPQ_CHECKED;

#endif
