#include "cli/checkpoint.h"

#include <inttypes.h>
#include <string.h>

#include "calibration/npz.h"

/* ---- what belongs to what ---- */

static uint64_t mix(uint64_t hash, const void *data, size_t bytes)
{
    const unsigned char *p = data; /* FNV-1a */
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash;
}

static uint64_t fingerprint(const struct mpq_graph *graph, const struct mpq_layer_table *layers)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (uint32_t l = 0; l < layers->n_layer; l++) {
        const struct mpq_layer *layer = &layers->layer[l];
        const struct mpq_tensor *weight = graph->value[layer->weight].constant;
        hash = mix(hash, layer->name, strlen(layer->name) + 1);
        hash = mix(hash, weight->data, mpq_tensor_bytes(weight));
    }
    return hash;
}

/* ---- writing ---- */

struct list {
    struct mpq_ctx *ctx;
    struct mpq_arena *arena;
    const char **name;
    struct mpq_tensor *tensor;
    uint32_t n;
};

static void add(struct list *list, enum mpq_dtype dtype, int64_t count, const void *data,
                const char *name)
{
    list->name[list->n] = name;
    list->tensor[list->n++] = (struct mpq_tensor){dtype, MPQ_SHAPE(count), (void *)(uintptr_t)data};
}

static char *width_name(struct mpq_ctx *ctx, struct mpq_arena *arena, uint32_t layer, int bits,
                        const char *what)
{
    return mpq_arena_printf(ctx, arena, "layer%" PRIu32 ".%d.%s", layer, bits, what);
}

static void add_layer(struct list *list, const struct mpq_supernet *net, uint32_t l)
{
    const struct mpq_layer *shape = &net->layers->layer[l];
    const struct mpq_supernet_layer *layer = &net->layer[l];
    add(list, MPQ_FLOAT, shape->n_param, layer->w,
        mpq_arena_printf(list->ctx, list->arena, "layer%" PRIu32 ".weight", l));
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
        const struct mpq_supernet_width *width = &layer->width[b];
        if (!(layer->candidates >> b & 1))
            continue;
        add(list, MPQ_FLOAT, shape->n_channel, width->scale,
            width_name(list->ctx, list->arena, l, b, "scale"));
        if (width->bias)
            add(list, MPQ_FLOAT, shape->n_channel, width->bias,
                width_name(list->ctx, list->arena, l, b, "bias"));
        add(list, MPQ_INT8, width->levels.n, width->levels.level,
            width_name(list->ctx, list->arena, l, b, "level"));
        if (width->offset)
            add(list, MPQ_FLOAT, shape->n_param, width->offset,
                width_name(list->ctx, list->arena, l, b, "offset"));
    }
}

enum mpq_status mpq_checkpoint_save(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_checkpoint *c, const char *path,
                                    bool overwrite)
{
    const struct mpq_supernet *net = c->net;
    uint32_t n_layer = net->layers->n_layer;
    size_t most = 6 + (size_t)n_layer * (1 + 4 * MPQ_N_BITS);
    uint64_t model = fingerprint(c->graph, net->layers);
    struct list list = {ctx, arena, mpq_arena_alloc(ctx, arena, most, sizeof(char *)),
                        mpq_arena_alloc(ctx, arena, most, sizeof(struct mpq_tensor)), 0};
    uint16_t *candidates = mpq_arena_alloc(ctx, arena, n_layer, sizeof *candidates);
    uint16_t *active = mpq_arena_alloc(ctx, arena, n_layer, sizeof *active);
    float *scale = mpq_arena_alloc(ctx, arena, c->n_group, sizeof *scale);
    int32_t *zero_point = mpq_arena_alloc(ctx, arena, c->n_group, sizeof *zero_point);
    int32_t *bits = mpq_arena_alloc(ctx, arena, c->n_group, sizeof *bits);
    if (!list.name || !list.tensor || !candidates || !active || !scale || !zero_point || !bits)
        return MPQ_E_NOMEM;
    for (uint32_t g = 0; g < c->n_group; g++) {
        scale[g] = c->act_quant[g].scale;
        zero_point[g] = c->act_quant[g].zero_point;
        bits[g] = c->act_quant[g].bits;
    }
    add(&list, MPQ_UINT64, 1, &model, "model");
    add(&list, MPQ_UINT16, n_layer, candidates, "candidates");
    add(&list, MPQ_UINT16, n_layer, active, "active");
    add(&list, MPQ_FLOAT, c->n_group, scale, "act_scale");
    add(&list, MPQ_INT32, c->n_group, zero_point, "act_zero_point");
    add(&list, MPQ_INT32, c->n_group, bits, "act_bits");
    for (uint32_t l = 0; l < n_layer; l++) {
        candidates[l] = net->layer[l].candidates;
        active[l] = net->layer[l].active;
        add_layer(&list, net, l);
    }
    for (uint32_t i = 0; i < list.n; i++)
        if (!list.name[i])
            return MPQ_E_NOMEM;
    return mpq_npz_write(ctx, arena, path, overwrite, list.name, list.tensor, list.n);
}

