#include "quantcore/pass/round_constant.h"

#include <math.h>
#include <string.h>

#include "quantcore/pass/edit.h"

/* What readers make of a constant, the most demanding first. */
enum use { OTHERWISE, DIVISOR, FACTOR, ADDED, UNREAD };

/* The error that an element may have beyond the 2^-11 of itself that float16 has above 2^-14, in
 * units of the largest element: small divisors matter most, small factors make small results, and
 * what is added is as good as its error is small. */
static const double tolerance[] = {
    [DIVISOR] = 0, [FACTOR] = 1.0 / (1 << 20), [ADDED] = 1.0 / (1 << 11)};

#define ANY_INPUT UINT32_MAX

/* is_offset: what it is added to may be far smaller than it is, or cancel it. */
struct slot {
    const char *op_type;
    uint32_t input;
    enum use use;
    bool is_offset;
};

static const struct slot slots[] = {
    {"Add", ANY_INPUT, ADDED, true},
    {"Sub", ANY_INPUT, ADDED, true},
    {"Mul", ANY_INPUT, FACTOR, false},
    {"Div", 1, DIVISOR, false},
    {"PRelu", 1, FACTOR, false},
    {"Conv", 2, ADDED, false},
    {"ConvTranspose", 2, ADDED, false},
    {"Gemm", 2, ADDED, false},
    {"LSTM", 3, ADDED, false},
    {"GRU", 3, ADDED, false},
    {"RNN", 3, ADDED, false},
    {"BatchNormalization", 1, FACTOR, false},
    {"BatchNormalization", 2, ADDED, false},
    {"BatchNormalization", 3, ADDED, true},
    {"BatchNormalization", 4, DIVISOR, false},
    {"InstanceNormalization", 1, FACTOR, false},
    {"InstanceNormalization", 2, ADDED, false},
    {"GroupNormalization", 1, FACTOR, false},
    {"GroupNormalization", 2, ADDED, false},
    {"LayerNormalization", 1, FACTOR, false},
    {"LayerNormalization", 2, ADDED, false},
    {"RMSNormalization", 1, FACTOR, false},
    {"Concat", ANY_INPUT, ADDED, true},
    {"Where", 1, ADDED, true},
    {"Where", 2, ADDED, true},
};

static bool is_one_of(const struct mpq_node *node, const char *const *op_type, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (mpq_node_is(node, op_type[i]))
            return true;
    return false;
}

/* Whether the outputs have elements of input i, as they are. */
static bool moves(const struct mpq_node *node, uint32_t i)
{
    static const char *const mover[] = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten",
                                        "Expand",  "Tile",      "Slice",   "Gather",    "Split"};
    return mpq_node_is(node, "Concat") || (i == 0 && is_one_of(node, mover, MPQ_COUNT(mover)));
}

/* Whether what the node makes of numbers is numbers as exact as they are, and not what they are
 * compared with, counted by or placed at. */
static bool computes(const struct mpq_node *node)
{
    static const char *const other[] = {
        "Shape", "Size",        "ArgMax",         "ArgMin", "NonZero", "Range", "ConstantOfShape",
        "Less",  "LessOrEqual", "Greater",        "Equal",  "IsNaN",   "IsInf", "EyeLike",
        "Not",   "Unique",      "GreaterOrEqual", "OneHot", "Compress"};
    if (!node->op || is_one_of(node, other, MPQ_COUNT(other)))
        return false;
    int64_t to = mpq_attr_int(&node->attr_set, "to", MPQ_FLOAT);
    return !mpq_node_is(node, "Cast") || to == MPQ_FLOAT || to == MPQ_FLOAT16 ||
           to == MPQ_BFLOAT16 || to == MPQ_DOUBLE;
}

struct finder {
    const struct mpq_graph *graph;
    bool is_plain;
    bool *is_weight; /* [n_value] of a layer                                         */
    bool *is_made;   /* [n_value] what comes of a layer's output                     */
    bool *is_last;   /* [n_value] an output, or comes to one with no layer after it  */
    enum use *use;   /* [n_value] by all that read it                                */
};

static bool has_weight(const struct finder *f, const struct mpq_node *node)
{
    for (uint32_t i = 0; i < node->n_in; i++)
        if (node->in[i] != MPQ_NO_VALUE && f->is_weight[node->in[i]])
            return true;
    return false;
}

