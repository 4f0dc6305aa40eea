/* The innermost loops of convolution, one set for each instruction set, in registers from the first
 * product to the last. OpenBLAS has better ones for large square products, but convolutions have
 * few rows, and it takes a processor it does not know for the plainest of its family.
 *
 * A tile is `rows` x `vectors * lanes` sums. `rows` is a power of two up to max_rows, `vectors` is
 * 1 .. MPQ_TILE_VECTORS; a vector may be read past what is wanted, so sources need slack. */
#ifndef MPQ_OPS_KERNEL_TILE_H
#define MPQ_OPS_KERNEL_TILE_H

#include <stdbool.h>
#include <stdint.h>

#include "quantcore/base/real.h"
#include "quantcore/ops/kernel/clamp.h"

#define MPQ_TILE_VECTORS     3
#define MPQ_TILE_MAX_ROWS    8
#define MPQ_TILE_MAX_BYTES   64 /* of a vector, in any set */
#define MPQ_TILE_MAX_COLUMNS (MPQ_TILE_VECTORS * MPQ_TILE_MAX_BYTES / (int64_t)sizeof(mpq_real))

/* Neighbouring places that become columns of a panel. */
struct mpq_tile_run {
    int64_t place;
    int column, count;
};

/* Columns from .. from + count of one of a few lines go to `to`. */
struct mpq_tile_copy {
    int64_t to;
    int line, from, count;
};

/* Neighbouring columns of outputs that see the same taps. */
struct mpq_tile_taps {
    int64_t first, n_column;
    int n_tap;
    const int *tap;        /* [n_tap] */
    const int64_t *offset; /* [n_tap] */
};

/* Where the sums of a tile go: vector v of row i to y + i * ldy + at[v]. */
struct mpq_tile_sink {
    mpq_real *y;
    int64_t ldy, at[MPQ_TILE_VECTORS];
    const mpq_real *bias;          /* [rows] that is added, or NULL */
    bool add;                      /* to what is there */
    const struct mpq_clamp *clamp; /* at last, or NULL */
};

/* sum_k a[i * lda + k] * s[offset[k] + j] of row i and column j, to `sink` in whole vectors. */
typedef void mpq_tile_product(int rows, int vectors, int64_t n_k, const mpq_real *a, int64_t lda,
                              const mpq_real *s, const int64_t *offset,
                              const struct mpq_tile_sink *sink);

struct mpq_tile_set {
    const char *name;
    int lanes, max_rows;

    mpq_tile_product *product;

    /* c[i][j] += sum over runs r and places x in them of
     *            s[offset[i] + start[r] + x] * t[(r * length + x) * ldt + j] */
    void (*gradient)(int rows, int vectors, const int64_t *offset, const mpq_real *s,
                     const int64_t *start, int64_t n_run, int64_t length, const mpq_real *t,
                     int64_t ldt, mpq_real *c, int64_t ldc);

    /* panel[k * ld + column + j] = s[offset[k] + place + j] for the runs, which fill columns from 0
     * on without a gap. Up to `lanes` elements behind each run are overwritten. */
    void (*gather)(int64_t n_k, const mpq_real *s, const int64_t *offset,
                   const struct mpq_tile_run *run, int n_run, mpq_real *panel, int64_t ld);

    /* y[j] = bias + sum_k w[k] * s[offset[k] + j] for j in 0 .. n rounded up to lanes. */
    void (*filter)(int64_t n, int64_t n_k, const mpq_real *w, const int64_t *offset,
                   const mpq_real *s, mpq_real bias, mpq_real *y);

    /* y[i * ldy + j] = bias + sum_k w[k] * s[offset[k] + i * lds + j] for i in 0 .. rows, j in
     * 0 .. n, clamped (or NULL). ldy >= n; up to `lanes` elements behind each row but the last are
     * overwritten. s is read up to n rounded up to lanes. */
    void (*filter_rows)(int64_t rows, int64_t n, int64_t n_k, const mpq_real *w,
                        const int64_t *offset, const mpq_real *s, int64_t lds, mpq_real bias,
                        const struct mpq_clamp *clamp, mpq_real *y, int64_t ldy);

    /* y [height, n] = bias + x filtered with w [3, 3], `apart` rows and columns apart, zeros around
     * x, clamped (or NULL). n >= lanes. `apart` elements before and behind x are read. */
    void (*filter_same)(int64_t height, int64_t n, int64_t apart, const mpq_real *w,
                        const mpq_real *x, mpq_real bias, const struct mpq_clamp *clamp,
                        mpq_real *y);

    /* y [rows, n] = bias + x [height, width] filtered with w [3, 3] at every second row and column,
     * from `before` (0 or 1) above and left of x on, zeros around x, clamped (or NULL). n >= lanes,
     * 2 * n <= width + before. Two elements before and behind x are read. */
    void (*filter_halved)(int64_t rows, int64_t n, int64_t height, int64_t width, int64_t before,
                          const mpq_real *w, const mpq_real *x, mpq_real bias,
                          const struct mpq_clamp *clamp, mpq_real *y);

