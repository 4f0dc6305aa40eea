/* The width scheduler's figures, the drawing of paths, and the coupling of widths. */
#include <string.h>

#include "quantcore/base/rng.h"
#include "quantcore/supernet/freeze.h"
#include "quantcore/supernet/tune.h"
#include "tests/check.h"

enum { N_LAYER = 20, N_PARAM = 20000 };

struct fixture {
    struct mpq_ctx ctx;
    struct mpq_arena *arena;
    struct mpq_layer layer[N_LAYER];
    struct mpq_layer_table table;
    struct mpq_supernet net;
};

static int setup(void **state)
{
    static struct fixture f;
    memset(&f, 0, sizeof f);
    mpq_ctx_init(&f.ctx);
    f.arena = mpq_arena_create(&f.ctx);
    f.table = (struct mpq_layer_table){.n_layer = N_LAYER, .layer = f.layer};
    f.net.layers = &f.table;
    f.net.layer = mpq_arena_alloc(&f.ctx, f.arena, N_LAYER, sizeof *f.net.layer);
    /* The best steps between equally spaced levels for a Gaussian: J. Max, "Quantizing for minimum
     * distortion", IRE Transactions on Information Theory, 1960, table II. */
    static const double step[] = {
        [2] = 0.9957, [3] = 0.5860, [4] = 0.3352, [5] = 0.1881, [6] = 0.1041};
    for (uint32_t l = 0; l < N_LAYER; l++) {
        struct mpq_supernet_layer *layer = &f.net.layer[l];
        f.layer[l] = (struct mpq_layer){
            .n_group = 1, .n_outer = 1, .n_channel = 1, .n_inner = N_PARAM, .n_param = N_PARAM};
        layer->candidates = layer->active = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6;
        layer->w = mpq_arena_alloc(&f.ctx, f.arena, N_PARAM, sizeof *layer->w);
        for (uint32_t i = 0; i < N_PARAM; i++)
            layer->w[i] = (mpq_real)mpq_rng_normal(l, MPQ_STREAM_TEST, 0, i);
        for (int b = 2; b <= 6; b++) {
            layer->width[b].scale = mpq_arena_alloc(&f.ctx, f.arena, 1, sizeof(mpq_real));
            mpq_levels_uniform(b, &layer->width[b].levels);
            *layer->width[b].scale = (mpq_real)(step[b] * ((1 << b) - 1) / (b <= 4 ? 126 : 254));
        }
    }
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    mpq_arena_free(f->arena);
    return 0;
}

static void gaussian_weights_have_the_published_turbulence(void **state)
{
    struct fixture *f = *state;
    for (int b = 2; b <= 6; b++) {
        const struct mpq_supernet_width *width = &f->net.layer[0].width[b];
        double share = mpq_freeze_unstable_share(&width->levels, &f->layer[0], f->net.layer[0].w,
                                                 width->scale);
        /* At 2 bits there are boundaries at 0 and +-1 standard deviations: 0.25 phi(0) + 0.5
         * phi(1). */
        CHECK_NEAR(share, b == 2 ? 0.2207 : 0.25, 0, 0.015);
    }
    CHECK_NEAR(mpq_freeze_turbulence(&f->net, 0), 0.0694, 0, 0.002);
    f->net.layer[0].active = 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6;
    CHECK_NEAR(mpq_freeze_turbulence(&f->net, 0), 0.0594, 0, 0.002);
}

static void weights_on_levels_are_calm_and_on_boundaries_turbulent(void **state)
{
    struct fixture *f = *state;
    struct mpq_levels levels;
    const int8_t level[] = {-3, -1, 1, 3};
    const mpq_real calm[] = {-3, -1, 1, 3, -9, 9}, stormy[] = {-2, 0, 2, MPQ_REAL(0.2), -2, 0};
    const mpq_real one = 1;
    struct mpq_layer layer = {
        .n_group = 1, .n_outer = 1, .n_channel = 1, .n_inner = 6, .n_param = 6};
    (void)f;
    mpq_levels_set(2, level, 4, &levels);
    CHECK_NEAR(mpq_freeze_unstable_share(&levels, &layer, calm, &one), 0, 0, 0);
    CHECK_NEAR(mpq_freeze_unstable_share(&levels, &layer, stormy, &one), 1, 0, 0);
}

static void the_schedule_is_the_published_one(void **state)
{
    (void)state;
    static const struct {
        uint32_t epoch;
        double ratio;
        uint32_t of_19, of_51;
    } row[] = {{7, 0.4999, 9, 25},  {55, 0.425, 8, 21},  {107, 0.270, 5, 13},
               {119, 0.241, 4, 12}, {134, 0.216, 4, 10}, {149, 0.201, 3, 10}};
    for (size_t i = 0; i < MPQ_COUNT(row); i++) {
        double ratio = mpq_freeze_ratio(row[i].epoch);
        CHECK_NEAR(ratio, row[i].ratio, 0, 6e-4);
        assert_int_equal((uint32_t)(ratio * 19), row[i].of_19);
        assert_int_equal((uint32_t)(ratio * 51), row[i].of_51);
        assert_true(mpq_freeze_is_due(row[i].epoch));
    }
    uint32_t n_due = 0;
    for (uint32_t e = 0; e < 150; e++)
        n_due += mpq_freeze_is_due(e);
    assert_int_equal(n_due, 51 + 3);
    assert_false(mpq_freeze_is_due(5));
}

