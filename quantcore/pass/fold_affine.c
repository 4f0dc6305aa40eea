/* What follows a layer and is y = scale * x + shift in each channel becomes part of its weight and
 * bias: inference BatchNormalization, and Add, Sub, Mul, Div with a constant that has one value a
 * channel. Computed in double, rounded once. */
#include "quantcore/pass/edit.h"

#include <math.h>

/* A Conv, ConvTranspose, Gemm or MatMul with a constant weight. */
struct layer {
    struct mpq_node *node;
    const struct mpq_tensor *weight;
    int64_t n_channel;
    int64_t per_group, in_per_group; /* ConvTranspose: outputs and inputs of a group, else 0    */
    int64_t n_inner; /* elements of the weight before the channel changes: w[..][channel][inner] */
    int rank, axis;  /* of the output; rank unknown for a MatMul whose input's rank is          */
    bool is_gemm, is_matmul;
    double beta; /* of Gemm, else 1 */
};

struct affine {
    double *scale, *shift; /* [n_channel] */
    bool has_scale, has_shift;
    mpq_value_id name; /* the constant whose name the bias may take, or NO_VALUE */
};

static bool match_layer(const struct mpq_edit *edit, struct mpq_node *node, struct layer *out)
{
    struct layer layer = {.node = node, .beta = 1};
    if (!node || node->n_out != 1 || node->n_in < 2)
        return false;
    layer.weight = mpq_edit_constant(edit, node->in[1]);
    if (!layer.weight || layer.weight->dtype != MPQ_FLOAT || node->in[0] == MPQ_NO_VALUE ||
        mpq_shape_count(&layer.weight->shape) == 0)
        return false;
    const struct mpq_shape *w = &layer.weight->shape;
    layer.rank = w->rank;
    layer.axis = 1;
    if (mpq_node_is(node, "Conv") && w->rank >= 3) {
        layer.n_channel = w->dim[0];
        layer.n_inner = mpq_shape_count_range(w, 1, w->rank);
    } else if (mpq_node_is(node, "ConvTranspose") && w->rank >= 3) {
        int64_t group = mpq_attr_int(&node->attr_set, "group", 1);
        if (group < 1 || w->dim[0] % group != 0)
            return false;
        layer.per_group = w->dim[1];
        layer.in_per_group = w->dim[0] / group;
        layer.n_channel = w->dim[1] * group;
        layer.n_inner = mpq_shape_count_range(w, 2, w->rank);
    } else if (mpq_node_is(node, "Gemm") && w->rank == 2) {
        bool is_transposed = mpq_attr_int(&node->attr_set, "transB", 0) != 0;
        layer.is_gemm = true;
        layer.n_channel = w->dim[is_transposed ? 0 : 1];
        layer.n_inner = is_transposed ? w->dim[1] : 1;
        layer.beta = (double)mpq_attr_float(&node->attr_set, "beta", 1.0f);
    } else if (mpq_node_is(node, "MatMul") && w->rank == 2) {
        layer.is_matmul = true;
        layer.n_channel = w->dim[1];
        layer.n_inner = 1;
        layer.rank = edit->value[mpq_edit_resolve(edit, node->in[0])].shape.rank;
        if (layer.rank == 1)
            return false;
        layer.axis = layer.rank - 1;
    } else {
        return false;
    }
    *out = layer;
    return true;
}

/* The channel that element i of the weight adds to. */
static int64_t channel_of(const struct layer *layer, int64_t i)
{
    i /= layer->n_inner;
    if (!layer->per_group)
        return i % layer->n_channel;
    int64_t input = i / layer->per_group;
    return input / layer->in_per_group * layer->per_group + i % layer->per_group;
}

/* Whether a constant of this shape, broadcast against the layer's output, has one value a channel
 * (or one for all) and does not make the output larger. */
static bool is_per_channel(const struct layer *layer, const struct mpq_tensor *constant)
{
    const struct mpq_shape *shape = &constant->shape;
    int64_t count = mpq_shape_count(shape);
    if (constant->dtype != MPQ_FLOAT || (count != 1 && count != layer->n_channel))
        return false;
    if (layer->rank == MPQ_RANK_UNKNOWN)
        return shape->rank == 0 || (shape->rank == 1 && layer->is_matmul);
    if (shape->rank > layer->rank)
        return false;
    int axis = layer->axis - (layer->rank - shape->rank); /* of the constant */
    return count == 1 || (axis >= 0 && shape->dim[axis] == count);
}

static enum mpq_status alloc_affine(struct mpq_edit *edit, int64_t n, struct affine *out)
{
    struct affine affine = {.name = MPQ_NO_VALUE};
    affine.scale = mpq_arena_alloc(edit->ctx, edit->arena, n, sizeof *affine.scale);
    affine.shift = mpq_arena_alloc(edit->ctx, edit->arena, n, sizeof *affine.shift);
    if (!affine.scale || !affine.shift)
        return MPQ_E_NOMEM;
    for (int64_t c = 0; c < n; c++)
        affine.scale[c] = 1;
    *out = affine;
    return MPQ_OK;
}

