/* What ONNX's own cases and the gradient checks do not reach: FakeQuant, ties of QuantizeLinear,
 * the number of inputs, the loops of broadcasting and the approximations of kernel/real_math.h. */
#include "tests/check.h"

#include <string.h>

#include "quantcore/base/rng.h"
#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/loop.h"
#include "quantcore/ops/kernel/real_math.h"
#include "quantcore/ops/op.h"
#include "quantcore/quant/layer.h"

#define N 20001

static double random_in(double low, double high, uint32_t i)
{
    return low + (high - low) * mpq_rng_uniform(11, MPQ_STREAM_TEST, 0, i);
}

static struct mpq_tensor tensor(enum mpq_dtype dtype, struct mpq_shape shape, void *data)
{
    return (struct mpq_tensor){dtype, shape, data};
}

/* The formula of op_fake_quant.c, spelt out in integers. */
static long fake_quant_integer(const struct mpq_act_quant *q, float x, bool *out_inside)
{
    double ratio = rint((double)(x / q->scale)) + q->zero_point;
    long high = (1 << q->bits) - 1;
    *out_inside = ratio >= 0 && ratio <= (double)high;
    return (ratio < 0 ? 0 : ratio > (double)high ? high : lrint(ratio)) - q->zero_point;
}

static void check_fake_quant(const struct mpq_act_quant *q)
{
    static float x[N], y[N], dy[N], dx[N];
    const struct mpq_op *op = mpq_op_find("onnx_mpq", "FakeQuant");
    struct mpq_node node = {.op_type = "FakeQuant", .domain = "onnx_mpq", .attrs = q, .n_in = 1};
    struct mpq_tensor in = tensor(MPQ_FLOAT, MPQ_SHAPE(N), x);
    struct mpq_tensor out = tensor(MPQ_FLOAT, MPQ_SHAPE(N), y);
    float *dx_list[] = {dx};
    const float *dy_list[] = {dy};
    double reach = (double)q->scale * (1 << q->bits);
    for (uint32_t i = 0; i < N; i++) {
        bool is_tie = i % 4 == 0; /* as near to a tie as a float product is */
        double half = (double)((int)(i / 4) % 600 - 300) + 0.5;
        x[i] = (float)(is_tie ? half * (double)q->scale : random_in(-1.5 * reach, 1.5 * reach, i));
        dy[i] = (float)i;
        dx[i] = 1;
    }
    struct mpq_kernel_args args = {.node = &node,
                                   .x = (const struct mpq_tensor *[]){&in},
                                   .y = (struct mpq_tensor *[]){&out},
                                   .dy = dy_list,
                                   .dx = dx_list};
    op->forward(&args);
    op->backward(&args);
    for (uint32_t i = 0; i < N; i++) {
        bool inside;
        float want = (float)fake_quant_integer(q, x[i], &inside) * q->scale;
        assert_true(y[i] == want);
        assert_true(dx[i] == (inside ? dy[i] + 1 : 1));
    }
    memcpy(x, y, sizeof x); /* quantizing twice changes nothing */
    op->forward(&args);
    assert_memory_equal(x, y, sizeof x);
}

static void test_fake_quant(void **state)
{
    (void)state;
    check_fake_quant(&(struct mpq_act_quant){0.5f, 128, 8});
    check_fake_quant(&(struct mpq_act_quant){0.1f, 0, 8});
    check_fake_quant(&(struct mpq_act_quant){0.037f, 255, 8});
    check_fake_quant(&(struct mpq_act_quant){1e-20f, 3, 3});
    check_fake_quant(&(struct mpq_act_quant){2.0f, 1, 2});
}

/* Halves go to even, in every quotient that is exact, for both word sizes; values far outside and
 * infinities saturate. */
