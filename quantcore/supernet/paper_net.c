#include "quantcore/supernet/paper_net.h"

#include <math.h>
#include <string.h>

#include "quantcore/quant/histogram.h"

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

/* The step of least squared error among an eighth of an octave apart from a quarter to four times
 * `first`. */
static mpq_real best_step(const struct mpq_histogram *histogram, int bits, bool is_signed,
                          mpq_real first)
{
    enum { OCTAVES = 2, STEPS = 8 };
    double least = INFINITY;
    mpq_real best = first;
    for (int i = -OCTAVES * STEPS; i <= OCTAVES * STEPS; i++) {
        mpq_real step = first * (mpq_real)exp2((double)i / STEPS);
        struct mpq_act_quant quant = {(float)step, is_signed ? 1 << (bits - 1) : 0, bits};
        double error = mpq_histogram_mse(histogram, &quant);
        if (error < least) {
            least = error;
            best = step;
        }
    }
    return best;
}

static void set_weight_steps(const struct mpq_layer *shape, struct mpq_paper_layer *layer)
{
    struct mpq_histogram histogram = {0};
    mpq_histogram_add(&histogram, layer->w, shape->n_param);
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
        mpq_real first = mpq_lsq_weight_step(layer->w, shape->n_param, b);
        layer->weight_step[b] = best_step(&histogram, b, true, first);
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
        set_weight_steps(shape, layer);
        for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++)
            layer->input_step[b] = 1;
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

/* ---- what the float model does to samples ---- */

/* A layer's values, as they were seen. */
struct layer_stats {
    double magnitude;               /* mean |x| of its input */
    struct mpq_histogram histogram; /* of its input          */
    double *sum, *square;           /* [n_channel] of what goes into its batch norm */
    double n;                       /* values of a channel   */
};

static enum mpq_status create_stats(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_paper_net *net, struct layer_stats **out)
{
    uint32_t n_layer = net->layers->n_layer;
    struct layer_stats *stats = mpq_arena_alloc(ctx, arena, n_layer, sizeof *stats);
    for (uint32_t l = 0; stats && l < n_layer; l++) {
        size_t n_channel = (size_t)net->layers->layer[l].n_channel;
        stats[l].sum = mpq_arena_alloc(ctx, arena, n_channel, sizeof(double));
        stats[l].square = mpq_arena_alloc(ctx, arena, n_channel, sizeof(double));
        if (!stats[l].sum || !stats[l].square)
            return MPQ_E_NOMEM;
    }
    *out = stats;
    return stats ? MPQ_OK : MPQ_E_NOMEM;
}

static enum mpq_status add_input(struct mpq_ctx *ctx, const struct mpq_layer *shape,
                                 const struct mpq_tensor *x, double share,
                                 struct layer_stats *stats)
{
    const mpq_real *data = x->data;
    int64_t n = mpq_shape_count(&x->shape);
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += fabs((double)data[i]);
    if (!isfinite(sum))
        return mpq_fail(ctx, MPQ_E_NUMERIC, "the input of layer '%s' is not finite", shape->name);
    stats->magnitude += n ? share * sum / (double)n : 0;
    mpq_histogram_add(&stats->histogram, data, n);
    return MPQ_OK;
}

/* y [n, n_channel, ...] */
static void add_output(const struct mpq_tensor *y, struct layer_stats *stats)
{
    const mpq_real *data = y->data;
    int64_t n_channel = y->shape.dim[1], n_sample = y->shape.dim[0];
    int64_t n_place = mpq_shape_count(&y->shape) / (n_channel * n_sample);
    for (int64_t i = 0; i < n_sample; i++)
        for (int64_t c = 0; c < n_channel; c++, data += n_place)
            for (int64_t k = 0; k < n_place; k++) {
                stats->sum[c] += (double)data[k];
                stats->square[c] += (double)data[k] * (double)data[k];
            }
    stats->n += (double)(n_sample * n_place);
}

