#include "exporter/storage.h"

#include "exporter/pack.h"

/* Planes cost about 15 to 30 ns of load time a weight, cells 3 to 5; the tables of a width and the
 * longer chain take up to 330 bytes, about one percent of a layer of this size. */
#define CELLS_FROM 65536

/* g codes a cell. Every width but 7 needs at most one high part, of 2 or 4 bits a cell. */
static const int codes_per_cell[MPQ_MAX_BITS] = {
    [2] = 4, [3] = 4, [4] = 2, [5] = 2, [6] = 2, [7] = 2};

static bool uses_cells(const struct mpq_storage_layer *layer)
{
    int64_t n = mpq_shape_count(&layer->shape);
    return n >= CELLS_FROM && n % 8 == 0; /* 8: no part ends inside a byte */
}

static bool uses_planes(const struct mpq_storage_layer *layer)
{
    return layer->dtype == MPQ_UNDEFINED && !uses_cells(layer);
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

/* All 2^bits levels, the missing ones repeating the last: a size must not depend on content. */
static const char *write_levels(struct mpq_build *build, const struct mpq_storage_layer *layer)
{
    struct mpq_tensor tensor = {MPQ_INT8, MPQ_SHAPE(1 << layer->bits), NULL};
    if (!build->measured) {
        int8_t *level = mpq_arena_alloc(build->ctx, build->arena, 1u << layer->bits, 1);
        if (!level)
            return NULL;
        for (uint32_t i = 0; i < 1u << layer->bits; i++)
            level[i] = layer->level[i < layer->n_level ? i : layer->n_level - 1];
        tensor.data = level;
    }
    return mpq_build_constant(build, &tensor, NULL);
}

static const char *write_shape(struct mpq_build *build, const struct mpq_shape *shape)
{
    return mpq_build_shared_ints(build, shape->dim, (size_t)shape->rank);
}

/* ---- planes ---- */

static const char *write_bits(struct mpq_build *build, const struct mpq_storage_layer *layer,
                              uint32_t n_layer, size_t n_bit)
{
    struct mpq_tensor bytes = {MPQ_UINT8, MPQ_SHAPE((int64_t)((n_bit + 7) / 8), 1), NULL};
    if (!build->measured) {
        bytes.data = mpq_arena_alloc(build->ctx, build->arena, (n_bit + 7) / 8, 1);
        if (!bytes.data)
            return NULL;
    }
    size_t at = 0;
    for (uint32_t l = 0; l < n_layer && bytes.data; l++) {
        if (!uses_planes(&layer[l]))
            continue;
        uint8_t *code = codes_of(build, &layer[l]);
        if (!code)
            return NULL;
        size_t n = (size_t)mpq_shape_count(&layer[l].shape);
        mpq_pack_planes(code, n, layer[l].bits, bytes.data, at);
        at += n * (size_t)layer[l].bits;
    }
    struct mpq_tensor shift = {MPQ_UINT8, MPQ_SHAPE(8), (uint8_t[]){0, 1, 2, 3, 4, 5, 6, 7}};
    const char *packed = mpq_build_constant(build, &bytes, NULL);
    const char *shifts = mpq_build_shared(build, &shift);
    const char *two = mpq_build_shared_uint8(build, 2);
    const char *flat = mpq_build_shared_ints(build, (int64_t[]){-1}, 1);
    const char *bits = MPQ_BUILD_OP(build, "BitShift", {packed, shifts}, .attr = "direction",
                                    .attr_string = "RIGHT");
    bits = MPQ_BUILD_OP(build, "Mod", {bits, two});
    return MPQ_BUILD_OP(build, "Reshape", {bits, flat});
}

enum mpq_status mpq_storage_begin(struct mpq_build *build, struct mpq_storage_layer *layer,
                                  uint32_t n_layer, struct mpq_storage_program *out)
{
    *out = (struct mpq_storage_program){.build = build, .layer = layer};
    int64_t *length =
        mpq_arena_alloc(build->ctx, build->arena, (size_t)n_layer + 1, sizeof *length);
    const char **piece =
        mpq_arena_alloc(build->ctx, build->arena, (size_t)n_layer + 1, sizeof *piece);
    if (!length || !piece)
        return MPQ_E_NOMEM;
    size_t n_piece = 0, n_bit = 0;
    for (uint32_t l = 0; l < n_layer; l++) {
        if (!uses_planes(&layer[l]))
            continue;
        length[n_piece] = mpq_shape_count(&layer[l].shape) * layer[l].bits;
        n_bit += (size_t)length[n_piece++];
    }
    if (!n_piece)
        return MPQ_OK;
    const char *bits = write_bits(build, layer, n_layer, n_bit);
    if (n_bit % 8)
        length[n_piece++] = (int64_t)(8 - n_bit % 8);
    if (!mpq_build_split(build, bits, length, n_piece, piece))
        return build->ctx->status;
    for (uint32_t l = 0; l < n_layer; l++)
        if (uses_planes(&layer[l]))
            layer[l].piece = *piece++;
    return MPQ_OK;
}

static const char *planes_weight(struct mpq_build *build, const struct mpq_storage_layer *layer)
{
    struct mpq_tensor powers = {MPQ_UINT8, MPQ_SHAPE(1, layer->bits),
                                (uint8_t[]){1, 2, 4, 8, 16, 32, 64}};
    const char *levels = write_levels(build, layer);
    const char *planes =
        MPQ_BUILD_OP(build, "Reshape",
                     {layer->piece, mpq_build_shared_ints(build, (int64_t[]){layer->bits, -1}, 2)});
    const char *code =
        MPQ_BUILD_OP(build, "MatMulInteger", {mpq_build_shared(build, &powers), planes});
    const char *q = MPQ_BUILD_OP(build, "Gather", {levels, code});
    return MPQ_BUILD_OP(build, "Reshape", {q, write_shape(build, &layer->shape)});
}

/* ---- cells ---- */

/* int32 [2^k, g], row r the g codes of `bits` bits that make up the cell r. */
static const char *codes_table(struct mpq_storage_program *program, int bits)
{
    if (program->codes[bits])
        return program->codes[bits];
    struct mpq_build *build = program->build;
    int g = codes_per_cell[bits], k = g * bits;
    if (!program->range[k]) {
        const char *first = mpq_build_shared_int32(build, 0);
        const char *end = mpq_build_shared_int32(build, 1 << k);
        const char *step = mpq_build_shared_int32(build, 1);
        program->range[k] = MPQ_BUILD_OP(build, "Range", {first, end, step});
    }
    int32_t divisor[4] = {1, 1 << bits, 1 << (2 * bits), 1 << (3 * bits)};
    struct mpq_tensor divisors = {MPQ_INT32, MPQ_SHAPE(g, 1), divisor};
    const char *shifted =
        MPQ_BUILD_OP(build, "Div", {program->range[k], mpq_build_shared(build, &divisors)});
    const char *codes =
        MPQ_BUILD_OP(build, "Mod", {shifted, mpq_build_shared_int32(build, 1 << bits)});
    program->codes[bits] = MPQ_BUILD_OP(build, "Transpose", {codes});
    return program->codes[bits];
}

/* int32 [256, 8 / width], row r the parts that byte r holds, shifted to their place in a cell. */
static const char *high_table(struct mpq_storage_program *program, int width, int shift)
{
    const char **table = &program->high[width][shift];
    if (!*table)
        *table = MPQ_BUILD_OP(
            program->build, "Mul",
            {codes_table(program, width), mpq_build_shared_int32(program->build, 1 << shift)});
    return *table;
}

/* The bits [shift, shift + width) of all cells, as an int32 tensor of rows of the given length. */
static const char *cell_part(struct mpq_build *build, const struct mpq_storage_layer *layer,
                             const uint8_t *code, int shift, int width, int64_t row)
{
    int g = codes_per_cell[layer->bits];
    int64_t n = mpq_shape_count(&layer->shape), n_byte = n / g * width / 8;
    struct mpq_tensor bytes = {MPQ_UINT8, MPQ_SHAPE(n_byte / row, row), NULL};
    if (row == 1)
        bytes.shape.rank = 1;
    if (!build->measured) {
        bytes.data = mpq_arena_alloc(build->ctx, build->arena, (size_t)n_byte, 1);
        if (!bytes.data)
            return NULL;
        mpq_pack_cells(code, (size_t)n, layer->bits, g, shift, width, bytes.data);
    }
    const char *packed = mpq_build_constant(build, &bytes, NULL);
    return MPQ_BUILD_OP(build, "Cast", {packed}, .attr = "to", .attr_int = MPQ_INT32);
}

static const char *cells_weight(struct mpq_storage_program *program,
                                const struct mpq_storage_layer *layer)
{
    struct mpq_build *build = program->build;
    uint8_t *code = build->measured ? NULL : codes_of(build, layer);
    if (!code && !build->measured)
        return NULL;
    int k = codes_per_cell[layer->bits] * layer->bits, high = k - 8;
    /* A byte of the narrowest high part serves a whole row of low bytes. */
    int64_t row = high % 4 == 2 ? 4 : high == 4 ? 2 : 1;
    const char *index = cell_part(build, layer, code, 0, 8, row);
    for (int shift = 8; shift < k;) {
        int width = k - shift >= 4 ? 4 : 2;
        int64_t bytes_a_row = row * width / 8;
        const char *part = cell_part(build, layer, code, shift, width, bytes_a_row);
        part = MPQ_BUILD_OP(build, "Gather", {high_table(program, width, shift), part});
        if (bytes_a_row > 1)
            part = MPQ_BUILD_OP(build, "Reshape",
                                {part, mpq_build_shared_ints(build, (int64_t[]){-1, row}, 2)});
        index = MPQ_BUILD_OP(build, "Add", {index, part});
        shift += width;
    }
    const char *levels = write_levels(build, layer);
    const char *table = MPQ_BUILD_OP(build, "Gather", {levels, codes_table(program, layer->bits)});
    const char *q = MPQ_BUILD_OP(build, "Gather", {table, index});
    return MPQ_BUILD_OP(build, "Reshape", {q, write_shape(build, &layer->shape)});
}

const char *mpq_storage_weight(struct mpq_storage_program *program, uint32_t layer)
{
    struct mpq_storage_layer *l = &program->layer[layer];
    if (l->dtype == MPQ_UNDEFINED)
        return l->piece ? planes_weight(program->build, l) : cells_weight(program, l);
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
