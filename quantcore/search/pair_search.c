#include "quantcore/search/pair_search.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quantcore/base/arena.h"

static const double error_scale = 1.5, weight_share = 0.95;
enum { START_BITS = 5, FIXED_BITOPS = 64, LOWEST = 2, HIGHEST = 6, MAX_EXCHANGE_FAILURES = 8 };

/* One width of one layer to be `to`. */
struct move {
    uint32_t layer;
    bool is_input;
    int to;
    double error; /* with this move made */
    uint64_t bitops;
};

struct searcher {
    struct mpq_ctx *ctx;
    const struct mpq_pair_problem *problem;
    struct mpq_pair_result at; /* where we are           */
    struct move *move;         /* of a step              */
    uint32_t n_move;
    int fewest; /* bits that no width goes below, for now */
    uint64_t n_resample;
};

/* ---- costs ---- */

uint64_t mpq_pair_bitops(const struct mpq_pair_problem *p, const uint8_t *weight_bits,
                         const uint8_t *input_bits)
{
    uint64_t sum = 0;
    for (uint32_t l = 0; l < p->n_layer; l++)
        sum += p->macs[l] * (p->is_searchable[l] ? (uint64_t)weight_bits[l] * input_bits[l]
                                                 : (uint64_t)FIXED_BITOPS);
    return sum;
}

uint64_t mpq_pair_uniform_bitops(const struct mpq_pair_problem *p, int weight_bits, int input_bits)
{
    uint64_t sum = 0;
    for (uint32_t l = 0; l < p->n_layer; l++)
        sum +=
            p->macs[l] * (uint64_t)(p->is_searchable[l] ? weight_bits * input_bits : FIXED_BITOPS);
    return sum;
}

/* The width whose uniform use costs most nearly the budget. */
static int level_of(const struct mpq_pair_problem *p)
{
    int best = LOWEST;
    double least = INFINITY;
    for (int b = LOWEST; b <= HIGHEST; b++) {
        double distance = fabs((double)mpq_pair_uniform_bitops(p, b, b) - (double)p->budget_bitops);
        if (distance < least) {
            least = distance;
            best = b;
        }
    }
    return best;
}

/* ---- widths ---- */

static uint16_t set_of(const struct searcher *s, uint32_t l, bool is_input)
{
    return is_input ? s->problem->inputs[l] : s->problem->weights[l];
}

static uint8_t *bits_of(struct searcher *s, uint32_t l, bool is_input)
{
    return is_input ? &s->at.input_bits[l] : &s->at.weight_bits[l];
}

/* The next width of the set from b on in this direction, or 0. */
static int next_width(uint16_t set, int b, int direction)
{
    for (b += direction; b >= MPQ_MIN_BITS && b <= MPQ_MAX_BITS; b += direction)
        if (set >> b & 1)
            return b;
    return 0;
}

/* The width of the set nearest to b, the narrower of two. */
static int nearest_width(uint16_t set, int b)
{
    for (int d = 0; d <= 15; d++) {
        if (b >= d && set >> (b - d) & 1)
            return b - d;
        if (b + d < 16 && set >> (b + d) & 1)
            return b + d;
    }
    return b;
}

static double score(struct searcher *s)
{
    s->at.n_score++;
    double error = s->problem->score(s->problem->arg, s->at.weight_bits, s->at.input_bits);
    return isnan(error) ? (double)INFINITY : error;
}

static uint64_t bitops(const struct searcher *s)
{
    return mpq_pair_bitops(s->problem, s->at.weight_bits, s->at.input_bits);
}

static enum mpq_status resample(struct searcher *s)
{
    if (!s->problem->resample)
        return MPQ_OK;
    return s->problem->resample(s->ctx, s->problem->arg, s->n_resample++);
}

/* ---- a step ---- */

/* Score all moves of one kind; layers last first, so that what comes before
 * them is computed once. No width goes below s->fewest, and up only from
 * `lowest_up` on. */
