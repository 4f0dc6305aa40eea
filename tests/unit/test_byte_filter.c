/* Filters of bytes against plain loops: planes of one window and of many, strides, dilations, zero
 * points, padding that is not the same at both ends. */
#include <string.h>

#include "quantcore/base/rng.h"
#include "quantcore/ops/kernel/byte_filter.h"
#include "tests/check.h"

enum { IMAGES = 2, CHANNELS = 5, MAX_SIDE = 42, GUARD = 64, UNTOUCHED = 0x5a };

static uint8_t x[IMAGES * CHANNELS * MAX_SIDE * MAX_SIDE], w[CHANNELS * 64];
static uint8_t y[GUARD + sizeof x + GUARD];

static uint8_t expected(const struct mpq_byte_filter *f, int64_t plane, int64_t i, int64_t j)
{
    const struct mpq_conv *conv = f->conv;
    int64_t c = plane % conv->c;
    int32_t sum = f->bias ? f->bias[c] : 0;
    for (int64_t r = 0; r < conv->kernel[0]; r++)
        for (int64_t s = 0; s < conv->kernel[2]; s++) {
            int64_t row = i * conv->stride[0] - conv->pad[0] + r * conv->dilation[0];
            int64_t column = j * conv->stride[2] - conv->pad[2] + s * conv->dilation[2];
            if (row >= 0 && row < conv->in[0] && column >= 0 && column < conv->in[2])
                sum += (f->x[(plane * conv->in[0] + row) * conv->in[2] + column] - f->x_zero) *
                       (int8_t)f->w[(c * conv->kernel[0] + r) * conv->kernel[2] + s];
        }
    return mpq_requant_round(&f->to, (float)sum * f->scale[c]);
}

static void check(const struct mpq_conv *conv, int32_t x_zero, bool is_signed, bool has_bias)
{
    static const int32_t bias[CHANNELS] = {0, 1000, -3000, 7, -1};
    static const float scale[CHANNELS] = {0.01f, 0.003f, 0.02f, 1e9f, 0.001f};
    struct mpq_byte_filter f = {.conv = conv,
                                .x = x,
                                .w = w,
                                .x_zero = x_zero,
                                .bias = has_bias ? bias : NULL,
                                .scale = scale};
    int64_t area = mpq_volume(conv->out), n = conv->n * conv->c * area;
    f.to = mpq_requant_to(is_signed ? MPQ_INT8 : MPQ_UINT8, is_signed ? 5 : 120);
    f.y = y + GUARD;
    assert_true(mpq_is_byte_filter(conv));
    memset(y, UNTOUCHED, sizeof y);
    mpq_byte_filter_run(&f);
    for (int64_t i = 0; i < n; i++)
        assert_int_equal(f.y[i],
                         expected(&f, i / area, i % area / conv->out[2], i % area % conv->out[2]));
    for (int64_t i = 0; i < GUARD; i++) {
        assert_int_equal(y[i], UNTOUCHED);
        assert_int_equal(f.y[n + i], UNTOUCHED);
    }
}

static struct mpq_conv conv_of(int64_t height, int64_t width, int64_t kernel, int64_t stride,
                               int64_t dilation, int64_t before, int64_t behind)
{
    struct mpq_conv conv = {.n = IMAGES, .c = CHANNELS, .m = CHANNELS, .group = CHANNELS};
    const int64_t in[] = {height, 1, width}, one[] = {1, 1, 1};
    memcpy(conv.in, in, sizeof in);
    memcpy(conv.out, one, sizeof one);
    memcpy(conv.kernel, one, sizeof one);
    memcpy(conv.stride, one, sizeof one);
    memcpy(conv.dilation, one, sizeof one);
    for (int i = 0; i < 3; i += 2) {
        conv.kernel[i] = kernel;
        conv.stride[i] = stride;
        conv.dilation[i] = dilation;
        conv.pad[i] = before;
        conv.out[i] = (in[i] + before + behind - (kernel - 1) * dilation - 1) / stride + 1;
    }
    return conv;
}

static void test_forms(void **state)
{
    static const int64_t sides[][2] = {{4, 4},   {8, 8},   {7, 7},  {5, 12},
                                       {14, 14}, {16, 16}, {9, 33}, {40, 40}};
    (void)state;
    for (uint32_t i = 0; i < sizeof x; i++)
        x[i] = (uint8_t)mpq_rng_below(3, MPQ_STREAM_TEST, 0, i, 256);
    for (uint32_t i = 0; i < sizeof w; i++)
        w[i] = (uint8_t)mpq_rng_below(3, MPQ_STREAM_TEST, 1, i, 256);
    struct mpq_conv probe = conv_of(8, 8, 3, 1, 1, 1, 1);
    if (!mpq_is_byte_filter(&probe))
        skip();
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++)
        for (int64_t kernel = 1; kernel <= 7; kernel += 2)
            for (int64_t stride = 1; stride <= 3; stride++)
                for (int64_t dilation = 1; dilation <= 2; dilation++) {
                    int64_t pad = (kernel - 1) * dilation / 2;
                    struct mpq_conv conv =
                        conv_of(sides[i][0], sides[i][1], kernel, stride, dilation, pad, pad);
                    check(&conv, 0, stride % 2, dilation == 1);
                    conv = conv_of(sides[i][0], sides[i][1], kernel, stride, dilation,
                                   pad > 0 ? pad - 1 : 0, pad + 1);
                    check(&conv, 77, stride % 2 == 0, dilation == 2);
                }
}

/* What it leaves to others. */
static void test_what_is_none(void **state)
{
    (void)state;
    struct mpq_conv conv = conv_of(30, 30, 9, 1, 1, 4, 4); /* 27 pieces */
    assert_false(mpq_is_byte_filter(&conv));
    conv = conv_of(40, 40, 3, 5, 1, 1, 1); /* windows of more than 64 */
    assert_false(mpq_is_byte_filter(&conv));
    conv = conv_of(8, 8, 3, 1, 1, 1, 1);
    conv.m *= 2;
    assert_false(mpq_is_byte_filter(&conv));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forms),
                                       cmocka_unit_test(test_what_is_none)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
