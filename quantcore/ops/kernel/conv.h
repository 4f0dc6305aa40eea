/* Convolution and its two gradients, without an im2col buffer.
 *
 * The input of a few images, channels and rows is copied with its padding ("staged", see stage.h),
 * so that every product w[m][c][t] * x[c][place + t] of one filter tap t reads a plane shifted by a
 * constant. An output place and its right neighbour then read neighbours, across row ends too, and
 * the tiles of tile.h run over the plane as over one long row; the few places that no output has
 * are dropped when a tile is stored. All three walk the same planes:
 *   y  = sum over c, t of w[m][c][t] * x[c][shift t]         rows m, columns places
 *   dx = sum over m, t of w[m][c][t] * dy[m][shift t]        rows c, columns places
 *   dw = sum over places of x[c][shift t] * dy[m]            rows c, t, columns m
 * Work is split over images, bands of rows and groups. */
#ifndef MPQ_OPS_KERNEL_CONV_H
#define MPQ_OPS_KERNEL_CONV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quantcore/base/real.h"
#include "quantcore/ops/kernel/clamp.h"

/* x [n, c, in]  w [m, c / group, kernel]  y [n, m, out], three spatial dimensions each. Fewer are
 * written as {1, 1, W} and {H, 1, W}: the first is the one that is cut into bands, the last the one
 * that should be long. `pad` is what precedes; it may be negative (cropping). */
struct mpq_conv {
    int64_t n, c, m, group;
    int64_t in[3], out[3], kernel[3], stride[3], dilation[3], pad[3];
    /* Forward only, and not where every channel has a filter of its own: a channel of x and w is
     * four of one byte each (mpq_tile_bytes(), which this processor has); no clamp. */
    bool is_bytes;
};

static inline int64_t mpq_volume(const int64_t dim[3])
{
    return dim[0] * dim[1] * dim[2];
}

bool mpq_conv_is_empty(const struct mpq_conv *conv); /* nothing to multiply */

/* y = (add ? y : bias or 0) + conv(x, w), then clamped; bias [m] or NULL, and NULL where adding;
 * clamp may be NULL. */
void mpq_conv_forward(const struct mpq_conv *conv, const mpq_real *x, const mpq_real *w,
                      const mpq_real *bias, bool add, const struct mpq_clamp *clamp, mpq_real *y,
                      void *workspace);

/* dx = (add ? dx : 0) + the gradient for x. Also the forward pass of ConvTranspose. */
void mpq_conv_dx(const struct mpq_conv *conv, const mpq_real *dy, const mpq_real *w, bool add,
                 mpq_real *dx, void *workspace);

/* dw += the gradient for w. The sum is split by thread: repeatable for a given thread count. */
void mpq_conv_dw(const struct mpq_conv *conv, const mpq_real *x, const mpq_real *dy, mpq_real *dw,
                 void *workspace);

/* y [n, m, places] = bias [m], or 0 where that is NULL. */
void mpq_conv_fill_bias(int64_t n, int64_t m, int64_t places, const mpq_real *bias, mpq_real *y);

/* db[j] += sum of dy over images and places, dy [n, m, places]. */
void mpq_conv_db(int64_t n, int64_t m, int64_t places, const mpq_real *dy, mpq_real *db);

/* Bytes of the workspaces, for the present thread count. */
size_t mpq_conv_forward_bytes(const struct mpq_conv *conv);
size_t mpq_conv_dx_bytes(const struct mpq_conv *conv);
size_t mpq_conv_dw_bytes(const struct mpq_conv *conv);

#endif
