/* What a checkpoint's measurements are found again by. */
#include "cli/checkpoint_id.h"
#include "quantcore/base/rng.h"
#include "tests/check.h"

enum { SAMPLES = 20, SIZE = 3 };

static void answers_are_the_same_but_for_rounding(void **state)
{
    (void)state;
    mpq_real y[SAMPLES * SIZE], *target[] = {y};
    double variance[] = {2}, print[MPQ_CHECKPOINT_PRINT], other[MPQ_CHECKPOINT_PRINT];
    struct mpq_loss_head head = {.n_sample = SIZE};
    const struct mpq_loss loss = {.n_head = 1, .head = &head};
    struct mpq_targets targets = {.n_sample = SAMPLES, .target = target, .variance = variance};
    for (uint32_t i = 0; i < SAMPLES * SIZE; i++)
        y[i] = (mpq_real)(100 + mpq_rng_normal(1, MPQ_STREAM_TEST, i, 0));
    mpq_checkpoint_print(&targets, &loss, print);
    for (uint32_t i = 0; i < SAMPLES * SIZE; i++)
        y[i] *= MPQ_REAL(1.0) + (i % 2 ? MPQ_REAL(1e-7) : -MPQ_REAL(1e-7));
    mpq_checkpoint_print(&targets, &loss, other);
    assert_true(mpq_checkpoint_same_print(print, other));
    y[7] += MPQ_REAL(0.01);
    mpq_checkpoint_print(&targets, &loss, other);
    assert_false(mpq_checkpoint_same_print(print, other));
    y[7] -= MPQ_REAL(0.01);
    targets.n_sample--;
    mpq_checkpoint_print(&targets, &loss, other);
    assert_false(mpq_checkpoint_same_print(print, other));
    y[7] = (mpq_real)NAN;
    mpq_checkpoint_print(&targets, &loss, other);
    assert_false(mpq_checkpoint_same_print(other, other));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(answers_are_the_same_but_for_rounding)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
