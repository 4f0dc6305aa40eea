#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/check.h"
#include "tests/unit/search_case.h"

/* The search without real evaluations finds just the best there is, or says that there is none. */
static void check_exact(struct search_case *in, uint32_t *n_feasible, const char *refusal)
{
    struct mpq_search_result result;
    double best = search_brute_force(in, search_table_loss);
    if (isinf(best)) {
        CHECK_FAILS(&in->ctx, mpq_search(&in->ctx, in->arena, &in->problem, &result),
                    MPQ_E_INFEASIBLE, refusal);
        return;
    }
    ++*n_feasible;
    search_run(in, &result);
    if (fabs(result.loss - best) > 1e-12 * best)
        fail_msg("seed=%u: %.17g, but %.17g is possible", (unsigned)in->seed, result.loss, best);
    assert_true(result.is_exact);
    CHECK_NEAR(result.bound, best, 1e-12, 0);
    CHECK_NEAR(result.estimate, best, 1e-12, 0);
    assert_non_null(result.estimated);
    CHECK_NEAR(search_table_loss(in, result.estimated), best, 1e-12, 0);
    assert_true(result.estimated_cost[0] <= in->problem.cost[0].budget);
}

static void knapsack_equals_brute_force(void **state)
{
    (void)state;
    uint32_t n_feasible = 0;
    for (uint64_t seed = 0; seed < 300; seed++) {
        struct search_case in;
        search_make(&in, seed, 1 + (uint32_t)(seed % 5));
        check_exact(&in, &n_feasible, "the smallest needs");
        mpq_arena_free(in.arena);
    }
    assert_true(n_feasible > 200);
}

/* Two to four limits, activations with a choice of widths. */
static void several_limits_equal_brute_force(void **state)
{
    (void)state;
    uint32_t n_feasible = 0;
    for (uint64_t seed = 0; seed < 240; seed++) {
        struct search_case in;
        search_make_with_groups(&in, 7000 + seed, 2 + (uint32_t)(seed % 3),
                                (uint32_t)(seed / 3 % 3));
        for (int c = 0; c < MPQ_N_COST; c++) {
            in.problem.cost[c].budget = MPQ_NO_LIMIT;
            if (((seed + 1) % 15 + 1) >> c & 1)
                search_limit(&in, (enum mpq_cost_kind)c,
                             0.2 + 0.7 * search_uniform(&in, 50, (uint32_t)c));
        }
        check_exact(&in, &n_feasible, "no allocation ");
        mpq_arena_free(in.arena);
    }
    assert_true(n_feasible > 150);
}

/* The price says by how much the loss falls: the best for a little more of the limit is not below
 * the bound that it draws; without a limit that binds there is none. */
static void prices_bound_what_more_would_bring(void **state)
{
    (void)state;
    uint32_t n_binding = 0;
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct search_case in;
        struct mpq_search_result result, more;
        search_make(&in, 8000 + seed, 5);
        in.problem.cost[MPQ_COST_size].budget += 300;
        search_run(&in, &result);
        in.problem.cost[MPQ_COST_size].budget += 100;
        search_run(&in, &more);
        assert_true(more.bound <= result.bound);
        n_binding += result.price[0] > 0;
        in.problem.cost[MPQ_COST_size].budget = 1000000;
        search_run(&in, &more);
        assert_true(more.price[0] == 0);
        mpq_arena_free(in.arena);
    }
    assert_true(n_binding > 30);
}

static void search_reaches_the_optimum_of_an_additive_truth(void **state)
{
    (void)state;
    for (uint64_t seed = 1000; seed < 1060; seed++) {
        struct search_case in;
        struct mpq_search_result result;
        search_make(&in, seed, 5);
        in.problem.score = search_score;
        double best = search_brute_force(&in, search_true_loss);
        if (!isinf(best)) {
            search_run(&in, &result);
            CHECK_NEAR(result.loss, best, 1e-12, 0);
        }
        mpq_arena_free(in.arena);
    }
}

/* Where the tables are wrong and layers interact, real evaluations must not lose against one width
 * for all layers, nor against the best by the table; and must not claim the impossible. */
