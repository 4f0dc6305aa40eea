#include "exporter/storage.h"

#include <string.h>

#include "exporter/pack.h"
#include "quantcore/base/integer.h"

/* From so many weights of a width on they are cells. Planes take up to 30 ns of load time a weight,
 * cells 3 to 10; their longer chain takes 60 bytes more at 2 and 4 bits, 170 at the others, about
 * one percent of so many weights. */
#define CELLS_FROM 32768

/* A layer of so many weights stands alone: temporaries of megabytes cost more than the nodes of a
 * chain of its own. Small layers make groups of up to so many weights. */
#define ALONE_FROM    (INT64_C(1) << 16)
#define GROUP_WEIGHTS (INT64_C(1) << 22)

/* From so many layers on, offsets into one table take less text than a table a layer. */
#define OFFSETS_FROM 6

/* Every width but 7 needs at most one high part, of 2 or 4 bits a cell. A byte of a plane is a cell
 * of 8 codes of one bit. */
static const int codes_per_cell[MPQ_MAX_BITS] = {
    [1] = 8, [2] = 4, [3] = 4, [4] = 2, [5] = 2, [6] = 2, [7] = 2};

static int cell_bits(int bits)
{
    return codes_per_cell[bits] * bits;
}

/* Cells to which a byte of the narrowest part belongs. */
static int cells_per_byte(int bits)
{
    int high = cell_bits(bits) - 8;
    return high % 4 == 2 ? 4 : high == 4 ? 2 : 1;
}

/* The position of each weight's level. */
static uint8_t *codes_of(struct mpq_build *build, const struct mpq_storage_layer *layer)
{
    size_t n = (size_t)mpq_shape_count(&layer->shape);
    uint8_t *code = mpq_arena_alloc(build->ctx, build->arena, n, 1);
    if (!code)
        return NULL;
    uint8_t code_of_level[256] = {0};
    for (uint32_t i = 0; i < layer->n_level; i++)
        code_of_level[layer->level[i] + 128] = (uint8_t)i;
    for (size_t i = 0; i < n; i++) {
        code[i] = code_of_level[layer->q[i] + 128];
        MPQ_ASSERT(layer->level[code[i]] == layer->q[i]);
    }
    return code;
}

static const char *reshape(struct mpq_build *build, const char *in, const struct mpq_shape *shape)
{
    return MPQ_BUILD_OP(build, "Reshape",
                        {in, mpq_build_shared_ints(build, shape->dim, (size_t)shape->rank)});
}

/* A piece for each length; no node where there is but one. */
static bool split(struct mpq_build *build, const char *in, const int64_t *length, size_t n,
                  int axis, const char **out_piece)
{
    if (n > 1)
        return mpq_build_split(build, in, length, n, axis, out_piece);
    out_piece[0] = in;
    return build->ctx->status == MPQ_OK;
}

/* ---- groups ---- */

/* Layers of one width that are unpacked together. */
struct group {
    int bits;
    bool has_cells;     /* else planes                                                   */
    uint32_t *layer, n; /* those with the same dimensions but the first are neighbours   */
    int64_t n_code;     /* of the layers                                                 */
    int64_t n_rest;     /* codes without meaning behind them, which fill up a byte       */
    int64_t row;        /* codes of a row: a divisor of what each layer has and the rest */
};

static const struct mpq_shape *shape_of(const struct mpq_storage_program *program,
                                        const struct group *group, uint32_t i)
{
    return &program->layer[group->layer[i]].shape;
}

static bool has_same_tail(const struct mpq_shape *a, const struct mpq_shape *b)
{
    return a->rank > 0 && a->rank == b->rank &&
           memcmp(a->dim + 1, b->dim + 1, (size_t)(a->rank - 1) * sizeof *a->dim) == 0;
}

static void measure_group(const struct mpq_storage_program *program, struct group *group)
{
    int per_cell = codes_per_cell[group->bits];
    int64_t whole = group->has_cells ? (int64_t)per_cell * cells_per_byte(group->bits) : 8;
    group->n_code = group->row = 0;
    for (uint32_t i = 0; i < group->n; i++) {
        int64_t n = mpq_shape_count(shape_of(program, group, i));
        group->n_code += n;
        group->row = mpq_gcd(group->row, n);
    }
    group->n_rest = (whole - group->n_code % whole) % whole;
    group->row = mpq_gcd(group->row, group->n_rest);
    /* A single layer's cells come in rows that no part need be reshaped to. */
    if (group->n == 1 && group->n_rest == 0 && group->has_cells)
        group->row = whole;
}

