/* Which layers' weights are unpacked together, and as what. Private to storage*.c. */
#ifndef MPQ_EXPORTER_STORAGE_GROUP_H
#define MPQ_EXPORTER_STORAGE_GROUP_H

#include "exporter/storage.h"

/* From so many layers on, offsets into one table take less text than a table a layer. */
#define OFFSETS_FROM 6

/* Codes that are looked up at once; 1: a byte of a plane. */
extern const int mpq_codes_per_cell[MPQ_MAX_BITS];
int mpq_cell_bits(int bits);

/* Layers of one width that are unpacked together. */
struct mpq_storage_group {
    int bits;
    bool has_cells;     /* else planes                                                   */
    uint32_t *layer, n; /* those with the same dimensions but the first are neighbours   */
    int64_t n_code;     /* of the layers                                                 */
    int64_t n_rest;     /* codes without meaning behind them, which fill up a byte       */
    int64_t row;        /* codes of a row: a divisor of what each layer has and the rest */
};

const struct mpq_shape *mpq_group_shape(const struct mpq_storage_program *program,
                                        const struct mpq_storage_group *group, uint32_t i);

/* Whether the dimensions but the first are the same. */
bool mpq_has_same_tail(const struct mpq_shape *a, const struct mpq_shape *b);

/* Whether codes are looked up by rows: 4 bits, and few rows have tables of their own. */
bool mpq_group_is_by_row(const struct mpq_storage_group *group);

/* The groups of all layers that come as a program. */
enum mpq_status mpq_make_groups(const struct mpq_storage_program *program, uint32_t n_layer,
                                struct mpq_storage_group **out, uint32_t *out_n) MPQ_CHECKED;

#endif
