#include "exporter/storage.h"

#include <string.h>

#include "exporter/pack.h"
#include "exporter/storage_group.h"

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

/* ---- tables, computed once a file ---- */

/* int32 [g, 2^k], column r the g codes of `bits` bits that make up the cell r. */
static const char *codes_table(struct mpq_storage_program *program, int bits)
{
    if (program->codes[bits])
        return program->codes[bits];
    struct mpq_build *build = program->build;
    int g = mpq_codes_per_cell[bits], k = mpq_cell_bits(bits);
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

static int64_t plane_bits(const struct mpq_storage_group *group)
{
    return group->n_code + group->n_rest;
}

/* The bytes: of each group in turn, bit 0 of the codes of all its layers, then bit 1, ... */
static uint8_t *pack_planes(const struct mpq_storage_program *program,
                            const struct mpq_storage_group *group, uint32_t n_group, size_t n_byte)
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
            size_t n = (size_t)mpq_shape_count(mpq_group_shape(program, &group[g], i));
            mpq_pack_planes(code, n, group[g].bits, plane, bytes, at + before);
            before += n;
        }
        at += plane * (size_t)group[g].bits;
    }
    return bytes;
}

/* The bits of all planes, a piece a group, as uint8 [bytes, 8]; out_bits [n_group]. */
static enum mpq_status write_planes(struct mpq_storage_program *program,
                                    const struct mpq_storage_group *group, uint32_t n_group,
                                    const char **out_bits)
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
static const char *plane_index(struct mpq_build *build, const struct mpq_storage_group *group,
                               const char *bits)
{
    struct mpq_tensor powers = {MPQ_UINT8, MPQ_SHAPE(1, group->bits),
                                (uint8_t[]){1, 2, 4, 8, 16, 32, 64}};
    const char *planes = reshape(build, bits, &MPQ_SHAPE(group->bits, -1));
    return MPQ_BUILD_OP(build, "MatMulInteger", {mpq_build_shared(build, &powers), planes});
}

/* ---- cells ---- */

/* The bits [shift, shift + width) of all cells of all layers, lowest bits first. */
static uint8_t *pack_part(struct mpq_storage_program *program,
                          const struct mpq_storage_group *group, uint8_t *const *code, int shift,
                          int width, size_t n_byte)
{
    struct mpq_build *build = program->build;
    int g = mpq_codes_per_cell[group->bits];
    uint8_t *bytes = mpq_arena_alloc(build->ctx, build->arena, n_byte, 1);
    size_t first = 0;
    for (uint32_t i = 0; i < group->n && bytes; i++) {
        size_t n = (size_t)mpq_shape_count(mpq_group_shape(program, group, i));
        mpq_pack_cells(code[i], n, group->bits, g, shift, width, bytes, first);
        first += n / (size_t)g;
    }
    return bytes;
}

