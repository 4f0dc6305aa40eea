/* Every set of inner loops this processor has, against plain loops in double. */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "quantcore/base/rng.h"
#include "quantcore/ops/kernel/tile.h"
#include "tests/check.h"

#define N_K 21
#define N_S 4096
#define ROW MPQ_TILE_MAX_COLUMNS

static mpq_real s[N_S], a[N_S], t[N_S], c[MPQ_TILE_MAX_ROWS * ROW];
static int64_t offset[N_K];

static void fill(mpq_real *v, uint64_t step)
{
    for (uint32_t i = 0; i < N_S; i++)
        v[i] = (mpq_real)mpq_rng_normal(1, MPQ_STREAM_TEST, step, i);
}

static int set_up(void **state)
{
    (void)state;
    fill(s, 0);
    fill(a, 1);
    fill(t, 2);
    for (uint32_t i = 0; i < N_K; i++)
        offset[i] = mpq_rng_below(1, MPQ_STREAM_TEST, 3, i, 500);
    return 0;
}

/* Bare sums; then with a bias, added to what is there and clamped, vectors far apart. */
static void test_product(void **state)
{
    (void)state;
    const struct mpq_clamp clamp = {-1, 2};
    for (int i = 0; mpq_tile_at(i); i++)
        for (int rows = 1; rows <= mpq_tile_at(i)->max_rows; rows *= 2)
            for (int vectors = 1; vectors <= MPQ_TILE_VECTORS; vectors++)
                for (int full = 0; full < 2; full++) {
                    const int lanes = mpq_tile_at(i)->lanes;
                    struct mpq_tile_sink sink = mpq_tile_rows(mpq_tile_at(i), c, ROW);
                    if (full) {
                        sink.bias = t;
                        sink.add = true;
                        sink.clamp = &clamp;
                        sink.at[0] = 2 * lanes;
                        sink.at[2] = 0;
                    }
                    for (size_t j = 0; j < sizeof c / sizeof *c; j++)
                        c[j] = full ? (mpq_real)(j % 5) : NAN;
                    mpq_tile_at(i)->product(rows, vectors, N_K, a, N_K + 2, s, offset, &sink);
                    for (int r = 0; r < rows; r++)
                        for (int j = 0; j < vectors * lanes; j++) {
                            int64_t to = r * ROW + sink.at[j / lanes] + j % lanes;
                            double sum = full ? (double)(to % 5) + (double)t[r] : 0;
                            for (int k = 0; k < N_K; k++)
                                sum += (double)a[r * (N_K + 2) + k] * (double)s[offset[k] + j];
                            CHECK_NEAR(c[to], full ? fmin(fmax(sum, -1), 2) : sum, 1e-5, 1e-5);
                        }
                }
}

/* Bytes of all sizes, four to an element, which sums of int32 know exactly. */
static void test_bytes(void **state)
{
    (void)state;
    static uint8_t x[4 * N_S];
    static int8_t w[4 * N_S];
    const int lanes = mpq_tile_best()->lanes;
    if (!mpq_tile_bytes())
        skip();
    for (uint32_t i = 0; i < 4 * N_S; i++) {
        x[i] = (uint8_t)mpq_rng_below(1, MPQ_STREAM_TEST, 4, i, 256);
        w[i] = (int8_t)((int)mpq_rng_below(1, MPQ_STREAM_TEST, 5, i, 256) - 128);
    }
    for (int rows = 1; rows <= mpq_tile_best()->max_rows; rows *= 2)
        for (int vectors = 1; vectors <= MPQ_TILE_VECTORS; vectors++)
            for (int full = 0; full < 2; full++) {
                static const mpq_real bias[MPQ_TILE_MAX_ROWS] = {5, -9, 100, 3, 0, 1, 77, -65000};
                struct mpq_tile_sink sink = mpq_tile_rows(mpq_tile_best(), c, ROW);
                sink.bias = full ? bias : NULL;
                sink.add = full;
                for (size_t j = 0; j < sizeof c / sizeof *c; j++)
                    c[j] = full ? (mpq_real)(j % 5) : NAN;
                mpq_tile_bytes()(rows, vectors, N_K, (const mpq_real *)w, N_K + 2,
                                 (const mpq_real *)x, offset, &sink);
                for (int r = 0; r < rows; r++)
                    for (int j = 0; j < vectors * lanes; j++) {
                        int32_t sum = full ? (r * (int)ROW + j) % 5 + (int32_t)bias[r] : 0;
                        for (int k = 0; k < 4 * N_K; k++)
                            sum += w[4 * r * (N_K + 2) + k] * x[4 * (offset[k / 4] + j) + k % 4];
                        assert_int_equal((int32_t)c[r * ROW + j], sum);
                    }
            }
}

