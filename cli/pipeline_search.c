/* The pipeline's search stage: what each width costs, in the file and elsewhere, what it costs in
 * accuracy, and the best allocation between the two. */
#include <math.h>
#include <string.h>

#include "cli/latency.h"
#include "cli/pick.h"
#include "cli/pipeline.h"

struct mpq_export_plan mpq_pipeline_export_plan(const struct mpq_pipeline *p)
{
    return (struct mpq_export_plan){.graph = p->export_graph,
                                    .layers = &p->layers,
                                    .act = p->act.group ? &p->act : NULL,
                                    .act_quant = p->act_quant,
                                    .target = p->options->target,
                                    .external_name = p->external_name,
                                    .message_limit = p->options->message_limit,
                                    .names = p->options->names};
}

void mpq_pipeline_set_activations(struct mpq_pipeline *p, const uint8_t *bits)
{
    for (uint32_t g = 0; g < p->n_act; g++)
        p->act_quant[g] = p->act_by_width[bits[p->layers.n_layer + g]][g];
}

static enum mpq_status file_size(struct mpq_ctx *ctx, void *arg, const uint8_t *bits,
                                 uint64_t *out_bytes)
{
    struct mpq_pipeline *p = arg;
    size_t bytes;
    mpq_pipeline_set_activations(p, bits);
    struct mpq_export_plan plan = mpq_pipeline_export_plan(p);
    MPQ_TRY(mpq_export_size(ctx, &plan, bits, &bytes));
    *out_bytes = bytes;
    return MPQ_OK;
}

/* The losses of the allocation where it is one width for all layers, activations at their widest,
 * and that is known; NULL elsewhere. */
static const double *known_loss(const struct mpq_pipeline *p, const uint8_t *bits)
{
    const double *loss = p->uniform_loss + (size_t)bits[0] * p->decide.n;
    for (uint32_t l = 0; l < p->layers.n_layer; l++)
        if (bits[l] != bits[0])
            return NULL;
    for (uint32_t g = 0; g < p->n_act; g++)
        for (uint32_t b = bits[p->layers.n_layer + g] + 1u; b < MPQ_N_BITS; b++)
            if (p->act_by_width[b])
                return NULL;
    return isnan(loss[0]) ? NULL : loss;
}

static enum mpq_status score(struct mpq_ctx *ctx, void *arg, const uint8_t *bits,
                             double *out_sample_loss)
{
    struct mpq_pipeline *p = arg;
    const double *known = known_loss(p, bits);
    if (known) {
        memcpy(out_sample_loss, known, p->decide.n * sizeof *known);
        return MPQ_OK;
    }
    mpq_pipeline_set_activations(p, bits);
    return mpq_evaluate_samples(ctx, &p->evaluator, bits, out_sample_loss);
}

/* ---- costs ---- */

static int widest(const struct mpq_pipeline *p)
{
    return mpq_bits_highest(p->candidates);
}

/* The group of activations that layer l computes with. */
static uint32_t input_group_of(const struct mpq_pipeline *p, uint32_t l)
{
    const struct mpq_layer *layer = &p->layers.layer[l];
    return layer->is_weight_only ? MPQ_NO_GROUP : p->act.group[layer->x];
}

/* All layers and groups at their widest. */
static void fill_widest(const struct mpq_pipeline *p, uint8_t *bits)
{
    memset(bits, widest(p), p->layers.n_layer);
    for (uint32_t g = 0; g < p->n_act; g++)
        for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++)
            if (p->act_by_width[b])
                bits[p->layers.n_layer + g] = (uint8_t)b;
}

/* What layer l adds to the file at b bits: the difference that taking it from the widest width to b
 * makes where all other layers are at b already, so that the constants which all layers of a width
 * share are counted for none of them. *out_other: the rest of the file, with all layers at their
 * widest. bits [n_layer + n_act]: scratch. */