static void check_quantize(enum mpq_dtype dtype, int zero_value, long low, long high)
{
    float x[] = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 1e30f, -1e30f, INFINITY, -INFINITY, 0};
    float scale = 1;
    long want[] = {0, 2, 2, 0, -2, -2, 1 << 20, -(1 << 20), 1 << 20, -(1 << 20), 0};
    int16_t zero = 0, y[MPQ_COUNT(x)] = {0};
    const struct mpq_op *op = mpq_op_find("", "QuantizeLinear");
    struct mpq_node node = {.op_type = "QuantizeLinear", .domain = "", .op = op, .n_in = 3};
    struct mpq_tensor in[3] = {tensor(MPQ_FLOAT, MPQ_SHAPE(MPQ_COUNT(x)), x),
                               tensor(MPQ_FLOAT, (struct mpq_shape){0}, &scale),
                               tensor(dtype, (struct mpq_shape){0}, &zero)};
    struct mpq_tensor out = tensor(dtype, in[0].shape, y);
    struct mpq_ctx ctx;
    mpq_ctx_init(&ctx);
    struct mpq_arena *arena = mpq_arena_create(&ctx);
    mpq_tensor_set_int(&in[2], 0, zero_value);
    CHECK_OK(&ctx, op->parse(&ctx, arena, &node));
    const struct mpq_tensor *x_list[] = {&in[0], &in[1], &in[2]};
    struct mpq_tensor *y_list[] = {&out};
    CHECK_OK(&ctx, op->infer(&ctx, &node, x_list, y_list));
    op->forward(&(struct mpq_kernel_args){.node = &node, .x = x_list, .y = y_list});
    for (size_t i = 0; i < MPQ_COUNT(x); i++) {
        long value = want[i] + zero_value;
        value = value < low ? low : value > high ? high : value;
        assert_int_equal(mpq_tensor_int(&out, (int64_t)i), value);
    }
    mpq_arena_free(arena);
}

static void test_quantize_linear(void **state)
{
    (void)state;
    check_quantize(MPQ_UINT8, 7, 0, 255);
    check_quantize(MPQ_INT8, -3, -128, 127);
    check_quantize(MPQ_UINT16, 1000, 0, 65535);
    check_quantize(MPQ_INT16, 5, -32768, 32767);
    check_quantize(MPQ_INT4, 1, -8, 7);
    check_quantize(MPQ_UINT4, 5, 0, 15);
    check_quantize(MPQ_INT2, 0, -2, 1);
    check_quantize(MPQ_UINT2, 1, 0, 3);
}

/* Which inputs and outputs a node must have. */
static void test_resolve(void **state)
{
    (void)state;
    struct mpq_ctx ctx;
    mpq_ctx_init(&ctx);
    struct mpq_arena *arena = mpq_arena_create(&ctx);
    mpq_value_id in[] = {0, 1, MPQ_NO_VALUE}, out[] = {2, MPQ_NO_VALUE};
    struct mpq_node node = {
        .name = "n", .op_type = "Gemm", .domain = "", .n_in = 3, .n_out = 1, .in = in, .out = out};
    CHECK_OK(&ctx, mpq_op_resolve(&ctx, arena, &node));
    node.n_in = 1;
    CHECK_FAILS(&ctx, mpq_op_resolve(&ctx, arena, &node), MPQ_E_FORMAT, "has 1 inputs");
    node.n_in = 3;
    node.n_out = 2;
    CHECK_FAILS(&ctx, mpq_op_resolve(&ctx, arena, &node), MPQ_E_FORMAT, "has 2 outputs");
    node.n_out = 1;
    in[1] = MPQ_NO_VALUE;
    CHECK_FAILS(&ctx, mpq_op_resolve(&ctx, arena, &node), MPQ_E_FORMAT, "input 1 is missing");
    in[1] = 1;
    out[0] = MPQ_NO_VALUE;
    CHECK_FAILS(&ctx, mpq_op_resolve(&ctx, arena, &node), MPQ_E_FORMAT, "output 0 is missing");
    mpq_arena_free(arena);
}

/* Offsets of a merged loop, from any start, against division of the flat index. */
static void test_loop(void **state)
{
    const struct mpq_shape shape = MPQ_SHAPE(2, 1, 3, 4, 5);
    const struct mpq_shape part[] = {
        MPQ_SHAPE(2, 1, 3, 4, 5), MPQ_SHAPE(3, 1, 1), MPQ_SHAPE(2, 1, 1, 4, 5), {0}};
    struct mpq_loop loop;
    struct mpq_span span;
    (void)state;
    mpq_loop_init(&loop, &shape);
    for (size_t k = 0; k < MPQ_COUNT(part); k++)
        mpq_loop_add(&loop, &part[k]);
    mpq_loop_merge(&loop);
    assert_int_equal(loop.rank, 3);
    assert_int_equal(mpq_loop_count(&loop), 120);
    for (int64_t begin = 0; begin < 120; begin++) {
        int64_t at = begin;
        for (mpq_span_first(&span, &loop, begin, 120); span.n; mpq_span_next(&span))
            for (int64_t i = 0; i < span.n; i++, at++) {
                assert_int_equal(span.offset[0] + i * loop.stride[0][2], at);
                assert_int_equal(span.offset[1] + i * loop.stride[1][2], at / 20 % 3);
                assert_int_equal(span.offset[2] + i * loop.stride[2][2], at / 60 * 20 + at % 20);
                assert_int_equal(span.offset[3] + i * loop.stride[3][2], 0);
            }
        assert_int_equal(at, 120);
    }
}

