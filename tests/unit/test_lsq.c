/* Learned step size quantization: values, straight-through gradients, first steps, and the operator
 * that runs it on a graph. */
#include "tests/check.h"

#include <math.h>
#include <string.h>

#include "quantcore/base/rng.h"
#include "quantcore/base/thread.h"
#include "quantcore/ops/op.h"
#include "quantcore/quant/lsq.h"

enum { N = 50000 };

static const float *gaussian(void)
{
    static float x[N];
    for (uint32_t i = 0; i < N; i++)
        x[i] = (float)mpq_rng_normal(5, MPQ_STREAM_TEST, 0, i);
    return x;
}

static void ranges_are_those_of_two_complement(void **state)
{
    (void)state;
    for (int bits = 2; bits < 8; bits++) {
        struct mpq_lsq_range s = mpq_lsq_range(bits, true), u = mpq_lsq_range(bits, false);
        assert_int_equal(s.low, -(1 << (bits - 1)));
        assert_int_equal(s.high, (1 << (bits - 1)) - 1);
        assert_int_equal(u.low, 0);
        assert_int_equal(u.high, (1 << bits) - 1);
    }
    assert_int_equal(mpq_lsq_range(8, true).low, -128);
    assert_int_equal(mpq_lsq_weight_range(8).low, -127); /* the file has no -128 */
    assert_int_equal(mpq_lsq_weight_range(2).low, -2);
    assert_int_equal(mpq_lsq_range(8, false).high, 255);
}

static void values_are_the_published_ones(void **state)
{
    (void)state;
    const float x[] = {0.80f, -2, 0.25f, 0.75f, -0.75f, 0.26f, -5, 5, 0};
    const float want[] = {0.5f, -1, 0, 0.5f, -1, 0.5f, -1, 0.5f, 0};
    float y[MPQ_COUNT(x)];
    mpq_lsq_forward(mpq_lsq_range(2, true), 0.5f, x, MPQ_COUNT(x), y);
    for (size_t i = 0; i < MPQ_COUNT(x); i++)
        CHECK_NEAR(y[i], want[i], 0, 0);
    mpq_lsq_forward((struct mpq_lsq_range){0, 0}, 0.5f, x, MPQ_COUNT(x), y);
    for (size_t i = 0; i < MPQ_COUNT(x); i++)
        CHECK_NEAR(y[i], x[i], 0, 0);
}

/* With what rounding adds held fixed, y = (x / s + rounding) * s inside and y = end * s outside is
 * differentiable, and its differences are the gradient. */
static double surrogate(struct mpq_lsq_range range, double x, double step, double rounding)
{
    double z = x / step;
    return (z <= range.low ? range.low : z >= range.high ? range.high : z + rounding) * step;
}

static void check_gradients(struct mpq_lsq_range range)
{
    const double step = 0.31, h = 1e-6;
    for (uint32_t i = 0; i < 400; i++) {
        float x = (float)(mpq_rng_normal(6, MPQ_STREAM_TEST, 0, i) * 0.7 * range.high), dx = 2;
        float dy = (float)mpq_rng_normal(6, MPQ_STREAM_TEST, 1, i);
        double z = (double)x / step, rounding = rint(z) - z;
        if (fabs(z - range.low) < 1e-3 || fabs(z - range.high) < 1e-3)
            continue;
        double up = surrogate(range, (double)x, step + h, rounding);
        double down = surrogate(range, (double)x, step - h, rounding);
        double got = mpq_lsq_backward(range, (float)step, &x, &dy, 1, &dx);
        CHECK_NEAR(got, (double)dy * (up - down) / (2 * h), 1e-4, 1e-4);
        CHECK_NEAR(dx, z > range.low && z < range.high ? 2 + dy : 2, 0, 1e-6);
    }
}

