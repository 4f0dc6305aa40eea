/* The search for the smallest file whose loss of accuracy stays below a limit.
 *
 * Accuracy is judged on samples held back from everything else, half of those that would otherwise
 * report; the other half reports, so that what is said about the result was not chosen by. The
 * limit has to hold with a confidence of CONFIDENCE: an estimate that just meets it would be
 * exceeded in every second case. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "calibration/metric.h"
#include "cli/pipeline.h"

#define CONFIDENCE 0.8

/* Sizes are tried until they differ by less than this. */
#define SIZE_STEP 1.01

struct judge {
    struct mpq_pipeline *p;
    bool has_labels;
    int64_t *reference, *answer; /* [choose.n] classes by the float and the quantized network */
};

static enum mpq_status classify(struct mpq_ctx *ctx, const struct judge *judge,
                                struct mpq_network *network, int64_t *out_class)
{
    const struct mpq_pipeline *p = judge->p;
    const struct mpq_part *part = &p->choose;
    struct mpq_samples samples = mpq_pipeline_samples(part);
    for (uint32_t begin = 0; begin < part->n; begin += network->batch) {
        uint32_t left = part->n - begin, n = left < network->batch ? left : network->batch;
        MPQ_TRY(mpq_step(ctx, "judge", begin, part->n, NAN));
        MPQ_TRY(mpq_network_read(ctx, network, &samples, part->sample + begin, n));
        mpq_exec_forward(network->exec, 0, network->graph->n_node);
        const mpq_real *y = mpq_exec_tensor(network->exec, network->graph->output[p->scored])->data;
        for (uint32_t i = 0; i < n; i++)
            out_class[begin + i] = mpq_metric_argmax(y + i * p->n_class, p->n_class);
    }
    return MPQ_OK;
}

/* The drop of the allocation p->bits. Without labels a sample counts as lost where the answer is
 * another, which no drop exceeds whatever the labels are. */
static enum mpq_status judge_drop(struct mpq_ctx *ctx, const struct judge *judge,
                                  struct mpq_paired *out, double *out_confidence)
{
    struct mpq_pipeline *p = judge->p;
    uint64_t n_lost = 0, n_won = 0;
    mpq_pipeline_set_activations(p, p->bits);
    mpq_supernet_apply(&p->net, p->fake_network.exec, p->bits);
    MPQ_TRY(classify(ctx, judge, &p->fake_network, judge->answer));
    for (uint32_t i = 0; i < p->choose.n; i++) {
        int64_t label = judge->has_labels
                            ? mpq_dataset_label(p->choose.dataset, p->choose.sample[i])
                            : judge->reference[i];
        bool was_right = judge->reference[i] == label, is_right = judge->answer[i] == label;
        n_lost += was_right && !is_right;
        n_won += is_right && !was_right;
    }
    *out = mpq_paired_difference(p->choose.n, n_lost, n_won);
    *out_confidence = mpq_paired_confidence(p->choose.n, n_lost, n_won, p->options->max_drop / 100);
    mpq_log(ctx, MPQ_LOG_INFO, "%" PRIu64 " bytes: drop %.2f points, below %g with confidence %.2f",
            p->found.cost[0], 100 * out->difference, p->options->max_drop, *out_confidence);
    return MPQ_OK;
}

static enum mpq_status make_judge(struct mpq_ctx *ctx, struct mpq_pipeline *p, struct judge *out)
{
    if (!p->choose.n)
        return mpq_fail(ctx, MPQ_E_USAGE, "--max-drop needs samples: --data or --eval");
    if (p->scored == UINT32_MAX)
        return mpq_fail(ctx, MPQ_E_USAGE,
                        "--max-drop needs a model with an output that looks like class scores");
    *out = (struct judge){.p = p, .has_labels = mpq_dataset_has_labels(p->choose.dataset)};
    out->reference = mpq_arena_alloc(ctx, p->arena, p->choose.n, sizeof *out->reference);
    out->answer = mpq_arena_alloc(ctx, p->arena, p->choose.n, sizeof *out->answer);
    if (!out->reference || !out->answer)
        return MPQ_E_NOMEM;
    return classify(ctx, out, &p->float_network, out->reference);
}

