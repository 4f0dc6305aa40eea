/* Codebooks and their gradients. */
#include <string.h>

#include "quantcore/base/rng.h"
#include "quantcore/quant/levels.h"
#include "quantcore/quant/saturation.h"
#include "quantcore/quant/weight_fit.h"
#include "tests/check.h"

enum { N = 20000 };

static void fill_normal(mpq_real *x, int n, uint64_t seed)
{
    for (int i = 0; i < n; i++)
        x[i] = (mpq_real)mpq_rng_normal(seed, MPQ_STREAM_TEST, 0, (uint32_t)i);
}

static struct mpq_layer one_channel(int64_t n)
{
    return (struct mpq_layer){
        .n_group = 1, .n_outer = 1, .n_channel = 1, .n_inner = n, .n_param = n};
}

/* Mean squared error of fake quantization. */
static double mse(const struct mpq_levels *levels, const struct mpq_layer *layer, const mpq_real *w,
                  const mpq_real *scale)
{
    static mpq_real wq[N];
    double sum = 0;
    mpq_levels_fake_quant(levels, layer, w, scale, wq);
    for (int64_t i = 0; i < layer->n_param; i++)
        sum += ((double)w[i] - (double)wq[i]) * ((double)w[i] - (double)wq[i]);
    return sum / (double)layer->n_param;
}

static void nearest_is_nearest(void **state)
{
    (void)state;
    struct mpq_layer layer = one_channel(1);
    for (int bits = 2; bits <= 8; bits++) {
        struct mpq_levels levels;
        mpq_levels_uniform(bits, &levels);
        assert_int_equal(levels.n, bits == 8 ? 255 : 1 << bits);
        for (uint32_t i = 0; i < 4000; i++) {
            mpq_real z = (mpq_real)(300 * mpq_rng_uniform(1, MPQ_STREAM_TEST, 0, i) - 150), one = 1;
            double best = 1e9;
            int8_t q;
            for (uint32_t k = 0; k < levels.n; k++)
                best = fmin(best, fabs((double)z - levels.level[k]));
            mpq_levels_encode(&levels, &layer, &z, &one, &q);
            CHECK_NEAR(fabs((double)z - q), best, 0, 1e-6);
        }
    }
}

/* Of the best of a fine ladder of steps between the integers of that many bits. */
static double best_integer_mse(const mpq_real *w, int bits)
{
    double best = 1, low = -(1 << (bits - 1)), high = -low - 1;
    for (double step = 0.1; step < 1.5; step *= 1.01) {
        double sum = 0;
        for (int i = 0; i < N; i++) {
            double q = fmin(fmax(rint((double)w[i] / step), low), high);
            sum += ((double)w[i] - q * step) * ((double)w[i] - q * step);
        }
        best = fmin(best, sum / N);
    }
    return best;
}

/* Lloyd-Max quantizers of a Gaussian: Max, "Quantizing for minimum distortion", 1960, table I, and
 * the best uniform ones. Levels on the int8 grid and a finite sample cost a few percent. */
static void gaussian_errors_are_those_of_the_literature(void **state)
{
    (void)state;
    static mpq_real w[N];
    static const double lloyd[] = {[2] = 0.1175, [3] = 0.03454, [4] = 0.009497, [5] = 0.002499};
    struct mpq_layer layer = one_channel(N);
    struct mpq_ctx ctx;
    mpq_ctx_init(&ctx);
    fill_normal(w, N, 7);
    for (int bits = 2; bits <= 5; bits++) {
        struct mpq_levels levels;
        mpq_real scale;
        CHECK_OK(&ctx, mpq_levels_fit(&ctx, &layer, w, NULL, bits, false, &levels, &scale));
        CHECK_NEAR(mse(&levels, &layer, w, &scale), lloyd[bits], 0.07, 0);
        double codebook = mse(&levels, &layer, w, &scale);
        CHECK_OK(&ctx, mpq_levels_fit(&ctx, &layer, w, NULL, bits, true, &levels, &scale));
        assert_true(codebook <= mse(&levels, &layer, w, &scale));
        CHECK_NEAR(mse(&levels, &layer, w, &scale), best_integer_mse(w, bits), 0.02, 0);
    }
}

