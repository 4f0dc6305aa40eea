/* The multiple-choice knapsack problem with several limits: one width a unit, least total loss, no
 * cost above its limit (Kellerer, Pferschy, Pisinger: Knapsack Problems, 2004, chapters 9 and 11).
 *
 * What a layer costs may depend on the width of the group of activations it reads. So units are
 * taken in an order in which a group comes just before its readers: given the group's width, which
 * a partial allocation carries along until the last reader has been decided, all else is additive.
 *
 * First prices: with a price on each cost, the best allocation is found unit by unit, its priced
 * loss less price * limit is a bound from below for every allocation within the limits (Lagrange),
 * and prices are raised one after the other until the limits are kept. Then, unit after unit, all
 * partial allocations are kept that no other beats in loss and all costs, and that with the priced
 * least of the rest are not worse than a known complete one. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quantcore/search/searcher.h"

/* Partial allocations kept a unit; beyond that only those of the least bounds are, and the result
 * is no longer surely the best. Fewer with several limits, where each is compared with each. */
enum { MAX_STATES = 16384, MAX_STATES_SEVERAL = 1024 };

struct step {
    uint32_t unit;
    bool is_layer, has_tag, closes; /* a group opens a tag, its width; the last reader closes it */
};

struct state {
    uint64_t cost[MPQ_N_COST];
    double loss, bound; /* of what is decided; of the priced whole */
    uint32_t parent;    /* in the list of the step before          */
    uint8_t bits, tag;
};

struct knapsack {
    struct mpq_searcher *s;
    struct mpq_arena *scratch;
    const struct mpq_search_problem *problem;
    const uint64_t *limit; /* [n_cost] */
    struct step *step;
    uint32_t n_step, n_limit; /* limits there are */
    double price[MPQ_N_COST];
    double *rest;                /* [(n_step + 1) * MPQ_N_BITS] least priced loss from a step on,
                                    by the tag it begins with                                     */
    uint64_t *least[MPQ_N_COST]; /* the same of each cost */
    uint8_t *trial, *known;      /* [n_unit] last choice; best within the limits  */
    double known_loss;           /* INFINITY: none known */
    double bound, bound_price[MPQ_N_COST];
    bool is_thinned;
    struct state **list; /* [n_step] */
    uint32_t *n_list;
};

static bool is_limited(const struct knapsack *k, uint32_t c)
{
    return k->limit[c] != MPQ_NO_LIMIT;
}

static uint64_t cost_of(const struct knapsack *k, uint32_t c, const struct step *step, uint32_t tag,
                        uint32_t b)
{
    const struct mpq_cost *cost = &k->problem->cost[c];
    if (step->is_layer)
        return cost->layer[MPQ_COST_AT(step->unit, b, tag)];
    return cost->group[(step->unit - k->problem->n_layer) * MPQ_N_BITS + b];
}

static uint32_t next_tag(const struct step *step, uint32_t tag, uint32_t b)
{
    if (step->closes)
        return 0;
    return step->is_layer ? tag : b;
}

/* ---- order ---- */

static void order_units(struct knapsack *k)
{
    const struct mpq_search_problem *p = k->problem;
    for (uint32_t g = 0; g < p->n_group; g++) {
        k->step[k->n_step++] = (struct step){.unit = p->n_layer + g};
        for (uint32_t l = 0; l < p->n_layer; l++)
            if (p->input_group[l] == g)
                k->step[k->n_step++] = (struct step){l, true, true, false};
        k->step[k->n_step - 1].closes = true;
    }
    for (uint32_t l = 0; l < p->n_layer; l++)
        if (p->input_group[l] == MPQ_NO_GROUP)
            k->step[k->n_step++] = (struct step){l, true, false, true};
}

/* ---- prices ---- */

static double priced(const struct knapsack *k, uint32_t i, uint32_t tag, uint32_t b)
{
    const struct step *step = &k->step[i];
    double loss = mpq_searcher_loss(k->s, step->unit, b);
    for (uint32_t c = 0; c < k->problem->n_cost; c++)
        if (k->price[c] > 0)
            loss += k->price[c] * (double)cost_of(k, c, step, tag, b);
    return loss + k->rest[(i + 1) * MPQ_N_BITS + next_tag(step, tag, b)];
}