static void test_gradient(void **state)
{
    (void)state;
    static const int64_t start[] = {3, 40, 77};
    for (int i = 0; mpq_tile_at(i); i++)
        for (int rows = 1; rows <= mpq_tile_at(i)->max_rows; rows *= 2)
            for (int vectors = 1; vectors <= MPQ_TILE_VECTORS; vectors++) {
                for (size_t j = 0; j < sizeof c / sizeof *c; j++)
                    c[j] = 1;
                mpq_tile_at(i)->gradient(rows, vectors, offset, s, start, 3, 7, t, ROW + 1, c, ROW);
                for (int r = 0; r < rows; r++)
                    for (int j = 0; j < vectors * mpq_tile_at(i)->lanes; j++) {
                        double sum = 1;
                        for (int p = 0; p < 21; p++)
                            sum += (double)s[offset[r] + start[p / 7] + p % 7] *
                                   (double)t[p * (ROW + 1) + j];
                        CHECK_NEAR(c[r * ROW + j], sum, 1e-5, 1e-5);
                    }
            }
}

static void test_filter_and_correlate(void **state)
{
    (void)state;
    for (int i = 0; mpq_tile_at(i); i++)
        for (int n_k = 1; n_k <= N_K; n_k++) {
            const struct mpq_tile_set *set = mpq_tile_at(i);
            static mpq_real y[512], g[512];
            mpq_real sums[N_K];
            int n = 100, padded = (n + set->lanes - 1) / set->lanes * set->lanes;
            set->filter(n, n_k, a, offset, s, 0.5f, y);
            for (int j = 0; j < padded; j++) {
                double sum = 0.5;
                for (int k = 0; k < n_k; k++)
                    sum += (double)a[k] * (double)s[offset[k] + j];
                CHECK_NEAR(y[j], sum, 1e-5, 1e-5);
                g[j] = j < n ? t[j] : 0;
            }
            for (int k = 0; k < n_k; k++)
                sums[k] = 2;
            set->correlate(n, n_k, g, offset, s, sums);
            for (int k = 0; k < n_k; k++) {
                double sum = 2;
                for (int j = 0; j < n; j++)
                    sum += (double)g[j] * (double)s[offset[k] + j];
                CHECK_NEAR(sums[k], sum, 1e-5, 1e-4);
            }
        }
}

/* Filters of 3 x 3 neighbours and others, at every number of rows and length of a row; nothing
 * before, nor behind the last row, is touched. */
