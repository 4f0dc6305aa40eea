/* The pipeline's end: export and the report. */
#include <math.h>
#include <string.h>

#include "cli/pipeline.h"
#include "cli/version.h"
#include "quantcore/base/thread.h"
#include "quantcore/quant/saturation.h"

/* NO_GROUP: the layer's input stays float. */
static uint32_t input_group(const struct mpq_pipeline *p, const struct mpq_layer *layer)
{
    return layer->is_weight_only || !p->act.group
               ? MPQ_NO_GROUP
               : mpq_act_plan_input(&p->act, layer->node, layer->x);
}

/* Whether a kernel that adds pairs of products in 16 bits may run layer l: it multiplies 8-bit
 * activations, and is no convolution of one channel a group in and out. */
static bool has_pairs(const struct mpq_pipeline *p, uint32_t l, struct mpq_saturation *out)
{
    const struct mpq_layer *layer = &p->layers.layer[l];
    const struct mpq_node *node = &p->graph->node[layer->node];
    const struct mpq_shape *shape = &p->graph->value[layer->weight].constant->shape;
    uint32_t group = input_group(p, layer);
    bool is_conv = mpq_node_is(node, "Conv");
    if ((!is_conv && !mpq_node_is(node, "MatMul") && !mpq_node_is(node, "Gemm")) ||
        group == MPQ_NO_GROUP || p->act_quant[group].bits > 8 ||
        (layer->is_depthwise && layer->n_group == layer->n_channel))
        return false;
    *out =
        (struct mpq_saturation){layer, is_conv ? mpq_shape_count_range(shape, 2, shape->rank) : 1,
                                (1 << p->act_quant[group].bits) - 1};
    return true;
}

static void count_saturating(void *arg, int64_t begin, int64_t end, int thread)
{
    struct mpq_pipeline *p = arg;
    struct mpq_saturation saturation;
    (void)thread;
    for (int64_t l = begin; l < end; l++)
        if (has_pairs(p, (uint32_t)l, &saturation))
            p->n_saturating[l] = mpq_saturation_count(&saturation, p->code[l].q);
}

static enum mpq_status check_saturation(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    struct mpq_saturation saturation;
    int64_t n_repaired;
    p->n_saturating = mpq_arena_alloc(ctx, p->arena, p->layers.n_layer, sizeof *p->n_saturating);
    if (!p->n_saturating)
        return MPQ_E_NOMEM;
    for (uint32_t l = 0; l < p->layers.n_layer; l++) {
        if (!p->options->saturation_safe || !has_pairs(p, l, &saturation))
            continue;
        MPQ_TRY(mpq_saturation_repair(ctx, p->arena, &saturation, &p->code[l], &n_repaired));
        p->n_repaired += n_repaired;
    }
    mpq_parallel_for(p->layers.n_layer, 1, count_saturating, p);
    return MPQ_OK;
}

enum mpq_status mpq_pipeline_write(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    struct mpq_export_plan plan = mpq_pipeline_export_plan(p);
    plan.code = p->code;
    return mpq_export(ctx, p->arena, &plan, &p->file);
}

enum mpq_status mpq_pipeline_export(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    p->code = mpq_arena_alloc(ctx, p->arena, p->layers.n_layer, sizeof *p->code);
    if (!p->code)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_supernet_codes(ctx, p->arena, &p->net, p->bits, p->code));
    if (p->net_arena)
        mpq_arena_reset(p->net_arena);
    if (!p->paper) /* whose values have no groups */
        MPQ_TRY(check_saturation(ctx, p));
    return mpq_pipeline_write(ctx, p);
}

/* ---- report ---- */

static enum mpq_status echo_options(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                    struct mpq_report *report)
{
    size_t n = mpq_option_count(), n_version = mpq_version_count();
    struct mpq_report_fact *fact = mpq_arena_alloc(ctx, p->arena, n + n_version + 11, sizeof *fact);
    if (!fact)
        return MPQ_E_NOMEM;
    uint32_t n_fact = 0;
    for (size_t i = 0; i < n; i++)
        if (p->options->text[i])
            fact[n_fact++] = (struct mpq_report_fact){
                mpq_arena_printf(ctx, p->arena, "option_%s", mpq_option_name(i)),
                p->options->text[i]};
    for (size_t i = 0; i < n_version; i++) {
        struct mpq_version version = mpq_version_at(i);
        fact[n_fact++] = (struct mpq_report_fact){
            mpq_arena_printf(ctx, p->arena, "version_%s", version.name), version.value};
    }
    const struct mpq_report_fact counts[] = {
        {"tune_steps", mpq_arena_printf(ctx, p->arena, "%u", p->n_step)},
        {"tuning", p->is_resumed      ? "from the checkpoint"
                   : !p->n_step       ? "none"
                   : p->tuning_helped ? "kept"
                                      : "left out"},
        {"refining", p->options->no_refine || p->options->baseline ? "none"
                     : p->refining_helped                          ? "kept"
                                                                   : "left out"},
        {"specializing", p->specializing_helped ? "kept"
                         : p->has_specialized   ? "left out"
                                                : "none"},
        {"equalizing", p->options->no_equalize || p->options->baseline ? "none"
                       : p->equalize.n_edge                            ? "kept"
                                                                       : "left out"},
        {"uniform_bits", mpq_arena_printf(ctx, p->arena, "%d", p->found.uniform_bits)},
        {"uniform_loss", mpq_arena_printf(ctx, p->arena, "%.9g", p->found.uniform_loss)},
        {"tune_samples", mpq_arena_printf(ctx, p->arena, "%u", p->tune.n)},
        {"decide_samples", mpq_arena_printf(ctx, p->arena, "%u", p->decide.n)},
    };
    memcpy(fact + n_fact, counts, sizeof counts);
    n_fact += (uint32_t)MPQ_COUNT(counts);
    if (p->cut.n_carried) {
        report->n_carried = p->cut.n_carried;
        report->carried = mpq_cut_list(ctx, p->arena, &p->cut);
        fact[n_fact++] = (struct mpq_report_fact){"carried_nodes", report->carried};
    }
    for (uint32_t i = 0; i < n_fact; i++)
        if (!fact[i].key || !fact[i].value)
            return MPQ_E_NOMEM;
    report->fact = fact;
    report->n_fact = n_fact;
    return MPQ_OK;
}

