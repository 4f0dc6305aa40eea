#include "quantcore/ir/dtype.h"

#include "quantcore/base/real.h"

static const struct {
    const char *name;
    unsigned char bytes, bits;
    bool is_integer;
} type[MPQ_N_DTYPE] = {
    [MPQ_UNDEFINED] = {"undefined", 0, 0, false},
    [MPQ_FLOAT] = {"float", sizeof(mpq_real), 32, false},
    [MPQ_UINT8] = {"uint8", 1, 8, true},
    [MPQ_INT8] = {"int8", 1, 8, true},
    [MPQ_UINT16] = {"uint16", 2, 16, true},
    [MPQ_INT16] = {"int16", 2, 16, true},
    [MPQ_INT32] = {"int32", 4, 32, true},
    [MPQ_INT64] = {"int64", 8, 64, true},
    [MPQ_STRING] = {"string", sizeof(char *), 0, false},
    [MPQ_BOOL] = {"bool", 1, 8, false},
    [MPQ_FLOAT16] = {"float16", 2, 16, false},
    [MPQ_DOUBLE] = {"double", 8, 64, false},
    [MPQ_UINT32] = {"uint32", 4, 32, true},
    [MPQ_UINT64] = {"uint64", 8, 64, true},
    [MPQ_COMPLEX64] = {"complex64", 8, 64, false},
    [MPQ_COMPLEX128] = {"complex128", 16, 128, false},
    [MPQ_BFLOAT16] = {"bfloat16", 2, 16, false},
    [MPQ_FLOAT8E4M3FN] = {"float8e4m3fn", 1, 8, false},
    [MPQ_FLOAT8E4M3FNUZ] = {"float8e4m3fnuz", 1, 8, false},
    [MPQ_FLOAT8E5M2] = {"float8e5m2", 1, 8, false},
    [MPQ_FLOAT8E5M2FNUZ] = {"float8e5m2fnuz", 1, 8, false},
    [MPQ_UINT4] = {"uint4", 1, 4, true},
    [MPQ_INT4] = {"int4", 1, 4, true},
    [MPQ_FLOAT4E2M1] = {"float4e2m1", 1, 4, false},
    [MPQ_FLOAT8E8M0] = {"float8e8m0", 1, 8, false},
    [MPQ_UINT2] = {"uint2", 1, 2, true},
    [MPQ_INT2] = {"int2", 1, 2, true},
    [MPQ_FLOAT6E2M3] = {"float6e2m3", 1, 6, false},
    [MPQ_FLOAT6E3M2] = {"float6e3m2", 1, 6, false},
};

static bool known(enum mpq_dtype dtype)
{
    return (unsigned)dtype < MPQ_N_DTYPE;
}

size_t mpq_dtype_bytes(enum mpq_dtype dtype)
{
    return known(dtype) ? type[dtype].bytes : 0;
}

int mpq_dtype_bits(enum mpq_dtype dtype)
{
    return known(dtype) ? type[dtype].bits : 0;
}

const char *mpq_dtype_name(enum mpq_dtype dtype)
{
    return known(dtype) ? type[dtype].name : "unknown";
}

bool mpq_dtype_is_integer(enum mpq_dtype dtype)
{
    return known(dtype) && type[dtype].is_integer;
}

bool mpq_dtype_is_other_float(enum mpq_dtype dtype)
{
    return dtype == MPQ_FLOAT16 || dtype == MPQ_BFLOAT16 || dtype == MPQ_DOUBLE;
}
