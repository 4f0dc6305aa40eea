#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "quantcore/search/searcher.h"

struct mpq_searcher_trial {
    uint8_t *bits;
    double loss;
};

double mpq_searcher_loss(const struct mpq_searcher *s, uint32_t u, uint32_t b)
{
    return s->problem->sensitivity[u * MPQ_N_BITS + b];
}

bool mpq_searcher_allows(const struct mpq_searcher *s, uint32_t u, uint32_t b)
{
    return b >= MPQ_MIN_BITS && b <= MPQ_MAX_BITS && isfinite(mpq_searcher_loss(s, u, b)) &&
           !(u < s->problem->n_layer && s->excluded >> b & 1);
}

uint32_t mpq_searcher_next(const struct mpq_searcher *s, uint32_t u, uint32_t b, int direction)
{
    for (b += (uint32_t)direction; b >= MPQ_MIN_BITS && b <= MPQ_MAX_BITS; b += (uint32_t)direction)
        if (mpq_searcher_allows(s, u, b))
            return b;
    return 0;
}

bool mpq_searcher_has_width(const struct mpq_searcher *s, uint32_t b)
{
    for (uint32_t l = 0; l < s->problem->n_layer; l++)
        if (mpq_searcher_allows(s, l, b))
            return true;
    return false;
}

bool mpq_searcher_can_do_without(const struct mpq_searcher *s, uint32_t b)
{
    for (uint32_t l = 0; l < s->problem->n_layer; l++) {
        bool has_other = false;
        for (uint32_t other = MPQ_MIN_BITS; other <= MPQ_MAX_BITS; other++)
            has_other |= other != b && mpq_searcher_allows(s, l, other);
        if (!has_other)
            return false;
    }
    return true;
}

void mpq_searcher_keep_only(struct mpq_searcher *s, uint32_t mask)
{
    for (uint32_t b = MPQ_MAX_BITS; b >= MPQ_MIN_BITS; b--)
        if (!(mask >> b & 1) && mpq_searcher_can_do_without(s, b))
            s->excluded |= (uint16_t)(1 << b);
}

uint64_t mpq_searcher_unit_cost(const struct mpq_searcher *s, uint32_t c, const uint8_t *bits,
                                uint32_t u, uint32_t b)
{
    const struct mpq_search_problem *p = s->problem;
    const struct mpq_cost *cost = &p->cost[c];
    if (u < p->n_layer)
        return cost->layer[MPQ_COST_AT(u, b, mpq_cost_input(p->n_layer, p->input_group, bits, u))];
    uint64_t sum = cost->group[(u - p->n_layer) * MPQ_N_BITS + b];
    for (uint32_t l = 0; l < p->n_layer; l++)
        if (p->input_group[l] == u - p->n_layer)
            sum += cost->layer[MPQ_COST_AT(l, bits[l], b)];
    return sum;
}

uint64_t mpq_search_cost(const struct mpq_search_problem *p, uint32_t c, const uint8_t *bits)
{
    return mpq_cost_sum(&p->cost[c], p->n_layer, p->n_group, p->input_group, bits);
}

double mpq_search_estimate(const struct mpq_search_problem *p, const uint8_t *bits)
{
    double loss = 0;
    for (uint32_t u = 0; u < p->n_layer + p->n_group; u++)
        loss += p->sensitivity[u * MPQ_N_BITS + bits[u]];
    return loss;
}

double mpq_search_mean(const double *x, const double *y, uint32_t n, double *out_error)
{
    double mean = 0, square = 0;
    for (uint32_t i = 0; i < n; i++)
        mean += (x[i] - (y ? y[i] : 0)) / n;
    for (uint32_t i = 0; i < n; i++) {
        double d = x[i] - (y ? y[i] : 0) - mean;
        square += d * d;
    }
    *out_error = n > 1 ? sqrt(square / (n - 1) / n) : 0;
    return mean;
}

