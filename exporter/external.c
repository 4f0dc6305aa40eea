#include "exporter/external.h"

#include <inttypes.h>

#include "exporter/write.h"
#include "proto/proto_model.h"

/* Offsets are multiples of a page, so that a runtime can map the file; what is shorter than a page
 * stays in the model. */
enum { PAGE = 4096 };

static Onnx__StringStringEntryProto *entry(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                           const char *key, const char *value)
{
    Onnx__StringStringEntryProto *out = mpq_arena_alloc(ctx, arena, 1, sizeof *out);
    if (!out || !value)
        return NULL;
    onnx__string_string_entry_proto__init(out);
    out->key = mpq_write_text(key);
    out->value = mpq_write_text(value);
    return out;
}

static enum mpq_status move(struct mpq_ctx *ctx, struct mpq_arena *arena, Onnx__TensorProto *tensor,
                            const char *name, struct mpq_export_file *file)
{
    uint64_t offset = (file->external_bytes + PAGE - 1) / PAGE * PAGE;
    size_t bytes = tensor->raw_data.len;
    Onnx__StringStringEntryProto **list = mpq_arena_alloc(ctx, arena, 3, sizeof *list);
    if (!list)
        return MPQ_E_NOMEM;
    list[0] = entry(ctx, arena, "location", name);
    list[1] = entry(ctx, arena, "offset", mpq_arena_printf(ctx, arena, "%" PRIu64, offset));
    list[2] = entry(ctx, arena, "length", mpq_arena_printf(ctx, arena, "%zu", bytes));
    if (ctx->status != MPQ_OK)
        return ctx->status;
    file->piece[file->n_piece++] = (struct mpq_export_piece){offset, tensor->raw_data.data, bytes};
    file->external_bytes = offset + bytes;
    tensor->has_raw_data = 0;
    tensor->raw_data = (ProtobufCBinaryData){0, NULL};
    tensor->n_external_data = 3;
    tensor->external_data = list;
    tensor->has_data_location = 1;
    tensor->data_location = ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL;
    return MPQ_OK;
}

enum mpq_status mpq_external_move(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  Onnx__ModelProto *model, const char *name, size_t limit,
                                  struct mpq_export_file *out_file)
{
    Onnx__GraphProto *graph = model->graph;
    if (mpq_proto_bytes(model) < limit)
        return MPQ_OK;
    out_file->piece = mpq_arena_alloc(ctx, arena, graph->n_initializer, sizeof *out_file->piece);
    if (!out_file->piece)
        return MPQ_E_NOMEM;
    for (size_t i = 0; i < graph->n_initializer; i++)
        if (graph->initializer[i]->has_raw_data && graph->initializer[i]->raw_data.len >= PAGE)
            MPQ_TRY(move(ctx, arena, graph->initializer[i], name, out_file));
    return MPQ_OK;
}