static void score_moves(struct searcher *s, bool is_input, int lowest_up)
{
    for (uint32_t l = s->problem->n_layer; l-- > 0;) {
        uint8_t *bits = bits_of(s, l, is_input), from = *bits;
        if (!s->problem->is_searchable[l])
            continue;
        for (int direction = -1; direction <= 1; direction += 2) {
            int to = next_width(set_of(s, l, is_input), from, direction);
            if (!to || (direction < 0 && to < s->fewest) || (direction > 0 && from < lowest_up))
                continue;
            *bits = (uint8_t)to;
            s->move[s->n_move++] = (struct move){l, is_input, to, score(s), bitops(s)};
            *bits = from;
        }
    }
}

/* Errors and savings of a step are taken between their least and their most. */
static const struct move *best_move(const struct searcher *s)
{
    const struct move *best = NULL;
    double error[2] = {INFINITY, -INFINITY}, cost[2] = {INFINITY, -INFINITY}, least = INFINITY;
    for (uint32_t i = 0; i < s->n_move; i++) {
        double e = s->move[i].error, c = (double)s->move[i].bitops;
        cost[0] = fmin(cost[0], c);
        cost[1] = fmax(cost[1], c);
        error[0] = fmin(error[0], e);
        error[1] = isfinite(e) ? fmax(error[1], e) : error[1];
    }
    for (uint32_t i = s->n_move; i-- > 0;) { /* ties go to the layer that comes first */
        double e = s->move[i].error, c = (double)s->move[i].bitops;
        double value =
            error[1] > error[0] ? error_scale * (e - error[0]) / (error[1] - error[0]) : 0;
        value += cost[1] > cost[0] ? (c - cost[0]) / (cost[1] - cost[0]) : 0;
        value = isfinite(e) ? value : DBL_MAX;
        if (value <= least) {
            least = value;
            best = &s->move[i];
        }
    }
    return best;
}

static void make_move(struct searcher *s, const struct move *move)
{
    *bits_of(s, move->layer, move->is_input) = (uint8_t)move->to;
    s->at.bitops = bitops(s);
    s->at.error = move->error;
}

/* Down to the budget. Going up and down for ever is ended by a bound on the
 * steps that may go up; from then on each step saves something. */
static enum mpq_status descend(struct searcher *s)
{
    const struct mpq_pair_problem *p = s->problem;
    uint32_t may_go_up = 4 * p->n_layer;
    int level = level_of(p);
    uint64_t weight_target =
        (uint64_t)(weight_share * (double)mpq_pair_uniform_bitops(p, level, START_BITS));
    bool is_input = false;
    int n_idle = 0; /* phases in a row without a move */
    s->fewest = level >= 4 ? 3 : 2;
    while (s->at.bitops > p->budget_bitops) {
        MPQ_TRY(mpq_step(s->ctx, "search", s->at.n_step, 0, s->at.error));
        MPQ_TRY(resample(s));
        is_input = is_input || s->at.bitops <= weight_target;
        s->n_move = 0;
        bool goes_up = s->at.n_step < may_go_up;
        score_moves(s, is_input, goes_up ? s->fewest + 1 : MPQ_N_BITS); /* as published */
        bool saves = false;
        for (uint32_t i = 0; i < s->n_move; i++)
            saves = saves || s->move[i].bitops < s->at.bitops;
        if (saves) {
            make_move(s, best_move(s));
            s->at.n_step++;
            n_idle = 0;
            continue;
        }
        if (++n_idle == 2) {
            MPQ_ASSERT(s->fewest > LOWEST); /* else the budget was infeasible */
            s->fewest = LOWEST;
            n_idle = 0;
        }
        is_input = !is_input;
        weight_target = is_input ? weight_target : 0; /* back to weights, to stay */
    }
    return MPQ_OK;
}

/* ---- two choices compared ---- */

/* Widths of weights and of inputs, one after the other, [2 * n_layer]. */
static void use(struct searcher *s, const uint8_t *bits)
{
    memcpy(s->at.weight_bits, bits, s->problem->n_layer);
    memcpy(s->at.input_bits, bits + s->problem->n_layer, s->problem->n_layer);
    s->at.bitops = bitops(s);
}

