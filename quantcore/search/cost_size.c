/* Bytes of the file: measured layer by layer by whoever writes it. */
#include "quantcore/search/cost.h"

static void fill(const struct mpq_cost_inputs *in, struct mpq_cost *out)
{
    for (uint32_t l = 0; l < in->n_layer; l++)
        for (uint32_t b = 0; b < MPQ_N_BITS; b++)
            for (uint32_t a = 0; a < MPQ_N_BITS; a++)
                out->layer[MPQ_COST_AT(l, b, a)] = in->layer_bytes[l * MPQ_N_BITS + b];
    for (uint32_t i = 0; i < in->n_group * MPQ_N_BITS; i++)
        out->group[i] = in->group_bytes[i];
    out->other = in->other_bytes;
}

extern const struct mpq_cost_model mpq_cost_size;
const struct mpq_cost_model mpq_cost_size = {"file size", "bytes", 1, fill};
