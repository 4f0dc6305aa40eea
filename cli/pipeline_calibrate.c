/* The pipeline's calibrate stage: ranges of activations, and channels brought to one range where
 * that makes the ranges serve better. */
#include <math.h>
#include <string.h>

#include "cli/checkpoint.h"
#include "cli/pipeline.h"
#include "cli/runner.h"
#include "quantcore/base/fileio.h"
#include "quantcore/pass/pass.h"

/* ---- observing ---- */

struct observation {
    struct mpq_observer *observer;
    struct mpq_equalize *equalize; /* NULL: ranges of channels are not asked for */
    const struct mpq_layer_table *layers;
    const struct mpq_graph *graph;
};

static enum mpq_status observe(struct mpq_ctx *ctx, void *arg, const struct mpq_runner *runner,
                               const uint32_t *index, uint32_t n)
{
    (void)index, (void)n;
    struct observation *o = arg;
    for (uint32_t e = 0; o->equalize && e < o->equalize->n_edge; e++) {
        struct mpq_equal_edge *edge = &o->equalize->edge[e];
        mpq_equalize_see(edge, mpq_exec_tensor(runner->exec, o->layers->layer[edge->from].y));
    }
    return mpq_observer_add(ctx, o->observer, o->graph, runner->exec);
}

/* Of the tune part, as many samples as ranges are taken from; fewer where nothing else takes time.
 * A function of model and data alone, so that a run repeats. */
static uint32_t count_observed(const struct mpq_pipeline *p)
{
    enum { LEAST = 64, MOST = 1024 };
    uint64_t n = MOST, affordable = (uint64_t)3e10 / mpq_pipeline_macs(p);
    if (mpq_pipeline_is_fixed(p) && affordable < n)
        n = affordable < LEAST ? LEAST : affordable;
    return n < p->tune.n ? (uint32_t)n : p->tune.n;
}

/* Run the float graph over the tune part; fills p->observer, and the edges' ranges. */
static enum mpq_status observe_graph(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                     const struct mpq_graph *graph, struct mpq_equalize *equalize)
{
    MPQ_TRY(mpq_observer_create(ctx, p->arena, graph, &p->layers, &p->act, &p->observer));
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    struct mpq_runner runner;
    struct observation o = {&p->observer, equalize, &p->layers, graph};
    enum mpq_status status =
        mpq_runner_create(ctx, scratch, graph, p->batch,
                          &(struct mpq_exec_options){.keep = p->observer.keep}, &runner);
    if (status == MPQ_OK)
        status = mpq_runner_run(ctx, &runner, p->tune.dataset, p->tune.sample, count_observed(p),
                                "calibrate", observe, &o);
    mpq_arena_free(scratch);
    return status;
}

static void choose_ranges(struct mpq_pipeline *p)
{
    struct mpq_act_form target = p->options->target->act;
    target.is_min_max = p->options->baseline == MPQ_BASELINE_rtn;
    mpq_observer_ranges(&p->observer, target, p->act_quant);
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++)
        if (p->act_by_width[b]) {
            struct mpq_act_form form = target;
            form.bits = b;
            mpq_observer_ranges(&p->observer, form, p->act_by_width[b]);
            memcpy(p->act_quant, p->act_by_width[b], p->act.n_group * sizeof *p->act_quant);
        }
}

/* ---- equalizing ---- */

static enum mpq_status apply_gains(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                   const struct mpq_equalize *equalize)
{
    struct mpq_graph *graph;
    MPQ_TRY(mpq_equalize_apply(ctx, p->arena, p->graph, &p->layers, equalize, &graph));
    p->equal_graph = p->equal_run_graph = graph;
    if (p->run_graph == p->graph)
        return MPQ_OK;
    MPQ_TRY(mpq_equalize_apply(ctx, p->arena, p->run_graph, &p->layers, equalize, &graph));
    p->equal_run_graph = graph;
    return MPQ_OK;
}

/* The loss of each sample where activations alone are quantized. */
static enum mpq_status activation_loss(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                       const struct mpq_pipeline *p, const struct mpq_graph *graph,
                                       const struct mpq_targets *targets, double *out)
{
    struct mpq_graph *fake;
    struct mpq_network network;
    struct mpq_samples samples = mpq_pipeline_samples(&p->tune);
    mpq_node_id *node_of = mpq_arena_alloc(ctx, scratch, graph->n_node, sizeof *node_of);
    if (!node_of)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_insert_fake_quant(ctx, scratch, graph, &p->act, p->act_quant, &fake, node_of));
    MPQ_TRY(
        mpq_network_create(ctx, scratch, fake, p->batch, &(struct mpq_exec_options){0}, &network));
    for (uint32_t begin = 0; begin < targets->n_sample; begin += p->batch) {
        uint32_t left = targets->n_sample - begin, n = left < p->batch ? left : p->batch;
        MPQ_TRY(mpq_network_read(ctx, &network, &samples, targets->sample + begin, n));
        mpq_exec_forward(network.exec, 0, fake->n_node);
        mpq_network_sample_loss(&network, targets, begin, n, out + begin);
    }
    return MPQ_OK;
}

/* What activations alone cost the first n samples of the tune part: the float model's answers, and
 * the losses, out_loss [n]. */
static enum mpq_status look(struct mpq_ctx *ctx, struct mpq_pipeline *p, struct mpq_arena *scratch,
                            uint32_t n, struct mpq_targets *out_targets, double *out_loss)
{
    struct mpq_network network;
    struct mpq_samples samples = mpq_pipeline_samples(&p->tune);
    MPQ_TRY(mpq_network_create(ctx, scratch, p->run_graph, p->batch, &(struct mpq_exec_options){0},
                               &network));
    MPQ_TRY(mpq_targets_create(ctx, scratch, &network, &samples, p->tune.sample, n, out_targets));
    return activation_loss(ctx, scratch, p, p->run_graph, out_targets, out_loss);
}