static enum mpq_status measure_layers(struct mpq_ctx *ctx, struct mpq_pipeline *p, uint8_t *bits,
                                      uint64_t *out_other)
{
    uint32_t n_layer = p->layers.n_layer;
    uint64_t all_widest, weights = 0;
    fill_widest(p, bits);
    MPQ_TRY(file_size(ctx, p, bits, &all_widest));
    for (uint32_t l = 0; l < n_layer; l++) {
        uint64_t bytes = ((uint64_t)p->layers.layer[l].n_param * (uint64_t)widest(p) + 7) / 8;
        p->layer_bytes[l * MPQ_N_BITS + widest(p)] = bytes;
        weights += bytes;
    }
    for (int b = MPQ_MIN_BITS; b < widest(p); b++) {
        uint64_t all_here, one_widest;
        if (!(p->candidates >> b & 1))
            continue;
        memset(bits, b, n_layer);
        MPQ_TRY(file_size(ctx, p, bits, &all_here));
        for (uint32_t l = 0; l < n_layer; l++) {
            bits[l] = (uint8_t)widest(p);
            MPQ_TRY(file_size(ctx, p, bits, &one_widest));
            bits[l] = (uint8_t)b;
            int64_t bytes = (int64_t)p->layer_bytes[l * MPQ_N_BITS + widest(p)] +
                            (int64_t)all_here - (int64_t)one_widest;
            p->layer_bytes[l * MPQ_N_BITS + b] = bytes > 0 ? (uint64_t)bytes : 0;
        }
    }
    *out_other = all_widest > weights ? all_widest - weights : 0;
    return MPQ_OK;
}

/* The same of groups, which have no size but that of a few nodes where they are narrow. */
static enum mpq_status measure_groups(struct mpq_ctx *ctx, struct mpq_pipeline *p, uint8_t *bits,
                                      uint64_t *out_bytes)
{
    uint64_t all_widest, one;
    fill_widest(p, bits);
    MPQ_TRY(file_size(ctx, p, bits, &all_widest));
    for (uint32_t g = 0; g < p->n_act; g++) {
        uint8_t *width = &bits[p->layers.n_layer + g], old = *width;
        for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
            if (!p->act_by_width[b])
                continue;
            *width = (uint8_t)b;
            MPQ_TRY(file_size(ctx, p, bits, &one));
            out_bytes[g * MPQ_N_BITS + (uint32_t)b] = one > all_widest ? one - all_widest : 0;
        }
        *width = old;
    }
    return MPQ_OK;
}

static enum mpq_status make_costs(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    struct mpq_search_problem *problem = &p->problem;
    uint32_t n_layer = p->layers.n_layer;
    uint64_t *group_bytes =
        mpq_arena_alloc(ctx, p->arena, (size_t)p->n_act * MPQ_N_BITS, sizeof *group_bytes);
    uint32_t *input_group = mpq_arena_alloc(ctx, p->arena, n_layer, sizeof *input_group);
    uint8_t *input_bits = mpq_arena_alloc(ctx, p->arena, n_layer, sizeof *input_bits);
    uint8_t *bits = mpq_arena_alloc(ctx, p->arena, n_layer + p->n_act, 1);
    if (!group_bytes || !input_group || !input_bits || !bits)
        return MPQ_E_NOMEM;
    for (uint32_t l = 0; l < n_layer; l++) {
        uint32_t group = input_group_of(p, l);
        input_group[l] = p->n_act ? group : MPQ_NO_GROUP;
        input_bits[l] = group == MPQ_NO_GROUP ? 32 : (uint8_t)p->act_quant[group].bits;
    }
    problem->input_group = input_group;
    struct mpq_cost_inputs inputs = {.n_layer = n_layer,
                                     .n_group = p->n_act,
                                     .layer = p->layers.layer,
                                     .input_group = input_group,
                                     .input_bits = input_bits,
                                     .layer_bytes = p->layer_bytes,
                                     .group_bytes = group_bytes,
                                     .seconds = NULL};
    double *seconds = NULL;
    MPQ_TRY(measure_layers(ctx, p, bits, &inputs.other_bytes));
    MPQ_TRY(measure_groups(ctx, p, bits, group_bytes));
    if (p->options->latency)
        MPQ_TRY(
            mpq_latency_read(ctx, p->arena, p->options->latency, p->graph, &p->layers, &seconds));
    inputs.seconds = seconds;
    problem->n_cost = MPQ_N_COST;
    for (int kind = 0; kind < MPQ_N_COST; kind++)
        MPQ_TRY(
            mpq_cost_make(ctx, p->arena, (enum mpq_cost_kind)kind, &inputs, &problem->cost[kind]));
    return MPQ_OK;
}

