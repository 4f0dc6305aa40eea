/* The recipe of "Retraining-free Model Quantization via One-Shot Weight-Coupling Learning" (Tang et
 * al., CVPR 2024, arXiv 2401.01543): a supernet trained on the graph with its batch norms, searched
 * by forward passes for a budget of bit operations, its statistics estimated anew and folded into
 * the graph that is exported. What is computed lies in supernet/paper_*.h and search/pair_search.h;
 * here it meets data and options. */
#include <math.h>
#include <string.h>

#include "calibration/metric.h"
#include "cli/checkpoint_paper.h"
#include "cli/paper_refine.h"
#include "cli/pick.h"
#include "cli/recipe.h"
#include "cli/runner.h"
#include "quantcore/pass/pass.h"
#include "quantcore/search/pair_search.h"
#include "quantcore/supernet/paper_score.h"

struct mpq_paper_run {
    struct mpq_binding binding;    /* of the graph with batch norms, at batch 1 */
    struct mpq_layer_table layers; /* of it                                     */
    struct mpq_paper_net net;
    struct mpq_targets targets; /* of the tune part */
    struct mpq_paper_truth truth;
    struct mpq_paper_change change; /* of the samples, in training; has_change: there is one */
    bool has_change;
    struct mpq_paper_train_result trained;
    struct mpq_pair_problem problem;
    struct mpq_pair_result found;
};

/* ---- prepare ---- */

/* Widths asked for; all where none was. */
static mpq_bits_mask mask_of(const bool *bits)
{
    unsigned mask = 0;
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++)
        mask |= (unsigned)bits[b] << b;
    return (mpq_bits_mask)(mask ? mask : UINT16_MAX);
}

/* The graph with batch norms and its layers, the same that `p->layers` lists. */
static enum mpq_status open_graph(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                  const struct mpq_graph **out)
{
    struct mpq_paper_run *run = p->paper;
    struct mpq_graph *graph;
    MPQ_TRY(mpq_simplify_keep_norms(ctx, p->arena, p->imported, &graph));
    MPQ_TRY(mpq_bind_batch(ctx, p->arena, graph, 1, &run->binding));
    MPQ_TRY(mpq_layer_table_build(ctx, p->arena, graph, &run->binding, &run->layers));
    MPQ_TRY(mpq_pick_exclude(ctx, p->arena, p->options->exclude, graph, &run->layers));
    if (run->layers.n_layer != p->layers.n_layer)
        return mpq_fail(ctx, MPQ_E_UNSUPPORTED,
                        "%s: it has %u layers with its batch norms and %u without, so what is "
                        "trained could not be folded",
                        p->options->model, run->layers.n_layer, p->layers.n_layer);
    if (p->run_graph != p->graph) {
        bool has_changed;
        MPQ_TRY(mpq_rebatch(ctx, p->arena, graph, &graph, &has_changed));
    }
    *out = graph;
    return MPQ_OK;
}

/* Samples that the supernet runs at once: 64, fewer where a step would be long. */
static uint32_t train_batch(const struct mpq_pipeline *p)
{
    const double most_macs = 6e9;
    double macs = 1;
    for (uint32_t l = 0; l < p->layers.n_layer; l++)
        macs += (double)p->layers.layer[l].macs;
    uint32_t batch = 64;
    while (batch > 8 && batch * macs > most_macs)
        batch /= 2;
    while (batch > 2 && batch > p->tune.n)
        batch /= 2;
    return batch;
}

/* On the samples whose statistics mpq_paper_reestimate() takes, too. */
static enum mpq_status calibrate(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                 const struct mpq_graph *graph, struct mpq_arena *scratch)
{
    struct mpq_network network;
    struct mpq_samples samples = mpq_pipeline_samples(&p->tune);
    MPQ_TRY(mpq_network_create(ctx, scratch, graph, train_batch(p),
                               &(struct mpq_exec_options){.keep_all = true}, &network));
    return mpq_paper_calibrate(ctx, &p->paper->net, &network, &samples, p->tune.sample, p->tune.n);
}

