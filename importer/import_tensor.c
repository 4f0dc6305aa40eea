#include "importer/import_tensor.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

/* Payloads are little-endian and are used where they lie. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the host must be little-endian");
_Static_assert(sizeof(mpq_real) == sizeof(float), "FLOAT payloads are used as mpq_real");

/* The data fields of TensorProto other than raw_data, and the number of entries in them. */
struct payload {
    const void *data;
    size_t n;           /* entries                          */
    size_t entry_bytes; /* of one entry in memory           */
    size_t per_element; /* entries an element takes, else 0 */
};

static struct payload typed_payload(const Onnx__TensorProto *proto, enum mpq_dtype dtype)
{
    switch (dtype) {
    case MPQ_FLOAT:
        return (struct payload){proto->float_data, proto->n_float_data, sizeof(float), 1};
    case MPQ_COMPLEX64:
        return (struct payload){proto->float_data, proto->n_float_data, sizeof(float), 2};
    case MPQ_DOUBLE:
        return (struct payload){proto->double_data, proto->n_double_data, sizeof(double), 1};
    case MPQ_COMPLEX128:
        return (struct payload){proto->double_data, proto->n_double_data, sizeof(double), 2};
    case MPQ_INT64:
        return (struct payload){proto->int64_data, proto->n_int64_data, sizeof(int64_t), 1};
    case MPQ_UINT32:
    case MPQ_UINT64:
        return (struct payload){proto->uint64_data, proto->n_uint64_data, sizeof(uint64_t), 1};
    default:
        return (struct payload){proto->int32_data, proto->n_int32_data, sizeof(int32_t), 1};
    }
}

/* Codes of 2, 4 or 6 bits, a stream of which the first are the lowest bits of each byte, to one per
 * byte; the signed types are sign-extended. */
static void unpack_codes(const uint8_t *packed, enum mpq_dtype dtype, int64_t n, uint8_t *out)
{
    int bits = mpq_dtype_bits(dtype);
    bool is_signed = dtype == MPQ_INT4 || dtype == MPQ_INT2;
    unsigned mask = (1u << bits) - 1, sign = 1u << (bits - 1);
    for (int64_t i = 0; i < n; i++) {
        int64_t byte = i * bits / 8;
        int shift = (int)(i * bits % 8);
        unsigned code = packed[byte] >> shift;
        if (shift + bits > 8)
            code |= (unsigned)packed[byte + 1] << (8 - shift);
        code &= mask;
        out[i] = (uint8_t)(is_signed ? (code ^ sign) - sign : code);
    }
}

static enum mpq_status fail_size(struct mpq_ctx *ctx, const char *what,
                                 const struct mpq_tensor *tensor, size_t have, size_t need,
                                 const char *unit)
{
    return mpq_fail(ctx, MPQ_E_FORMAT, "%s holds %zu %s, its shape %s of %s needs %zu", what, have,
                    unit, MPQ_SHAPE_TEXT(&tensor->shape), mpq_dtype_name(tensor->dtype), need);
}

static enum mpq_status read_strings(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *what,
                                    const Onnx__TensorProto *proto, int64_t n,
                                    struct mpq_tensor *tensor)
{
    if (proto->n_string_data != (size_t)n)
        return fail_size(ctx, what, tensor, proto->n_string_data, (size_t)n, "strings");
    const char **string = mpq_arena_alloc(ctx, arena, (size_t)n, sizeof *string);
    if (!string)
        return MPQ_E_NOMEM;
    for (int64_t i = 0; i < n; i++) {
        const ProtobufCBinaryData *bytes = &proto->string_data[i];
        char *copy = mpq_arena_alloc(ctx, arena, bytes->len + 1, 1);
        if (!copy)
            return MPQ_E_NOMEM;
        if (bytes->len)
            memcpy(copy, bytes->data, bytes->len);
        string[i] = copy;
    }
    tensor->data = string;
    return MPQ_OK;
}

static enum mpq_status read_raw(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *what,
                                const Onnx__TensorProto *proto, int64_t n,
                                struct mpq_tensor *tensor)
{
    int bits = mpq_dtype_bits(tensor->dtype);
    size_t need = ((size_t)n * (size_t)bits + 7) / 8;
    if (proto->raw_data.len != need)
        return fail_size(ctx, what, tensor, proto->raw_data.len, need, "bytes");
    if (n == 0)
        return MPQ_OK;
    if (bits >= 8) {
        size_t align = mpq_dtype_bytes(tensor->dtype);
        if ((uintptr_t)proto->raw_data.data % align == 0)
            tensor->data = proto->raw_data.data;
        else
            tensor->data = mpq_arena_copy(ctx, arena, proto->raw_data.data, need);
        return tensor->data ? MPQ_OK : MPQ_E_NOMEM;
    }
    uint8_t *code = mpq_arena_alloc(ctx, arena, (size_t)n, 1);
    if (!code)
        return MPQ_E_NOMEM;
    unpack_codes(proto->raw_data.data, tensor->dtype, n, code);
    tensor->data = code;
    return MPQ_OK;
}