/* ---- limits ---- */

static uint64_t whole(double x)
{
    return x < 1 ? 1 : x < 1e19 ? (uint64_t)x : MPQ_NO_LIMIT - 1;
}

/* BitOPs with all weights and all quantized activations at these widths. */
static double uniform_bitops(const struct mpq_pipeline *p, int weight_bits, int activation_bits)
{
    double sum = 0;
    for (uint32_t l = 0; l < p->layers.n_layer; l++) {
        const struct mpq_layer *layer = &p->layers.layer[l];
        bool is_float = input_group_of(p, l) == MPQ_NO_GROUP;
        sum += (double)layer->macs * weight_bits * (is_float ? 32 : activation_bits);
    }
    return sum;
}

static void set_limits(struct mpq_pipeline *p, const struct mpq_options *options)
{
    struct mpq_cost *cost = p->problem.cost;
    const struct mpq_bitops *bitops = &options->bitops;
    for (int kind = 0; kind < MPQ_N_COST; kind++)
        cost[kind].budget = MPQ_NO_LIMIT;
    if (options->size.share > 0 || options->size.bytes)
        cost[MPQ_COST_size].budget = mpq_size_bytes(&options->size, p->float_bytes);
    if (options->avg_bits > 0)
        cost[MPQ_COST_avg_bits].budget =
            whole(options->avg_bits / cost[MPQ_COST_avg_bits].shown * (1 + 1e-12));
    if (bitops->number > 0)
        cost[MPQ_COST_bitops].budget = whole(bitops->number);
    else if (bitops->share > 0)
        cost[MPQ_COST_bitops].budget = whole(bitops->share * uniform_bitops(p, 8, 8));
    else if (bitops->weight_bits)
        cost[MPQ_COST_bitops].budget =
            whole(uniform_bitops(p, bitops->weight_bits, bitops->activation_bits));
    if (options->max_latency > 0)
        cost[MPQ_COST_latency].budget = whole(options->max_latency * 1e12 * (1 + 1e-12));
    p->budget_bytes = cost[MPQ_COST_size].budget;
}

/* ---- losses ---- */

/* That a narrower width is better than a wider one is noise. */
static void make_monotone(double *loss)
{
    for (int b = MPQ_MAX_BITS - 1, wider = MPQ_MAX_BITS; b >= MPQ_MIN_BITS; b--) {
        if (isnan(loss[b]))
            continue;
        if (loss[b] < loss[wider])
            loss[b] = loss[wider];
        wider = b;
    }
}

/* Whether a layer computes with the group: if not, its width costs accuracy and saves nothing. */
static bool is_read(const struct mpq_pipeline *p, uint32_t g)
{
    for (uint32_t l = 0; l < p->layers.n_layer; l++)
        if (input_group_of(p, l) == g)
            return true;
    return false;
}

/* What each width adds to the loss with all at their widest; without the widths that locked layers
 * must not have. */
