#include "exporter/storage_group.h"

#include <string.h>

#include "quantcore/base/integer.h"

/* From so many weights of a width on they are cells. Planes take up to 30 ns of load time a weight,
 * cells 3 to 10; their longer chain takes 60 bytes more at 2 and 4 bits, 170 at the others, about
 * one percent of so many weights. */
#define CELLS_FROM 32768

/* A layer of so many weights stands alone: temporaries of megabytes cost more than the nodes of a
 * chain of its own. Small layers make groups of up to so many weights. */
#define ALONE_FROM    (INT64_C(1) << 16)
#define GROUP_WEIGHTS (INT64_C(1) << 22)

/* Rows of so many codes of 4 bits are looked up code by code: GatherElements takes 1 ns a code,
 * Gather 15 ns a cell, whether it has 2 codes or 4; each row needs tables of its layer, 512 bytes.
 */
#define ROWS_FROM 256

/* Every width but 7 needs at most one high part, of 2 or 4 bits a cell. A byte of a plane is a cell
 * of 8 codes of one bit. */
const int mpq_codes_per_cell[MPQ_MAX_BITS] = {
    [1] = 8, [2] = 4, [3] = 4, [4] = 2, [5] = 2, [6] = 2, [7] = 2};

int mpq_cell_bits(int bits)
{
    return mpq_codes_per_cell[bits] * bits;
}

/* Cells to which a byte of the narrowest part belongs. */
static int cells_per_byte(int bits)
{
    int high = mpq_cell_bits(bits) - 8;
    return high % 4 == 2 ? 4 : high == 4 ? 2 : 1;
}

const struct mpq_shape *mpq_group_shape(const struct mpq_storage_program *program,
                                        const struct mpq_storage_group *group, uint32_t i)
{
    return &program->layer[group->layer[i]].shape;
}

bool mpq_has_same_tail(const struct mpq_shape *a, const struct mpq_shape *b)
{
    return a->rank > 0 && a->rank == b->rank &&
           memcmp(a->dim + 1, b->dim + 1, (size_t)(a->rank - 1) * sizeof *a->dim) == 0;
}

static void measure_group(const struct mpq_storage_program *program,
                          struct mpq_storage_group *group)
{
    int per_cell = mpq_codes_per_cell[group->bits];
    int64_t whole = group->has_cells ? (int64_t)per_cell * cells_per_byte(group->bits) : 8;
    group->n_code = group->row = 0;
    for (uint32_t i = 0; i < group->n; i++) {
        int64_t n = mpq_shape_count(mpq_group_shape(program, group, i));
        group->n_code += n;
        group->row = mpq_gcd(group->row, n);
    }
    group->n_rest = (whole - group->n_code % whole) % whole;
    group->row = mpq_gcd(group->row, group->n_rest);
    /* A single layer's cells come in rows that no part need be reshaped to. */
    if (group->n == 1 && group->n_rest == 0 && group->has_cells && group->bits != 4)
        group->row = whole;
}

bool mpq_group_is_by_row(const struct mpq_storage_group *group)
{
    return group->has_cells && group->bits == 4 && group->row >= ROWS_FROM &&
           (group->n >= OFFSETS_FROM || group->row * group->n == group->n_code);
}

/* Who may share a group: layers that do not fill whole cells, small ones that do, large ones. */
enum kind { BROKEN, SMALL, LARGE, N_KIND };

static enum kind kind_of(const struct mpq_storage_layer *layer)
{
    int64_t n = mpq_shape_count(&layer->shape);
    return n % mpq_codes_per_cell[layer->bits] ? BROKEN : n < ALONE_FROM ? SMALL : LARGE;
}

/* Layers of one width and kind, neighbours where their tails are the same: how many, and how many
 * weights they have. */
static uint32_t list_layers(const struct mpq_storage_program *program, uint32_t n_layer, int bits,
                            enum kind kind, uint32_t *out_list, int64_t *out_n_weight)
{
    const struct mpq_storage_layer *layer = program->layer;
    uint32_t n = 0;
    *out_n_weight = 0;
    for (uint32_t l = 0; l < n_layer; l++) {
        if (layer[l].dtype != MPQ_UNDEFINED || layer[l].bits != bits || kind_of(&layer[l]) != kind)
            continue;
        *out_n_weight += mpq_shape_count(&layer[l].shape);
        uint32_t at = n++;
        for (uint32_t k = n - 1; k-- > 0;)
            if (mpq_has_same_tail(&layer[out_list[k]].shape, &layer[l].shape)) {
                at = k + 1;
                break;
            }
        memmove(out_list + at + 1, out_list + at, (n - 1 - at) * sizeof *out_list);
        out_list[at] = l;
    }
    return n;
}

/* Append the groups that a list of layers makes, of no more weights than `limit` or one layer. */
static void cut_list(const struct mpq_storage_program *program, struct mpq_storage_group form,
                     int64_t limit, uint32_t *list, uint32_t n, struct mpq_storage_group *group,
                     uint32_t *n_group)
{
    for (uint32_t i = 0; i < n; i += form.n) {
        int64_t n_weight = 0;
        form.layer = list + i;
        for (form.n = 0; i + form.n < n; form.n++) {
            n_weight += mpq_shape_count(&program->layer[list[i + form.n]].shape);
            if (form.n && n_weight > limit)
                break;
        }
        measure_group(program, &form);
        group[(*n_group)++] = form;
    }
}

/* Room for a group a layer is enough. */
enum mpq_status mpq_make_groups(const struct mpq_storage_program *program, uint32_t n_layer,
                                struct mpq_storage_group **out, uint32_t *out_n)
{
    struct mpq_build *build = program->build;
    uint32_t *list = mpq_arena_alloc(build->ctx, build->arena, n_layer + 1, sizeof *list);
    struct mpq_storage_group *group =
        mpq_arena_alloc(build->ctx, build->arena, n_layer + 1, sizeof *group);
    if (!list || !group)
        return MPQ_E_NOMEM;
    *out_n = 0;
    for (int b = MPQ_MIN_BITS; b < MPQ_MAX_BITS; b++)
        for (enum kind kind = 0; kind < N_KIND; kind++) {
            int64_t n_weight;
            uint32_t n = list_layers(program, n_layer, b, kind, list, &n_weight);
            struct mpq_storage_group form = {.bits = b,
                                             .has_cells = kind && n_weight >= CELLS_FROM};
            cut_list(program, form, kind == LARGE ? 0 : GROUP_WEIGHTS, list, n, group, out_n);
            list += n;
        }
    *out = group;
    return MPQ_OK;
}