/* Whether some input other than `except` is what layers compute, or a layer's weight. */
static bool is_beside_layer(const struct finder *f, const struct mpq_node *node, uint32_t except)
{
    for (uint32_t i = 0; i < node->n_in; i++) {
        mpq_value_id v = node->in[i];
        if (i != except && v != MPQ_NO_VALUE && (f->is_made[v] || f->is_weight[v]))
            return true;
    }
    return false;
}

static void find_made(struct finder *f)
{
    const struct mpq_graph *graph = f->graph;
    for (mpq_node_id n = 0; n < graph->n_node; n++) {
        const struct mpq_node *node = &graph->node[n];
        if (!computes(node) || !is_beside_layer(f, node, ANY_INPUT))
            continue;
        /* the second output is where the first was found */
        bool has_places = mpq_node_is(node, "TopK") || mpq_node_is(node, "MaxPool");
        for (uint32_t i = 0; i < (has_places ? 1 : node->n_out); i++)
            if (node->out[i] != MPQ_NO_VALUE)
                f->is_made[node->out[i]] = true;
    }
}

static void find_last(struct finder *f)
{
    const struct mpq_graph *graph = f->graph;
    for (uint32_t i = 0; i < graph->n_output; i++)
        f->is_last[graph->output[i]] = true;
    for (mpq_node_id n = graph->n_node; n-- > 0;) {
        const struct mpq_node *node = &graph->node[n];
        bool is_last = false;
        for (uint32_t i = 0; i < node->n_out; i++)
            is_last |= node->out[i] != MPQ_NO_VALUE && f->is_last[node->out[i]];
        for (uint32_t i = 0; i < node->n_in && is_last && !has_weight(f, node); i++)
            if (node->in[i] != MPQ_NO_VALUE)
                f->is_last[node->in[i]] = true;
    }
}

/* Whether input i, an offset, may be rounded. What is added to a layer's sums of products is its
 * bias. Elsewhere the result must go through another layer: the last ones of a detector say how far
 * a box is from an anchor, and by that distance errors count. Where nothing can be measured, it
 * must be added to what a factor has brought to some range, as the shift of a normalization is. */
static bool takes_offset(const struct finder *f, const struct mpq_node *node, uint32_t i)
{
    bool is_add = mpq_node_is(node, "Add") && node->in[1 - i] != MPQ_NO_VALUE;
    mpq_node_id producer = is_add ? f->graph->value[node->in[1 - i]].producer : MPQ_NO_NODE;
    const struct mpq_node *other = producer == MPQ_NO_NODE ? NULL : &f->graph->node[producer];
    if (other && has_weight(f, other) && !mpq_node_is(other, "Gather"))
        return true;
    bool is_scaled = other && (mpq_node_is(other, "Mul") || mpq_node_is(other, "Div"));
    return !f->is_last[node->out[0]] && (is_scaled || !f->is_plain);
}

static enum use use_as_input(const struct finder *f, const struct mpq_node *node, uint32_t i)
{
    for (size_t s = 0; s < MPQ_COUNT(slots); s++) {
        const struct slot *slot = &slots[s];
        if (mpq_node_is(node, slot->op_type) && (slot->input == i || slot->input == ANY_INPUT) &&
            is_beside_layer(f, node, i) && (!slot->is_offset || takes_offset(f, node, i)))
            return slot->use;
    }
    enum use use = moves(node, i) ? UNREAD : OTHERWISE;
    for (uint32_t k = 0; k < node->n_out; k++)
        if (node->out[k] != MPQ_NO_VALUE && f->use[node->out[k]] < use)
            use = f->use[node->out[k]];
    return use;
}

/* From the last node to the first, so that what is made of a value is known before the value is
 * asked about. */
static void find_uses(struct finder *f)
{
    const struct mpq_graph *graph = f->graph;
    for (mpq_value_id v = 0; v < graph->n_value; v++)
        f->use[v] = f->is_weight[v] ? OTHERWISE : UNREAD;
    for (uint32_t i = 0; i < graph->n_output; i++)
        f->use[graph->output[i]] = OTHERWISE;
    for (mpq_node_id n = graph->n_node; n-- > 0;)
        for (uint32_t i = 0; i < graph->node[n].n_in; i++) {
            mpq_value_id v = graph->node[n].in[i];
            enum use use = use_as_input(f, &graph->node[n], i);
            if (v != MPQ_NO_VALUE && use < f->use[v])
                f->use[v] = use;
        }
}