enum mpq_status mpq_searcher_measure(struct mpq_searcher *s, const uint8_t *bits,
                                     uint64_t *out_cost, bool *out_fits)
{
    const struct mpq_search_problem *p = s->problem;
    *out_fits = true;
    for (uint32_t c = 0; c < p->n_cost; c++) {
        out_cost[c] = mpq_search_cost(p, c, bits);
        if (c == 0 && p->measure)
            MPQ_TRY(p->measure(s->ctx, p->arg, bits, &out_cost[c]));
        *out_fits &= out_cost[c] <= p->cost[c].budget;
    }
    return MPQ_OK;
}

bool mpq_searcher_is_exhausted(const struct mpq_searcher *s)
{
    return s->problem->score && s->best.n_score >= s->problem->max_scores;
}

/* Trials are some hundreds, an evaluation takes longer than looking through them all. */
static const struct mpq_searcher_trial *find_trial(const struct mpq_searcher *s,
                                                   const uint8_t *bits)
{
    for (uint32_t i = 0; i < s->n_trial; i++)
        if (memcmp(s->trial[i].bits, bits, s->n_unit) == 0)
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
    uint8_t *copy = mpq_arena_copy(s->ctx, s->arena, bits, s->n_unit);
    if (!copy)
        return MPQ_E_NOMEM;
    s->trial[s->n_trial++] = (struct mpq_searcher_trial){copy, loss};
    return MPQ_OK;
}

/* A loss that is no number is worse than any. */
static enum mpq_status score(struct mpq_searcher *s, const uint8_t *bits, double *out_loss)
{
    const struct mpq_search_problem *p = s->problem;
    double error;
    *out_loss = mpq_search_estimate(p, bits);
    if (p->score) {
        MPQ_TRY(mpq_step(s->ctx, "search", s->best.n_score, p->max_scores, s->best.loss));
        MPQ_TRY(p->score(s->ctx, p->arg, bits, s->sample_loss));
        *out_loss = mpq_search_mean(s->sample_loss, NULL, p->n_sample, &error);
        s->best.n_score++;
    }
    if (!isfinite(*out_loss))
        *out_loss = INFINITY;
    return add_trial(s, bits, *out_loss);
}

/* Whether no unit is narrower in a than in b. */
static bool is_nowhere_narrower(const uint8_t *a, const uint8_t *b, uint32_t n)
{
    for (uint32_t u = 0; u < n; u++)
        if (a[u] < b[u])
            return false;
    return true;
}

/* Standard errors of the paired difference by which the offered allocation must beat the best. More
 * bits in one place and fewer in none do not hurt: what speaks against that is taken for noise
 * until it is two standard errors. */
static double handicap(const struct mpq_searcher *s, const uint8_t *bits, bool surely)
{
    if (is_nowhere_narrower(bits, s->best.bits, s->n_unit))
        return -2;
    if (is_nowhere_narrower(s->best.bits, bits, s->n_unit))
        return 2;
    return surely ? 1 : 0;
}

static bool is_better(const struct mpq_searcher *s, const uint8_t *bits, double loss,
                      uint64_t bytes, bool surely)
{
    const struct mpq_search_problem *p = s->problem;
    double error = 0;
    if (!s->has_best)
        return true;
    if (p->score && isfinite(loss) && isfinite(s->best.loss))
        mpq_search_mean(s->sample_loss, s->best.sample_loss, p->n_sample, &error);
    return loss < s->best.loss - handicap(s, bits, surely) * error ||
           (loss == s->best.loss && bytes < s->best.cost[0]);
}