static void set_input_steps(struct mpq_paper_layer *layer, const struct layer_stats *stats)
{
    double minimum = stats->histogram.minimum, maximum = stats->histogram.maximum;
    /* Rounding noise below zero is no sign. */
    layer->is_signed = minimum < -1e-5 * fmax(maximum, -minimum);
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
        mpq_real first =
            mpq_lsq_activation_step(stats->magnitude, mpq_lsq_range(b, layer->is_signed));
        layer->input_step[b] = best_step(&stats->histogram, b, layer->is_signed, first);
    }
}

/* The same function of x by the samples' statistics:
 *
 *   gamma (x - mean) / sqrt(var + epsilon) + beta = gamma' (x - mean') / sqrt(var' + epsilon) +
 * beta' */
static void restate_norms(const struct mpq_layer *shape, const struct mpq_learned_layer *learned,
                          const mpq_real *bias, const struct layer_stats *stats,
                          struct mpq_paper_layer *layer)
{
    const mpq_real *file_gamma = learned->norm[0]->data;
    for (int64_t c = 0; c < shape->n_channel; c++) {
        double mean = stats->sum[c] / stats->n;
        double var = fmax(stats->square[c] / stats->n - mean * mean, 0);
        if (file_gamma[c] < 0) /* its weights are negated, see fill_norms() */
            mean = 2 * (bias ? (double)bias[c] : 0) - mean;
        for (int i = 0; i < MPQ_N_BITS * MPQ_N_BITS; i++) {
            const struct mpq_paper_norm *norm = &layer->norm[i / MPQ_N_BITS][i % MPQ_N_BITS];
            if (!norm->gamma)
                continue;
            double gain = (double)norm->gamma[c] / sqrt((double)norm->var[c] + learned->epsilon);
            norm->beta[c] += (mpq_real)(gain * (mean - (double)norm->mean[c]));
            norm->gamma[c] = (mpq_real)(gain * sqrt(var + learned->epsilon));
            norm->mean[c] = (mpq_real)mean;
            norm->var[c] = (mpq_real)var;
        }
    }
}

static void use_stats(struct mpq_paper_net *net, const struct mpq_graph *graph,
                      const struct layer_stats *stats)
{
    for (uint32_t l = 0; l < net->layers->n_layer; l++) {
        const struct mpq_layer *shape = &net->layers->layer[l];
        const mpq_real *bias =
            shape->bias == MPQ_NO_VALUE ? NULL : graph->value[shape->bias].constant->data;
        if (net->learned[l].has_input_step)
            set_input_steps(&net->layer[l], &stats[l]);
        if (has_norm(net, l))
            restate_norms(shape, &net->learned[l], bias, &stats[l], &net->layer[l]);
    }
    mpq_paper_keep_gamma(net);
}

static enum mpq_status add_batch(struct mpq_ctx *ctx, const struct mpq_paper_net *net,
                                 struct mpq_network *network, double share,
                                 struct layer_stats *stats)
{
    mpq_exec_forward(network->exec, 0, network->graph->n_node);
    for (uint32_t l = 0; l < net->layers->n_layer; l++) {
        const struct mpq_layer *shape = &net->layers->layer[l];
        if (net->learned[l].has_input_step)
            MPQ_TRY(
                add_input(ctx, shape, mpq_exec_tensor(network->exec, shape->x), share, &stats[l]));
        if (has_norm(net, l))
            add_output(mpq_exec_tensor(network->exec, shape->y), &stats[l]);
    }
    return MPQ_OK;
}

enum mpq_status mpq_paper_calibrate(struct mpq_ctx *ctx, struct mpq_paper_net *net,
                                    struct mpq_network *network, const struct mpq_samples *samples,
                                    const uint32_t *sample, uint32_t n)
{
    uint32_t batch = network->batch;
    struct layer_stats *stats = NULL;
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    enum mpq_status status = create_stats(ctx, scratch, net, &stats);
    for (uint32_t begin = 0; begin < n && status == MPQ_OK; begin += batch) {
        uint32_t n_here = n - begin < batch ? n - begin : batch;
        status = mpq_network_read(ctx, network, samples, sample + begin, n_here);
        if (status == MPQ_OK)
            status = add_batch(ctx, net, network, (double)n_here / n, stats);
    }
    if (status == MPQ_OK)
        use_stats(net, network->graph, stats);
    mpq_arena_free(scratch);
    return status;
}
