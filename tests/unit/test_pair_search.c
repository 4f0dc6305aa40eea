/* The search for pairs of widths: the published counts of bit operations, optima of problems small
 * enough to try everything, termination and refusal. */
#include <math.h>
#include <string.h>

#include "quantcore/base/arena.h"
#include "quantcore/base/rng.h"
#include "quantcore/search/pair_search.h"
#include "tests/check.h"

enum { MAX_LAYER = 64 };

struct net {
    uint64_t macs[MAX_LAYER];
    bool is_searchable[MAX_LAYER];
    struct mpq_pair_problem problem;
};

static void add(struct net *net, uint64_t macs, bool is_searchable)
{
    uint32_t l = net->problem.n_layer++;
    net->macs[l] = macs;
    net->is_searchable[l] = is_searchable;
    net->problem.macs = net->macs;
    net->problem.is_searchable = net->is_searchable;
}

static void resnet18(struct net *net)
{
    static const uint64_t channels[] = {64, 128, 256, 512}, size[] = {56, 28, 14, 7};
    add(net, 7 * 7 * 3 * 64 * 112 * 112, false);
    for (int stage = 0; stage < 4; stage++) {
        uint64_t c = channels[stage], area = size[stage] * size[stage];
        uint64_t before = stage ? channels[stage - 1] : c;
        add(net, 9 * before * c * area, true);
        for (int i = 0; i < 3; i++)
            add(net, 9 * c * c * area, true);
        if (stage)
            add(net, before * c * area, true);
    }
    add(net, 512 * 1000, false);
}

static void mobilenetv2(struct net *net)
{
    static const uint64_t block[][4] = {{1, 16, 1, 1}, {6, 24, 2, 2},  {6, 32, 3, 2}, {6, 64, 4, 2},
                                        {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1}};
    uint64_t c = 32, size = 112;
    add(net, 27 * 32 * 112 * 112, false);
    for (size_t b = 0; b < MPQ_COUNT(block); b++)
        for (uint64_t i = 0; i < block[b][2]; i++) {
            uint64_t wide = c * block[b][0];
            if (wide != c)
                add(net, c * wide * size * size, true);
            size /= i == 0 ? block[b][3] : 1;
            add(net, 9 * wide * size * size, true);
            add(net, wide * block[b][1] * size * size, true);
            c = block[b][1];
        }
    add(net, 320 * 1280 * 7 * 7, true);
    add(net, 1280 * 1000, false);
}

static void bit_operations_are_the_published_ones(void **state)
{
    static const struct {
        int weight_bits, input_bits;
        double resnet18, mobilenetv2; /* 1e9 */
    } row[] = {{8, 8, 116.1, 19.25}, {6, 6, 68.6, 11.17}, {5, 5, 50.0, 7.99}, {4, 4, 34.7, 5.39},
               {3, 3, 22.9, 3.37},   {2, 3, 17.8, 2.51},  {2, 2, 14.4, 1.93}};
    struct net a = {0}, b = {0};
    (void)state;
    resnet18(&a);
    mobilenetv2(&b);
    assert_int_equal(a.problem.n_layer, 19 + 2);
    assert_int_equal(b.problem.n_layer, 51 + 2);
    for (size_t i = 0; i < MPQ_COUNT(row); i++) {
        int w = row[i].weight_bits, x = row[i].input_bits;
        uint8_t weights[MAX_LAYER], inputs[MAX_LAYER];
        memset(weights, w, sizeof weights);
        memset(inputs, x, sizeof inputs);
        CHECK_NEAR((double)mpq_pair_uniform_bitops(&a.problem, w, x) / 1e9, row[i].resnet18, 0,
                   0.06);
        CHECK_NEAR((double)mpq_pair_uniform_bitops(&b.problem, w, x) / 1e9, row[i].mobilenetv2, 0,
                   0.006);
        assert_true(mpq_pair_bitops(&a.problem, weights, inputs) ==
                    mpq_pair_uniform_bitops(&a.problem, w, x));
    }
}

/* ---- problems that can be solved by trying everything ---- */

enum { N = 5 };