/* Who may share a group: layers that do not fill whole cells, small ones that do, large ones. */
enum kind { BROKEN, SMALL, LARGE, N_KIND };

static enum kind kind_of(const struct mpq_storage_layer *layer)
{
    int64_t n = mpq_shape_count(&layer->shape);
    return n % codes_per_cell[layer->bits] ? BROKEN : n < ALONE_FROM ? SMALL : LARGE;
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
            if (has_same_tail(&layer[out_list[k]].shape, &layer[l].shape)) {
                at = k + 1;
                break;
            }
        memmove(out_list + at + 1, out_list + at, (n - 1 - at) * sizeof *out_list);
        out_list[at] = l;
    }
    return n;
}

/* Append the groups that a list of layers makes, of no more weights than `limit` or one layer. */
static void cut_list(const struct mpq_storage_program *program, struct group form, int64_t limit,
                     uint32_t *list, uint32_t n, struct group *group, uint32_t *n_group)
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
static enum mpq_status make_groups(const struct mpq_storage_program *program, uint32_t n_layer,
                                   struct group **out, uint32_t *out_n)
{
    struct mpq_build *build = program->build;
    uint32_t *list = mpq_arena_alloc(build->ctx, build->arena, n_layer + 1, sizeof *list);
    struct group *group = mpq_arena_alloc(build->ctx, build->arena, n_layer + 1, sizeof *group);
    if (!list || !group)
        return MPQ_E_NOMEM;
    *out_n = 0;
    for (int b = MPQ_MIN_BITS; b < MPQ_MAX_BITS; b++)
        for (enum kind kind = 0; kind < N_KIND; kind++) {
            int64_t n_weight;
            uint32_t n = list_layers(program, n_layer, b, kind, list, &n_weight);
            struct group form = {.bits = b, .has_cells = kind && n_weight >= CELLS_FROM};
            cut_list(program, form, kind == LARGE ? 0 : GROUP_WEIGHTS, list, n, group, out_n);
            list += n;
        }
    *out = group;
    return MPQ_OK;
}

/* ---- tables, computed once a file ---- */

/* int32 [g, 2^k], column r the g codes of `bits` bits that make up the cell r. */
static const char *codes_table(struct mpq_storage_program *program, int bits)
{
    if (program->codes[bits])
        return program->codes[bits];
    struct mpq_build *build = program->build;
    int g = codes_per_cell[bits], k = cell_bits(bits);
    if (!program->range[k]) {
        const char *first = mpq_build_shared_int32(build, 0);
        const char *end = mpq_build_shared_int32(build, 1 << k);
        const char *step = mpq_build_shared_int32(build, 1);
        program->range[k] = MPQ_BUILD_OP(build, "Range", {first, end, step});
    }
    int32_t divisor[8];
    for (int i = 0; i < g; i++)
        divisor[i] = 1 << (i * bits);
    struct mpq_tensor divisors = {MPQ_INT32, MPQ_SHAPE(g, 1), divisor};
    const char *shifted =
        MPQ_BUILD_OP(build, "Div", {program->range[k], mpq_build_shared(build, &divisors)});
    program->codes[bits] =
        MPQ_BUILD_OP(build, "Mod", {shifted, mpq_build_shared_int32(build, 1 << bits)});
    return program->codes[bits];
}

/* The same as [2^k, g]. */
static const char *codes_by_cell(struct mpq_storage_program *program, int bits)
{
    if (!program->codes_by_cell[bits])
        program->codes_by_cell[bits] =
            MPQ_BUILD_OP(program->build, "Transpose", {codes_table(program, bits)});
    return program->codes_by_cell[bits];
}

/* int32 [256, 8 / width], row r the parts that byte r holds, shifted to their place in a cell. */
static const char *high_table(struct mpq_storage_program *program, int width, int shift)
{
    const char **table = &program->high[width][shift];
    if (!*table)
        *table = MPQ_BUILD_OP(
            program->build, "Mul",
            {codes_by_cell(program, width), mpq_build_shared_int32(program->build, 1 << shift)});
    return *table;
}

/* ---- planes ---- */

static int64_t plane_bits(const struct group *group)
{
    return group->n_code + group->n_rest;
}

