/* Codes of a few bits each -> bytes, in the two layouts of the storage programs. Bits fill each
 * byte from the lowest. */
#ifndef MPQ_EXPORTER_PACK_H
#define MPQ_EXPORTER_PACK_H

#include <stddef.h>
#include <stdint.h>

/* Bit planes: bit p of the n codes in the bits [first_bit + p * plane, first_bit + p * plane + n)
 * of `bytes`, which must be zero there. */
void mpq_pack_planes(const uint8_t *code, size_t n, int bits, size_t plane, uint8_t *bytes,
                     size_t first_bit);

/* Cells: n / per_cell numbers, each of per_cell codes, the first code in its lowest bits. Of every
 * cell the bits [shift, shift + width), packed one after the other from place first_cell on; width
 * is 2, 4 or 8. n is a multiple of per_cell, and `bytes` is zero there. */
void mpq_pack_cells(const uint8_t *code, size_t n, int bits, int per_cell, int shift, int width,
                    uint8_t *bytes, size_t first_cell);

#endif