/* ---- reading ---- */

struct reader {
    struct mpq_ctx *ctx;
    struct mpq_arena *arena;
    const char *path;
    struct mpq_npz *npz;
};

/* The array `name`, of that type; `count` elements, or any number up to -count where negative. */
static enum mpq_status read_array(const struct reader *r, const char *name, enum mpq_dtype dtype,
                                  int64_t count, struct mpq_tensor *out)
{
    if (!name)
        return MPQ_E_NOMEM;
    if (!mpq_npz_has(r->npz, name))
        return mpq_fail(r->ctx, MPQ_E_FORMAT,
                        "%s: is no checkpoint for these options: no array '%s'", r->path, name);
    MPQ_TRY(mpq_npz_read(r->ctx, r->arena, r->npz, name, out));
    int64_t n = mpq_shape_count(&out->shape);
    bool fits = count >= 0 ? n == count : n > 0 && n <= -count;
    if (out->dtype != dtype || !fits)
        return mpq_fail(r->ctx, MPQ_E_FORMAT, "%s: array '%s' is %s %s, not of this model", r->path,
                        name, mpq_dtype_name(out->dtype), MPQ_SHAPE_TEXT(&out->shape));
    int64_t bad = dtype == MPQ_FLOAT ? mpq_tensor_find_nonfinite(out) : -1;
    if (bad >= 0)
        return mpq_fail(r->ctx, MPQ_E_NUMERIC, "%s: array '%s' is %g at element %" PRId64, r->path,
                        name, mpq_tensor_double(out, bad), bad);
    return MPQ_OK;
}

static enum mpq_status read_offset(const struct reader *r, const struct mpq_layer *shape,
                                   uint32_t l, int b, struct mpq_supernet_width *width)
{
    struct mpq_tensor offset;
    const char *name = width_name(r->ctx, r->arena, l, b, "offset");
    if (!name)
        return MPQ_E_NOMEM;
    if (!mpq_npz_has(r->npz, name))
        return MPQ_OK;
    MPQ_TRY(read_array(r, name, MPQ_FLOAT, shape->n_param, &offset));
    width->offset = offset.data;
    return MPQ_OK;
}

