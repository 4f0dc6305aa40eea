/* Element types, numbered as ONNX numbers them (TensorProto.DataType). */
#ifndef MPQ_IR_DTYPE_H
#define MPQ_IR_DTYPE_H

#include <stdbool.h>
#include <stddef.h>

enum mpq_dtype {
    MPQ_UNDEFINED = 0,
    MPQ_FLOAT = 1, /* in memory: mpq_real */
    MPQ_UINT8 = 2,
    MPQ_INT8 = 3,
    MPQ_UINT16 = 4,
    MPQ_INT16 = 5,
    MPQ_INT32 = 6,
    MPQ_INT64 = 7,
    MPQ_STRING = 8, /* in memory: const char * */
    MPQ_BOOL = 9,   /* in memory: uint8_t, 0 or 1 */
    MPQ_FLOAT16 = 10,
    MPQ_DOUBLE = 11,
    MPQ_UINT32 = 12,
    MPQ_UINT64 = 13,
    MPQ_COMPLEX64 = 14,
    MPQ_COMPLEX128 = 15,
    MPQ_BFLOAT16 = 16,
    MPQ_FLOAT8E4M3FN = 17,
    MPQ_FLOAT8E4M3FNUZ = 18,
    MPQ_FLOAT8E5M2 = 19,
    MPQ_FLOAT8E5M2FNUZ = 20,
    MPQ_UINT4 = 21, /* in memory: one per byte, packed only in files */
    MPQ_INT4 = 22,
    MPQ_FLOAT4E2M1 = 23,
    MPQ_FLOAT8E8M0 = 24,
    MPQ_UINT2 = 25,
    MPQ_INT2 = 26,
    MPQ_FLOAT6E2M3 = 27,
    MPQ_FLOAT6E3M2 = 28,
    MPQ_N_DTYPE
};

size_t mpq_dtype_bytes(enum mpq_dtype dtype); /* of one element in memory; 0: cannot be held   */
int mpq_dtype_bits(enum mpq_dtype dtype);     /* of one element in a file; 0: unknown or string */
const char *mpq_dtype_name(enum mpq_dtype dtype); /* "float", "uint8", ... as ONNX prints them   */
bool mpq_dtype_is_integer(enum mpq_dtype dtype);  /* bool is not */
/* float16, bfloat16 and double: what files have and we compute as float. */
bool mpq_dtype_is_other_float(enum mpq_dtype dtype);

#endif
