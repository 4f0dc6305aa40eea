#include "quantcore/supernet/paper_net.h"

#include <math.h>
#include <string.h>

enum { FEWEST = 2, FEWEST_DEPTHWISE = 3, MOST = 6, FIXED = 8 };

static const mpq_real least_gamma = (mpq_real)1e-5;

static mpq_bits_mask mask_between(int low, int high)
{
    return (mpq_bits_mask)((1u << (high + 1)) - (1u << low));
}

static enum mpq_status choose_widths(struct mpq_ctx *ctx, struct mpq_paper_net *net,
                                     const struct mpq_graph *graph, mpq_bits_mask weights,
                                     mpq_bits_mask inputs)
{
    uint32_t n_layer = net->layers->n_layer, n_searchable = 0;
    for (uint32_t l = 0; l < n_layer; l++) {
        const struct mpq_layer *shape = &net->layers->layer[l];
        struct mpq_paper_layer *layer = &net->layer[l];
        bool is_float = l == 0 || shape->is_weight_only || shape->x_input != 0;
        layer->is_searchable =
            !is_float && l + 1 < n_layer && mpq_node_is(&graph->node[shape->node], "Conv");
        layer->weights = layer->inputs = 1 << FIXED;
        if (is_float)
            layer->inputs = 1 << MPQ_PAPER_FLOAT;
        if (layer->is_searchable) {
            mpq_bits_mask own = mask_between(shape->is_depthwise ? FEWEST_DEPTHWISE : FEWEST, MOST);
            layer->weights = own & weights;
            layer->inputs = own & inputs;
            if (!layer->weights || !layer->inputs)
                return mpq_fail(ctx, MPQ_E_USAGE,
                                "layer '%s' takes %d to %d bits, none of which is allowed",
                                shape->name, mpq_bits_lowest(own), MOST);
        }
        layer->active = layer->weights;
        net->learned[l].has_input_step = !is_float;
        n_searchable += layer->is_searchable;
    }
    return n_searchable ? MPQ_OK
                        : mpq_fail(ctx, MPQ_E_UNSUPPORTED,
                                   "there is no convolution between the first and the last layer, "
                                   "so the paper's recipe has nothing to search");
}

/* ---- one array of parameters ---- */

/* Hands out places: first only counts, then, with net->value there, gives pointers. */
struct placer {
    struct mpq_paper_net *net;
    size_t n_value;
    uint32_t n_block;
};

static mpq_real *place(struct placer *p, enum mpq_paper_kind kind, size_t n)
{
    mpq_real *value = p->net->value ? p->net->value + p->n_value : NULL;
    if (p->net->block)
        p->net->block[p->n_block] = (struct mpq_paper_block){kind, p->n_value, n};
    p->n_block++;
    p->n_value += n;
    return value;
}

static bool has_norm(const struct mpq_paper_net *net, uint32_t l)
{
    return net->learned[l].gamma != MPQ_NO_VALUE;
}

static void place_layer(struct placer *p, uint32_t l)
{
    const struct mpq_layer *shape = &p->net->layers->layer[l];
    struct mpq_paper_layer *layer = &p->net->layer[l];
    size_t n_channel = (size_t)shape->n_channel;
    bool is_first = l == 0;
    layer->w = place(p, layer->is_searchable || is_first ? MPQ_PAPER_WEIGHT : MPQ_PAPER_PLAIN,
                     (size_t)shape->n_param);
    layer->weight_step = place(p, MPQ_PAPER_STEP, MPQ_N_BITS);
    layer->input_step = place(p, MPQ_PAPER_STEP, MPQ_N_BITS);
    if (!has_norm(p->net, l)) {
        if (shape->bias != MPQ_NO_VALUE)
            layer->bias = place(p, MPQ_PAPER_PLAIN, n_channel);
        return;
    }
    for (int b = 0; b < MPQ_N_BITS; b++)
        for (int a = 0; a < MPQ_N_BITS; a++)
            if (layer->weights >> b & 1 && layer->inputs >> a & 1) {
                struct mpq_paper_norm *norm = &layer->norm[b][a];
                norm->gamma = place(p, MPQ_PAPER_PLAIN, n_channel);
                norm->beta = place(p, MPQ_PAPER_PLAIN, n_channel);
                norm->mean = place(p, MPQ_PAPER_STATISTIC, n_channel);
                norm->var = place(p, MPQ_PAPER_STATISTIC, n_channel);
            }
}

static enum mpq_status allocate(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                struct mpq_paper_net *net)
{
    for (int round = 0; round < 2; round++) {
        struct placer p = {net, 0, 0};
        for (uint32_t l = 0; l < net->layers->n_layer; l++)
            place_layer(&p, l);
        if (round)
            break;
        net->n_value = p.n_value;
        net->n_block = p.n_block;
        net->value = mpq_arena_alloc(ctx, arena, p.n_value, sizeof *net->value);
        net->block = mpq_arena_alloc(ctx, arena, p.n_block, sizeof *net->block);
        if (!net->value || !net->block)
            return MPQ_E_NOMEM;
    }
    for (uint32_t l = 0; l < net->layers->n_layer; l++) {
        size_t n_param = (size_t)net->layers->layer[l].n_param;
        net->layer[l].wq = mpq_arena_alloc(ctx, arena, n_param, sizeof(mpq_real));
        if (!net->layer[l].wq)
            return MPQ_E_NOMEM;
    }
    return MPQ_OK;
}