static void fit_survives_degenerate_weights(void **state)
{
    (void)state;
    struct mpq_ctx ctx;
    mpq_ctx_init(&ctx);
    static const mpq_real cases[][8] = {{0},
                                        {1, 1, 1, 1, 1, 1, 1, 1},
                                        {MPQ_REAL(1e-30), 0, 0, 0, 0, 0, 0, MPQ_REAL(-1e-30)},
                                        {MPQ_REAL(1e30), 0, 0, 0, -1, 0, 0, 0},
                                        {0, 0, 0, 0, 5, -3, 2, 1}};
    for (size_t i = 0; i < MPQ_COUNT(cases); i++)
        for (int bits = 2; bits <= 8; bits++) {
            struct mpq_layer layer = {
                .n_group = 1, .n_outer = 1, .n_channel = 2, .n_inner = 4, .n_param = 8};
            struct mpq_levels levels;
            mpq_real scale[2], wq[8];
            CHECK_OK(&ctx,
                     mpq_levels_fit(&ctx, &layer, cases[i], NULL, bits, false, &levels, scale));
            mpq_levels_fake_quant(&levels, &layer, cases[i], scale, wq);
            for (int k = 0; k < 8; k++) {
                assert_true(scale[k / 4] > 0);
                /* No worse than a quarter of the channel's largest weight, or a hair of the
                 * other's. */
                double most = 0;
                for (int j = 0; j < 8; j++)
                    most = fmax(most, fabs((double)cases[i][j]) * (j / 4 == k / 4 ? 0.5 : 0.02));
                CHECK_NEAR(wq[k], cases[i][k], 0, most + 1e-4);
            }
            for (uint32_t k = 1; k < levels.n; k++)
                assert_true(levels.level[k - 1] < levels.level[k]);
        }
}

/* Weights of many sizes, the large ones of inputs that hardly speak: most levels have nothing near.
 */
static void levels_ascend_whatever_the_weights(void **state)
{
    (void)state;
    enum { CHANNELS = 8, INPUTS = 96 };
    static mpq_real w[CHANNELS * INPUTS], importance[INPUTS];
    struct mpq_ctx ctx;
    mpq_ctx_init(&ctx);
    for (int64_t i = 0; i < INPUTS; i++)
        importance[i] = (mpq_real)1 / (mpq_real)(1 << i % 12 * 2);
    for (uint64_t seed = 1; seed <= 20; seed++) {
        fill_normal(w, CHANNELS * INPUTS, seed);
        for (int64_t i = 0; i < CHANNELS * INPUTS; i++)
            w[i] *= (mpq_real)(1 << i % 12);
        for (int bits = 2; bits <= 6; bits++) {
            struct mpq_layer layer = {.n_group = 1,
                                      .n_outer = 1,
                                      .n_channel = CHANNELS,
                                      .n_inner = INPUTS,
                                      .n_param = CHANNELS * INPUTS};
            struct mpq_levels levels;
            mpq_real scale[CHANNELS];
            CHECK_OK(&ctx,
                     mpq_levels_fit(&ctx, &layer, w, importance, bits, false, &levels, scale));
            for (uint32_t k = 0; k < levels.n; k++) {
                assert_true(levels.level[k] >= -127);
                assert_true(k == 0 || levels.level[k - 1] < levels.level[k]);
            }
        }
    }
}

static void channels_of_a_matmul_weight_are_columns(void **state)
{
    (void)state;
    /* w [K=2, N=3]: column n has scale n+1, so 8 bits keep it nearly exact. */
    struct mpq_layer layer = {
        .n_group = 1, .n_outer = 2, .n_channel = 3, .n_inner = 1, .n_param = 6};
    const mpq_real w[] = {127, 254, 381, 1, 2, 3}, scale[] = {1, 2, 3};
    struct mpq_levels levels;
    int8_t q[6];
    mpq_levels_uniform(8, &levels);
    mpq_levels_encode(&levels, &layer, w, scale, q);
    for (int i = 0; i < 6; i++)
        assert_int_equal(q[i], i < 3 ? 127 : 1);
}

