#include "cli/output.h"

#include <string.h>

char *mpq_output_external_name(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path)
{
    const char *slash = strrchr(path, '/');
    return mpq_arena_printf(ctx, arena, "%s.data", slash ? slash + 1 : path);
}

static enum mpq_status write_pieces(struct mpq_ctx *ctx, const struct mpq_export_file *file,
                                    struct mpq_file_out *out)
{
    static const uint8_t zero[4096];
    uint64_t at = 0;
    for (size_t i = 0; i < file->n_piece; i++) {
        const struct mpq_export_piece *piece = &file->piece[i];
        MPQ_ASSERT(piece->offset - at < sizeof zero);
        MPQ_TRY(mpq_file_out_write(ctx, out, zero, (size_t)(piece->offset - at)));
        MPQ_TRY(mpq_file_out_write(ctx, out, piece->data, piece->bytes));
        at = piece->offset + piece->bytes;
    }
    return MPQ_OK;
}

static enum mpq_status write_both(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                                  bool overwrite, const struct mpq_export_file *file,
                                  struct mpq_output *out)
{
    char *data_path = mpq_arena_printf(ctx, arena, "%s.data", path);
    if (!data_path)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_folder_create(ctx, arena, path, &out->folder));
    MPQ_TRY(mpq_file_out_open_in(ctx, arena, out->folder, data_path, overwrite, &out->external));
    MPQ_TRY(write_pieces(ctx, file, &out->external));
    return mpq_file_out_open_in(ctx, arena, out->folder, path, overwrite, &out->model);
}

enum mpq_status mpq_output_write(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                                 bool overwrite, const struct mpq_export_file *file,
                                 struct mpq_output *out)
{
    *out = (struct mpq_output){.model.fd = -1, .external.fd = -1};
    MPQ_TRY(file->n_piece ? write_both(ctx, arena, path, overwrite, file, out)
                          : mpq_file_out_open(ctx, arena, path, overwrite, &out->model));
    return mpq_file_out_write(ctx, &out->model, file->data, file->bytes);
}

enum mpq_status mpq_output_commit(struct mpq_ctx *ctx, struct mpq_output *output)
{
    if (output->external.temporary)
        MPQ_TRY(mpq_file_out_commit(ctx, &output->external));
    return mpq_file_out_commit(ctx, &output->model);
}

void mpq_output_discard(struct mpq_output *output)
{
    mpq_file_out_discard(&output->model);
    mpq_file_out_discard(&output->external);
    mpq_folder_remove(output->folder);
    output->folder = NULL;
}