/* The constant rounded; data NULL where it is not to be, or is exact. */
static enum mpq_status round_tensor(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_tensor *tensor, enum use use,
                                    struct mpq_tensor *out)
{
    int64_t n = mpq_shape_count(&tensor->shape);
    double largest = 0;
    bool is_exact = true;
    struct mpq_tensor rounded;
    for (int64_t i = 0; i < n; i++)
        largest = fmax(largest, fabs(mpq_tensor_double(tensor, i)));
    out->data = NULL;
    MPQ_TRY(mpq_tensor_alloc(ctx, arena, tensor->dtype, &tensor->shape, &rounded));
    for (int64_t i = 0; i < n; i++) {
        double x = mpq_tensor_double(tensor, i);
        double half = (double)mpq_half_to_float(mpq_float_to_half((float)x));
        if (!(fabs(half - x) <= fmax(fabs(x) / (1 << 11), tolerance[use] * largest)))
            return MPQ_OK; /* NaN and what becomes infinite as well */
        is_exact &= half == x;
        mpq_tensor_set_double(&rounded, i, half);
    }
    if (!is_exact)
        *out = rounded;
    return MPQ_OK;
}

static enum mpq_status round_constants(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const struct finder *f, struct mpq_rounding *out)
{
    for (mpq_value_id v = 0; v < f->graph->n_value; v++) {
        const struct mpq_tensor *tensor = f->graph->value[v].constant;
        struct mpq_tensor rounded;
        if (!tensor || tensor->dtype != MPQ_FLOAT || f->use[v] == OTHERWISE ||
            f->use[v] == UNREAD || mpq_shape_count(&tensor->shape) < MPQ_ROUNDED_FROM)
            continue;
        MPQ_TRY(round_tensor(ctx, arena, tensor, f->use[v], &rounded));
        if (!rounded.data)
            continue;
        out->tensor[v] = mpq_arena_copy(ctx, arena, &rounded, sizeof rounded);
        if (!out->tensor[v])
            return MPQ_E_NOMEM;
        out->n++;
    }
    return MPQ_OK;
}

enum mpq_status mpq_rounding_find(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_graph *graph,
                                  const struct mpq_layer_table *layers, bool is_plain,
                                  struct mpq_rounding *out)
{
    uint32_t n = graph->n_value;
    struct finder f = {.graph = graph,
                       .is_plain = is_plain,
                       .is_weight = mpq_arena_alloc(ctx, arena, n, sizeof *f.is_weight),
                       .is_made = mpq_arena_alloc(ctx, arena, n, sizeof *f.is_made),
                       .is_last = mpq_arena_alloc(ctx, arena, n, sizeof *f.is_last),
                       .use = mpq_arena_alloc(ctx, arena, n, sizeof *f.use)};
    struct mpq_rounding rounding = {
        .n_value = n, .tensor = mpq_arena_alloc(ctx, arena, n, sizeof *rounding.tensor)};
    if (!f.is_weight || !f.is_made || !f.is_last || !f.use || !rounding.tensor)
        return MPQ_E_NOMEM;
    for (uint32_t l = 0; l < layers->n_layer; l++)
        f.is_weight[layers->layer[l].weight] = true;
    find_made(&f);
    find_last(&f);
    find_uses(&f);
    for (uint32_t l = 0; l < layers->n_layer; l++)
        if (layers->layer[l].bias != MPQ_NO_VALUE)
            f.use[layers->layer[l].bias] = OTHERWISE;
    if (!mpq_has_inner_graph(graph))
        MPQ_TRY(round_constants(ctx, arena, &f, &rounding));
    *out = rounding;
    return MPQ_OK;
}

enum mpq_status mpq_rounding_apply(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_graph *graph,
                                   const struct mpq_rounding *rounding, struct mpq_graph **out)
{
    struct mpq_graph *to;
    MPQ_TRY(mpq_graph_clone(ctx, arena, graph, false, &to));
    for (mpq_value_id v = 0; v < rounding->n_value; v++)
        if (rounding->tensor[v])
            to->value[v].constant = rounding->tensor[v];
    *out = to;
    return MPQ_OK;
}
