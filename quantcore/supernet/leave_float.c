#include "quantcore/supernet/leave_float.h"

#include <math.h>
#include <string.h>

/* The noise of the n samples that have just been run, from number `first` of the targets on. */
static double batch_noise(const struct mpq_network *network, const struct mpq_targets *targets,
                          uint32_t first, uint32_t n)
{
    double noise = 0;
    for (uint32_t h = 0; h < network->loss.n_head; h++) {
        const struct mpq_loss_head *head = &network->loss.head[h];
        const mpq_real *y = mpq_exec_tensor(network->exec, head->value)->data;
        const mpq_real *target = targets->target[h] + first * head->n_sample;
        double sum = 0;
        for (int64_t i = 0; i < n * head->n_sample; i++) {
            double d = (double)y[i] - (double)target[i];
            sum += d * d;
        }
        noise += sum / ((double)head->n_sample * targets->variance[h]);
    }
    return noise;
}

enum mpq_status mpq_output_noise(struct mpq_ctx *ctx, struct mpq_network *network,
                                 const struct mpq_samples *samples,
                                 const struct mpq_targets *targets, double *out)
{
    double sum = 0;
    for (uint32_t begin = 0; begin < targets->n_sample; begin += network->batch) {
        uint32_t left = targets->n_sample - begin,
                 n = left < network->batch ? left : network->batch;
        MPQ_TRY(mpq_network_read(ctx, network, samples, targets->sample + begin, n));
        mpq_exec_forward(network->exec, 0, network->graph->n_node);
        sum += batch_noise(network, targets, begin, n);
    }
    *out = sum / targets->n_sample;
    return MPQ_OK;
}

/* ---- what comes of leaving values float ---- */

struct search {
    const struct mpq_leave_float *p;
    struct mpq_arena *scratch;
    double all_macs;
    uint32_t *group, n;                /* [n] groups that may be left float by themselves */
    double *noise;                     /* [n_group] of each alone; 0: too little          */
    double all;                        /* noise of all                                    */
    const struct mpq_act_quant *quant; /* [n_group] p->act_quant as it began */
};

struct outcome {
    bool *stays_float; /* [n_value]                          */
    double macs;       /* of layers that run in float for it */
    bool *is_left;     /* [n_group] still quantized          */
};

/* What comes of barring these values, and those of a group, NO_GROUP: of none. */
static enum mpq_status find_outcome(struct mpq_ctx *ctx, const struct search *s,
                                    const bool *stays_float, uint32_t group, struct outcome *out)
{
    const struct mpq_leave_float *p = s->p;
    uint32_t n_value = p->graph->n_value, n_layer = p->layers->n_layer;
    struct mpq_layer_table layers = *p->layers;
    struct mpq_act_plan plan;
    layers.layer =
        mpq_arena_copy(ctx, s->scratch, p->layers->layer, n_layer * sizeof *layers.layer);
    *out = (struct outcome){
        .stays_float = mpq_arena_copy(ctx, s->scratch, stays_float, n_value * sizeof(bool)),
        .is_left = mpq_arena_alloc(ctx, s->scratch, p->plan->n_group, sizeof(bool))};
    if (!layers.layer || !out->stays_float || !out->is_left)
        return MPQ_E_NOMEM;
    for (mpq_value_id v = 0; v < n_value; v++)
        out->stays_float[v] |= group != MPQ_NO_GROUP && p->plan->group[v] == group;
    const struct mpq_act_rules rules = {.stays_float = out->stays_float};
    mpq_layers_leave_float(p->graph, rules, &layers);
    MPQ_TRY(mpq_act_plan_build(ctx, s->scratch, p->graph, p->binding, &layers, rules, &plan));
    for (mpq_value_id v = 0; v < n_value; v++)
        if (plan.group[v] != MPQ_NO_GROUP && p->plan->group[v] != MPQ_NO_GROUP)
            out->is_left[p->plan->group[v]] = true;
    for (uint32_t l = 0; l < n_layer; l++)
        if (layers.layer[l].is_weight_only && !p->layers->layer[l].is_weight_only)
            out->macs += (double)layers.layer[l].macs;
    return MPQ_OK;
}

/* Fill s->group: what costs too much by itself costs no less together with others. */
static enum mpq_status find_affordable(struct mpq_ctx *ctx, struct search *s, const bool *none)
{
    struct search one = *s;
    enum mpq_status status = MPQ_OK;
    one.scratch = mpq_arena_create(ctx);
    if (!one.scratch)
        return MPQ_E_NOMEM;
    for (uint32_t g = 0; g < s->p->plan->n_group && status == MPQ_OK; g++) {
        struct outcome outcome = {.macs = 0};
        mpq_arena_reset(one.scratch);
        status = find_outcome(ctx, &one, none, g, &outcome);
        if (outcome.macs <= s->p->max_macs * s->all_macs)
            s->group[s->n++] = g;
    }
    mpq_arena_free(one.scratch);
    return status;
}

/* ---- what groups cost ---- */

/* The noise with group[begin..end) alone quantized. */
static enum mpq_status measure(struct mpq_ctx *ctx, const struct search *s, uint32_t begin,
                               uint32_t end, double *out)
{
    const struct mpq_leave_float *p = s->p;
    for (uint32_t g = 0; g < p->plan->n_group; g++) {
        p->act_quant[g] = s->quant[g];
        p->act_quant[g].bits = 0;
    }
    for (uint32_t i = begin; i < end; i++)
        p->act_quant[s->group[i]] = s->quant[s->group[i]];
    return mpq_output_noise(ctx, p->network, p->samples, p->targets, out);
}

