#include "quantcore/quant/weight_fit.h"

#include "quantcore/quant/scale.h"

/* Channels one after the other: fitting walks a channel many times. */
static mpq_real *gather_channels(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const struct mpq_layer *layer, const mpq_real *w)
{
    mpq_real *copy = mpq_arena_alloc(ctx, arena, (size_t)layer->n_param, sizeof *copy);
    if (!copy)
        return NULL;
    int64_t row = layer->n_outer * layer->n_inner;
    for (int64_t o = 0; o < layer->n_outer; o++)
        for (int64_t c = 0; c < layer->n_channel; c++, w += layer->n_inner)
            for (int64_t i = 0; i < layer->n_inner; i++)
                copy[c * row + o * layer->n_inner + i] = w[i];
    return copy;
}

static double relative_error(const struct mpq_layer *layer, const mpq_real *w,
                             const struct mpq_weight_fit *fit)
{
    double error = 0, power = 0;
    for (int64_t c = 0; c < layer->n_channel; c++) {
        mpq_real scale = fit->scale[c];
        for (int64_t i = 0; i < layer->n_inner; i++, w++) {
            mpq_real d = *w - (mpq_real)mpq_levels_nearest(&fit->levels, *w / scale) * scale;
            error += (double)d * (double)d;
            power += (double)*w * (double)*w;
        }
    }
    return power > 0 ? error / power : 0;
}

enum mpq_status mpq_weight_fit(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                               const struct mpq_layer *layer, const mpq_real *w, int bits,
                               bool integers_only, struct mpq_weight_fit *out)
{
    struct mpq_layer flat = *layer;
    flat.n_outer = flat.n_group = 1;
    flat.n_inner = layer->n_outer * layer->n_inner;
    const mpq_real *channels = layer->n_outer == 1 ? w : gather_channels(ctx, scratch, layer, w);
    if (!channels)
        return MPQ_E_NOMEM;
    MPQ_TRY(
        mpq_levels_fit(ctx, &flat, channels, NULL, bits, integers_only, &out->levels, out->scale));
    for (int64_t c = 0; c < layer->n_channel; c++)
        out->scale[c] = mpq_scale_round(layer, (float)out->scale[c]);
    out->error = relative_error(&flat, channels, out);
    return MPQ_OK;
}

enum mpq_status mpq_weight_fit_code(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_layer *layer, const mpq_real *w,
                                    const struct mpq_weight_fit *fit, struct mpq_layer_code *out)
{
    int8_t *q = mpq_arena_alloc(ctx, arena, (size_t)layer->n_param, 1);
    float *scale = mpq_arena_alloc(ctx, arena, (size_t)layer->n_channel, sizeof *scale);
    if (!q || !scale)
        return MPQ_E_NOMEM;
    for (int64_t c = 0; c < layer->n_channel; c++)
        scale[c] = (float)fit->scale[c];
    mpq_levels_encode(&fit->levels, layer, w, fit->scale, q);
    *out = (struct mpq_layer_code){.bits = fit->levels.bits,
                                   .n_level = fit->levels.n,
                                   .level = fit->levels.level,
                                   .q = q,
                                   .scale = scale};
    return MPQ_OK;
}
