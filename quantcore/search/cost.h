/* What an allocation costs beside its bytes. Costs are additive: a table of [n_layer * MPQ_N_BITS],
 * where entry l * MPQ_N_BITS + b is what layer l costs at b bits, summed over the layers. */
#ifndef MPQ_SEARCH_COST_H
#define MPQ_SEARCH_COST_H

#include "quantcore/quant/layer.h"

/* Bit operations of one sample: macs * weight bits * activation bits, the measure of the
 * mixed-precision literature. act_bits [n_layer] are those of each layer's input. */
void mpq_cost_bitops(uint32_t n_layer, const uint64_t *macs, const uint8_t *act_bits,
                     uint64_t *out_table);

/* Sum of a cost table over the layers. */
uint64_t mpq_cost_sum(uint32_t n_layer, const uint64_t *table, const uint8_t *bits);

#endif
