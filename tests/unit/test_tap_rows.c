/* Rows of filters of one channel, and their products, against plain sums in double. */
#include "quantcore/supernet/tap_rows.h"

#include <math.h>
#include <stdlib.h>

#include "quantcore/base/rng.h"
#include "tests/check.h"

enum { N = 2, C = 3, MOST_TAPS = 25, MOST_ROWS = 160 };

static void fill(mpq_real *x, int64_t n, uint32_t index)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = (mpq_real)mpq_rng_normal(1, MPQ_STREAM_TEST, index, (uint32_t)i);
}

/* What tap t of position r meets, 0 outside of the image. */
static double value(const struct mpq_conv_rows *rows, const mpq_real *x, int64_t g, int64_t r,
                    int64_t t)
{
    int64_t place = rows->place[r * rows->n_tap + t];
    return place < 0 ? 0 : (double)x[g * mpq_volume(rows->conv->in) + place];
}

static void check_group(const struct mpq_conv_rows *rows, const mpq_real *x, const mpq_real *f,
                        const mpq_real *w, int64_t g)
{
    static mpq_real row[MOST_ROWS * 32], got[(MOST_TAPS + 2) * 32];
    int64_t n = rows->n_tap, stride = mpq_tap_rows_stride(n);
    assert_true(rows->n_row <= MOST_ROWS && n <= MOST_TAPS && stride >= n + 2);
    mpq_tap_rows_begin(rows->n_row, n, row);
    mpq_tap_rows_fill(rows, x, f, w, g, row);
    mpq_tap_rows_products(rows->n_row, n, row, got);
    for (int64_t i = 0; i < n + 2; i++)
        for (int64_t j = 0; j <= i; j++) {
            double want = 0;
            for (int64_t r = 0; r < rows->n_row; r++) {
                double of[MOST_TAPS + 2] = {0};
                for (int64_t t = 0; t < n; t++) {
                    of[t] = value(rows, x, g, r, t);
                    of[n] += f ? (double)w[t] * (value(rows, f, g, r, t) - of[t]) : 0;
                }
                of[n + 1] = 1;
                want += of[i] * of[j];
            }
            CHECK_NEAR(got[i * stride + j], want, 1e-4, 1e-4);
        }
}

static void check(const struct mpq_conv *conv)
{
    int64_t n_tap = mpq_volume(conv->kernel), n_x = N * C * mpq_volume(conv->in);
    int64_t n_row = N * mpq_volume(conv->out), offset[MOST_TAPS];
    /* No more than there is, so that whatever reads on is found. */
    mpq_real *x = malloc((size_t)n_x * sizeof *x), *f = malloc((size_t)n_x * sizeof *f);
    mpq_real w[MOST_TAPS];
    static int64_t place[MOST_ROWS * MOST_TAPS];
    assert_true(x && f);
    fill(x, n_x, 0);
    fill(f, n_x, 1);
    fill(w, n_tap, 2);
    mpq_conv_rows_offsets(conv, offset);
    const struct mpq_conv_rows rows = mpq_conv_rows_place(conv, offset, 0, 1, n_row, place);
    for (int64_t g = 0; g < C; g++) {
        check_group(&rows, x, f, w, g);
        check_group(&rows, x, NULL, NULL, g);
    }
    free(f);
    free(x);
}

static void products_are_sums_over_positions(void **state)
{
    const struct mpq_conv base = {.n = N, .c = C, .m = C, .group = C};
    (void)state;
    for (int64_t kernel = 1; kernel <= 5; kernel += 2)
        for (int64_t stride = 1; stride <= 2; stride++)
            for (int64_t pad = 0; pad <= kernel / 2; pad++) {
                struct mpq_conv conv = base;
                int64_t out = (8 + 2 * pad - kernel) / stride + 1;
                for (int d = 0; d < 3; d++) {
                    bool is_flat = d == 1;
                    conv.in[d] = is_flat ? 1 : 8;
                    conv.out[d] = is_flat ? 1 : out;
                    conv.kernel[d] = is_flat ? 1 : kernel;
                    conv.stride[d] = is_flat ? 1 : stride;
                    conv.pad[d] = is_flat ? 0 : pad;
                    conv.dilation[d] = 1;
                }
                check(&conv);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_sums_over_positions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