static void test_filter_rows(void **state)
{
    (void)state;
    const struct mpq_clamp clamp = {MPQ_REAL(-0.7), MPQ_REAL(0.9)};
    for (int i = 0; mpq_tile_at(i); i++)
        for (int n = 1; n < 40; n++)
            for (int rows = 1; rows < 10; rows++) {
                static mpq_real y[1024];
                int lds = n + 2, ldy = n + rows % 2, n_k = rows % 3 ? 9 : 4;
                int64_t tap[9];
                bool is_clamped = n % 2;
                for (int k = 0; k < n_k; k++)
                    tap[k] = n % 4 ? k / 3 * lds + k % 3 + 5 : offset[k];
                memset(y, 0xff, sizeof y);
                mpq_tile_at(i)->filter_rows(rows, n, n_k, a, tap, s, lds, MPQ_REAL(0.5),
                                            is_clamped ? &clamp : NULL, y + 1, ldy);
                for (int r = 0; r < rows; r++)
                    for (int j = 0; j < n; j++) {
                        double sum = 0.5;
                        for (int k = 0; k < n_k; k++)
                            sum += (double)a[k] * (double)s[tap[k] + r * lds + j];
                        if (is_clamped)
                            sum = fmin(fmax(sum, (double)clamp.low), (double)clamp.high);
                        CHECK_NEAR(y[1 + r * ldy + j], sum, 1e-5, 1e-5);
                    }
                assert_true(isnan(y[0]));
                for (int j = 1 + (rows - 1) * ldy + n; j < 1024; j++)
                    assert_true(isnan(y[j]));
            }
}

/* Planes of every width; what lies beside them is not a number. */
static void test_filter_same(void **state)
{
    (void)state;
    for (int i = 0; mpq_tile_at(i); i++)
        for (int n = mpq_tile_at(i)->lanes; n < 40; n++)
            for (int height = 1; height < 12; height++)
                for (int apart = 1; apart < 4; apart++) {
                    static mpq_real x[1024], y[1024];
                    memset(x, 0xff, sizeof x);
                    memset(y, 0xff, sizeof y);
                    memcpy(x + 100, s, (size_t)(n * height) * sizeof *x);
                    mpq_tile_at(i)->filter_same(height, n, apart, a, x + 100, MPQ_REAL(0.5), NULL,
                                                y);
                    for (int at = 0; at < height * n; at++) {
                        double sum = 0.5;
                        for (int k = 0; k < 9; k++) {
                            int row = at / n + (k / 3 - 1) * apart;
                            int column = at % n + (k % 3 - 1) * apart;
                            if (row >= 0 && row < height && column >= 0 && column < n)
                                sum += (double)a[k] * (double)s[row * n + column];
                        }
                        CHECK_NEAR(y[at], sum, 1e-5, 1e-5);
                    }
                    for (int at = height * n; at < 1024; at++)
                        assert_true(isnan(y[at]));
                }
}

static void test_filter_halved(void **state)
{
    (void)state;
    const struct mpq_clamp clamp = {-1, 2};
    for (int i = 0; mpq_tile_at(i); i++)
        for (int n = mpq_tile_at(i)->lanes; n < 36; n++)
            for (int kind = 0; kind < 4 * 11; kind++) {
                static mpq_real x[1024], y[1024];
                int before = kind % 2, width = 2 * n - before + kind / 2 % 2;
                int height = kind / 4 + 3, rows = (height + 2 * before - 3) / 2 + 1;
                memset(x, 0xff, sizeof x);
                memset(y, 0xff, sizeof y);
                memcpy(x + 100, s, (size_t)(width * height) * sizeof *x);
                mpq_tile_at(i)->filter_halved(rows, n, height, width, before, a, x + 100,
                                              MPQ_REAL(0.5), n % 2 ? &clamp : NULL, y);
                for (int at = 0; at < rows * n; at++) {
                    double sum = 0.5;
                    for (int k = 0; k < 9; k++) {
                        int row = 2 * (at / n) - before + k / 3, column = 2 * (at % n) - before;
                        column += k % 3;
                        if (row >= 0 && row < height && column >= 0 && column < width)
                            sum += (double)a[k] * (double)s[row * width + column];
                    }
                    CHECK_NEAR(y[at], n % 2 ? fmin(fmax(sum, -1), 2) : sum, 1e-5, 1e-5);
                }
                for (int at = rows * n; at < 1024; at++)
                    assert_true(isnan(y[at]));
            }
}

