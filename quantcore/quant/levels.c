#include "quantcore/quant/levels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BINS = 8192, Z_RANGE = 256, MAX_LEVELS = 256 };

/* Outermost level of a width. Up to 4 bits 63 is fine enough and keeps AVX2 kernels from saturating
 * (255 * 2 * 63 < 32768); more levels need the finer grid. */
static int grid(int bits)
{
    return bits <= 4 ? 63 : 127;
}

/* ---- levels and their table ---- */

void mpq_levels_set(int bits, const int8_t *level, uint32_t n, struct mpq_levels *out)
{
    out->bits = bits;
    out->n = n;
    memcpy(out->level, level, n);
    uint32_t k = 0;
    for (int i = 0; i < 512; i++) {
        /* z in [i/2 - 128, i/2 - 127.5): the next level is nearer once z reaches the midpoint, that
         * is 2z >= level[k] + level[k+1]. */
        while (k + 1 < n && i - 256 >= level[k] + level[k + 1])
            k++;
        out->nearest[i] = level[k];
    }
}

void mpq_levels_uniform(int bits, struct mpq_levels *out)
{
    int8_t level[MAX_LEVELS];
    uint32_t n = bits == 8 ? 255 : 1u << bits;
    for (uint32_t k = 0; k < n; k++)
        level[k] = (int8_t)(lrint((double)k * (2.0 * grid(bits)) / (n - 1)) - grid(bits));
    mpq_levels_set(bits, level, n, out);
}

void mpq_levels_integers(int bits, struct mpq_levels *out)
{
    int8_t level[MAX_LEVELS];
    int half = 1 << (bits - 1), first = bits == 8 ? -127 : -half;
    for (int k = first; k < half; k++)
        level[k - first] = (int8_t)k;
    mpq_levels_set(bits, level, (uint32_t)(half - first), out);
}

/* ---- elementwise ---- */

/* Walk the rows of equal scale: body sees c, begin and n of each run of consecutive elements. */
#define FOR_EACH_RUN(layer, c, begin)                                                              \
    for (int64_t outer_ = 0, begin = 0; outer_ < (layer)->n_outer; outer_++)                       \
        for (int64_t c = 0; c < (layer)->n_channel; c++, begin += (layer)->n_inner)

void mpq_levels_encode(const struct mpq_levels *levels, const struct mpq_layer *layer,
                       const mpq_real *w, const mpq_real *scale, int8_t *q)
{
    FOR_EACH_RUN(layer, c, begin)
    {
        for (int64_t i = begin; i < begin + layer->n_inner; i++)
            q[i] = mpq_levels_nearest(levels, w[i] / scale[c]);
    }
}

void mpq_levels_fake_quant(const struct mpq_levels *levels, const struct mpq_layer *layer,
                           const mpq_real *w, const mpq_real *scale, mpq_real *wq)
{
    FOR_EACH_RUN(layer, c, begin)
    {
        for (int64_t i = begin; i < begin + layer->n_inner; i++)
            wq[i] = (mpq_real)mpq_levels_nearest(levels, w[i] / scale[c]) * scale[c];
    }
}

void mpq_levels_backward(const struct mpq_levels *levels, const struct mpq_layer *layer,
                         const mpq_real *w, const mpq_real *scale, const mpq_real *dwq,
                         mpq_real *dw, mpq_real *dscale)
{
    mpq_real low = levels->level[0], high = levels->level[levels->n - 1];
    FOR_EACH_RUN(layer, c, begin)
    {
        mpq_real sum = 0;
        for (int64_t i = begin; i < begin + layer->n_inner; i++) {
            mpq_real z = w[i] / scale[c], level = (mpq_real)mpq_levels_nearest(levels, z);
            bool inside = z >= low && z <= high;
            dw[i] += inside ? dwq[i] : 0;
            sum += dwq[i] * (inside ? level - z : level);
        }
        dscale[c] += sum;
    }
}

/* ---- fitting ---- */

struct fit {
    const struct mpq_layer *layer;
    const mpq_real *w, *importance;
    double *mass, *moment; /* [BINS + 1] weight and weighted sum of z in the bins of z = w/scale
                              below each */
};

static double weight_of(const struct fit *fit, int64_t c, int64_t outer, int64_t inner)
{
    const struct mpq_layer *layer = fit->layer;
    int64_t group = c / (layer->n_channel / layer->n_group);
    return fit->importance
               ? (double)fit->importance[(group * layer->n_outer + outer) * layer->n_inner + inner]
               : 1;
}

/* Least-squares scale of each channel for the levels its weights have now:
 * scale = sum h w L / sum h L^2. A channel of zeros keeps its scale. Returns the weighted error. */
