#include "quantcore/pass/equalize.h"

#include <math.h>
#include <string.h>

#include "quantcore/base/simd.h"
#include "quantcore/pass/edit.h"

struct finder {
    const struct mpq_graph *graph;
    const struct mpq_layer_table *layers;
    struct mpq_uses uses;
    uint32_t *layer_of; /* [n_node] the layer that a node is alone, or UINT32_MAX */
};

/* Input i of a node where it is a constant number; else `absent`. */
static bool constant_input(const struct finder *f, const struct mpq_node *node, uint32_t i,
                           double absent, double *out)
{
    *out = absent;
    if (i >= node->n_in || node->in[i] == MPQ_NO_VALUE)
        return true;
    const struct mpq_tensor *tensor = f->graph->value[node->in[i]].constant;
    if (!tensor || tensor->dtype != MPQ_FLOAT || mpq_shape_count(&tensor->shape) != 1)
        return false;
    *out = mpq_tensor_double(tensor, 0);
    return true;
}

/* Whether f(g x) = g f(x) for 0 < g; where *is_bounded, as long as g f(x) is not beyond what f can
 * give. */
static bool is_homogeneous(const struct finder *f, const struct mpq_node *node, bool *is_bounded)
{
    static const char *const plain[] = {"Relu", "LeakyRelu", "MaxPool", "AveragePool",
                                        "GlobalAveragePool"};
    double low, high, filler;
    *is_bounded = false;
    if (node->n_out != 1)
        return false;
    for (size_t i = 0; i < MPQ_COUNT(plain); i++)
        if (mpq_node_is(node, plain[i]))
            return true;
    if (mpq_node_is(node, "Pad"))
        return strcmp(mpq_attr_string(&node->attr_set, "mode", "constant"), "constant") == 0 &&
               constant_input(f, node, 2, 0, &filler) && filler == 0;
    if (!mpq_node_is(node, "Clip") || !constant_input(f, node, 1, -(double)INFINITY, &low) ||
        !constant_input(f, node, 2, (double)INFINITY, &high))
        return false;
    *is_bounded = isfinite(high);
    return low == 0 && high > 0;
}

static bool is_conv(const struct finder *f, const struct mpq_layer *layer)
{
    return mpq_node_is(&f->graph->node[layer->node], "Conv");
}

/* Channels are dimension 1 of what a convolution reads and writes, the last one of a product's. */
static bool has_channels(const struct finder *f, const struct mpq_layer *layer)
{
    const struct mpq_node *node = &f->graph->node[layer->node];
    return !layer->is_weight_only &&
           (is_conv(f, layer) || mpq_node_is(node, "Gemm") || mpq_node_is(node, "MatMul"));
}

/* Whether the weights of layer l can take the gains of the outputs of `from`, which it reads as v.
 */
static bool takes_gains(const struct finder *f, uint32_t l, mpq_value_id v,
                        const struct mpq_layer *from)
{
    const struct mpq_layer *layer = &f->layers->layer[l];
    int64_t inputs = layer->n_outer * layer->n_inner * layer->n_group, n = from->n_channel;
    if (layer->x != v || layer->x_input != 0 || !has_channels(f, layer) ||
        is_conv(f, layer) != is_conv(f, from) || inputs % n)
        return false;
    return is_conv(f, layer) ? n % layer->n_group == 0 : inputs == n;
}

/* From the layer's y through homogeneous operators to where it is read by layers; NO_VALUE where
 * anything else reads it. */
static mpq_value_id follow(const struct finder *f, const struct mpq_layer *layer)
{
    mpq_value_id y = layer->y;
    mpq_node_id reader;
    bool is_bounded;
    while ((reader = mpq_uses_single(&f->uses, y)) != MPQ_NO_NODE) {
        const struct mpq_node *node = &f->graph->node[reader];
        if (f->layer_of[reader] != UINT32_MAX)
            return y;
        if (!is_conv(f, layer) || node->in[0] != y || !is_homogeneous(f, node, &is_bounded) ||
            is_bounded) /* by what channels reach there, which is not known */
            return MPQ_NO_VALUE;
        y = node->out[0];
    }
    return f->uses.is_output[y] ? MPQ_NO_VALUE : y;
}

