#include "cli/plan.h"

#include <stdlib.h>
#include <string.h>

#include "calibration/csv.h"
#include "cli/pick.h"

/* 2..8, or where `other` is not 0 that. */
static enum mpq_status read_bits(struct mpq_ctx *ctx, const char *path, uint32_t line,
                                 const char *column, const char *text, int other, int *out)
{
    char *end = NULL;
    long bits = text ? strtol(text, &end, 10) : 0;
    if (!text || end == text || *end ||
        ((bits < MPQ_MIN_BITS || bits > MPQ_MAX_BITS) && bits != other))
        return mpq_fail(ctx, MPQ_E_FORMAT, "%s: row %u: %s is '%s', not 2 to 8 or %d", path, line,
                        column, text ? text : "", other);
    *out = (int)bits;
    return MPQ_OK;
}

enum mpq_status mpq_plan_read(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                              struct mpq_plan *out)
{
    struct mpq_csv csv;
    uint32_t node, weight, activation;
    MPQ_TRY(mpq_csv_read(ctx, arena, path, &csv));
    MPQ_TRY(mpq_csv_column(ctx, path, &csv, "node", &node));
    MPQ_TRY(mpq_csv_column(ctx, path, &csv, "weight_bits", &weight));
    bool has_activation = mpq_csv_find_column(&csv, "activation_bits", &activation);
    struct mpq_plan plan = {.path = path, .n_row = csv.n_row - 1};
    plan.row = mpq_arena_alloc(ctx, arena, plan.n_row, sizeof *plan.row);
    if (!plan.row)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < plan.n_row; i++) {
        struct mpq_plan_row *row = &plan.row[i];
        row->line = i + 2;
        row->node = mpq_csv_field(&csv, i + 1, node);
        if (!row->node)
            return mpq_fail(ctx, MPQ_E_FORMAT, "%s: row %u has no node", path, row->line);
        MPQ_TRY(read_bits(ctx, path, row->line, "weight_bits", mpq_csv_field(&csv, i + 1, weight),
                          32, &row->weight_bits));
        const char *text = has_activation ? mpq_csv_field(&csv, i + 1, activation) : NULL;
        if (text && *text && strcmp(text, "32") != 0)
            MPQ_TRY(read_bits(ctx, path, row->line, "activation_bits", text, 16,
                              &row->activation_bits));
    }
    *out = plan;
    return MPQ_OK;
}

static enum mpq_status fail_row(struct mpq_ctx *ctx, const struct mpq_plan *plan,
                                const struct mpq_plan_row *row,
                                const struct mpq_layer_table *layers)
{
    for (uint32_t l = 0; l < layers->n_layer; l++)
        if (strcmp(layers->layer[l].name, row->node) == 0)
            return mpq_fail(ctx, MPQ_E_FORMAT, "%s: row %u: '%s' is there already", plan->path,
                            row->line, row->node);
    return mpq_fail(ctx, MPQ_E_FORMAT, "%s: row %u: no layer is named '%s'", plan->path, row->line,
                    row->node);
}

enum mpq_status mpq_plan_match(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               struct mpq_layer_table *layers, struct mpq_plan *plan)
{
    uint32_t n_layer = layers->n_layer, n_kept = 0;
    const char *missing = NULL;
    bool *is_used = mpq_arena_alloc(ctx, arena, plan->n_row, sizeof *is_used);
    uint8_t *is_float = mpq_arena_alloc(ctx, arena, n_layer, sizeof *is_float);
    struct mpq_plan_row *kept = mpq_arena_alloc(ctx, arena, n_layer, sizeof *kept);
    if (!is_used || !is_float || !kept)
        return MPQ_E_NOMEM;
    for (uint32_t l = 0; l < n_layer; l++) {
        uint32_t i = 0;
        while (i < plan->n_row &&
               (is_used[i] || strcmp(plan->row[i].node, layers->layer[l].name) != 0))
            i++;
        if (i == plan->n_row) {
            missing = missing ? missing : layers->layer[l].name;
            continue;
        }
        is_used[i] = true;
        is_float[l] = plan->row[i].weight_bits == 32;
        if (!is_float[l])
            kept[n_kept++] = plan->row[i];
    }
    for (uint32_t i = 0; i < plan->n_row; i++)
        if (!is_used[i])
            return fail_row(ctx, plan, &plan->row[i], layers);
    if (missing)
        return mpq_fail(ctx, MPQ_E_FORMAT, "%s: has no row of the layer '%s'", plan->path, missing);
    if (!n_kept)
        return mpq_fail(ctx, MPQ_E_UNSUPPORTED, "%s: leaves all %u layers in float", plan->path,
                        n_layer);
    plan->row = kept;
    plan->n_row = n_kept;
    return mpq_pick_drop(ctx, arena, is_float, layers);
}