static void save(const struct searcher *s, uint8_t *bits)
{
    memcpy(bits, s->at.weight_bits, s->problem->n_layer);
    memcpy(bits + s->problem->n_layer, s->at.input_bits, s->problem->n_layer);
}

/* Mean errors on n_trial times other samples. The second choice is left in use.
 */
static enum mpq_status compare(struct searcher *s, uint8_t *const bits[2], int n_trial,
                               double out_error[2])
{
    out_error[0] = out_error[1] = 0;
    for (int trial = 0; trial < n_trial; trial++) {
        MPQ_TRY(resample(s));
        for (int i = 0; i < 2; i++) {
            use(s, bits[i]);
            out_error[i] += score(s) / n_trial;
        }
    }
    return MPQ_OK;
}

/* ---- exchanges ---- */

struct exchange {
    double gain;       /* estimated, from the two moves by themselves */
    uint32_t down, up; /* moves; n_move: none */
};

static int by_gain(const void *a, const void *b)
{
    const struct exchange *x = a, *y = b;
    if (x->gain != y->gain)
        return x->gain > y->gain ? -1 : 1;
    if (x->down != y->down)
        return x->down < y->down ? -1 : 1;
    return (x->up > y->up) - (x->up < y->up);
}

/* Whether both moves (n_move: none) keep the budget; they stay made where they
 * do. */
static bool try_moves(struct searcher *s, const struct exchange *e)
{
    uint8_t *bits[2] = {NULL, NULL}, from[2] = {0, 0};
    const uint32_t index[2] = {e->down, e->up};
    for (int i = 0; i < 2; i++) {
        if (index[i] == s->n_move)
            continue;
        const struct move *move = &s->move[index[i]];
        bits[i] = bits_of(s, move->layer, move->is_input);
        from[i] = *bits[i];
        *bits[i] = (uint8_t)move->to;
    }
    if (bits[0] != bits[1] && bitops(s) <= s->problem->budget_bitops)
        return true;
    for (int i = 1; i >= 0; i--)
        if (bits[i])
            *bits[i] = from[i];
    return false;
}

static void list_exchanges(struct searcher *s, double error, struct exchange *list, uint32_t *out_n)
{
    uint32_t n = 0;
    for (uint32_t up = 0; up < s->n_move; up++) {
        if (s->move[up].bitops <= s->at.bitops)
            continue;
        double gain = error - s->move[up].error;
        for (uint32_t down = 0; down <= s->n_move && gain > 0; down++) {
            double loss = down == s->n_move ? 0 : s->move[down].error - error;
            bool goes_down = down == s->n_move || s->move[down].bitops < s->at.bitops;
            if (goes_down && gain > loss)
                list[n++] = (struct exchange){gain - loss, down, up};
        }
    }
    qsort(list, n, sizeof *list, by_gain);
    *out_n = n;
}

/* The most promising exchange that is better on these samples and on others.
 * bits: scratch. */
static enum mpq_status exchange(struct searcher *s, struct exchange *list, uint8_t *const bits[2],
                                bool *out_made)
{
    uint32_t n;
    double error, after = INFINITY, mean[2];
    *out_made = false;
    MPQ_TRY(resample(s));
    s->at.error = error = score(s);
    s->n_move = 0;
    score_moves(s, true, LOWEST);
    score_moves(s, false, LOWEST);
    list_exchanges(s, error, list, &n);
    save(s, bits[0]);
    int n_failure = 0;
    for (uint32_t i = 0; i < n && after >= error && n_failure < MAX_EXCHANGE_FAILURES; i++) {
        if (!try_moves(s, &list[i]))
            continue;
        after = score(s);
        save(s, bits[1]);
        use(s, bits[0]);
        n_failure++;
    }
    if (after >= error)
        return MPQ_OK;
    MPQ_TRY(compare(s, bits, 1, mean));
    *out_made = mean[1] < mean[0];
    use(s, bits[*out_made]);
    s->at.error = mean[*out_made];
    return MPQ_OK;
}

