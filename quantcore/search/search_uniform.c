/* One width for all layers: what there is to beat. A layer that must not have the width gets its
 * next narrower one, or where there is none its narrowest. */
#include <math.h>

#include "quantcore/search/searcher.h"

static void fill_uniform(const struct mpq_searcher *s, uint32_t width, uint8_t *bits)
{
    for (uint32_t l = 0; l < s->problem->n_layer; l++) {
        uint32_t b = mpq_searcher_next(s, l, width + 1, -1);
        bits[l] = (uint8_t)(b ? b : mpq_searcher_next(s, l, width, 1));
    }
}

enum mpq_status mpq_search_uniform(struct mpq_searcher *s)
{
    uint8_t *bits = mpq_arena_alloc(s->ctx, s->arena, s->problem->n_layer, 1);
    if (!bits)
        return MPQ_E_NOMEM;
    for (uint32_t width = MPQ_MAX_BITS; width >= MPQ_MIN_BITS; width--) {
        double loss;
        bool is_accepted;
        fill_uniform(s, width, bits);
        MPQ_TRY(mpq_searcher_offer(s, bits, &loss, &is_accepted));
        if (!isnan(loss) && !(loss >= s->best.uniform_loss)) {
            s->best.uniform_loss = loss;
            s->best.uniform_bits = (int)width;
        }
    }
    return MPQ_OK;
}
