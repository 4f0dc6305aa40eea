#include "quantcore/supernet/supernet.h"

#include <math.h>
#include <string.h>

#include "quantcore/base/thread.h"
#include "quantcore/base/workers.h"
#include "quantcore/quant/scale.h"

int mpq_bits_lowest(mpq_bits_mask mask)
{
    return __builtin_ctz(mask);
}

int mpq_bits_highest(mpq_bits_mask mask)
{
    return 31 - __builtin_clz(mask);
}

static size_t channel_bytes(const struct mpq_layer *layer)
{
    return (size_t)layer->n_channel * sizeof(mpq_real);
}

static enum mpq_status create_layer(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_graph *graph, const struct mpq_layer *layer,
                                    struct mpq_supernet_layer *out)
{
    size_t n_param = (size_t)layer->n_param;
    out->w = mpq_arena_copy(ctx, arena, graph->value[layer->weight].constant->data,
                            n_param * sizeof *out->w);
    out->wq = mpq_arena_alloc(ctx, arena, n_param, sizeof *out->wq);
    out->w_used = mpq_arena_alloc(ctx, arena, n_param, sizeof *out->w_used);
    out->scale_used = mpq_arena_alloc(ctx, arena, 1, channel_bytes(layer));
    out->bias_used = mpq_arena_alloc(ctx, arena, 1, channel_bytes(layer));
    if (!out->w || !out->wq || !out->w_used || !out->scale_used || !out->bias_used)
        return MPQ_E_NOMEM;
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
        struct mpq_supernet_width *width = &out->width[b];
        if (!(out->candidates >> b & 1))
            continue;
        width->scale = mpq_arena_alloc(ctx, arena, 1, channel_bytes(layer));
        if (layer->bias != MPQ_NO_VALUE)
            width->bias = mpq_arena_copy(ctx, arena, graph->value[layer->bias].constant->data,
                                         channel_bytes(layer));
        if (!width->scale || (layer->bias != MPQ_NO_VALUE && !width->bias))
            return MPQ_E_NOMEM;
    }
    return MPQ_OK;
}

enum mpq_status mpq_supernet_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_graph *graph,
                                    const struct mpq_layer_table *layers, mpq_bits_mask candidates,
                                    struct mpq_supernet *out)
{
    struct mpq_supernet net = {.layers = layers};
    net.layer = mpq_arena_alloc(ctx, arena, layers->n_layer, sizeof *net.layer);
    if (!net.layer)
        return MPQ_E_NOMEM;
    for (uint32_t l = 0; l < layers->n_layer; l++) {
        net.layer[l].candidates = net.layer[l].active = candidates;
        MPQ_TRY(create_layer(ctx, arena, graph, &layers->layer[l], &net.layer[l]));
    }
    *out = net;
    return MPQ_OK;
}

/* bias = float bias - sum over the weights of a channel of (quantized - w) * mean input. */
static void correct_bias(const struct mpq_supernet_layer *layer, const struct mpq_layer *shape,
                         const struct mpq_supernet_width *width, const mpq_real *float_bias,
                         const mpq_real *input_mean)
{
    for (int64_t c = 0; c < shape->n_channel; c++) {
        mpq_real scale = width->scale[c];
        double shift = 0;
        int64_t group = c / (shape->n_channel / shape->n_group);
        const mpq_real *mean = input_mean + group * shape->n_outer * shape->n_inner;
        for (int64_t o = 0; o < shape->n_outer; o++) {
            const mpq_real *w = layer->w + (o * shape->n_channel + c) * shape->n_inner;
            for (int64_t i = 0; i < shape->n_inner; i++) {
                mpq_real q = (mpq_real)mpq_levels_nearest(&width->levels, w[i] / scale) * scale;
                shift += ((double)q - (double)w[i]) * (double)mean[o * shape->n_inner + i];
            }
        }
        width->bias[c] = (mpq_real)((double)float_bias[c] - shift);
    }
}