static void fill_rest(struct knapsack *k)
{
    for (uint32_t i = k->n_step; i-- > 0;)
        for (uint32_t tag = 0; tag < (k->step[i].has_tag ? MPQ_N_BITS : 1); tag++) {
            double least = INFINITY;
            for (uint32_t b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++)
                if (mpq_searcher_allows(k->s, k->step[i].unit, b))
                    least = fmin(least, priced(k, i, tag, b));
            k->rest[i * MPQ_N_BITS + tag] = least;
        }
    for (uint32_t i = k->n_step; i-- > 0;)
        for (uint32_t tag = 1; tag < MPQ_N_BITS && !k->step[i].has_tag; tag++)
            k->rest[i * MPQ_N_BITS + tag] = k->rest[i * MPQ_N_BITS];
}

static double estimate(const struct knapsack *k, const uint8_t *bits)
{
    return mpq_search_estimate(k->s->problem, bits);
}

static uint64_t table_cost(const struct knapsack *k, uint32_t c, const uint8_t *bits)
{
    return mpq_search_cost(k->problem, c, bits) - k->problem->cost[c].other;
}

static bool fits(const struct knapsack *k, const uint8_t *bits)
{
    for (uint32_t c = 0; c < k->problem->n_cost; c++)
        if (is_limited(k, c) && table_cost(k, c, bits) > k->limit[c])
            return false;
    return true;
}

/* Remember an allocation that keeps the limits, if it is the best so far; of equals the one of
 * fewer bytes. */
static void consider(struct knapsack *k, const uint8_t *bits)
{
    double loss = estimate(k, bits);
    if (loss > k->known_loss || !fits(k, bits) ||
        (loss == k->known_loss && table_cost(k, 0, bits) >= table_cost(k, 0, k->known)))
        return;
    memcpy(k->known, bits, k->s->n_unit);
    k->known_loss = loss;
}

/* The best allocation at the prices, in k->trial; of equals that of fewer bytes. The bound that
 * comes with it is kept if it is the highest. */
static void choose_by_price(struct knapsack *k)
{
    uint32_t tag = 0;
    fill_rest(k);
    for (uint32_t i = 0; i < k->n_step; i++) {
        const struct step *step = &k->step[i];
        uint32_t best = 0;
        double least = INFINITY;
        for (uint32_t b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
            if (!mpq_searcher_allows(k->s, step->unit, b))
                continue;
            double now = priced(k, i, tag, b);
            if (!best || now < least ||
                (now == least && cost_of(k, 0, step, tag, b) < cost_of(k, 0, step, tag, best))) {
                best = b;
                least = now;
            }
        }
        k->trial[step->unit] = (uint8_t)best;
        tag = next_tag(step, tag, best);
    }
    double bound = k->rest[0];
    for (uint32_t c = 0; c < k->problem->n_cost; c++)
        if (k->price[c] > 0)
            bound -= k->price[c] * (double)k->limit[c];
    if (bound > k->bound) {
        k->bound = bound;
        memcpy(k->bound_price, k->price, sizeof k->price);
    }
    consider(k, k->trial);
}

static bool keeps(struct knapsack *k, uint32_t c, double price)
{
    k->price[c] = price;
    choose_by_price(k);
    return table_cost(k, c, k->trial) <= k->limit[c];
}

/* The lowest price of cost c, the others as they are, at which its limit is kept; where none does,
 * one as high as it makes sense. */
static void find_price(struct knapsack *k, uint32_t c)
{
    double low = 0, high = 1e-24;
    if (keeps(k, c, 0))
        return;
    while (high < 1e24 && !keeps(k, c, high)) {
        low = high;
        high *= 4;
    }
    for (int i = 0; i < 80; i++) {
        double middle = low + (high - low) / 2;
        if (keeps(k, c, middle))
            high = middle;
        else
            low = middle;
    }
    keeps(k, c, high);
}

