/* The multiple-choice knapsack problem, exactly: one width a layer, least total loss, total bytes
 * at most a capacity (Kellerer, Pferschy, Pisinger: Knapsack Problems, 2004, chapter 11).
 *
 * Layer after layer, all partial allocations are kept that no other beats in both bytes and loss.
 * What keeps their number small is the Lagrangian bound: with a price a byte, the rest of the
 * layers cost at least the sum of their minima of loss + price * bytes, so a partial allocation
 * that with this bound is worse than a known complete one goes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quantcore/search/searcher.h"

/* Partial allocations kept a layer. Beyond that the byte axis is divided in so many steps and only
 * the best in each kept: still within the capacity, no longer surely the best. */
enum { MAX_STATES = 16384 };

struct prices {
    double a_byte, a_bitop;
};

struct state {
    uint64_t bytes;
    double loss;     /* with bit operations at their price    */
    uint32_t parent; /* in the list of the layer before       */
    uint8_t bits;    /* of this layer */
};

struct knapsack {
    struct mpq_searcher *s;
    struct mpq_arena *scratch;
    uint64_t capacity;
    struct prices prices;
    double *least_rest;   /* [n_layer + 1] least priced loss of the layers from l on */
    uint64_t *bytes_rest; /* [n_layer + 1] fewest bytes of the layers from l on      */
    struct state **list;  /* [n_layer] kept partial allocations                     */
    uint32_t *n_list;     /* [n_layer] */
};

static uint64_t bitops_of(const struct mpq_searcher *s, uint32_t l, uint32_t b)
{
    return s->problem->layer_bitops ? s->problem->layer_bitops[l * MPQ_N_BITS + b] : 0;
}

static double loss_of(const struct knapsack *k, uint32_t l, uint32_t b)
{
    return mpq_searcher_loss(k->s, l, b) + k->prices.a_bitop * (double)bitops_of(k->s, l, b);
}

static double priced(const struct knapsack *k, uint32_t l, uint32_t b)
{
    return loss_of(k, l, b) + k->prices.a_byte * (double)mpq_searcher_bytes(k->s, l, b);
}

static double total_loss(const struct knapsack *k, const uint8_t *bits)
{
    double sum = 0;
    for (uint32_t l = 0; l < k->s->problem->n_layer; l++)
        sum += loss_of(k, l, bits[l]);
    return sum;
}

static uint64_t total_bytes(const struct knapsack *k, const uint8_t *bits)
{
    return mpq_cost_sum(k->s->problem->n_layer, k->s->problem->layer_bytes, bits);
}

static bool fits_bitops(const struct knapsack *k, const uint8_t *bits)
{
    const struct mpq_search_problem *p = k->s->problem;
    return !p->layer_bitops || mpq_cost_sum(p->n_layer, p->layer_bitops, bits) <= p->budget_bitops;
}

/* Each layer at its cheapest by the prices; of equals the one of fewer bytes. */
static void choose_by_price(const struct knapsack *k, uint8_t *bits)
{
    for (uint32_t l = 0; l < k->s->problem->n_layer; l++) {
        bits[l] = 0;
        for (uint32_t b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
            if (!mpq_searcher_allows(k->s, l, b))
                continue;
            uint64_t bytes = mpq_searcher_bytes(k->s, l, b);
            double now = priced(k, l, b), best = bits[l] ? priced(k, l, bits[l]) : now;
            if (!bits[l] || now < best ||
                (now == best && bytes < mpq_searcher_bytes(k->s, l, bits[l])))
                bits[l] = (uint8_t)b;
        }
    }
}

/* The lowest price (of the two, the one pointed to) at which the choice keeps its limit. False
 * where none does: then the price is as high as it makes sense. */
static bool find_price(struct knapsack *k, double *price,
                       bool (*keeps)(struct knapsack *, uint8_t *), uint8_t *bits)
{
    double low = 0, high = 1e-24;
    *price = 0;
    if (keeps(k, bits))
        return true;
    for (*price = high; !keeps(k, bits); *price = high) {
        if (high > 1e24)
            return false;
        low = high;
        high *= 4;
    }
    for (int i = 0; i < 80; i++) {
        *price = low + (high - low) / 2;
        if (keeps(k, bits))
            high = *price;
        else
            low = *price;
    }
    *price = high;
    return keeps(k, bits);
}