static void gradients_are_straight_through(void **state)
{
    (void)state;
    check_gradients(mpq_lsq_range(2, true));
    check_gradients(mpq_lsq_range(3, false));
    check_gradients(mpq_lsq_range(6, true));
    const struct mpq_lsq_range range = mpq_lsq_range(2, true);
    const float x[] = {-1, 0.5f, -1.01f, 0.51f}, dy[] = {1, 1, 1, 1}; /* the ends are inside */
    float dx[4] = {0};
    mpq_lsq_backward(range, 0.5f, x, dy, 4, dx);
    const float want[] = {1, 1, 0, 0};
    for (int i = 0; i < 4; i++)
        CHECK_NEAR(dx[i], want[i], 0, 0);
}

/* Squared error of Gaussian weights at the first steps, relative to their variance. */
static void first_steps_have_the_known_error(void **state)
{
    static const double want[] = {
        [2] = 0.200, [3] = 0.0493, [4] = 0.0127, [5] = 0.0035, [6] = 0.0012};
    static float y[N];
    const float *x = gaussian();
    (void)state;
    for (int bits = 2; bits <= 6; bits++) {
        float step = mpq_lsq_weight_step(x, N, bits);
        double error = 0;
        CHECK_NEAR(step, 6.0 / (1 << bits), 0.02, 0);
        mpq_lsq_forward(mpq_lsq_range(bits, true), step, x, N, y);
        for (int i = 0; i < N; i++)
            error += pow((double)x[i] - (double)y[i], 2) / N;
        CHECK_NEAR(error, want[bits], 0.05, 5e-5);
    }
    CHECK_NEAR(mpq_lsq_activation_step(0.4, mpq_lsq_range(4, false)), 0.8 / sqrt(15), 1e-6, 0);
    assert_true(mpq_lsq_activation_step(0, mpq_lsq_range(4, false)) > 0);
    const float zeros[3] = {0};
    assert_true(mpq_lsq_weight_step(zeros, 3, 4) > 0);
}

/* The row against the arrays, with any number of threads. */
static void the_operator_is_the_same(void **state)
{
    static float y[N], want[N], dx[N], want_dx[N], dy[N];
    struct mpq_lsq_range range = mpq_lsq_range(3, true);
    float step = 0.4f, dstep[2];
    const struct mpq_op *op = mpq_op_find("onnx_mpq", "LearnedFakeQuant");
    static double workspace[N];
    struct mpq_tensor in[2] = {{MPQ_FLOAT, MPQ_SHAPE(N), (void *)gaussian()},
                               {MPQ_FLOAT, MPQ_SHAPE(1), &step}};
    struct mpq_tensor out = {MPQ_FLOAT, MPQ_SHAPE(N), y};
    struct mpq_node node = {.op_type = "LearnedFakeQuant", .attrs = &range, .n_in = 2};
    (void)state;
    for (uint32_t i = 0; i < N; i++)
        dy[i] = (float)mpq_rng_normal(7, MPQ_STREAM_TEST, 0, i);
    mpq_lsq_forward(range, step, in[0].data, N, want);
    double want_dstep = mpq_lsq_backward(range, step, in[0].data, dy, N, want_dx);
    for (int threads = 1; threads <= 2; threads++) {
        mpq_thread_set_count(threads);
        dstep[threads - 1] = 0;
        memset(dx, 0, sizeof dx);
        struct mpq_kernel_args args = {
            .node = &node,
            .x = (const struct mpq_tensor *[]){&in[0], &in[1]},
            .y = (struct mpq_tensor *[]){&out},
            .dy = (const mpq_real *[]){dy},
            .dx = (mpq_real *[]){dx, &dstep[threads - 1]},
            .workspace = workspace,
        };
        assert_true(op->workspace(&node, args.x, args.y, true) <= sizeof workspace);
        op->forward(&args);
        op->backward(&args);
        assert_memory_equal(y, want, sizeof y);
        assert_memory_equal(dx, want_dx, sizeof dx);
        CHECK_NEAR(dstep[threads - 1], want_dstep, 1e-5, 0);
    }
    assert_true(dstep[0] == dstep[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_are_those_of_two_complement),
        cmocka_unit_test(values_are_the_published_ones),
        cmocka_unit_test(gradients_are_straight_through),
        cmocka_unit_test(first_steps_have_the_known_error),
        cmocka_unit_test(the_operator_is_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