static double refit_scales(const struct fit *fit, const struct mpq_levels *levels, mpq_real *scale)
{
    const struct mpq_layer *layer = fit->layer;
    double error = 0;
    for (int64_t c = 0; c < layer->n_channel; c++) {
        double wl = 0, ll = 0, ww = 0;
        for (int64_t o = 0; o < layer->n_outer; o++)
            for (int64_t i = 0; i < layer->n_inner; i++) {
                mpq_real w = fit->w[(o * layer->n_channel + c) * layer->n_inner + i];
                double h = weight_of(fit, c, o, i),
                       level = mpq_levels_nearest(levels, w / scale[c]);
                wl += h * (double)w * level;
                ll += h * level * level;
                ww += h * (double)w * (double)w;
            }
        mpq_real refit = (mpq_real)(ll > 0 ? wl / ll : 0);
        if (refit > 0 && isnormal(refit)) {
            scale[c] = refit;
            error += ww - wl * wl / ll;
        } else
            error += ww;
    }
    return error;
}

/* The weighted squared error with the scales as they are. */
static double channel_error(const struct fit *fit, const struct mpq_levels *levels, int64_t c,
                            mpq_real scale)
{
    const struct mpq_layer *layer = fit->layer;
    double error = 0;
    for (int64_t o = 0; o < layer->n_outer; o++)
        for (int64_t i = 0; i < layer->n_inner; i++) {
            mpq_real w = fit->w[(o * layer->n_channel + c) * layer->n_inner + i];
            double d = (double)w - (double)mpq_levels_nearest(levels, w / scale) * (double)scale;
            error += weight_of(fit, c, o, i) * d * d;
        }
    return error;
}

static double largest_magnitude(const struct mpq_layer *layer, const mpq_real *w, int64_t c)
{
    double most = 0;
    for (int64_t o = 0; o < layer->n_outer; o++)
        for (int64_t i = 0; i < layer->n_inner; i++)
            most = fmax(most, fabs((double)w[(o * layer->n_channel + c) * layer->n_inner + i]));
    return most;
}

/* Not every set of levels has a zero, so a channel of zeros gets a scale that makes any level as
 * good as zero, yet not so small that its int32 bias (in units of the scale) overflows. */
static void fill_empty_scales(const struct mpq_layer *layer, mpq_real *scale)
{
    mpq_real largest = 0;
    for (int64_t c = 0; c < layer->n_channel; c++)
        largest = scale[c] > largest ? scale[c] : largest;
    for (int64_t c = 0; c < layer->n_channel; c++)
        if (!(scale[c] > 0))
            scale[c] = largest > 0 ? largest / 4096 : MPQ_REAL(0x1p-20);
}

/* The best of a ladder of clipping ratios for each channel, from the largest magnitude down. */
static void search_scales(const struct fit *fit, const struct mpq_levels *levels, mpq_real *scale)
{
    enum { STEPS = 24 };
    const struct mpq_layer *layer = fit->layer;
    double outermost = (levels->level[levels->n - 1] - levels->level[0]) / 2.0;
    for (int64_t c = 0; c < layer->n_channel; c++) {
        double most = largest_magnitude(layer, fit->w, c), best = INFINITY;
        scale[c] = 0;
        if (!isnormal((float)(most / outermost)))
            continue; /* nothing but zeros */
        for (int step = 0; step < STEPS; step++) {
            /* 1 down to 0.3: below 8 bits the optimum of bell-shaped weights lies well inside. */
            mpq_real s = (mpq_real)(most / outermost * (1 - 0.7 * step / STEPS));
            double error = channel_error(fit, levels, c, s);
            if (error < best) {
                best = error;
                scale[c] = s;
            }
            if (levels->bits == 8 && step >= 6)
                break;
        }
    }
    fill_empty_scales(layer, scale);
}

void mpq_levels_min_max(const struct mpq_layer *layer, const mpq_real *w, int bits,
                        struct mpq_levels *out_levels, mpq_real *out_scale)
{
    mpq_levels_integers(bits, out_levels);
    for (int64_t c = 0; c < layer->n_channel; c++) {
        float scale =
            (float)(largest_magnitude(layer, w, c) / out_levels->level[out_levels->n - 1]);
        out_scale[c] = isnormal(scale) ? (mpq_real)scale : 0;
    }
    fill_empty_scales(layer, out_scale);
}

/* Cumulative histogram of z = w/scale over [-256, 256), each weight counting h * scale^2, its share
 * in the error. */
static void gather(struct fit *fit, const mpq_real *scale)
{
    const struct mpq_layer *layer = fit->layer;
    memset(fit->mass, 0, (BINS + 1) * sizeof *fit->mass);
    memset(fit->moment, 0, (BINS + 1) * sizeof *fit->moment);
    for (int64_t o = 0; o < layer->n_outer; o++)
        for (int64_t c = 0; c < layer->n_channel; c++)
            for (int64_t i = 0; i < layer->n_inner; i++) {
                double s = (double)scale[c];
                double z = (double)fit->w[(o * layer->n_channel + c) * layer->n_inner + i] / s;
                double h = weight_of(fit, c, o, i) * s * s;
                double bin = (z + Z_RANGE) * (BINS / (2 * Z_RANGE));
                int b = bin < 0 ? 0 : bin > BINS - 1 ? BINS - 1 : (int)bin;
                fit->mass[b + 1] += h;
                fit->moment[b + 1] += h * z;
            }
    for (int b = 0; b < BINS; b++) {
        fit->mass[b + 1] += fit->mass[b];
        fit->moment[b + 1] += fit->moment[b];
    }
}