    /* A filter on `lanes` channels at once, which are the last dimension of s, w and y: for rows i
     * and columns j of the part, y[i * y_row + (first + j) * lanes] = bias [lanes] + sum over taps
     * t of w[tap[t]] [lanes] * s[offset[t] + i * s_row + j * s_column], clamped (or NULL). */
    void (*filter_lanes)(int64_t rows, const struct mpq_tile_taps *part, const mpq_real *w,
                         const mpq_real *s, int64_t s_row, int64_t s_column, const mpq_real *bias,
                         const struct mpq_clamp *clamp, mpq_real *y, int64_t y_row);

    /* to[i * to_stride + j] = from[i * from_stride + j * step] for i in 0 .. rows, j in 0 .. n.
     * Zeros are written behind each row, up to n rounded up to lanes; nothing is read at or behind
     * `end`. */
    void (*copy_rows)(mpq_real *to, int64_t to_stride, const mpq_real *from, int64_t from_stride,
                      int64_t rows, int64_t n, int64_t step, const mpq_real *end);

    /* c[k] += sum_j g[j] * s[offset[k] + j] for j in 0 .. n rounded up to lanes: g is zero there.
     */
    void (*correlate)(int64_t n, int64_t n_k, const mpq_real *g, const int64_t *offset,
                      const mpq_real *s, mpq_real *c);

    /* at[j] = the first k whose s[offset[k] + j] equals y[j], or -1, for j in 0 .. n rounded up to
     * lanes. */
    void (*match)(int64_t n, int64_t n_k, const mpq_real *s, const int64_t *offset,
                  const mpq_real *y, mpq_real *at);

    /* dx[j] += sum of dy[j - shift[k]] over the k whose tap[k] is at[j - shift[k]], for j in
     * 0 .. n rounded up to lanes. */
    void (*hand_out)(int64_t n, int64_t n_k, const int64_t *shift, const mpq_real *tap,
                     const mpq_real *at, const mpq_real *dy, mpq_real *dx);

    /* t[j * ldt + i] = a[i * lda + j] for i in 0 .. rows, j in 0 .. columns. Where rows < lanes, of
     * t more may be written, up to i = lanes. */
    void (*transpose)(int64_t rows, int64_t columns, const mpq_real *a, int64_t lda, mpq_real *t,
                      int64_t ldt);

    /* to[i][j * ldt + t] = x[4 * t + j - pad], j in 0 .. reach (6, or 4 without padding), for
     * `tiles` tiles t and a row of n elements with zeros around; 0 <= pad <= 2; for one or two i,
     * the second may be NULL. For every 4 * lanes of the row `lanes` + 1 of each are written.
     * Nothing is read at or behind `end`. */
    void (*winograd_deal)(int64_t pad, int reach, int64_t n, const mpq_real *x, const mpq_real *end,
                          mpq_real *const to[2], int64_t tiles, int64_t ldt);

    /* Winograd's transforms (winograd.inc) of 3 x 3 weights of n channels, w [n, 9], and of 6 x 6
     * inputs of each tile, read at s[offset[6 * i + j] + tile]: 36 numbers, ldu and ldv apart.
     * n is rounded up to lanes; nothing is read at or behind `end`. */
    void (*winograd_weights)(int64_t n, const mpq_real *w, const mpq_real *end, mpq_real *u,
                             int64_t ldu);
    void (*winograd_input)(int vectors, const mpq_real *s, const int64_t *offset, mpq_real *v,
                           int64_t ldv);

    /* `rows` rows of sums m, MPQ_TILE_MAX_COLUMNS apart and each of the 36 ldm apart, back to 4 x 4
     * outputs of each tile, with bias [rows] or NULL and clamp or NULL; line i has row i of all
     * tiles, 4 columns each. Copied, or added, to y of each row, ldy apart. */
    void (*winograd_output)(int rows, int vectors, const mpq_real *m, int64_t ldm,
                            const mpq_real *bias, const struct mpq_clamp *clamp, bool add,
                            const struct mpq_tile_copy *copy, int n_copy, mpq_real *y, int64_t ldy);

    /* For the gradient for weights: 36 numbers of each tile's 4 x 4 gradients, read as those of
     * winograd_input() are, i, j < 4; and, from sums of products of both, u as winograd_weights()
     * has it, what is added to w [n, 9]. */
    void (*winograd_spread)(int vectors, const mpq_real *s, const int64_t *offset, mpq_real *v,
                            int64_t ldv);
    void (*winograd_collect)(int64_t n, const mpq_real *u, int64_t ldu, mpq_real *w);
};

/* The best set this processor has; and all it has, plainest first, NULL past the last: for tests.
 */
const struct mpq_tile_set *mpq_tile_best(void);
const struct mpq_tile_set *mpq_tile_at(int i);

/* The product where an element is four bytes, of a signed and of s unsigned ones, each multiplied
 * with its like: sums are exact as long as mpq_real holds them, the sink has no clamp. Shapes are
 * those of the best set; NULL where this processor has no such thing. */
mpq_tile_product *mpq_tile_bytes(void);

/* The sums themselves, rows ldy apart. */
static inline struct mpq_tile_sink mpq_tile_rows(const struct mpq_tile_set *set, mpq_real *y,
                                                 int64_t ldy)
{
    return (struct mpq_tile_sink){.y = y, .ldy = ldy, .at = {0, set->lanes, 2 * set->lanes}};
}

#endif