/* Each price by itself is the highest bound along its axis; a few rounds of all suffice. */
static void find_prices(struct knapsack *k)
{
    enum { MAX_ROUNDS = 8 };
    choose_by_price(k);
    for (int round = 0; round < MAX_ROUNDS; round++) {
        double before[MPQ_N_COST];
        memcpy(before, k->price, sizeof before);
        for (uint32_t c = 0; c < k->problem->n_cost; c++)
            if (is_limited(k, c))
                find_price(k, c);
        if (k->n_limit < 2 || memcmp(before, k->price, sizeof before) == 0)
            return;
    }
}

/* ---- what is left over ---- */

/* Spend it: the single change that gains most, as long as there is one. */
static void fill(struct knapsack *k)
{
    memcpy(k->trial, k->known, k->s->n_unit);
    for (bool has_gained = true; has_gained;) {
        double best_gain = 0;
        uint32_t best_unit = 0, best_bits = 0;
        for (uint32_t u = 0; u < k->s->n_unit; u++) {
            uint8_t old = k->trial[u];
            for (uint32_t b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
                double gain = mpq_searcher_loss(k->s, u, old) - mpq_searcher_loss(k->s, u, b);
                if (!mpq_searcher_allows(k->s, u, b) || !(gain > best_gain))
                    continue;
                k->trial[u] = (uint8_t)b;
                if (fits(k, k->trial)) {
                    best_gain = gain;
                    best_unit = u;
                    best_bits = b;
                }
            }
            k->trial[u] = old;
        }
        has_gained = best_bits != 0;
        if (has_gained)
            k->trial[best_unit] = (uint8_t)best_bits;
    }
    consider(k, k->trial);
}

/* ---- all that may be best ---- */

static int compare_states(const void *a, const void *b)
{
    const struct state *x = a, *y = b;
    if (x->tag != y->tag)
        return x->tag < y->tag ? -1 : 1;
    if (x->loss != y->loss)
        return x->loss < y->loss ? -1 : 1;
    for (int c = 0; c < MPQ_N_COST; c++)
        if (x->cost[c] != y->cost[c])
            return x->cost[c] < y->cost[c] ? -1 : 1;
    if (x->parent != y->parent)
        return x->parent < y->parent ? -1 : 1;
    return (x->bits > y->bits) - (x->bits < y->bits);
}

static int compare_bounds(const void *a, const void *b)
{
    const struct state *x = a, *y = b;
    if (x->bound != y->bound)
        return x->bound < y->bound ? -1 : 1;
    return compare_states(a, b);
}

static bool is_beaten(const struct knapsack *k, const struct state *x, const struct state *y)
{
    if (x->tag != y->tag)
        return false;
    for (uint32_t c = 0; c < k->problem->n_cost; c++)
        if ((is_limited(k, c) || c == 0) && y->cost[c] > x->cost[c])
            return false;
    return true; /* and y comes before x, its loss is not larger */
}

/* Sorted by tag and loss, keep those that none before beats in all costs. With one limit it is
 * enough to look at the last. */
static uint32_t drop_beaten(const struct knapsack *k, struct state *list, uint32_t n)
{
    uint32_t kept = 0;
    bool has_one_cost = k->n_limit == 0 || (k->n_limit == 1 && is_limited(k, 0));
    qsort(list, n, sizeof *list, compare_states);
    for (uint32_t i = 0; i < n; i++) {
        bool beaten = false;
        uint32_t first = has_one_cost && kept ? kept - 1 : 0;
        for (uint32_t j = kept; j-- > first && !beaten;)
            beaten = is_beaten(k, &list[i], &list[j]);
        if (!beaten)
            list[kept++] = list[i];
    }
    return kept;
}

static uint32_t thin(struct knapsack *k, struct state *list, uint32_t n)
{
    uint32_t most = k->n_limit > 1 ? MAX_STATES_SEVERAL : MAX_STATES;
    if (n <= most)
        return n;
    k->is_thinned = true;
    qsort(list, n, sizeof *list, compare_bounds);
    return most;
}

/* Extend every partial allocation by every width of step i; those go that cannot keep a limit or
 * cannot reach `worst`. */
