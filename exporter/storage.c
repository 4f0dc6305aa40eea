#include "exporter/storage.h"

#include <string.h>

#include "exporter/pack.h"

/* Planes cost about 15 to 30 ns of load time a weight, most of it in looking up level after level;
 * cells cost 3 to 10. Their longer chain takes 60 bytes more at 2 and 4 bits, 170 at the others,
 * one to three percent of a layer of this size. */
#define CELLS_FROM 16384

/* g codes a cell. Every width but 7 needs at most one high part, of 2 or 4 bits a cell. A byte of a
 * plane is a cell of 8 codes of one bit. */
static const int codes_per_cell[MPQ_MAX_BITS] = {
    [1] = 8, [2] = 4, [3] = 4, [4] = 2, [5] = 2, [6] = 2, [7] = 2};

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

/* ---- tables, computed once a file ---- */

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
    int32_t divisor[8];
    for (int i = 0; i < g; i++)
        divisor[i] = 1 << (i * bits);
    struct mpq_tensor divisors = {MPQ_INT32, MPQ_SHAPE(g, 1), divisor};
    const char *shifted =
        MPQ_BUILD_OP(build, "Div", {program->range[k], mpq_build_shared(build, &divisors)});
    const char *codes =
        MPQ_BUILD_OP(build, "Mod", {shifted, mpq_build_shared_int32(build, 1 << bits)});
    program->codes[bits] = MPQ_BUILD_OP(build, "Transpose", {codes});
    return program->codes[bits];
}

/* ---- planes ---- */

/* The layers that come as planes, ordered by width. */
struct plane_order {
    uint32_t *layer, n;
    int64_t n_code[MPQ_MAX_BITS]; /* by width                                       */
    int64_t plane[MPQ_MAX_BITS];  /* bits of a plane: as many, filled up to a byte */
    size_t n_byte;
};

static enum mpq_status order_planes(const struct mpq_storage_program *program, uint32_t n_layer,
                                    struct plane_order *out)
{
    struct mpq_build *build = program->build;
    *out = (struct plane_order){
        .layer = mpq_arena_alloc(build->ctx, build->arena, n_layer, sizeof *out->layer)};
    if (!out->layer)
        return MPQ_E_NOMEM;
    for (int b = MPQ_MIN_BITS; b < MPQ_MAX_BITS; b++) {
        for (uint32_t l = 0; l < n_layer; l++) {
            const struct mpq_storage_layer *layer = &program->layer[l];
            if (layer->bits != b || !uses_planes(layer))
                continue;
            out->layer[out->n++] = l;
            out->n_code[b] += mpq_shape_count(&layer->shape);
        }
        out->plane[b] = (out->n_code[b] + 7) / 8 * 8;
        out->n_byte += (size_t)(out->plane[b] / 8 * b);
    }
    return MPQ_OK;
}

/* The bytes: of each width in turn, bit 0 of the codes of all its layers, then bit 1, ... */
static uint8_t *pack_planes(const struct mpq_storage_program *program,
                            const struct plane_order *order)
{
    struct mpq_build *build = program->build;
    uint8_t *bytes = mpq_arena_alloc(build->ctx, build->arena, order->n_byte, 1);
    size_t begin = 0, before = 0; /* bits of narrower layers; codes of this width so far */
    for (uint32_t i = 0; bytes && i < order->n; i++) {
        const struct mpq_storage_layer *layer = &program->layer[order->layer[i]];
        size_t n = (size_t)mpq_shape_count(&layer->shape);
        size_t plane = (size_t)order->plane[layer->bits];
        uint8_t *code = codes_of(build, layer);
        if (!code)
            return NULL;
        mpq_pack_planes(code, n, layer->bits, plane, bytes, begin + before);
        before += n;
        if (before < (size_t)order->n_code[layer->bits])
            continue;
        begin += plane * (size_t)layer->bits;
        before = 0;
    }
    return bytes;
}