/* Whether the activation fused into the layer, if any, passes gains on. */
static bool activation_passes(const struct finder *f, const struct mpq_layer *layer)
{
    const struct mpq_node *last = &f->graph->node[f->graph->value[layer->y].producer];
    bool is_bounded;
    return last == &f->graph->node[layer->node] || is_homogeneous(f, last, &is_bounded);
}

static enum mpq_status find_edge(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const struct finder *f, uint32_t l, struct mpq_equalize *out)
{
    const struct mpq_layer *layer = &f->layers->layer[l];
    struct mpq_equal_edge edge = {.from = l, .axis = is_conv(f, layer) ? 1 : -1};
    if (!has_channels(f, layer) || f->uses.is_output[layer->y] || !activation_passes(f, layer))
        return MPQ_OK;
    mpq_value_id v = follow(f, layer);
    if (v == MPQ_NO_VALUE)
        return MPQ_OK;
    uint32_t begin = f->uses.first[v], n = f->uses.first[v + 1] - begin;
    edge.to = mpq_arena_alloc(ctx, arena, n, sizeof *edge.to);
    edge.most = mpq_arena_alloc(ctx, arena, (size_t)layer->n_channel, sizeof *edge.most);
    edge.gain = mpq_arena_alloc(ctx, arena, (size_t)layer->n_channel, sizeof *edge.gain);
    if (!edge.to || !edge.most || !edge.gain)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t to = f->layer_of[f->uses.node[begin + i]];
        if (to == UINT32_MAX || !takes_gains(f, to, v, layer) ||
            (edge.n_to && edge.to[edge.n_to - 1] == to))
            return MPQ_OK;
        edge.to[edge.n_to++] = to;
    }
    for (int64_t c = 0; c < layer->n_channel; c++)
        edge.gain[c] = 1;
    if (n)
        out->edge[out->n_edge++] = edge;
    return MPQ_OK;
}

enum mpq_status mpq_equalize_find(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_graph *graph, const struct mpq_graph *whole,
                                  const struct mpq_layer_table *layers, struct mpq_equalize *out)
{
    struct finder f = {.graph = graph, .layers = layers};
    struct mpq_equalize found = {0};
    MPQ_TRY(mpq_graph_uses(ctx, arena, graph, &f.uses));
    f.layer_of = mpq_arena_alloc(ctx, arena, graph->n_node, sizeof *f.layer_of);
    found.edge = mpq_arena_alloc(ctx, arena, layers->n_layer, sizeof *found.edge);
    if (!f.layer_of || !found.edge)
        return MPQ_E_NOMEM;
    memset(f.layer_of, 0xff, graph->n_node * sizeof *f.layer_of);
    for (uint32_t l = 0; l < layers->n_layer; l++)
        f.layer_of[layers->layer[l].node] = l;
    for (uint32_t l = 0; l < layers->n_layer && !mpq_has_inner_graph(whole); l++)
        MPQ_TRY(find_edge(ctx, arena, &f, l, &found));
    *out = found;
    return MPQ_OK;
}

/* y as n_run runs of *out_inner elements, run r of channel r % *out_channel. */
static int64_t runs(const struct mpq_equal_edge *edge, const struct mpq_shape *y,
                    int64_t *out_channel, int64_t *out_inner)
{
    int axis = edge->axis < 0 ? edge->axis + y->rank : edge->axis;
    *out_channel = y->dim[axis];
    *out_inner = mpq_shape_count_range(y, axis + 1, y->rank);
    return mpq_shape_count_range(y, 0, axis + 1);
}