/* Labels of the tune part, where the data have them and an output takes them. */
static enum mpq_status read_labels(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    struct mpq_paper_truth *truth = &p->paper->truth;
    *truth = (struct mpq_paper_truth){.targets = &p->paper->targets};
    if (!mpq_dataset_has_labels(p->tune.dataset) || p->scored == UINT32_MAX) {
        mpq_log(ctx, MPQ_LOG_INFO, "no labels: the float model is the teacher");
        return MPQ_OK;
    }
    const struct mpq_loss *loss = &p->float_network.loss;
    while (truth->scored < loss->n_head && loss->head[truth->scored].n_sample != p->n_class)
        truth->scored++;
    if (truth->scored == loss->n_head)
        return MPQ_OK;
    int32_t *label = mpq_arena_alloc(ctx, p->arena, p->tune.n, sizeof *label);
    if (!label)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < p->tune.n; i++)
        label[i] = (int32_t)mpq_dataset_label(p->tune.dataset, p->tune.sample[i]);
    truth->label = label;
    return MPQ_OK;
}

/* Whether the float model gives nine in ten pictures the class that it gives them unchanged. */
static enum mpq_status survives(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                struct mpq_arena *scratch, const struct mpq_augment *augment,
                                bool *out)
{
    enum { MAX_SAMPLES = 256 };
    const struct mpq_paper_run *run = p->paper;
    struct mpq_network *network = &p->float_network;
    struct mpq_samples samples = mpq_pipeline_samples(&p->tune);
    struct mpq_tensor *input = network->input[augment->input];
    uint32_t n = p->tune.n < MAX_SAMPLES ? p->tune.n : MAX_SAMPLES, n_same = 0;
    size_t size = (size_t)(augment->height * augment->width * augment->channels);
    mpq_real *picture = mpq_arena_alloc(ctx, scratch, size, sizeof *picture);
    if (!picture)
        return MPQ_E_NOMEM;
    for (uint32_t begin = 0; begin < n; begin += p->batch) {
        uint32_t n_here = n - begin < p->batch ? n - begin : p->batch;
        const struct mpq_loss_head *head = &network->loss.head[run->truth.scored];
        MPQ_TRY(mpq_network_read(ctx, network, &samples, p->tune.sample + begin, n_here));
        mpq_augment(augment, ctx->seed, begin, n_here, input->data, picture);
        mpq_exec_forward(network->exec, 0, network->graph->n_node);
        const mpq_real *y = mpq_exec_tensor(network->exec, head->value)->data;
        const mpq_real *plain = run->targets.target[run->truth.scored] + begin * head->n_sample;
        for (uint32_t i = 0; i < n_here; i++)
            n_same += mpq_metric_argmax(y + i * head->n_sample, p->n_class) ==
                      mpq_metric_argmax(plain + i * head->n_sample, p->n_class);
    }
    *out = n_same >= 0.9 * n;
    return MPQ_OK;
}

/* Pictures are moved by up to an eighth of their side, as networks for CIFAR are trained, and
 * mirrored; each where it does not change what the float model sees. */
static enum mpq_status choose_change(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                     struct mpq_arena *scratch)
{
    struct mpq_paper_run *run = p->paper;
    struct mpq_picture_layout layout;
    struct mpq_augment a = {0};
    bool moves, mirrors;
    if (p->options->no_augment || p->scored == UINT32_MAX ||
        !mpq_dataset_pictures(p->tune.dataset, &a.input, &layout))
        return MPQ_OK;
    if (p->graph->value[p->graph->input[a.input]].dtype != MPQ_FLOAT)
        return MPQ_OK;
    a.height = layout.height;
    a.width = layout.width;
    a.channels = layout.channels;
    a.channels_last = layout.channels_last;
    a.mirrors = true;
    MPQ_TRY(survives(ctx, p, scratch, &a, &mirrors));
    a.mirrors = false;
    a.reach = (layout.height < layout.width ? layout.height : layout.width) / 8;
    MPQ_TRY(survives(ctx, p, scratch, &a, &moves));
    a.mirrors = mirrors;
    a.reach = moves ? a.reach : 0;
    mpq_log(ctx, MPQ_LOG_INFO, "pictures are %s and moved by up to %lld pixels in training",
            mirrors ? "mirrored" : "not mirrored", (long long)a.reach);
    run->change = (struct mpq_paper_change){a, p->run_graph};
    run->has_change = mirrors || a.reach > 0;
    return MPQ_OK;
}

