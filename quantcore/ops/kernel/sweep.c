#include "quantcore/ops/kernel/sweep.h"

int mpq_sweep_vectors(int64_t left)
{
    if (left == MPQ_TILE_VECTORS + 1)
        return (MPQ_TILE_VECTORS + 1) / 2;
    return left < MPQ_TILE_VECTORS ? (int)left : MPQ_TILE_VECTORS;
}

void mpq_sweep_unit(const struct mpq_sweep *w, const struct mpq_unit *unit, const mpq_real *s,
                    mpq_real *to)
{
    const struct mpq_tile_set *set = mpq_tile_best();
    int64_t area = mpq_volume(w->stage->sink.dim);
    _Alignas(64) mpq_real tile[MPQ_TILE_MAX_ROWS * MPQ_TILE_MAX_COLUMNS];
    struct mpq_part part[MPQ_TILE_MAX_COLUMNS];
    int vectors;
    for (int64_t begin = 0; begin < unit->places; begin += vectors * set->lanes) {
        int64_t left = (unit->places - begin + set->lanes - 1) / set->lanes;
        vectors = mpq_sweep_vectors(left);
        int64_t n = unit->places - begin;
        if (n > vectors * set->lanes)
            n = vectors * set->lanes;
        int n_part = mpq_stage_parts(w->stage, unit, w->phase, w->n_channel, begin, n, part);
        int rows;
        for (int64_t row = 0; n_part > 0 && row < w->n_row; row += rows) {
            rows = set->max_rows;
            while (rows > w->n_row - row)
                rows /= 2;
            set->product(rows, vectors, w->n_k, w->a + row * w->n_k, w->n_k, s + begin, w->offset,
                         tile, MPQ_TILE_MAX_COLUMNS);
            mpq_stage_store(w->stage, part, n_part, rows, tile, MPQ_TILE_MAX_COLUMNS,
                            w->bias ? w->bias + row : NULL, w->add, to + row * area);
        }
    }
}
