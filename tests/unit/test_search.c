#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quantcore/base/rng.h"
#include "quantcore/search/search.h"
#include "tests/check.h"

enum { MAX_LAYERS = 40, MAX_GROUPS = 4, MAX_UNITS = MAX_LAYERS + MAX_GROUPS };

/* A made-up problem: tables, and an oracle for the loss that may know more than the tables. */
struct instance {
    struct mpq_ctx ctx;
    struct mpq_arena *arena;
    struct mpq_search_problem problem;
    double sensitivity[MAX_UNITS * MPQ_N_BITS], truth[MAX_UNITS * MPQ_N_BITS];
    uint64_t bytes[MAX_LAYERS * MPQ_N_BITS], group_bytes[MAX_GROUPS * MPQ_N_BITS];
    double seconds[MAX_LAYERS * MPQ_N_BITS * MPQ_N_BITS];
    struct mpq_layer layer[MAX_LAYERS];
    uint32_t input_group[MAX_LAYERS];
    uint8_t input_bits[MAX_LAYERS];
    double interaction;  /* of neighbouring layers, in the truth         */
    uint8_t favoured[2]; /* of noisy_score() */
    uint64_t surcharge;  /* that the exact size has over the table's sum */
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
    for (uint32_t l = 0; l < in->problem.n_layer + in->problem.n_group; l++) {
        loss += in->truth[l * MPQ_N_BITS + bits[l]];
        if (l > 0 && in->interaction != 0)
            loss += in->interaction * uniform(in, 100 + l, bits[l - 1] * 16u + bits[l]);
    }
    return loss;
}

static enum mpq_status score(struct mpq_ctx *ctx, void *arg, const uint8_t *bits,
                             double *out_sample_loss)
{
    struct instance *in = arg;
    (void)ctx;
    in->n_calls++;
    for (uint32_t i = 0; i < in->problem.n_sample; i++)
        out_sample_loss[i] = true_loss(in, bits);
    return MPQ_OK;
}