static enum mpq_status read_batchnorm(struct mpq_edit *edit, const struct mpq_node *node,
                                      const struct layer *layer, struct affine *out, bool *out_ok)
{
    *out_ok = false;
    if (node->n_in != 5 || mpq_attr_int(&node->attr_set, "training_mode", 0) != 0)
        return MPQ_OK;
    for (uint32_t i = 1; i < node->n_out; i++)
        if (node->out[i] != MPQ_NO_VALUE)
            return MPQ_OK;
    const struct mpq_tensor *p[5] = {NULL}; /* -, scale, bias, mean, variance */
    for (uint32_t i = 1; i < 5; i++) {
        p[i] = mpq_edit_constant(edit, node->in[i]);
        if (!p[i] || p[i]->dtype != MPQ_FLOAT || mpq_shape_count(&p[i]->shape) != layer->n_channel)
            return MPQ_OK;
    }
    if (layer->is_matmul && layer->rank != 2) /* there, channels are not the last axis */
        return MPQ_OK;
    double epsilon = (double)mpq_attr_float(&node->attr_set, "epsilon", 1e-5f);
    MPQ_TRY(alloc_affine(edit, layer->n_channel, out));
    for (int64_t c = 0; c < layer->n_channel; c++) {
        out->scale[c] = mpq_tensor_double(p[1], c) / sqrt(mpq_tensor_double(p[4], c) + epsilon);
        out->shift[c] = mpq_tensor_double(p[2], c) - mpq_tensor_double(p[3], c) * out->scale[c];
    }
    out->has_scale = out->has_shift = true;
    out->name = node->in[2];
    *out_ok = true;
    return MPQ_OK;
}

/* `side` is the constant's: c - x and c + x are affine, c / x is not. */
static enum mpq_status read_arithmetic(struct mpq_edit *edit, const struct mpq_node *node, int side,
                                       const struct layer *layer, struct affine *out, bool *out_ok)
{
    const struct mpq_tensor *constant = mpq_edit_constant(edit, node->in[side]);
    bool is_add = mpq_node_is(node, "Add"), is_sub = mpq_node_is(node, "Sub");
    bool is_div = mpq_node_is(node, "Div");
    *out_ok = constant && is_per_channel(layer, constant) && !(is_div && side == 0);
    if (!*out_ok)
        return MPQ_OK;
    MPQ_TRY(alloc_affine(edit, layer->n_channel, out));
    bool is_scalar = mpq_shape_count(&constant->shape) == 1;
    for (int64_t c = 0; c < layer->n_channel; c++) {
        double value = mpq_tensor_double(constant, is_scalar ? 0 : c);
        if (is_add || is_sub) {
            out->shift[c] = is_sub && side == 1 ? -value : value;
            out->scale[c] = is_sub && side == 0 ? -1 : 1;
        } else {
            out->scale[c] = is_div ? 1 / value : value;
        }
    }
    out->has_shift = is_add || is_sub;
    out->has_scale = !out->has_shift || (is_sub && side == 0);
    out->name = out->has_shift ? node->in[side] : MPQ_NO_VALUE;
    *out_ok = true;
    return MPQ_OK;
}

/* beta * C as one value a channel added to `bias`; false where C is computed or varies over rows.
 */
static bool read_bias(const struct mpq_edit *edit, const struct layer *layer, double *bias)
{
    mpq_value_id id = mpq_edit_input(edit, layer->node, 2);
    if (id == MPQ_NO_VALUE)
        return true;
    const struct mpq_tensor *constant = mpq_edit_constant(edit, id);
    bool is_plain = constant && constant->dtype == MPQ_FLOAT && constant->shape.rank == 1 &&
                    constant->shape.dim[0] == layer->n_channel;
    if (!is_plain && !(layer->is_gemm && constant && is_per_channel(layer, constant)))
        return false;
    bool is_scalar = mpq_shape_count(&constant->shape) == 1;
    for (int64_t c = 0; c < layer->n_channel; c++)
        bias[c] += layer->beta * mpq_tensor_double(constant, is_scalar ? 0 : c);
    return true;
}

static enum mpq_status scale_weight(struct mpq_edit *edit, const struct layer *layer,
                                    const double *scale, struct mpq_tensor *out)
{
    int64_t n = mpq_shape_count(&layer->weight->shape);
    MPQ_TRY(mpq_tensor_alloc(edit->ctx, edit->arena, MPQ_FLOAT, &layer->weight->shape, out));
    for (int64_t i = 0; i < n; i++)
        mpq_tensor_set_double(out, i,
                              mpq_tensor_double(layer->weight, i) * scale[channel_of(layer, i)]);
    return MPQ_OK;
}

/* Weight and bias of the layer that does what layer and `node` did. */
struct folded {
    struct mpq_tensor weight, bias;
    bool has_bias;
};