MPQ_MULTIVERSION
static mpq_real largest(const mpq_real *x, int64_t n, mpq_real least)
{
    enum { STRANDS = 64 };
    mpq_real most[STRANDS];
    for (int j = 0; j < STRANDS; j++)
        most[j] = least;
    int64_t whole = n - n % STRANDS;
    for (int64_t i = 0; i < whole; i += STRANDS)
        for (int j = 0; j < STRANDS; j++) {
            mpq_real size = x[i + j] < 0 ? -x[i + j] : x[i + j];
            most[j] = size > most[j] ? size : most[j];
        }
    for (int64_t i = whole; i < n; i++) {
        mpq_real size = x[i] < 0 ? -x[i] : x[i];
        most[0] = size > most[0] ? size : most[0];
    }
    for (int j = 1; j < STRANDS; j++)
        most[0] = most[j] > most[0] ? most[j] : most[0];
    return most[0];
}

void mpq_equalize_see(struct mpq_equal_edge *edge, const struct mpq_tensor *y)
{
    const mpq_real *x = y->data;
    int64_t n_channel, inner, n_run = runs(edge, &y->shape, &n_channel, &inner);
    for (int64_t run = 0; run < n_run; run++) {
        mpq_real *most = &edge->most[run % n_channel];
        *most = largest(x + run * inner, inner, *most);
    }
}

void mpq_equalize_scale(const struct mpq_equal_edge *edge, const struct mpq_tensor *y)
{
    mpq_real *x = y->data;
    int64_t n_channel, inner, n_run = runs(edge, &y->shape, &n_channel, &inner);
    for (int64_t run = 0; run < n_run; run++)
        for (int64_t i = 0; i < inner; i++)
            x[run * inner + i] *= edge->gain[run % n_channel];
}

/* The input channel that element i of output channel `row % n_channel` meets: of its group, in the
 * order of (o, i), as many consecutive weights a channel as a kernel has taps. */
static int64_t input_channel(const struct mpq_layer *layer, int64_t n_input, int64_t row, int64_t i)
{
    int64_t o = row / layer->n_channel, in_group = n_input / layer->n_group;
    int64_t group = row % layer->n_channel / (layer->n_channel / layer->n_group);
    int64_t taps = layer->n_outer * layer->n_inner / in_group;
    return group * in_group + (o * layer->n_inner + i) / taps;
}

/* Add the squared weights by the input channel that they meet; not those that have a scale for each
 * input channel, which a gain leaves as exact as they were. */
static void add_weights(const struct mpq_graph *graph, const struct mpq_layer *layer,
                        int64_t n_input, double *square)
{
    const mpq_real *w = graph->value[layer->weight].constant->data;
    if (layer->is_depthwise)
        return;
    for (int64_t row = 0; row < layer->n_outer * layer->n_channel; row++)
        for (int64_t i = 0; i < layer->n_inner; i++) {
            double value = (double)w[row * layer->n_inner + i];
            square[input_channel(layer, n_input, row, i)] += value * value;
        }
}

/* Of gain g, the error of a channel's activations counts by w^2 / g^2 and that of the weights it
 * meets by x^2 g^2, which is least at g^4 = w^2 / x^2. */
static void choose_gains(struct mpq_equal_edge *edge, int64_t n_channel, const double *square)
{
    const double largest = 16;
    int64_t widest = 0;
    for (int64_t c = 1; c < n_channel; c++)
        widest = edge->most[c] > edge->most[widest] ? c : widest;
    for (int64_t c = 0; c < n_channel; c++) {
        double most = (double)edge->most[c], ratio = (double)edge->most[widest] / most;
        double gain = ratio;
        if (square[widest] > 0)
            gain = sqrt(ratio * sqrt(square[c] / square[widest]));
        gain = gain > ratio ? ratio : gain;
        gain = gain > largest ? largest : gain;
        edge->gain[c] = most > 0 && gain > 1 ? (mpq_real)gain : 1;
    }
}

