#include "quantcore/ops/kernel/sweep.h"

#include <stddef.h>

#define LD MPQ_TILE_MAX_COLUMNS

/* Gathering a column costs about what this many rows of products with it cost. */
#define GATHER_ROWS 12

int mpq_sweep_vectors(int64_t left)
{
    if (left == MPQ_TILE_VECTORS + 1)
        return (MPQ_TILE_VECTORS + 1) / 2;
    return left < MPQ_TILE_VECTORS ? (int)left : MPQ_TILE_VECTORS;
}

int64_t mpq_sweep_panel(const struct mpq_stage *stage, int64_t n_row, int64_t n_k)
{
    struct mpq_unit unit = mpq_stage_unit(stage, 0);
    int64_t outputs = unit.n_image * unit.n_row * stage->total[1] * stage->total[2];
    bool pays = outputs * (n_row + GATHER_ROWS) < unit.places * n_row;
    return pays ? n_k * LD + MPQ_STAGE_SLACK : 0;
}

void mpq_sweep_panel_offsets(int64_t n_k, int64_t *out)
{
    for (int64_t k = 0; k < n_k; k++)
        out[k] = k * LD;
}

/* A tile's worth of columns and where they go. */
struct columns {
    int n, n_part;
    struct mpq_part part[LD];    /* `from` is the column             */
    struct mpq_tile_run run[LD]; /* the places, where they are gathered */
};

static void all_rows(const struct mpq_sweep *w, const struct columns *columns, const mpq_real *s,
                     const int64_t *offset, mpq_real *to)
{
    const struct mpq_tile_set *set = mpq_tile_best();
    int64_t area = mpq_volume(w->stage->sink.dim);
    int vectors = (columns->n + set->lanes - 1) / set->lanes, rows;
    _Alignas(64) mpq_real tile[MPQ_TILE_MAX_ROWS * LD];
    for (int64_t row = 0; columns->n_part > 0 && row < w->n_row; row += rows) {
        rows = set->max_rows;
        while (rows > w->n_row - row)
            rows /= 2;
        set->product(rows, vectors, w->n_k, w->a + row * w->n_k, w->n_k, s, offset, tile, LD);
        mpq_stage_store(w->stage, columns->part, columns->n_part, rows, tile, LD,
                        w->bias ? w->bias + row : NULL, w->add, to + row * area);
    }
}

/* Columns are all places from `begin` on. */
static void sweep_places(const struct mpq_sweep *w, const struct mpq_unit *unit, const mpq_real *s,
                         mpq_real *to)
{
    int lanes = mpq_tile_best()->lanes;
    struct columns columns;
    for (int64_t begin = 0; begin < unit->places; begin += columns.n) {
        int64_t left = unit->places - begin;
        int64_t n = mpq_sweep_vectors((left + lanes - 1) / lanes) * lanes;
        columns.n = (int)(n < left ? n : left);
        columns.n_part =
            mpq_stage_parts(w->stage, unit, w->phase, w->n_channel, begin, columns.n, columns.part);
        all_rows(w, &columns, s + begin, w->offset, to);
    }
}

static void flush(const struct mpq_sweep *w, struct columns *columns, const mpq_real *s,
                  mpq_real *to)
{
    mpq_tile_best()->gather(w->n_k, s, w->offset, columns->run, columns->n_part, w->panel, LD);
    all_rows(w, columns, w->panel, w->panel_offset, to);
    columns->n = columns->n_part = 0;
}

/* Columns are the places that outputs have. */
static void sweep_outputs(const struct mpq_sweep *w, const struct mpq_unit *unit, const mpq_real *s,
                          mpq_real *to)
{
    int width = MPQ_TILE_VECTORS * mpq_tile_best()->lanes;
    int64_t step = w->stage->sink.step[2];
    struct columns columns = {.n = 0};
    struct mpq_part part[LD];
    for (int64_t begin = 0; begin < unit->places; begin += LD) {
        int64_t left = unit->places - begin;
        int n_part = mpq_stage_parts(w->stage, unit, w->phase, w->n_channel, begin,
                                     left < LD ? left : LD, part);
        for (int i = 0; i < n_part;) {
            int count = part[i].count < width - columns.n ? part[i].count : width - columns.n;
            columns.run[columns.n_part] =
                (struct mpq_tile_run){begin + part[i].from, columns.n, count};
            columns.part[columns.n_part++] = (struct mpq_part){part[i].to, columns.n, count};
            columns.n += count;
            part[i].to += count * step;
            part[i].from += count;
            part[i].count -= count;
            if (part[i].count == 0)
                i++;
            if (columns.n == width)
                flush(w, &columns, s, to);
        }
    }
    if (columns.n > 0)
        flush(w, &columns, s, to);
}

void mpq_sweep_unit(const struct mpq_sweep *sweep, const struct mpq_unit *unit,
                    const mpq_real *staged, mpq_real *to)
{
    if (sweep->panel)
        sweep_outputs(sweep, unit, staged, to);
    else
        sweep_places(sweep, unit, staged, to);
}
