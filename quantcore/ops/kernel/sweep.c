#include "quantcore/ops/kernel/sweep.h"

#include <stddef.h>

#include "quantcore/base/integer.h"

#define LD MPQ_TILE_MAX_COLUMNS

/* Gathering a column costs about what this many rows of products with it cost. */
#define GATHER_ROWS 12

#define K_BLOCK 1536 /* products to a sum at most */

int mpq_sweep_vectors(int64_t left)
{
    if (left == MPQ_TILE_VECTORS + 1)
        return (MPQ_TILE_VECTORS + 1) / 2;
    return left < MPQ_TILE_VECTORS ? (int)left : MPQ_TILE_VECTORS;
}

/* Longer sums are cut and added up in the sink, so that what a tile reads of the staged planes or
 * of the panel stays in cache while it passes over the rows. */
static int64_t k_block(int64_t n_k)
{
    int64_t n_block = (n_k + K_BLOCK - 1) / K_BLOCK;
    return (n_k + n_block - 1) / n_block;
}

int64_t mpq_sweep_panel(const struct mpq_stage *stage, int64_t n_row, int64_t n_k)
{
    struct mpq_unit unit = mpq_stage_unit(stage, 0);
    int64_t outputs = unit.n_image * unit.n_row * stage->total[1] * stage->total[2];
    bool pays = outputs * (n_row + GATHER_ROWS) < unit.places * n_row;
    return pays ? k_block(n_k) * LD + MPQ_STAGE_SLACK : 0;
}

void mpq_sweep_panel_offsets(int64_t n_k, int64_t *out)
{
    for (int64_t k = 0; k < n_k; k++)
        out[k] = k * LD;
}

/* A tile's worth of columns and where they go. */
struct columns {
    int n, n_part;
    int64_t begin;               /* the first place, where they are not gathered */
    struct mpq_part part[LD];    /* `from` is the column                         */
    struct mpq_tile_run run[LD]; /* the places, where they are gathered          */
};

/* What will be written: its old contents would be waited for. */
static void fetch_sink(const struct mpq_sweep *w, const struct columns *c, int rows,
                       const mpq_real *to)
{
    const int line = 64 / (int)sizeof(mpq_real);
    int64_t area = mpq_volume(w->stage->sink.dim), step = w->stage->sink.step[2];
    for (int i = 0; i < rows; i++, to += area)
        for (const struct mpq_part *p = c->part; p < c->part + c->n_part; p++)
            for (int64_t j = 0; j < p->count * step; j += line)
                __builtin_prefetch(to + p->to + j, 1);
}

/* Products [k, k + n_k) of every row. */
static void all_rows(const struct mpq_sweep *w, const struct columns *columns, const mpq_real *s,
                     const int64_t *offset, int64_t k, int64_t n_k, mpq_real *to)
{
    const struct mpq_tile_set *set = mpq_tile_best();
    mpq_tile_product *product = w->is_bytes ? mpq_tile_bytes() : set->product;
    int64_t area = mpq_volume(w->stage->sink.dim);
    int vectors = (columns->n + set->lanes - 1) / set->lanes, rows;
    _Alignas(64) mpq_real tile[MPQ_TILE_MAX_ROWS * LD];
    const struct mpq_tile_sink sink = mpq_tile_rows(set, tile, LD);
    for (int64_t row = 0; row < w->n_row; row += rows) {
        const mpq_real *bias = w->bias && k == 0 ? w->bias + row : NULL;
        rows = set->max_rows;
        while (rows > w->n_row - row)
            rows /= 2;
        if (w->n_row >= w->n_k)
            fetch_sink(w, columns, rows, to + row * area);
        product(rows, vectors, n_k, w->a + row * w->n_k + k, w->n_k, s, offset, &sink);
        mpq_stage_store(w->stage, columns->part, columns->n_part, rows, tile, LD, bias,
                        w->add || k > 0, k + n_k == w->n_k ? w->clamp : NULL, to + row * area);
    }
}

static void flush(const struct mpq_sweep *w, const struct columns *c, const mpq_real *s,
                  mpq_real *to)
{
    for (int64_t k = 0, n_k; k < w->n_k; k += n_k) {
        n_k = mpq_min(k_block(w->n_k), w->n_k - k);
        if (w->panel) {
            mpq_tile_best()->gather(n_k, s, w->offset + k, c->run, c->n_part, w->panel, LD);
            all_rows(w, c, w->panel, w->panel_offset, k, n_k, to);
        } else {
            all_rows(w, c, s + c->begin, w->offset + k, k, n_k, to);
        }
    }
}

/* Columns are all places, but for stretches without an output. */
static void sweep_places(const struct mpq_sweep *w, const struct mpq_unit *unit, const mpq_real *s,
                         mpq_real *to)
{
    int lanes = mpq_tile_best()->lanes;
    struct columns c;
    for (c.begin = 0; c.begin < unit->places; c.begin += c.n) {
        int64_t left = unit->places - c.begin;
        c.n = (int)mpq_min(left, mpq_sweep_vectors((left + lanes - 1) / lanes) * lanes);
        c.n_part = mpq_stage_parts(w->stage, unit, w->phase, w->n_channel, c.begin, c.n, c.part);
        if (c.n_part > 0)
            flush(w, &c, s, to);
    }
}

/* Put a part's places into columns; flush whenever they fill a tile. */
static void append(const struct mpq_sweep *w, int64_t begin, struct mpq_part part,
                   struct columns *c, const mpq_real *s, mpq_real *to)
{
    int width = MPQ_TILE_VECTORS * mpq_tile_best()->lanes;
    while (part.count > 0) {
        int count = (int)mpq_min(part.count, width - c->n);
        c->run[c->n_part] = (struct mpq_tile_run){begin + part.from, c->n, count};
        c->part[c->n_part++] = (struct mpq_part){part.to, c->n, count};
        c->n += count;
        part.to += count * w->stage->sink.step[2];
        part.from += count;
        part.count -= count;
        if (c->n == width) {
            flush(w, c, s, to);
            c->n = c->n_part = 0;
        }
    }
}

/* Columns are the places that outputs have. */
static void sweep_outputs(const struct mpq_sweep *w, const struct mpq_unit *unit, const mpq_real *s,
                          mpq_real *to)
{
    struct columns columns;
    struct mpq_part part[LD];
    columns.n = columns.n_part = 0;
    for (int64_t begin = 0; begin < unit->places; begin += LD) {
        int64_t n = mpq_min(LD, unit->places - begin);
        int n_part = mpq_stage_parts(w->stage, unit, w->phase, w->n_channel, begin, n, part);
        for (int i = 0; i < n_part; i++)
            append(w, begin, part[i], &columns, s, to);
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