struct toy {
    struct mpq_ctx ctx;
    struct mpq_arena *arena;
    uint64_t macs[N];
    uint16_t weights[N], inputs[N];
    bool is_searchable[N];
    double loss[2][N][MPQ_N_BITS]; /* by kind, layer, width */
    struct mpq_pair_problem problem;
};

static double toy_score(void *arg, const uint8_t *weight_bits, const uint8_t *input_bits)
{
    const struct toy *toy = arg;
    double sum = 0;
    for (uint32_t l = 0; l < N; l++)
        sum += toy->loss[0][l][weight_bits[l]] + toy->loss[1][l][input_bits[l]];
    return sum;
}

/* Losses that fall, and ever more slowly, with the width. */
static void toy_init(struct toy *toy, uint64_t seed, bool same_macs, bool free_inputs)
{
    for (uint32_t l = 0; l < N; l++) {
        toy->macs[l] = same_macs ? 1000 : 500 + mpq_rng_below(seed, MPQ_STREAM_TEST, 1, l, 2000);
        toy->is_searchable[l] = true;
        toy->weights[l] = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6;
        toy->inputs[l] = free_inputs ? 1 << 3 | 1 << 5 : 1 << 5;
        for (int kind = 0; kind < 2; kind++)
            for (int b = 2; b <= 6; b++)
                toy->loss[kind][l][b] =
                    pow(0.25, b) *
                    (1 + 9 * mpq_rng_uniform(seed, MPQ_STREAM_TEST, 2, 2 * l + (uint32_t)kind));
    }
    toy->problem = (struct mpq_pair_problem){.n_layer = N,
                                             .macs = toy->macs,
                                             .weights = toy->weights,
                                             .inputs = toy->inputs,
                                             .is_searchable = toy->is_searchable,
                                             .score = toy_score,
                                             .arg = toy};
}

/* Least error within the budget, by trying everything. */
static double optimum(struct toy *toy)
{
    double least = INFINITY;
    uint8_t weights[N], inputs[N];
    for (uint32_t code = 0; code < 3125u << N; code++) {
        uint32_t rest = code >> N;
        bool is_allowed = true;
        for (uint32_t l = 0; l < N; l++, rest /= 5) {
            weights[l] = (uint8_t)(2 + rest % 5);
            inputs[l] = code >> l & 1 ? 3 : 5;
            is_allowed = is_allowed && toy->inputs[l] >> inputs[l] & 1;
        }
        if (is_allowed &&
            mpq_pair_bitops(&toy->problem, weights, inputs) <= toy->problem.budget_bitops)
            least = fmin(least, toy_score(toy, weights, inputs));
    }
    return least;
}

static int setup(void **state)
{
    static struct toy toy;
    memset(&toy, 0, sizeof toy);
    mpq_ctx_init(&toy.ctx);
    toy.arena = mpq_arena_create(&toy.ctx);
    *state = &toy;
    return 0;
}

static int teardown(void **state)
{
    struct toy *toy = *state;
    mpq_arena_free(toy->arena);
    return 0;
}

/* Where all moves cost the same, nothing better can hide behind a worse step. */
static void separable_errors_are_minimized(void **state)
{
    struct toy *toy = *state;
    struct mpq_pair_result result;
    for (uint64_t seed = 0; seed < 30; seed++) {
        toy_init(toy, seed, true, false);
        toy->problem.budget_bitops =
            1000 * 5 * (10 + mpq_rng_below(seed, MPQ_STREAM_TEST, 3, 0, 16));
        CHECK_OK(&toy->ctx, mpq_pair_search(&toy->ctx, toy->arena, &toy->problem, &result));
        assert_true(result.bitops <= toy->problem.budget_bitops);
        CHECK_NEAR(result.error, optimum(toy), 1e-12, 0);
    }
}

