/* Sizes that are measured: files have more than the sum of a table. */
#include <math.h>
#include <string.h>

#include "tests/check.h"
#include "tests/unit/search_case.h"

static enum mpq_status measure(struct mpq_ctx *ctx, void *arg, const uint8_t *bits,
                               uint64_t *out_bytes)
{
    const struct search_case *in = arg;
    const struct mpq_search_problem *p = &in->problem;
    (void)ctx;
    *out_bytes = mpq_search_cost(p, 0, bits);
    for (uint32_t l = 1; l < p->n_layer; l++) /* a table for each width in use, say */
        if (bits[l] != bits[0]) {
            *out_bytes += in->surcharge;
            break;
        }
    return MPQ_OK;
}

/* The table says less than the file takes. */
static void exact_size_decides(void **state)
{
    (void)state;
    for (uint64_t seed = 4000; seed < 4040; seed++) {
        struct search_case in;
        struct mpq_search_result result;
        search_make(&in, seed, 8);
        in.problem.measure = measure;
        in.surcharge = 100;
        in.problem.cost[0].budget += 200; /* there is always something that fits */
        search_run(&in, &result);
        uint64_t bytes;
        CHECK_OK(&in.ctx, measure(&in.ctx, &in, result.bits, &bytes));
        assert_int_equal(result.cost[0], bytes);
        mpq_arena_free(in.arena);
    }
}

static enum mpq_status measure_constant(struct mpq_ctx *ctx, void *arg, const uint8_t *bits,
                                        uint64_t *out_bytes)
{
    const struct search_case *in = arg;
    (void)ctx;
    *out_bytes = mpq_search_cost(&in->problem, 0, bits) + in->surcharge;
    return MPQ_OK;
}

/* A program for each width in use, as files have them. */
static enum mpq_status measure_widths(struct mpq_ctx *ctx, void *arg, const uint8_t *bits,
                                      uint64_t *out_bytes)
{
    const struct search_case *in = arg;
    (void)ctx;
    *out_bytes = mpq_search_cost(&in->problem, 0, bits);
    for (int b = MPQ_MIN_BITS; b < MPQ_MAX_BITS; b++)
        *out_bytes += memchr(bits, b, in->problem.n_layer) ? in->surcharge : 0;
    return MPQ_OK;
}

/* A byte too much by what the file has beyond the table: the next best is found at once, however
 * little the capacity has to fall by. */
static void constant_surcharge_costs_nothing(void **state)
{
    (void)state;
    for (uint64_t seed = 5000; seed < 5040; seed++) {
        struct search_case in;
        struct mpq_search_result result;
        search_make(&in, seed, 4);
        if (!isinf(search_brute_force(&in, search_table_loss))) {
            search_run(&in, &result);
            in.problem.measure = measure_constant;
            in.surcharge = 100;
            in.problem.cost[0].budget = result.cost[0] + in.surcharge - 1;
            double best = search_brute_force(&in, search_table_loss);
            if (!isinf(best)) {
                search_run(&in, &result);
                assert_true(search_table_loss(&in, result.bits) <= best * (1 + 1e-12));
            }
        }
        mpq_arena_free(in.arena);
    }
}

/* Programs that cost as much as a layer, budgets with room for one to five of them: the knapsack
 * finds something wherever there is something, mostly the best (184 of 196), and what it takes for
 * a bound is one. */
static void widths_are_left_out(void **state)
{
    (void)state;
    int n_best = 0, n_feasible = 0;
    for (uint64_t seed = 6000; seed < 6200; seed++) {
        struct search_case in;
        struct mpq_search_result result;
        search_make(&in, seed, 5);
        in.problem.measure = measure_widths;
        in.surcharge = 150;
        in.problem.cost[0].budget += (1 + seed % 5) * in.surcharge;
        double best = search_brute_force(&in, search_table_loss);
        if (!isinf(best)) {
            search_run(&in, &result);
            assert_non_null(result.estimated);
            assert_true(result.bound <= best * (1 + 1e-12));
            n_best += search_table_loss(&in, result.bits) <= best * (1 + 1e-12);
            n_feasible++;
        }
        mpq_arena_free(in.arena);
    }
    assert_true(n_best > 0.9 * n_feasible);
}

static double exact_bytes(const struct search_case *in, const uint8_t *bits)
{
    return (double)search_exact_cost(in, 0, bits);
}

/* Nor is the smallest file that whose layers are all smallest, if another does with fewer programs;
 * what is said to be the smallest is found, mostly it is (193 of 200). */
static void the_smallest_file_has_few_widths(void **state)
{
    (void)state;
    int n_least = 0;
    for (uint64_t seed = 7000; seed < 7200; seed++) {
        struct search_case in;
        struct mpq_search_result result;
        uint8_t bits[MAX_UNITS];
        uint64_t least;
        search_make(&in, seed, 5);
        in.problem.measure = measure_widths;
        in.surcharge = seed % 2 ? 150 : 2000; /* as much as a layer, as all of them */
        in.problem.cost[0].budget = MPQ_NO_LIMIT;
        double truth = search_brute_force(&in, exact_bytes);
        CHECK_OK(&in.ctx, mpq_search_least(&in.ctx, in.arena, &in.problem, 0, bits, &least));
        assert_int_equal(search_exact_cost(&in, 0, bits), least);
        assert_true((double)least >= truth);
        n_least += (double)least == truth;
        in.problem.cost[0].budget = least;
        search_run(&in, &result);
        in.problem.cost[0].budget = (uint64_t)truth - 1;
        CHECK_FAILS(&in.ctx, mpq_search(&in.ctx, in.arena, &in.problem, &result), MPQ_E_INFEASIBLE,
                    "the smallest needs");
        mpq_arena_free(in.arena);
    }
    assert_true(n_least > 180);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact_size_decides),
        cmocka_unit_test(constant_surcharge_costs_nothing),
        cmocka_unit_test(widths_are_left_out),
        cmocka_unit_test(the_smallest_file_has_few_widths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