static void search_is_never_worse_than_uniform(void **state)
{
    (void)state;
    uint32_t n_gain = 0;
    for (uint64_t seed = 2000; seed < 2060; seed++) {
        struct search_case in;
        struct mpq_search_result by_table, result;
        search_make(&in, seed, 5);
        for (uint32_t i = 0; i < 5 * MPQ_N_BITS; i++)
            in.truth[i] *= 0.2 + 2 * search_uniform(&in, 300, i);
        in.interaction = 2;
        double best = search_brute_force(&in, search_true_loss);
        if (!isinf(best)) {
            search_run(&in, &by_table);
            in.problem.score = search_score;
            search_run(&in, &result);
            CHECK_NEAR(result.loss, search_true_loss(&in, result.bits), 0, 0);
            assert_true(result.loss >= best);
            assert_true(result.loss <= search_true_loss(&in, by_table.bits));
            n_gain += result.loss < search_true_loss(&in, by_table.bits);
            for (uint8_t b = 2; b <= 8; b++) {
                uint8_t bits[5] = {b, b, b, b, b};
                bool is_allowed =
                    mpq_search_cost(&in.problem, 0, bits) <= in.problem.cost[0].budget;
                for (uint32_t l = 0; l < 5; l++)
                    is_allowed &= !isnan(in.sensitivity[l * MPQ_N_BITS + b]);
                assert_true(!is_allowed || result.loss <= search_true_loss(&in, bits));
            }
        }
        mpq_arena_free(in.arena);
    }
    assert_true(n_gain > 20);
}

static void evaluations_are_capped(void **state)
{
    (void)state;
    for (uint32_t cap = 1; cap < 40; cap += 6) {
        struct search_case in;
        struct mpq_search_result result;
        search_make(&in, 7, 30);
        in.interaction = 3;
        in.problem.score = search_score;
        in.problem.max_scores = cap;
        search_run(&in, &result);
        assert_true(in.n_calls <= cap);
        mpq_arena_free(in.arena);
    }
}

static enum mpq_status score_but_narrow(struct mpq_ctx *ctx, void *arg, const uint8_t *bits,
                                        double *out_sample_loss)
{
    const struct search_case *in = arg;
    bool is_narrow = true;
    for (uint32_t l = 0; l < in->problem.n_layer; l++)
        is_narrow = is_narrow && bits[l] < 7;
    assert_false(is_narrow);
    return search_score(ctx, arg, bits, out_sample_loss);
}

/* With room for all 8 bits, which are best, 7 bits are the last single width to be evaluated. */
static void uniform_widths_end_at_the_first_that_is_worse(void **state)
{
    (void)state;
    struct search_case in;
    struct mpq_search_result result;
    search_make(&in, 3, 6);
    for (uint32_t i = 0; i < 6 * MPQ_N_BITS; i++)
        in.sensitivity[i] = in.truth[i] =
            i % MPQ_N_BITS < MPQ_MIN_BITS ? (double)NAN : pow(4, -(double)(i % MPQ_N_BITS));
    in.problem.score = score_but_narrow;
    in.problem.cost[0].budget = 1000000;
    search_run(&in, &result);
    assert_int_equal(result.uniform_bits, 8);
    mpq_arena_free(in.arena);
}

/* 7 bits that nothing may have are not a single width, though 6 bits would do in their place. */
static void uniform_widths_are_candidates(void **state)
{
    (void)state;
    struct search_case in;
    struct mpq_search_result result;
    search_make(&in, 3, 6);
    for (uint32_t i = 0; i < 6 * MPQ_N_BITS; i++) {
        uint32_t b = i % MPQ_N_BITS;
        in.sensitivity[i] = in.truth[i] =
            b < MPQ_MIN_BITS || b >= 7 ? (double)NAN : pow(4, -(double)b);
    }
    in.problem.cost[0].budget = 1000000;
    search_run(&in, &result);
    assert_int_equal(result.uniform_bits, 6);
    mpq_arena_free(in.arena);
}

/* All widths cost and lose the same: the fewest bytes, found the same way each time. */
static void ties_go_to_fewer_bytes(void **state)
{
    (void)state;
    struct search_case in;
    struct mpq_search_result result;
    search_make(&in, 3, 6);
    for (uint32_t i = 0; i < 6 * MPQ_N_BITS; i++)
        in.sensitivity[i] = in.truth[i] = 0.25;
    in.problem.score = search_score;
    in.problem.cost[0].budget = 1000000;
    search_run(&in, &result);
    for (uint32_t l = 0; l < 6; l++)
        assert_int_equal(result.bits[l], 2);
    mpq_arena_free(in.arena);
}

/* As large as there are, beyond what a difference holds. */
static void a_limit_that_nothing_reaches_changes_nothing(void **state)
{
    (void)state;
    for (uint64_t seed = 8000; seed < 8010; seed++) {
        struct search_case in;
        struct mpq_search_result free, limited;
        search_make(&in, seed, 6);
        in.problem.score = search_score;
        in.interaction = 1;
        search_limit(&in, MPQ_COST_size, 0.5);
        search_run(&in, &free);
        in.problem.cost[MPQ_COST_bitops].budget = MPQ_NO_LIMIT - 1;
        in.n_calls = 0;
        search_run(&in, &limited);
        assert_memory_equal(limited.bits, free.bits, 6);
        assert_int_equal(limited.n_score, free.n_score);
        mpq_arena_free(in.arena);
    }
}