static void other_problems_are_solved_nearly(void **state)
{
    struct toy *toy = *state;
    struct mpq_pair_result result;
    double excess = 0;
    enum { TRIALS = 20 };
    for (uint64_t seed = 0; seed < TRIALS; seed++) {
        toy_init(toy, seed, false, true);
        uint64_t low = mpq_pair_uniform_bitops(&toy->problem, 2, 3);
        uint64_t high = mpq_pair_uniform_bitops(&toy->problem, 6, 5);
        toy->problem.budget_bitops = low + (high - low) * (1 + seed % 9) / 10;
        CHECK_OK(&toy->ctx, mpq_pair_search(&toy->ctx, toy->arena, &toy->problem, &result));
        double best = optimum(toy);
        assert_true(result.bitops <= toy->problem.budget_bitops);
        assert_true(result.bitops ==
                    mpq_pair_bitops(&toy->problem, result.weight_bits, result.input_bits));
        assert_true(result.error >= best * (1 - 1e-12));
        excess += (result.error / best - 1) / TRIALS;
    }
    assert_true(excess < 0.10);
}

/* A search led astray ends at the uniform widths: here they alone are good. */
static double likes_uniform(void *arg, const uint8_t *weight_bits, const uint8_t *input_bits)
{
    double sum = 1;
    (void)arg;
    for (uint32_t l = 0; l < N; l++)
        sum += (weight_bits[l] != 4) + (input_bits[l] != 4);
    return sum == 1 ? 0 : 100 - sum;
}

static void the_result_is_not_worse_than_uniform(void **state)
{
    struct toy *toy = *state;
    struct mpq_pair_result result;
    toy_init(toy, 5, false, false);
    for (uint32_t l = 0; l < N; l++)
        toy->inputs[l] = toy->weights[l];
    toy->problem.score = likes_uniform;
    toy->problem.budget_bitops = mpq_pair_uniform_bitops(&toy->problem, 4, 4);
    CHECK_OK(&toy->ctx, mpq_pair_search(&toy->ctx, toy->arena, &toy->problem, &result));
    assert_true(result.is_uniform);
    CHECK_NEAR(result.error, 0, 0, 0);
    assert_true(result.bitops == toy->problem.budget_bitops);
}

static double noise(void *arg, const uint8_t *weight_bits, const uint8_t *input_bits)
{
    struct toy *toy = arg;
    (void)weight_bits, (void)input_bits;
    return mpq_rng_uniform(9, MPQ_STREAM_TEST, 4, (uint32_t)toy->ctx.seed++);
}

/* Whatever the errors, and with no two widths in a row; layers with nothing to choose stay. */
static void it_ends_within_every_budget(void **state)
{
    struct toy *toy = *state;
    struct mpq_pair_result result;
    toy_init(toy, 3, false, true);
    toy->is_searchable[1] = false;
    toy->weights[1] = toy->inputs[1] = 1 << 8;
    toy->weights[2] = 1 << 3 | 1 << 6;
    toy->problem.score = noise;
    uint8_t fewest[2][N] = {{2, 8, 3, 2, 2}, {3, 8, 3, 3, 3}};
    uint64_t low = mpq_pair_bitops(&toy->problem, fewest[0], fewest[1]);
    uint64_t high = mpq_pair_uniform_bitops(&toy->problem, 6, 6);
    for (uint64_t i = 0; i <= 40; i++) {
        toy->problem.budget_bitops = low + (high - low) * i / 40;
        CHECK_OK(&toy->ctx, mpq_pair_search(&toy->ctx, toy->arena, &toy->problem, &result));
        assert_true(result.bitops <= toy->problem.budget_bitops);
        assert_int_equal(result.weight_bits[1], 8);
        for (uint32_t l = 0; l < N; l++) {
            assert_true(toy->weights[l] >> result.weight_bits[l] & 1);
            assert_true(toy->inputs[l] >> result.input_bits[l] & 1);
        }
    }
    toy->problem.budget_bitops = low - 1;
    CHECK_FAILS(&toy->ctx, mpq_pair_search(&toy->ctx, toy->arena, &toy->problem, &result),
                MPQ_E_INFEASIBLE, "the fewest are");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bit_operations_are_the_published_ones),
        cmocka_unit_test_setup_teardown(separable_errors_are_minimized, setup, teardown),
        cmocka_unit_test_setup_teardown(other_problems_are_solved_nearly, setup, teardown),
        cmocka_unit_test_setup_teardown(the_result_is_not_worse_than_uniform, setup, teardown),
        cmocka_unit_test_setup_teardown(it_ends_within_every_budget, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
