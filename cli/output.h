/* The model that a command writes: one file, or two where it is too large for one. */
#ifndef MPQ_CLI_OUTPUT_H
#define MPQ_CLI_OUTPUT_H

#include "exporter/export.h"
#include "quantcore/base/fileio.h"

/* Files at names of their own until committed. */
struct mpq_output {
    char *folder;                 /* of the temporaries where there are two files, else NULL    */
    struct mpq_file_out model;    /* model.temporary can be read and verified                   */
    struct mpq_file_out external; /* what export calls external_name, beside the model          */
};

/* The name of the second file, as the first says it: that of the model and ".data". */
char *mpq_output_external_name(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path);

/* Write the model for `path`. Discard in any case, also after a failure and after commit. */
enum mpq_status mpq_output_write(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                                 bool overwrite, const struct mpq_export_file *file,
                                 struct mpq_output *out) MPQ_CHECKED;
/* Give the files their names; the model comes last, so that it never lacks its data. */
enum mpq_status mpq_output_commit(struct mpq_ctx *ctx, struct mpq_output *output) MPQ_CHECKED;
void mpq_output_discard(struct mpq_output *output);

#endif
