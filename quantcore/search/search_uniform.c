/* One width for all layers: what there is to beat. A layer that must not have the width gets its
 * next narrower one, or where there is none its narrowest. Activations are at their widest, or,
 * where they have a choice, all at the width of the weights. */
#include <math.h>

#include "quantcore/search/searcher.h"

static void fill_units(const struct mpq_searcher *s, uint32_t first, uint32_t end, uint32_t width,
                       uint8_t *bits)
{
    for (uint32_t u = first; u < end; u++) {
        uint32_t b = mpq_searcher_next(s, u, width + 1, -1);
        bits[u] = (uint8_t)(b ? b : mpq_searcher_next(s, u, width, 1));
    }
}

/* *out_is_worse: it fits and loses more than one offered before. */
static enum mpq_status offer(struct mpq_searcher *s, uint32_t width, uint32_t act_width,
                             uint8_t *bits, bool *out_is_worse)
{
    double loss;
    bool is_accepted;
    fill_units(s, 0, s->problem->n_layer, width, bits);
    fill_units(s, s->problem->n_layer, s->n_unit, act_width, bits);
    MPQ_TRY(mpq_searcher_offer(s, bits, false, &loss, &is_accepted));
    *out_is_worse = loss > s->best.uniform_loss;
    if (!isnan(loss) && !(loss >= s->best.uniform_loss)) {
        s->best.uniform_loss = loss;
        s->best.uniform_bits = (int)width;
    }
    return MPQ_OK;
}

enum mpq_status mpq_search_uniform(struct mpq_searcher *s)
{
    uint8_t *bits = mpq_arena_alloc(s->ctx, s->arena, s->n_unit, 1);
    if (!bits)
        return MPQ_E_NOMEM;
    for (uint32_t width = MPQ_MAX_BITS; width >= MPQ_MIN_BITS; width--) {
        bool is_worse, narrow_is_worse = true;
        if (!mpq_searcher_has_width(s, width)) /* that of a narrower one by another name */
            continue;
        MPQ_TRY(offer(s, width, MPQ_MAX_BITS, bits, &is_worse));
        if (s->problem->n_group)
            MPQ_TRY(offer(s, width, width, bits, &narrow_is_worse));
        if (is_worse && narrow_is_worse) /* then still narrower ones are, too */
            break;
    }
    return MPQ_OK;
}
