#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "quantcore/search/searcher.h"

struct mpq_searcher_trial {
    uint8_t *bits;
    double loss;
};

double mpq_searcher_loss(const struct mpq_searcher *s, uint32_t l, uint32_t b)
{
    return s->problem->sensitivity[l * MPQ_N_BITS + b];
}

uint64_t mpq_searcher_bytes(const struct mpq_searcher *s, uint32_t l, uint32_t b)
{
    return s->problem->layer_bytes[l * MPQ_N_BITS + b];
}

bool mpq_searcher_allows(const struct mpq_searcher *s, uint32_t l, uint32_t b)
{
    return b >= MPQ_MIN_BITS && b <= MPQ_MAX_BITS && isfinite(mpq_searcher_loss(s, l, b));
}

uint32_t mpq_searcher_next(const struct mpq_searcher *s, uint32_t l, uint32_t b, int direction)
{
    for (b += (uint32_t)direction; b >= MPQ_MIN_BITS && b <= MPQ_MAX_BITS; b += (uint32_t)direction)
        if (mpq_searcher_allows(s, l, b))
            return b;
    return 0;
}

void mpq_searcher_smallest(const struct mpq_searcher *s, uint8_t *out_bits)
{
    for (uint32_t l = 0; l < s->problem->n_layer; l++) {
        out_bits[l] = 0;
        for (uint32_t b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++)
            if (mpq_searcher_allows(s, l, b) &&
                (!out_bits[l] ||
                 mpq_searcher_bytes(s, l, b) < mpq_searcher_bytes(s, l, out_bits[l])))
                out_bits[l] = (uint8_t)b;
    }
}

enum mpq_status mpq_searcher_measure(struct mpq_searcher *s, const uint8_t *bits,
                                     uint64_t *out_bytes, bool *out_fits)
{
    const struct mpq_search_problem *p = s->problem;
    uint64_t bytes = p->other_bytes + mpq_cost_sum(p->n_layer, p->layer_bytes, bits);
    if (p->measure)
        MPQ_TRY(p->measure(s->ctx, p->arg, bits, &bytes));
    *out_bytes = bytes;
    *out_fits =
        bytes <= p->budget_bytes &&
        (!p->layer_bitops || mpq_cost_sum(p->n_layer, p->layer_bitops, bits) <= p->budget_bitops);
    return MPQ_OK;
}

bool mpq_searcher_is_exhausted(const struct mpq_searcher *s)
{
    return s->problem->score && s->best.n_score >= s->problem->max_scores;
}

static double estimate(const struct mpq_searcher *s, const uint8_t *bits)
{
    double loss = 0;
    for (uint32_t l = 0; l < s->problem->n_layer; l++)
        loss += mpq_searcher_loss(s, l, bits[l]);
    return loss;
}

/* Trials are some hundreds, an evaluation takes longer than looking through them all. */
static const struct mpq_searcher_trial *find_trial(const struct mpq_searcher *s,
                                                   const uint8_t *bits)
{
    for (uint32_t i = 0; i < s->n_trial; i++)
        if (memcmp(s->trial[i].bits, bits, s->problem->n_layer) == 0)
            return &s->trial[i];
    return NULL;
}

static enum mpq_status add_trial(struct mpq_searcher *s, const uint8_t *bits, double loss)
{
    if (s->n_trial == s->trial_capacity) {
        uint32_t capacity = 2 * s->trial_capacity + 64;
        s->trial =
            mpq_arena_grow(s->ctx, s->arena, s->trial, s->n_trial, capacity, sizeof *s->trial);
        if (!s->trial)
            return MPQ_E_NOMEM;
        s->trial_capacity = capacity;
    }
    uint8_t *copy = mpq_arena_copy(s->ctx, s->arena, bits, s->problem->n_layer);
    if (!copy)
        return MPQ_E_NOMEM;
    s->trial[s->n_trial++] = (struct mpq_searcher_trial){copy, loss};
    return MPQ_OK;
}

/* A loss that is no number is worse than any. */
static enum mpq_status score(struct mpq_searcher *s, const uint8_t *bits, double *out_loss)
{
    const struct mpq_search_problem *p = s->problem;
    *out_loss = estimate(s, bits);
    if (p->score) {
        MPQ_TRY(mpq_step(s->ctx, "search", s->best.n_score, p->max_scores, s->best.loss));
        MPQ_TRY(p->score(s->ctx, p->arg, bits, out_loss));
        s->best.n_score++;
    }
    if (isnan(*out_loss))
        *out_loss = INFINITY;
    return add_trial(s, bits, *out_loss);
}

