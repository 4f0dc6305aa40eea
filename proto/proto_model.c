#include "proto/proto_model.h"

#include "proto/wire_guard.h"
#include "quantcore/base/limits.h"

struct pool {
    struct mpq_ctx *ctx;
    struct mpq_arena *arena;
};

static void *pool_alloc(void *arg, size_t bytes)
{
    struct pool *pool = arg;
    return mpq_arena_alloc(pool->ctx, pool->arena, bytes, 1);
}

static void pool_free(void *arg, void *object)
{
    (void)arg;
    (void)object; /* goes with the arena */
}

enum mpq_status mpq_proto_unpack(struct mpq_ctx *ctx, struct mpq_arena *arena, const uint8_t *data,
                                 size_t bytes, Onnx__ModelProto **out)
{
    MPQ_TRY(mpq_wire_guard(ctx, data, bytes));
    struct pool pool = {ctx, arena};
    ProtobufCAllocator allocator = {pool_alloc, pool_free, &pool};
    Onnx__ModelProto *model = onnx__model_proto__unpack(&allocator, bytes, data);
    if (ctx->status != MPQ_OK)
        return ctx->status; /* out of memory */
    if (!model)
        return mpq_fail(ctx, MPQ_E_FORMAT, "is damaged: a field is not of the kind ONNX gives it");
    *out = model;
    return MPQ_OK;
}

size_t mpq_proto_bytes(const Onnx__ModelProto *model)
{
    return onnx__model_proto__get_packed_size(model);
}

enum mpq_status mpq_proto_pack(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               const Onnx__ModelProto *model, uint8_t **out_data, size_t *out_bytes)
{
    size_t bytes = mpq_proto_bytes(model);
    if (bytes >= MPQ_LIMIT_MODEL_BYTES)
        return mpq_fail(ctx, MPQ_E_LIMIT,
                        "the model to write has %zu bytes, one protobuf message holds less than "
                        "%zu",
                        bytes, MPQ_LIMIT_MODEL_BYTES);
    uint8_t *data = mpq_arena_alloc(ctx, arena, bytes, 1);
    if (!data)
        return MPQ_E_NOMEM;
    size_t written = onnx__model_proto__pack(model, data);
    MPQ_ASSERT(written == bytes);
    *out_data = data;
    *out_bytes = bytes;
    return MPQ_OK;
}
