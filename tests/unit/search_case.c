#include "tests/unit/search_case.h"

#include <math.h>
#include <string.h>

#include "quantcore/base/rng.h"
#include "tests/check.h"

double search_uniform(const struct search_case *in, uint32_t i, uint32_t j)
{
    return mpq_rng_uniform(in->seed, MPQ_STREAM_TEST, i, j);
}

double search_true_loss(const struct search_case *in, const uint8_t *bits)
{
    double loss = 0;
    for (uint32_t l = 0; l < in->problem.n_layer + in->problem.n_group; l++) {
        loss += in->truth[l * MPQ_N_BITS + bits[l]];
        if (l > 0 && in->interaction != 0)
            loss += in->interaction * search_uniform(in, 100 + l, bits[l - 1] * 16u + bits[l]);
    }
    return loss;
}

enum mpq_status search_score(struct mpq_ctx *ctx, void *arg, const uint8_t *bits,
                             double *out_sample_loss)
{
    struct search_case *in = arg;
    (void)ctx;
    in->n_calls++;
    for (uint32_t i = 0; i < in->problem.n_sample; i++)
        out_sample_loss[i] = search_true_loss(in, bits);
    return MPQ_OK;
}

void search_make_costs(struct search_case *in)
{
    struct mpq_search_problem *p = &in->problem;
    const struct mpq_cost_inputs inputs = {p->n_layer,      p->n_group,     in->layer,
                                           in->input_group, in->input_bits, in->bytes,
                                           in->group_bytes, 1000,           in->seconds};
    for (int c = 0; c < MPQ_N_COST; c++)
        CHECK_OK(&in->ctx,
                 mpq_cost_make(&in->ctx, in->arena, (enum mpq_cost_kind)c, &inputs, &p->cost[c]));
}

void search_limit(struct search_case *in, enum mpq_cost_kind kind, double share)
{
    uint8_t low[MAX_UNITS], high[MAX_UNITS];
    memset(low, 2, sizeof low);
    memset(high, 8, sizeof high);
    uint64_t least = mpq_search_cost(&in->problem, kind, low);
    uint64_t most = mpq_search_cost(&in->problem, kind, high);
    in->problem.cost[kind].budget = least + (uint64_t)((double)(most - least) * share);
}

void search_make_with_groups(struct search_case *in, uint64_t seed, uint32_t n_layer,
                             uint32_t n_group)
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
        double weight = pow(10, 3 * search_uniform(in, l, 0));
        uint64_t n_param = 8 + (uint64_t)(1000 * search_uniform(in, l, 1));
        for (uint32_t b = 0; b < MPQ_N_BITS; b++) {
            uint32_t i = l * MPQ_N_BITS + b;
            bool is_allowed = b == 4 || (b >= 2 && search_uniform(in, l, 10 + b) < 0.8);
            in->truth[i] = weight * pow(4, -(double)b) * (0.5 + search_uniform(in, l, 20 + b));
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
                                          .macs = 1 + (uint64_t)(5000 * search_uniform(in, l, 2))};
        in->input_bits[l] = 8;
        in->input_group[l] =
            n_group && l % 2 ? (uint32_t)(search_uniform(in, l, 3) * n_group) : MPQ_NO_GROUP;
    }
    search_make_costs(in);
    search_limit(in, MPQ_COST_size, search_uniform(in, 0, 40));
}

void search_make(struct search_case *in, uint64_t seed, uint32_t n_layer)
{
    search_make_with_groups(in, seed, n_layer, 0);
}

void search_run(struct search_case *in, struct mpq_search_result *result)
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

uint64_t search_exact_cost(const struct search_case *in, uint32_t c, const uint8_t *bits)
{
    uint64_t cost = mpq_search_cost(&in->problem, c, bits);
    if (c == 0 && in->problem.measure)
        assert_int_equal(in->problem.measure(NULL, in->problem.arg, bits, &cost), MPQ_OK);
    return cost;
}

double search_brute_force(const struct search_case *in,
                          double (*loss)(const struct search_case *, const uint8_t *))
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
            is_allowed = search_exact_cost(in, c, bits) <= p->cost[c].budget;
        if (is_allowed)
            best = fmin(best, loss(in, bits));
        uint32_t l = 0;
        while (l < n_unit && ++bits[l] > MPQ_MAX_BITS)
            bits[l++] = MPQ_MIN_BITS;
        if (l == n_unit)
            return best;
    }
}

double search_table_loss(const struct search_case *in, const uint8_t *bits)
{
    double loss = 0;
    for (uint32_t l = 0; l < in->problem.n_layer + in->problem.n_group; l++)
        loss += in->sensitivity[l * MPQ_N_BITS + bits[l]];
    return loss;
}