static enum mpq_status read_width(const struct reader *r, const struct mpq_layer *shape, uint32_t l,
                                  int b, struct mpq_supernet_width *width)
{
    struct mpq_tensor scale, level, bias;
    size_t bytes = (size_t)shape->n_channel * sizeof(mpq_real);
    MPQ_TRY(read_array(r, width_name(r->ctx, r->arena, l, b, "scale"), MPQ_FLOAT, shape->n_channel,
                       &scale));
    MPQ_TRY(
        read_array(r, width_name(r->ctx, r->arena, l, b, "level"), MPQ_INT8, -(1 << b), &level));
    for (int64_t c = 0; c < shape->n_channel; c++)
        if (!(mpq_tensor_double(&scale, c) > 0))
            return mpq_fail(r->ctx, MPQ_E_NUMERIC,
                            "%s: a scale of layer %" PRIu32 " is not positive", r->path, l);
    uint32_t n_level = (uint32_t)mpq_shape_count(&level.shape);
    for (uint32_t k = 1; k < n_level; k++)
        if (mpq_tensor_int(&level, k) <= mpq_tensor_int(&level, k - 1))
            return mpq_fail(r->ctx, MPQ_E_FORMAT, "%s: levels of layer %" PRIu32 " do not ascend",
                            r->path, l);
    memcpy(width->scale, scale.data, bytes);
    mpq_levels_set(b, level.data, n_level, &width->levels);
    if (width->bias) {
        MPQ_TRY(read_array(r, width_name(r->ctx, r->arena, l, b, "bias"), MPQ_FLOAT,
                           shape->n_channel, &bias));
        memcpy(width->bias, bias.data, bytes);
    }
    return read_offset(r, shape, l, b, width);
}

static enum mpq_status read_layer(const struct reader *r, const struct mpq_layer *shape, uint32_t l,
                                  struct mpq_supernet_layer *layer)
{
    struct mpq_tensor weight;
    MPQ_TRY(read_array(r, mpq_arena_printf(r->ctx, r->arena, "layer%" PRIu32 ".weight", l),
                       MPQ_FLOAT, shape->n_param, &weight));
    memcpy(layer->w, weight.data, (size_t)shape->n_param * sizeof *layer->w);
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++)
        if (layer->candidates >> b & 1)
            MPQ_TRY(read_width(r, shape, l, b, &layer->width[b]));
    return MPQ_OK;
}

enum mpq_status mpq_checkpoint_load(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_checkpoint *c,
                                    const struct mpq_layer_table *layers, const char *path)
{
    struct reader r = {ctx, arena, path, NULL};
    struct mpq_tensor model, active, scale, zero_point, bits;
    MPQ_TRY(mpq_npz_open(ctx, arena, path, &r.npz));
    MPQ_TRY(read_array(&r, "model", MPQ_UINT64, 1, &model));
    if (*(uint64_t *)model.data != fingerprint(c->graph, layers))
        return mpq_fail(ctx, MPQ_E_FORMAT,
                        "%s: is a checkpoint of another model (--overwrite replaces it)", path);
    MPQ_TRY(read_array(&r, "act_scale", MPQ_FLOAT, c->n_group, &scale));
    MPQ_TRY(read_array(&r, "act_zero_point", MPQ_INT32, c->n_group, &zero_point));
    MPQ_TRY(read_array(&r, "act_bits", MPQ_INT32, c->n_group, &bits));
    MPQ_TRY(read_array(&r, "active", MPQ_UINT16, layers->n_layer, &active));
    for (uint32_t g = 0; g < c->n_group; g++) {
        struct mpq_act_quant quant = {(float)mpq_tensor_double(&scale, g),
                                      (int)mpq_tensor_int(&zero_point, g),
                                      (int)mpq_tensor_int(&bits, g)};
        if (!(quant.scale > 0) || quant.bits < MPQ_MIN_BITS ||
            (quant.bits > MPQ_MAX_BITS && quant.bits != 16) || quant.zero_point < 0 ||
            quant.zero_point >= 1 << quant.bits)
            return mpq_fail(ctx, MPQ_E_FORMAT,
                            "%s: the range of value group %" PRIu32 " is invalid", path, g);
        c->act_quant[g] = quant;
    }
    for (uint32_t l = 0; c->net && l < layers->n_layer; l++) {
        struct mpq_supernet_layer *layer = &c->net->layer[l];
        MPQ_TRY(read_layer(&r, &layers->layer[l], l, layer));
        mpq_bits_mask still = layer->candidates & (mpq_bits_mask)mpq_tensor_int(&active, l);
        layer->active = still ? still : layer->candidates;
    }
    return MPQ_OK;
}
