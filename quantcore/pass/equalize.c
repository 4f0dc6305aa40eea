#include "quantcore/pass/equalize.h"

#include <math.h>
#include <string.h>

#include "quantcore/base/simd.h"
#include "quantcore/pass/edit.h"

/* Channels of a value: those that are an edge's, and where they lie among all. */
struct slice {
    mpq_value_id value;
    int64_t first, n_all;
};

struct finder {
    const struct mpq_graph *graph;
    const struct mpq_binding *binding;
    const struct mpq_layer_table *layers;
    struct mpq_uses uses;
    uint32_t *layer_of;             /* [n_node] the layer that a node is alone, or UINT32_MAX */
    uint32_t *seen;                 /* [n_node] the last layer that was followed to there, + 1 */
    struct slice *left;             /* [n_node + 1] values still to be looked at */
    struct mpq_equal_reader *found; /* [n_layer] */
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

/* Whether the weights of layer l can take the gains of these channels, which it reads. */
static bool takes_gains(const struct finder *f, uint32_t l, const struct slice *slice,
                        const struct mpq_layer *from)
{
    const struct mpq_layer *layer = &f->layers->layer[l];
    int64_t inputs = layer->n_outer * layer->n_inner * layer->n_group, n = slice->n_all;
    if (layer->x != slice->value || layer->x_input != 0 || !has_channels(f, layer) ||
        is_conv(f, layer) != is_conv(f, from) || inputs % n)
        return false;
    return is_conv(f, layer) ? n % layer->n_group == 0 : inputs == n;
}

/* Where the channels lie in what the Concat gives; false where it joins another dimension. */
static bool step_concat(const struct finder *f, const struct mpq_node *node, struct slice *slice)
{
    const struct mpq_tensor *tensor = f->binding->tensor;
    const struct mpq_shape *shape = &tensor[node->out[0]].shape;
    int64_t axis = mpq_attr_int(&node->attr_set, "axis", 1);
    if (shape->rank < 2 || (axis < 0 ? axis + shape->rank : axis) != 1)
        return false;
    for (uint32_t i = 0; node->in[i] != slice->value; i++)
        slice->first += tensor[node->in[i]].shape.dim[1];
    *slice = (struct slice){node->out[0], slice->first, shape->dim[1]};
    return true;
}

/* The channels behind the node, which reads the slice and is no layer; false where gains do not
 * reach there unharmed: past a Clip by what channels reach there, which is not known, or a Pad of
 * channels. */
static bool step(const struct finder *f, mpq_node_id n, struct slice *slice)
{
    const struct mpq_node *node = &f->graph->node[n];
    bool is_bounded;
    if (mpq_node_is(node, "Concat"))
        return step_concat(f, node, slice);
    if (node->in[0] != slice->value || !is_homogeneous(f, node, &is_bounded) || is_bounded)
        return false;
    slice->value = node->out[0];
    return f->binding->tensor[slice->value].shape.dim[1] == slice->n_all;
}

/* Fill edge->to with all layers that read what layer edge->from gives, through homogeneous
 * operators; none where anything else does. */
static enum mpq_status find_readers(struct mpq_ctx *ctx, struct mpq_arena *arena, struct finder *f,
                                    struct mpq_equal_edge *edge)
{
    const struct mpq_layer *from = &f->layers->layer[edge->from];
    uint32_t n_left = 0, n_found = 0, mark = edge->from + 1;
    f->left[n_left++] = (struct slice){from->y, 0, from->n_channel};
    while (n_left) {
        struct slice slice = f->left[--n_left];
        if (f->uses.is_output[slice.value])
            return MPQ_OK;
        for (uint32_t i = f->uses.first[slice.value]; i < f->uses.first[slice.value + 1]; i++) {
            mpq_node_id reader = f->uses.node[i];
            uint32_t l = f->layer_of[reader];
            if (f->seen[reader] == mark) /* reads them twice */
                return MPQ_OK;
            f->seen[reader] = mark;
            if (l == UINT32_MAX) {
                struct slice behind = slice;
                if (!is_conv(f, from) || !step(f, reader, &behind))
                    return MPQ_OK;
                f->left[n_left++] = behind;
            } else if (takes_gains(f, l, &slice, from))
                f->found[n_found++] = (struct mpq_equal_reader){l, slice.first, slice.n_all};
            else
                return MPQ_OK;
        }
    }
    edge->to = mpq_arena_copy(ctx, arena, f->found, n_found * sizeof *f->found);
    edge->n_to = n_found;
    return edge->to ? MPQ_OK : MPQ_E_NOMEM;
}

/* Whether the activation fused into the layer, if any, passes gains on. */
static bool activation_passes(const struct finder *f, const struct mpq_layer *layer,
                              bool *is_bounded)
{
    const struct mpq_node *last = &f->graph->node[f->graph->value[layer->y].producer];
    *is_bounded = false;
    return last == &f->graph->node[layer->node] || is_homogeneous(f, last, is_bounded);
}

static enum mpq_status find_edge(struct mpq_ctx *ctx, struct mpq_arena *arena, struct finder *f,
                                 uint32_t l, struct mpq_equalize *out)
{
    const struct mpq_layer *layer = &f->layers->layer[l];
    struct mpq_equal_edge edge = {.from = l, .axis = is_conv(f, layer) ? 1 : -1};
    if (!has_channels(f, layer) || !activation_passes(f, layer, &edge.is_bounded))
        return MPQ_OK;
    MPQ_TRY(find_readers(ctx, arena, f, &edge));
    if (!edge.n_to)
        return MPQ_OK;
    edge.most = mpq_arena_alloc(ctx, arena, (size_t)layer->n_channel, sizeof *edge.most);
    edge.gain = mpq_arena_alloc(ctx, arena, (size_t)layer->n_channel, sizeof *edge.gain);
    if (!edge.most || !edge.gain)
        return MPQ_E_NOMEM;
    for (int64_t c = 0; c < layer->n_channel; c++)
        edge.gain[c] = 1;
    out->edge[out->n_edge++] = edge;
    return MPQ_OK;
}

/* Edges that a layer reads together have one range. */
static enum mpq_status join_ranges(struct mpq_ctx *ctx, struct mpq_arena *scratch, uint32_t n_layer,
                                   struct mpq_equalize *equalize)
{
    uint32_t *first = mpq_arena_alloc(ctx, scratch, n_layer, sizeof *first); /* edge + 1 */
    if (!first)
        return MPQ_E_NOMEM;
    for (uint32_t e = 0; e < equalize->n_edge; e++) {
        struct mpq_equal_edge *edge = &equalize->edge[e];
        edge->range = e;
        for (uint32_t i = 0; i < edge->n_to; i++) {
            uint32_t *by = &first[edge->to[i].layer];
            uint32_t joined = *by ? equalize->edge[*by - 1].range : e, left = edge->range;
            *by = *by ? *by : e + 1;
            for (uint32_t k = 0; k <= e && joined != left; k++)
                if (equalize->edge[k].range == left)
                    equalize->edge[k].range = joined;
        }
    }
    return MPQ_OK;
}

static enum mpq_status find_edges(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  struct mpq_arena *scratch, struct finder *f,
                                  struct mpq_equalize *out)
{
    uint32_t n_node = f->graph->n_node, n_layer = f->layers->n_layer;
    MPQ_TRY(mpq_graph_uses(ctx, scratch, f->graph, &f->uses));
    f->layer_of = mpq_arena_alloc(ctx, scratch, n_node, sizeof *f->layer_of);
    f->seen = mpq_arena_alloc(ctx, scratch, n_node, sizeof *f->seen);
    f->left = mpq_arena_alloc(ctx, scratch, n_node + 1, sizeof *f->left);
    f->found = mpq_arena_alloc(ctx, scratch, n_layer, sizeof *f->found);
    out->edge = mpq_arena_alloc(ctx, arena, n_layer, sizeof *out->edge);
    if (!f->layer_of || !f->seen || !f->left || !f->found || !out->edge)
        return MPQ_E_NOMEM;
    memset(f->layer_of, 0xff, n_node * sizeof *f->layer_of);
    for (uint32_t l = 0; l < n_layer; l++)
        f->layer_of[f->layers->layer[l].node] = l;
    for (uint32_t l = 0; l < n_layer; l++)
        MPQ_TRY(find_edge(ctx, arena, f, l, out));
    return join_ranges(ctx, scratch, n_layer, out);
}

enum mpq_status mpq_equalize_find(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_graph *graph, const struct mpq_graph *whole,
                                  const struct mpq_binding *binding,
                                  const struct mpq_layer_table *layers, struct mpq_equalize *out)
{
    struct finder f = {.graph = graph, .binding = binding, .layers = layers};
    struct mpq_equalize found = {0};
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    enum mpq_status status = !scratch ? MPQ_E_NOMEM
                             : mpq_has_inner_graph(whole)
                                 ? MPQ_OK
                                 : find_edges(ctx, arena, scratch, &f, &found);
    mpq_arena_free(scratch);
    *out = found;
    return status;
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

/* Add the squared weights of a reader by the channel of the edge that they meet; not those that
 * have a scale for each input channel, which a gain leaves as exact as they were. */
static void add_weights(const struct mpq_graph *graph, const struct mpq_layer *layer,
                        const struct mpq_equal_reader *reader, int64_t n_channel, double *square)
{
    const mpq_real *w = graph->value[layer->weight].constant->data;
    if (layer->is_depthwise)
        return;
    for (int64_t row = 0; row < layer->n_outer * layer->n_channel; row++)
        for (int64_t i = 0; i < layer->n_inner; i++) {
            int64_t c = input_channel(layer, reader->n_all, row, i) - reader->first;
            double value = (double)w[row * layer->n_inner + i];
            if (c >= 0 && c < n_channel)
                square[c] += value * value;
        }
}

/* The channel that all of a range are brought to. */
struct widest {
    double most, square; /* its largest |y|, and the squared weights that meet it */
};

static void find_widest(const struct mpq_equal_edge *edge, int64_t n_channel, const double *square,
                        struct widest *widest)
{
    for (int64_t c = 0; c < n_channel; c++)
        if ((double)edge->most[c] > widest->most)
            *widest = (struct widest){(double)edge->most[c], square[c]};
}

/* Of gain g, the error of a channel's activations counts by w^2 / g^2 and that of the weights it
 * meets by x^2 g^2, which is least at g^4 = w^2 / x^2. */
static void choose_gains(struct mpq_equal_edge *edge, int64_t n_channel, const double *square,
                         const struct widest *widest)
{
    const double largest = 16;
    for (int64_t c = 0; c < n_channel; c++) {
        double most = (double)edge->most[c], ratio = widest->most / most, gain = ratio;
        if (widest->square > 0 && square[c] > 0)
            gain = sqrt(ratio * sqrt(square[c] / widest->square));
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
    uint32_t n_edge = equalize->n_edge;
    double **square = mpq_arena_alloc(ctx, arena, n_edge, sizeof *square);
    struct widest *widest = mpq_arena_alloc(ctx, arena, n_edge, sizeof *widest); /* of ranges */
    if (!square || !widest)
        return MPQ_E_NOMEM;
    for (uint32_t e = 0; e < n_edge; e++) {
        const struct mpq_equal_edge *edge = &equalize->edge[e];
        int64_t n = layers->layer[edge->from].n_channel;
        square[e] = mpq_arena_alloc(ctx, arena, (size_t)n, sizeof *square[e]);
        if (!square[e])
            return MPQ_E_NOMEM;
        for (uint32_t i = 0; i < edge->n_to; i++)
            add_weights(graph, &layers->layer[edge->to[i].layer], &edge->to[i], n, square[e]);
        find_widest(edge, n, square[e], &widest[edge->range]);
    }
    for (uint32_t e = 0; e < n_edge; e++) {
        struct mpq_equal_edge *edge = &equalize->edge[e];
        int64_t n = layers->layer[edge->from].n_channel;
        struct widest own = {0};
        find_widest(edge, n, square[e], &own);
        choose_gains(edge, n, square[e], edge->is_bounded ? &own : &widest[edge->range]);
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

/* The graph, and the clone of it that is to have the gains. */
struct scaler {
    struct mpq_ctx *ctx;
    struct mpq_arena *arena;
    const struct mpq_graph *from;
    struct mpq_graph *to;
};

/* The data of the clone's constant, a copy for it alone: made where there is none yet. */
static enum mpq_status own_constant(const struct scaler *s, mpq_value_id v, mpq_real **out)
{
    const struct mpq_tensor *shared = s->from->value[v].constant;
    if (s->to->value[v].constant == shared) {
        struct mpq_tensor *copy = mpq_arena_copy(s->ctx, s->arena, shared, sizeof *copy);
        if (!copy)
            return MPQ_E_NOMEM;
        copy->data = mpq_arena_copy(s->ctx, s->arena, shared->data, mpq_tensor_bytes(shared));
        if (!copy->data)
            return MPQ_E_NOMEM;
        s->to->value[v].constant = copy;
    }
    *out = s->to->value[v].constant->data;
    return MPQ_OK;
}

/* w[o][c][i] by channel c. */
static enum mpq_status scale_outputs(const struct scaler *s, const struct mpq_layer *layer,
                                     const mpq_real *gain)
{
    mpq_real *w, *bias;
    MPQ_TRY(own_constant(s, layer->weight, &w));
    for (int64_t row = 0; row < layer->n_outer * layer->n_channel; row++)
        for (int64_t i = 0; i < layer->n_inner; i++)
            w[row * layer->n_inner + i] *= gain[row % layer->n_channel];
    if (layer->bias == MPQ_NO_VALUE)
        return MPQ_OK;
    MPQ_TRY(own_constant(s, layer->bias, &bias));
    for (int64_t c = 0; c < layer->n_channel; c++)
        bias[c] *= gain[c];
    return MPQ_OK;
}

/* w[o][c][i] by the channel of the edge it meets, if it meets one. */
static enum mpq_status scale_inputs(const struct scaler *s, const struct mpq_layer *layer,
                                    const struct mpq_equal_reader *reader, const mpq_real *gain,
                                    int64_t n_gain)
{
    mpq_real *w;
    MPQ_TRY(own_constant(s, layer->weight, &w));
    for (int64_t row = 0; row < layer->n_outer * layer->n_channel; row++)
        for (int64_t i = 0; i < layer->n_inner; i++) {
            int64_t c = input_channel(layer, reader->n_all, row, i) - reader->first;
            if (c >= 0 && c < n_gain)
                w[row * layer->n_inner + i] /= gain[c];
        }
    return MPQ_OK;
}

enum mpq_status mpq_equalize_apply(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_graph *graph,
                                   const struct mpq_layer_table *layers,
                                   const struct mpq_equalize *equalize, struct mpq_graph **out)
{
    struct scaler s = {ctx, arena, graph, NULL};
    MPQ_TRY(mpq_graph_clone(ctx, arena, graph, false, &s.to));
    for (uint32_t e = 0; e < equalize->n_edge; e++) {
        const struct mpq_equal_edge *edge = &equalize->edge[e];
        const struct mpq_layer *from = &layers->layer[edge->from];
        MPQ_TRY(scale_outputs(&s, from, edge->gain));
        for (uint32_t i = 0; i < edge->n_to; i++)
            MPQ_TRY(scale_inputs(&s, &layers->layer[edge->to[i].layer], &edge->to[i], edge->gain,
                                 from->n_channel));
    }
    *out = s.to;
    return MPQ_OK;
}