/* The low bytes of each entry, which is how small types lie in int32_data and UINT32 in
 * uint64_data. */
static enum mpq_status narrow(struct mpq_ctx *ctx, struct mpq_arena *arena,
                              const struct payload *payload, size_t bytes, void **out)
{
    uint8_t *data = mpq_arena_alloc(ctx, arena, payload->n, bytes);
    if (!data)
        return MPQ_E_NOMEM;
    const uint8_t *entry = payload->data;
    for (size_t i = 0; i < payload->n; i++)
        memcpy(data + i * bytes, entry + i * payload->entry_bytes, bytes);
    *out = data;
    return MPQ_OK;
}

static enum mpq_status read_typed(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *what,
                                  const Onnx__TensorProto *proto, int64_t n,
                                  struct mpq_tensor *tensor)
{
    struct payload payload = typed_payload(proto, tensor->dtype);
    int bits = mpq_dtype_bits(tensor->dtype);
    size_t need = (size_t)n * payload.per_element;
    bool is_packed = bits == 2 || bits == 4; /* an entry is a byte of them */
    if (is_packed)
        need = ((size_t)n * (size_t)bits + 7) / 8;
    if (payload.n != need)
        return fail_size(ctx, what, tensor, payload.n, need, "entries");
    if (is_packed) {
        void *packed;
        uint8_t *code = mpq_arena_alloc(ctx, arena, (size_t)n, 1);
        if (!code)
            return MPQ_E_NOMEM;
        MPQ_TRY(narrow(ctx, arena, &payload, 1, &packed));
        unpack_codes(packed, tensor->dtype, n, code);
        tensor->data = code;
        return MPQ_OK;
    }
    size_t bytes = mpq_dtype_bytes(tensor->dtype);
    if (payload.per_element * payload.entry_bytes != bytes)
        return narrow(ctx, arena, &payload, bytes, &tensor->data);
    tensor->data = (void *)payload.data; /* constant by agreement: nobody writes to initializers */
    return MPQ_OK;
}

static enum mpq_status read_shape(struct mpq_ctx *ctx, const char *what, const int64_t *dim,
                                  size_t n, struct mpq_shape *out)
{
    if (n > MPQ_MAX_RANK)
        return mpq_fail(ctx, MPQ_E_LIMIT, "%s has rank %zu, at most %d is supported", what, n,
                        MPQ_MAX_RANK);
    *out = (struct mpq_shape){.rank = (int)n};
    for (size_t i = 0; i < n; i++) {
        if (dim[i] < 0)
            return mpq_fail(ctx, MPQ_E_FORMAT, "%s has dimension %zu of %" PRId64, what, i, dim[i]);
        out->dim[i] = dim[i];
    }
    return MPQ_OK;
}

/* Bool has two values in memory, whatever byte stands for true in the file. */
static enum mpq_status normalize_bool(struct mpq_ctx *ctx, struct mpq_arena *arena, int64_t n,
                                      struct mpq_tensor *tensor)
{
    uint8_t *data = mpq_arena_copy(ctx, arena, tensor->data, (size_t)n);
    if (!data)
        return MPQ_E_NOMEM;
    for (int64_t i = 0; i < n; i++)
        data[i] = data[i] != 0;
    tensor->data = data;
    return MPQ_OK;
}

enum mpq_status mpq_import_tensor(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *what,
                                  const Onnx__TensorProto *proto, struct mpq_tensor *out)
{
    struct mpq_tensor tensor = {.dtype = (enum mpq_dtype)proto->data_type};
    size_t element_bytes = mpq_dtype_bytes(tensor.dtype);
    if (element_bytes == 0)
        return mpq_fail(ctx, MPQ_E_UNSUPPORTED, "%s has element type %d, which is not known", what,
                        (int)proto->data_type);
    if (proto->segment)
        return mpq_fail(ctx, MPQ_E_UNSUPPORTED, "%s is stored in segments", what);
    MPQ_TRY(read_shape(ctx, what, proto->dims, proto->n_dims, &tensor.shape));
    int64_t n;
    enum mpq_status status = mpq_shape_count_checked(ctx, &tensor.shape, element_bytes, &n);
    if (status != MPQ_OK) {
        mpq_fail_prefix(ctx, what);
        return status;
    }
    if (tensor.dtype == MPQ_STRING)
        MPQ_TRY(read_strings(ctx, arena, what, proto, n, &tensor));
    else if (proto->has_raw_data && (proto->raw_data.len || !typed_payload(proto, tensor.dtype).n))
        MPQ_TRY(read_raw(ctx, arena, what, proto, n, &tensor));
    else
        MPQ_TRY(read_typed(ctx, arena, what, proto, n, &tensor));
    if (tensor.dtype == MPQ_BOOL && n)
        MPQ_TRY(normalize_bool(ctx, arena, n, &tensor));
    if (!tensor.data) /* no elements: data stay distinct from "not known" */
        tensor.data = mpq_arena_alloc(ctx, arena, 0, 1);
    if (!tensor.data)
        return MPQ_E_NOMEM;
    *out = tensor;
    return MPQ_OK;
}