static enum mpq_status exchange_all(struct searcher *s, struct exchange *list,
                                    uint8_t *const bits[2])
{
    enum { MAX_IDLE = 2 };
    s->fewest = LOWEST; /* the rule was for moves that nothing confirms */
    for (uint32_t i = 0, n_idle = 0; i < 2 * s->problem->n_layer && n_idle < MAX_IDLE; i++) {
        bool is_made;
        MPQ_TRY(mpq_step(s->ctx, "search", s->at.n_step + i, 0, s->at.error));
        MPQ_TRY(exchange(s, list, bits, &is_made));
        s->at.n_exchange += is_made;
        n_idle = is_made ? 0 : n_idle + 1;
    }
    return MPQ_OK;
}

/* ---- the whole ---- */

static void set_all(struct searcher *s, int bits)
{
    for (uint32_t l = 0; l < s->problem->n_layer; l++)
        for (int is_input = 0; is_input < 2; is_input++)
            *bits_of(s, l, is_input) = (uint8_t)nearest_width(set_of(s, l, is_input), bits);
    s->at.bitops = bitops(s);
}

/* Found on a few samples a step, the widths must hold against the uniform ones
 * on more. */
static enum mpq_status compare_with_uniform(struct searcher *s, uint8_t *const bits[2])
{
    enum { TRIALS = 8 };
    double error[2];
    save(s, bits[0]);
    set_all(s, level_of(s->problem));
    save(s, bits[1]);
    if (s->at.bitops > s->problem->budget_bitops) {
        use(s, bits[0]);
        return MPQ_OK;
    }
    MPQ_TRY(compare(s, bits, TRIALS, error));
    s->at.is_uniform = error[1] < error[0];
    use(s, bits[s->at.is_uniform]);
    s->at.error = error[s->at.is_uniform];
    return MPQ_OK;
}

static enum mpq_status search(struct searcher *s, struct mpq_arena *scratch)
{
    size_t n_layer = s->problem->n_layer, most = 4 * n_layer; /* moves */
    struct exchange *list = mpq_arena_alloc(s->ctx, scratch, most * (most + 1), sizeof *list);
    uint8_t *bits[2] = {mpq_arena_alloc(s->ctx, scratch, 2 * n_layer, 1),
                        mpq_arena_alloc(s->ctx, scratch, 2 * n_layer, 1)};
    s->move = mpq_arena_alloc(s->ctx, scratch, most + 1, sizeof *s->move);
    if (!list || !bits[0] || !bits[1] || !s->move)
        return MPQ_E_NOMEM;
    set_all(s, LOWEST);
    if (s->at.bitops > s->problem->budget_bitops)
        return mpq_fail(s->ctx, MPQ_E_INFEASIBLE,
                        "no widths need as few as %" PRIu64
                        " bit operations; the fewest are %" PRIu64,
                        s->problem->budget_bitops, s->at.bitops);
    set_all(s, level_of(s->problem) < START_BITS ? START_BITS : HIGHEST);
    s->at.error = NAN;
    MPQ_TRY(descend(s));
    MPQ_TRY(exchange_all(s, list, bits));
    return compare_with_uniform(s, bits);
}

enum mpq_status mpq_pair_search(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                const struct mpq_pair_problem *problem, struct mpq_pair_result *out)
{
    struct searcher s = {.ctx = ctx, .problem = problem};
    s.at.weight_bits = mpq_arena_alloc(ctx, arena, problem->n_layer, 1);
    s.at.input_bits = mpq_arena_alloc(ctx, arena, problem->n_layer, 1);
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    enum mpq_status status = MPQ_E_NOMEM;
    if (s.at.weight_bits && s.at.input_bits && scratch)
        status = search(&s, scratch);
    mpq_arena_free(scratch);
    if (status == MPQ_OK)
        *out = s.at;
    return status;
}
