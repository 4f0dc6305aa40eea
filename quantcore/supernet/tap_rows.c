#include "quantcore/supernet/tap_rows.h"

#include <string.h>

#include "quantcore/base/simd.h"

typedef mpq_real lanes __attribute__((vector_size(8 * sizeof(mpq_real))));
typedef mpq_real four __attribute__((vector_size(4 * sizeof(mpq_real))));
enum {
    LANES = 8,
    ABREAST = 12, /* sums of a vector each, all in registers: 9 taps need 11 */
};

int64_t mpq_tap_rows_stride(int64_t n_tap)
{
    return (n_tap + 2 + LANES - 1) / LANES * LANES;
}

void mpq_tap_rows_begin(int64_t n_row, int64_t n_tap, mpq_real *row)
{
    int64_t stride = mpq_tap_rows_stride(n_tap);
    for (int64_t r = 0; r < n_row; r++)
        for (int64_t i = n_tap + 1; i < stride; i++)
            row[r * stride + i] = i == n_tap + 1;
}

/* The row of taps that are inside, `offset` [n] apart from the first; what it lacks. f NULL: 0. */
static mpq_real fill_inside(const mpq_real *x, const mpq_real *f, const mpq_real *w,
                            const int64_t *offset, int64_t n, mpq_real *row)
{
    mpq_real lack = 0;
    for (int64_t t = 0; t < n; t++) {
        row[t] = x[offset[t]];
        if (f)
            lack += w[t] * (f[offset[t]] - row[t]);
    }
    return lack;
}

/* The same of 3 x 3 taps side by side, four at once: of each line one more than there are is read.
 * w [3] has 0 there. */
MPQ_INLINE mpq_real fill_nine(const mpq_real *x, const mpq_real *f, const four *w, int64_t line,
                              mpq_real *row)
{
    four sum = {0}, here, there;
    for (int i = 0; i < 3; i++) {
        memcpy(&here, x + i * line, sizeof here);
        memcpy(row + 3 * i, &here, sizeof here);
        if (!f)
            continue;
        memcpy(&there, f + i * line, sizeof there);
        sum += w[i] * (there - here);
    }
    return sum[0] + sum[1] + sum[2];
}

/* Those outside are 0. */
static mpq_real fill_edge(const mpq_real *x, const mpq_real *f, const mpq_real *w,
                          const int64_t *place, int64_t n, mpq_real *row)
{
    mpq_real lack = 0;
    for (int64_t t = 0; t < n; t++) {
        bool is_inside = place[t] >= 0;
        row[t] = is_inside ? x[place[t]] : 0;
        if (f && is_inside)
            lack += w[t] * (f[place[t]] - row[t]);
    }
    return lack;
}

/* Whether taps are three lines of three. */
static bool is_nine(const struct mpq_conv *conv)
{
    return conv->kernel[0] == 3 && conv->kernel[1] == 1 && conv->kernel[2] == 3 &&
           conv->dilation[2] == 1;
}

void mpq_tap_rows_fill(const struct mpq_conv_rows *rows, const mpq_real *x, const mpq_real *f,
                       const mpq_real *w, int64_t g, mpq_real *row)
{
    const struct mpq_conv *conv = rows->conv;
    int64_t n = rows->n_tap, stride = mpq_tap_rows_stride(n), plane = mpq_volume(conv->in);
    int64_t beyond = conv->n * conv->c * plane - g * plane; /* of x and f */
    bool in_fours = is_nine(conv);
    four of_line[3] = {{0}};
    for (int64_t t = 0; in_fours && f && t < n; t++)
        of_line[t / 3][t % 3] = w[t];
    x += g * plane;
    f = f ? f + g * plane : NULL;
    for (int64_t r = 0; r < rows->n_row; r++, row += stride) {
        const int64_t *place = rows->place + r * n;
        const mpq_real *f_first = f ? f + place[0] : NULL;
        mpq_real lack;
        if (!mpq_conv_rows_is_inside(place, n))
            lack = fill_edge(x, f, w, place, n, row);
        else if (in_fours && place[n - 1] + 1 < beyond)
            lack = fill_nine(x + place[0], f_first, of_line, rows->offset[3], row);
        else
            lack = fill_inside(x + place[0], f_first, w, rows->offset, n, row);
        row[n] = lack;
    }
}

/* Rows [first, first + n) of out, n <= ABREAST, LANES columns from `column` on. */
MPQ_INLINE void add_products(int64_t n_row, int64_t stride, const mpq_real *row, int64_t column,
                             int64_t first, int64_t n, mpq_real *out)
{
    lanes sum[ABREAST] = {{0}}, right;
    for (int64_t r = 0; r < n_row; r++, row += stride) {
        memcpy(&right, row + column, sizeof right);
        for (int64_t i = 0; i < n; i++)
            sum[i] += row[first + i] * right;
    }
    for (int64_t i = 0; i < n; i++)
        memcpy(out + (first + i) * stride + column, &sum[i], sizeof right);
}

MPQ_MULTIVERSION
void mpq_tap_rows_products(int64_t n_row, int64_t n_tap, const mpq_real *row, mpq_real *out)
{
    int64_t stride = mpq_tap_rows_stride(n_tap), n = n_tap + 2;
    for (int64_t column = 0; column < n; column += LANES)
        for (int64_t first = column, n_here; first < n; first += n_here) {
            n_here = n - first < ABREAST ? n - first : ABREAST;
            if (n_here == 11)
                add_products(n_row, stride, row, column, first, 11, out);
            else if (n_here == 3)
                add_products(n_row, stride, row, column, first, 3, out);
            else
                add_products(n_row, stride, row, column, first, n_here, out);
        }
}