/* The bytes: of each group in turn, bit 0 of the codes of all its layers, then bit 1, ... */
static uint8_t *pack_planes(const struct mpq_storage_program *program, const struct group *group,
                            uint32_t n_group, size_t n_byte)
{
    struct mpq_build *build = program->build;
    uint8_t *bytes = mpq_arena_alloc(build->ctx, build->arena, n_byte, 1);
    size_t at = 0;
    for (uint32_t g = 0; g < n_group && bytes; g++) {
        if (group[g].has_cells)
            continue;
        size_t plane = (size_t)plane_bits(&group[g]), before = 0;
        for (uint32_t i = 0; i < group[g].n; i++) {
            uint8_t *code = codes_of(build, &program->layer[group[g].layer[i]]);
            if (!code)
                return NULL;
            size_t n = (size_t)mpq_shape_count(shape_of(program, &group[g], i));
            mpq_pack_planes(code, n, group[g].bits, plane, bytes, at + before);
            before += n;
        }
        at += plane * (size_t)group[g].bits;
    }
    return bytes;
}

/* The bits of all planes, a piece a group, as uint8 [bytes, 8]; out_bits [n_group]. */
static enum mpq_status write_planes(struct mpq_storage_program *program, const struct group *group,
                                    uint32_t n_group, const char **out_bits)
{
    struct mpq_build *build = program->build;
    int64_t *length = mpq_arena_alloc(build->ctx, build->arena, n_group + 1, sizeof *length);
    const char **piece = mpq_arena_alloc(build->ctx, build->arena, n_group + 1, sizeof *piece);
    if (!length || !piece)
        return MPQ_E_NOMEM;
    size_t n = 0;
    struct mpq_tensor bytes = {MPQ_UINT8, MPQ_SHAPE(0), NULL};
    for (uint32_t g = 0; g < n_group; g++) {
        if (group[g].has_cells)
            continue;
        length[n] = plane_bits(&group[g]) / 8 * group[g].bits;
        bytes.shape.dim[0] += length[n++];
    }
    if (!n)
        return MPQ_OK;
    if (!build->measured) {
        bytes.data = pack_planes(program, group, n_group, (size_t)bytes.shape.dim[0]);
        if (!bytes.data)
            return MPQ_E_NOMEM;
    }
    const char *packed = mpq_build_constant(build, &bytes, NULL);
    const char *table = MPQ_BUILD_OP(build, "Cast", {codes_by_cell(program, 1)}, .attr = "to",
                                     .attr_int = MPQ_UINT8);
    const char *index = MPQ_BUILD_OP(build, "Cast", {packed}, .attr = "to", .attr_int = MPQ_INT32);
    if (!split(build, MPQ_BUILD_OP(build, "Gather", {table, index}), length, n, 0, piece))
        return build->ctx->status;
    n = 0;
    for (uint32_t g = 0; g < n_group; g++)
        out_bits[g] = group[g].has_cells ? NULL : piece[n++];
    return MPQ_OK;
}

/* The bits of one group -> int32 codes [1, n]. */
static const char *plane_index(struct mpq_build *build, const struct group *group, const char *bits)
{
    struct mpq_tensor powers = {MPQ_UINT8, MPQ_SHAPE(1, group->bits),
                                (uint8_t[]){1, 2, 4, 8, 16, 32, 64}};
    const char *planes = reshape(build, bits, &MPQ_SHAPE(group->bits, -1));
    return MPQ_BUILD_OP(build, "MatMulInteger", {mpq_build_shared(build, &powers), planes});
}

/* ---- cells ---- */

/* The bits [shift, shift + width) of all cells of all layers, lowest bits first. */
static uint8_t *pack_part(struct mpq_storage_program *program, const struct group *group,
                          uint8_t *const *code, int shift, int width, size_t n_byte)
{
    struct mpq_build *build = program->build;
    int g = codes_per_cell[group->bits];
    uint8_t *bytes = mpq_arena_alloc(build->ctx, build->arena, n_byte, 1);
    size_t first = 0;
    for (uint32_t i = 0; i < group->n && bytes; i++) {
        size_t n = (size_t)mpq_shape_count(shape_of(program, group, i));
        mpq_pack_cells(code[i], n, group->bits, g, shift, width, bytes, first);
        first += n / (size_t)g;
    }
    return bytes;
}