struct fitting {
    struct mpq_supernet *net;
    const struct mpq_graph *graph;
    const struct mpq_layer_stats *stats;
    mpq_bits_mask integers;
    int *owner; /* [n_layer] the thread that fits it */
};

static enum mpq_status fit_layer(struct mpq_ctx *ctx, const struct fitting *f, uint32_t l)
{
    struct mpq_supernet_layer *layer = &f->net->layer[l];
    const struct mpq_layer *shape = &f->net->layers->layer[l];
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
        struct mpq_supernet_width *width = &layer->width[b];
        if (!(layer->candidates >> b & 1))
            continue;
        MPQ_TRY(mpq_levels_fit(ctx, shape, layer->w, f->stats[l].input_power, b,
                               f->integers >> b & 1, &width->levels, width->scale));
        /* As the file will hold them: a rounded scale is a gain, and its mean must be undone too.
         */
        for (int64_t c = 0; c < shape->n_channel; c++)
            width->scale[c] = mpq_scale_round(shape, (float)width->scale[c]);
        if (width->bias)
            correct_bias(layer, shape, width, f->graph->value[shape->bias].constant->data,
                         f->stats[l].input_mean);
    }
    return MPQ_OK;
}

static enum mpq_status fit_strand(struct mpq_ctx *ctx, struct mpq_arena *scratch, void *arg,
                                  int64_t strand)
{
    const struct fitting *f = arg;
    (void)scratch;
    for (uint32_t l = 0; l < f->net->layers->n_layer; l++)
        if (f->owner[l] == strand)
            MPQ_TRY(fit_layer(ctx, f, l));
    return MPQ_OK;
}

static enum mpq_status fit(struct mpq_ctx *ctx, struct mpq_arena *scratch, struct fitting *f)
{
    uint32_t n_layer = f->net->layers->n_layer;
    double *load = mpq_arena_alloc(ctx, scratch, (size_t)mpq_thread_count(), sizeof *load);
    double *cost = mpq_arena_alloc(ctx, scratch, n_layer, sizeof *cost);
    f->owner = mpq_arena_alloc(ctx, scratch, n_layer, sizeof *f->owner);
    if (!load || !cost || !f->owner)
        return MPQ_E_NOMEM;
    for (uint32_t l = 0; l < n_layer; l++)
        cost[l] = (double)f->net->layers->layer[l].n_param;
    mpq_thread_deal(n_layer, cost, load, f->owner);
    return mpq_workers_run(ctx, mpq_thread_count(), fit_strand, f);
}

enum mpq_status mpq_supernet_fit(struct mpq_ctx *ctx, struct mpq_supernet *net,
                                 const struct mpq_graph *graph, const struct mpq_layer_stats *stats,
                                 mpq_bits_mask integers)
{
    struct fitting fitting = {net, graph, stats, integers, NULL};
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    enum mpq_status status = fit(ctx, scratch, &fitting);
    mpq_arena_free(scratch);
    return status;
}

void mpq_supernet_fit_min_max(struct mpq_supernet *net)
{
    for (uint32_t l = 0; l < net->layers->n_layer; l++)
        for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
            struct mpq_supernet_width *width = &net->layer[l].width[b];
            if (net->layer[l].candidates >> b & 1)
                mpq_levels_min_max(&net->layers->layer[l], net->layer[l].w, b, &width->levels,
                                   width->scale);
        }
}

const mpq_real *mpq_supernet_weights(const struct mpq_supernet *net, uint32_t l, int bits)
{
    const struct mpq_supernet_layer *layer = &net->layer[l];
    const mpq_real *offset = layer->width[bits].offset;
    if (!offset)
        return layer->w;
    for (int64_t i = 0; i < net->layers->layer[l].n_param; i++)
        layer->w_used[i] = layer->w[i] + offset[i];
    return layer->w_used;
}