enum mpq_status mpq_import_tensor_as_float(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                           const char *what, const Onnx__TensorProto *proto,
                                           struct mpq_tensor *out)
{
    struct mpq_tensor read, tensor;
    MPQ_TRY(mpq_import_tensor(ctx, arena, what, proto, &read));
    if (!mpq_dtype_is_other_float(read.dtype)) {
        *out = read;
        return MPQ_OK;
    }
    MPQ_TRY(mpq_tensor_alloc(ctx, arena, MPQ_FLOAT, &read.shape, &tensor));
    for (int64_t i = 0; i < mpq_shape_count(&read.shape); i++) {
        double value = mpq_tensor_double(&read, i);
        if (isfinite(value))
            value = fmin(fmax(value, -(double)FLT_MAX), (double)FLT_MAX);
        mpq_tensor_set_double(&tensor, i, value);
    }
    *out = tensor;
    return MPQ_OK;
}

/* Where value i lies in a dense tensor: its index is one number, or one a dimension. */
static int64_t place_of(const struct mpq_tensor *index, int64_t i, const struct mpq_shape *shape)
{
    if (index->shape.rank == 1)
        return mpq_tensor_int(index, i);
    int64_t place = 0;
    for (int d = 0; d < shape->rank; d++) {
        int64_t k = mpq_tensor_int(index, i * shape->rank + d);
        if (k < 0 || k >= shape->dim[d])
            return -1;
        place = place * shape->dim[d] + k;
    }
    return place;
}

enum mpq_status mpq_import_sparse(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *what,
                                  const Onnx__SparseTensorProto *proto, struct mpq_tensor *out)
{
    struct mpq_tensor value, index, tensor;
    struct mpq_shape shape;
    if (!proto->values || !proto->indices)
        return mpq_fail(ctx, MPQ_E_FORMAT, "%s has no values or no indices", what);
    MPQ_TRY(mpq_import_tensor(ctx, arena, what, proto->values, &value));
    MPQ_TRY(mpq_import_tensor(ctx, arena, what, proto->indices, &index));
    MPQ_TRY(read_shape(ctx, what, proto->dims, proto->n_dims, &shape));
    int64_t n = mpq_shape_count(&value.shape), before = -1;
    bool is_linear = index.shape.rank == 1 && index.shape.dim[0] == n;
    bool is_tuples =
        index.shape.rank == 2 && index.shape.dim[0] == n && index.shape.dim[1] == shape.rank;
    if (value.shape.rank != 1 || index.dtype != MPQ_INT64 || value.dtype == MPQ_STRING ||
        (!is_linear && !is_tuples))
        return mpq_fail(ctx, MPQ_E_FORMAT, "%s has %s values %s at %s indices %s", what,
                        mpq_dtype_name(value.dtype), MPQ_SHAPE_TEXT(&value.shape),
                        mpq_dtype_name(index.dtype), MPQ_SHAPE_TEXT(&index.shape));
    MPQ_TRY(mpq_tensor_alloc(ctx, arena, value.dtype, &shape, &tensor));
    size_t bytes = mpq_dtype_bytes(value.dtype);
    for (int64_t i = 0; i < n; i++) {
        int64_t at = place_of(&index, i, &shape);
        if (at <= before || at >= mpq_shape_count(&shape))
            return mpq_fail(ctx, MPQ_E_FORMAT,
                            "%s: index %" PRId64 " is outside of the shape %s or out of order",
                            what, i, MPQ_SHAPE_TEXT(&shape));
        memcpy((uint8_t *)tensor.data + (size_t)at * bytes,
               (const uint8_t *)value.data + (size_t)i * bytes, bytes);
        before = at;
    }
    *out = tensor;
    return MPQ_OK;
}
