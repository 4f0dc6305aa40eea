/* Weight quantization with a codebook: w = level * scale of its channel, levels being 2^bits
 * integers on the int8 grid, shared by the layer. Uniform quantization is the special case of
 * equally spaced levels.
 *
 * Levels are free in the exported file (a Gather), and for the bell-shaped weights of trained
 * layers Lloyd's levels have 15 to 20 % less squared error at 3 and 4 bits than the best equal
 * spacing. */
#ifndef MPQ_QUANT_LEVELS_H
#define MPQ_QUANT_LEVELS_H

#include "quantcore/quant/layer.h"

struct mpq_levels {
    int bits;
    uint32_t n;        /* 2^bits, at most 255 for 8 bits */
    int8_t level[256]; /* ascending, distinct, -127..127 */
    /* nearest[floor(2z) + 256]: the level nearest to z in [-128, 128). Exact, because midpoints of
     * integers are multiples of one half; at one, the upper level. */
    int8_t nearest[512];
};

/* Equally spaced levels: -127..127 for 8 bits, else centred on zero and scaled to the grid. */
void mpq_levels_uniform(int bits, struct mpq_levels *out);

/* The integers that a signed type of that many bits holds, -2^(bits-1)..2^(bits-1)-1; for 8 bits
 * -127..127. What DequantizeLinear makes of a weight of such a type. */
void mpq_levels_integers(int bits, struct mpq_levels *out);

/* Levels from an ascending list of n distinct int8 values; fills the table. */
void mpq_levels_set(int bits, const int8_t *level, uint32_t n, struct mpq_levels *out);

/* Levels and channel scales with little weighted squared error sum h * (w - level*scale)^2 on the
 * weight w[n_outer][n_channel][n_inner] (struct mpq_layer). Alternates Lloyd's iteration over a
 * histogram of w/scale with least-squares scales of each channel. Where the best uniform grid is
 * better it is kept. integers_only: mpq_levels_integers(), and only scales are fitted.
 *
 *   importance  [n_group, n_outer * n_inner] h of each weight of a channel, >= 0: the mean square
 * of the input it multiplies; NULL: all 1 out_scale   [n_channel] > 0
 *
 * NOMEM only; scratch memory comes from an arena of its own. */
enum mpq_status mpq_levels_fit(struct mpq_ctx *ctx, const struct mpq_layer *layer,
                               const mpq_real *w, const mpq_real *importance, int bits,
                               bool integers_only, struct mpq_levels *out_levels,
                               mpq_real *out_scale) MPQ_CHECKED;

/* mpq_levels_integers() with the scales that just hold the largest magnitude of each channel. */
void mpq_levels_min_max(const struct mpq_layer *layer, const mpq_real *w, int bits,
                        struct mpq_levels *out_levels, mpq_real *out_scale);

/* The level nearest to z = w / scale. */
static inline int8_t mpq_levels_nearest(const struct mpq_levels *levels, mpq_real z)
{
    mpq_real i = z * 2 + 256;
    i = i < 0 ? 0 : i > 511 ? 511 : i; /* truncation is floor for i >= 0 */
    return levels->nearest[(int)i];
}

/* q[i] = the level nearest to w[i] / scale of its channel. */
void mpq_levels_encode(const struct mpq_levels *levels, const struct mpq_layer *layer,
                       const mpq_real *w, const mpq_real *scale, int8_t *q);

/* wq[i] = nearest level * scale: fake quantization. wq may not alias w. */
void mpq_levels_fake_quant(const struct mpq_levels *levels, const struct mpq_layer *layer,
                           const mpq_real *w, const mpq_real *scale, mpq_real *wq);

/* Straight-through gradients of fake quantization with learned steps (Esser et al., "Learned Step
 * Size Quantization", ICLR 2020, eq. 3, for any levels): with z = w/scale and L its level,
 *
 *   dw     += dwq                 where z lies between the outermost levels, else nothing
 *   dscale += sum dwq * (L - z)   where it does, else dwq * L
 *
 * dwq, w, dw [n_param]; scale, dscale [n_channel]. dw may not alias dwq. LSQ's factor 1/sqrt(n p)
 * is left to the optimizer, whose step is invariant to it. */
void mpq_levels_backward(const struct mpq_levels *levels, const struct mpq_layer *layer,
                         const mpq_real *w, const mpq_real *scale, const mpq_real *dwq,
                         mpq_real *dw, mpq_real *dscale);

#endif