static bool keeps_bytes(struct knapsack *k, uint8_t *bits)
{
    choose_by_price(k, bits);
    return total_bytes(k, bits) <= k->capacity;
}

static bool keeps_bitops(struct knapsack *k, uint8_t *bits)
{
    return find_price(k, &k->prices.a_byte, keeps_bytes, bits) && fits_bitops(k, bits);
}

/* Spend what is left: the single change that gains most, as long as there is one. */
static void fill(const struct knapsack *k, uint8_t *bits)
{
    for (;;) {
        double best_gain = 0;
        uint32_t best_layer = 0, best_bits = 0;
        uint64_t bytes = total_bytes(k, bits);
        for (uint32_t l = 0; l < k->s->problem->n_layer; l++) {
            uint8_t old = bits[l];
            for (uint32_t b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
                if (!mpq_searcher_allows(k->s, l, b) ||
                    bytes - mpq_searcher_bytes(k->s, l, old) + mpq_searcher_bytes(k->s, l, b) >
                        k->capacity)
                    continue;
                double gain = loss_of(k, l, old) - loss_of(k, l, b);
                bits[l] = (uint8_t)b;
                if (gain > best_gain && fits_bitops(k, bits)) {
                    best_gain = gain;
                    best_layer = l;
                    best_bits = b;
                }
            }
            bits[l] = old;
        }
        if (!best_bits)
            return;
        bits[best_layer] = (uint8_t)best_bits;
    }
}

static int compare_states(const void *a, const void *b)
{
    const struct state *x = a, *y = b;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    if (x->loss != y->loss)
        return x->loss < y->loss ? -1 : 1;
    if (x->parent != y->parent)
        return x->parent < y->parent ? -1 : 1;
    return (x->bits > y->bits) - (x->bits < y->bits);
}

/* Sorted by bytes; keep those whose loss no smaller one reaches. */
static uint32_t drop_dominated(struct state *list, uint32_t n)
{
    uint32_t kept = 0;
    qsort(list, n, sizeof *list, compare_states);
    for (uint32_t i = 0; i < n; i++)
        if (kept == 0 || list[i].loss < list[kept - 1].loss)
            list[kept++] = list[i];
    return kept;
}

/* One state a step of the byte axis. The last in a step has the least loss. */
static uint32_t thin(struct state *list, uint32_t n)
{
    if (n <= MAX_STATES)
        return n;
    uint64_t step = (list[n - 1].bytes - list[0].bytes) / MAX_STATES + 1;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if (i + 1 == n ||
            (list[i].bytes - list[0].bytes) / step != (list[i + 1].bytes - list[0].bytes) / step)
            list[kept++] = list[i];
    return kept;
}

/* Extend every partial allocation by every width of layer l. */
static enum mpq_status extend(struct knapsack *k, uint32_t l, double worst)
{
    static const struct state empty = {0};
    const struct state *from = l ? k->list[l - 1] : &empty;
    uint32_t n_from = l ? k->n_list[l - 1] : 1, n = 0;
    struct state *to =
        mpq_arena_alloc(k->s->ctx, k->scratch, (size_t)n_from * MPQ_N_BITS, sizeof *to);
    if (!to)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < n_from; i++) {
        for (uint32_t b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
            if (!mpq_searcher_allows(k->s, l, b))
                continue;
            struct state next = {.bytes = from[i].bytes + mpq_searcher_bytes(k->s, l, b),
                                 .loss = from[i].loss + loss_of(k, l, b),
                                 .parent = i,
                                 .bits = (uint8_t)b};
            if (next.bytes + k->bytes_rest[l + 1] > k->capacity)
                continue;
            double left = (double)(k->capacity - next.bytes);
            if (next.loss + k->least_rest[l + 1] - k->prices.a_byte * left <= worst)
                to[n++] = next;
        }
    }
    n = thin(to, drop_dominated(to, n));
    k->n_list[l] = n;
    k->list[l] = mpq_arena_copy(k->s->ctx, k->scratch, to, n * sizeof *to);
    return k->list[l] ? MPQ_OK : MPQ_E_NOMEM;
}

