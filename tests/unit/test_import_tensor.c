#include "importer/import_tensor.h"

#include <string.h>

#include "tests/check.h"

struct fixture {
    struct mpq_ctx ctx;
    struct mpq_arena *arena;
    Onnx__TensorProto proto;
    int64_t dims[MPQ_MAX_RANK + 1];
};

static struct fixture make(enum mpq_dtype dtype, int64_t n)
{
    struct fixture f = {.dims = {n}};
    mpq_ctx_init(&f.ctx);
    f.arena = mpq_arena_create(&f.ctx);
    onnx__tensor_proto__init(&f.proto);
    f.proto.has_data_type = 1;
    f.proto.data_type = (int32_t)dtype;
    f.proto.n_dims = 1;
    return f;
}

static void set_raw(struct fixture *f, const void *data, size_t bytes)
{
    f->proto.has_raw_data = 1;
    f->proto.raw_data.len = bytes;
    f->proto.raw_data.data = mpq_arena_copy(&f->ctx, f->arena, data, bytes);
}

static enum mpq_status import(struct fixture *f, struct mpq_tensor *out)
{
    f->proto.dims = f->dims;
    return mpq_import_tensor(&f->ctx, f->arena, "tensor 't'", &f->proto, out);
}

static void check_bytes(struct fixture *f, const void *expected, size_t bytes)
{
    struct mpq_tensor tensor;
    CHECK_OK(&f->ctx, import(f, &tensor));
    assert_int_equal(mpq_tensor_bytes(&tensor), bytes);
    assert_memory_equal(tensor.data, expected, bytes);
    mpq_arena_free(f->arena);
}

/* Every type whose raw bytes are what memory holds. */
static void test_raw(void **state)
{
    (void)state;
    static const uint8_t bytes[64] = {1, 0, 1, 1, 0, 1, 7, 8, 9, 10, 200, 255};
    for (int dtype = 1; dtype < MPQ_N_DTYPE; dtype++) {
        size_t element = mpq_dtype_bytes((enum mpq_dtype)dtype);
        if (mpq_dtype_bits((enum mpq_dtype)dtype) < 8)
            continue;
        struct fixture f = make((enum mpq_dtype)dtype, 3);
        set_raw(&f, bytes, 3 * element);
        check_bytes(&f, bytes, 3 * element);
        f = make((enum mpq_dtype)dtype, 3);
        set_raw(&f, bytes, 3 * element + 1);
        struct mpq_tensor tensor;
        CHECK_FAILS(&f.ctx, import(&f, &tensor), MPQ_E_FORMAT, "tensor 't' holds ");
        mpq_arena_free(f.arena);
    }
}

static void test_unaligned(void **state)
{
    (void)state;
    static const float value[2] = {1.5f, -2.0f};
    struct fixture f = make(MPQ_FLOAT, 2);
    uint8_t *buffer = mpq_arena_alloc(&f.ctx, f.arena, sizeof value + 1, 1);
    memcpy(buffer + 1, value, sizeof value);
    f.proto.has_raw_data = 1;
    f.proto.raw_data.len = sizeof value;
    f.proto.raw_data.data = buffer + 1;
    check_bytes(&f, value, sizeof value);
}

/* First element in the low bits; rows are not aligned; the last byte is padded. */
static void test_packed(void **state)
{
    (void)state;
    static const uint8_t packed[] = {0x21, 0xf8, 0x07}, two_bits[] = {0xe4, 0x02};
    struct fixture f = make(MPQ_UINT4, 5);
    set_raw(&f, packed, 3);
    check_bytes(&f, (uint8_t[]){1, 2, 8, 15, 7}, 5);
    f = make(MPQ_INT4, 5);
    set_raw(&f, packed, 3);
    check_bytes(&f, (int8_t[]){1, 2, -8, -1, 7}, 5);
    f = make(MPQ_UINT2, 5);
    set_raw(&f, two_bits, 2);
    check_bytes(&f, (uint8_t[]){0, 1, 2, 3, 2}, 5);
    f = make(MPQ_INT2, 5);
    set_raw(&f, two_bits, 2);
    check_bytes(&f, (int8_t[]){0, 1, -2, -1, -2}, 5);
    f = make(MPQ_FLOAT6E2M3, 5); /* four in three bytes */
    set_raw(&f, (uint8_t[]){0x81, 0x30, 0xfc, 0x2a}, 4);
    check_bytes(&f, (uint8_t[]){1, 2, 3, 63, 42}, 5);
    f = make(MPQ_FLOAT6E3M2, 2); /* one an entry */
    f.proto.n_int32_data = 2;
    f.proto.int32_data = (int32_t[]){5, 63};
    check_bytes(&f, (uint8_t[]){5, 63}, 2);
    f = make(MPQ_INT4, 5); /* one packed byte an entry */
    f.proto.n_int32_data = 3;
    f.proto.int32_data = (int32_t[]){0x21, 0xf8, 0x07};
    check_bytes(&f, (int8_t[]){1, 2, -8, -1, 7}, 5);
    f = make(MPQ_INT4, 5);
    set_raw(&f, packed, 2);
    struct mpq_tensor tensor;
    CHECK_FAILS(&f.ctx, import(&f, &tensor), MPQ_E_FORMAT,
                "holds 2 bytes, its shape [5] of int4 needs 3");
    mpq_arena_free(f.arena);
}

