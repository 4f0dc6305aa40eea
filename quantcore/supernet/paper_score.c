#include "quantcore/supernet/paper_score.h"

#include <math.h>
#include <string.h>

#include "quantcore/quant/scale.h"

/* ---- scores ---- */

enum mpq_status
mpq_paper_scorer_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                        const struct mpq_paper_net *net, struct mpq_network *network,
                        const struct mpq_samples *samples, const struct mpq_paper_truth *truth,
                        const struct mpq_paper_change *change, struct mpq_paper_scorer *out)
{
    struct mpq_paper_scorer s = {.net = net, .network = network, .samples = samples};
    s.weight_bits = mpq_arena_alloc(ctx, arena, net->layers->n_layer, 1);
    s.input_bits = mpq_arena_alloc(ctx, arena, net->layers->n_layer, 1);
    if (!s.weight_bits || !s.input_bits)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_paper_batch_create(ctx, arena, network, truth, change, &s.batch));
    *out = s;
    return MPQ_OK;
}

enum mpq_status mpq_paper_scorer_read(struct mpq_ctx *ctx, struct mpq_paper_scorer *s,
                                      uint64_t step)
{
    s->is_current = false;
    return mpq_paper_batch_read(ctx, &s->batch, s->network, s->samples, MPQ_STREAM_SEARCH, step);
}

static double batch_loss(const struct mpq_paper_scorer *s)
{
    const struct mpq_loss *loss = &s->network->loss;
    double sum = 0;
    for (uint32_t h = 0; h < loss->n_head; h++)
        sum += mpq_loss_head_value(
            &loss->head[h], mpq_exec_tensor(s->network->exec, loss->head[h].value)->data,
            s->batch.hard[h], s->network->batch, s->batch.truth->targets->variance[h], NULL);
    return sum;
}

double mpq_paper_score(struct mpq_paper_scorer *s, const uint8_t *weight_bits,
                       const uint8_t *input_bits)
{
    uint32_t n_layer = s->net->layers->n_layer;
    mpq_node_id first = s->is_current ? s->network->graph->n_node : 0;
    for (uint32_t l = 0; l < n_layer; l++) {
        if (s->is_current && weight_bits[l] == s->weight_bits[l] &&
            input_bits[l] == s->input_bits[l])
            continue;
        mpq_paper_apply_layer(s->net, s->network->exec, l, weight_bits[l], input_bits[l]);
        if (s->net->learned[l].first < first)
            first = s->net->learned[l].first;
    }
    memcpy(s->weight_bits, weight_bits, n_layer);
    memcpy(s->input_bits, input_bits, n_layer);
    s->is_current = true;
    mpq_exec_forward(s->network->exec, first, s->network->graph->n_node);
    double loss = batch_loss(s);
    return isfinite(loss) ? loss : (double)INFINITY;
}

/* ---- statistics ---- */

static void average_statistics(const struct mpq_paper_net *net, struct mpq_exec *exec,
                               const uint8_t *weight_bits, const uint8_t *input_bits,
                               uint32_t batch)
{
    for (uint32_t l = 0; l < net->layers->n_layer; l++) {
        const struct mpq_learned_layer *learned = &net->learned[l];
        const struct mpq_paper_norm *norm = &net->layer[l].norm[weight_bits[l]][input_bits[l]];
        if (!norm->gamma)
            continue;
        const mpq_real *mean = mpq_exec_tensor(exec, learned->batch_mean)->data;
        const mpq_real *var = mpq_exec_tensor(exec, learned->batch_var)->data;
        mpq_real share = (mpq_real)(1.0 / (batch + 1)); /* the first replaces what was there */
        for (int64_t c = 0; c < net->layers->layer[l].n_channel; c++) {
            norm->mean[c] += share * (mean[c] - norm->mean[c]);
            norm->var[c] += share * (var[c] - norm->var[c]);
        }
    }
}

enum mpq_status mpq_paper_reestimate(struct mpq_ctx *ctx, struct mpq_paper_net *net,
                                     struct mpq_network *network, const struct mpq_samples *samples,
                                     const uint32_t *sample, uint32_t n, const uint8_t *weight_bits,
                                     const uint8_t *input_bits)
{
    uint32_t n_batch = n / network->batch ? n / network->batch : 1;
    mpq_paper_apply(net, network->exec, weight_bits, input_bits);
    for (uint32_t i = 0; i < n_batch; i++) {
        uint32_t begin = i * network->batch;
        uint32_t n_here = n - begin < network->batch ? n - begin : network->batch;
        MPQ_TRY(mpq_step(ctx, "re-estimate", i, n_batch, NAN));
        MPQ_TRY(mpq_network_read(ctx, network, samples, sample + begin, n_here));
        mpq_exec_forward(network->exec, 0, network->graph->n_node);
        average_statistics(net, network->exec, weight_bits, input_bits, i);
    }
    return MPQ_OK;
}

/* ---- codes ---- */

/* What the folded graph's layer does to a channel of the layer with its batch norm:
 * y' = factor * y + shift. 1 and 0 unless more was folded than the batch norm. */
struct rest {
    double factor, shift;
};

/* A layer of both graphs, seen together. */
struct pair {
    const struct mpq_layer *shape; /* of the trained graph */
    const struct mpq_learned_layer *learned;
    const mpq_real *w, *bias; /* of the file          */
    const mpq_real *folded_w, *folded_bias;
};

static const mpq_real *constant_data(const struct mpq_graph *graph, mpq_value_id v)
{
    return v == MPQ_NO_VALUE ? NULL : graph->value[v].constant->data;
}

static double norm_data(const struct mpq_learned_layer *learned, int i, int64_t c)
{
    return (double)((const mpq_real *)learned->norm[i]->data)[c];
}

