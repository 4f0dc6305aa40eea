/* Pictures moved and mirrored. */
#include "quantcore/supernet/augment.h"

#include <string.h>

#include "tests/check.h"

/* Line of n places, mirrored at its ends for ever. */
static int64_t place(int64_t i, int64_t n)
{
    int64_t period = 2 * (n - 1);
    i = (i % period + period) % period;
    return i < n ? i : period - i;
}

enum { PICTURE_H = 5, PICTURE_W = 6, PICTURE_C = 2, REACH = 2, N_SHIFT = 2 * REACH + 1 };

/* Which change (of 2 * N_SHIFT * N_SHIFT) makes `to` [H,W,C] of `from`, -1: none */
static int find_change(const mpq_real *from, const mpq_real *to)
{
    for (int k = 0; k < 2 * N_SHIFT * N_SHIFT; k++) {
        int64_t down = k / 2 % N_SHIFT - REACH, right = k / 2 / N_SHIFT - REACH;
        bool is_same = true;
        for (int64_t y = 0; y < PICTURE_H; y++)
            for (int64_t x = 0; x < PICTURE_W; x++) {
                int64_t column = place(x - right, PICTURE_W);
                column = k % 2 ? PICTURE_W - 1 - column : column;
                for (int64_t c = 0; c < PICTURE_C; c++)
                    is_same =
                        is_same &&
                        to[(y * PICTURE_W + x) * PICTURE_C + c] ==
                            from[(place(y - down, PICTURE_H) * PICTURE_W + column) * PICTURE_C + c];
            }
        if (is_same)
            return k;
    }
    return -1;
}

static void pictures_are_moved_and_mirrored(void **state)
{
    enum { N = 600, PLACES = PICTURE_H * PICTURE_W, SIZE = PLACES * PICTURE_C };
    static mpq_real from[N * SIZE], last[N * SIZE], first[N * SIZE], scratch[SIZE], turned[SIZE];
    int seen[2 * N_SHIFT * N_SHIFT] = {0}, n_seen = 0;
    struct mpq_augment a = {.height = PICTURE_H,
                            .width = PICTURE_W,
                            .channels = PICTURE_C,
                            .channels_last = true,
                            .reach = REACH,
                            .mirrors = true};
    (void)state;
    for (int i = 0; i < N * SIZE; i++)
        from[i] = last[i] = (mpq_real)i;
    for (int i = 0; i < N; i++)
        for (int k = 0; k < SIZE; k++) /* channels first */
            first[i * SIZE + k % PICTURE_C * PLACES + k / PICTURE_C] = from[i * SIZE + k];
    mpq_augment(&a, 7, 3, N, last, scratch);
    a.channels_last = false;
    mpq_augment(&a, 7, 3, N / 2, first, scratch); /* half of them, the same */
    for (int i = 0; i < N; i++) {
        int k = find_change(from + i * SIZE, last + i * SIZE);
        assert_true(k >= 0);
        seen[k]++;
        for (int j = 0; j < SIZE; j++)
            turned[j] = first[i * SIZE + j % PICTURE_C * PLACES + j / PICTURE_C];
        assert_memory_equal(turned, i < N / 2 ? last + i * SIZE : from + i * SIZE, sizeof turned);
    }
    for (int k = 0; k < 2 * N_SHIFT * N_SHIFT; k++)
        n_seen += seen[k] > 0;
    assert_int_equal(n_seen, 2 * N_SHIFT * N_SHIFT);
    a.mirrors = false;
    a.reach = 0;
    memcpy(first, from, sizeof first);
    mpq_augment(&a, 7, 3, N, first, scratch);
    assert_memory_equal(first, from, sizeof first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pictures_are_moved_and_mirrored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
