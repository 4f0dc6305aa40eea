/* The pipeline's search stage: what each width costs in the file, what it costs in accuracy, and
 * the best allocation between the two. */
#include <string.h>

#include "cli/pipeline.h"
#include "quantcore/search/search.h"

struct mpq_export_plan mpq_pipeline_export_plan(const struct mpq_pipeline *p)
{
    return (struct mpq_export_plan){.graph = p->graph,
                                    .layers = &p->layers,
                                    .act = &p->act,
                                    .act_quant = p->act_quant,
                                    .target = p->options->target};
}

static enum mpq_status file_size(struct mpq_ctx *ctx, void *arg, const uint8_t *bits,
                                 uint64_t *out_bytes)
{
    const struct mpq_pipeline *p = arg;
    struct mpq_export_plan plan = mpq_pipeline_export_plan(p);
    size_t bytes;
    MPQ_TRY(mpq_export_size(ctx, &plan, bits, &bytes));
    *out_bytes = bytes;
    return MPQ_OK;
}

static enum mpq_status score(struct mpq_ctx *ctx, void *arg, const uint8_t *bits, double *out_loss)
{
    struct mpq_pipeline *p = arg;
    return mpq_evaluate(ctx, &p->evaluator, bits, out_loss);
}

/* What layer l adds to the file at b bits: the difference that taking it from the widest width to b
 * makes where all other layers are at b already, so that the constants which all layers of a width
 * share are counted for none of them. *out_other: the rest of the file, with all layers at their
 * widest. */
static enum mpq_status measure_layers(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                      uint64_t *out_other)
{
    uint32_t n_layer = p->layers.n_layer;
    uint8_t *bits = mpq_arena_alloc(ctx, p->arena, n_layer, sizeof *bits);
    if (!bits)
        return MPQ_E_NOMEM;
    int widest = mpq_bits_highest(p->net.layer[0].candidates);
    uint64_t all_widest, weights = 0;
    memset(bits, widest, n_layer);
    MPQ_TRY(file_size(ctx, p, bits, &all_widest));
    for (uint32_t l = 0; l < n_layer; l++) {
        uint64_t bytes = ((uint64_t)p->layers.layer[l].n_param * (uint64_t)widest + 7) / 8;
        p->layer_bytes[l * MPQ_N_BITS + widest] = bytes;
        weights += bytes;
    }
    for (int b = MPQ_MIN_BITS; b < widest; b++) {
        uint64_t all_here, one_widest;
        if (!(p->net.layer[0].candidates >> b & 1))
            continue;
        memset(bits, b, n_layer);
        MPQ_TRY(file_size(ctx, p, bits, &all_here));
        for (uint32_t l = 0; l < n_layer; l++) {
            bits[l] = (uint8_t)widest;
            MPQ_TRY(file_size(ctx, p, bits, &one_widest));
            bits[l] = (uint8_t)b;
            int64_t bytes = (int64_t)p->layer_bytes[l * MPQ_N_BITS + widest] + (int64_t)all_here -
                            (int64_t)one_widest;
            p->layer_bytes[l * MPQ_N_BITS + b] = bytes > 0 ? (uint64_t)bytes : 0;
        }
    }
    *out_other = all_widest > weights ? all_widest - weights : 0;
    return MPQ_OK;
}

/* As many real evaluations as a fixed amount of arithmetic allows: a function of the model and the
 * data alone, so that a run repeats. */
static uint32_t max_scores(const struct mpq_pipeline *p)
{
    double per_score = 0;
    for (uint32_t l = 0; l < p->layers.n_layer; l++)
        per_score += (double)p->layers.layer[l].macs * p->decide.n;
    double n = 2e12 / (per_score + 1);
    return n < 30 ? 30 : n > 300 ? 300 : (uint32_t)n;
}

enum mpq_status mpq_pipeline_search(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    size_t n_entry = (size_t)p->layers.n_layer * MPQ_N_BITS;
    p->layer_bytes = mpq_arena_alloc(ctx, p->arena, n_entry, sizeof *p->layer_bytes);
    if (!p->layer_bytes)
        return MPQ_E_NOMEM;
    p->budget_bytes = mpq_size_bytes(&p->options->size, p->float_bytes);
    struct mpq_search_problem problem = {
        .n_layer = p->layers.n_layer,
        .sensitivity = p->sensitivity,
        .layer_bytes = p->layer_bytes,
        .budget_bytes = p->budget_bytes,
        .float_bytes = p->float_bytes,
        .measure = file_size,
        .score = score,
        .arg = p,
        .max_scores = max_scores(p),
    };
    MPQ_TRY(measure_layers(ctx, p, &problem.other_bytes));
    if (!p->has_sensitivity)
        MPQ_TRY(mpq_sensitivity(ctx, &p->evaluator, p->sensitivity));
    struct mpq_search_result result;
    MPQ_TRY(mpq_search(ctx, p->arena, &problem, &result));
    p->bits = result.bits;
    p->loss = result.loss;
    mpq_log(ctx, MPQ_LOG_INFO,
            "search: loss %.5f at %llu bytes after %u evaluations; best uniform: %d bits, %.5f",
            result.loss, (unsigned long long)result.size_bytes, result.n_score, result.uniform_bits,
            result.uniform_loss);
    return MPQ_OK;
}
