#include "quantcore/ir/tensor.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "quantcore/ir/small_float.h"

bool mpq_shape_is_known(const struct mpq_shape *shape)
{
    if (shape->rank < 0)
        return false;
    for (int i = 0; i < shape->rank; i++)
        if (shape->dim[i] < 0)
            return false;
    return true;
}

bool mpq_shape_equal(const struct mpq_shape *a, const struct mpq_shape *b)
{
    if (a->rank != b->rank)
        return false;
    for (int i = 0; i < a->rank; i++)
        if (a->dim[i] != b->dim[i])
            return false;
    return true;
}

int64_t mpq_shape_count_range(const struct mpq_shape *shape, int begin, int end)
{
    int64_t count = 1;
    for (int i = begin; i < end; i++)
        count *= shape->dim[i];
    return count;
}

int64_t mpq_shape_count(const struct mpq_shape *shape)
{
    return mpq_shape_count_range(shape, 0, shape->rank);
}

enum mpq_status mpq_shape_count_checked(struct mpq_ctx *ctx, const struct mpq_shape *shape,
                                        size_t element_bytes, int64_t *out_count)
{
    if (!mpq_shape_is_known(shape))
        return mpq_fail(ctx, MPQ_E_SHAPE, "shape %s is not fully known", MPQ_SHAPE_TEXT(shape));
    int64_t count = 1, bytes = (int64_t)element_bytes;
    bool empty = false, overflow = false;
    for (int i = 0; i < shape->rank; i++) {
        empty |= shape->dim[i] == 0;
        overflow |= __builtin_mul_overflow(count, shape->dim[i], &count);
    }
    if (empty)
        count = bytes = 0;
    else if (overflow || __builtin_mul_overflow(bytes, count, &bytes) ||
             (uint64_t)bytes > MPQ_LIMIT_TENSOR_BYTES)
        return mpq_fail(ctx, MPQ_E_LIMIT, "a tensor of shape %s is larger than %zu bytes",
                        MPQ_SHAPE_TEXT(shape), (size_t)MPQ_LIMIT_TENSOR_BYTES);
    *out_count = count;
    return MPQ_OK;
}

char *mpq_shape_print(const struct mpq_shape *shape, char *buffer, size_t bytes)
{
    if (shape->rank < 0) {
        snprintf(buffer, bytes, "[...]");
        return buffer;
    }
    size_t n = (size_t)snprintf(buffer, bytes, "[");
    for (int i = 0; i < shape->rank && n < bytes; i++) {
        const char *comma = i ? "," : "";
        if (shape->dim[i] < 0)
            n += (size_t)snprintf(buffer + n, bytes - n, "%s?", comma);
        else
            n += (size_t)snprintf(buffer + n, bytes - n, "%s%lld", comma, (long long)shape->dim[i]);
    }
    if (n < bytes)
        snprintf(buffer + n, bytes - n, "]");
    return buffer;
}

bool mpq_shape_broadcast(const struct mpq_shape *a, const struct mpq_shape *b,
                         struct mpq_shape *out)
{
    struct mpq_shape result = {.rank = a->rank > b->rank ? a->rank : b->rank};
    for (int i = 1; i <= result.rank; i++) {
        int64_t m = i <= a->rank ? a->dim[a->rank - i] : 1;
        int64_t n = i <= b->rank ? b->dim[b->rank - i] : 1;
        if (m != n && m != 1 && n != 1)
            return false;
        result.dim[result.rank - i] = m == 1 ? n : m;
    }
    *out = result;
    return true;
}

size_t mpq_tensor_bytes(const struct mpq_tensor *tensor)
{
    return (size_t)mpq_shape_count(&tensor->shape) * mpq_dtype_bytes(tensor->dtype);
}

enum mpq_status mpq_tensor_alloc(struct mpq_ctx *ctx, struct mpq_arena *arena, enum mpq_dtype dtype,
                                 const struct mpq_shape *shape, struct mpq_tensor *out)
{
    int64_t count;
    size_t element_bytes = mpq_dtype_bytes(dtype);
    if (!element_bytes)
        return mpq_fail(ctx, MPQ_E_UNSUPPORTED, "element type %s is not supported",
                        mpq_dtype_name(dtype));
    MPQ_TRY(mpq_shape_count_checked(ctx, shape, element_bytes, &count));
    void *data = mpq_arena_alloc(ctx, arena, (size_t)count, element_bytes);
    if (!data)
        return MPQ_E_NOMEM;
    *out = (struct mpq_tensor){dtype, *shape, data};
    return MPQ_OK;
}

