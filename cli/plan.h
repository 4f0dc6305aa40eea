/* The layer CSV of a conversion, edited by the user: a width for every layer. */
#ifndef MPQ_CLI_PLAN_H
#define MPQ_CLI_PLAN_H

#include "quantcore/quant/layer.h"

struct mpq_plan {
    const char *path;
    uint32_t n_row;
    struct mpq_plan_row {
        const char *node;
        int weight_bits;     /* 2..8, or 32: stays float                    */
        int activation_bits; /* of what the layer reads; 0: it does not say */
        uint32_t line;       /* counted from 1, the header                  */
    } * row;
};

/* Columns node and weight_bits, and perhaps activation_bits, in any order among others. FORMAT,
 * naming file and row. */
enum mpq_status mpq_plan_read(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                              struct mpq_plan *out) MPQ_CHECKED;

/* Bring the rows in the order of the layers, and take layers that stay float out of both: into the
 * table's list of rejected nodes. Layers of one name are meant in the order of the table. FORMAT
 * where a row names no layer or a layer has no row, or two; UNSUPPORTED where no layer is left. */
enum mpq_status mpq_plan_match(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               struct mpq_layer_table *layers, struct mpq_plan *plan) MPQ_CHECKED;

#endif
