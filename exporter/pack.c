#include "exporter/pack.h"

void mpq_pack_planes(const uint8_t *code, size_t n, int bits, size_t plane, uint8_t *bytes,
                     size_t first_bit)
{
    for (size_t p = 0; p < (size_t)bits; p++)
        for (size_t i = 0, at = first_bit + p * plane; i < n; i++, at++)
            bytes[at / 8] |= (uint8_t)(((code[i] >> p) & 1u) << (at % 8));
}

void mpq_pack_cells(const uint8_t *code, size_t n, int bits, int per_cell, int shift, int width,
                    uint8_t *bytes, size_t first_cell)
{
    size_t n_cell = n / (size_t)per_cell;
    size_t cells_a_byte = 8 / (size_t)width;
    for (size_t c = 0; c < n_cell; c++) {
        unsigned cell = 0;
        for (int k = 0; k < per_cell; k++)
            cell |= (unsigned)*code++ << (k * bits);
        size_t at = first_cell + c;
        unsigned part = (cell >> shift) & ((1u << width) - 1);
        bytes[at / cells_a_byte] |= (uint8_t)(part << (at % cells_a_byte * (size_t)width));
    }
}
