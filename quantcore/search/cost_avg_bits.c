/* Bits of all weights, read as bits a weight. */
#include "quantcore/search/cost.h"

static void fill(const struct mpq_cost_inputs *in, struct mpq_cost *out)
{
    uint64_t n_param = 0;
    for (uint32_t l = 0; l < in->n_layer; l++) {
        n_param += (uint64_t)in->layer[l].n_param;
        for (uint32_t b = 0; b < MPQ_N_BITS; b++)
            for (uint32_t a = 0; a < MPQ_N_BITS; a++)
                out->layer[MPQ_COST_AT(l, b, a)] = b * (uint64_t)in->layer[l].n_param;
    }
    out->shown = n_param ? 1 / (double)n_param : 1;
}

extern const struct mpq_cost_model mpq_cost_avg_bits;
const struct mpq_cost_model mpq_cost_avg_bits = {"average width", "bits a weight", 1, fill};