enum mpq_status mpq_supernet_copy(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_supernet *net, struct mpq_supernet *out)
{
    struct mpq_supernet copy = *net;
    uint32_t n_layer = net->layers->n_layer;
    copy.layer = mpq_arena_copy(ctx, arena, net->layer, n_layer * sizeof *copy.layer);
    if (!copy.layer)
        return MPQ_E_NOMEM;
    for (uint32_t l = 0; l < n_layer; l++) {
        struct mpq_supernet_layer *layer = &copy.layer[l];
        const struct mpq_layer *shape = &net->layers->layer[l];
        layer->w = mpq_arena_copy(ctx, arena, layer->w, (size_t)shape->n_param * sizeof *layer->w);
        if (!layer->w)
            return MPQ_E_NOMEM;
        for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
            struct mpq_supernet_width *width = &layer->width[b];
            mpq_real **part[] = {&width->scale, &width->bias};
            for (size_t i = 0; i < MPQ_COUNT(part); i++)
                if (*part[i]) {
                    *part[i] = mpq_arena_copy(ctx, arena, *part[i], channel_bytes(shape));
                    if (!*part[i])
                        return MPQ_E_NOMEM;
                }
        }
    }
    *out = copy;
    return MPQ_OK;
}

void mpq_supernet_assign(struct mpq_supernet *to, const struct mpq_supernet *from)
{
    for (uint32_t l = 0; l < to->layers->n_layer; l++) {
        const struct mpq_layer *shape = &to->layers->layer[l];
        struct mpq_supernet_layer *t = &to->layer[l];
        const struct mpq_supernet_layer *f = &from->layer[l];
        t->active = f->active;
        memcpy(t->w, f->w, (size_t)shape->n_param * sizeof *t->w);
        for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
            t->width[b].levels = f->width[b].levels;
            t->width[b].offset = f->width[b].offset;
            if (t->width[b].scale)
                memcpy(t->width[b].scale, f->width[b].scale, channel_bytes(shape));
            if (t->width[b].bias)
                memcpy(t->width[b].bias, f->width[b].bias, channel_bytes(shape));
        }
    }
}

/* wq = q * scale of the channel. */
static void decode(const struct mpq_layer *shape, const int8_t *q, const float *scale, mpq_real *wq)
{
    for (int64_t row = 0; row < shape->n_outer * shape->n_channel; row++) {
        mpq_real s = scale[row % shape->n_channel];
        for (int64_t i = row * shape->n_inner; i < (row + 1) * shape->n_inner; i++)
            wq[i] = (mpq_real)q[i] * s;
    }
}

void mpq_supernet_take_code(struct mpq_supernet *net, uint32_t l, const struct mpq_layer_code *code)
{
    const struct mpq_layer *shape = &net->layers->layer[l];
    struct mpq_supernet_layer *layer = &net->layer[l];
    struct mpq_supernet_width *width = &layer->width[code->bits];
    MPQ_ASSERT(layer->candidates >> code->bits & 1);
    mpq_levels_set(code->bits, code->level, code->n_level, &width->levels);
    width->offset = NULL;
    for (int64_t c = 0; c < shape->n_channel; c++) {
        width->scale[c] = code->scale[c];
        if (width->bias)
            width->bias[c] = code->bias[c];
    }
    decode(shape, code->q, width->scale, layer->w);
}

/* Biases are stored as float16. One beyond it makes the exporter store all of them in float32. */
static float stored_bias(mpq_real bias)
{
    float half = mpq_half_to_float(mpq_float_to_half((float)bias));
    return isfinite(half) ? half : (float)bias;
}