/* All bits as uint8 [bytes, 8], one after the other. */
static const char *write_bits(struct mpq_storage_program *program, const struct plane_order *order)
{
    struct mpq_build *build = program->build;
    struct mpq_tensor bytes = {MPQ_UINT8, MPQ_SHAPE((int64_t)order->n_byte), NULL};
    if (!build->measured) {
        bytes.data = pack_planes(program, order);
        if (!bytes.data)
            return NULL;
    }
    const char *packed = mpq_build_constant(build, &bytes, NULL);
    const char *table =
        MPQ_BUILD_OP(build, "Cast", {codes_table(program, 1)}, .attr = "to", .attr_int = MPQ_UINT8);
    const char *index = MPQ_BUILD_OP(build, "Cast", {packed}, .attr = "to", .attr_int = MPQ_INT32);
    return MPQ_BUILD_OP(build, "Gather", {table, index});
}

/* The bits of one width -> int32 codes [1, n]. */
static const char *write_codes(struct mpq_build *build, const char *bits, int b)
{
    struct mpq_tensor powers = {MPQ_UINT8, MPQ_SHAPE(1, b), (uint8_t[]){1, 2, 4, 8, 16, 32, 64}};
    const char *planes =
        MPQ_BUILD_OP(build, "Reshape", {bits, mpq_build_shared_ints(build, (int64_t[]){b, -1}, 2)});
    return MPQ_BUILD_OP(build, "MatMulInteger", {mpq_build_shared(build, &powers), planes});
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

enum mpq_status mpq_storage_begin(struct mpq_build *build, struct mpq_storage_layer *layer,
                                  uint32_t n_layer, struct mpq_storage_program *out)
{
    *out = (struct mpq_storage_program){.build = build, .layer = layer};
    struct plane_order order;
    MPQ_TRY(order_planes(out, n_layer, &order));
    int64_t *length = mpq_arena_alloc(build->ctx, build->arena, order.n + 1, sizeof *length);
    const char **piece = mpq_arena_alloc(build->ctx, build->arena, order.n + 1, sizeof *piece);
    if (!length || !piece)
        return MPQ_E_NOMEM;
    if (!order.n)
        return MPQ_OK;
    int64_t width_bytes[MPQ_MAX_BITS];
    const char *width_bits[MPQ_MAX_BITS];
    size_t n_width = 0;
    for (int b = MPQ_MIN_BITS; b < MPQ_MAX_BITS; b++)
        if (order.n_code[b])
            width_bytes[n_width++] = order.plane[b] / 8 * b;
    if (!split(build, write_bits(out, &order), width_bytes, n_width, 0, width_bits))
        return build->ctx->status;
    const char *const *bits = width_bits;
    for (uint32_t i = 0, n; i < order.n; i += n) {
        int b = layer[order.layer[i]].bits;
        for (n = 0; i + n < order.n && layer[order.layer[i + n]].bits == b; n++)
            length[n] = mpq_shape_count(&layer[order.layer[i + n]].shape);
        int64_t rest = order.plane[b] - order.n_code[b];
        length[n] = rest;
        if (!split(build, write_codes(build, *bits++, b), length, n + (rest > 0), 1, piece))
            return build->ctx->status;
        for (uint32_t k = 0; k < n; k++)
            layer[order.layer[i + k]].piece = piece[k];
    }
    return MPQ_OK;
}

static const char *planes_weight(struct mpq_build *build, const struct mpq_storage_layer *layer)
{
    const char *levels = write_levels(build, layer);
    const char *q = MPQ_BUILD_OP(build, "Gather", {levels, layer->piece});
    return MPQ_BUILD_OP(build, "Reshape", {q, write_shape(build, &layer->shape)});
}

/* ---- cells ---- */

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
        build, "Gather", {mpq_build_constant(build, &values, NULL), codes_table(program, 1)});
    const char *stored = mpq_build_constant(build, &bytes, NULL);
    const char *index = MPQ_BUILD_OP(build, "Cast", {stored}, .attr = "to", .attr_int = MPQ_INT32);
    const char *flat = MPQ_BUILD_OP(build, "Gather", {table, index});
    return MPQ_BUILD_OP(build, "Reshape", {flat, write_shape(build, &tensor->shape)}, .out = name);
}
