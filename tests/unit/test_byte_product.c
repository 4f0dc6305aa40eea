/* Products of bytes against plain loops: odd sizes, several images to a tile, saturation. */
#include <string.h>

#include "quantcore/base/rng.h"
#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/byte_product.h"
#include "tests/check.h"

enum { MAX_M = 21, MAX_K = 70, MAX_PLACES = 150, GUARD = 64, UNTOUCHED = 0x5a };

static uint8_t x[3 * MAX_K * MAX_PLACES], w[MAX_M * (MAX_K + 2)];
static uint8_t y[GUARD + 3 * MAX_M * MAX_PLACES + GUARD];
static int32_t bias[MAX_M];
static float scale[MAX_M];
static _Alignas(64) char workspace[4 * 64 * (MAX_K + 2)];

static uint32_t draw(uint32_t step, uint32_t i, uint32_t n)
{
    return mpq_rng_below(7, MPQ_STREAM_TEST, step, i, n);
}

static void set_up(int64_t m, int64_t k)
{
    for (uint32_t i = 0; i < sizeof x; i++)
        x[i] = (uint8_t)draw(0, i, 256);
    for (uint32_t i = 0; i < m; i++) {
        for (uint32_t j = 0; j < mpq_byte_product_row(k); j++)
            w[i * mpq_byte_product_row(k) + j] = j < k ? (uint8_t)draw(1, i * MAX_K + j, 256) : 0;
        bias[i] = (int32_t)draw(2, i, 20000) - 10000;
        scale[i] = i % 5 == 4 ? 1e9f : 1e-3f; /* with sums beyond int32, too */
    }
}

static uint8_t expected(const struct mpq_byte_product *p, int64_t image, int64_t i, int64_t place)
{
    int32_t sum = p->bias[i];
    for (int64_t j = 0; j < p->k; j++)
        sum += p->x[(image * p->k + j) * p->places + place] *
               (int8_t)p->w[i * mpq_byte_product_row(p->k) + j];
    return mpq_requant_round(&p->to, (float)sum * p->scale[i]);
}

static void check(int64_t n, int64_t m, int64_t k, int64_t places, bool is_signed)
{
    struct mpq_byte_product p = {
        .n = n, .m = m, .k = k, .places = places, .x = x, .w = w, .bias = bias, .scale = scale};
    p.to = mpq_requant_to(is_signed ? MPQ_INT8 : MPQ_UINT8, is_signed ? -7 : 131);
    p.y_is_signed = is_signed;
    p.y = y + GUARD;
    set_up(m, k);
    memset(y, UNTOUCHED, sizeof y);
    assert_true(mpq_byte_product_bytes(k) <= sizeof workspace);
    mpq_byte_product_run(&p, workspace);
    for (int64_t i = 0; i < n * m * places; i++)
        assert_int_equal(p.y[i], expected(&p, i / (m * places), i / places % m, i % places));
    for (int64_t i = 0; i < GUARD; i++) {
        assert_int_equal(y[i], UNTOUCHED);
        assert_int_equal(p.y[n * m * places + i], UNTOUCHED);
    }
}

static void test_sizes(void **state)
{
    static const int64_t m[] = {1, 3, 6, 13, 21}, k[] = {1, 4, 6, 35, 70};
    static const int64_t places[] = {1, 4, 16, 17, 33, 49, 64, 150};
    (void)state;
    if (!mpq_byte_product_is_there())
        skip();
    for (int threads = 1; threads <= 3; threads += 2) {
        mpq_thread_set_count(threads);
        for (size_t i = 0; i < sizeof m / sizeof *m; i++)
            for (size_t j = 0; j < sizeof places / sizeof *places; j++)
                for (int64_t n = 1; n <= 3; n++)
                    check(n, m[i], k[(i + j) % 5], places[j], (i + j) % 2);
    }
    mpq_thread_set_count(1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sizes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