static enum mpq_status make_losses(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    uint32_t n_layer = p->layers.n_layer;
    size_t n_entry = ((size_t)n_layer + p->n_act) * MPQ_N_BITS;
    double *loss = mpq_arena_alloc(ctx, p->arena, n_entry, sizeof *loss);
    uint8_t *bits = mpq_arena_alloc(ctx, p->arena, n_layer + p->n_act, 1);
    p->lock = mpq_arena_alloc(ctx, p->arena, n_layer, sizeof *p->lock);
    if (!loss || !bits || !p->lock)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_pick_lock(ctx, p->arena, p->options->lock, p->graph, &p->layers, p->candidates,
                          p->lock));
    fill_widest(p, bits);
    for (uint32_t i = 0; i < n_entry; i++)
        loss[i] =
            p->sensitivity[i] - p->sensitivity[i / MPQ_N_BITS * MPQ_N_BITS + bits[i / MPQ_N_BITS]];
    for (uint32_t u = 0; u < n_layer + p->n_act; u++)
        make_monotone(&loss[u * MPQ_N_BITS]);
    for (uint32_t l = 0; l < n_layer; l++)
        for (uint32_t b = 0; b < MPQ_N_BITS; b++)
            if (p->lock[l] && p->lock[l] != b)
                loss[l * MPQ_N_BITS + b] = (double)NAN;
    for (uint32_t g = 0; g < p->n_act; g++)
        for (uint32_t b = 0; b < MPQ_N_BITS; b++)
            if (!is_read(p, g) && bits[n_layer + g] != b)
                loss[(n_layer + g) * MPQ_N_BITS + b] = (double)NAN;
    p->problem.sensitivity = loss;
    return MPQ_OK;
}

/* As many real evaluations as a fixed amount of arithmetic allows, the network's and the loss's, a
 * tenth of it where a resumed run is to take seconds: the best by the estimate is seldom surpassed
 * once it is refined. A function of the model and the data alone, so that a run repeats. */
static uint32_t max_scores(const struct mpq_pipeline *p)
{
    double per_sample = mpq_network_loss_macs(&p->float_network.loss, &p->decide_targets);
    double budget = p->is_resumed ? 1e11 : 1e12;
    uint32_t least = p->is_resumed ? 6 : 20;
    for (uint32_t l = 0; l < p->layers.n_layer; l++)
        per_sample += (double)p->layers.layer[l].macs;
    double n = budget / (1 + per_sample * p->decide.n);
    return n < least ? least : n > 300 ? 300 : (uint32_t)n;
}

enum mpq_status mpq_pipeline_prepare_search(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    size_t n_entry = (size_t)p->layers.n_layer * MPQ_N_BITS;
    p->layer_bytes = mpq_arena_alloc(ctx, p->arena, n_entry, sizeof *p->layer_bytes);
    if (!p->layer_bytes)
        return MPQ_E_NOMEM;
    bool is_scored = !p->options->weights_only && !mpq_pipeline_runs_plainly(p);
    p->problem = (struct mpq_search_problem){.n_layer = p->layers.n_layer,
                                             .n_group = p->n_act,
                                             .float_bytes = p->float_bytes,
                                             .measure = file_size,
                                             .score = is_scored ? score : NULL,
                                             .arg = p,
                                             .n_sample = p->decide.n,
                                             .max_scores = max_scores(p)};
    MPQ_TRY(make_costs(ctx, p));
    return make_losses(ctx, p);
}

/* The result of a search that found `bits`. */
static enum mpq_status settle_on(struct mpq_ctx *ctx, struct mpq_pipeline *p, uint8_t *bits)
{
    struct mpq_search_result *found = &p->found;
    double error;
    found->sample_loss = mpq_arena_alloc(ctx, p->arena, p->decide.n, sizeof *found->sample_loss);
    if (!found->sample_loss)
        return MPQ_E_NOMEM;
    MPQ_TRY(score(ctx, p, bits, found->sample_loss));
    found->loss = mpq_search_mean(found->sample_loss, NULL, p->decide.n, &error);
    found->bits = p->bits = bits;
    for (uint32_t c = 0; c < p->problem.n_cost; c++)
        found->cost[c] = mpq_search_cost(&p->problem, c, bits);
    found->estimate = mpq_search_estimate(&p->problem, bits);
    found->bound = (double)NAN;
    return MPQ_OK;
}

