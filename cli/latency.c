#include "cli/latency.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calibration/csv.h"

enum { NODE, WEIGHT_BITS, SECONDS, ACTIVATION_BITS, N_COLUMN };
static const char *const column_name[N_COLUMN] = {"node", "weight_bits", "seconds",
                                                  "activation_bits"};

struct table {
    struct mpq_ctx *ctx;
    const char *path;
    struct mpq_csv csv;
    uint32_t column[N_COLUMN];
    bool has_act; /* there is a column of ACTIVATION_BITS */
    const struct mpq_graph *graph;
    const struct mpq_layer_table *layers;
    double *seconds; /* NaN: no row */
};

static double *entry(const struct table *t, uint32_t l, uint32_t b, uint32_t a)
{
    return &t->seconds[((size_t)l * MPQ_N_BITS + b) * MPQ_N_BITS + a];
}

static enum mpq_status find_columns(struct table *t)
{
    for (int i = 0; i < ACTIVATION_BITS; i++)
        MPQ_TRY(mpq_csv_column(t->ctx, t->path, &t->csv, column_name[i], &t->column[i]));
    t->has_act =
        mpq_csv_find_column(&t->csv, column_name[ACTIVATION_BITS], &t->column[ACTIVATION_BITS]);
    return MPQ_OK;
}

static enum mpq_status read_number(const struct table *t, uint32_t row, int column, double low,
                                   double high, double *out)
{
    const char *text = mpq_csv_field(&t->csv, row, t->column[column]);
    char *end = NULL;
    *out = text ? strtod(text, &end) : 0;
    if (!text || end == text || *end || !(*out >= low && *out <= high))
        return mpq_fail(t->ctx, MPQ_E_FORMAT, "%s: row %u: %s is '%s', not a number from %g to %g",
                        t->path, row + 1, column_name[column], text ? text : "", low, high);
    return MPQ_OK;
}

/* A width, which is one of few integers. */
static enum mpq_status read_bits(const struct table *t, uint32_t row, int column, double *out)
{
    MPQ_TRY(read_number(t, row, column, MPQ_MIN_BITS, MPQ_MAX_BITS, out));
    if (*out != floor(*out))
        return mpq_fail(t->ctx, MPQ_E_FORMAT, "%s: row %u: %s is %g, not an integer", t->path,
                        row + 1, column_name[column], *out);
    return MPQ_OK;
}

/* Whether it is a node with parameters that stays float, whose time no width changes. */
static bool is_left_float(const struct table *t, const char *name)
{
    for (uint32_t i = 0; i < t->layers->n_rejected; i++) {
        const struct mpq_node *node = &t->graph->node[t->layers->rejected[i].node];
        if (strcmp(mpq_node_label(t->graph, node), name) == 0)
            return true;
    }
    return false;
}

static enum mpq_status read_row(const struct table *t, uint32_t row)
{
    const char *name = mpq_csv_field(&t->csv, row, t->column[NODE]);
    uint32_t l = 0;
    double bits, seconds, act = 0;
    while (l < t->layers->n_layer && name && strcmp(t->layers->layer[l].name, name) != 0)
        l++;
    if (name && l == t->layers->n_layer && is_left_float(t, name))
        return MPQ_OK;
    if (!name || l == t->layers->n_layer)
        return mpq_fail(t->ctx, MPQ_E_FORMAT, "%s: row %u: no layer is named '%s'", t->path,
                        row + 1, name ? name : "");
    MPQ_TRY(read_bits(t, row, WEIGHT_BITS, &bits));
    MPQ_TRY(read_number(t, row, SECONDS, 0, 1e5, &seconds));
    if (t->has_act)
        MPQ_TRY(read_bits(t, row, ACTIVATION_BITS, &act));
    for (uint32_t a = MPQ_MIN_BITS; a <= MPQ_MAX_BITS; a++)
        if (!t->has_act || a == (uint32_t)act)
            *entry(t, l, (uint32_t)bits, a) = seconds;
    return MPQ_OK;
}

/* The first number of from[0], from[stride], ... at or above width b, else below; or NaN. */
static double nearest(const double *from, size_t stride, uint32_t b)
{
    for (uint32_t i = b; i <= MPQ_MAX_BITS; i++)
        if (!isnan(from[i * stride]))
            return from[i * stride];
    for (uint32_t i = b; i >= MPQ_MIN_BITS; i--)
        if (!isnan(from[i * stride]))
            return from[i * stride];
    return (double)NAN;
}

/* Along the widths of activations, then of weights. */
static void fill_gaps(const struct table *t, uint32_t l)
{
    double *all = entry(t, l, 0, 0), filled[MPQ_N_BITS * MPQ_N_BITS] = {0};
    for (uint32_t b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++)
        for (uint32_t a = MPQ_MIN_BITS; a <= MPQ_MAX_BITS; a++)
            filled[b * MPQ_N_BITS + a] = nearest(&all[(size_t)b * MPQ_N_BITS], 1, a);
    memset(all, 0, sizeof filled);
    for (uint32_t a = MPQ_MIN_BITS; a <= MPQ_MAX_BITS; a++)
        for (uint32_t b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++)
            all[b * MPQ_N_BITS + a] = nearest(&filled[a], MPQ_N_BITS, b);
    for (uint32_t b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++)
        all[(size_t)b * MPQ_N_BITS] = all[b * MPQ_N_BITS + MPQ_MAX_BITS];
}

enum mpq_status mpq_latency_read(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                                 const struct mpq_graph *graph,
                                 const struct mpq_layer_table *layers, double **out_seconds)
{
    struct table t = {.ctx = ctx, .path = path, .graph = graph, .layers = layers};
    size_t n = (size_t)layers->n_layer * MPQ_N_BITS * MPQ_N_BITS;
    t.seconds = mpq_arena_alloc(ctx, arena, n, sizeof *t.seconds);
    if (!t.seconds)
        return MPQ_E_NOMEM;
    for (size_t i = 0; i < n; i++)
        t.seconds[i] = (double)NAN;
    MPQ_TRY(mpq_csv_read(ctx, arena, path, &t.csv));
    MPQ_TRY(find_columns(&t));
    for (uint32_t row = 1; row < t.csv.n_row; row++)
        MPQ_TRY(read_row(&t, row));
    for (uint32_t l = 0; l < layers->n_layer; l++) {
        fill_gaps(&t, l);
        if (isnan(*entry(&t, l, MPQ_MAX_BITS, MPQ_MAX_BITS)))
            return mpq_fail(ctx, MPQ_E_FORMAT, "%s: has no row of the layer '%s'", path,
                            layers->layer[l].name);
    }
    *out_seconds = t.seconds;
    return MPQ_OK;
}
