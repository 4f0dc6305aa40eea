/* The mean of KL against its definition, its gradient against differences: rows and columns by the
 * block and what is left of them. */
#include <string.h>

#include "quantcore/base/rng.h"
#include "quantcore/engine/expected_kl.h"
#include "tests/check.h"

enum { MAX_ROWS = 11, MAX_COLUMNS = 300, MAX_REFERENCES = 7 };

struct family {
    struct mpq_ctx ctx;
    struct mpq_arena *arena;
    int64_t n_row, n_column;
    mpq_real target[MAX_ROWS * MAX_COLUMNS], y[MAX_ROWS * MAX_COLUMNS], dy[MAX_ROWS * MAX_COLUMNS];
    struct mpq_references references;
};

static void setup(struct family *f, int64_t n_row, int64_t n_column, int64_t n_reference)
{
    *f = (struct family){.n_row = n_row, .n_column = n_column};
    mpq_ctx_init(&f->ctx);
    f->arena = mpq_arena_create(&f->ctx);
    assert_non_null(f->arena);
    for (uint32_t i = 0; i < n_row * n_column; i++) {
        f->target[i] = (mpq_real)(2 * mpq_rng_normal(3, MPQ_STREAM_TEST, 0, i));
        f->y[i] = f->target[i] + (mpq_real)(0.5 * mpq_rng_normal(3, MPQ_STREAM_TEST, 1, i));
    }
    CHECK_OK(&f->ctx,
             mpq_references_create(&f->ctx, f->arena, n_reference, n_column, &f->references));
    mpq_references_take(&f->references, f->target, n_row);
}

/* KL(p || softmax(log p + error)) of one row. */
static double kl(const mpq_real *p, const mpq_real *y, const mpq_real *target, int64_t n)
{
    double sum = 0, kl = 0;
    for (int64_t j = 0; j < n; j++)
        sum += (double)p[j] * exp((double)y[j] - (double)target[j]);
    for (int64_t j = 0; j < n; j++)
        kl -= (double)p[j] * ((double)y[j] - (double)target[j] - log(sum));
    return kl;
}

static double mean_kl(const struct family *f, int64_t row)
{
    double sum = 0;
    for (int64_t r = 0; r < f->references.n; r++)
        sum += kl(f->references.p + r * f->n_column, f->y + row * f->n_column,
                  f->target + row * f->n_column, f->n_column);
    return sum / (double)f->references.n;
}

static const int64_t sizes[][3] = {{1, 10, 1}, {4, 8, 4}, {5, 300, 3}, {11, 257, 7}, {3, 1, 2}};

static void is_a_mean_of_kl(void **state)
{
    static struct family f;
    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        double want = 0;
        setup(&f, sizes[s][0], sizes[s][1], sizes[s][2]);
        for (int64_t row = 0; row < f.n_row; row++)
            want += mean_kl(&f, row);
        CHECK_NEAR(mpq_expected_kl(&f.references, f.y, f.target, f.n_row, 0, NULL), want, 1e-6,
                   1e-6);
        CHECK_NEAR(mpq_expected_kl(&f.references, f.target, f.target, f.n_row, 0, NULL), 0, 0, 0);
        mpq_arena_free(f.arena);
    }
}

static void references_are_rows_of_the_float_model(void **state)
{
    static struct family f;
    (void)state;
    setup(&f, 5, 30, 3); /* rows 0, 1 and 3 */
    for (int64_t j = 0; j < 30; j++) {
        double sum = 0, total = 0;
        for (int64_t i = 0; i < 30; i++)
            sum += exp((double)f.target[3 * 30 + i]);
        CHECK_NEAR(f.references.p[2 * 30 + j], exp((double)f.target[3 * 30 + j]) / sum, 1e-6, 0);
        for (int64_t r = 0; r < 3; r++)
            total += (double)f.references.p[r * 30 + j];
        CHECK_NEAR(f.references.total[j], total, 0, 0);
    }
    mpq_arena_free(f.arena);
}

/* A row by itself gives what it gives in a block, to the last bit: so no batch changes a loss. */
static void rows_do_not_see_each_other(void **state)
{
    static struct family f;
    (void)state;
    setup(&f, 4, 257, 7);
    double together = mpq_expected_kl(&f.references, f.y, f.target, 4, 1, f.dy), apart = 0;
    mpq_real dy[MAX_COLUMNS];
    for (int64_t row = 0; row < 4; row++) {
        memset(dy, 0, sizeof dy);
        apart += mpq_expected_kl(&f.references, f.y + row * 257, f.target + row * 257, 1, 1, dy);
        assert_memory_equal(dy, f.dy + row * 257, 257 * sizeof *dy);
    }
    CHECK_NEAR(together, apart, 0, 0);
    mpq_arena_free(f.arena);
}

static void large_errors_are_finite_and_no_number_is_none(void **state)
{
    static struct family f;
    (void)state;
    setup(&f, 5, 300, 3);
    f.y[7] += 2000; /* beyond what exp() takes */
    assert_true(isfinite(mpq_expected_kl(&f.references, f.y, f.target, 1, 0, NULL)));
    f.y[7] = (mpq_real)INFINITY;
    assert_true(isnan(mpq_expected_kl(&f.references, f.y, f.target, 5, 0, NULL)));
    f.y[7] = (mpq_real)NAN;
    assert_true(isnan(mpq_expected_kl(&f.references, f.y, f.target, 1, 0, NULL)));
    mpq_arena_free(f.arena);
}

static void has_a_gradient(void **state)
{
    static struct family f;
    const mpq_real h = (mpq_real)0.02;
    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        setup(&f, sizes[s][0], sizes[s][1], sizes[s][2]);
        (void)mpq_expected_kl(&f.references, f.y, f.target, f.n_row, 3, f.dy);
        for (int64_t i = 0; i < f.n_row * f.n_column; i += 1 + f.n_column / 16) {
            mpq_real saved = f.y[i];
            f.y[i] = saved + h;
            double above = mean_kl(&f, i / f.n_column);
            f.y[i] = saved - h;
            double below = mean_kl(&f, i / f.n_column);
            f.y[i] = saved;
            CHECK_NEAR(f.dy[i], 3 * (above - below) / (2 * (double)h), 1e-2, 1e-5);
        }
        mpq_arena_free(f.arena);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_a_mean_of_kl),
        cmocka_unit_test(references_are_rows_of_the_float_model),
        cmocka_unit_test(rows_do_not_see_each_other),
        cmocka_unit_test(large_errors_are_finite_and_no_number_is_none),
        cmocka_unit_test(has_a_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