/* --baseline: the widest width for all layers, locked ones aside, that keeps the limits. */
static enum mpq_status take_uniform(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    uint8_t *bits = mpq_arena_alloc(ctx, p->arena, p->layers.n_layer + p->n_act, 1);
    if (!bits)
        return MPQ_E_NOMEM;
    fill_widest(p, bits);
    for (int b = widest(p); b >= mpq_bits_lowest(p->candidates); b--) {
        uint64_t bytes;
        bool fits = p->candidates >> b & 1;
        for (uint32_t l = 0; l < p->layers.n_layer; l++)
            bits[l] = p->lock[l] ? p->lock[l] : (uint8_t)b;
        for (uint32_t c = 0; c < p->problem.n_cost && fits; c++)
            fits = mpq_search_cost(&p->problem, c, bits) <= p->problem.cost[c].budget;
        if (fits)
            MPQ_TRY(file_size(ctx, p, bits, &bytes));
        if (fits && bytes <= p->budget_bytes)
            return settle_on(ctx, p, bits);
    }
    return mpq_fail(ctx, MPQ_E_INFEASIBLE, "no single width for all layers keeps the limits");
}

static enum mpq_status search_within(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    return p->options->max_drop > 0 ? mpq_pipeline_search_drop(ctx, p)
                                    : mpq_search(ctx, p->arena, &p->problem, &p->found);
}

/* The search with an evaluator of its own, in `kept`, whose evaluations share their first layers.
 */
static enum mpq_status search_kept(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                   struct mpq_arena *kept)
{
    const size_t max_bytes = mpq_memory_cache(p, (size_t)256 << 20);
    struct mpq_evaluator saved = p->evaluator, own;
    MPQ_TRY(mpq_pipeline_evaluator(ctx, kept, p, &own));
    MPQ_TRY(mpq_pipeline_room(ctx, p));
    p->evaluator = own;
    enum mpq_status status = mpq_evaluator_keep_prefixes(ctx, kept, p->room, &p->evaluator,
                                                         p->act_quant, p->n_act, max_bytes);
    if (status == MPQ_OK)
        status = search_within(ctx, p);
    p->evaluator = saved;
    return status;
}

static enum mpq_status search(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    if (p->options->weights_only || mpq_pipeline_is_fixed(p))
        return search_within(ctx, p);
    struct mpq_arena *kept = mpq_arena_create(ctx);
    enum mpq_status status = kept ? search_kept(ctx, p, kept) : MPQ_E_NOMEM;
    mpq_arena_free(kept);
    return status;
}

/* Of the one width there is. */
static void fill_sensitivity(struct mpq_pipeline *p, double loss)
{
    for (size_t i = 0; i < (size_t)p->layers.n_layer * MPQ_N_BITS; i++)
        p->sensitivity[i] =
            p->net.layer[i / MPQ_N_BITS].candidates >> i % MPQ_N_BITS & 1 ? loss : (double)NAN;
}

enum mpq_status mpq_pipeline_search(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    bool is_fixed = !p->options->weights_only && mpq_pipeline_is_fixed(p);
    if (is_fixed)
        fill_sensitivity(p, 0);
    if (!p->problem.n_layer)
        MPQ_TRY(mpq_pipeline_prepare_search(ctx, p));
    set_limits(p, p->options);
    if (p->options->baseline)
        MPQ_TRY(take_uniform(ctx, p));
    else
        MPQ_TRY(search(ctx, p));
    p->bits = p->found.bits;
    if (is_fixed)
        fill_sensitivity(p, p->found.loss);
    mpq_pipeline_set_activations(p, p->bits);
    mpq_log(ctx, MPQ_LOG_INFO,
            "search: loss %.5f at %llu bytes after %u evaluations; best uniform: %d bits, %.5f",
            p->found.loss, (unsigned long long)p->found.cost[0], p->found.n_score,
            p->found.uniform_bits, p->found.uniform_loss);
    return MPQ_OK;
}

/* ---- sizes ---- */

