/* The .npy format, versions 1 to 3 (numpy.lib.format): a magic string, a Python dictionary that
 * gives type, order and shape, then the elements. Booleans, integers of 8 to 64 bits and floats of
 * 16 to 64 bits; either byte order; C and Fortran order. */
#ifndef MPQ_CALIBRATION_NPY_H
#define MPQ_CALIBRATION_NPY_H

#include "quantcore/ir/tensor.h"

#define MPQ_NPY_HEADER_BYTES ((size_t)65536 + 12) /* enough of a file to parse its header */

struct mpq_npy_header {
    enum mpq_dtype dtype;
    struct mpq_shape shape;
    int64_t count;      /* elements                                        */
    bool fortran_order; /* the first index runs fastest                    */
    bool swapped;       /* elements are in the other byte order than ours  */
    size_t data_offset; /* of the first element in the file                */
};

/* Type and shape from the first n_bytes of a file (all of it, or MPQ_NPY_HEADER_BYTES). Sentences
 * begin with `where`. FORMAT for what is no .npy, UNSUPPORTED for element types that are no numbers
 * and more than MPQ_MAX_RANK dimensions, LIMIT for shapes beyond MPQ_LIMIT_DATA_BYTES. */
enum mpq_status mpq_npy_parse_header(struct mpq_ctx *ctx, const char *where, const uint8_t *bytes,
                                     size_t n_bytes, struct mpq_npy_header *out) MPQ_CHECKED;

/* FORMAT unless a file of n_bytes holds exactly the elements that its header promises. */
enum mpq_status mpq_npy_check_bytes(struct mpq_ctx *ctx, const char *where,
                                    const struct mpq_npy_header *header,
                                    size_t n_bytes) MPQ_CHECKED;

/* Elements as they are in a file of that header -> as a tensor has them: byte order, booleans. */
void mpq_npy_order(const struct mpq_npy_header *header, uint8_t *data, int64_t count);

/* A whole file in memory -> a tensor in row-major order. The tensor takes `bytes` over: its data
 * lie in them, put in order there, unless that needs a copy (Fortran order, odd alignment). The
 * file must hold exactly the elements that its header promises. Errors as above. */
enum mpq_status mpq_npy_parse(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *where,
                              uint8_t *bytes, size_t n_bytes, struct mpq_tensor *out) MPQ_CHECKED;

/* The file at `path`. */
enum mpq_status mpq_npy_read(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                             struct mpq_tensor *out) MPQ_CHECKED;

/* The bytes of a version 1 file that holds the tensor, whose type is one of those named above. */
enum mpq_status mpq_npy_print(struct mpq_ctx *ctx, struct mpq_arena *arena,
                              const struct mpq_tensor *tensor, uint8_t **out_bytes,
                              size_t *out_n_bytes) MPQ_CHECKED;

#endif
