/* The largest of each window of random planes, in floats and bytes, against one look at every
 * element; with padding, windows cut off at the end, and NaN. */
#include "quantcore/ops/kernel/window_max.h"

#include <math.h>

#include "quantcore/base/rng.h"
#include "tests/check.h"

enum { MOST = 40 };

static mpq_real x[MOST * MOST], y[MOST * MOST];
static uint8_t x_byte[MOST * MOST], y_byte[MOST * MOST];

static int64_t draw(uint64_t step, uint32_t i, int64_t least, int64_t most)
{
    return least + mpq_rng_below(5, MPQ_STREAM_TEST, step, i, (uint32_t)(most - least + 1));
}

/* Windows of any kind; the last may lie in the padding, or reach beyond it as with ceil_mode. */
static struct mpq_pool_dim draw_dim(uint64_t step, uint32_t at)
{
    struct mpq_pool_dim d = {.in = draw(step, at, 1, MOST - 8),
                             .kernel = draw(step, at + 1, 1, 5),
                             .stride = draw(step, at + 2, 1, 4),
                             .dilation = 1};
    d.pad = draw(step, at + 3, 0, d.kernel);
    int64_t reach = d.in + d.pad + d.kernel - 1; /* of the last window's first element */
    d.out = 1 + (reach - 1) / d.stride;
    d.out = d.out > MOST ? MOST : d.out;
    return d;
}

static struct mpq_pool draw_pool(uint64_t step)
{
    struct mpq_pool pool = {.n_plane = 1};
    pool.dim[0] = (struct mpq_pool_dim){1, 1, 1, 1, 1, 0, 0};
    pool.dim[1] = draw_dim(step, 0);
    pool.dim[2] = draw_dim(step, 10);
    pool.in_count = pool.dim[1].in * pool.dim[2].in;
    pool.out_count = pool.dim[1].out * pool.dim[2].out;
    return pool;
}

/* Of window o, by value(): -infinity where it has none. */
static double largest(const struct mpq_pool *pool, int64_t o, double (*value)(int64_t))
{
    const struct mpq_pool_dim *h = &pool->dim[1], *w = &pool->dim[2];
    double most = -(double)INFINITY;
    for (int64_t i = 0; i < h->kernel; i++)
        for (int64_t j = 0; j < w->kernel; j++) {
            int64_t row = o / w->out * h->stride + i - h->pad;
            int64_t column = o % w->out * w->stride + j - w->pad;
            if (row >= 0 && row < h->in && column >= 0 && column < w->in &&
                value(row * w->in + column) > most)
                most = value(row * w->in + column);
        }
    return most;
}

static double real_at(int64_t i)
{
    return (double)x[i];
}

static double u8_at(int64_t i)
{
    return x_byte[i];
}

static double i8_at(int64_t i)
{
    return (int8_t)x_byte[i];
}

static void planes_are_as_by_hand(void **state)
{
    (void)state;
    _Alignas(64) char row[1024];
    for (uint64_t step = 0; step < 400; step++) {
        struct mpq_pool pool = draw_pool(step);
        assert_true(mpq_window_max_takes(&pool));
        assert_true(mpq_window_max_bytes(&pool, sizeof(mpq_real)) <= sizeof row);
        for (uint32_t i = 0; i < pool.in_count; i++) {
            x[i] = (mpq_real)mpq_rng_normal(6, MPQ_STREAM_TEST, step, i);
            if (draw(step, 100 + i, 0, 9) == 0)
                x[i] = (mpq_real)NAN;
            x_byte[i] = (uint8_t)draw(step, 5000 + i, 0, 255);
        }
        mpq_window_max_real(&pool, x, y, row);
        for (int64_t o = 0; o < pool.out_count; o++)
            assert_true((double)y[o] == largest(&pool, o, real_at));
        mpq_window_max_u8(&pool, x_byte, y_byte, row);
        for (int64_t o = 0; o < pool.out_count; o++)
            assert_int_equal(y_byte[o], fmax(largest(&pool, o, u8_at), 0));
        mpq_window_max_i8(&pool, (const int8_t *)x_byte, (int8_t *)y_byte, row);
        for (int64_t o = 0; o < pool.out_count; o++)
            assert_int_equal((int8_t)y_byte[o], fmax(largest(&pool, o, i8_at), INT8_MIN));
    }
}

static void other_windows_are_not_taken(void **state)
{
    (void)state;
    struct mpq_pool pool = draw_pool(0);
    pool.dim[2].dilation = 2;
    assert_false(mpq_window_max_takes(&pool));
    pool = draw_pool(0);
    pool.dim[0].in = 2;
    assert_false(mpq_window_max_takes(&pool));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(planes_are_as_by_hand),
        cmocka_unit_test(other_windows_are_not_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