static enum mpq_status extend(struct knapsack *k, uint32_t i, double worst)
{
    static const struct state empty = {.loss = 0};
    const struct step *step = &k->step[i];
    const struct state *from = i ? k->list[i - 1] : &empty;
    uint32_t n_from = i ? k->n_list[i - 1] : 1, n = 0;
    double paid = 0;
    struct state *to =
        mpq_arena_alloc(k->s->ctx, k->scratch, (size_t)n_from * MPQ_N_BITS, sizeof *to);
    if (!to)
        return MPQ_E_NOMEM;
    for (uint32_t c = 0; c < k->problem->n_cost; c++)
        if (k->price[c] > 0)
            paid += k->price[c] * (double)k->limit[c];
    for (uint32_t j = 0; j < n_from; j++) {
        for (uint32_t b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
            if (!mpq_searcher_allows(k->s, step->unit, b))
                continue;
            uint32_t tag = next_tag(step, from[j].tag, b);
            size_t at = (size_t)(i + 1) * MPQ_N_BITS + tag;
            struct state next = {.loss = from[j].loss + mpq_searcher_loss(k->s, step->unit, b),
                                 .parent = j,
                                 .bits = (uint8_t)b,
                                 .tag = (uint8_t)tag};
            bool is_possible = true;
            next.bound = next.loss + k->rest[at] - paid;
            for (uint32_t c = 0; c < k->problem->n_cost; c++) {
                next.cost[c] = from[j].cost[c] + cost_of(k, c, step, from[j].tag, b);
                if (k->price[c] > 0)
                    next.bound += k->price[c] * (double)next.cost[c];
                is_possible &= !is_limited(k, c) || next.cost[c] + k->least[c][at] <= k->limit[c];
            }
            if (is_possible && next.bound <= worst)
                to[n++] = next;
        }
    }
    n = thin(k, to, drop_beaten(k, to, n));
    k->n_list[i] = n;
    k->list[i] = mpq_arena_copy(k->s->ctx, k->scratch, to, n * sizeof *to);
    return k->list[i] ? MPQ_OK : MPQ_E_NOMEM;
}

/* Least of cost c from each step on, by tag. */
static void fill_least(struct knapsack *k, uint32_t c)
{
    for (uint32_t i = k->n_step; i-- > 0;)
        for (uint32_t tag = 0; tag < MPQ_N_BITS; tag++) {
            uint64_t least = UINT64_MAX;
            for (uint32_t b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
                if (!mpq_searcher_allows(k->s, k->step[i].unit, b))
                    continue;
                uint64_t cost = cost_of(k, c, &k->step[i], k->step[i].has_tag ? tag : 0, b) +
                                k->least[c][(i + 1) * MPQ_N_BITS + next_tag(&k->step[i], tag, b)];
                least = cost < least ? cost : least;
            }
            k->least[c][i * MPQ_N_BITS + tag] = least;
        }
}

static enum mpq_status improve(struct knapsack *k)
{
    double magnitude = 1e-300, worst = INFINITY;
    memcpy(k->price, k->bound_price, sizeof k->price);
    fill_rest(k);
    for (uint32_t c = 0; c < k->problem->n_cost; c++)
        fill_least(k, c);
    if (isfinite(k->known_loss)) { /* the slack covers rounding in the bound */
        for (uint32_t i = 0; i < k->n_step; i++)
            magnitude += fabs(mpq_searcher_loss(k->s, k->step[i].unit, k->known[k->step[i].unit])) +
                         fabs(k->rest[i * MPQ_N_BITS]);
        worst = k->known_loss + 1e-13 * magnitude;
    }
    for (uint32_t i = 0; i < k->n_step; i++)
        MPQ_TRY(extend(k, i, worst));
    for (uint32_t n = k->n_step ? k->n_list[k->n_step - 1] : 0, last = 0; last < n; last++) {
        uint32_t at = last;
        for (uint32_t i = k->n_step; i-- > 0;) {
            k->trial[k->step[i].unit] = k->list[i][at].bits;
            at = k->list[i][at].parent;
        }
        consider(k, k->trial);
    }
    return MPQ_OK;
}