/* That part of all cells, as an int32 tensor of bytes, `row` of them a row; 0: of rank 1. */
static const char *write_part(struct mpq_storage_program *program, const struct group *group,
                              uint8_t *const *code, int shift, int width, int64_t row)
{
    struct mpq_build *build = program->build;
    int64_t n_cell = (group->n_code + group->n_rest) / codes_per_cell[group->bits];
    int64_t n_byte = n_cell * width / 8;
    struct mpq_tensor bytes = {MPQ_UINT8, MPQ_SHAPE(n_byte), NULL};
    if (row)
        bytes.shape = MPQ_SHAPE(n_byte / row, row);
    if (!build->measured) {
        bytes.data = pack_part(program, group, code, shift, width, (size_t)n_byte);
        if (!bytes.data)
            return NULL;
    }
    const char *packed = mpq_build_constant(build, &bytes, NULL);
    return MPQ_BUILD_OP(build, "Cast", {packed}, .attr = "to", .attr_int = MPQ_INT32);
}

/* int32 cells by rows. */
static const char *cell_index(struct mpq_storage_program *program, const struct group *group)
{
    struct mpq_build *build = program->build;
    uint8_t **code = mpq_arena_alloc(build->ctx, build->arena, group->n, sizeof *code);
    for (uint32_t i = 0; i < group->n && code && !build->measured; i++) {
        code[i] = codes_of(build, &program->layer[group->layer[i]]);
        if (!code[i])
            return NULL;
    }
    if (!code)
        return NULL;
    int k = cell_bits(group->bits);
    int64_t row = group->row / codes_per_cell[group->bits];
    const char *index =
        write_part(program, group, code, 0, 8, group->n == 1 && row == 1 && k == 8 ? 0 : row);
    for (int shift = 8; shift < k;) {
        int width = k - shift >= 4 ? 4 : 2;
        const char *part = write_part(program, group, code, shift, width, 0);
        part = MPQ_BUILD_OP(build, "Gather", {high_table(program, width, shift), part});
        if (row != 8 / width)
            part = reshape(build, part, &MPQ_SHAPE(-1, row));
        index = MPQ_BUILD_OP(build, "Add", {index, part});
        shift += width;
    }
    return index;
}

/* ---- from indices to weights ---- */

/* Levels that one layer may be looked up in: what is added to its indices to find its own. */
static int32_t table_size(const struct group *group)
{
    return 1 << (group->has_cells ? cell_bits(group->bits) : group->bits);
}

/* All 2^bits levels of each layer, the missing ones repeating the last, since a size must not
 * depend on content; one layer after the other, or level by level. */
static const char *write_levels(const struct mpq_storage_program *program,
                                const struct group *group, bool by_level)
{
    struct mpq_build *build = program->build;
    uint32_t n_level = 1u << group->bits, n = group->n;
    struct mpq_tensor tensor = {MPQ_INT8, MPQ_SHAPE(n_level, n), NULL};
    if (n == 1 || !by_level)
        tensor.shape = MPQ_SHAPE((int64_t)n_level * n);
    if (!build->measured) {
        int8_t *level = mpq_arena_alloc(build->ctx, build->arena, (size_t)n_level * n, 1);
        if (!level)
            return NULL;
        for (uint32_t i = 0; i < n; i++) {
            const struct mpq_storage_layer *layer = &program->layer[group->layer[i]];
            for (uint32_t k = 0; k < n_level; k++)
                level[by_level ? k * n + i : i * n_level + k] =
                    layer->level[k < layer->n_level ? k : layer->n_level - 1];
        }
        tensor.data = level;
    }
    return mpq_build_constant(build, &tensor, NULL);
}

/* int8 [layers * table_size] of levels, or of rows of the g levels that a cell stands for. Levels
 * of all layers are found at once: looking them up is what costs time. */
static const char *level_table(struct mpq_storage_program *program, const struct group *group)
{
    struct mpq_build *build = program->build;
    const char *level = write_levels(program, group, group->has_cells);
    if (!group->has_cells)
        return level;
    if (group->n == 1)
        return MPQ_BUILD_OP(build, "Gather", {level, codes_by_cell(program, group->bits)});
    level = MPQ_BUILD_OP(build, "Gather", {level, codes_table(program, group->bits)});
    level = MPQ_BUILD_OP(build, "Transpose", {level}); /* [layers, 2^k, g] */
    return reshape(build, level, &MPQ_SHAPE(-1, codes_per_cell[group->bits]));
}

