/* Shapes and tensors: dense, row-major, rank 0 to MPQ_MAX_RANK. */
#ifndef MPQ_IR_TENSOR_H
#define MPQ_IR_TENSOR_H

#include "quantcore/base/arena.h"
#include "quantcore/base/limits.h"
#include "quantcore/base/real.h"
#include "quantcore/ir/dtype.h"

#define MPQ_DIM_UNKNOWN  (-1) /* a dimension that is symbolic or not given */
#define MPQ_RANK_UNKNOWN (-1) /* a shape of which nothing is known         */

struct mpq_shape {
    int rank;
    int64_t dim[MPQ_MAX_RANK];
};

/* `data` NULL: only type and shape are known. Element layout as ir/dtype.h says. */
struct mpq_tensor {
    enum mpq_dtype dtype;
    struct mpq_shape shape;
    void *data;
};

#define MPQ_SHAPE(...)                                                                             \
    ((struct mpq_shape){(int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}})

bool mpq_shape_is_known(const struct mpq_shape *shape); /* rank and every dimension >= 0 */
bool mpq_shape_equal(const struct mpq_shape *a, const struct mpq_shape *b);
int64_t mpq_shape_count(const struct mpq_shape *shape); /* elements; the shape must be known and
                                                           checked: no overflow is looked for  */
int64_t mpq_shape_count_range(const struct mpq_shape *shape, int begin, int end); /* of dims
                                                                                [begin, end) */

/* Elements of an untrusted shape; LIMIT where they would take more than MPQ_LIMIT_TENSOR_BYTES. */
enum mpq_status mpq_shape_count_checked(struct mpq_ctx *ctx, const struct mpq_shape *shape,
                                        size_t element_bytes, int64_t *out_count) MPQ_CHECKED;

/* "[1,3,224,224]", "[?,3]" with ? for unknown dimensions, "[]", or "[...]" for an unknown rank.
 * Into buffer, always terminated; returns buffer. 168 bytes are always enough. */
char *mpq_shape_print(const struct mpq_shape *shape, char *buffer, size_t bytes);
#define MPQ_SHAPE_TEXT(shape) mpq_shape_print(shape, (char[168]){0}, 168)

/* Shape of elementwise numpy broadcasting of a and b; false where they do not fit. */
bool mpq_shape_broadcast(const struct mpq_shape *a, const struct mpq_shape *b,
                         struct mpq_shape *out);

size_t mpq_tensor_bytes(const struct mpq_tensor *tensor); /* in memory */

/* A zeroed tensor of a known shape. */
enum mpq_status mpq_tensor_alloc(struct mpq_ctx *ctx, struct mpq_arena *arena, enum mpq_dtype dtype,
                                 const struct mpq_shape *shape, struct mpq_tensor *out) MPQ_CHECKED;

/* Element i of an integer or bool tensor, as int64; of a FLOAT, DOUBLE, FLOAT16, BFLOAT16 or
 * integer tensor, as double. The tensor has data and i is in range. */
int64_t mpq_tensor_int(const struct mpq_tensor *tensor, int64_t i);
double mpq_tensor_double(const struct mpq_tensor *tensor, int64_t i);
/* Integers saturate, and take NaN as 0. */
void mpq_tensor_set_double(struct mpq_tensor *tensor, int64_t i, double value);
/* Of an integer (the value modulo 2^bits) or bool tensor. */
void mpq_tensor_set_int(struct mpq_tensor *tensor, int64_t i, int64_t value);

/* The same of elements first .. first + n - 1, with one look at the type for all. */
void mpq_tensor_ints(const struct mpq_tensor *tensor, int64_t first, int64_t n, int64_t *out);
void mpq_tensor_set_ints(struct mpq_tensor *tensor, int64_t first, int64_t n, const int64_t *value);

/* First index of a NaN or an infinity in a FLOAT tensor, or -1. */
int64_t mpq_tensor_find_nonfinite(const struct mpq_tensor *tensor);

float mpq_half_to_float(uint16_t half); /* IEEE binary16, and back with round to nearest even */
uint16_t mpq_float_to_half(float value);

#endif