/* The best allocation of at most that size, and whether its drop is within the limit. */
static enum mpq_status try_size(struct mpq_ctx *ctx, const struct judge *judge, uint64_t bytes,
                                uint32_t max_scores, struct mpq_paired *out_drop, bool *out_within)
{
    struct mpq_pipeline *p = judge->p;
    double confidence;
    p->problem.cost[MPQ_COST_size].budget = bytes;
    p->problem.max_scores = max_scores;
    *out_within = false;
    enum mpq_status status = mpq_search(ctx, p->arena, &p->problem, &p->found);
    if (status == MPQ_E_INFEASIBLE && bytes < p->found.cost[0]) {
        mpq_ctx_clear(ctx); /* not with the other limits */
        return MPQ_OK;
    }
    MPQ_TRY(status);
    p->bits = p->found.bits;
    MPQ_TRY(judge_drop(ctx, judge, out_drop, &confidence));
    *out_within = confidence >= CONFIDENCE;
    return MPQ_OK;
}

/* Of the files that keep the other limits the smallest is not known; they are kept by each try, and
 * one that cannot be is as good as one that drops too much. */
static enum mpq_status least_size(struct mpq_ctx *ctx, struct mpq_pipeline *p, uint64_t *out)
{
    uint8_t *bits = mpq_arena_alloc(ctx, p->arena, p->layers.n_layer + p->n_act, 1);
    return bits ? mpq_search_least(ctx, p->arena, &p->problem, MPQ_COST_size, bits, out)
                : MPQ_E_NOMEM;
}

enum mpq_status mpq_pipeline_search_drop(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    enum { FEW_SCORES = 10 }; /* the best by the table and uniform widths, while sizes are tried */
    struct judge judge;
    struct mpq_paired drop;
    struct mpq_search_result best;
    bool is_within;
    uint64_t low, high, largest = p->problem.cost[MPQ_COST_size].budget;
    uint32_t many = p->problem.max_scores, few = many < FEW_SCORES ? many : FEW_SCORES;
    MPQ_TRY(make_judge(ctx, p, &judge));
    MPQ_TRY(try_size(ctx, &judge, largest, few, &drop, &is_within));
    if (!is_within)
        return mpq_fail(ctx, MPQ_E_INFEASIBLE,
                        "no file is within a drop of %g points with a confidence of %g %%: the "
                        "best, of %" PRIu64
                        " bytes, drops by %.2f (95 %% interval %.2f .. %.2f) on "
                        "%" PRIu32 " samples",
                        p->options->max_drop, 100 * CONFIDENCE, p->found.cost[0],
                        100 * drop.difference, 100 * drop.low, 100 * drop.high, p->choose.n);
    best = p->found;
    high = best.cost[0];
    MPQ_TRY(least_size(ctx, p, &low));
    while ((double)high > SIZE_STEP * (double)low && high > low + 1) {
        uint64_t middle = (uint64_t)sqrt((double)low * (double)high);
        middle += middle == low; /* of files of a few hundred bytes */
        MPQ_TRY(try_size(ctx, &judge, middle, few, &drop, &is_within));
        if (is_within) {
            best = p->found;
            high = best.cost[0];
        } else {
            low = middle;
        }
    }
    /* Of that size, the best that a whole search finds; if the judge agrees. */
    MPQ_TRY(try_size(ctx, &judge, high, many, &drop, &is_within));
    if (!is_within)
        p->found = best;
    p->found.estimated = NULL; /* the judge has not seen it */
    p->bits = p->found.bits;
    mpq_pipeline_set_activations(p, p->bits);
    return MPQ_OK;
}