static void gradients_follow_lsq(void **state)
{
    (void)state;
    struct mpq_layer layer = one_channel(4);
    const int8_t level[] = {-3, -1, 1, 3};
    const mpq_real w[] = {MPQ_REAL(0.2), MPQ_REAL(0.9), -5, 4}, dwq[] = {1, 2, 3, 5},
                   scale = MPQ_REAL(0.5);
    struct mpq_levels levels;
    mpq_real dw[4] = {0}, dscale = 0;
    mpq_levels_set(2, level, 4, &levels);
    mpq_levels_backward(&levels, &layer, w, &scale, dwq, dw, &dscale);
    /* z = 0.4, 1.8, -10, 8: the last two are clipped. */
    const mpq_real want[] = {1, 2, 0, 0};
    for (int i = 0; i < 4; i++)
        CHECK_NEAR(dw[i], want[i], 0, 0);
    CHECK_NEAR(dscale, 1 * (1 - 0.4) + 2 * (1 - 1.8) + 3 * -3 + 5 * 3, 1e-6, 0);
}

/* The largest magnitude of a channel is the outermost positive level; a channel of zeros has a
 * scale all the same. */
static void min_max_levels_hold_the_largest(void **state)
{
    (void)state;
    const struct mpq_layer layer = {
        .n_outer = 1, .n_channel = 3, .n_inner = 2, .n_group = 1, .n_param = 6};
    const mpq_real w[] = {MPQ_REAL(-1.4), MPQ_REAL(0.6), 0, 0, MPQ_REAL(0.07), MPQ_REAL(-0.01)};
    struct mpq_levels levels;
    mpq_real scale[3];
    int8_t q[6];
    mpq_levels_min_max(&layer, w, 4, &levels, scale);
    mpq_levels_encode(&levels, &layer, w, scale, q);
    const int8_t wanted[] = {-7, 3, 0, 0, 7, -1};
    CHECK_NEAR(scale[0], 0.2, 1e-6, 0);
    assert_true(scale[1] > 0);
    assert_memory_equal(q, wanted, sizeof wanted);
}

/* A 2x2 convolution of 3 channels: products in the order position, channel, so weight 0 (channel 0,
 * position 0) meets weight 4 (channel 1), 8 (channel 2) meets 1 (channel 0, position 1). */
static void saturating_pairs_are_found_and_repaired(void **state)
{
    (void)state;
    struct mpq_ctx ctx;
    mpq_ctx_init(&ctx);
    struct mpq_arena *arena = mpq_arena_create(&ctx);
    struct mpq_layer layer = {
        .n_group = 1, .n_outer = 1, .n_channel = 2, .n_inner = 12, .n_param = 24};
    struct mpq_saturation s = {&layer, 4, 255};
    int8_t q[24] = {0};
    q[0] = 65, q[4] = 63;
    assert_int_equal(mpq_saturation_count(&s, q), 0); /* 255 * 128 fits */
    q[4] = 64;
    assert_int_equal(mpq_saturation_count(&s, q), 1);
    q[4] = -127;
    assert_int_equal(mpq_saturation_count(&s, q), 0);
    q[4] = 0, q[1] = 127; /* neighbours in memory are no pair */
    assert_int_equal(mpq_saturation_count(&s, q), 0);
    q[12 + 1] = q[12 + 8] = -127;
    assert_int_equal(mpq_saturation_count(&s, q), 1);
    s.act_max = 127;
    assert_int_equal(mpq_saturation_count(&s, q), 0);
    s.act_max = 255;
    for (int bits = 5; bits <= 8; bits++) {
        struct mpq_levels levels;
        float scale[2] = {0.5f, 0.5f};
        int64_t n;
        mpq_levels_uniform(bits, &levels);
        for (int i = 0; i < 24; i++)
            q[i] = mpq_levels_nearest(
                &levels, (mpq_real)(50 * mpq_rng_normal(5, MPQ_STREAM_TEST, 0, (uint32_t)i)));
        q[0] = q[4] = 127;
        for (int i = 12; i < 24; i++)
            q[i] = mpq_levels_nearest(&levels, q[i] / 2);
        struct mpq_layer_code code = {bits, levels.n, levels.level, q, scale, NULL};
        CHECK_OK(&ctx, mpq_saturation_repair(&ctx, arena, &s, &code, &n));
        assert_int_equal(n, 1);
        assert_int_equal(mpq_saturation_count(&s, code.q), 0);
        assert_memory_equal(code.q + 12, q + 12, 12);
        assert_true(code.scale[1] == scale[1] && code.scale[0] >= scale[0]);
        /* No worse than the channel with all weights halved. */
        double error = 0, halved = 0;
        for (int i = 0; i < 12; i++) {
            double w = (double)q[i] * (double)scale[0];
            double h = mpq_levels_nearest(&levels, q[i] / MPQ_REAL(2.0)) * 2 * (double)scale[0];
            error +=
                (w - code.q[i] * (double)code.scale[0]) * (w - code.q[i] * (double)code.scale[0]);
            halved += (w - h) * (w - h);
        }
        assert_true(error <= halved * 1.02 + 1);
        CHECK_OK(&ctx, mpq_saturation_repair(&ctx, arena, &s, &code, &n));
        assert_int_equal(n, 0);
    }
    mpq_arena_free(arena);
}

