/* Bit operations of one sample: MACs * weight bits * bits of the layer's input, the measure of the
 * mixed-precision literature. */
#include "quantcore/search/cost.h"

static void fill(const struct mpq_cost_inputs *in, struct mpq_cost *out)
{
    for (uint32_t l = 0; l < in->n_layer; l++)
        for (uint32_t b = 0; b < MPQ_N_BITS; b++)
            for (uint32_t a = 0; a < MPQ_N_BITS; a++)
                out->layer[MPQ_COST_AT(l, b, a)] =
                    in->layer[l].macs * b *
                    (in->input_group[l] == MPQ_NO_GROUP ? in->input_bits[l] : a);
}

extern const struct mpq_cost_model mpq_cost_bitops;
const struct mpq_cost_model mpq_cost_bitops = {"BitOPs", "G", 1e-9, fill};