static enum mpq_status alloc_tables(struct knapsack *k)
{
    uint32_t n_layer = k->s->problem->n_layer;
    k->least_rest = mpq_arena_alloc(k->s->ctx, k->scratch, n_layer + 1, sizeof *k->least_rest);
    k->bytes_rest = mpq_arena_alloc(k->s->ctx, k->scratch, n_layer + 1, sizeof *k->bytes_rest);
    k->list = mpq_arena_alloc(k->s->ctx, k->scratch, n_layer, sizeof(struct state *));
    k->n_list = mpq_arena_alloc(k->s->ctx, k->scratch, n_layer, sizeof *k->n_list);
    if (!k->least_rest || !k->bytes_rest || !k->list || !k->n_list)
        return MPQ_E_NOMEM;
    return MPQ_OK;
}

static void fill_tables(struct knapsack *k)
{
    for (uint32_t l = k->s->problem->n_layer; l-- > 0;) {
        double least = INFINITY;
        uint64_t fewest = UINT64_MAX;
        for (uint32_t b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
            if (!mpq_searcher_allows(k->s, l, b))
                continue;
            least = fmin(least, priced(k, l, b));
            if (mpq_searcher_bytes(k->s, l, b) < fewest)
                fewest = mpq_searcher_bytes(k->s, l, b);
        }
        k->least_rest[l] = k->least_rest[l + 1] + least;
        k->bytes_rest[l] = k->bytes_rest[l + 1] + fewest;
    }
}

/* Whatever beats `bits`, or equals it with fewer bytes, takes its place. */
static enum mpq_status improve(struct knapsack *k, uint8_t *bits)
{
    uint32_t n_layer = k->s->problem->n_layer;
    MPQ_TRY(alloc_tables(k));
    fill_tables(k);
    double known = total_loss(k, bits), magnitude = 1e-300;
    for (uint32_t l = 0; l < n_layer; l++)
        magnitude += fabs(loss_of(k, l, bits[l])) + fabs(k->least_rest[l]);
    for (uint32_t l = 0; l < n_layer; l++) /* the slack covers rounding in the bound */
        MPQ_TRY(extend(k, l, known + 1e-13 * magnitude));
    if (n_layer == 0 || k->n_list[n_layer - 1] == 0)
        return MPQ_OK;
    uint32_t at = k->n_list[n_layer - 1] - 1; /* of the least loss */
    uint8_t *found = mpq_arena_alloc(k->s->ctx, k->scratch, n_layer, 1);
    if (!found)
        return MPQ_E_NOMEM;
    for (uint32_t l = n_layer; l-- > 0;) {
        found[l] = k->list[l][at].bits;
        at = k->list[l][at].parent;
    }
    double loss = total_loss(k, found);
    bool is_better =
        loss < known || (loss == known && total_bytes(k, found) < total_bytes(k, bits));
    if (is_better && fits_bitops(k, found))
        memcpy(bits, found, n_layer);
    return MPQ_OK;
}

enum mpq_status mpq_knapsack(struct mpq_searcher *s, uint64_t capacity, uint8_t *out_bits,
                             bool *out_found)
{
    struct knapsack k = {.s = s, .capacity = capacity};
    mpq_searcher_smallest(s, out_bits);
    *out_found = total_bytes(&k, out_bits) <= capacity;
    if (!*out_found)
        return MPQ_OK;
    if (!find_price(&k, &k.prices.a_bitop, keeps_bitops, out_bits)) {
        mpq_searcher_smallest(s, out_bits);
        *out_found = fits_bitops(&k, out_bits);
        return MPQ_OK;
    }
    fill(&k, out_bits);
    k.scratch = mpq_arena_create(s->ctx);
    if (!k.scratch)
        return MPQ_E_NOMEM;
    enum mpq_status status = improve(&k, out_bits);
    mpq_arena_free(k.scratch);
    return status;
}