/* Layer i looks i * table_size further down: a step where its rows begin, summed up. */
static const char *add_offsets(const struct mpq_storage_program *program, const struct group *group,
                               const char *index)
{
    struct mpq_build *build = program->build;
    uint32_t n = group->n - 1;
    int32_t *data = mpq_arena_alloc(build->ctx, build->arena, (size_t)n * 2, sizeof *data);
    if (!data)
        return NULL;
    int64_t at = 0;
    for (uint32_t i = 0; i < n; i++) {
        at += mpq_shape_count(shape_of(program, group, i)) / group->row;
        data[i] = (int32_t)at;
        data[n + i] = table_size(group);
    }
    const struct mpq_tensor begin = {MPQ_INT32, MPQ_SHAPE(n, 1), data};
    const struct mpq_tensor step = {MPQ_INT32, MPQ_SHAPE(n, 1), data + n};
    const int64_t rows[] = {(group->n_code + group->n_rest) / group->row, 1};
    if (!group->has_cells)
        index = reshape(build, index, &MPQ_SHAPE(-1, group->row));
    const char *zero = mpq_build_shared_int32(build, 0);
    const char *zeros =
        MPQ_BUILD_OP(build, "Expand", {zero, mpq_build_shared_ints(build, rows, 2)});
    const char *steps =
        MPQ_BUILD_OP(build, "ScatterElements",
                     {zeros, mpq_build_shared(build, &begin), mpq_build_shared(build, &step)});
    return MPQ_BUILD_OP(build, "Add", {index, MPQ_BUILD_OP(build, "CumSum", {steps, zero})});
}

/* Layers that are neighbours and have the same tail are cut from one tensor of that tail. */
static enum mpq_status cut_weights(struct mpq_storage_program *program, const struct group *group,
                                   const char *q)
{
    struct mpq_build *build = program->build;
    size_t n_max = (size_t)group->n + 1, n_run = 0;
    int64_t *length = mpq_arena_alloc(build->ctx, build->arena, n_max, sizeof *length);
    const char **run = mpq_arena_alloc(build->ctx, build->arena, n_max, sizeof *run);
    const char **piece = mpq_arena_alloc(build->ctx, build->arena, n_max, sizeof *piece);
    if (!length || !run || !piece)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < group->n; i++) {
        const struct mpq_shape *shape = shape_of(program, group, i);
        n_run += i == 0 || !has_same_tail(shape_of(program, group, i - 1), shape);
        length[n_run - 1] += mpq_shape_count(shape) / group->row;
    }
    if (group->n_rest)
        length[n_run++] = group->n_rest / group->row;
    if (!split(build, q, length, n_run, 0, run))
        return build->ctx->status;
    for (uint32_t i = 0, n; i < group->n; i += n) {
        struct mpq_shape shape = *shape_of(program, group, i);
        length[0] = shape.rank ? shape.dim[0] : 1;
        for (n = 1; i + n < group->n && has_same_tail(&shape, shape_of(program, group, i + n)); n++)
            length[n] = shape_of(program, group, i + n)->dim[0];
        if (n > 1)
            shape.dim[0] = -1;
        if (!split(build, reshape(build, *run++, &shape), length, n, 0, piece))
            return build->ctx->status;
        for (uint32_t k = 0; k < n; k++)
            program->layer[group->layer[i + k]].piece = piece[k];
    }
    return MPQ_OK;
}

/* Or the indices are cut, and each layer looks up its own. */
static enum mpq_status cut_index(struct mpq_storage_program *program, const struct group *group,
                                 const char *index)
{
    struct mpq_build *build = program->build;
    int64_t length[OFFSETS_FROM];
    const char *piece[OFFSETS_FROM];
    uint32_t n = group->n;
    int64_t row = group->has_cells ? group->row : 1;
    MPQ_ASSERT(n < OFFSETS_FROM);
    for (uint32_t i = 0; i < n; i++)
        length[i] = mpq_shape_count(shape_of(program, group, i)) / row;
    length[n] = group->n_rest / row;
    if (!split(build, index, length, n + (group->n_rest > 0), group->has_cells ? 0 : 1, piece))
        return build->ctx->status;
    for (uint32_t i = 0; i < n; i++) {
        struct group alone = {.bits = group->bits, .has_cells = group->has_cells};
        alone.layer = group->layer + i;
        alone.n = 1;
        const char *q = MPQ_BUILD_OP(build, "Gather", {level_table(program, &alone), piece[i]});
        program->layer[group->layer[i]].piece = reshape(build, q, shape_of(program, group, i));
    }
    return build->ctx->status;
}