enum mpq_status mpq_equalize_gains(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_graph *graph,
                                   const struct mpq_layer_table *layers,
                                   struct mpq_equalize *equalize)
{
    for (uint32_t e = 0; e < equalize->n_edge; e++) {
        struct mpq_equal_edge *edge = &equalize->edge[e];
        int64_t n = layers->layer[edge->from].n_channel;
        double *square = mpq_arena_alloc(ctx, arena, (size_t)n, sizeof *square);
        if (!square)
            return MPQ_E_NOMEM;
        for (uint32_t i = 0; i < edge->n_to; i++)
            add_weights(graph, &layers->layer[edge->to[i]], n, square);
        choose_gains(edge, n, square);
    }
    return MPQ_OK;
}

const struct mpq_equal_edge *mpq_equalize_edge(const struct mpq_equalize *equalize, uint32_t l)
{
    for (uint32_t e = 0; e < equalize->n_edge; e++)
        if (equalize->edge[e].from == l)
            return &equalize->edge[e];
    return NULL;
}

/* A copy of the constant for this graph alone. */
static enum mpq_status own_constant(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_graph *graph, mpq_value_id v, mpq_real **out)
{
    struct mpq_tensor *copy =
        mpq_arena_copy(ctx, arena, graph->value[v].constant, sizeof(struct mpq_tensor));
    if (!copy)
        return MPQ_E_NOMEM;
    copy->data = mpq_arena_copy(ctx, arena, copy->data, mpq_tensor_bytes(copy));
    if (!copy->data)
        return MPQ_E_NOMEM;
    graph->value[v].constant = copy;
    *out = copy->data;
    return MPQ_OK;
}

/* w[o][c][i] by channel c. */
static enum mpq_status scale_outputs(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                     struct mpq_graph *graph, const struct mpq_layer *layer,
                                     const mpq_real *gain)
{
    mpq_real *w, *bias;
    MPQ_TRY(own_constant(ctx, arena, graph, layer->weight, &w));
    for (int64_t row = 0; row < layer->n_outer * layer->n_channel; row++)
        for (int64_t i = 0; i < layer->n_inner; i++)
            w[row * layer->n_inner + i] *= gain[row % layer->n_channel];
    if (layer->bias == MPQ_NO_VALUE)
        return MPQ_OK;
    MPQ_TRY(own_constant(ctx, arena, graph, layer->bias, &bias));
    for (int64_t c = 0; c < layer->n_channel; c++)
        bias[c] *= gain[c];
    return MPQ_OK;
}

/* w[o][c][i] by the input channel it meets. */
static enum mpq_status scale_inputs(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_graph *graph, const struct mpq_layer *layer,
                                    const mpq_real *gain, int64_t n_gain)
{
    mpq_real *w;
    MPQ_TRY(own_constant(ctx, arena, graph, layer->weight, &w));
    for (int64_t row = 0; row < layer->n_outer * layer->n_channel; row++)
        for (int64_t i = 0; i < layer->n_inner; i++)
            w[row * layer->n_inner + i] /= gain[input_channel(layer, n_gain, row, i)];
    return MPQ_OK;
}

enum mpq_status mpq_equalize_apply(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_graph *graph,
                                   const struct mpq_layer_table *layers,
                                   const struct mpq_equalize *equalize, struct mpq_graph **out)
{
    struct mpq_graph *to;
    MPQ_TRY(mpq_graph_clone(ctx, arena, graph, false, &to));
    for (uint32_t e = 0; e < equalize->n_edge; e++) {
        const struct mpq_equal_edge *edge = &equalize->edge[e];
        const struct mpq_layer *from = &layers->layer[edge->from];
        MPQ_TRY(scale_outputs(ctx, arena, to, from, edge->gain));
        for (uint32_t i = 0; i < edge->n_to; i++)
            MPQ_TRY(scale_inputs(ctx, arena, to, &layers->layer[edge->to[i]], edge->gain,
                                 from->n_channel));
    }
    *out = to;
    return MPQ_OK;
}