static void results_repeat(void **state)
{
    (void)state;
    struct mpq_search_result result[2];
    struct search_case in[2];
    for (int i = 0; i < 2; i++) {
        search_make(&in[i], 11, 40);
        in[i].interaction = 1;
        in[i].problem.score = search_score;
        search_run(&in[i], &result[i]);
    }
    assert_memory_equal(result[0].bits, result[1].bits, 40);
    assert_int_equal(in[0].n_calls, in[1].n_calls);
    mpq_arena_free(in[0].arena);
    mpq_arena_free(in[1].arena);
}

/* Two layers: 2 with both at 4 bits, less in->interaction at in->favoured, where half of the
 * samples each lie one above and one below; 3 elsewhere. */
static enum mpq_status noisy_score(struct mpq_ctx *ctx, void *arg, const uint8_t *bits,
                                   double *out_sample_loss)
{
    struct search_case *in = arg;
    bool is_favoured = memcmp(bits, in->favoured, 2) == 0;
    double mean = is_favoured ? 2 - in->interaction : bits[0] == 4 && bits[1] == 4 ? 2 : 3;
    (void)ctx;
    in->n_calls++;
    for (uint32_t i = 0; i < in->problem.n_sample; i++)
        out_sample_loss[i] = mean + (!is_favoured ? 0 : i % 2 ? 1 : -1);
    return MPQ_OK;
}

/* By how much another allocation must be better than the one that the table finds: a standard error
 * of the difference where something is won and something lost, twice that where it is narrower; a
 * wider one may be worse by as much. */
static void noise_is_not_followed(void **state)
{
    (void)state;
    static const struct {
        uint8_t bits[2];
        double gain;
        bool is_taken;
    } cases[] = {
        {{5, 3}, 0.12, true},  {{5, 3}, 0.08, false}, {{4, 3}, 0.22, true},
        {{4, 3}, 0.18, false}, {{5, 4}, -0.18, true}, {{5, 4}, -0.22, false},
    };
    for (size_t k = 0; k < MPQ_COUNT(cases); k++) {
        struct search_case in;
        struct mpq_search_result result;
        search_make(&in, 1, 2);
        for (uint32_t i = 0; i < 2 * MPQ_N_BITS; i++)
            in.sensitivity[i] = i % MPQ_N_BITS == 4 ? 0 : 1;
        in.problem.cost[0].budget = 1000000;
        in.problem.score = noisy_score;
        in.problem.n_sample = 100; /* standard error 0.1 */
        memcpy(in.favoured, cases[k].bits, 2);
        in.interaction = cases[k].gain;
        search_run(&in, &result);
        assert_int_equal(memcmp(result.bits, in.favoured, 2) == 0, cases[k].is_taken);
        CHECK_NEAR(result.loss, cases[k].is_taken ? 2 - cases[k].gain : 2, 1e-12, 0);
        mpq_arena_free(in.arena);
    }
}

static void paired_means(void **state)
{
    (void)state;
    const double x[] = {1, 2, 4, 9}, y[] = {1, 1, 2, 4};
    double error;
    CHECK_NEAR(mpq_search_mean(x, y, 4, &error), 2, 1e-15, 0);
    CHECK_NEAR(error, sqrt((4 + 1 + 0 + 9) / 3.0 / 4), 1e-15, 0);
    CHECK_NEAR(mpq_search_mean(x, NULL, 4, &error), 4, 1e-15, 0);
    CHECK_NEAR(mpq_search_mean(x, NULL, 1, &error), 1, 1e-15, 0);
    assert_true(error == 0);
}

static void locked_layers_stay(void **state)
{
    (void)state;
    struct search_case in;
    struct mpq_search_result result;
    search_make(&in, 9, 10);
    for (uint32_t b = 0; b < MPQ_N_BITS; b++)
        if (b != 7)
            in.sensitivity[3 * MPQ_N_BITS + b] = NAN;
    in.sensitivity[3 * MPQ_N_BITS + 7] = 1;
    in.problem.score = search_score;
    in.problem.cost[0].budget += 1000;
    search_run(&in, &result);
    assert_int_equal(result.bits[3], 7);
    mpq_arena_free(in.arena);
}