static void test_typed(void **state)
{
    (void)state;
    static int32_t ints[] = {-1, 0, 300};
    static int64_t longs[] = {-1, 0, INT64_MIN};
    static uint64_t ulongs[] = {0, 4000000000u, 5};
    static float floats[] = {1.5f, -2.5f, 0, 4};
    static double doubles[] = {1.5, -2.5};
    static const enum mpq_dtype small[] = {MPQ_INT8,    MPQ_UINT8,    MPQ_INT16,       MPQ_UINT16,
                                           MPQ_FLOAT16, MPQ_BFLOAT16, MPQ_FLOAT8E4M3FN};
    const void *const expected[] = {(int8_t[]){-1, 0, 44},       (uint8_t[]){255, 0, 44},
                                    (int16_t[]){-1, 0, 300},     (uint16_t[]){65535, 0, 300},
                                    (uint16_t[]){65535, 0, 300}, (uint16_t[]){65535, 0, 300},
                                    (uint8_t[]){255, 0, 44}};
    for (size_t i = 0; i < MPQ_COUNT(small); i++) {
        struct fixture f = make(small[i], 3);
        f.proto.n_int32_data = 3;
        f.proto.int32_data = ints;
        check_bytes(&f, expected[i], 3 * mpq_dtype_bytes(small[i]));
    }
    struct fixture f = make(MPQ_INT32, 3);
    f.proto.n_int32_data = 3;
    f.proto.int32_data = ints;
    check_bytes(&f, ints, sizeof ints);
    f = make(MPQ_BOOL, 3);
    f.proto.n_int32_data = 3;
    f.proto.int32_data = ints;
    check_bytes(&f, (uint8_t[]){1, 0, 1}, 3);
    f = make(MPQ_INT64, 3);
    f.proto.n_int64_data = 3;
    f.proto.int64_data = longs;
    check_bytes(&f, longs, sizeof longs);
    f = make(MPQ_UINT32, 3);
    f.proto.n_uint64_data = 3;
    f.proto.uint64_data = ulongs;
    check_bytes(&f, (uint32_t[]){0, 4000000000u, 5}, 12);
    f = make(MPQ_UINT64, 3);
    f.proto.n_uint64_data = 3;
    f.proto.uint64_data = ulongs;
    check_bytes(&f, ulongs, sizeof ulongs);
    f = make(MPQ_FLOAT, 4);
    f.proto.n_float_data = 4;
    f.proto.float_data = floats;
    check_bytes(&f, floats, sizeof floats);
    f = make(MPQ_COMPLEX64, 2);
    f.proto.n_float_data = 4;
    f.proto.float_data = floats;
    check_bytes(&f, floats, sizeof floats);
    f = make(MPQ_DOUBLE, 2);
    f.proto.n_double_data = 2;
    f.proto.double_data = doubles;
    check_bytes(&f, doubles, sizeof doubles);
    f = make(MPQ_COMPLEX128, 1);
    f.proto.n_double_data = 2;
    f.proto.double_data = doubles;
    check_bytes(&f, doubles, sizeof doubles);
}

static void test_strings(void **state)
{
    (void)state;
    static ProtobufCBinaryData strings[] = {{3, (uint8_t *)"abcdef"}, {0, NULL}};
    struct fixture f = make(MPQ_STRING, 2);
    struct mpq_tensor tensor;
    f.proto.n_string_data = 2;
    f.proto.string_data = strings;
    CHECK_OK(&f.ctx, import(&f, &tensor));
    assert_string_equal(((const char **)tensor.data)[0], "abc");
    assert_string_equal(((const char **)tensor.data)[1], "");
    f.proto.n_string_data = 1;
    CHECK_FAILS(&f.ctx, import(&f, &tensor), MPQ_E_FORMAT, "holds 1 strings");
    mpq_arena_free(f.arena);
}

static void test_shapes(void **state)
{
    (void)state;
    struct mpq_tensor tensor;
    struct fixture f = make(MPQ_FLOAT, 0);
    CHECK_OK(&f.ctx, import(&f, &tensor)); /* empty: no payload, but data */
    assert_non_null(tensor.data);
    f.proto.n_dims = 0; /* a scalar */
    set_raw(&f, (float[]){2.0f}, sizeof(float));
    CHECK_OK(&f.ctx, import(&f, &tensor));
    CHECK_NEAR(mpq_tensor_double(&tensor, 0), 2.0, 0, 0);
    f.proto.n_dims = 2;
    f.dims[0] = -1;
    CHECK_FAILS(&f.ctx, import(&f, &tensor), MPQ_E_FORMAT, "dimension 0 of -1");
    f.dims[0] = f.dims[1] = INT64_MAX;
    CHECK_FAILS(&f.ctx, import(&f, &tensor), MPQ_E_LIMIT, "tensor 't': a tensor of shape");
    f.dims[0] = 1 << 20; /* 1 GiB declared, four bytes there: refused before any allocation */
    f.dims[1] = 1 << 8;
    CHECK_FAILS(&f.ctx, import(&f, &tensor), MPQ_E_FORMAT, "holds 4 bytes");
    f.proto.n_dims = MPQ_MAX_RANK + 1;
    CHECK_FAILS(&f.ctx, import(&f, &tensor), MPQ_E_LIMIT, "rank 9, at most 8");
    f.proto.n_dims = 1;
    f.proto.data_type = 29;
    CHECK_FAILS(&f.ctx, import(&f, &tensor), MPQ_E_UNSUPPORTED, "element type 29");
    f.proto.data_type = 0;
    CHECK_FAILS(&f.ctx, import(&f, &tensor), MPQ_E_UNSUPPORTED, "element type 0");
    mpq_arena_free(f.arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_raw),     cmocka_unit_test(test_unaligned),
        cmocka_unit_test(test_packed),  cmocka_unit_test(test_typed),
        cmocka_unit_test(test_strings), cmocka_unit_test(test_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