static enum mpq_status measure(struct mpq_ctx *ctx, void *arg, const uint8_t *bits,
                               uint64_t *out_bytes)
{
    const struct instance *in = arg;
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

static void make_costs(struct instance *in)
{
    struct mpq_search_problem *p = &in->problem;
    const struct mpq_cost_inputs inputs = {p->n_layer,      p->n_group,     in->layer,
                                           in->input_group, in->input_bits, in->bytes,
                                           in->group_bytes, 1000,           in->seconds};
    for (int c = 0; c < MPQ_N_COST; c++)
        CHECK_OK(&in->ctx,
                 mpq_cost_make(&in->ctx, in->arena, (enum mpq_cost_kind)c, &inputs, &p->cost[c]));
}

/* A limit between the least and the most that all units at one width cost. */
static void limit(struct instance *in, enum mpq_cost_kind kind, double share)
{
    uint8_t low[MAX_UNITS], high[MAX_UNITS];
    memset(low, 2, sizeof low);
    memset(high, 8, sizeof high);
    uint64_t least = mpq_search_cost(&in->problem, kind, low);
    uint64_t most = mpq_search_cost(&in->problem, kind, high);
    in->problem.cost[kind].budget = least + (uint64_t)((double)(most - least) * share);
}

/* Losses fall with the width about as 4^-b, some widths are forbidden, the budget is between the
 * smallest and the largest size. Every second layer reads a group of activations, if there are any,
 * and the groups have readers of either kind: several, one, none. */
static void make_with_groups(struct instance *in, uint64_t seed, uint32_t n_layer, uint32_t n_group)
{
    memset(in, 0, sizeof *in);
    mpq_ctx_init(&in->ctx);
    in->arena = mpq_arena_create(&in->ctx);
    in->seed = seed;
    in->problem = (struct mpq_search_problem){.n_layer = n_layer,
                                              .n_group = n_group,
                                              .input_group = in->input_group,
                                              .sensitivity = in->sensitivity,
                                              .n_cost = MPQ_N_COST,
                                              .float_bytes = 100000,
                                              .arg = in,
                                              .n_sample = 1,
                                              .max_scores = 1000};
    for (uint32_t l = 0; l < n_layer + n_group; l++) {
        double weight = pow(10, 3 * uniform(in, l, 0));
        uint64_t n_param = 8 + (uint64_t)(1000 * uniform(in, l, 1));
        for (uint32_t b = 0; b < MPQ_N_BITS; b++) {
            uint32_t i = l * MPQ_N_BITS + b;
            bool is_allowed = b == 4 || (b >= 2 && uniform(in, l, 10 + b) < 0.8);
            in->truth[i] = weight * pow(4, -(double)b) * (0.5 + uniform(in, l, 20 + b));
            in->sensitivity[i] = is_allowed ? in->truth[i] : (double)NAN;
            if (l >= n_layer) {
                in->group_bytes[(l - n_layer) * MPQ_N_BITS + b] = b < 8 ? 20 : 0;
                continue;
            }
            in->bytes[i] = (n_param * b + 7) / 8 + 4;
            for (uint32_t a = 0; a < MPQ_N_BITS; a++) /* kernels of 2, 4 and 8 bits, say */
                in->seconds[MPQ_COST_AT(l, b, a)] = 1e-9 * (double)n_param *
                                                        (b > 4    ? 8
                                                         : b == 3 ? 5
                                                                  : b) +
                                                    1e-9 * a;
        }
        if (l >= n_layer)
            continue;
        in->layer[l] = (struct mpq_layer){.n_param = (int64_t)n_param,
                                          .macs = 1 + (uint64_t)(5000 * uniform(in, l, 2))};
        in->input_bits[l] = 8;
        in->input_group[l] =
            n_group && l % 2 ? (uint32_t)(uniform(in, l, 3) * n_group) : MPQ_NO_GROUP;
    }
    make_costs(in);
    limit(in, MPQ_COST_size, uniform(in, 0, 40));
}

static void make(struct instance *in, uint64_t seed, uint32_t n_layer)
{
    make_with_groups(in, seed, n_layer, 0);
}

static void search(struct instance *in, struct mpq_search_result *result)
{
    CHECK_OK(&in->ctx, mpq_search(&in->ctx, in->arena, &in->problem, result));
    for (uint32_t c = 0; c < in->problem.n_cost; c++) {
        assert_true(result->cost[c] <= in->problem.cost[c].budget);
        if (c > 0)
            assert_int_equal(result->cost[c], mpq_search_cost(&in->problem, c, result->bits));
    }
    assert_int_equal(result->n_score, in->n_calls);
    for (uint32_t l = 0; l < in->problem.n_layer + in->problem.n_group; l++)
        assert_false(isnan(in->sensitivity[l * MPQ_N_BITS + result->bits[l]]));
}

static uint64_t exact_cost(const struct instance *in, uint32_t c, const uint8_t *bits)
{
    uint64_t cost = mpq_search_cost(&in->problem, c, bits);
    if (c == 0 && in->problem.measure)
        assert_int_equal(in->problem.measure(NULL, in->problem.arg, bits, &cost), MPQ_OK);
    return cost;
}

/* The least loss by trying everything, INFINITY where nothing fits. */
static double brute_force(const struct instance *in,
                          double (*loss)(const struct instance *, const uint8_t *))
{
    const struct mpq_search_problem *p = &in->problem;
    uint32_t n_unit = p->n_layer + p->n_group;
    uint8_t bits[MAX_UNITS];
    double best = (double)INFINITY;
    memset(bits, MPQ_MIN_BITS, sizeof bits);
    for (;;) {
        bool is_allowed = true;
        for (uint32_t l = 0; l < n_unit; l++)
            is_allowed &= !isnan(in->sensitivity[l * MPQ_N_BITS + bits[l]]);
        for (uint32_t c = 0; c < p->n_cost && is_allowed; c++)
            is_allowed = exact_cost(in, c, bits) <= p->cost[c].budget;
        if (is_allowed)
            best = fmin(best, loss(in, bits));
        uint32_t l = 0;
        while (l < n_unit && ++bits[l] > MPQ_MAX_BITS)
            bits[l++] = MPQ_MIN_BITS;
        if (l == n_unit)
            return best;
    }
}

static double table_loss(const struct instance *in, const uint8_t *bits)
{
    double loss = 0;
    for (uint32_t l = 0; l < in->problem.n_layer + in->problem.n_group; l++)
        loss += in->sensitivity[l * MPQ_N_BITS + bits[l]];
    return loss;
}

/* The search without real evaluations finds just the best there is, or says that there is none. */
static void check_exact(struct instance *in, uint32_t *n_feasible, const char *refusal)
{
    struct mpq_search_result result;
    double best = brute_force(in, table_loss);
    if (isinf(best)) {
        CHECK_FAILS(&in->ctx, mpq_search(&in->ctx, in->arena, &in->problem, &result),
                    MPQ_E_INFEASIBLE, refusal);
        return;
    }
    ++*n_feasible;
    search(in, &result);
    if (fabs(result.loss - best) > 1e-12 * best)
        fail_msg("seed=%u: %.17g, but %.17g is possible", (unsigned)in->seed, result.loss, best);
    assert_true(result.is_exact);
    CHECK_NEAR(result.bound, best, 1e-12, 0);
    CHECK_NEAR(result.estimate, best, 1e-12, 0);
    assert_non_null(result.estimated);
    CHECK_NEAR(table_loss(in, result.estimated), best, 1e-12, 0);
    assert_true(result.estimated_cost[0] <= in->problem.cost[0].budget);
}

static void knapsack_equals_brute_force(void **state)
{
    (void)state;
    uint32_t n_feasible = 0;
    for (uint64_t seed = 0; seed < 300; seed++) {
        struct instance in;
        make(&in, seed, 1 + (uint32_t)(seed % 5));
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
        struct instance in;
        make_with_groups(&in, 7000 + seed, 2 + (uint32_t)(seed % 3), (uint32_t)(seed / 3 % 3));
        for (int c = 0; c < MPQ_N_COST; c++) {
            in.problem.cost[c].budget = MPQ_NO_LIMIT;
            if (((seed + 1) % 15 + 1) >> c & 1)
                limit(&in, (enum mpq_cost_kind)c, 0.2 + 0.7 * uniform(&in, 50, (uint32_t)c));
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
        struct instance in;
        struct mpq_search_result result, more;
        make(&in, 8000 + seed, 5);
        in.problem.cost[MPQ_COST_size].budget += 300;
        search(&in, &result);
        in.problem.cost[MPQ_COST_size].budget += 100;
        search(&in, &more);
        assert_true(more.bound <= result.bound);
        n_binding += result.price[0] > 0;
        in.problem.cost[MPQ_COST_size].budget = 1000000;
        search(&in, &more);
        assert_true(more.price[0] == 0);
        mpq_arena_free(in.arena);
    }
    assert_true(n_binding > 30);
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
                bool is_allowed =
                    mpq_search_cost(&in.problem, 0, bits) <= in.problem.cost[0].budget;
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

static enum mpq_status score_but_narrow(struct mpq_ctx *ctx, void *arg, const uint8_t *bits,
                                        double *out_sample_loss)
{
    const struct instance *in = arg;
    bool is_narrow = true;
    for (uint32_t l = 0; l < in->problem.n_layer; l++)
        is_narrow = is_narrow && bits[l] < 7;
    assert_false(is_narrow);
    return score(ctx, arg, bits, out_sample_loss);
}

/* With room for all 8 bits, which are best, 7 bits are the last single width to be evaluated. */
static void uniform_widths_end_at_the_first_that_is_worse(void **state)
{
    (void)state;
    struct instance in;
    struct mpq_search_result result;
    make(&in, 3, 6);
    for (uint32_t i = 0; i < 6 * MPQ_N_BITS; i++)
        in.sensitivity[i] = in.truth[i] =
            i % MPQ_N_BITS < MPQ_MIN_BITS ? (double)NAN : pow(4, -(double)(i % MPQ_N_BITS));
    in.problem.score = score_but_narrow;
    in.problem.cost[0].budget = 1000000;
    search(&in, &result);
    assert_int_equal(result.uniform_bits, 8);
    mpq_arena_free(in.arena);
}

/* 7 bits that nothing may have are not a single width, though 6 bits would do in their place. */
static void uniform_widths_are_candidates(void **state)
{
    (void)state;
    struct instance in;
    struct mpq_search_result result;
    make(&in, 3, 6);
    for (uint32_t i = 0; i < 6 * MPQ_N_BITS; i++) {
        uint32_t b = i % MPQ_N_BITS;
        in.sensitivity[i] = in.truth[i] =
            b < MPQ_MIN_BITS || b >= 7 ? (double)NAN : pow(4, -(double)b);
    }
    in.problem.cost[0].budget = 1000000;
    search(&in, &result);
    assert_int_equal(result.uniform_bits, 6);
    mpq_arena_free(in.arena);
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
    in.problem.cost[0].budget = 1000000;
    search(&in, &result);
    for (uint32_t l = 0; l < 6; l++)
        assert_int_equal(result.bits[l], 2);
    mpq_arena_free(in.arena);
}

/* As large as there are, beyond what a difference holds. */
static void a_limit_that_nothing_reaches_changes_nothing(void **state)
{
    (void)state;
    for (uint64_t seed = 8000; seed < 8010; seed++) {
        struct instance in;
        struct mpq_search_result free, limited;
        make(&in, seed, 6);
        in.problem.score = score;
        in.interaction = 1;
        limit(&in, MPQ_COST_size, 0.5);
        search(&in, &free);
        in.problem.cost[MPQ_COST_bitops].budget = MPQ_NO_LIMIT - 1;
        in.n_calls = 0;
        search(&in, &limited);
        assert_memory_equal(limited.bits, free.bits, 6);
        assert_int_equal(limited.n_score, free.n_score);
        mpq_arena_free(in.arena);
    }
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
        in.problem.cost[0].budget += 200; /* there is always something that fits */
        search(&in, &result);
        uint64_t bytes;
        CHECK_OK(&in.ctx, measure(&in.ctx, &in, result.bits, &bytes));
        assert_int_equal(result.cost[0], bytes);
        mpq_arena_free(in.arena);
    }
}

static enum mpq_status measure_constant(struct mpq_ctx *ctx, void *arg, const uint8_t *bits,
                                        uint64_t *out_bytes)
{
    const struct instance *in = arg;
    (void)ctx;
    *out_bytes = mpq_search_cost(&in->problem, 0, bits) + in->surcharge;
    return MPQ_OK;
}

/* A program for each width in use, as files have them. */
static enum mpq_status measure_widths(struct mpq_ctx *ctx, void *arg, const uint8_t *bits,
                                      uint64_t *out_bytes)
{
    const struct instance *in = arg;
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
        struct instance in;
        struct mpq_search_result result;
        make(&in, seed, 4);
        if (!isinf(brute_force(&in, table_loss))) {
            search(&in, &result);
            in.problem.measure = measure_constant;
            in.surcharge = 100;
            in.problem.cost[0].budget = result.cost[0] + in.surcharge - 1;
            double best = brute_force(&in, table_loss);
            if (!isinf(best)) {
                search(&in, &result);
                assert_true(table_loss(&in, result.bits) <= best * (1 + 1e-12));
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
        struct instance in;
        struct mpq_search_result result;
        make(&in, seed, 5);
        in.problem.measure = measure_widths;
        in.surcharge = 150;
        in.problem.cost[0].budget += (1 + seed % 5) * in.surcharge;
        double best = brute_force(&in, table_loss);
        if (!isinf(best)) {
            search(&in, &result);
            assert_non_null(result.estimated);
            assert_true(result.bound <= best * (1 + 1e-12));
            n_best += table_loss(&in, result.bits) <= best * (1 + 1e-12);
            n_feasible++;
        }
        mpq_arena_free(in.arena);
    }
    assert_true(n_best > 0.9 * n_feasible);
}

static double exact_bytes(const struct instance *in, const uint8_t *bits)
{
    return (double)exact_cost(in, 0, bits);
}

/* Nor is the smallest file that whose layers are all smallest, if another does with fewer programs;
 * what is said to be the smallest is found, mostly it is (193 of 200). */
static void the_smallest_file_has_few_widths(void **state)
{
    (void)state;
    int n_least = 0;
    for (uint64_t seed = 7000; seed < 7200; seed++) {
        struct instance in;
        struct mpq_search_result result;
        uint8_t bits[MAX_UNITS];
        uint64_t least;
        make(&in, seed, 5);
        in.problem.measure = measure_widths;
        in.surcharge = seed % 2 ? 150 : 2000; /* as much as a layer, as all of them */
        in.problem.cost[0].budget = MPQ_NO_LIMIT;
        double truth = brute_force(&in, exact_bytes);
        CHECK_OK(&in.ctx, mpq_search_least(&in.ctx, in.arena, &in.problem, 0, bits, &least));
        assert_int_equal(exact_cost(&in, 0, bits), least);
        assert_true((double)least >= truth);
        n_least += (double)least == truth;
        in.problem.cost[0].budget = least;
        search(&in, &result);
        in.problem.cost[0].budget = (uint64_t)truth - 1;
        CHECK_FAILS(&in.ctx, mpq_search(&in.ctx, in.arena, &in.problem, &result), MPQ_E_INFEASIBLE,
                    "the smallest needs");
        mpq_arena_free(in.arena);
    }
    assert_true(n_least > 180);
}

/* Two layers: 2 with both at 4 bits, less in->interaction at in->favoured, where half of the
 * samples each lie one above and one below; 3 elsewhere. */
static enum mpq_status noisy_score(struct mpq_ctx *ctx, void *arg, const uint8_t *bits,
                                   double *out_sample_loss)
{
    struct instance *in = arg;
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
        struct instance in;
        struct mpq_search_result result;
        make(&in, 1, 2);
        for (uint32_t i = 0; i < 2 * MPQ_N_BITS; i++)
            in.sensitivity[i] = i % MPQ_N_BITS == 4 ? 0 : 1;
        in.problem.cost[0].budget = 1000000;
        in.problem.score = noisy_score;
        in.problem.n_sample = 100; /* standard error 0.1 */
        memcpy(in.favoured, cases[k].bits, 2);
        in.interaction = cases[k].gain;
        search(&in, &result);
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
    struct instance in;
    struct mpq_search_result result;
    make(&in, 9, 10);
    for (uint32_t b = 0; b < MPQ_N_BITS; b++)
        if (b != 7)
            in.sensitivity[3 * MPQ_N_BITS + b] = NAN;
    in.sensitivity[3 * MPQ_N_BITS + 7] = 1;
    in.problem.score = score;
    in.problem.cost[0].budget += 1000;
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
    struct instance in;
    struct mpq_search_result result;
    volatile sig_atomic_t stop = 1;
    make(&in, 2, 4);
    in.problem.score = score;
    in.problem.cost[0].budget = 1000000;
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
    struct instance in;
    make_with_groups(&in, 1, 2, 1);
    in.layer[0] = (struct mpq_layer){.macs = 1000, .n_param = 10};
    in.layer[1] = (struct mpq_layer){.macs = 30, .n_param = 30};
    in.input_group[1] = 0;
    make_costs(&in);
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
        cmocka_unit_test(exact_size_decides),
        cmocka_unit_test(constant_surcharge_costs_nothing),
        cmocka_unit_test(widths_are_left_out),
        cmocka_unit_test(the_smallest_file_has_few_widths),
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