enum mpq_status mpq_storage_begin(struct mpq_build *build, struct mpq_storage_layer *layer,
                                  uint32_t n_layer, struct mpq_storage_program *out)
{
    struct group *group;
    uint32_t n_group;
    *out = (struct mpq_storage_program){.build = build, .layer = layer};
    MPQ_TRY(make_groups(out, n_layer, &group, &n_group));
    const char **bits = mpq_arena_alloc(build->ctx, build->arena, n_group + 1, sizeof *bits);
    if (!bits)
        return MPQ_E_NOMEM;
    MPQ_TRY(write_planes(out, group, n_group, bits));
    for (uint32_t g = 0; g < n_group; g++) {
        const char *index = group[g].has_cells ? cell_index(out, &group[g])
                                               : plane_index(build, &group[g], bits[g]);
        if (group[g].n < OFFSETS_FROM) {
            MPQ_TRY(cut_index(out, &group[g], index));
            continue;
        }
        index = add_offsets(out, &group[g], index);
        const char *q = MPQ_BUILD_OP(build, "Gather", {level_table(out, &group[g]), index});
        MPQ_TRY(cut_weights(out, &group[g], q));
    }
    return build->ctx->status;
}

const char *mpq_storage_weight(struct mpq_storage_program *program, uint32_t layer)
{
    struct mpq_storage_layer *l = &program->layer[layer];
    if (l->dtype == MPQ_UNDEFINED)
        return l->piece;
    struct mpq_build *build = program->build;
    struct mpq_tensor tensor = {l->dtype, l->shape, NULL};
    if (!build->measured) {
        size_t bytes = (size_t)mpq_shape_count(&l->shape);
        tensor.data = mpq_arena_copy(build->ctx, build->arena, l->q, bytes);
        if (!tensor.data)
            return NULL;
    }
    return mpq_build_constant(build, &tensor, NULL);
}

/* ---- two values ---- */

bool mpq_storage_has_two_values(const struct mpq_tensor *tensor, float out_value[2])
{
    enum { WORTH_THE_NODES = 512 };
    int64_t n = mpq_shape_count(&tensor->shape);
    if (tensor->dtype != MPQ_FLOAT || n < WORTH_THE_NODES || n % 8)
        return false;
    const float *x = tensor->data;
    out_value[0] = out_value[1] = x[0];
    for (int64_t i = 1; i < n; i++) { /* by their bits: there are two zeros and many NaN */
        if (memcmp(&x[i], &out_value[0], sizeof *x) == 0)
            continue;
        if (memcmp(&out_value[1], &out_value[0], sizeof *x) == 0)
            out_value[1] = x[i];
        else if (memcmp(&x[i], &out_value[1], sizeof *x) != 0)
            return false;
    }
    return true;
}

const char *mpq_storage_two_values(struct mpq_storage_program *program,
                                   const struct mpq_tensor *tensor, const float value[2],
                                   const char *name)
{
    struct mpq_build *build = program->build;
    int64_t n = mpq_shape_count(&tensor->shape);
    struct mpq_tensor bytes = {MPQ_UINT8, MPQ_SHAPE(n / 8), NULL};
    struct mpq_tensor values = {MPQ_FLOAT, MPQ_SHAPE(2), NULL};
    uint8_t *packed = mpq_arena_alloc(build->ctx, build->arena, (size_t)(n / 8), 1);
    values.data = mpq_arena_copy(build->ctx, build->arena, value, 2 * sizeof *value);
    if (!packed || !values.data)
        return NULL;
    const float *x = tensor->data;
    for (int64_t i = 0; i < n; i++)
        if (memcmp(&x[i], &value[0], sizeof *x) != 0)
            packed[i / 8] |= (uint8_t)(1u << i % 8);
    bytes.data = packed;
    const char *table = MPQ_BUILD_OP(
        build, "Gather", {mpq_build_constant(build, &values, NULL), codes_by_cell(program, 1)});
    const char *stored = mpq_build_constant(build, &bytes, NULL);
    const char *index = MPQ_BUILD_OP(build, "Cast", {stored}, .attr = "to", .attr_int = MPQ_INT32);
    const char *flat = MPQ_BUILD_OP(build, "Gather", {table, index});
    const char *shape = mpq_build_shared_ints(build, tensor->shape.dim, (size_t)tensor->shape.rank);
    return MPQ_BUILD_OP(build, "Reshape", {flat, shape}, .out = name);
}