enum mpq_status mpq_searcher_offer(struct mpq_searcher *s, const uint8_t *bits, bool surely,
                                   double *out_loss, bool *out_accepted)
{
    const struct mpq_search_problem *p = s->problem;
    *out_loss = NAN;
    *out_accepted = false;
    const struct mpq_searcher_trial *trial = find_trial(s, bits);
    if (trial) {
        *out_loss = trial->loss;
        return MPQ_OK;
    }
    uint64_t cost[MPQ_N_COST] = {0};
    bool fits;
    if (mpq_searcher_is_exhausted(s))
        return MPQ_OK;
    MPQ_TRY(mpq_searcher_measure(s, bits, cost, &fits));
    if (!fits)
        return MPQ_OK;
    MPQ_TRY(score(s, bits, out_loss));
    if (is_better(s, bits, *out_loss, cost[0], surely)) {
        memcpy(s->best.bits, bits, s->n_unit);
        memcpy(s->best.cost, cost, sizeof cost);
        memcpy(s->best.sample_loss, s->sample_loss, p->n_sample * sizeof *s->sample_loss);
        s->best.loss = *out_loss;
        s->best.estimate = mpq_search_estimate(p, bits);
        *out_accepted = s->has_best = true;
    }
    return MPQ_OK;
}

static enum mpq_status check(struct mpq_searcher *s)
{
    for (uint32_t u = 0; u < s->n_unit; u++) {
        bool is_group = u >= s->problem->n_layer;
        bool has_width = false;
        for (uint32_t b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++)
            has_width |= mpq_searcher_allows(s, u, b);
        if (!has_width)
            return mpq_fail(s->ctx, MPQ_E_NUMERIC,
                            "%s %u has no width to choose from: its loss is a number at none",
                            is_group ? "group of activations" : "layer",
                            is_group ? u - s->problem->n_layer : u);
    }
    return MPQ_OK;
}

/* The least by the table, and what it costs exactly. */
static enum mpq_status find_least(struct mpq_searcher *s, uint32_t c, uint8_t *bits,
                                  uint64_t *out_cost)
{
    uint64_t exact[MPQ_N_COST];
    bool fits;
    MPQ_TRY(mpq_knapsack_least(s, c, bits, out_cost));
    MPQ_TRY(mpq_searcher_measure(s, bits, exact, &fits));
    *out_cost = exact[c];
    return MPQ_OK;
}

/* The same of the file, where it is no more than *cost, what is known; trial [n_unit]: scratch. */
static enum mpq_status find_less(struct mpq_searcher *s, uint8_t *trial, uint8_t *bits,
                                 uint64_t *cost, bool *out_found)
{
    uint64_t now;
    MPQ_TRY(find_least(s, 0, trial, &now));
    *out_found = now <= *cost;
    if (*out_found) {
        memcpy(bits, trial, s->n_unit);
        *cost = now;
    }
    return MPQ_OK;
}

/* Widths that the smallest file does without, from the widest; or all but one, as far as layers
 * allow it: small layers are smallest without any program, at the widest. */
static enum mpq_status leave_out_widths(struct mpq_searcher *s, uint8_t *trial, uint8_t *bits,
                                        uint64_t *cost)
{
    uint16_t excluded = s->excluded;
    bool is_found;
    for (uint32_t b = MPQ_MAX_BITS; b >= MPQ_MIN_BITS; b--) {
        uint16_t before = s->excluded;
        if (!mpq_searcher_can_do_without(s, b))
            continue;
        s->excluded |= (uint16_t)(1 << b);
        MPQ_TRY(find_less(s, trial, bits, cost, &is_found));
        if (!is_found)
            s->excluded = before;
    }
    for (uint32_t only = MPQ_MAX_BITS; only >= MPQ_MIN_BITS; only--) {
        s->excluded = excluded;
        mpq_searcher_keep_only(s, 1u << only);
        MPQ_TRY(find_less(s, trial, bits, cost, &is_found));
    }
    s->excluded = excluded;
    return MPQ_OK;
}

enum mpq_status mpq_searcher_least(struct mpq_searcher *s, uint32_t c, uint8_t *bits,
                                   uint64_t *out_cost)
{
    uint8_t *trial = mpq_arena_alloc(s->ctx, s->arena, s->n_unit, 1);
    if (!trial)
        return MPQ_E_NOMEM;
    MPQ_TRY(find_least(s, c, bits, out_cost));
    bool has_programs = c == 0 && s->problem->measure;
    return has_programs ? leave_out_widths(s, trial, bits, out_cost) : MPQ_OK;
}

