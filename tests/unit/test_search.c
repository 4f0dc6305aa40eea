#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quantcore/base/rng.h"
#include "quantcore/search/search.h"
#include "tests/check.h"

enum { MAX_LAYERS = 40 };

/* A made-up problem: tables, and an oracle for the loss that may know more than the tables. */
struct instance {
    struct mpq_ctx ctx;
    struct mpq_arena *arena;
    struct mpq_search_problem problem;
    double sensitivity[MAX_LAYERS * MPQ_N_BITS], truth[MAX_LAYERS * MPQ_N_BITS];
    uint64_t bytes[MAX_LAYERS * MPQ_N_BITS], bitops[MAX_LAYERS * MPQ_N_BITS];
    double interaction; /* of neighbouring layers, in the truth         */
    uint64_t surcharge; /* that the exact size has over the table's sum */
    uint32_t n_calls;
    uint64_t seed;
};

static double uniform(const struct instance *in, uint32_t i, uint32_t j)
{
    return mpq_rng_uniform(in->seed, MPQ_STREAM_TEST, i, j);
}

static double true_loss(const struct instance *in, const uint8_t *bits)
{
    double loss = 0;
    for (uint32_t l = 0; l < in->problem.n_layer; l++) {
        loss += in->truth[l * MPQ_N_BITS + bits[l]];
        if (l > 0 && in->interaction != 0)
            loss += in->interaction * uniform(in, 100 + l, bits[l - 1] * 16u + bits[l]);
    }
    return loss;
}

static enum mpq_status score(struct mpq_ctx *ctx, void *arg, const uint8_t *bits, double *out_loss)
{
    struct instance *in = arg;
    (void)ctx;
    in->n_calls++;
    *out_loss = true_loss(in, bits);
    return MPQ_OK;
}

static enum mpq_status measure(struct mpq_ctx *ctx, void *arg, const uint8_t *bits,
                               uint64_t *out_bytes)
{
    const struct instance *in = arg;
    const struct mpq_search_problem *p = &in->problem;
    (void)ctx;
    *out_bytes = p->other_bytes + mpq_cost_sum(p->n_layer, p->layer_bytes, bits);
    for (uint32_t l = 1; l < p->n_layer; l++) /* a table for each width in use, say */
        if (bits[l] != bits[0]) {
            *out_bytes += in->surcharge;
            break;
        }
    return MPQ_OK;
}

/* Losses fall with the width about as 4^-b, some widths are forbidden, the budget is between the
 * smallest and the largest size. */
static void make(struct instance *in, uint64_t seed, uint32_t n_layer)
{
    memset(in, 0, sizeof *in);
    mpq_ctx_init(&in->ctx);
    in->arena = mpq_arena_create(&in->ctx);
    in->seed = seed;
    in->problem = (struct mpq_search_problem){.n_layer = n_layer,
                                              .sensitivity = in->sensitivity,
                                              .layer_bytes = in->bytes,
                                              .other_bytes = 1000,
                                              .float_bytes = 100000,
                                              .arg = in,
                                              .max_scores = 1000};
    uint64_t least = 0, most = 0;
    for (uint32_t l = 0; l < n_layer; l++) {
        double weight = pow(10, 3 * uniform(in, l, 0));
        uint64_t n_param = 8 + (uint64_t)(1000 * uniform(in, l, 1));
        for (uint32_t b = 0; b < MPQ_N_BITS; b++) {
            uint32_t i = l * MPQ_N_BITS + b;
            bool is_allowed = b == 4 || (b >= 2 && uniform(in, l, 10 + b) < 0.8);
            in->truth[i] = weight * pow(4, -(double)b) * (0.5 + uniform(in, l, 20 + b));
            in->sensitivity[i] = is_allowed ? in->truth[i] : (double)NAN;
            in->bytes[i] = (n_param * b + 7) / 8 + 4;
            in->bitops[i] = n_param * b;
        }
        least += in->bytes[l * MPQ_N_BITS + 2];
        most += in->bytes[l * MPQ_N_BITS + 8];
    }
    in->problem.budget_bytes =
        1000 + least + (uint64_t)((double)(most - least) * uniform(in, 0, 40));
}

static void search(struct instance *in, struct mpq_search_result *result)
{
    CHECK_OK(&in->ctx, mpq_search(&in->ctx, in->arena, &in->problem, result));
    bool is_within = result->size_bytes <= in->problem.budget_bytes;
    assert_true(is_within);
    assert_int_equal(result->n_score, in->n_calls);
    for (uint32_t l = 0; l < in->problem.n_layer; l++)
        assert_false(isnan(in->sensitivity[l * MPQ_N_BITS + result->bits[l]]));
}

