#include "quantcore/supernet/evaluate.h"

#include <math.h>
#include <string.h>

static uint32_t batch_count(const struct mpq_evaluator *e)
{
    return (e->targets->n_sample + e->network->batch - 1) / e->network->batch;
}

static uint32_t batch_size(const struct mpq_evaluator *e, uint32_t batch)
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
    struct mpq_evaluator e = {net, network, targets, layer_node, NULL};
    uint32_t n_input = network->graph->n_input;
    e.input = mpq_arena_alloc(ctx, arena, (size_t)batch_count(&e) * n_input, sizeof *e.input);
    if (!e.input)
        return MPQ_E_NOMEM;
    for (uint32_t b = 0; b < batch_count(&e); b++) {
        MPQ_TRY(mpq_network_read(ctx, network, samples, targets->sample + b * network->batch,
                                 batch_size(&e, b)));
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

static void load(struct mpq_evaluator *e, uint32_t batch)
{
    uint32_t n_input = e->network->graph->n_input;
    for (uint32_t i = 0; i < n_input; i++)
        memcpy(e->network->input[i]->data, e->input[batch * n_input + i],
               mpq_tensor_bytes(e->network->input[i]));
}

/* Loss of one batch after running from node `first` on, weighted by its share of the samples. */
static double run(struct mpq_evaluator *e, uint32_t batch, mpq_node_id first)
{
    enum { MAX_BATCH = 4096 };
    uint32_t row[MAX_BATCH], n = batch_size(e, batch);
    for (uint32_t i = 0; i < n; i++)
        row[i] = batch * e->network->batch + i;
    mpq_exec_forward(e->network->exec, first, e->network->graph->n_node);
    return mpq_network_loss(e->network, e->targets, row, n, 0) * n / (double)e->targets->n_sample;
}

enum mpq_status mpq_evaluate_samples(struct mpq_ctx *ctx, struct mpq_evaluator *e,
                                     const uint8_t *bits, double *out_sample_loss)
{
    mpq_supernet_apply(e->net, e->network->exec, bits);
    for (uint32_t b = 0; b < batch_count(e); b++) {
        if (ctx->cancel && *ctx->cancel)
            return mpq_fail(ctx, MPQ_E_CANCELLED, "interrupted during evaluation");
        load(e, b);
        mpq_exec_forward(e->network->exec, 0, e->network->graph->n_node);
        mpq_network_sample_loss(e->network, e->targets, b * e->network->batch, batch_size(e, b),
                                out_sample_loss + b * e->network->batch);
    }
    return MPQ_OK;
}

enum mpq_status mpq_evaluate(struct mpq_ctx *ctx, struct mpq_evaluator *e, const uint8_t *bits,
                             double *out_loss)
{
    double loss = 0;
    mpq_supernet_apply(e->net, e->network->exec, bits);
    for (uint32_t b = 0; b < batch_count(e); b++) {
        if (ctx->cancel && *ctx->cancel)
            return mpq_fail(ctx, MPQ_E_CANCELLED, "interrupted during evaluation");
        load(e, b);
        loss += run(e, b, 0);
    }
    *out_loss = isfinite(loss) ? loss : (double)INFINITY;
    return MPQ_OK;
}

enum mpq_status mpq_sensitivity(struct mpq_ctx *ctx, struct mpq_evaluator *e, double *out)
{
    const struct mpq_supernet *net = e->net;
    struct mpq_exec *exec = e->network->exec;
    uint32_t n_layer = net->layers->n_layer;
    for (uint32_t i = 0; i < n_layer * MPQ_N_BITS; i++)
        out[i] = NAN;
    for (uint32_t l = 0; l < n_layer; l++)
        mpq_supernet_apply_layer(net, exec, l, mpq_bits_highest(net->layer[l].candidates));
    for (uint32_t batch = 0; batch < batch_count(e); batch++) {
        load(e, batch);
        double widest = run(e, batch, 0);
        for (uint32_t l = n_layer; l-- > 0;) {
            uint32_t done = batch * n_layer + (n_layer - 1 - l);
            MPQ_TRY(mpq_step(ctx, "sensitivity", done, batch_count(e) * n_layer, NAN));
            int highest = mpq_bits_highest(net->layer[l].candidates);
            for (int b = MPQ_MIN_BITS; b <= highest; b++) {
                if (!(net->layer[l].candidates >> b & 1))
                    continue;
                double *sum = &out[l * MPQ_N_BITS + b];
                double loss = widest;
                if (b != highest) {
                    mpq_supernet_apply_layer(net, exec, l, b);
                    loss = run(e, batch, e->layer_node[l]);
                }
                *sum = batch ? *sum + loss : loss;
            }
            mpq_supernet_apply_layer(net, exec, l, highest);
        }
    }
    return MPQ_OK;
}

static bool is_fake_quant(const struct mpq_node *node)
{
    return node->op == mpq_op_find("onnx_mpq", "FakeQuant");
}

/* Losses of one batch, added to out. Groups are visited in the order in which their first nodes
 * run, last first, so that what comes before is still there. */
static void add_groups(struct mpq_evaluator *e, uint32_t batch, struct mpq_act_quant *act_quant,
                       struct mpq_act_quant *const *by_width, const mpq_node_id *first,
                       uint32_t n_group, double *out)
{
    const struct mpq_graph *graph = e->network->graph;
    for (mpq_node_id n = graph->n_node; n-- > 0;) {
        const struct mpq_act_quant *quant = graph->node[n].attrs;
        if (!is_fake_quant(&graph->node[n]))
            continue;
        uint32_t g = (uint32_t)(quant - act_quant);
        if (g >= n_group || first[g] != n)
            continue;
        struct mpq_act_quant old = act_quant[g];
        for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
            if (!by_width[b])
                continue;
            act_quant[g] = by_width[b][g];
            out[g * MPQ_N_BITS + (uint32_t)b] += run(e, batch, n);
        }
        act_quant[g] = old;
    }
}

enum mpq_status mpq_group_sensitivity(struct mpq_ctx *ctx, struct mpq_evaluator *e,
                                      struct mpq_act_quant *act_quant,
                                      struct mpq_act_quant *const *by_width, uint32_t n_group,
                                      double *out)
{
    const struct mpq_graph *graph = e->network->graph;
    const struct mpq_supernet *net = e->net;
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    mpq_node_id *first = scratch ? mpq_arena_alloc(ctx, scratch, n_group, sizeof *first) : NULL;
    enum mpq_status status = first ? MPQ_OK : MPQ_E_NOMEM;
    for (mpq_node_id n = graph->n_node; first && n-- > 0;)
        if (is_fake_quant(&graph->node[n]))
            first[(const struct mpq_act_quant *)graph->node[n].attrs - act_quant] = n;
    for (uint32_t i = 0; i < n_group * MPQ_N_BITS; i++)
        out[i] = by_width[i % MPQ_N_BITS] ? 0 : NAN;
    for (uint32_t l = 0; l < net->layers->n_layer; l++)
        mpq_supernet_apply_layer(net, e->network->exec, l,
                                 mpq_bits_highest(net->layer[l].candidates));
    for (uint32_t batch = 0; batch < batch_count(e) && status == MPQ_OK; batch++) {
        status = mpq_step(ctx, "activations", batch, batch_count(e), NAN);
        load(e, batch);
        mpq_exec_forward(e->network->exec, 0, graph->n_node);
        add_groups(e, batch, act_quant, by_width, first, n_group, out);
    }
    mpq_arena_free(scratch);
    return status;
}