enum mpq_status mpq_searcher_offer(struct mpq_searcher *s, const uint8_t *bits, double *out_loss,
                                   bool *out_accepted)
{
    *out_loss = NAN;
    *out_accepted = false;
    const struct mpq_searcher_trial *trial = find_trial(s, bits);
    if (trial) {
        *out_loss = trial->loss;
        return MPQ_OK;
    }
    uint64_t bytes;
    bool fits;
    if (mpq_searcher_is_exhausted(s))
        return MPQ_OK;
    MPQ_TRY(mpq_searcher_measure(s, bits, &bytes, &fits));
    if (!fits)
        return MPQ_OK;
    MPQ_TRY(score(s, bits, out_loss));
    if (!s->has_best || *out_loss < s->best.loss ||
        (*out_loss == s->best.loss && bytes < s->best.size_bytes)) {
        memcpy(s->best.bits, bits, s->problem->n_layer);
        s->best.loss = *out_loss;
        s->best.size_bytes = bytes;
        *out_accepted = s->has_best = true;
    }
    return MPQ_OK;
}

static enum mpq_status check(struct mpq_searcher *s)
{
    const struct mpq_search_problem *p = s->problem;
    for (uint32_t l = 0; l < p->n_layer; l++) {
        bool has_width = false;
        for (uint32_t b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++)
            has_width |= mpq_searcher_allows(s, l, b);
        if (!has_width)
            return mpq_fail(s->ctx, MPQ_E_NUMERIC, "layer %u has no width to choose from", l);
    }
    return MPQ_OK;
}

/* Nothing fits: say what the smallest file takes. */
static enum mpq_status fail_infeasible(struct mpq_searcher *s)
{
    const struct mpq_search_problem *p = s->problem;
    uint8_t *bits = mpq_arena_alloc(s->ctx, s->arena, p->n_layer + 1, 1);
    uint64_t bytes, bitops = 0;
    bool fits;
    if (!bits)
        return MPQ_E_NOMEM;
    mpq_searcher_smallest(s, bits);
    MPQ_TRY(mpq_searcher_measure(s, bits, &bytes, &fits));
    if (p->layer_bitops)
        bitops = mpq_cost_sum(p->n_layer, p->layer_bitops, bits);
    if (bytes <= p->budget_bytes)
        return mpq_fail(s->ctx, MPQ_E_INFEASIBLE,
                        "no allocation needs as few as %" PRIu64
                        " bit operations; the smallest file needs %" PRIu64,
                        p->budget_bitops, bitops);
    char percent[40] = "";
    if (p->float_bytes)
        snprintf(percent, sizeof percent, " (%.1f %% of the float file)",
                 100 * (double)bytes / (double)p->float_bytes);
    return mpq_fail(s->ctx, MPQ_E_INFEASIBLE,
                    "no allocation fits %" PRIu64 " bytes; the smallest needs %" PRIu64 " bytes%s",
                    p->budget_bytes, bytes, percent);
}

enum mpq_status mpq_search(struct mpq_ctx *ctx, struct mpq_arena *arena,
                           const struct mpq_search_problem *problem, struct mpq_search_result *out)
{
    static enum mpq_status (*const strategies[])(struct mpq_searcher *) = {
#define MPQ_STRATEGY(name) mpq_search_##name,
#include "quantcore/search/search_list.inc"
#undef MPQ_STRATEGY
    };
    struct mpq_searcher s = {.ctx = ctx, .arena = arena, .problem = problem};
    s.best = (struct mpq_search_result){.loss = NAN, .uniform_loss = NAN};
    s.best.bits = mpq_arena_alloc(ctx, arena, problem->n_layer + 1, 1); /* never no byte */
    if (!s.best.bits)
        return MPQ_E_NOMEM;
    MPQ_TRY(check(&s));
    for (size_t i = 0; i < MPQ_COUNT(strategies); i++)
        MPQ_TRY(strategies[i](&s));
    if (!s.has_best)
        return fail_infeasible(&s);
    *out = s.best;
    return MPQ_OK;
}