/* The least loss by trying everything, INFINITY where nothing fits. */
static double brute_force(const struct instance *in,
                          double (*loss)(const struct instance *, const uint8_t *))
{
    const struct mpq_search_problem *p = &in->problem;
    uint8_t bits[MAX_LAYERS];
    double best = (double)INFINITY;
    memset(bits, MPQ_MIN_BITS, sizeof bits);
    for (;;) {
        bool is_allowed =
            p->other_bytes + mpq_cost_sum(p->n_layer, in->bytes, bits) <= p->budget_bytes;
        if (p->layer_bitops)
            is_allowed &= mpq_cost_sum(p->n_layer, in->bitops, bits) <= p->budget_bitops;
        for (uint32_t l = 0; l < p->n_layer; l++)
            is_allowed &= !isnan(in->sensitivity[l * MPQ_N_BITS + bits[l]]);
        if (is_allowed)
            best = fmin(best, loss(in, bits));
        uint32_t l = 0;
        while (l < p->n_layer && ++bits[l] > MPQ_MAX_BITS)
            bits[l++] = MPQ_MIN_BITS;
        if (l == p->n_layer)
            return best;
    }
}

static double table_loss(const struct instance *in, const uint8_t *bits)
{
    double loss = 0;
    for (uint32_t l = 0; l < in->problem.n_layer; l++)
        loss += in->sensitivity[l * MPQ_N_BITS + bits[l]];
    return loss;
}

static void knapsack_equals_brute_force(void **state)
{
    (void)state;
    uint32_t n_feasible = 0;
    for (uint64_t seed = 0; seed < 300; seed++) {
        struct instance in;
        struct mpq_search_result result;
        make(&in, seed, 1 + (uint32_t)(seed % 5));
        double best = brute_force(&in, table_loss);
        if (isinf(best)) {
            CHECK_FAILS(&in.ctx, mpq_search(&in.ctx, in.arena, &in.problem, &result),
                        MPQ_E_INFEASIBLE, "the smallest needs");
        } else {
            n_feasible++;
            search(&in, &result);
            if (fabs(result.loss - best) > 1e-12 * best)
                fail_msg("seed=%u: %.17g, but %.17g is possible", (unsigned)seed, result.loss,
                         best);
        }
        mpq_arena_free(in.arena);
    }
    assert_true(n_feasible > 200);
}