static void test_filter_lanes(void **state)
{
    (void)state;
    enum { S_ROW = 300, S_COLUMN = 20, Y_ROW = 128 };
    static const int tap[] = {2, 0, 5, 4};
    static const int64_t shift[] = {7, 0, 110, 33};
    const struct mpq_clamp clamp = {-1, 2};
    for (int i = 0; mpq_tile_at(i); i++)
        for (int rows = 1; rows < 8; rows++)
            for (int n_tap = 1; n_tap <= 4; n_tap++) {
                static mpq_real y[1024];
                int lanes = mpq_tile_at(i)->lanes;
                struct mpq_tile_taps part = {1, 3, n_tap, tap, shift};
                memset(y, 0xff, sizeof y);
                mpq_tile_at(i)->filter_lanes(rows, &part, a, s, S_ROW, S_COLUMN, t,
                                             n_tap == 2 ? &clamp : NULL, y, Y_ROW);
                for (int at = 0; at < 1024; at++) {
                    int row = at / Y_ROW, column = at % Y_ROW / lanes - 1, lane = at % lanes;
                    double sum = (double)t[lane];
                    if (row >= rows || column < 0 || column >= 3) {
                        assert_true(isnan(y[at]));
                        continue;
                    }
                    for (int k = 0; k < n_tap; k++)
                        sum += (double)a[tap[k] * lanes + lane] *
                               (double)s[shift[k] + row * S_ROW + column * S_COLUMN + lane];
                    CHECK_NEAR(y[at], n_tap == 2 ? fmin(fmax(sum, -1), 2) : sum, 1e-5, 1e-5);
                }
            }
}

/* Up to the last element of the source; behind a row zeros, at most to a full vector. */
static void test_copy_rows(void **state)
{
    (void)state;
    for (int i = 0; mpq_tile_at(i); i++)
        for (int n = 1; n < 40; n++)
            for (int step = 1; step <= 3; step++)
                for (int extra = 0; extra < 2; extra++) {
                    static mpq_real to[1024];
                    const int rows = 5, from = n * step + extra, lanes = mpq_tile_at(i)->lanes;
                    const mpq_real *end = s + N_S - 128 * extra;
                    const mpq_real *x = end - 4 * from - (n - 1) * step - 1;
                    memset(to, 0xff, sizeof to);
                    mpq_tile_at(i)->copy_rows(to, n + extra, x, from, rows, n, step, s + N_S);
                    for (int r = 0; r < rows; r++)
                        for (int j = 0; j < n; j++)
                            assert_true(to[r * (n + extra) + j] == x[r * from + j * step]);
                    int last = (rows - 1) * (n + extra), full = (n + lanes - 1) / lanes * lanes;
                    for (int j = last + n; j < 1024; j++)
                        assert_true(isnan(to[j]) || (to[j] == 0 && j < last + full));
                }
}