int64_t mpq_tensor_int(const struct mpq_tensor *tensor, int64_t i)
{
    const void *data = tensor->data;
    switch (tensor->dtype) {
    case MPQ_UINT8:
    case MPQ_BOOL:
    case MPQ_UINT4:
    case MPQ_UINT2:
        return ((const uint8_t *)data)[i];
    case MPQ_INT8:
    case MPQ_INT4:
    case MPQ_INT2:
        return ((const int8_t *)data)[i];
    case MPQ_UINT16:
        return ((const uint16_t *)data)[i];
    case MPQ_INT16:
        return ((const int16_t *)data)[i];
    case MPQ_INT32:
        return ((const int32_t *)data)[i];
    case MPQ_UINT32:
        return ((const uint32_t *)data)[i];
    case MPQ_INT64:
        return ((const int64_t *)data)[i];
    case MPQ_UINT64:
        return (int64_t)((const uint64_t *)data)[i];
    default:
        MPQ_ASSERT(!"an integer tensor");
        return 0;
    }
}

double mpq_tensor_double(const struct mpq_tensor *tensor, int64_t i)
{
    switch (tensor->dtype) {
    case MPQ_FLOAT:
        return (double)((const mpq_real *)tensor->data)[i];
    case MPQ_DOUBLE:
        return ((const double *)tensor->data)[i];
    case MPQ_FLOAT16:
        return (double)mpq_half_to_float(((const uint16_t *)tensor->data)[i]);
    case MPQ_BFLOAT16: {
        uint32_t bits = (uint32_t)((const uint16_t *)tensor->data)[i] << 16;
        float value;
        memcpy(&value, &bits, sizeof value);
        return (double)value;
    }
    case MPQ_UINT64:
        return (double)((const uint64_t *)tensor->data)[i];
    default:
        if (mpq_is_small_float(tensor->dtype))
            return mpq_small_float_decode(tensor->dtype, ((const uint8_t *)tensor->data)[i]);
        return (double)mpq_tensor_int(tensor, i);
    }
}

static double clamp(double value, double low, double high)
{
    return value < low ? low : value > high ? high : value;
}

void mpq_tensor_set_double(struct mpq_tensor *tensor, int64_t i, double value)
{
    void *data = tensor->data;
    if (isnan(value) && mpq_dtype_is_integer(tensor->dtype))
        value = 0;
    switch (tensor->dtype) {
    case MPQ_FLOAT:
        ((mpq_real *)data)[i] = (mpq_real)value;
        break;
    case MPQ_DOUBLE:
        ((double *)data)[i] = value;
        break;
    case MPQ_FLOAT16:
        ((uint16_t *)data)[i] = mpq_float_to_half((float)value);
        break;
    case MPQ_BFLOAT16: {
        float single = (float)value;
        uint32_t bits;
        memcpy(&bits, &single, sizeof bits);
        if (!isnan(single))
            bits += 0x7fff + (bits >> 16 & 1);
        ((uint16_t *)data)[i] = (uint16_t)(bits >> 16);
        break;
    }
    case MPQ_UINT8:
        ((uint8_t *)data)[i] = (uint8_t)clamp(value, 0, UINT8_MAX);
        break;
    case MPQ_BOOL:
        ((uint8_t *)data)[i] = value != 0;
        break;
    case MPQ_INT8:
        ((int8_t *)data)[i] = (int8_t)clamp(value, INT8_MIN, INT8_MAX);
        break;
    case MPQ_UINT4:
        ((uint8_t *)data)[i] = (uint8_t)clamp(value, 0, 15);
        break;
    case MPQ_INT4:
        ((int8_t *)data)[i] = (int8_t)clamp(value, -8, 7);
        break;
    case MPQ_UINT2:
        ((uint8_t *)data)[i] = (uint8_t)clamp(value, 0, 3);
        break;
    case MPQ_INT2:
        ((int8_t *)data)[i] = (int8_t)clamp(value, -2, 1);
        break;
    case MPQ_UINT16:
        ((uint16_t *)data)[i] = (uint16_t)clamp(value, 0, UINT16_MAX);
        break;
    case MPQ_INT16:
        ((int16_t *)data)[i] = (int16_t)clamp(value, INT16_MIN, INT16_MAX);
        break;
    case MPQ_INT32:
        ((int32_t *)data)[i] = (int32_t)clamp(value, INT32_MIN, INT32_MAX);
        break;
    case MPQ_UINT32:
        ((uint32_t *)data)[i] = (uint32_t)clamp(value, 0, UINT32_MAX);
        break;
    case MPQ_INT64:
        ((int64_t *)data)[i] = value >= 0x1p63    ? INT64_MAX
                               : value <= -0x1p63 ? INT64_MIN
                                                  : (int64_t)value;
        break;
    case MPQ_UINT64:
        ((uint64_t *)data)[i] = value >= 0x1p64 ? UINT64_MAX : value <= 0 ? 0 : (uint64_t)value;
        break;
    default:
        MPQ_ASSERT(mpq_is_small_float(tensor->dtype));
        ((uint8_t *)data)[i] = mpq_small_float_encode(tensor->dtype, value, true);
    }
}