static struct rest find_rest(const struct pair *pair, int64_t c)
{
    const struct mpq_layer *shape = pair->shape;
    const struct mpq_learned_layer *learned = pair->learned;
    double gain = 1, offset = pair->bias ? (double)pair->bias[c] : 0, dot = 0, square = 0;
    if (learned->norm[0]) {
        gain = norm_data(learned, 0, c) / sqrt(norm_data(learned, 3, c) + learned->epsilon);
        offset = norm_data(learned, 1, c) + gain * (offset - norm_data(learned, 2, c));
    }
    for (int64_t o = 0; o < shape->n_outer; o++)
        for (int64_t i = 0; i < shape->n_inner; i++) {
            int64_t at = (o * shape->n_channel + c) * shape->n_inner + i;
            dot += (double)pair->folded_w[at] * gain * (double)pair->w[at];
            square += gain * (double)pair->w[at] * gain * (double)pair->w[at];
        }
    struct rest rest = {square > 0 ? dot / square : 1, 0};
    rest.shift = (pair->folded_bias ? (double)pair->folded_bias[c] : 0) - rest.factor * offset;
    return rest;
}

static enum mpq_status fold_layer(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_paper_net *net, uint32_t l, int bits,
                                  int input_bits, const struct pair *pair,
                                  struct mpq_layer_code *out)
{
    const struct mpq_layer *shape = pair->shape;
    const struct mpq_paper_layer *layer = &net->layer[l];
    const struct mpq_paper_norm *norm = &layer->norm[bits][input_bits];
    struct mpq_lsq_range range = mpq_lsq_weight_range(bits);
    double step = (double)layer->weight_step[bits];
    uint32_t n_level = (uint32_t)(range.high - range.low + 1);
    int8_t *q = mpq_arena_alloc(ctx, arena, (size_t)shape->n_param, 1);
    int8_t *level = mpq_arena_alloc(ctx, arena, n_level, 1);
    float *scale = mpq_arena_alloc(ctx, arena, (size_t)shape->n_channel, sizeof *scale);
    float *bias = mpq_arena_alloc(ctx, arena, (size_t)shape->n_channel, sizeof *bias);
    if (!q || !level || !scale || !bias)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < n_level; i++)
        level[i] = (int8_t)(range.low + (int)i);
    mpq_lsq_forward(range, layer->weight_step[bits], layer->w, shape->n_param, layer->wq);
    for (int64_t i = 0; i < shape->n_param; i++)
        q[i] = (int8_t)rint((double)layer->wq[i] / step);
    for (int64_t c = 0; c < shape->n_channel; c++) {
        struct rest rest = find_rest(pair, c);
        double gain = rest.factor, offset = 0, beta = 0;
        if (!(rest.factor > 0))
            return mpq_fail(ctx, MPQ_E_UNSUPPORTED,
                            "layer '%s': its channel %lld is multiplied by %g behind its batch "
                            "norm, and only positive factors can be folded into learned steps",
                            shape->name, (long long)c, rest.factor);
        if (norm->gamma) {
            gain *= (double)norm->gamma[c] / sqrt((double)norm->var[c] + pair->learned->epsilon);
            offset = (pair->bias ? (double)pair->bias[c] : 0) - (double)norm->mean[c];
            beta = (double)norm->beta[c];
        } else if (layer->bias) {
            beta = (double)layer->bias[c];
        }
        scale[c] = mpq_scale_round(shape, (float)(step * gain));
        bias[c] = (float)((double)scale[c] / step * offset + rest.factor * beta + rest.shift);
    }
    *out = (struct mpq_layer_code){.bits = bits,
                                   .n_level = n_level,
                                   .level = level,
                                   .q = q,
                                   .scale = scale,
                                   .bias = pair->folded_bias ? bias : NULL};
    return MPQ_OK;
}

static bool correspond(const struct mpq_layer *a, const struct mpq_layer *b)
{
    return a->n_outer == b->n_outer && a->n_channel == b->n_channel && a->n_inner == b->n_inner &&
           a->macs == b->macs;
}

enum mpq_status mpq_paper_fold(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               const struct mpq_paper_net *net, const uint8_t *weight_bits,
                               const uint8_t *input_bits, const struct mpq_graph *folded,
                               const struct mpq_layer_table *layers,
                               struct mpq_layer_code *out_code, struct mpq_act_quant *out_input)
{
    for (uint32_t l = 0; l < net->layers->n_layer; l++) {
        const struct mpq_layer *shape = &net->layers->layer[l];
        const struct mpq_paper_layer *layer = &net->layer[l];
        if (l >= layers->n_layer || !correspond(shape, &layers->layer[l]))
            return mpq_fail(ctx, MPQ_E_UNSUPPORTED,
                            "layer '%s' is another one once batch norms are folded", shape->name);
        struct pair pair = {
            .shape = shape,
            .learned = &net->learned[l],
            .w = constant_data(net->graph, shape->weight),
            .bias = constant_data(net->graph, shape->bias),
            .folded_w = constant_data(folded, layers->layer[l].weight),
            .folded_bias = constant_data(folded, layers->layer[l].bias),
        };
        int a = input_bits[l];
        MPQ_TRY(fold_layer(ctx, arena, net, l, weight_bits[l], a, &pair, &out_code[l]));
        out_input[l] = (struct mpq_act_quant){.scale = 1, .bits = MPQ_PAPER_FLOAT};
        if (a != MPQ_PAPER_FLOAT)
            out_input[l] = (struct mpq_act_quant){
                .scale = (float)layer->input_step[a],
                .zero_point = layer->is_signed ? 1 << (a - 1) : 0,
                .bits = a,
            };
    }
    return MPQ_OK;
}