/* One channel, one row of tiles: dealt out, transformed, multiplied and back. */
static void test_winograd(void **state)
{
    enum { TILES = 5, WIDTH = 4 * TILES + 2, LDT = 96 };
    (void)state;
    for (int i = 0; mpq_tile_at(i); i++)
        for (int pad = 0; pad < 3; pad++) {
            const struct mpq_tile_set *set = mpq_tile_at(i);
            static mpq_real plane[37 * LDT], u[36 * 16], v[36 * LDT], y[4 * 64];
            static mpq_real sum[36 * LDT];
            int64_t place[36];
            struct mpq_tile_copy copy[4];
            int vectors = (TILES + set->lanes - 1) / set->lanes, width = WIDTH - pad;
            for (int k = 0; k < 36; k++)
                place[k] = k * LDT + LDT / 2;
            for (int row = 0; row < 6; row++)
                set->winograd_deal(pad, 6, width, s + row * 31, s + N_S,
                                   (mpq_real *[2]){plane + place[6 * row], NULL}, TILES, LDT);
            set->winograd_weights(1, a, a + N_S, u, 16);
            set->winograd_input(vectors, plane, place, v, LDT);
            for (int f = 0; f < 36; f++)
                for (int k = 0; k < TILES; k++)
                    sum[f * LDT + k] = u[f * 16] * v[f * LDT + k];
            for (int line = 0; line < 4; line++)
                copy[line] = (struct mpq_tile_copy){line * 64, line, 0, 4 * TILES};
            set->winograd_output(1, vectors, sum, LDT, t, NULL, false, copy, 4, y, 0);
            for (int row = 0; row < 4; row++)
                for (int x = 0; x < 4 * TILES; x++) {
                    double want = (double)t[0];
                    for (int k = 0; k < 9; k++) {
                        int at = x + k % 3 - pad;
                        if (at >= 0)
                            want += (double)a[k] * (double)s[(row + k / 3) * 31 + at];
                    }
                    CHECK_NEAR(y[row * 64 + x], want, 1e-5, 1e-5);
                }
        }
}

/* Where maxima are, several equal, and what they hand out. */
static void test_match_and_hand_out(void **state)
{
    enum { N = 40, REACH = 3 };
    (void)state;
    for (int i = 0; mpq_tile_at(i); i++)
        for (int n = 1; n <= N; n += 3) {
            const struct mpq_tile_set *set = mpq_tile_at(i);
            static mpq_real from[N_S], y[64], at[REACH + 64], dx[64];
            const mpq_real tap[] = {5, 0, 3};
            const int64_t shift[] = {0, 1, REACH};
            for (int j = 0; j < N_S; j++)
                from[j] = MPQ_REAL(1.0) * (s[j] > 0) + (s[j] > 1);
            for (int j = 0; j < REACH + 64; j++)
                at[j] = -1;
            for (int j = 0; j < 64; j++)
                y[j] = (mpq_real)(j % 4);
            set->match(n, 6, from, offset, y, at + REACH);
            for (int j = 0; j < n; j++) {
                int first = 0;
                while (first < 6 && from[offset[first] + j] != y[j])
                    first++;
                assert_true(at[REACH + j] == (mpq_real)(first < 6 ? first : -1));
            }
            for (int j = 0; j < 64; j++)
                dx[j] = 1;
            set->hand_out(n, 3, shift, tap, at + REACH, t + REACH, dx);
            for (int j = 0; j < n; j++) {
                double want = 1;
                for (int k = 0; k < 3; k++)
                    want +=
                        at[REACH + j - shift[k]] == tap[k] ? (double)t[REACH + j - shift[k]] : 0;
                CHECK_NEAR(dx[j], want, 1e-6, 1e-6);
            }
        }
}

static void test_transpose(void **state)
{
    (void)state;
    for (int i = 0; mpq_tile_at(i); i++)
        for (int rows = 1; rows < 36; rows += 3)
            for (int columns = 1; columns < 40; columns++) {
                static mpq_real to[64 * 64];
                memset(to, 0, sizeof to);
                mpq_tile_at(i)->transpose(rows, columns, a, 41, to, 64);
                for (int r = 0; r < rows; r++)
                    for (int j = 0; j < columns; j++)
                        assert_true(to[j * 64 + r] == a[r * 41 + j]);
                for (int j = columns; j < 64; j++)
                    assert_true(to[j * 64] == 0);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_product),       cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_gradient),      cmocka_unit_test(test_filter_and_correlate),
        cmocka_unit_test(test_filter_rows),   cmocka_unit_test(test_filter_same),
        cmocka_unit_test(test_filter_halved), cmocka_unit_test(test_filter_lanes),
        cmocka_unit_test(test_copy_rows),     cmocka_unit_test(test_winograd),
        cmocka_unit_test(test_transpose),     cmocka_unit_test(test_match_and_hand_out),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
