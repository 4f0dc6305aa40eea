#include "quantcore/pass/layer_weight.h"

#include <math.h>
#include <string.h>

/* Below this, a weight that no integer kernel reads is not worth the text of a layer. */
enum { MIN_WEIGHT_ONLY = 1024 };

/* ---- w[n_outer][n_channel][n_inner] ---- */

static void set_view(struct mpq_layer *layer, int64_t n_outer, int64_t n_channel, int64_t n_inner)
{
    layer->n_outer = n_outer;
    layer->n_channel = n_channel;
    layer->n_inner = n_inner;
}

/* One scale for each index of a dimension. */
static void set_channel_axis(struct mpq_layer *layer, const struct mpq_shape *w, int axis)
{
    set_view(layer, mpq_shape_count_range(w, 0, axis), w->dim[axis],
             mpq_shape_count_range(w, axis + 1, w->rank));
}

static void set_input(struct mpq_layer *layer, const struct mpq_node *node, int input, int axis)
{
    layer->x = node->in[input];
    layer->x_input = input;
    layer->x_axis = axis;
}

static const char *weight_only(struct mpq_layer *layer, const struct mpq_tensor *w)
{
    layer->is_weight_only = true;
    return mpq_shape_count(&w->shape) < MIN_WEIGHT_ONLY ? "its weight is small" : NULL;
}

/* ---- convolutions ---- */

static const char *read_conv(const struct mpq_node *node, const struct mpq_tensor *w,
                             struct mpq_layer *layer)
{
    if (w->shape.rank < 3)
        return "its weight has fewer than three dimensions";
    set_channel_axis(layer, &w->shape, 0);
    set_input(layer, node, 0, 1);
    layer->n_group = mpq_attr_int(&node->attr_set, "group", 1);
    layer->is_depthwise = w->shape.dim[1] == 1 && layer->n_group > 1;
    return NULL;
}

/* [C,M/G,k...]. With groups, an output channel is no one index of the weight, and scales go by
 * input channels instead, which for depthwise layers is the same. */
static const char *read_conv_transpose(const struct mpq_node *node, const struct mpq_tensor *w,
                                       struct mpq_layer *layer)
{
    if (w->shape.rank < 3)
        return "its weight has fewer than three dimensions";
    int64_t group = mpq_attr_int(&node->attr_set, "group", 1);
    set_channel_axis(layer, &w->shape, group == 1);
    set_input(layer, node, 0, 1);
    layer->n_group = group == 1 ? 1 : layer->n_channel;
    layer->is_depthwise = w->shape.dim[1] == 1 && group > 1;
    return weight_only(layer, w);
}

/* ---- matrix products ---- */

static const char *read_gemm(const struct mpq_node *node, const struct mpq_tensor *w,
                             struct mpq_layer *layer)
{
    if (w->shape.rank != 2)
        return "its weight is not a matrix";
    bool is_transposed = mpq_attr_int(&node->attr_set, "transB", 0) != 0;
    bool x_is_transposed = mpq_attr_int(&node->attr_set, "transA", 0) != 0;
    set_channel_axis(layer, &w->shape, !is_transposed);
    set_input(layer, node, 0, !x_is_transposed);
    return x_is_transposed ? weight_only(layer, w) : NULL;
}

static const char *read_gemm_left(const struct mpq_node *node, const struct mpq_tensor *w,
                                  struct mpq_layer *layer)
{
    if (w->shape.rank != 2)
        return "its weight is not a matrix";
    set_channel_axis(layer, &w->shape, mpq_attr_int(&node->attr_set, "transA", 0) != 0);
    set_input(layer, node, 1, mpq_attr_int(&node->attr_set, "transB", 0) != 0);
    return weight_only(layer, w);
}

/* [...,K,N]. A stack of matrices meets a stack of inputs, of which nothing is known. */
static const char *read_matmul(const struct mpq_node *node, const struct mpq_tensor *w,
                               struct mpq_layer *layer)
{
    if (w->shape.rank < 2)
        return "its weight is not a matrix";
    set_channel_axis(layer, &w->shape, w->shape.rank - 1);
    if (w->shape.rank > 2)
        return weight_only(layer, w);
    set_input(layer, node, 0, -1);
    return NULL;
}

static const char *read_matmul_left(const struct mpq_node *node, const struct mpq_tensor *w,
                                    struct mpq_layer *layer)
{
    if (w->shape.rank < 2)
        return "its weight is not a matrix";
    set_channel_axis(layer, &w->shape, w->shape.rank - 2);
    if (w->shape.rank == 2)
        set_input(layer, node, 1, -2);
    return weight_only(layer, w);
}

/* The constant operand of "bhij,jk->bhik": a scale for each index of its longest dimension that the
 * output has too. */
static const char *read_einsum(const struct mpq_node *node, const struct mpq_tensor *w,
                               struct mpq_layer *layer)
{
    const char *equation = mpq_attr_string(&node->attr_set, "equation", "");
    const char *comma = strchr(equation, ','), *arrow = strstr(equation, "->");
    if (!comma || !arrow || strchr(comma + 1, ',') || strchr(equation, '.'))
        return "its equation is not of the form a,b->c";
    bool is_first = node->in[0] == layer->weight;
    int axis = -1, d = 0;
    for (const char *c = is_first ? equation : comma + 1; c < (is_first ? comma : arrow); c++) {
        if (*c == ' ')
            continue;
        if (strchr(arrow, *c) && d < w->shape.rank &&
            (axis < 0 || w->shape.dim[d] > w->shape.dim[axis]))
            axis = d;
        d++;
    }
    if (axis < 0 || d != w->shape.rank)
        return "its equation sums over the whole weight";
    set_channel_axis(layer, &w->shape, axis);
    return weight_only(layer, w);
}

