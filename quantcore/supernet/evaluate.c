#include "quantcore/supernet/evaluate.h"

#include <math.h>
#include <string.h>

#include "quantcore/ops/kernel/gemm.h"

uint32_t mpq_evaluator_batches(const struct mpq_evaluator *e)
{
    return (e->targets->n_sample + e->network->batch - 1) / e->network->batch;
}

uint32_t mpq_evaluator_batch_size(const struct mpq_evaluator *e, uint32_t batch)
{
    uint32_t left = e->targets->n_sample - batch * e->network->batch;
    return left < e->network->batch ? left : e->network->batch;
}

enum mpq_status mpq_evaluator_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                     const struct mpq_supernet *net, struct mpq_network *network,
                                     const struct mpq_samples *samples,
                                     const struct mpq_targets *targets,
                                     const mpq_node_id *layer_node, struct mpq_evaluator *out)
{
    struct mpq_evaluator e = {
        .net = net, .network = network, .targets = targets, .layer_node = layer_node};
    uint32_t n_input = network->graph->n_input;
    e.input =
        mpq_arena_alloc(ctx, arena, (size_t)mpq_evaluator_batches(&e) * n_input, sizeof *e.input);
    if (!e.input)
        return MPQ_E_NOMEM;
    for (uint32_t b = 0; b < mpq_evaluator_batches(&e); b++) {
        MPQ_TRY(mpq_network_read(ctx, network, samples, targets->sample + b * network->batch,
                                 mpq_evaluator_batch_size(&e, b)));
        for (uint32_t i = 0; i < n_input; i++) {
            e.input[b * n_input + i] = mpq_arena_copy(ctx, arena, network->input[i]->data,
                                                      mpq_tensor_bytes(network->input[i]));
            if (!e.input[b * n_input + i])
                return MPQ_E_NOMEM;
        }
    }
    *out = e;
    return MPQ_OK;
}

static bool is_fake_quant(const struct mpq_node *node)
{
    return node->op == mpq_op_find("onnx_mpq", "FakeQuant");
}

void mpq_evaluator_group_nodes(const struct mpq_evaluator *e, const struct mpq_act_quant *act_quant,
                               uint32_t n_group, mpq_node_id *out_first)
{
    const struct mpq_graph *graph = e->network->graph;
    for (uint32_t g = 0; g < n_group; g++)
        out_first[g] = graph->n_node;
    for (mpq_node_id n = graph->n_node; n-- > 0;) {
        if (!is_fake_quant(&graph->node[n]))
            continue;
        size_t g = (size_t)((const struct mpq_act_quant *)graph->node[n].attrs - act_quant);
        if (g < n_group)
            out_first[g] = n;
    }
}

enum mpq_status mpq_evaluator_keep_prefixes(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                            struct mpq_room *room, struct mpq_evaluator *e,
                                            const struct mpq_act_quant *act_quant, uint32_t n_group,
                                            size_t max_bytes)
{
    uint32_t n_layer = e->net->layers->n_layer;
    struct mpq_prefixes *prefixes = mpq_arena_alloc(ctx, arena, 1, sizeof *prefixes);
    mpq_node_id *first = mpq_arena_alloc(ctx, arena, n_layer + n_group, sizeof *first);
    if (!prefixes || !first)
        return MPQ_E_NOMEM;
    memcpy(first, e->layer_node, n_layer * sizeof *first);
    mpq_evaluator_group_nodes(e, act_quant, n_group, first + n_layer);
    MPQ_TRY(mpq_prefixes_create(ctx, arena, room, e->network, mpq_evaluator_batches(e),
                                n_layer + n_group, first, max_bytes, prefixes));
    e->prefixes = prefixes;
    return MPQ_OK;
}

static void load(const struct mpq_evaluator *e, struct mpq_network *network, uint32_t batch)
{
    uint32_t n_input = network->graph->n_input;
    for (uint32_t i = 0; i < n_input; i++)
        memcpy(network->input[i]->data, e->input[batch * n_input + i],
               mpq_tensor_bytes(network->input[i]));
}

void mpq_evaluator_load(struct mpq_evaluator *e, uint32_t batch)
{
    load(e, e->network, batch);
}

double mpq_evaluator_run(struct mpq_evaluator *e, uint32_t batch, mpq_node_id first)
{
    enum { MAX_BATCH = 4096 };
    double loss[MAX_BATCH], sum = 0;
    uint32_t n = mpq_evaluator_batch_size(e, batch);
    mpq_exec_forward(e->network->exec, first, e->network->graph->n_node);
    mpq_network_expected_loss(e->network, e->targets, batch * e->network->batch, n, loss);
    for (uint32_t i = 0; i < n; i++)
        sum += loss[i];
    return sum;
}

/* An allocation on its way through all batches: batch b is run by network b % n_network. */
struct evaluation {
    struct mpq_ctx *ctx;
    const struct mpq_evaluator *evaluator;
    const struct mpq_prefixes *prefixes;
    uint32_t n_network;
    double *loss; /* [n_sample] */
};

static void run_networks(void *arg, int64_t first, int64_t last, int thread)
{
    const struct evaluation *run = arg;
    const struct mpq_evaluator *e = run->evaluator;
    (void)thread;
    for (uint32_t b = 0; b < mpq_evaluator_batches(e) && !mpq_is_cancelled(run->ctx); b++) {
        uint32_t i = b % run->n_network, begin = b * e->network->batch;
        struct mpq_network *network = &e->network[i];
        if (i < first || i >= last)
            continue;
        if (mpq_prefixes_begins_anew(run->prefixes))
            load(e, network, b);
        mpq_prefixes_forward(run->prefixes, network, b);
        mpq_network_expected_loss(network, e->targets, begin, mpq_evaluator_batch_size(e, b),
                                  run->loss + begin);
    }
}

enum mpq_status mpq_evaluate_samples(struct mpq_ctx *ctx, struct mpq_evaluator *e,
                                     const uint8_t *bits, double *out_sample_loss)
{
    struct mpq_prefixes none = {0}, *prefixes = e->prefixes ? e->prefixes : &none;
    struct evaluation run = {ctx, e, prefixes, e->n_network > 1 ? e->n_network : 1,
                             out_sample_loss};
    for (uint32_t i = 0; i < run.n_network; i++)
        mpq_supernet_apply(e->net, e->network[i].exec, bits);
    mpq_prefixes_begin(prefixes, bits);
    mpq_gemm_parallel_for(run.n_network, 1, run_networks, &run);
    if (mpq_is_cancelled(ctx))
        return mpq_fail(ctx, MPQ_E_CANCELLED, "interrupted during evaluation");
    if (e->prefixes)
        mpq_prefixes_end(prefixes, bits);
    return MPQ_OK;
}

enum mpq_status mpq_evaluate(struct mpq_ctx *ctx, struct mpq_evaluator *e, const uint8_t *bits,
                             double *out_loss)
{
    double loss = 0;
    mpq_supernet_apply(e->net, e->network->exec, bits);
    for (uint32_t b = 0; b < mpq_evaluator_batches(e); b++) {
        if (mpq_is_cancelled(ctx))
            return mpq_fail(ctx, MPQ_E_CANCELLED, "interrupted during evaluation");
        mpq_evaluator_load(e, b);
        loss += mpq_evaluator_run(e, b, 0);
    }
    loss /= e->targets->n_sample;
    *out_loss = isfinite(loss) ? loss : (double)INFINITY;
    return MPQ_OK;
}