enum mpq_status mpq_paper_prepare_stage(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    const struct mpq_graph *graph = NULL;
    p->paper = mpq_arena_alloc(ctx, p->arena, 1, sizeof *p->paper);
    bool *keep = mpq_arena_alloc(ctx, p->arena, p->graph->n_value, sizeof *keep);
    if (!p->paper || !keep)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_batch_choose(ctx, p->arena, p->graph, p->tune.dataset, 0, false, &p->run_graph,
                             &p->batch, &p->takes_batches));
    if (!p->takes_batches || p->tune.n < 2)
        return mpq_fail(ctx, MPQ_E_UNSUPPORTED,
                        "--recipe paper needs several samples at once for the statistics of its "
                        "batch norms, and this model or its data only give one");
    MPQ_TRY(mpq_pipeline_round_constants(ctx, p));
    for (uint32_t l = 0; l < p->layers.n_layer; l++) {
        keep[p->layers.layer[l].y] = true;
        if (p->layers.layer[l].x != MPQ_NO_VALUE)
            keep[p->layers.layer[l].x] = true;
    }
    MPQ_TRY(mpq_network_create(ctx, p->arena, p->run_graph, p->batch,
                               &(struct mpq_exec_options){.keep = keep}, &p->float_network));
    MPQ_TRY(open_graph(ctx, p, &graph));
    MPQ_TRY(mpq_paper_create(ctx, p->arena, graph, &p->paper->layers, mask_of(p->options->bits),
                             mask_of(p->options->act_bits), &p->paper->net));
    struct mpq_samples samples = mpq_pipeline_samples(&p->tune);
    MPQ_TRY(mpq_targets_create(ctx, p->arena, &p->float_network, &samples, p->tune.sample,
                               p->tune.n, &p->paper->targets));
    MPQ_TRY(read_labels(ctx, p));
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    enum mpq_status status = calibrate(ctx, p, graph, scratch);
    if (status == MPQ_OK)
        status = choose_change(ctx, p, scratch);
    mpq_arena_free(scratch);
    return status;
}

static const struct mpq_paper_change *change_of(const struct mpq_pipeline *p)
{
    return p->paper->has_change ? &p->paper->change : NULL;
}

/* ---- train ---- */

/* As many steps as the effort's amount of arithmetic allows, at most 60 passes over the samples. */
static uint32_t train_steps(const struct mpq_pipeline *p)
{
    static const double effort_macs[] = {[MPQ_EFFORT_NONE] = 0,
                                         [MPQ_EFFORT_QUICK] = 4e12,
                                         [MPQ_EFFORT_DEFAULT] = 3e13,
                                         [MPQ_EFFORT_THOROUGH] = 2e14};
    if (p->options->steps >= 0)
        return (uint32_t)p->options->steps;
    if (p->options->effort == MPQ_EFFORT_NONE)
        return 0;
    double macs = 1, batch = train_batch(p);
    for (uint32_t l = 0; l < p->layers.n_layer; l++)
        macs += (double)p->layers.layer[l].macs;
    double steps = effort_macs[p->options->effort] / (4 * 3 * batch * macs);
    double most = 60.0 * p->tune.n / batch;
    steps = steps < most ? steps : most;
    return steps < 20 ? 20 : (uint32_t)steps;
}

enum mpq_status mpq_paper_train_stage(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    uint32_t batch = train_batch(p);
    struct mpq_samples samples = mpq_pipeline_samples(&p->tune);
    /* The published rate is 0.04 for batches of 512 and a run in which the net may go far from the
     * one it began as; some hundred steps do not bring back what such a rate takes. */
    struct mpq_paper_train_options options = {.n_step = train_steps(p),
                                              .rate = 0.012 * batch / 512,
                                              .step_rate = 1e-3,
                                              .change = change_of(p),
                                              .freeze = !p->options->no_freeze,
                                              .align = !p->options->no_align};
    const char *path = p->options->checkpoint;
    p->is_resumed = mpq_options_resume(p->options);
    p->n_step = p->is_resumed ? 0 : options.n_step;
    p->tuning_helped = true; /* nobody asks: the method is its training */
    if (p->is_resumed)
        return mpq_checkpoint_paper_load(ctx, p->arena, &p->paper->net, path);
    MPQ_TRY(mpq_paper_train(ctx, &p->paper->net, batch, &samples, &p->paper->truth, &options,
                            &p->paper->trained));
    mpq_log(ctx, MPQ_LOG_INFO, "training took the loss of random paths from %.5f to %.5f",
            p->paper->trained.first_loss, p->paper->trained.last_loss);
    return path ? mpq_checkpoint_paper_save(ctx, p->arena, &p->paper->net, path,
                                            p->options->overwrite)
                : MPQ_OK;
}

/* ---- search ---- */