static void freezing_takes_one_width_of_the_most_turbulent(void **state)
{
    struct fixture *f = *state;
    /* Layer 3's weights sit on boundaries: it must be among those frozen, and nobody loses two. */
    for (uint32_t i = 0; i < N_PARAM; i++)
        f->net.layer[3].w[i] = 0;
    f->net.layer[4].candidates = f->net.layer[4].active = 1 << 5; /* nothing to take away */
    for (int round = 0; round < 3; round++) {
        CHECK_OK(&f->ctx, mpq_freeze_update(&f->ctx, &f->net, 0.25));
        uint32_t n_frozen = 0;
        for (uint32_t l = 0; l < N_LAYER; l++) {
            mpq_bits_mask gone = f->net.layer[l].candidates & ~f->net.layer[l].active;
            assert_true(gone == 0 || gone == 1 << 2);
            assert_true(f->net.layer[l].active != 0);
            n_frozen += gone != 0;
        }
        assert_true(n_frozen <= N_LAYER / 4 && n_frozen >= N_LAYER / 4 - 1);
        assert_int_equal(f->net.layer[3].active, 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6);
    }
    CHECK_OK(&f->ctx, mpq_freeze_update(&f->ctx, &f->net, 0));
    assert_int_equal(f->net.layer[3].active, f->net.layer[3].candidates);
}

/* A layer that took a code has its weights, levels and scales at the code's width. */
static void a_layer_is_the_code_it_took(void **state)
{
    enum { N = 6 };
    struct fixture *f = *state;
    const int8_t level[] = {-2, -1, 0, 1}, q[N] = {-2, 1, 0, 0, -1, 1};
    const float scale[] = {0.5F, 0.25F}, bias[] = {1.5F, -2};
    const mpq_real w[N] = {-1, 0.5F, 0, 0, -0.25F, 0.25F};
    const struct mpq_layer_code code = {2, MPQ_COUNT(level), level, q, scale, bias};
    mpq_real width_scale[2], width_bias[2], work[4][N] = {{0}};
    struct mpq_supernet_layer layer = {.candidates = 1 << 2,
                                       .w = work[0],
                                       .wq = work[1],
                                       .scale_used = work[2],
                                       .bias_used = work[3],
                                       .width[2] = {.scale = width_scale, .bias = width_bias}};
    struct mpq_layer shape = {
        .n_group = 1, .n_outer = 1, .n_channel = 2, .n_inner = 3, .n_param = N};
    const struct mpq_layer_table table = {.n_layer = 1, .layer = &shape};
    struct mpq_supernet net = {&table, &layer};
    struct mpq_layer_code back;
    const uint8_t bits = 2;
    layer.width[2].offset = w; /* which the code's weights do not have */
    mpq_supernet_take_code(&net, 0, &code);
    assert_memory_equal(layer.w, w, sizeof w);
    CHECK_OK(&f->ctx, mpq_supernet_codes(&f->ctx, f->arena, &net, &bits, &back));
    assert_int_equal(back.n_level, MPQ_COUNT(level));
    assert_memory_equal(back.level, level, sizeof level);
    assert_memory_equal(back.q, q, sizeof q);
    assert_memory_equal(back.scale, scale, sizeof scale);
    assert_memory_equal(back.bias, bias, sizeof bias);
}

static void paths_are_active_varied_and_repeatable(void **state)
{
    struct fixture *f = *state;
    uint8_t bits[N_LAYER], again[N_LAYER];
    unsigned seen[MPQ_N_BITS] = {0};
    double sensitivity[N_LAYER * MPQ_N_BITS];
    struct mpq_sampler sampler;
    for (int i = 0; i < N_LAYER * MPQ_N_BITS; i++)
        sensitivity[i] = (1 + i / MPQ_N_BITS) * pow(0.25, i % MPQ_N_BITS);
    CHECK_OK(&f->ctx, mpq_sampler_create(&f->ctx, f->arena, &f->net, sensitivity, &sampler));
    assert_int_equal(sampler.n_move, N_LAYER * 4);
    for (uint32_t i = 1; i < sampler.n_move; i++)
        assert_true(sampler.move[i - 1].price <= sampler.move[i].price);
    f->net.layer[2].active = 1 << 3 | 1 << 6;
    for (uint64_t step = 0; step < 300; step++) {
        mpq_sampler_draw(&sampler, 11, step, 1, bits);
        mpq_sampler_draw(&sampler, 11, step, 1, again);
        assert_memory_equal(bits, again, sizeof bits);
        for (uint32_t l = 0; l < N_LAYER; l++) {
            assert_true(f->net.layer[l].active >> bits[l] & 1);
            seen[bits[l]]++;
        }
    }
    for (int b = 2; b <= 6; b++)
        assert_true(seen[b] > 300 * N_LAYER / 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(gaussian_weights_have_the_published_turbulence, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(weights_on_levels_are_calm_and_on_boundaries_turbulent,
                                        setup, teardown),
        cmocka_unit_test(the_schedule_is_the_published_one),
        cmocka_unit_test_setup_teardown(freezing_takes_one_width_of_the_most_turbulent, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_layer_is_the_code_it_took, setup, teardown),
        cmocka_unit_test_setup_teardown(paths_are_active_varied_and_repeatable, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