static void search_reaches_the_optimum_of_an_additive_truth(void **state)
{
    (void)state;
    for (uint64_t seed = 1000; seed < 1060; seed++) {
        struct instance in;
        struct mpq_search_result result;
        make(&in, seed, 5);
        in.problem.score = score;
        double best = brute_force(&in, true_loss);
        if (!isinf(best)) {
            search(&in, &result);
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
        struct instance in;
        struct mpq_search_result by_table, result;
        make(&in, seed, 5);
        for (uint32_t i = 0; i < 5 * MPQ_N_BITS; i++)
            in.truth[i] *= 0.2 + 2 * uniform(&in, 300, i);
        in.interaction = 2;
        double best = brute_force(&in, true_loss);
        if (!isinf(best)) {
            search(&in, &by_table);
            in.problem.score = score;
            search(&in, &result);
            CHECK_NEAR(result.loss, true_loss(&in, result.bits), 0, 0);
            assert_true(result.loss >= best);
            assert_true(result.loss <= true_loss(&in, by_table.bits));
            n_gain += result.loss < true_loss(&in, by_table.bits);
            for (uint8_t b = 2; b <= 8; b++) {
                uint8_t bits[5] = {b, b, b, b, b};
                bool is_allowed = 1000 + mpq_cost_sum(5, in.bytes, bits) <= in.problem.budget_bytes;
                for (uint32_t l = 0; l < 5; l++)
                    is_allowed &= !isnan(in.sensitivity[l * MPQ_N_BITS + b]);
                assert_true(!is_allowed || result.loss <= true_loss(&in, bits));
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
        struct instance in;
        struct mpq_search_result result;
        make(&in, 7, 30);
        in.interaction = 3;
        in.problem.score = score;
        in.problem.max_scores = cap;
        search(&in, &result);
        assert_true(in.n_calls <= cap);
        mpq_arena_free(in.arena);
    }
}

/* All widths cost and lose the same: the fewest bytes, found the same way each time. */
static void ties_go_to_fewer_bytes(void **state)
{
    (void)state;
    struct instance in;
    struct mpq_search_result result;
    make(&in, 3, 6);
    for (uint32_t i = 0; i < 6 * MPQ_N_BITS; i++)
        in.sensitivity[i] = in.truth[i] = 0.25;
    in.problem.score = score;
    in.problem.budget_bytes = 1000000;
    search(&in, &result);
    for (uint32_t l = 0; l < 6; l++)
        assert_int_equal(result.bits[l], 2);
    mpq_arena_free(in.arena);
}

static void results_repeat(void **state)
{
    (void)state;
    struct mpq_search_result result[2];
    struct instance in[2];
    for (int i = 0; i < 2; i++) {
        make(&in[i], 11, 40);
        in[i].interaction = 1;
        in[i].problem.score = score;
        search(&in[i], &result[i]);
    }
    assert_memory_equal(result[0].bits, result[1].bits, 40);
    assert_int_equal(in[0].n_calls, in[1].n_calls);
    mpq_arena_free(in[0].arena);
    mpq_arena_free(in[1].arena);
}

/* The table says less than the file takes. */
static void exact_size_decides(void **state)
{
    (void)state;
    for (uint64_t seed = 4000; seed < 4040; seed++) {
        struct instance in;
        struct mpq_search_result result;
        make(&in, seed, 8);
        in.problem.measure = measure;
        in.surcharge = 100;
        in.problem.budget_bytes += 200; /* there is always something that fits */
        search(&in, &result);
        uint64_t bytes;
        CHECK_OK(&in.ctx, measure(&in.ctx, &in, result.bits, &bytes));
        assert_int_equal(result.size_bytes, bytes);
        mpq_arena_free(in.arena);
    }
}

static void bit_operations_are_limited(void **state)
{
    (void)state;
    uint32_t n_best = 0, n = 0;
    for (uint64_t seed = 5000; seed < 5060; seed++) {
        struct instance in;
        struct mpq_search_result result;
        make(&in, seed, 5);
        in.problem.layer_bitops = in.bitops;
        for (uint32_t l = 0; l < 5; l++)
            in.problem.budget_bitops += in.bitops[l * MPQ_N_BITS + 4];
        in.problem.budget_bytes = 100000;
        search(&in, &result);
        assert_true(mpq_cost_sum(5, in.bitops, result.bits) <= in.problem.budget_bitops);
        double best = brute_force(&in, table_loss);
        assert_true(result.loss >= best * (1 - 1e-12));
        n++;
        n_best += result.loss <= best * 1.02;
        mpq_arena_free(in.arena);
    }
    assert_true(n_best * 10 >= n * 8); /* with two limits the knapsack is not exact */
}

static void locked_layers_stay(void **state)
{
    (void)state;
    struct instance in;
    struct mpq_search_result result;
    make(&in, 9, 10);
    for (uint32_t b = 0; b < MPQ_N_BITS; b++)
        if (b != 7)
            in.sensitivity[3 * MPQ_N_BITS + b] = NAN;
    in.sensitivity[3 * MPQ_N_BITS + 7] = 1;
    in.problem.score = score;
    in.problem.budget_bytes += 1000;
    search(&in, &result);
    assert_int_equal(result.bits[3], 7);
    mpq_arena_free(in.arena);
}

static void what_cannot_be_is_said(void **state)
{
    (void)state;
    struct instance in;
    struct mpq_search_result result;
    make(&in, 1, 4);
    in.problem.budget_bytes = 1000;
    CHECK_FAILS(&in.ctx, mpq_search(&in.ctx, in.arena, &in.problem, &result), MPQ_E_INFEASIBLE,
                "no allocation fits 1000 bytes; the smallest needs ");
    in.problem.budget_bytes = 1000000;
    in.problem.layer_bitops = in.bitops;
    CHECK_FAILS(&in.ctx, mpq_search(&in.ctx, in.arena, &in.problem, &result), MPQ_E_INFEASIBLE,
                "0 bit operations");
    for (uint32_t b = 0; b < MPQ_N_BITS; b++)
        in.sensitivity[2 * MPQ_N_BITS + b] = NAN;
    CHECK_FAILS(&in.ctx, mpq_search(&in.ctx, in.arena, &in.problem, &result), MPQ_E_NUMERIC,
                "layer 2");
    mpq_arena_free(in.arena);
}

static void user_can_stop(void **state)
{
    (void)state;
    struct instance in;
    struct mpq_search_result result;
    volatile sig_atomic_t stop = 1;
    make(&in, 2, 4);
    in.problem.score = score;
    in.problem.budget_bytes = 1000000;
    in.ctx.cancel = &stop;
    assert_int_equal(mpq_search(&in.ctx, in.arena, &in.problem, &result), MPQ_E_CANCELLED);
    mpq_arena_free(in.arena);
}

static void lack_of_memory_is_survived(void **state)
{
    (void)state;
    for (long n = 0;; n++) {
        struct instance in;
        struct mpq_search_result result;
        make(&in, 13, 6);
        in.problem.score = score;
        in.problem.budget_bytes += 1000;
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

static void bitops_are_a_product(void **state)
{
    (void)state;
    uint64_t table[2 * MPQ_N_BITS];
    mpq_cost_bitops(2, (uint64_t[]){1000, 30}, (uint8_t[]){8, 4}, table);
    assert_int_equal(mpq_cost_sum(2, table, (uint8_t[]){3, 5}), 1000 * 3 * 8 + 30 * 5 * 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(knapsack_equals_brute_force),
        cmocka_unit_test(search_reaches_the_optimum_of_an_additive_truth),
        cmocka_unit_test(search_is_never_worse_than_uniform),
        cmocka_unit_test(evaluations_are_capped),
        cmocka_unit_test(ties_go_to_fewer_bytes),
        cmocka_unit_test(results_repeat),
        cmocka_unit_test(exact_size_decides),
        cmocka_unit_test(bit_operations_are_limited),
        cmocka_unit_test(locked_layers_stay),
        cmocka_unit_test(what_cannot_be_is_said),
        cmocka_unit_test(user_can_stop),
        cmocka_unit_test(lack_of_memory_is_survived),
        cmocka_unit_test(bitops_are_a_product),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
