/* Made-up problems for tests of the search. */
#ifndef MPQ_TESTS_SEARCH_CASE_H
#define MPQ_TESTS_SEARCH_CASE_H

#include "quantcore/search/search.h"

enum { MAX_LAYERS = 40, MAX_GROUPS = 4, MAX_UNITS = MAX_LAYERS + MAX_GROUPS };

/* A made-up problem: tables, and an oracle for the loss that may know more than the tables. */
struct search_case {
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

/* Losses fall with the width about as 4^-b, some widths are forbidden, the budget is between the
 * smallest and the largest size. Every second layer reads a group of activations, if there are any,
 * and the groups have readers of either kind: several, one, none. */
void search_make_with_groups(struct search_case *in, uint64_t seed, uint32_t n_layer,
                             uint32_t n_group);
void search_make(struct search_case *in, uint64_t seed, uint32_t n_layer); /* no groups */

/* Again, after layers have changed. */
void search_make_costs(struct search_case *in);

/* A limit between the least and the most that all units at one width cost. */
void search_limit(struct search_case *in, enum mpq_cost_kind kind, double share);

/* A number from 0 to 1 that follows from the seed. */
double search_uniform(const struct search_case *in, uint32_t i, uint32_t j);

/* By the truth, and what an evaluation gives: a problem's `score`. */
double search_true_loss(const struct search_case *in, const uint8_t *bits);
enum mpq_status search_score(struct mpq_ctx *ctx, void *arg, const uint8_t *bits,
                             double *out_sample_loss);

/* By the tables. */
double search_table_loss(const struct search_case *in, const uint8_t *bits);

/* Measured where the problem has that. */
uint64_t search_exact_cost(const struct search_case *in, uint32_t c, const uint8_t *bits);

/* The least loss by trying everything, INFINITY where nothing fits. */
double search_brute_force(const struct search_case *in,
                          double (*loss)(const struct search_case *, const uint8_t *));

/* Searches; the result keeps within limits and allowed widths. */
void search_run(struct search_case *in, struct mpq_search_result *result);

#endif