/* ---- first values ---- */

static void fill_norms(struct mpq_paper_net *net, const struct mpq_graph *graph, uint32_t l)
{
    const struct mpq_layer *shape = &net->layers->layer[l];
    struct mpq_paper_layer *layer = &net->layer[l];
    const mpq_real *gamma = net->learned[l].norm[0]->data, *beta = net->learned[l].norm[1]->data;
    const mpq_real *mean = net->learned[l].norm[2]->data, *var = net->learned[l].norm[3]->data;
    const mpq_real *bias =
        shape->bias == MPQ_NO_VALUE ? NULL : graph->value[shape->bias].constant->data;
    for (int64_t c = 0; c < shape->n_channel; c++) {
        bool flips = gamma[c] < 0; /* of w x + bias to -w x + bias */
        mpq_real flipped_mean = 2 * (bias ? bias[c] : 0) - mean[c];
        for (int64_t o = 0; flips && o < shape->n_outer; o++)
            for (int64_t i = 0; i < shape->n_inner; i++) {
                mpq_real *w = &layer->w[(o * shape->n_channel + c) * shape->n_inner + i];
                *w = -*w;
            }
        for (int b = 0; b < MPQ_N_BITS; b++)
            for (int a = 0; a < MPQ_N_BITS; a++) {
                struct mpq_paper_norm *norm = &layer->norm[b][a];
                if (!norm->gamma)
                    continue;
                norm->gamma[c] = (mpq_real)fmax(fabs((double)gamma[c]), (double)least_gamma);
                norm->beta[c] = beta[c];
                norm->mean[c] = flips ? flipped_mean : mean[c];
                norm->var[c] = var[c];
            }
    }
}

static void fill(struct mpq_paper_net *net, const struct mpq_graph *graph)
{
    for (uint32_t l = 0; l < net->layers->n_layer; l++) {
        const struct mpq_layer *shape = &net->layers->layer[l];
        struct mpq_paper_layer *layer = &net->layer[l];
        memcpy(layer->w, graph->value[shape->weight].constant->data,
               (size_t)shape->n_param * sizeof *layer->w);
        if (layer->bias)
            memcpy(layer->bias, graph->value[shape->bias].constant->data,
                   (size_t)shape->n_channel * sizeof *layer->bias);
        if (has_norm(net, l))
            fill_norms(net, graph, l);
        for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
            layer->weight_step[b] = mpq_lsq_weight_step(layer->w, shape->n_param, b);
            layer->input_step[b] = 1;
        }
        /* Not used; kept away from 0 for whoever looks at all. */
        for (int b = 0; b < MPQ_MIN_BITS; b++)
            layer->weight_step[b] = layer->input_step[b] = 1;
    }
}

enum mpq_status mpq_paper_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const struct mpq_graph *graph,
                                 const struct mpq_layer_table *layers, mpq_bits_mask weights,
                                 mpq_bits_mask inputs, struct mpq_paper_net *out)
{
    struct mpq_paper_net net = {.layers = layers};
    net.layer = mpq_arena_alloc(ctx, arena, layers->n_layer, sizeof *net.layer);
    net.learned = mpq_arena_alloc(ctx, arena, layers->n_layer, sizeof *net.learned);
    if (!net.layer || !net.learned)
        return MPQ_E_NOMEM;
    MPQ_TRY(choose_widths(ctx, &net, graph, weights, inputs));
    MPQ_TRY(mpq_insert_learned(ctx, arena, graph, layers, net.learned, &net.graph));
    MPQ_TRY(allocate(ctx, arena, &net));
    fill(&net, graph);
    *out = net;
    return MPQ_OK;
}

/* ---- running ---- */

static struct mpq_lsq_range input_range(const struct mpq_paper_layer *layer, int input_bits)
{
    return input_bits == MPQ_PAPER_FLOAT ? (struct mpq_lsq_range){0, 0}
                                         : mpq_lsq_range(input_bits, layer->is_signed);
}

static void feed_norm(const struct mpq_paper_net *net, struct mpq_exec *exec, uint32_t l,
                      const struct mpq_paper_norm *norm)
{
    mpq_exec_feed(exec, net->learned[l].gamma, norm->gamma);
    mpq_exec_feed(exec, net->learned[l].beta, norm->beta);
}

void mpq_paper_apply_layer(const struct mpq_paper_net *net, struct mpq_exec *exec, uint32_t l,
                           int bits, int input_bits)
{
    const struct mpq_layer *shape = &net->layers->layer[l];
    const struct mpq_paper_layer *layer = &net->layer[l];
    struct mpq_learned_layer *learned = &net->learned[l];
    mpq_lsq_forward(mpq_lsq_weight_range(bits), layer->weight_step[bits], layer->w, shape->n_param,
                    layer->wq);
    mpq_exec_feed(exec, shape->weight, layer->wq);
    if (layer->bias)
        mpq_exec_feed(exec, shape->bias, layer->bias);
    learned->input_range = input_range(layer, input_bits);
    if (learned->has_input_step)
        mpq_exec_feed(exec, learned->input_step, &layer->input_step[input_bits]);
    if (has_norm(net, l))
        feed_norm(net, exec, l, &layer->norm[bits][input_bits]);
}