void mpq_tensor_set_int(struct mpq_tensor *tensor, int64_t i, int64_t value)
{
    void *data = tensor->data;
    switch (tensor->dtype) {
    case MPQ_BOOL:
        ((uint8_t *)data)[i] = value != 0;
        break;
    case MPQ_UINT8:
    case MPQ_INT8:
        ((uint8_t *)data)[i] = (uint8_t)value;
        break;
    case MPQ_UINT4:
        ((uint8_t *)data)[i] = (uint8_t)(value & 15);
        break;
    case MPQ_INT4:
        ((int8_t *)data)[i] = (int8_t)(((value & 15) ^ 8) - 8);
        break;
    case MPQ_UINT2:
        ((uint8_t *)data)[i] = (uint8_t)(value & 3);
        break;
    case MPQ_INT2:
        ((int8_t *)data)[i] = (int8_t)(((value & 3) ^ 2) - 2);
        break;
    case MPQ_UINT16:
    case MPQ_INT16:
        ((uint16_t *)data)[i] = (uint16_t)value;
        break;
    case MPQ_INT32:
    case MPQ_UINT32:
        ((uint32_t *)data)[i] = (uint32_t)value;
        break;
    case MPQ_INT64:
    case MPQ_UINT64:
        ((uint64_t *)data)[i] = (uint64_t)value;
        break;
    default:
        MPQ_ASSERT(!"an integer tensor");
    }
}

#define READ(type)                                                                                 \
    for (int64_t i = 0; i < n; i++)                                                                \
        out[i] = (int64_t)((const type *)tensor->data)[first + i];                                 \
    break

void mpq_tensor_ints(const struct mpq_tensor *tensor, int64_t first, int64_t n, int64_t *out)
{
    switch (tensor->dtype) {
    case MPQ_BOOL:
    case MPQ_UINT8:
        READ(uint8_t);
    case MPQ_INT8:
        READ(int8_t);
    case MPQ_INT32:
        READ(int32_t);
    case MPQ_INT64:
        READ(int64_t);
    default:
        for (int64_t i = 0; i < n; i++)
            out[i] = mpq_tensor_int(tensor, first + i);
    }
}

#define WRITE(type, of_value)                                                                      \
    for (int64_t i = 0; i < n; i++)                                                                \
        ((type *)tensor->data)[first + i] = (type)(of_value);                                      \
    break

void mpq_tensor_set_ints(struct mpq_tensor *tensor, int64_t first, int64_t n, const int64_t *value)
{
    switch (tensor->dtype) {
    case MPQ_BOOL:
        WRITE(uint8_t, value[i] != 0);
    case MPQ_UINT8:
    case MPQ_INT8:
        WRITE(uint8_t, value[i]);
    case MPQ_INT32:
    case MPQ_UINT32:
        WRITE(uint32_t, value[i]);
    case MPQ_INT64:
    case MPQ_UINT64:
        WRITE(uint64_t, value[i]);
    default:
        for (int64_t i = 0; i < n; i++)
            mpq_tensor_set_int(tensor, first + i, value[i]);
    }
}

/* x - x is 0 for every number and NaN for what is none. */
static bool has_nonfinite(const mpq_real *x, int64_t n)
{
    int found = 0;
    for (int64_t i = 0; i < n; i++)
        found |= x[i] - x[i] != 0;
    return found != 0;
}

int64_t mpq_tensor_find_nonfinite(const struct mpq_tensor *tensor)
{
    enum { BLOCK = 4096 };
    const mpq_real *x = tensor->data;
    int64_t n = mpq_shape_count(&tensor->shape), i = 0;
    while (i + BLOCK <= n && !has_nonfinite(x + i, BLOCK))
        i += BLOCK;
    for (; i < n; i++)
        if (!isfinite(x[i]))
            return i;
    return -1;
}

float mpq_half_to_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31;
    uint32_t mantissa = half & 0x3ff, bits;
    if (exponent == 31)
        bits = sign | 0x7f800000u | mantissa << 13;
    else if (exponent)
        bits = sign | (exponent + 112) << 23 | mantissa << 13;
    else {
        float value = (float)mantissa * 0x1p-24f; /* subnormal: exact */
        return sign ? -value : value;
    }
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

uint16_t mpq_float_to_half(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    float magnitude = fabsf(value);
    if (isnan(value))
        return sign | 0x7e00;
    if (magnitude >= 65520.0f)
        return sign | 0x7c00;
    if (magnitude < 0x1p-14f)
        return sign | (uint16_t)rintf(magnitude * 0x1p24f);
    bits &= 0x7fffffff;
    bits += 0xfff + (bits >> 13 & 1); /* round half to even at bit 13 */
    return sign | (uint16_t)((bits >> 13) - (112u << 10));
}