static enum mpq_status report_search(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                     struct mpq_report *report)
{
    struct mpq_report_limit *limit = mpq_arena_alloc(ctx, p->arena, MPQ_N_COST, sizeof *limit);
    if (!limit)
        return MPQ_E_NOMEM;
    report->limit = limit;
    report->n_limit = 0;
    for (uint32_t c = 0; c < p->problem.n_cost; c++) {
        const struct mpq_cost *cost = &p->problem.cost[c];
        if (cost->budget != MPQ_NO_LIMIT)
            limit[report->n_limit++] = (struct mpq_report_limit){
                cost->name, cost->unit, (double)cost->budget * cost->shown,
                (double)p->found.cost[c] * cost->shown, p->found.price[c] / cost->shown};
    }
    report->loss = p->found.loss;
    mpq_search_mean(p->found.sample_loss, NULL, p->problem.n_sample, &report->loss_error);
    report->estimate = p->found.estimate;
    report->bound = p->found.bound;
    report->bound_is_reached = p->found.is_exact;
    return MPQ_OK;
}

enum mpq_status mpq_pipeline_report(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                    struct mpq_report *report)
{
    uint32_t n_layer = p->layers.n_layer;
    struct mpq_report_layer *row = mpq_arena_alloc(ctx, p->arena, n_layer, sizeof *row);
    if (!row)
        return MPQ_E_NOMEM;
    double bits_sum = 0, n_param = 0;
    for (uint32_t l = 0; l < n_layer; l++) {
        const struct mpq_layer *layer = &p->layers.layer[l];
        uint32_t group = input_group(p, layer);
        row[l] = (struct mpq_report_layer){
            .node = layer->name,
            .operator_type = p->graph->node[layer->node].op_type,
            .n_param = (uint64_t)layer->n_param,
            .macs = layer->macs,
            .weight_bits = p->bits[l],
            .activation_bits = group == MPQ_NO_GROUP ? 32 : p->act_quant[group].bits,
            .float_bytes = (uint64_t)layer->n_param * sizeof(float),
            .quantized_bytes = p->layer_bytes[l * MPQ_N_BITS + p->bits[l]],
            .n_saturating = p->n_saturating ? (uint64_t)p->n_saturating[l] : 0,
        };
        for (int b = 0; b < MPQ_N_BITS; b++) {
            row[l].sensitivity[b] = p->sensitivity[l * MPQ_N_BITS + b];
            row[l].bytes[b] = p->layer_bytes[l * MPQ_N_BITS + b];
        }
        row[l].chosen_by = p->options->plan ? "plan" : p->lock[l] ? "lock" : "search";
        bits_sum += (double)row[l].weight_bits * (double)row[l].n_param;
        n_param += (double)row[l].n_param;
        report->bitops +=
            row[l].macs * (uint64_t)row[l].weight_bits * (uint64_t)row[l].activation_bits;
    }
    for (uint32_t l = 0; l < n_layer; l++)
        row[l].sqnr_db = p->options->weights_only
                             ? -10 * log10(row[l].sensitivity[row[l].weight_bits])
                             : mpq_comparison_sqnr_db(&p->layer_comparison[l]);
    MPQ_TRY(report_search(ctx, p, report));
    MPQ_TRY(echo_options(ctx, p, report));
    report->model = p->options->model;
    report->output = p->options->output;
    report->checkpoint = p->is_resumed ? p->options->checkpoint : NULL;
    report->n_layer = n_layer;
    report->layer = row;
    report->n_stage = p->n_stage;
    report->stage = p->stage;
    report->n_left_float = p->n_left_float;
    report->left_float_macs = p->left_float_macs;
    report->n_repaired = (uint64_t)p->n_repaired;
    report->float_bytes = p->float_bytes;
    report->quantized_bytes = p->file.bytes + p->file.external_bytes;
    report->average_weight_bits = bits_sum / n_param;
    report->seed = ctx->seed;
    report->n_threads = ctx->n_threads;
    return MPQ_OK;
}