/* Fill s->noise of group[begin..end). */
static enum mpq_status measure_groups(struct mpq_ctx *ctx, struct search *s, uint32_t begin,
                                      uint32_t end)
{
    double noise;
    if (begin == end)
        return MPQ_OK;
    MPQ_TRY(mpq_step(ctx, "activations", begin, s->n, (double)NAN));
    MPQ_TRY(measure(ctx, s, begin, end, &noise));
    if (noise < s->p->min_share * s->all)
        return MPQ_OK;
    if (end - begin == 1) {
        s->noise[s->group[begin]] = noise;
        return MPQ_OK;
    }
    uint32_t middle = begin + (end - begin) / 2;
    MPQ_TRY(measure_groups(ctx, s, begin, middle));
    return measure_groups(ctx, s, middle, end);
}

/* ---- the choice ---- */

static double noise_taken(const struct search *s, const struct outcome *outcome)
{
    double sum = 0;
    for (uint32_t g = 0; g < s->p->plan->n_group; g++)
        sum += outcome->is_left[g] ? 0 : s->noise[g];
    return sum;
}

/* *best, the outcome so far, becomes the best one with a further group, if any is worth it. */
static enum mpq_status add_group(struct mpq_ctx *ctx, const struct search *s,
                                 enum mpq_float_order order, struct outcome *best, bool *out_found)
{
    const struct outcome now = *best;
    double most = 0;
    *out_found = false;
    for (uint32_t g = 0; g < s->p->plan->n_group; g++) {
        struct outcome with;
        if (!(s->noise[g] > 0) || !now.is_left[g])
            continue;
        MPQ_TRY(find_outcome(ctx, s, now.stays_float, g, &with));
        double share = (noise_taken(s, &with) - noise_taken(s, &now)) / s->all;
        double macs = (with.macs - now.macs) / s->all_macs;
        double price = macs > 0 ? share / macs : (double)INFINITY;
        double worth = order == MPQ_FLOAT_CHEAPEST ? price : share;
        if (share < s->p->min_share || price < 1 || worth <= most ||
            with.macs > s->p->max_macs * s->all_macs)
            continue;
        most = worth;
        *best = with;
        *out_found = true;
    }
    return MPQ_OK;
}

static enum mpq_status add_groups(struct mpq_ctx *ctx, const struct search *s, const bool *none,
                                  enum mpq_float_order order, struct outcome *out)
{
    bool has_found = true;
    MPQ_TRY(find_outcome(ctx, s, none, MPQ_NO_GROUP, out));
    while (has_found)
        MPQ_TRY(add_group(ctx, s, order, out, &has_found));
    return MPQ_OK;
}

static void log_shares(struct mpq_ctx *ctx, const struct search *s)
{
    const struct mpq_leave_float *p = s->p;
    for (mpq_value_id v = 0; v < p->graph->n_value; v++) {
        uint32_t g = p->plan->group[v];
        if (g != MPQ_NO_GROUP && s->noise[g] > 0 && !p->plan->lossless[v])
            mpq_log(ctx, MPQ_LOG_INFO, "activation '%s': %.0f %% of the noise by activations",
                    p->graph->value[v].name, 100 * s->noise[g] / s->all);
    }
}

enum mpq_status mpq_leave_float(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                const struct mpq_leave_float *p,
                                bool *const out_stays_float[MPQ_N_FLOAT_ORDER])
{
    uint32_t n_group = p->plan->n_group, n_value = p->graph->n_value;
    bool *none = mpq_arena_alloc(ctx, scratch, n_value, sizeof *none);
    struct search s = {
        .p = p,
        .scratch = scratch,
        .group = mpq_arena_alloc(ctx, scratch, n_group, sizeof *s.group),
        .noise = mpq_arena_alloc(ctx, scratch, n_group, sizeof *s.noise),
        .quant = mpq_arena_copy(ctx, scratch, p->act_quant, n_group * sizeof *p->act_quant)};
    if (!none || !s.group || !s.noise || !s.quant)
        return MPQ_E_NOMEM;
    for (uint32_t l = 0; l < p->layers->n_layer; l++)
        s.all_macs += (double)p->layers->layer[l].macs;
    for (int order = 0; order < MPQ_N_FLOAT_ORDER; order++)
        memset(out_stays_float[order], 0, n_value * sizeof(bool));
    MPQ_TRY(find_affordable(ctx, &s, none));
    if (!s.n)
        return MPQ_OK;
    MPQ_TRY(mpq_output_noise(ctx, p->network, p->samples, p->targets, &s.all));
    enum mpq_status status = measure_groups(ctx, &s, 0, s.n);
    memcpy(p->act_quant, s.quant, n_group * sizeof *p->act_quant);
    MPQ_TRY(status);
    log_shares(ctx, &s);
    for (int order = 0; order < MPQ_N_FLOAT_ORDER; order++) {
        struct outcome best;
        MPQ_TRY(add_groups(ctx, &s, none, (enum mpq_float_order)order, &best));
        for (mpq_value_id v = 0; v < n_value; v++) /* what goes with others, too */
            out_stays_float[order][v] =
                p->plan->group[v] != MPQ_NO_GROUP && !best.is_left[p->plan->group[v]];
    }
    return MPQ_OK;
}
