#include "exporter/pack.h"

void mpq_pack_planes(const uint8_t *code, size_t n, int bits, size_t plane, uint8_t *bytes,
                     size_t first_bit)
{
    for (size_t p = 0; p < (size_t)bits; p++)
        for (size_t i = 0, at = first_bit + p * plane; i < n; i++, at++)
            bytes[at / 8] |= (uint8_t)(((code[i] >> p) & 1u) << (at % 8));
}

void mpq_pack_cells(const uint8_t *code, size_t n, int bits, int per_cell, int shift, int width,
                    uint8_t *bytes)
{
    size_t n_cell = n / (size_t)per_cell;
    size_t cells_a_byte = 8 / (size_t)width;
    for (size_t b = 0; b < n_cell / cells_a_byte; b++) {
        unsigned byte = 0;
        for (size_t j = 0; j < cells_a_byte; j++) {
            const uint8_t *first = code + (b * cells_a_byte + j) * (size_t)per_cell;
            unsigned cell = 0;
            for (int k = 0; k < per_cell; k++)
                cell |= (unsigned)first[k] << (k * bits);
            byte |= ((cell >> shift) & ((1u << width) - 1)) << (j * (size_t)width);
        }
        bytes[b] = (uint8_t)byte;
    }
}