/* The first bin whose middle is at z or above, and no bin below `least`. */
static int bin_from(double z, int least)
{
    double bin = ceil((z + Z_RANGE) * (BINS / (2 * Z_RANGE)) - 0.5);
    return bin < least ? least : bin > BINS ? BINS : (int)bin;
}

/* Lloyd's iteration in one dimension: each level moves to the mean of what is nearest to it. */
static void lloyd(const struct fit *fit, double *center, uint32_t n)
{
    bool moved = true;
    for (int iteration = 0; iteration < 100 && moved; iteration++) {
        moved = false;
        for (int begin = 0, k = 0; k < (int)n; k++) {
            bool is_last = k + 1 == (int)n;
            int end = is_last ? BINS : bin_from((center[k] + center[k + 1]) / 2, begin);
            double mass = fit->mass[end] - fit->mass[begin];
            double moment = fit->moment[end] - fit->moment[begin];
            begin = end;
            if (!(mass > 0) || moment / mass == center[k])
                continue;
            center[k] = moment / mass;
            moved = true;
        }
    }
}

/* A first guess: denser in the middle and wider than the uniform levels, as bell shapes want it.
 * From equal spacing Lloyd's iteration creeps there over hundreds of rounds and gets stuck on the
 * way. */
static double spread(int bits, uint32_t k)
{
    double u = 2.0 * k / ((1u << bits) - 1) - 1;
    return 1.2 * grid(bits) * (0.6 * u + 0.4 * u * u * u);
}

static int compare_centers(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Stretch ascending centers to the grid and round them to distinct integers. */
static void round_levels(int bits, double *center, uint32_t n, struct mpq_levels *out)
{
    double most = fmax(-center[0], center[n - 1]);
    int8_t level[MAX_LEVELS];
    int last = -grid(bits) - 1;
    for (uint32_t k = 0; k < n; k++) {
        int nearest = (int)lrint(center[k] * grid(bits) / most);
        int top = grid(bits) - (int)(n - 1 - k);
        last = nearest > last ? nearest : last + 1;
        last = last < top ? last : top;
        level[k] = (int8_t)last;
    }
    mpq_levels_set(bits, level, n, out);
}

enum mpq_status mpq_levels_fit(struct mpq_ctx *ctx, const struct mpq_layer *layer,
                               const mpq_real *w, const mpq_real *importance, int bits,
                               bool integers_only, struct mpq_levels *out_levels,
                               mpq_real *out_scale)
{
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    struct fit fit = {layer, w, importance, mpq_arena_alloc(ctx, scratch, BINS + 1, sizeof(double)),
                      mpq_arena_alloc(ctx, scratch, BINS + 1, sizeof(double))};
    mpq_real *scale = mpq_arena_alloc(ctx, scratch, (size_t)layer->n_channel, sizeof *scale);
    if (!fit.mass || !fit.moment || !scale) {
        mpq_arena_free(scratch);
        return MPQ_E_NOMEM;
    }
    if (integers_only)
        mpq_levels_integers(bits, out_levels);
    else
        mpq_levels_uniform(bits, out_levels);
    search_scales(&fit, out_levels, out_scale);
    double best = refit_scales(&fit, out_levels, out_scale);
    /* At 7 and 8 bits the grid itself has hardly more points than there are levels. */
    if (!integers_only && bits < 7) {
        struct mpq_levels levels = *out_levels;
        memcpy(scale, out_scale, (size_t)layer->n_channel * sizeof *scale);
        for (int round = 0; round < 6; round++) {
            double center[MAX_LEVELS];
            for (uint32_t k = 0; k < levels.n; k++)
                center[k] = round ? levels.level[k] : spread(bits, k);
            gather(&fit, scale);
            lloyd(&fit, center, levels.n);
            /* Those that nothing was nearest to stayed, and others may have passed them. */
            qsort(center, levels.n, sizeof *center, compare_centers);
            double stretch = fmax(-center[0], center[levels.n - 1]) / grid(bits);
            if (!(stretch > 0))
                break;
            round_levels(bits, center, levels.n, &levels);
            for (int64_t c = 0; c < layer->n_channel; c++)
                scale[c] *= (mpq_real)stretch;
            double error = refit_scales(&fit, &levels, scale);
            if (error < best) {
                best = error;
                *out_levels = levels;
                memcpy(out_scale, scale, (size_t)layer->n_channel * sizeof *scale);
            }
        }
    }
    mpq_arena_free(scratch);
    return MPQ_OK;
}