static void what_cannot_be_is_said(void **state)
{
    (void)state;
    struct search_case in;
    struct mpq_search_result result;
    search_make(&in, 1, 4);
    in.problem.cost[0].budget = 1000;
    CHECK_FAILS(&in.ctx, mpq_search(&in.ctx, in.arena, &in.problem, &result), MPQ_E_INFEASIBLE,
                "no allocation fits file size of 1000 bytes; the smallest needs ");
    in.problem.cost[0].budget = 1000000;
    in.problem.cost[MPQ_COST_bitops].budget = 5;
    CHECK_FAILS(&in.ctx, mpq_search(&in.ctx, in.arena, &in.problem, &result), MPQ_E_INFEASIBLE,
                "no allocation fits BitOPs of 5e-09 G");
    for (uint32_t b = 0; b < MPQ_N_BITS; b++)
        in.sensitivity[2 * MPQ_N_BITS + b] = NAN;
    CHECK_FAILS(&in.ctx, mpq_search(&in.ctx, in.arena, &in.problem, &result), MPQ_E_NUMERIC,
                "layer 2");
    mpq_arena_free(in.arena);
}

static void user_can_stop(void **state)
{
    (void)state;
    struct search_case in;
    struct mpq_search_result result;
    volatile sig_atomic_t stop = 1;
    search_make(&in, 2, 4);
    in.problem.score = search_score;
    in.problem.cost[0].budget = 1000000;
    in.ctx.cancel = &stop;
    assert_int_equal(mpq_search(&in.ctx, in.arena, &in.problem, &result), MPQ_E_CANCELLED);
    mpq_arena_free(in.arena);
}

static void lack_of_memory_is_survived(void **state)
{
    (void)state;
    for (long n = 0;; n++) {
        struct search_case in;
        struct mpq_search_result result;
        search_make(&in, 13, 6);
        in.problem.score = search_score;
        in.problem.cost[0].budget += 1000;
        in.ctx.allocations_left = n;
        enum mpq_status status = mpq_search(&in.ctx, in.arena, &in.problem, &result);
        mpq_arena_free(in.arena);
        if (status == MPQ_OK) {
            assert_true(n > 10);
            return;
        }
        assert_int_equal(status, MPQ_E_NOMEM);
    }
}

static void costs_are_what_they_say(void **state)
{
    (void)state;
    struct search_case in;
    search_make_with_groups(&in, 1, 2, 1);
    in.layer[0] = (struct mpq_layer){.macs = 1000, .n_param = 10};
    in.layer[1] = (struct mpq_layer){.macs = 30, .n_param = 30};
    in.input_group[1] = 0;
    search_make_costs(&in);
    const uint8_t bits[] = {3, 5, 4};
    const struct mpq_search_problem *p = &in.problem;
    assert_int_equal(mpq_search_cost(p, MPQ_COST_bitops, bits), 1000 * 3 * 8 + 30 * 5 * 4);
    assert_int_equal(mpq_search_cost(p, MPQ_COST_size, bits),
                     1000 + in.bytes[3] + in.bytes[MPQ_N_BITS + 5] + 20);
    CHECK_NEAR((double)mpq_search_cost(p, MPQ_COST_avg_bits, bits) *
                   p->cost[MPQ_COST_avg_bits].shown,
               (3 * 10 + 5 * 30) / 40.0, 1e-15, 0);
    CHECK_NEAR((double)mpq_search_cost(p, MPQ_COST_latency, bits) * 1e-12,
               in.seconds[MPQ_COST_AT(0, 3, 0)] + in.seconds[MPQ_COST_AT(1, 5, 4)], 1e-9, 0);
    mpq_arena_free(in.arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(knapsack_equals_brute_force),
        cmocka_unit_test(several_limits_equal_brute_force),
        cmocka_unit_test(prices_bound_what_more_would_bring),
        cmocka_unit_test(search_reaches_the_optimum_of_an_additive_truth),
        cmocka_unit_test(search_is_never_worse_than_uniform),
        cmocka_unit_test(evaluations_are_capped),
        cmocka_unit_test(uniform_widths_end_at_the_first_that_is_worse),
        cmocka_unit_test(uniform_widths_are_candidates),
        cmocka_unit_test(ties_go_to_fewer_bytes),
        cmocka_unit_test(a_limit_that_nothing_reaches_changes_nothing),
        cmocka_unit_test(results_repeat),
        cmocka_unit_test(noise_is_not_followed),
        cmocka_unit_test(paired_means),
        cmocka_unit_test(locked_layers_stay),
        cmocka_unit_test(what_cannot_be_is_said),
        cmocka_unit_test(user_can_stop),
        cmocka_unit_test(lack_of_memory_is_survived),
        cmocka_unit_test(costs_are_what_they_say),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