void mpq_paper_apply(const struct mpq_paper_net *net, struct mpq_exec *exec,
                     const uint8_t *weight_bits, const uint8_t *input_bits)
{
    for (uint32_t l = 0; l < net->layers->n_layer; l++)
        mpq_paper_apply_layer(net, exec, l, weight_bits[l], input_bits[l]);
}

void mpq_paper_keep_gamma(const struct mpq_paper_net *net)
{
    for (uint32_t l = 0; l < net->layers->n_layer; l++)
        for (int b = 0; b < MPQ_N_BITS; b++)
            for (int a = 0; a < MPQ_N_BITS; a++) {
                mpq_real *gamma = net->layer[l].norm[b][a].gamma;
                for (int64_t c = 0; gamma && c < net->layers->layer[l].n_channel; c++)
                    gamma[c] = gamma[c] > least_gamma ? gamma[c] : least_gamma;
            }
}

void mpq_paper_widest(const struct mpq_paper_net *net, uint8_t *weight_bits, uint8_t *input_bits)
{
    for (uint32_t l = 0; l < net->layers->n_layer; l++) {
        weight_bits[l] = (uint8_t)mpq_bits_highest(net->layer[l].active);
        input_bits[l] = (uint8_t)mpq_bits_highest(net->layer[l].inputs);
    }
}

/* ---- inputs ---- */

struct input_stats {
    double magnitude, minimum, maximum;
};

static void apply_float(const struct mpq_paper_net *net, struct mpq_exec *exec)
{
    for (uint32_t l = 0; l < net->layers->n_layer; l++) {
        const struct mpq_paper_layer *layer = &net->layer[l];
        mpq_exec_feed(exec, net->layers->layer[l].weight, layer->w);
        net->learned[l].input_range = (struct mpq_lsq_range){0, 0};
        if (has_norm(net, l))
            feed_norm(
                net, exec, l,
                &layer->norm[mpq_bits_highest(layer->weights)][mpq_bits_highest(layer->inputs)]);
    }
}

static enum mpq_status add_inputs(struct mpq_ctx *ctx, const struct mpq_paper_net *net,
                                  struct mpq_exec *exec, double share, struct input_stats *stats)
{
    for (uint32_t l = 0; l < net->layers->n_layer; l++) {
        if (!net->learned[l].has_input_step)
            continue;
        const struct mpq_tensor *x = mpq_exec_tensor(exec, net->layers->layer[l].x);
        const mpq_real *data = x->data;
        int64_t n = mpq_shape_count(&x->shape);
        double sum = 0;
        for (int64_t i = 0; i < n; i++) {
            sum += fabs((double)data[i]);
            stats[l].minimum = fmin(stats[l].minimum, (double)data[i]);
            stats[l].maximum = fmax(stats[l].maximum, (double)data[i]);
        }
        if (!isfinite(sum))
            return mpq_fail(ctx, MPQ_E_NUMERIC, "the input of layer '%s' is not finite",
                            net->layers->layer[l].name);
        stats[l].magnitude += n ? share * sum / (double)n : 0;
    }
    return MPQ_OK;
}

enum mpq_status mpq_paper_calibrate(struct mpq_ctx *ctx, struct mpq_paper_net *net,
                                    struct mpq_network *network, const struct mpq_samples *samples,
                                    const uint32_t *sample, uint32_t n)
{
    uint32_t n_layer = net->layers->n_layer, batch = network->batch;
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    struct input_stats *stats = mpq_arena_alloc(ctx, scratch, n_layer, sizeof *stats);
    enum mpq_status status = stats ? MPQ_OK : MPQ_E_NOMEM;
    if (stats)
        apply_float(net, network->exec);
    for (uint32_t begin = 0; begin < n && status == MPQ_OK; begin += batch) {
        uint32_t n_here = n - begin < batch ? n - begin : batch;
        status = mpq_network_read(ctx, network, samples, sample + begin, n_here);
        if (status != MPQ_OK)
            break;
        mpq_exec_forward(network->exec, 0, network->graph->n_node);
        status = add_inputs(ctx, net, network->exec, (double)n_here / n, stats);
    }
    for (uint32_t l = 0; l < n_layer && status == MPQ_OK; l++) {
        struct mpq_paper_layer *layer = &net->layer[l];
        if (!net->learned[l].has_input_step)
            continue;
        /* Rounding noise below zero is no sign. */
        layer->is_signed = stats[l].minimum < -1e-5 * fmax(stats[l].maximum, -stats[l].minimum);
        for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++)
            layer->input_step[b] =
                mpq_lsq_activation_step(stats[l].magnitude, mpq_lsq_range(b, layer->is_signed));
    }
    mpq_arena_free(scratch);
    return status;
}