enum mpq_status mpq_search_least(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const struct mpq_search_problem *problem, uint32_t cost,
                                 uint8_t *out_bits, uint64_t *out_cost)
{
    struct mpq_searcher s = {.ctx = ctx,
                             .arena = arena,
                             .problem = problem,
                             .n_unit = problem->n_layer + problem->n_group};
    MPQ_TRY(check(&s));
    return mpq_searcher_least(&s, cost, out_bits, out_cost);
}

/* Nothing fits: say what the least is of the first limit that cannot be kept by itself. */
static enum mpq_status fail_infeasible(struct mpq_searcher *s)
{
    const struct mpq_search_problem *p = s->problem;
    uint8_t *bits = mpq_arena_alloc(s->ctx, s->arena, s->n_unit, 1);
    char every[256] = "", percent[40] = "";
    if (!bits)
        return MPQ_E_NOMEM;
    for (uint32_t c = 0; c < p->n_cost; c++) {
        const struct mpq_cost *cost = &p->cost[c];
        uint64_t least;
        size_t n = strlen(every);
        if (cost->budget == MPQ_NO_LIMIT)
            continue;
        MPQ_TRY(mpq_searcher_least(s, c, bits, &least));
        snprintf(every + n, sizeof every - n, "%s%s %.10g %s", n ? ", " : "", cost->name,
                 (double)least * cost->shown, cost->unit);
        if (c == 0 && p->float_bytes)
            snprintf(percent, sizeof percent, " (%.1f %% of the float file)",
                     100 * (double)least / (double)p->float_bytes);
        if (least > cost->budget)
            return mpq_fail(s->ctx, MPQ_E_INFEASIBLE,
                            "no allocation fits %s of %.10g %s; the smallest needs %.10g %s%s",
                            cost->name, (double)cost->budget * cost->shown, cost->unit,
                            (double)least * cost->shown, cost->unit, c == 0 ? percent : "");
    }
    return mpq_fail(s->ctx, MPQ_E_INFEASIBLE,
                    "no allocation keeps all limits at once; each by itself can be as small as: %s",
                    every);
}

enum mpq_status mpq_search(struct mpq_ctx *ctx, struct mpq_arena *arena,
                           const struct mpq_search_problem *problem, struct mpq_search_result *out)
{
    static const struct {
        const char *name;
        enum mpq_status (*run)(struct mpq_searcher *);
    } strategies[] = {
#define MPQ_STRATEGY(name) {#name, mpq_search_##name},
#include "quantcore/search/search_list.inc"
#undef MPQ_STRATEGY
    };
    struct mpq_searcher s = {.ctx = ctx,
                             .arena = arena,
                             .problem = problem,
                             .n_unit = problem->n_layer + problem->n_group};
    size_t n_sample = problem->n_sample;
    s.best = (struct mpq_search_result){.loss = NAN, .uniform_loss = NAN, .bound = -INFINITY};
    s.best.bits = mpq_arena_alloc(ctx, arena, s.n_unit, 1);
    s.best.sample_loss = mpq_arena_alloc(ctx, arena, n_sample, sizeof *s.best.sample_loss);
    s.sample_loss = mpq_arena_alloc(ctx, arena, n_sample, sizeof *s.sample_loss);
    if (!s.best.bits || !s.best.sample_loss || !s.sample_loss)
        return MPQ_E_NOMEM;
    MPQ_TRY(check(&s));
    for (size_t i = 0; i < MPQ_COUNT(strategies); i++) {
        MPQ_TRY(strategies[i].run(&s));
        mpq_log(ctx, MPQ_LOG_INFO, "search: after %s, loss %.6f, %u evaluations",
                strategies[i].name, s.best.loss, s.best.n_score);
    }
    if (!s.has_best)
        return fail_infeasible(&s);
    *out = s.best;
    return MPQ_OK;
}