static enum mpq_status resample(struct mpq_ctx *ctx, void *arg, uint64_t step)
{
    return mpq_paper_scorer_read(ctx, arg, step);
}

static double score(void *arg, const uint8_t *weight_bits, const uint8_t *input_bits)
{
    return mpq_paper_score(arg, weight_bits, input_bits);
}

static enum mpq_status make_problem(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    struct mpq_paper_run *run = p->paper;
    const struct mpq_bitops *bitops = &p->options->bitops;
    uint32_t n_layer = run->layers.n_layer;
    uint64_t *macs = mpq_arena_alloc(ctx, p->arena, n_layer, sizeof *macs);
    uint16_t *weights = mpq_arena_alloc(ctx, p->arena, n_layer, sizeof *weights);
    uint16_t *inputs = mpq_arena_alloc(ctx, p->arena, n_layer, sizeof *inputs);
    bool *is_searchable = mpq_arena_alloc(ctx, p->arena, n_layer, sizeof *is_searchable);
    if (!macs || !weights || !inputs || !is_searchable)
        return MPQ_E_NOMEM;
    for (uint32_t l = 0; l < n_layer; l++) {
        const struct mpq_paper_layer *layer = &run->net.layer[l];
        macs[l] = run->layers.layer[l].macs;
        weights[l] = layer->active;
        inputs[l] = layer->inputs;
        is_searchable[l] = layer->is_searchable;
    }
    run->problem = (struct mpq_pair_problem){.n_layer = n_layer,
                                             .macs = macs,
                                             .weights = weights,
                                             .inputs = inputs,
                                             .is_searchable = is_searchable,
                                             .resample = resample,
                                             .score = score};
    double budget = bitops->number;
    if (bitops->share > 0)
        budget = bitops->share * (double)mpq_pair_uniform_bitops(&run->problem, 8, 8);
    if (bitops->weight_bits)
        budget = (double)mpq_pair_uniform_bitops(&run->problem, bitops->weight_bits,
                                                 bitops->activation_bits);
    run->problem.budget_bitops = (uint64_t)budget;
    return MPQ_OK;
}

/* Forward passes over many samples with everything kept, as search and the estimate of statistics
 * want them. */
static enum mpq_status create_network(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      const struct mpq_pipeline *p, uint32_t batch,
                                      struct mpq_network *out)
{
    return mpq_network_create(ctx, arena, p->paper->net.graph, batch,
                              &(struct mpq_exec_options){.keep_all = true}, out);
}

static enum mpq_status search(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                              struct mpq_arena *scratch)
{
    struct mpq_paper_run *run = p->paper;
    struct mpq_network network;
    struct mpq_paper_scorer scorer;
    struct mpq_samples samples = mpq_pipeline_samples(&p->tune);
    MPQ_TRY(create_network(ctx, scratch, p, train_batch(p), &network));
    MPQ_TRY(mpq_paper_scorer_create(ctx, scratch, &run->net, &network, &samples, &run->truth,
                                    change_of(p), &scorer));
    run->problem.arg = &scorer;
    MPQ_TRY(mpq_pair_search(ctx, p->arena, &run->problem, &run->found));
    mpq_log(
        ctx, MPQ_LOG_INFO,
        "search: %s, after %u steps and %u exchanges, %u evaluations, error %.5f at %.4f of %.4f "
        "GBitOPs",
        run->found.is_uniform ? "uniform widths" : "mixed widths", run->found.n_step,
        run->found.n_exchange, run->found.n_score, run->found.error,
        (double)run->found.bitops * 1e-9, (double)run->problem.budget_bitops * 1e-9);
    /* Statistics now, while the network is there. */
    return mpq_paper_reestimate(ctx, &run->net, &network, &samples, p->tune.sample, p->tune.n,
                                run->found.weight_bits, run->found.input_bits);
}

enum mpq_status mpq_paper_search_stage(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    MPQ_TRY(make_problem(ctx, p));
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    enum mpq_status status = search(ctx, p, scratch);
    mpq_arena_free(scratch);
    return status;
}

/* ---- fold ---- */