/* ---- recurrent ---- */

/* [D,G*H,I]: a scale for each row of a gate. W sees x, whose last dimension it sums over. */
static const char *read_recurrent_w(const struct mpq_node *node, const struct mpq_tensor *w,
                                    struct mpq_layer *layer)
{
    if (w->shape.rank != 3)
        return "its weight is not of rank 3";
    set_view(layer, 1, w->shape.dim[0] * w->shape.dim[1], w->shape.dim[2]);
    set_input(layer, node, 0, 2);
    return weight_only(layer, w);
}

/* R sees the state of its direction: the outputs of all steps where there are any, of shape
 * [S,D,B,H] or, with layout 1, [B,S,D,H]; else the initial state, [D,B,H] or [B,D,H]. */
static const char *read_recurrent_r(const struct mpq_node *node, const struct mpq_tensor *w,
                                    struct mpq_layer *layer)
{
    enum { INITIAL_H = 5 };
    if (w->shape.rank != 3)
        return "its weight is not of rank 3";
    int is_batch_first = mpq_attr_int(&node->attr_set, "layout", 0) != 0;
    set_view(layer, 1, w->shape.dim[0] * w->shape.dim[1], w->shape.dim[2]);
    layer->n_group = w->shape.dim[0];
    if (node->n_out > 0 && node->out[0] != MPQ_NO_VALUE) {
        layer->x = node->out[0];
        layer->x_axis = 3;
        layer->x_group_axis = is_batch_first ? 2 : 1;
    } else if (node->n_in > INITIAL_H && node->in[INITIAL_H] != MPQ_NO_VALUE) {
        set_input(layer, node, INITIAL_H, 2);
        layer->x_group_axis = is_batch_first;
    }
    return weight_only(layer, w);
}

/* ---- tables ---- */

/* What a weight costs: the bits of its share in a scale, and those that equal steps take to be
 * equally fine where channels differ in size: half the logarithm of the mean squared step. */
static double price(const struct mpq_layer *layer, const struct mpq_tensor *w)
{
    const mpq_real *data = w->data;
    double sum = 0;
    for (int64_t c = 0; c < layer->n_channel; c++) {
        double most = 0;
        for (int64_t o = 0; o < layer->n_outer; o++) {
            const mpq_real *run = data + (o * layer->n_channel + c) * layer->n_inner;
            for (int64_t i = 0; i < layer->n_inner; i++)
                most = fmax(most, fabs((double)run[i]));
        }
        sum += most * most / (double)layer->n_channel;
    }
    double scale_bits = 16.0 / (double)(layer->n_outer * layer->n_inner);
    return scale_bits + 0.5 * log2(sum > 0 ? sum : 1);
}

/* A scale for each row that is looked up, or for each column, whichever is cheaper. */
static const char *read_table(const struct mpq_node *node, const struct mpq_tensor *w,
                              struct mpq_layer *layer)
{
    int rank = w->shape.rank, axis = (int)mpq_attr_int(&node->attr_set, "axis", 0);
    axis = axis < 0 ? axis + rank : axis;
    if (rank < 2 || axis < 0 || axis >= rank)
        return "its table has fewer than two dimensions";
    set_channel_axis(layer, &w->shape, axis);
    if (mpq_shape_count(&w->shape) == 0)
        return NULL;
    struct mpq_layer by_column = *layer;
    set_channel_axis(&by_column, &w->shape, axis == rank - 1 ? 0 : rank - 1);
    if (price(&by_column, w) < price(layer, w))
        *layer = by_column;
    return weight_only(layer, w);
}

/* ---- the table ---- */

static const struct mpq_layer_weight weights[] = {
    {"Conv", 1, "", read_conv},          {"ConvTranspose", 1, "", read_conv_transpose},
    {"Gemm", 1, "", read_gemm},          {"Gemm", 0, "", read_gemm_left},
    {"MatMul", 1, "", read_matmul},      {"MatMul", 0, "", read_matmul_left},
    {"Einsum", 1, "", read_einsum},      {"Einsum", 0, "", read_einsum},
    {"LSTM", 1, ".W", read_recurrent_w}, {"LSTM", 2, ".R", read_recurrent_r},
    {"GRU", 1, ".W", read_recurrent_w},  {"GRU", 2, ".R", read_recurrent_r},
    {"RNN", 1, ".W", read_recurrent_w},  {"RNN", 2, ".R", read_recurrent_r},
    {"Gather", 0, "", read_table},
};

const struct mpq_layer_weight *mpq_layer_weight_next(const struct mpq_node *node,
                                                     const struct mpq_layer_weight *from)
{
    for (const struct mpq_layer_weight *row = from ? from + 1 : weights;
         row < weights + MPQ_COUNT(weights); row++)
        if (mpq_node_is(node, row->op_type))
            return row;
    return NULL;
}
