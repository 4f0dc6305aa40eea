#include "quantcore/quant/saturation.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quantcore/quant/levels.h"
#include "quantcore/quant/scale.h"

static int64_t n_product(const struct mpq_saturation *s)
{
    return s->layer->n_outer * s->layer->n_inner;
}

/* Where the weight of a channel's k-th product lies. */
static int64_t place(const struct mpq_saturation *s, int64_t channel, int64_t k)
{
    const struct mpq_layer *layer = s->layer;
    int64_t outer = k / layer->n_inner, inner = k % layer->n_inner;
    int64_t n_in = layer->n_inner / s->n_position;
    inner = inner % n_in * s->n_position + inner / n_in;
    return (outer * layer->n_channel + channel) * layer->n_inner + inner;
}

/* The largest |w1| + |w2| of a pair of one sign. */
static int limit(const struct mpq_saturation *s)
{
    return INT16_MAX / s->act_max;
}

static bool is_too_large(int a, int b, int most)
{
    return a > 0 ? b > 0 && a + b > most : a < 0 && b < 0 && a + b < -most;
}

static bool can_saturate(const struct mpq_saturation *s, const int8_t *q, int64_t channel)
{
    int most = limit(s);
    for (int64_t k = 0; k + 1 < n_product(s); k += 2)
        if (is_too_large(q[place(s, channel, k)], q[place(s, channel, k + 1)], most))
            return true;
    return false;
}

int64_t mpq_saturation_count(const struct mpq_saturation *s, const int8_t *q)
{
    int64_t n = 0;
    for (int64_t c = 0; c < s->layer->n_channel; c++)
        n += can_saturate(s, q, c);
    return n;
}

/* ---- repair ---- */

struct repair {
    struct mpq_levels levels;
    int n; /* products of a channel */
    int8_t *code, *best_code;
    const int8_t *wanted; /* the codes as they are, in order of products */
};

static double squared(double x)
{
    return x * x;
}

/* The level nearest to z that is no further from zero than `most`, if there is one. */
static int inner_level(const struct mpq_levels *levels, double z, int most)
{
    z = fmax(-most, fmin(most, z));
    int level = mpq_levels_nearest(levels, (mpq_real)z);
    while (abs(level) > most && z != 0) {
        z = fabs(z) < 0.5 ? 0 : z - copysign(0.5, z);
        level = mpq_levels_nearest(levels, (mpq_real)z);
    }
    return level;
}

/* The two levels nearest to a and b, of one sign, that are small enough together. */
static bool shrink_pair(const struct mpq_levels *levels, double a, double b, int most, int8_t *pair)
{
    double least = (double)INFINITY;
    for (uint32_t i = 0; i < levels->n; i++) {
        int first = levels->level[i];
        int second = inner_level(levels, b, most - abs(first));
        double error = squared(a - first) + squared(b - second);
        if (error < least && !is_too_large(first, second, most)) {
            least = error;
            pair[0] = (int8_t)first;
            pair[1] = (int8_t)second;
        }
    }
    return isfinite(least);
}

/* Codes for a scale `coarser` times what it was. False: some pair has none. */
static bool encode(struct repair *r, double coarser, int most)
{
    for (int k = 0; k < r->n; k++)
        r->code[k] = mpq_levels_nearest(&r->levels, (mpq_real)(r->wanted[k] / coarser));
    for (int k = 0; k + 1 < r->n; k += 2)
        if (is_too_large(r->code[k], r->code[k + 1], most) &&
            !shrink_pair(&r->levels, r->wanted[k] / coarser, r->wanted[k + 1] / coarser, most,
                         r->code + k))
            return false;
    return true;
}

/* The factor of the old scale that makes the most of the codes, and the squared error then. */
static double refit(const struct repair *r, double *out_factor)
{
    double wc = 0, cc = 0, ww = 0;
    for (int k = 0; k < r->n; k++) {
        wc += (double)r->wanted[k] * r->code[k];
        cc += (double)r->code[k] * r->code[k];
        ww += (double)r->wanted[k] * r->wanted[k];
    }
    *out_factor = wc / cc;
    return wc > 0 ? ww - wc * wc / cc : (double)INFINITY;
}

/* Scale factor 0: no way was found, which takes levels that have no small ones. */
static double best_codes(struct repair *r, int most)
{
    enum { STEPS = 24 };
    double least = (double)INFINITY, factor = 0, best = 0;
    int largest = 0;
    for (int k = 0; k < r->n; k++)
        largest = abs(r->wanted[k]) > largest ? abs(r->wanted[k]) : largest;
    double coarsest = fmax(1, 2.0 * largest / most) * 1.05; /* then each weight fits by itself */
    for (int step = 0; step <= STEPS; step++) {
        if (!encode(r, pow(coarsest, (double)step / STEPS), most))
            continue;
        double error = refit(r, &factor);
        if (error < least) {
            least = error;
            best = factor;
            memcpy(r->best_code, r->code, (size_t)r->n);
        }
    }
    return best;
}

enum mpq_status mpq_saturation_repair(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      const struct mpq_saturation *s, struct mpq_layer_code *code,
                                      int64_t *out_repaired)
{
    int64_t n_repaired = 0;
    size_t n = (size_t)n_product(s);
    struct repair r = {.n = (int)n};
    *out_repaired = 0;
    if (!mpq_saturation_count(s, code->q))
        return MPQ_OK;
    int8_t *q = mpq_arena_copy(ctx, arena, code->q, (size_t)s->layer->n_param);
    float *scale =
        mpq_arena_copy(ctx, arena, code->scale, (size_t)s->layer->n_channel * sizeof *code->scale);
    int8_t *wanted = mpq_arena_alloc(ctx, arena, n, 1);
    r.code = mpq_arena_alloc(ctx, arena, n, 1);
    r.best_code = mpq_arena_alloc(ctx, arena, n, 1);
    if (!q || !scale || !wanted || !r.code || !r.best_code)
        return MPQ_E_NOMEM;
    r.wanted = wanted;
    mpq_levels_set(code->bits, code->level, code->n_level, &r.levels);
    for (int64_t c = 0; c < s->layer->n_channel; c++) {
        if (!can_saturate(s, q, c))
            continue;
        for (size_t k = 0; k < n; k++)
            wanted[k] = q[place(s, c, (int64_t)k)];
        double factor = best_codes(&r, limit(s));
        if (!(factor > 0))
            continue;
        for (size_t k = 0; k < n; k++)
            q[place(s, c, (int64_t)k)] = r.best_code[k];
        scale[c] = mpq_scale_round(s->layer, (float)(factor * (double)scale[c]));
        n_repaired++;
    }
    code->q = q;
    code->scale = scale;
    *out_repaired = n_repaired;
    return MPQ_OK;
}
