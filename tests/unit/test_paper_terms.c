/* What the published training adds to the distillation, and its schedules. */
#include <math.h>
#include <string.h>

#include "quantcore/base/rng.h"
#include "quantcore/supernet/freeze.h"
#include "quantcore/supernet/paper_train.h"
#include "tests/unit/net.h"

static void the_snap_weight_starts_late(void **state)
{
    (void)state;
    CHECK_NEAR(mpq_paper_snap_weight(0, 1500), 0, 0, 0);
    CHECK_NEAR(mpq_paper_snap_weight(400, 1500), 0, 0, 1e-12);
    CHECK_NEAR(mpq_paper_snap_weight(950, 1500), 0.05, 0, 1e-12);
    CHECK_NEAR(mpq_paper_snap_weight(1500, 1500), 0.1, 0, 1e-12);
}

static void weights_are_drawn_to_levels_all_widths_share(void **state)
{
    /* 3 bits with step 1: levels -4 .. 3; of 2 bits, -2 .. 1, at 3-bit steps of 2: -4, -2, 0, 2 */
    const mpq_real w[] = {MPQ_REAL(-4.5),  MPQ_REAL(-2.25), MPQ_REAL(0.125),
                          MPQ_REAL(1.125), MPQ_REAL(1.75),  MPQ_REAL(2.75)};
    const double pulls[] = {0, -0.25, 0.125, 0, -0.25, 0};
    struct mpq_layer layer = {.n_outer = 1, .n_channel = 2, .n_inner = 3, .n_param = 6};
    mpq_real dw[6] = {0};
    double sum = 0;
    (void)state;
    for (int i = 0; i < 6; i++)
        sum += pulls[i] * pulls[i];
    double loss = mpq_paper_snap(&layer, w, 1, 3, 2, 0.1, dw);
    CHECK_NEAR(loss, sum / 3, 1e-6, 0);
    for (int i = 0; i < 6; i++)
        CHECK_NEAR(dw[i], 0.1 * 2 / 3 * pulls[i], 1e-6, 1e-9);
    /* At the narrowest width itself every level counts. */
    memset(dw, 0, sizeof dw);
    mpq_paper_snap(&layer, w, 1, 3, 3, 0.1, dw);
    CHECK_NEAR(dw[3], 0.1 * 2 / 3 * 0.125, 1e-6, 0);

    memset(dw, 0, sizeof dw);
    loss = mpq_paper_region(&layer, w, 1, 2, -2.0, dw); /* -2 .. 1 */
    CHECK_NEAR(loss, 0.5 * (4 + 4 + 0.125 * 0.125 + 1 + 1 + 1), 1e-6, 0);
    CHECK_NEAR(dw[2], -2 * 0.125, 1e-6, 0);
    for (int i = 0; i < 6; i++)
        if (i != 2)
            CHECK_NEAR(dw[i], 0, 0, 0);
}

static void gaussian_weights_have_the_published_turbulence(void **state)
{
    enum { N = 40000 };
    struct net *net = *state;
    struct mpq_layer shape = {.n_outer = 1, .n_channel = 1, .n_inner = N, .n_param = N};
    struct mpq_layer_table layers = {.n_layer = 1, .layer = &shape};
    mpq_real step[MPQ_N_BITS];
    mpq_real *w = mpq_arena_alloc(&net->ctx, net->arena, N, sizeof *w);
    for (uint32_t i = 0; i < N; i++)
        w[i] = (mpq_real)mpq_rng_normal(4, MPQ_STREAM_TEST, 0, i);
    for (int b = 2; b <= 6; b++)
        step[b] = mpq_lsq_weight_step(w, N, b);
    struct mpq_paper_layer layer = {.w = w, .weight_step = step};
    const struct mpq_paper_net paper = {.layers = &layers, .layer = &layer};
    static const struct {
        mpq_bits_mask active;
        double turbulence;
    } row[] = {{1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6, 0.0725},
               {1 << 3 | 1 << 4 | 1 << 5 | 1 << 6, 0.0594},
               {1 << 4 | 1 << 5 | 1 << 6, 0.0514}};
    for (size_t i = 0; i < MPQ_COUNT(row); i++) {
        layer.active = row[i].active;
        CHECK_NEAR(mpq_paper_turbulence(&paper, 0), row[i].turbulence, 0, 0.0025);
    }
}

static void updates_come_with_every_length_of_a_run(void **state)
{
    (void)state;
    static const struct {
        uint32_t n_step, n_update;
    } row[] = {{150, 54}, {1500, 54}, {75, 54}, {30, 22}};
    for (size_t i = 0; i < MPQ_COUNT(row); i++) {
        uint32_t n = 0;
        double ratio = 1, before = 1;
        for (uint32_t step = 0; step < row[i].n_step; step++)
            if (mpq_freeze_at_step(step, row[i].n_step, &ratio)) {
                assert_true(ratio <= before && ratio > 0.19 && ratio <= 0.5);
                before = ratio;
                n++;
            }
        if (row[i].n_step >= 150)
            assert_int_equal(n, row[i].n_update);
        assert_true(n >= 15);
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, net_setup, net_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_snap_weight_starts_late),
        cmocka_unit_test(weights_are_drawn_to_levels_all_widths_share),
        TEST(gaussian_weights_have_the_published_turbulence),
        cmocka_unit_test(updates_come_with_every_length_of_a_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