/* Against libm in double; errors in units of the last place. */
static void test_approximations(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 200000; i++) {
        float x = (float)random_in(-86, 87, i);
        CHECK_NEAR(mpq_exp_saturated(x), exp((double)x), 2.4e-7, 0);
        x = (float)random_in(-10, 10, i);
        CHECK_NEAR(mpq_tanh(x), tanh((double)x), 3.6e-7, 0);
        CHECK_NEAR(mpq_sigmoid(x), 1 / (1 + exp(-(double)x)), 3.6e-7, 0);
        CHECK_NEAR(mpq_softplus(x), log1p(exp((double)x)), 3.6e-7, 0);
        x = (float)random_in(-4e6, 4e6, i);
        assert_true(mpq_round_small(x) == rintf(x));
        assert_true(mpq_round_small((float)((int)i - 100000) + 0.5f) ==
                    rintf((float)((int)i - 100000) + 0.5f));
    }
    assert_true(mpq_exp_saturated(-INFINITY) == 0);
    assert_true(mpq_exp_saturated(INFINITY) < INFINITY);
    assert_true(mpq_tanh(40) == 1 && mpq_tanh(-40) == -1 && mpq_tanh(0) == 0);
    assert_true(mpq_sigmoid(-200) == 0 || mpq_sigmoid(-200) < 1e-30f);
}

/* A matrix of integers and a column or a row of others, more than are looked at together. */
static void test_many_integers(void **state)
{
    enum { ROWS = 3, COLUMNS = 700 };
    static int32_t a[ROWS * COLUMNS], b[COLUMNS];
    static uint8_t is_equal[ROWS * COLUMNS];
    static mpq_real in_float[ROWS * COLUMNS];
    (void)state;
    for (int i = 0; i < ROWS * COLUMNS; i++)
        a[i] = i * 7 % 11 - 5;
    for (int i = 0; i < COLUMNS; i++)
        b[i] = i * 3 % 11 - 5;
    struct mpq_node equal = {.op_type = "Equal"}, cast = {.op_type = "Cast"};
    struct mpq_tensor of_a = {MPQ_INT32, MPQ_SHAPE(ROWS, COLUMNS), a};
    struct mpq_tensor out = {MPQ_BOOL, MPQ_SHAPE(ROWS, COLUMNS), is_equal}, *y = &out;
    for (int is_row = 0; is_row < 2; is_row++)
        for (int is_swapped = 0; is_swapped < 2; is_swapped++) {
            struct mpq_tensor of_b = {MPQ_INT32, is_row ? MPQ_SHAPE(COLUMNS) : MPQ_SHAPE(ROWS, 1),
                                      b};
            const struct mpq_tensor *x[] = {is_swapped ? &of_b : &of_a, is_swapped ? &of_a : &of_b};
            mpq_op_find("", "Equal")
                ->forward(&(struct mpq_kernel_args){.node = &equal, .x = x, .y = &y});
            for (int i = 0; i < ROWS * COLUMNS; i++)
                assert_int_equal(is_equal[i], a[i] == b[is_row ? i % COLUMNS : i / COLUMNS]);
        }
    const struct mpq_tensor *x[] = {&of_a};
    struct mpq_tensor real = {MPQ_FLOAT, MPQ_SHAPE(ROWS, COLUMNS), in_float};
    y = &real;
    mpq_op_find("", "Cast")->forward(&(struct mpq_kernel_args){.node = &cast, .x = x, .y = &y});
    for (int i = 0; i < ROWS * COLUMNS; i++)
        CHECK_NEAR(in_float[i], a[i], 0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fake_quant),     cmocka_unit_test(test_quantize_linear),
        cmocka_unit_test(test_resolve),        cmocka_unit_test(test_loop),
        cmocka_unit_test(test_approximations), cmocka_unit_test(test_many_integers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