/* Values stay float, and each layer that has an input width quantizes its input for itself. */
static enum mpq_status plan_activations(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    p->act.own_group = mpq_arena_alloc(ctx, p->arena, p->graph->n_node, sizeof *p->act.own_group);
    if (!p->act.own_group)
        return MPQ_E_NOMEM;
    for (uint32_t v = 0; v < p->graph->n_value; v++) {
        p->act.group[v] = MPQ_NO_GROUP;
        p->act.lossless[v] = false;
    }
    for (uint32_t n = 0; n < p->graph->n_node; n++)
        p->act.own_group[n] = MPQ_NO_GROUP;
    p->act.n_group = 0;
    for (uint32_t l = 0; l < p->layers.n_layer; l++)
        if (p->act_quant[l].bits != MPQ_PAPER_FLOAT) {
            p->act.own_group[p->layers.layer[l].node] = p->act.n_group;
            p->act_quant[p->act.n_group++] = p->act_quant[l];
        }
    return MPQ_OK;
}

/* What the report says of the search. */
static enum mpq_status fill_report(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    const struct mpq_paper_run *run = p->paper;
    uint32_t n_layer = p->layers.n_layer;
    size_t n_entry = (size_t)n_layer * MPQ_N_BITS;
    p->layer_bytes = mpq_arena_alloc(ctx, p->arena, n_entry, sizeof *p->layer_bytes);
    p->sensitivity = mpq_arena_alloc(ctx, p->arena, n_entry, sizeof *p->sensitivity);
    p->lock = mpq_arena_alloc(ctx, p->arena, n_layer, sizeof *p->lock);
    if (!p->layer_bytes || !p->sensitivity || !p->lock)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < n_entry; i++) {
        uint64_t bits = i % MPQ_N_BITS;
        p->sensitivity[i] = (double)NAN;
        p->layer_bytes[i] = ((uint64_t)p->layers.layer[i / MPQ_N_BITS].n_param * bits + 7) / 8;
    }
    p->problem.n_cost = 1;
    p->problem.cost[0] = (struct mpq_cost){
        .name = "BitOPs", .unit = "G", .shown = 1e-9, .budget = run->problem.budget_bitops};
    p->found.cost[0] = run->found.bitops;
    p->found.estimate = p->found.bound = (double)NAN;
    return MPQ_OK;
}

/* Codes for the widths found, in a net that holds nothing else. */
static enum mpq_status fold(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    struct mpq_paper_run *run = p->paper;
    struct mpq_layer_code *code = mpq_arena_alloc(ctx, p->arena, p->layers.n_layer, sizeof *code);
    if (!code)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_paper_fold(ctx, p->arena, &run->net, run->found.weight_bits, run->found.input_bits,
                           p->graph, &p->layers, code, p->act_quant));
    p->candidates = 0;
    for (uint32_t l = 0; l < p->layers.n_layer; l++)
        p->candidates |= (mpq_bits_mask)(1 << p->bits[l]);
    MPQ_TRY(mpq_supernet_create(ctx, p->arena, p->graph, &p->layers, p->candidates, &p->net));
    for (uint32_t l = 0; l < p->layers.n_layer; l++)
        mpq_supernet_take_code(&p->net, l, &code[l]);
    return MPQ_OK;
}

enum mpq_status mpq_paper_fold_stage(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    uint32_t n_layer = p->layers.n_layer;
    p->bits = p->paper->found.weight_bits;
    p->act_quant = mpq_arena_alloc(ctx, p->arena, n_layer, sizeof *p->act_quant);
    p->layer_node = mpq_arena_alloc(ctx, p->arena, n_layer, sizeof *p->layer_node);
    mpq_node_id *node_of = mpq_arena_alloc(ctx, p->arena, p->run_graph->n_node, sizeof *node_of);
    if (!p->act_quant || !p->layer_node || !node_of)
        return MPQ_E_NOMEM;
    MPQ_TRY(fold(ctx, p));
    MPQ_TRY(plan_activations(ctx, p));
    MPQ_TRY(fill_report(ctx, p));
    MPQ_TRY(mpq_insert_fake_quant(ctx, p->arena, p->rounded_run_graph, &p->act, p->act_quant,
                                  &p->fake_graph, node_of));
    for (uint32_t l = 0; l < n_layer; l++)
        p->layer_node[l] = node_of[p->layers.layer[l].node];
    MPQ_TRY(mpq_network_create(ctx, p->arena, p->fake_graph, p->batch,
                               &(struct mpq_exec_options){.keep_all = true}, &p->fake_network));
    return mpq_paper_measure(ctx, p);
}

/* ---- refine ---- */

enum mpq_status mpq_paper_refine_stage(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    return p->options->no_refine ? MPQ_OK : mpq_paper_refine(ctx, p, change_of(p));
}