/* out_ok false where that is no layer: rows would have different biases, a number overflows. */
static enum mpq_status compute(struct mpq_edit *edit, const struct layer *layer,
                               const struct affine *affine, struct folded *out, bool *out_ok)
{
    int64_t n = layer->n_channel;
    double *sum = mpq_arena_alloc(edit->ctx, edit->arena, n, sizeof *sum);
    if (!sum)
        return MPQ_E_NOMEM;
    out->has_bias = affine->has_shift || mpq_edit_input(edit, layer->node, 2) != MPQ_NO_VALUE;
    *out_ok = !(affine->has_scale && !mpq_edit_is_private(edit, layer->node->in[1])) &&
              !(layer->is_matmul && out->has_bias && layer->rank != 2) &&
              read_bias(edit, layer, sum);
    if (!*out_ok)
        return MPQ_OK;
    MPQ_TRY(mpq_tensor_alloc(edit->ctx, edit->arena, MPQ_FLOAT, &MPQ_SHAPE(n), &out->bias));
    for (int64_t c = 0; c < n; c++)
        mpq_tensor_set_double(&out->bias, c, sum[c] * affine->scale[c] + affine->shift[c]);
    out->weight = *layer->weight;
    if (affine->has_scale)
        MPQ_TRY(scale_weight(edit, layer, affine->scale, &out->weight));
    *out_ok =
        mpq_tensor_find_nonfinite(&out->bias) < 0 && mpq_tensor_find_nonfinite(&out->weight) < 0;
    return MPQ_OK;
}

/* The bias goes to the constant that held one before, else to that of the folded node. */
static enum mpq_status set_bias(struct mpq_edit *edit, const struct layer *layer, mpq_value_id name,
                                const struct mpq_tensor *bias)
{
    struct mpq_node *node = layer->node;
    mpq_value_id old = mpq_edit_input(edit, node, 2), id;
    MPQ_TRY(mpq_edit_new_constant(edit, old != MPQ_NO_VALUE ? old : name, bias, &id));
    MPQ_TRY(mpq_edit_set_inputs(edit, node, 3, (mpq_value_id[]){node->in[0], node->in[1], id}));
    if (layer->beta != 1)
        MPQ_TRY(mpq_edit_set_attr(
            edit, node, &(struct mpq_attr){.name = "beta", .kind = MPQ_ATTR_FLOAT, .f = 1}));
    if (layer->is_matmul) {
        node->op_type = "Gemm";
        node->attr_set = (struct mpq_attr_set){0};
    }
    return MPQ_OK;
}

/* `node`, the layer's only reader, goes, and the layer writes its output. */
static enum mpq_status apply(struct mpq_edit *edit, const struct layer *layer,
                             const struct affine *affine, struct mpq_node *node)
{
    struct folded folded;
    bool is_possible;
    MPQ_TRY(compute(edit, layer, affine, &folded, &is_possible));
    if (!is_possible)
        return MPQ_OK;
    mpq_value_id y = node->out[0], id;
    if (affine->has_scale) {
        MPQ_TRY(mpq_edit_new_constant(edit, layer->node->in[1], &folded.weight, &id));
        MPQ_ASSERT(id == layer->node->in[1]); /* private, so it keeps its name */
    }
    if (folded.has_bias)
        MPQ_TRY(set_bias(edit, layer, affine->name, &folded.bias));
    mpq_edit_remove(edit, node);
    MPQ_TRY(mpq_edit_set_output(edit, layer->node, y));
    return mpq_op_resolve(edit->ctx, edit->arena, layer->node);
}

static enum mpq_status fold_affine(struct mpq_edit *edit, mpq_node_id n)
{
    struct mpq_node *node = &edit->graph->node[n];
    bool is_batchnorm = mpq_node_is(node, "BatchNormalization") && !edit->keep_norms;
    bool is_arithmetic = mpq_node_is(node, "Add") || mpq_node_is(node, "Sub") ||
                         mpq_node_is(node, "Mul") || mpq_node_is(node, "Div");
    if (!(is_batchnorm && node->n_out > 0) &&
        !(is_arithmetic && node->n_in == 2 && node->n_out == 1))
        return MPQ_OK;
    int side = is_arithmetic && mpq_edit_constant(edit, node->in[0]) ? 0 : 1; /* the constant's */
    mpq_value_id x = node->in[is_arithmetic ? 1 - side : 0];
    struct layer layer;
    struct affine affine;
    bool is_affine = false;
    if (x == MPQ_NO_VALUE || !mpq_edit_is_private(edit, x) ||
        !match_layer(edit, mpq_edit_producer(edit, x), &layer))
        return MPQ_OK;
    if (is_batchnorm)
        MPQ_TRY(read_batchnorm(edit, node, &layer, &affine, &is_affine));
    else
        MPQ_TRY(read_arithmetic(edit, node, side, &layer, &affine, &is_affine));
    return is_affine ? apply(edit, &layer, &affine, node) : MPQ_OK;
}

enum mpq_status mpq_fold_affine(struct mpq_edit *edit)
{
    return mpq_edit_sweep(edit, fold_affine);
}