enum mpq_status mpq_pipeline_size_range(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                        uint64_t *out_low, uint64_t *out_high)
{
    uint8_t *bits = mpq_arena_alloc(ctx, p->arena, p->layers.n_layer + p->n_act, 1);
    if (!bits)
        return MPQ_E_NOMEM;
    for (uint32_t c = 0; c < p->problem.n_cost; c++)
        p->problem.cost[c].budget = MPQ_NO_LIMIT;
    fill_widest(p, bits);
    for (uint32_t l = 0; l < p->layers.n_layer; l++)
        bits[l] = p->lock[l] ? p->lock[l] : bits[l];
    MPQ_TRY(file_size(ctx, p, bits, out_high));
    return mpq_search_least(ctx, p->arena, &p->problem, MPQ_COST_size, bits, out_low);
}

enum mpq_status mpq_pipeline_check_size(struct mpq_ctx *ctx, struct mpq_pipeline *p, uint64_t bytes)
{
    uint64_t low, high;
    MPQ_TRY(mpq_pipeline_size_range(ctx, p, &low, &high));
    if (bytes >= low)
        return MPQ_OK;
    return mpq_fail(ctx, MPQ_E_INFEASIBLE,
                    "no allocation fits file size of %llu bytes; the smallest needs %llu bytes "
                    "(%.1f %% of the float file)",
                    (unsigned long long)bytes, (unsigned long long)low,
                    100 * (double)low / (double)p->float_bytes);
}

/* ---- a plan ---- */

/* The width that the plan gives a group: what its readers ask for, who must agree. */
static enum mpq_status plan_group(struct mpq_ctx *ctx, struct mpq_pipeline *p, uint32_t l,
                                  uint8_t *bits)
{
    const struct mpq_plan_row *row = &p->plan.row[l];
    uint32_t group = input_group_of(p, l);
    if (group == MPQ_NO_GROUP || !row->activation_bits)
        return MPQ_OK;
    int b = row->activation_bits;
    bool is_known = p->n_act ? p->act_by_width[b <= MPQ_MAX_BITS ? b : 0] != NULL
                             : p->act_quant[group].bits == b;
    if (!is_known)
        return mpq_fail(ctx, MPQ_E_FORMAT,
                        "%s: row %u: the checkpoint has no activations of %d bits (--act-bits)",
                        p->plan.path, row->line, b);
    for (uint32_t k = 0; k < l; k++)
        if (p->plan.row[k].activation_bits && p->plan.row[k].activation_bits != b &&
            input_group_of(p, k) == group)
            return mpq_fail(ctx, MPQ_E_FORMAT,
                            "%s: rows %u and %u: '%s' and '%s' read the same activations, which "
                            "cannot have both %d and %d bits",
                            p->plan.path, p->plan.row[k].line, row->line, p->plan.row[k].node,
                            row->node, p->plan.row[k].activation_bits, b);
    if (p->n_act)
        bits[p->layers.n_layer + group] = (uint8_t)b;
    return MPQ_OK;
}

enum mpq_status mpq_pipeline_apply(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    MPQ_TRY(mpq_pipeline_prepare_search(ctx, p));
    set_limits(p, p->options);
    uint8_t *bits = mpq_arena_alloc(ctx, p->arena, p->layers.n_layer + p->n_act, 1);
    if (!bits)
        return MPQ_E_NOMEM;
    fill_widest(p, bits);
    for (uint32_t l = 0; l < p->layers.n_layer; l++) {
        const struct mpq_plan_row *row = &p->plan.row[l];
        if (!(p->net.layer[l].candidates >> row->weight_bits & 1))
            return mpq_fail(ctx, MPQ_E_FORMAT,
                            "%s: row %u: '%s' has %d bits, a width that the checkpoint has not got",
                            p->plan.path, row->line, row->node, row->weight_bits);
        bits[l] = (uint8_t)row->weight_bits;
        MPQ_TRY(plan_group(ctx, p, l, bits));
    }
    return settle_on(ctx, p, bits);
}