/* Equalize and look again; back to where it was unless activations serve better by more than the
 * standard error. */
static enum mpq_status equalize(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                struct mpq_arena *scratch, struct mpq_equalize *gains)
{
    enum { FEW = 16, MAX_SAMPLES = 256 };
    struct mpq_targets targets;
    struct mpq_observer observer = p->observer;
    uint32_t n = p->tune.n < MAX_SAMPLES ? p->tune.n : MAX_SAMPLES, few = n < FEW ? n : FEW;
    double *before = mpq_arena_alloc(ctx, scratch, n, sizeof *before);
    double *after = mpq_arena_alloc(ctx, scratch, n, sizeof *after), error;
    if (!before || !after)
        return MPQ_E_NOMEM;
    /* Next to nothing to gain, and weights may lose. */
    MPQ_TRY(look(ctx, p, scratch, few, &targets, before));
    double mean = mpq_search_mean(before, NULL, few, &error);
    if (few > 1 && mean + 3 * error < MPQ_TUNE_LOSS_FLOOR)
        return MPQ_OK;
    MPQ_TRY(look(ctx, p, scratch, n, &targets, before));
    if (mpq_search_mean(before, NULL, n, &error) < MPQ_TUNE_LOSS_FLOOR)
        return MPQ_OK;
    MPQ_TRY(mpq_equalize_gains(ctx, scratch, p->graph, &p->layers, gains));
    MPQ_TRY(apply_gains(ctx, p, gains));
    MPQ_TRY(observe_graph(ctx, p, p->equal_run_graph, NULL));
    choose_ranges(p);
    MPQ_TRY(activation_loss(ctx, scratch, p, p->equal_run_graph, &targets, after));
    double gain = mpq_search_mean(before, after, n, &error);
    mpq_log(ctx, MPQ_LOG_INFO, "equalized channels: loss by activations alone %.5f to %.5f%s",
            mpq_search_mean(before, NULL, n, &(double){0}),
            mpq_search_mean(after, NULL, n, &(double){0}), gain > error ? "" : ", left out");
    if (gain > error) {
        p->equalize = *gains;
        return MPQ_OK;
    }
    p->equal_graph = p->graph;
    p->equal_run_graph = p->run_graph;
    p->observer = observer;
    choose_ranges(p);
    return MPQ_OK;
}

/* ---- the stage ---- */

struct mpq_checkpoint mpq_pipeline_checkpoint(struct mpq_pipeline *p, struct mpq_supernet *net)
{
    struct mpq_checkpoint checkpoint = {.graph = p->graph,
                                        .layers = &p->layers,
                                        .act = &p->act,
                                        .equalize = &p->equalize,
                                        .net = net,
                                        .act_quant = p->act_quant,
                                        .n_act = p->n_act,
                                        .sensitivity = p->sensitivity};
    memcpy(checkpoint.act_by_width, p->act_by_width, sizeof p->act_by_width);
    return checkpoint;
}

static enum mpq_status alloc_activations(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    size_t n_width = 0;
    p->act_quant = mpq_arena_alloc(ctx, p->arena, p->act.n_group, sizeof *p->act_quant);
    if (!p->act_quant)
        return MPQ_E_NOMEM;
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
        if (!p->options->act_bits[b])
            continue;
        n_width++;
        p->act_by_width[b] = mpq_arena_alloc(ctx, p->arena, p->act.n_group, sizeof *p->act_quant);
        if (!p->act_by_width[b])
            return MPQ_E_NOMEM;
    }
    p->n_act = n_width > 1 ? p->act.n_group : 0;
    return MPQ_OK;
}

static enum mpq_status resume(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    MPQ_TRY(mpq_equalize_find(ctx, p->arena, p->graph, p->cut.whole, &p->layers, &p->equalize));
    struct mpq_checkpoint checkpoint = mpq_pipeline_checkpoint(p, NULL);
    MPQ_TRY(mpq_checkpoint_load(ctx, p->arena, &checkpoint, p->options->checkpoint));
    return p->equalize.n_edge ? apply_gains(ctx, p, &p->equalize) : MPQ_OK;
}

enum mpq_status mpq_pipeline_calibrate(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    struct mpq_equalize gains = {0};
    const struct mpq_options *options = p->options;
    size_t taken = mpq_memory_taken(p->arena), left = 0;
    if (options->max_memory) /* where nothing is left the plan will say so */
        left = options->max_memory > taken ? options->max_memory - taken : 1;
    MPQ_TRY(mpq_batch_choose(ctx, p->arena, p->graph, p->tune.dataset, left, &p->run_graph,
                             &p->batch, &p->takes_batches));
    MPQ_TRY(alloc_activations(ctx, p));
    p->equal_graph = p->graph;
    p->equal_run_graph = p->run_graph;
    const char *path = options->checkpoint;
    p->is_resumed = options->is_resumed || (path && !options->overwrite && mpq_file_exists(path));
    MPQ_TRY(mpq_memory_plan(ctx, p));
    if (p->is_resumed)
        return resume(ctx, p);
    if (!options->no_equalize && !options->baseline && p->act.n_group)
        MPQ_TRY(mpq_equalize_find(ctx, p->arena, p->graph, p->cut.whole, &p->layers, &gains));
    MPQ_TRY(observe_graph(ctx, p, p->run_graph, &gains));
    choose_ranges(p);
    if (!gains.n_edge)
        return MPQ_OK;
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    enum mpq_status status = equalize(ctx, p, scratch, &gains);
    mpq_arena_free(scratch);
    return status;
}