/* That part of all cells, as an int32 tensor of bytes, `row` of them a row; 0: of rank 1. */
static const char *write_part(struct mpq_storage_program *program,
                              const struct mpq_storage_group *group, uint8_t *const *code,
                              int shift, int width, int64_t row)
{
    struct mpq_build *build = program->build;
    int64_t n_cell = (group->n_code + group->n_rest) / mpq_codes_per_cell[group->bits];
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
static const char *cell_index(struct mpq_storage_program *program,
                              const struct mpq_storage_group *group)
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
    int k = mpq_cell_bits(group->bits);
    int64_t row = group->row / mpq_codes_per_cell[group->bits];
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
static int32_t table_size(const struct mpq_storage_group *group)
{
    return 1 << (group->has_cells ? mpq_cell_bits(group->bits) : group->bits);
}

/* All 2^bits levels of each layer, the missing ones repeating the last, since a size must not
 * depend on content; one layer after the other, or level by level. */
static const char *write_levels(const struct mpq_storage_program *program,
                                const struct mpq_storage_group *group, bool by_level)
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
static const char *level_table(struct mpq_storage_program *program,
                               const struct mpq_storage_group *group)
{
    struct mpq_build *build = program->build;
    const char *level = write_levels(program, group, group->has_cells);
    if (!group->has_cells)
        return level;
    if (group->n == 1)
        return MPQ_BUILD_OP(build, "Gather", {level, codes_by_cell(program, group->bits)});
    level = MPQ_BUILD_OP(build, "Gather", {level, codes_table(program, group->bits)});
    level = MPQ_BUILD_OP(build, "Transpose", {level}); /* [layers, 2^k, g] */
    return reshape(build, level, &MPQ_SHAPE(-1, mpq_codes_per_cell[group->bits]));
}

/* int32 [rows, 1]: i * step in the rows of layer i; a step where its rows begin, summed up. */
static const char *layer_steps(const struct mpq_storage_program *program,
                               const struct mpq_storage_group *group, int32_t step)
{
    struct mpq_build *build = program->build;
    uint32_t n = group->n - 1;
    int32_t *data = mpq_arena_alloc(build->ctx, build->arena, (size_t)n * 2, sizeof *data);
    if (!data)
        return NULL;
    int64_t at = 0;
    for (uint32_t i = 0; i < n; i++) {
        at += mpq_shape_count(mpq_group_shape(program, group, i)) / group->row;
        data[i] = (int32_t)at;
        data[n + i] = step;
    }
    const struct mpq_tensor begin = {MPQ_INT32, MPQ_SHAPE(n, 1), data};
    const struct mpq_tensor steps = {MPQ_INT32, MPQ_SHAPE(n, 1), data + n};
    const int64_t rows[] = {(group->n_code + group->n_rest) / group->row, 1};
    const char *zero = mpq_build_shared_int32(build, 0);
    const char *zeros =
        MPQ_BUILD_OP(build, "Expand", {zero, mpq_build_shared_ints(build, rows, 2)});
    const char *scattered =
        MPQ_BUILD_OP(build, "ScatterElements",
                     {zeros, mpq_build_shared(build, &begin), mpq_build_shared(build, &steps)});
    return MPQ_BUILD_OP(build, "CumSum", {scattered, zero});
}

/* Layer i looks i * table_size further down. */
static const char *add_offsets(const struct mpq_storage_program *program,
                               const struct mpq_storage_group *group, const char *index)
{
    if (!group->has_cells)
        index = reshape(program->build, index, &MPQ_SHAPE(-1, group->row));
    return MPQ_BUILD_OP(program->build, "Add",
                        {index, layer_steps(program, group, table_size(group))});
}

/* ---- rows of 4-bit codes ---- */

/* The bytes of all rows: byte k of a row has its codes k and row / 2 + k. */
static uint8_t *pack_rows(struct mpq_storage_program *program,
                          const struct mpq_storage_group *group)
{
    struct mpq_build *build = program->build;
    int64_t half = group->row / 2;
    uint8_t *bytes = mpq_arena_alloc(build->ctx, build->arena, (size_t)group->n_code / 2, 1),
            *to = bytes;
    for (uint32_t i = 0; i < group->n && bytes; i++) {
        const uint8_t *code = codes_of(build, &program->layer[group->layer[i]]);
        int64_t n = mpq_shape_count(mpq_group_shape(program, group, i));
        if (!code)
            return NULL;
        for (int64_t at = 0; at < n; at += group->row)
            for (int64_t k = 0; k < half; k++)
                *to++ = (uint8_t)(code[at + k] | code[at + half + k] << 4);
    }
    return bytes;
}

/* int8 [rows, 2, row / 2], the weights in their order. Each row looks up its bytes in two tables of
 * its layer, what their first codes mean and what their second. Where a layer is one row these are
 * the tables of the layers; a single layer has no dimension for it. */
static const char *weights_by_row(struct mpq_storage_program *program,
                                  const struct mpq_storage_group *group)
{
    struct mpq_build *build = program->build;
    const int64_t one[2] = {1, 1};
    int64_t n_row = group->n_code / group->row, half = group->row / 2;
    bool is_layer = n_row == group->n;
    struct mpq_tensor bytes = {MPQ_UINT8, MPQ_SHAPE(n_row, 1, 1, half), NULL};
    if (is_layer)
        bytes.shape = n_row > 1 ? MPQ_SHAPE(n_row, 1, half) : MPQ_SHAPE(1, half);
    int axis = bytes.shape.rank - 1;
    if (!build->measured) {
        bytes.data = pack_rows(program, group);
        if (!bytes.data)
            return NULL;
    }
    const char *part[2], *packed = mpq_build_constant(build, &bytes, NULL);
    const char *index = MPQ_BUILD_OP(build, "Cast", {packed}, .attr = "to", .attr_int = MPQ_INT32);
    const char *levels = write_levels(program, group, true);
    const char *table =
        MPQ_BUILD_OP(build, "Gather", {levels, codes_by_cell(program, group->bits)});
    table = MPQ_BUILD_OP(build, "Transpose", {table}); /* [layers, 2, 256] */
    if (!is_layer)
        table = MPQ_BUILD_OP(build, "Gather", {table, layer_steps(program, group, 1)});
    if (!mpq_build_split(build, table, one, 2, axis - 1, part))
        return NULL;
    for (int i = 0; i < 2; i++)
        part[i] = MPQ_BUILD_OP(build, "GatherElements", {part[i], index}, .attr = "axis",
                               .attr_int = axis);
    return MPQ_BUILD_OP(build, "Concat", {part[0], part[1]}, .attr = "axis", .attr_int = axis - 1);
}

/* Layers that are neighbours and have the same tail are cut from one tensor of that tail. */
static enum mpq_status cut_weights(struct mpq_storage_program *program,
                                   const struct mpq_storage_group *group, const char *q)
{
    struct mpq_build *build = program->build;
    size_t n_max = (size_t)group->n + 1, n_run = 0;
    int64_t *length = mpq_arena_alloc(build->ctx, build->arena, n_max, sizeof *length);
    const char **run = mpq_arena_alloc(build->ctx, build->arena, n_max, sizeof *run);
    const char **piece = mpq_arena_alloc(build->ctx, build->arena, n_max, sizeof *piece);
    if (!length || !run || !piece)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < group->n; i++) {
        const struct mpq_shape *shape = mpq_group_shape(program, group, i);
        n_run += i == 0 || !mpq_has_same_tail(mpq_group_shape(program, group, i - 1), shape);
        length[n_run - 1] += mpq_shape_count(shape) / group->row;
    }
    if (group->n_rest)
        length[n_run++] = group->n_rest / group->row;
    if (!split(build, q, length, n_run, 0, run))
        return build->ctx->status;
    for (uint32_t i = 0, n; i < group->n; i += n) {
        struct mpq_shape shape = *mpq_group_shape(program, group, i);
        length[0] = shape.rank ? shape.dim[0] : 1;
        for (n = 1;
             i + n < group->n && mpq_has_same_tail(&shape, mpq_group_shape(program, group, i + n));
             n++)
            length[n] = mpq_group_shape(program, group, i + n)->dim[0];
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
static enum mpq_status cut_index(struct mpq_storage_program *program,
                                 const struct mpq_storage_group *group, const char *index)
{
    struct mpq_build *build = program->build;
    int64_t length[OFFSETS_FROM];
    const char *piece[OFFSETS_FROM];
    uint32_t n = group->n;
    int64_t row = group->has_cells ? group->row : 1;
    MPQ_ASSERT(n < OFFSETS_FROM);
    for (uint32_t i = 0; i < n; i++)
        length[i] = mpq_shape_count(mpq_group_shape(program, group, i)) / row;
    length[n] = group->n_rest / row;
    if (!split(build, index, length, n + (group->n_rest > 0), group->has_cells ? 0 : 1, piece))
        return build->ctx->status;
    for (uint32_t i = 0; i < n; i++) {
        struct mpq_storage_group alone = {.bits = group->bits, .has_cells = group->has_cells};
        alone.layer = group->layer + i;
        alone.n = 1;
        const char *q = MPQ_BUILD_OP(build, "Gather", {level_table(program, &alone), piece[i]});
        program->layer[group->layer[i]].piece =
            reshape(build, q, mpq_group_shape(program, group, i));
    }
    return build->ctx->status;
}

enum mpq_status mpq_storage_begin(struct mpq_build *build, struct mpq_storage_layer *layer,
                                  uint32_t n_layer, struct mpq_storage_program *out)
{
    struct mpq_storage_group *group;
    uint32_t n_group;
    *out = (struct mpq_storage_program){.build = build, .layer = layer};
    MPQ_TRY(mpq_make_groups(out, n_layer, &group, &n_group));
    const char **bits = mpq_arena_alloc(build->ctx, build->arena, n_group + 1, sizeof *bits);
    if (!bits)
        return MPQ_E_NOMEM;
    MPQ_TRY(write_planes(out, group, n_group, bits));
    for (uint32_t g = 0; g < n_group; g++) {
        if (mpq_group_is_by_row(&group[g])) {
            MPQ_TRY(cut_weights(out, &group[g], weights_by_row(out, &group[g])));
            continue;
        }
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
