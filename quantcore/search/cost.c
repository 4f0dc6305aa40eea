#include "quantcore/search/cost.h"

void mpq_cost_bitops(uint32_t n_layer, const uint64_t *macs, const uint8_t *act_bits,
                     uint64_t *out_table)
{
    for (uint32_t l = 0; l < n_layer; l++)
        for (uint32_t b = 0; b < MPQ_N_BITS; b++)
            out_table[l * MPQ_N_BITS + b] = macs[l] * b * act_bits[l];
}

uint64_t mpq_cost_sum(uint32_t n_layer, const uint64_t *table, const uint8_t *bits)
{
    uint64_t sum = 0;
    for (uint32_t l = 0; l < n_layer; l++)
        sum += table[l * MPQ_N_BITS + bits[l]];
    return sum;
}