static enum mpq_status create(struct mpq_searcher *s, const uint64_t *limit,
                              struct mpq_arena *scratch, struct knapsack *k)
{
    *k = (struct knapsack){.s = s,
                           .scratch = scratch,
                           .problem = s->problem,
                           .limit = limit,
                           .known_loss = INFINITY,
                           .bound = -INFINITY};
    size_t n_entry = ((size_t)s->n_unit + 1) * MPQ_N_BITS;
    k->step = mpq_arena_alloc(s->ctx, scratch, s->n_unit, sizeof *k->step);
    k->rest = mpq_arena_alloc(s->ctx, scratch, n_entry, sizeof *k->rest);
    k->trial = mpq_arena_alloc(s->ctx, scratch, s->n_unit, 1);
    k->known = mpq_arena_alloc(s->ctx, scratch, s->n_unit, 1);
    k->list = mpq_arena_alloc(s->ctx, scratch, s->n_unit, sizeof(struct state *));
    k->n_list = mpq_arena_alloc(s->ctx, scratch, s->n_unit, sizeof *k->n_list);
    if (!k->step || !k->rest || !k->trial || !k->known || !k->list || !k->n_list)
        return MPQ_E_NOMEM;
    for (uint32_t c = 0; c < s->problem->n_cost; c++) {
        k->least[c] = mpq_arena_alloc(s->ctx, scratch, n_entry, sizeof *k->least[c]);
        if (!k->least[c])
            return MPQ_E_NOMEM;
        k->n_limit += is_limited(k, c);
    }
    order_units(k);
    return MPQ_OK;
}

static enum mpq_status solve(struct mpq_searcher *s, const uint64_t *limit,
                             struct mpq_arena *scratch, struct mpq_knapsack_result *out)
{
    struct knapsack k;
    MPQ_TRY(create(s, limit, scratch, &k));
    find_prices(&k);
    if (isfinite(k.known_loss))
        fill(&k);
    MPQ_TRY(improve(&k));
    out->is_found = isfinite(k.known_loss);
    out->is_exact = !k.is_thinned;
    out->estimate = k.known_loss;
    out->bound = k.is_thinned ? fmin(k.bound, k.known_loss) : k.known_loss;
    memcpy(out->bits, k.known, s->n_unit);
    memcpy(out->price, k.bound_price, sizeof out->price);
    return MPQ_OK;
}

enum mpq_status mpq_knapsack(struct mpq_searcher *s, const uint64_t *limit,
                             struct mpq_knapsack_result *out)
{
    struct mpq_arena *scratch = mpq_arena_create(s->ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    enum mpq_status status = solve(s, limit, scratch, out);
    mpq_arena_free(scratch);
    return status;
}

/* No limits, and a price so high that nothing else counts. */
enum mpq_status mpq_knapsack_least(struct mpq_searcher *s, uint32_t c, uint8_t *bits,
                                   uint64_t *out_cost)
{
    static const uint64_t no_limit[MPQ_N_COST] = {MPQ_NO_LIMIT, MPQ_NO_LIMIT, MPQ_NO_LIMIT,
                                                  MPQ_NO_LIMIT};
    _Static_assert(MPQ_N_COST == 4, "one more entry above");
    struct mpq_arena *scratch = mpq_arena_create(s->ctx);
    struct knapsack k;
    if (!scratch)
        return MPQ_E_NOMEM;
    enum mpq_status status = create(s, no_limit, scratch, &k);
    if (status == MPQ_OK) {
        uint32_t tag = 0;
        fill_least(&k, c);
        for (uint32_t i = 0; i < k.n_step; i++) {
            const struct step *step = &k.step[i];
            for (uint32_t b = MPQ_MAX_BITS; b >= MPQ_MIN_BITS; b--) { /* of equals the widest */
                if (mpq_searcher_allows(s, step->unit, b) &&
                    cost_of(&k, c, step, tag, b) +
                            k.least[c][(i + 1) * MPQ_N_BITS + next_tag(step, tag, b)] ==
                        k.least[c][i * MPQ_N_BITS + tag]) {
                    bits[step->unit] = (uint8_t)b;
                    tag = next_tag(step, tag, b);
                    break;
                }
            }
        }
        *out_cost = k.least[c][0];
    }
    mpq_arena_free(scratch);
    return status;
}