/* The fit by the weights alone: with channels last or first, the same scales and codes; the error
 * is what the codes say and falls by about 6 dB a bit. */
static void weights_alone_are_fitted(void **state)
{
    enum { ROW = 200, CHANNEL = 6, COUNT = ROW * CHANNEL };
    (void)state;
    struct mpq_ctx ctx;
    mpq_ctx_init(&ctx);
    struct mpq_arena *arena = mpq_arena_create(&ctx);
    static mpq_real first[COUNT], last[COUNT];
    struct mpq_layer by_row = {.n_outer = 1, .n_channel = CHANNEL, .n_inner = ROW, .n_group = 1};
    struct mpq_layer by_column = {.n_outer = ROW, .n_channel = CHANNEL, .n_inner = 1, .n_group = 1};
    by_row.n_param = by_column.n_param = COUNT;
    double power = 0, before = 1;
    for (int c = 0; c < CHANNEL; c++)
        for (int i = 0; i < ROW; i++) {
            mpq_real w =
                (mpq_real)(mpq_rng_normal(5, MPQ_STREAM_TEST, (uint64_t)c, (uint32_t)i) * (c + 1));
            first[c * ROW + i] = last[i * CHANNEL + c] = w;
            power += (double)w * (double)w;
        }
    for (int bits = MPQ_MIN_BITS; bits <= MPQ_MAX_BITS; bits++) {
        mpq_real scale[2][CHANNEL];
        struct mpq_weight_fit fit[2] = {{.scale = scale[0]}, {.scale = scale[1]}};
        struct mpq_layer_code code[2];
        CHECK_OK(&ctx, mpq_weight_fit(&ctx, arena, &by_row, first, bits, false, &fit[0]));
        CHECK_OK(&ctx, mpq_weight_fit(&ctx, arena, &by_column, last, bits, false, &fit[1]));
        CHECK_OK(&ctx, mpq_weight_fit_code(&ctx, arena, &by_row, first, &fit[0], &code[0]));
        CHECK_OK(&ctx, mpq_weight_fit_code(&ctx, arena, &by_column, last, &fit[1], &code[1]));
        assert_memory_equal(scale[0], scale[1], sizeof scale[0]);
        double error = 0;
        for (int c = 0; c < CHANNEL; c++)
            for (int i = 0; i < ROW; i++) {
                assert_int_equal(code[0].q[c * ROW + i], code[1].q[i * CHANNEL + c]);
                double d =
                    (double)first[c * ROW + i] - code[0].q[c * ROW + i] * (double)code[0].scale[c];
                error += d * d;
            }
        CHECK_NEAR(fit[0].error, error / power, 1e-5, 0);
        assert_true(fit[0].error < before / 3);
        before = fit[0].error;
    }
    mpq_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nearest_is_nearest),
        cmocka_unit_test(gaussian_errors_are_those_of_the_literature),
        cmocka_unit_test(fit_survives_degenerate_weights),
        cmocka_unit_test(levels_ascend_whatever_the_weights),
        cmocka_unit_test(channels_of_a_matmul_weight_are_columns),
        cmocka_unit_test(weights_alone_are_fitted),
        cmocka_unit_test(gradients_follow_lsq),
        cmocka_unit_test(min_max_levels_hold_the_largest),
        cmocka_unit_test(saturating_pairs_are_found_and_repaired),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
