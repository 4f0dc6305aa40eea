/* An .npz file: a zip of .npy members, each an array by the member's name without ".npy". */
#ifndef MPQ_CALIBRATION_NPZ_H
#define MPQ_CALIBRATION_NPZ_H

#include "calibration/rows.h"

struct mpq_npz;

/* Opens the file and lists its members; it is closed when the arena goes. Members are read when
 * asked for. Sentences name the path and the array. */
enum mpq_status mpq_npz_open(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                             struct mpq_npz **out) MPQ_CHECKED;

uint32_t mpq_npz_count(const struct mpq_npz *npz); /* arrays, in the order of the file */
const char *mpq_npz_name(const struct mpq_npz *npz, uint32_t i);
bool mpq_npz_has(const struct mpq_npz *npz, const char *name);

/* Type and shape of an array that is there, without reading its elements. */
enum mpq_status mpq_npz_header(struct mpq_ctx *ctx, struct mpq_npz *npz, const char *name,
                               struct mpq_npy_header *out) MPQ_CHECKED;

/* An array that is there, checked against the zip's checksum, with its data in `arena`. */
enum mpq_status mpq_npz_read(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_npz *npz,
                             const char *name, struct mpq_tensor *out) MPQ_CHECKED;

/* The same for an array that stays out of memory where it is large: it is unpacked to a file. */
enum mpq_status mpq_npz_rows(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_npz *npz,
                             const char *name, struct mpq_rows *out) MPQ_CHECKED;

/* Write tensor[0..n) as arrays name[0..n), uncompressed, complete or not at all. The bytes depend
 * on names and tensors alone: no time, no order but the one given. `arena` holds a copy of the file
 * on the way. */
enum mpq_status mpq_npz_write(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                              bool overwrite, const char *const *name,
                              const struct mpq_tensor *tensor, uint32_t n) MPQ_CHECKED;

#endif
