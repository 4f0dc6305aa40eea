/* Rows under a filter, times its weights, are the convolution. */
#include "quantcore/supernet/conv_rows.h"

#include <stdlib.h>

#include "quantcore/base/rng.h"
#include "tests/check.h"

enum { MOST = 1 << 15 };

static const struct mpq_conv geometry[] = {
    {.n = 2,
     .c = 3,
     .m = 2,
     .group = 1,
     .in = {1, 5, 7},
     .out = {1, 5, 7},
     .kernel = {1, 3, 3},
     .stride = {1, 1, 1},
     .dilation = {1, 1, 1},
     .pad = {0, 1, 1}},
    {.n = 3,
     .c = 4,
     .m = 4,
     .group = 4,
     .in = {1, 6, 5},
     .out = {1, 3, 3},
     .kernel = {1, 3, 3},
     .stride = {1, 2, 2},
     .dilation = {1, 1, 1},
     .pad = {0, 1, 1}},
    {.n = 2,
     .c = 6,
     .m = 4,
     .group = 2,
     .in = {1, 9, 8},
     .out = {1, 7, 6},
     .kernel = {1, 3, 2},
     .stride = {1, 1, 1},
     .dilation = {1, 2, 3},
     .pad = {0, 1, 0}},
    {.n = 2,
     .c = 2,
     .m = 3,
     .group = 1,
     .in = {4, 5, 6},
     .out = {3, 3, 7},
     .kernel = {2, 1, 4},
     .stride = {1, 2, 1},
     .dilation = {1, 1, 1},
     .pad = {0, 0, 3}},
    {.n = 1,
     .c = 2,
     .m = 2,
     .group = 1,
     .in = {1, 1, 9},
     .out = {1, 1, 4},
     .kernel = {1, 1, 3},
     .stride = {1, 1, 1},
     .dilation = {1, 1, 1},
     .pad = {0, 0, -3}},
    {.n = 1,
     .c = 5,
     .m = 2,
     .group = 1,
     .in = {1, 4, 4},
     .out = {1, 4, 4},
     .kernel = {1, 1, 1},
     .stride = {1, 1, 1},
     .dilation = {1, 1, 1},
     .pad = {0, 0, 0}},
};

static void fill(mpq_real *x, int64_t n, uint32_t index)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = (mpq_real)mpq_rng_normal(1, MPQ_STREAM_TEST, index, (uint32_t)i);
}

/* What the rows of all groups at positions first, first + apart, ... give. */
static void check_rows(const struct mpq_conv *conv, int64_t first, int64_t apart, const mpq_real *x,
                       const mpq_real *w, const mpq_real *y)
{
    static mpq_real row[MOST];
    static int64_t place[MOST], offset[MOST];
    int64_t places = mpq_volume(conv->out), k = conv->c / conv->group * mpq_volume(conv->kernel);
    int64_t n_row = (conv->n * places - first + apart - 1) / apart,
            per_group = conv->m / conv->group;
    assert_true(n_row * k <= MOST && n_row * mpq_volume(conv->kernel) <= MOST);
    mpq_conv_rows_offsets(conv, offset);
    const struct mpq_conv_rows rows = mpq_conv_rows_place(conv, offset, first, apart, n_row, place);
    for (int64_t m = 0; m < conv->m; m++) {
        mpq_conv_rows_fill(&rows, x, m / per_group, 0, n_row / 2, row);
        mpq_conv_rows_fill(&rows, x, m / per_group, n_row / 2, n_row, row);
        for (int64_t r = 0; r < n_row; r++) {
            int64_t at = first + r * apart;
            double sum = 0;
            for (int64_t i = 0; i < k; i++)
                sum += (double)w[m * k + i] * (double)row[r * k + i];
            CHECK_NEAR(y[(at / places * conv->m + m) * places + at % places], sum, 1e-4, 1e-5);
        }
    }
}

static void rows_times_weights_are_the_convolution(void **state)
{
    static mpq_real x[MOST], w[MOST], y[MOST];
    (void)state;
    for (uint32_t i = 0; i < sizeof geometry / sizeof *geometry; i++) {
        struct mpq_conv conv = geometry[i];
        int64_t k = conv.c / conv.group * mpq_volume(conv.kernel);
        fill(x, conv.n * conv.c * mpq_volume(conv.in), 2 * i);
        fill(w, conv.m * k, 2 * i + 1);
        void *workspace = malloc(mpq_conv_forward_bytes(&conv) + 1);
        mpq_conv_forward(&conv, x, w, NULL, false, NULL, y, workspace);
        free(workspace);
        check_rows(&conv, 0, 1, x, w, y);
        check_rows(&conv, 1, 3, x, w, y);
    }
}

static void positions_are_of_all_columns(void **state)
{
    (void)state;
    for (int64_t width = 1; width <= 64; width++)
        for (int64_t most = 1; most <= 4096; most = most * 3 + 1) {
            const struct mpq_conv conv = {.out = {40, 1, width}};
            int64_t apart = mpq_conv_rows_apart(&conv, most), n_seen = 0;
            int64_t n = (40 * width + apart - 1) / apart;
            bool is_seen[64] = {false};
            for (int64_t at = 0; at < 40 * width; at += apart) {
                n_seen += !is_seen[at % width];
                is_seen[at % width] = true;
            }
            assert_true(n <= most && n_seen == (n < width ? n : width));
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(positions_are_of_all_columns),
        cmocka_unit_test(rows_times_weights_are_the_convolution),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