void mpq_supernet_apply_layer(const struct mpq_supernet *net, struct mpq_exec *exec, uint32_t l,
                              int bits)
{
    const struct mpq_layer *shape = &net->layers->layer[l];
    const struct mpq_supernet_layer *layer = &net->layer[l];
    const struct mpq_supernet_width *width = &layer->width[bits];
    MPQ_ASSERT(layer->candidates >> bits & 1);
    for (int64_t c = 0; c < shape->n_channel; c++)
        layer->scale_used[c] = mpq_scale_round(shape, (float)width->scale[c]);
    mpq_levels_fake_quant(&width->levels, shape, mpq_supernet_weights(net, l, bits),
                          layer->scale_used, layer->wq);
    mpq_exec_feed(exec, shape->weight, layer->wq);
    if (!width->bias)
        return;
    for (int64_t c = 0; c < shape->n_channel; c++)
        layer->bias_used[c] = stored_bias(width->bias[c]);
    mpq_exec_feed(exec, shape->bias, layer->bias_used);
}

enum mpq_status mpq_supernet_apply_codes(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                         const struct mpq_layer_table *layers,
                                         struct mpq_exec *exec, const struct mpq_layer_code *code)
{
    for (uint32_t l = 0; l < layers->n_layer; l++) {
        const struct mpq_layer *shape = &layers->layer[l];
        size_t n_param = (size_t)shape->n_param;
        mpq_real *wq = mpq_arena_alloc(ctx, arena, n_param, sizeof *wq);
        mpq_real *bias = mpq_arena_alloc(ctx, arena, 1, channel_bytes(shape));
        if (!wq || !bias)
            return MPQ_E_NOMEM;
        decode(shape, code[l].q, code[l].scale, wq);
        mpq_exec_feed(exec, shape->weight, wq);
        if (!code[l].bias)
            continue;
        for (int64_t c = 0; c < shape->n_channel; c++)
            bias[c] = code[l].bias[c];
        mpq_exec_feed(exec, shape->bias, bias);
    }
    return MPQ_OK;
}

void mpq_supernet_apply(const struct mpq_supernet *net, struct mpq_exec *exec, const uint8_t *bits)
{
    for (uint32_t l = 0; l < net->layers->n_layer; l++)
        mpq_supernet_apply_layer(net, exec, l, bits[l]);
}

static float *to_float(struct mpq_ctx *ctx, struct mpq_arena *arena, const mpq_real *x, int64_t n)
{
    float *copy = mpq_arena_alloc(ctx, arena, (size_t)n, sizeof *copy);
    for (int64_t i = 0; copy && i < n; i++)
        copy[i] = (float)x[i];
    return copy;
}

enum mpq_status mpq_supernet_codes(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_supernet *net, const uint8_t *bits,
                                   struct mpq_layer_code *out_code)
{
    for (uint32_t l = 0; l < net->layers->n_layer; l++) {
        const struct mpq_layer *shape = &net->layers->layer[l];
        const struct mpq_supernet_width *width = &net->layer[l].width[bits[l]];
        int8_t *q = mpq_arena_alloc(ctx, arena, (size_t)shape->n_param, 1);
        int8_t *level = mpq_arena_copy(ctx, arena, width->levels.level, width->levels.n);
        float *scale = to_float(ctx, arena, width->scale, shape->n_channel);
        float *bias = width->bias ? to_float(ctx, arena, width->bias, shape->n_channel) : NULL;
        if (!q || !level || !scale || (width->bias && !bias))
            return MPQ_E_NOMEM;
        mpq_real *rounded = net->layer[l].scale_used;
        for (int64_t c = 0; c < shape->n_channel; c++)
            rounded[c] = scale[c] = mpq_scale_round(shape, scale[c]);
        for (int64_t c = 0; bias && c < shape->n_channel; c++)
            bias[c] = stored_bias(width->bias[c]);
        mpq_levels_encode(&width->levels, shape, mpq_supernet_weights(net, l, bits[l]), rounded, q);
        out_code[l] = (struct mpq_layer_code){.bits = bits[l],
                                              .n_level = width->levels.n,
                                              .level = level,
                                              .q = q,
                                              .scale = scale,
                                              .bias = bias};
    }
    return MPQ_OK;
}
