#include "quantcore/quant/scale.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Channels from which on a byte less each is more than the nodes take, 99 bytes or a few more. */
#define BYTES_FROM 112

#define COUNTS_FROM (1.0f / 64) /* of the layer's largest channel      */
#define SPARE       1.0         /* octaves that the window holds more than the float weights need */

enum { LEAST_STEPS = 16, MOST_STEPS = 64 };

int mpq_scale_step(int steps, float scale)
{
    double octave = log2((double)fmaxf(scale, 2 * FLT_MIN));
    return (int)rint((octave - MPQ_SCALE_OFFSET) * steps);
}

float mpq_scale_of_step(int steps, int step)
{
    return (float)exp2((double)step / steps + MPQ_SCALE_OFFSET);
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
    int steps = layer->scale_steps;
    if (!steps)
        return round_to_bfloat16(scale);
    return scale > 0 && isfinite(scale) ? mpq_scale_of_step(steps, mpq_scale_step(steps, scale))
                                        : scale;
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

/* The finest steps with which bytes reach that far. Where channels do not count they lie below any
 * window, and their weights become the level nearest to 0, which need not be 0, times the least
 * scale: that has to be far below all others. */
static int finest_steps(double octaves, bool all_count)
{
    int steps = all_count ? MOST_STEPS : LEAST_STEPS;
    while (steps >= LEAST_STEPS && (octaves + SPARE) * steps > MPQ_SCALE_WINDOW)
        steps /= 2;
    return steps < LEAST_STEPS ? 0 : steps;
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
    bool all_count = true;
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
            else
                all_count = false;
        most = fmaxf(most, of_layer);
    }
    int steps = n_channel >= BYTES_FROM && most > 0
                    ? finest_steps(log2((double)most) - log2((double)least), all_count)
                    : 0;
    for (uint32_t l = 0; l < n_layer; l++)
        layer[l].scale_steps = steps;
    return MPQ_OK;
}
