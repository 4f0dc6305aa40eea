#include "quantcore/quant/scale.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Channels from which on a byte less each is more than the nodes take, 99 bytes or a few more. */
#define BYTES_FROM 112

#define COUNTS_FROM (1.0f / 64) /* of the layer's largest channel    */
#define SPARE_STEPS MPQ_SCALE_STEPS

/* 2^(i / 16) */
static const float power[MPQ_SCALE_STEPS] = {
    0x1p0f,        0x1.0b5586p0f, 0x1.172b84p0f, 0x1.2387a6p0f, 0x1.306fep0f,  0x1.3dea64p0f,
    0x1.4bfdaep0f, 0x1.5ab07ep0f, 0x1.6a09e6p0f, 0x1.7a1148p0f, 0x1.8ace54p0f, 0x1.9c4918p0f,
    0x1.ae89fap0f, 0x1.c199bep0f, 0x1.d5818ep0f, 0x1.ea4afap0f};

int mpq_scale_step(float scale)
{
    int exponent, step = MPQ_SCALE_STEPS - 1;
    float m = 2 * frexpf(fmaxf(scale, FLT_MIN), &exponent);
    while (power[step] > m)
        step--;
    return (exponent - 1) * MPQ_SCALE_STEPS + step;
}

float mpq_scale_of_step(int step)
{
    int rest = (step % MPQ_SCALE_STEPS + MPQ_SCALE_STEPS) % MPQ_SCALE_STEPS;
    return ldexpf(power[rest] * MPQ_SCALE_MIDDLE, (step - rest) / MPQ_SCALE_STEPS);
}

static float round_to_bfloat16(float scale)
{
    union {
        float f;
        uint32_t u;
    } bits = {scale};
    uint32_t odd = bits.u >> 16 & 1;
    bits.u = (bits.u + 0x7fff + odd) & 0xffff0000;
    return bits.f;
}

float mpq_scale_round(const struct mpq_layer *layer, float scale)
{
    if (layer->scale_form == MPQ_SCALE_BFLOAT16)
        return round_to_bfloat16(scale);
    return scale > 0 && isfinite(scale) ? mpq_scale_of_step(mpq_scale_step(scale)) : scale;
}

/* The largest |w| of each channel. */
static void find_magnitudes(const struct mpq_layer *layer, const float *w, float *magnitude)
{
    memset(magnitude, 0, (size_t)layer->n_channel * sizeof *magnitude);
    for (int64_t o = 0; o < layer->n_outer; o++)
        for (int64_t c = 0; c < layer->n_channel; c++)
            for (int64_t i = 0; i < layer->n_inner; i++, w++)
                magnitude[c] = fmaxf(magnitude[c], fabsf(*w));
}

enum mpq_status mpq_scale_choose(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const struct mpq_graph *graph, struct mpq_layer *layer,
                                 uint32_t n_layer)
{
    int64_t n_channel = 0, n_widest = 0;
    for (uint32_t l = 0; l < n_layer; l++) {
        n_channel += layer[l].n_channel;
        n_widest = layer[l].n_channel > n_widest ? layer[l].n_channel : n_widest;
    }
    float *magnitude = mpq_arena_alloc(ctx, arena, (size_t)n_widest, sizeof *magnitude);
    float least = INFINITY, most = 0;
    if (!magnitude)
        return MPQ_E_NOMEM;
    for (uint32_t l = 0; l < n_layer; l++) {
        float of_layer = 0;
        find_magnitudes(&layer[l], graph->value[layer[l].weight].constant->data, magnitude);
        for (int64_t c = 0; c < layer[l].n_channel; c++)
            of_layer = fmaxf(of_layer, magnitude[c]);
        for (int64_t c = 0; c < layer[l].n_channel; c++)
            if (magnitude[c] > 0 && magnitude[c] >= of_layer * COUNTS_FROM)
                least = fminf(least, magnitude[c]);
        most = fmaxf(most, of_layer);
    }
    bool is_byte = n_channel >= BYTES_FROM && most > 0 &&
                   mpq_scale_step(most) - mpq_scale_step(least) <= MPQ_SCALE_WINDOW - SPARE_STEPS;
    for (uint32_t l = 0; l < n_layer; l++)
        layer[l].scale_form = is_byte ? MPQ_SCALE_BYTE : MPQ_SCALE_BFLOAT16;
    return MPQ_OK;
}
