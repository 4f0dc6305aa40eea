/* What is quantized, as plain records that the stages hand to each other: the layer table (weights)
 * and the activation plan (values), and their results. Built by quantcore/pass, filled by
 * calibration and the supernet, read by search and exporter. */
#ifndef MPQ_QUANT_LAYER_H
#define MPQ_QUANT_LAYER_H

#include "quantcore/ir/graph.h"

#define MPQ_MIN_BITS 2
#define MPQ_MAX_BITS 8
#define MPQ_N_BITS   (MPQ_MAX_BITS + 1) /* length of tables indexed by width */

/* A layer: a constant weight that can be stored with few bits, and the node that reads it. A view,
 * not IR. The weight, in its own element order, is w[n_outer][n_channel][n_inner], with one scale a
 * channel: Conv [M,C/G,kH,kW] is 1 x M x C/G*kH*kW; MatMul [K,N] is K x N x 1; Gemm transB 1 x N x
 * K; W and R of LSTM, GRU and RNN [D,4H,I] 1 x D*4H x I.
 *
 * Only plain products have integer kernels. Other layers are weight-only: their weight becomes
 * float when the model is loaded, their inputs and outputs are not quantized on their account, and
 * `bias` is NO_VALUE: it stays as it is; unless the layer is a plain product that is left float
 * (mpq_layers_leave_float). A node may have two layers (W and R), and a weight-only layer several
 * nodes, of which this is the first. */
struct mpq_layer {
    const char *name;          /* of the node, or of its output where it has none           */
    mpq_node_id node;          /* in the graph the table was built for; ascending           */
    mpq_value_id weight, bias; /* bias NO_VALUE: none                                       */
    mpq_value_id x, y;         /* what the weight is multiplied with, NO_VALUE where that is
                                  no value of the graph; output after the activation fused into
                                  the layer (Relu, Clip), else the node's own output        */
    int x_input;      /* the input of the node that x is; -1: x is no input                   */
    int x_axis;       /* the dimension of x that the weight sums over; < 0: from the end       */
    int x_group_axis; /* the dimension of x along which groups differ; -1: consecutive runs of
                         x_axis do, as in a grouped convolution                               */
    bool is_weight_only;
    int64_t n_outer, n_channel, n_inner;
    int64_t n_group;   /* channels c of one n_channel / n_group read the same inputs: the groups of
                          a convolution, the directions of R; else 1 */
    int64_t n_param;   /* elements of the weight: the product of the three          */
    uint64_t macs;     /* of one sample                                             */
    bool is_depthwise; /* Conv with one input channel a group and more than 1 group */
    int scale_steps;   /* of an octave, of scales stored as bytes; 0: bfloat16 (see scale.h)  */
    bool keeps_scales; /* rounding takes those that were found before, and no others          */
};

struct mpq_layer_table {
    uint32_t n_layer;
    struct mpq_layer *layer;
    uint32_t n_rejected; /* nodes with parameters that stay float, and why            */
    struct mpq_rejected_layer {
        mpq_node_id node;
        const char *reason;
    } * rejected;
};

/* The input x of a layer seen as x[outer][group][middle][n][inner], of which the n values at one
 * (outer, group, middle, inner) meet the weights of one output. */
struct mpq_layer_input {
    int64_t outer, group, middle, n, inner;
};

static inline struct mpq_layer_input mpq_layer_input(const struct mpq_layer *layer,
                                                     const struct mpq_shape *x)
{
    int axis = layer->x_axis < 0 ? layer->x_axis + x->rank : layer->x_axis;
    int group = layer->x_group_axis;
    bool is_grouped = group >= 0;
    axis = axis < 0 ? 0 : axis; /* a vector, seen as a column */
    return (struct mpq_layer_input){.outer = mpq_shape_count_range(x, 0, is_grouped ? group : axis),
                                    .group = is_grouped ? x->dim[group] : 1,
                                    .middle =
                                        is_grouped ? mpq_shape_count_range(x, group + 1, axis) : 1,
                                    .n = x->dim[axis],
                                    .inner = mpq_shape_count_range(x, axis + 1, x->rank)};
}

/* Where the weight lies that input i of n_outer * n_inner meets for output channel c. */
static inline int64_t mpq_layer_weight_index(const struct mpq_layer *layer, int64_t c, int64_t i)
{
    return (i / layer->n_inner * layer->n_channel + c) * layer->n_inner + i % layer->n_inner;
}

/* What calibration saw at a layer of the float model. */
struct mpq_layer_stats {
    /* Mean and mean square of the input that each weight of an output channel multiplies, [n_group,
     * n_outer * n_inner]: the mean square is the diagonal of the layer's Hessian up to a factor.
     * Zero padding is not counted. NULL where the layer has no x. */
    mpq_real *input_mean, *input_power;
    double output_power; /* mean square of the layer's output, > 0 */
};

/* Which float values are quantized. Values of one group share scale and zero point, because an
 * operator between them only moves or selects elements (MaxPool, Reshape, Concat, ...). */
#define MPQ_NO_GROUP UINT32_MAX
struct mpq_act_plan {
    uint32_t n_value; /* of the graph it is for; copies of that may have more, which stay float */
    uint32_t *group;  /* [n_value], NO_GROUP: stays float                        */
    bool *lossless;   /* [n_value] its producer only moved elements already quantized in its
                         group, so quantizing it again changes nothing           */
    /* [n_node] a quantization that input 0 of this node alone goes through on its way from the
     * value to the node, NO_GROUP: none; NULL: no node has one. */
    uint32_t *own_group;
    uint32_t n_group;
};

/* The group of the form in which a node reads v as its input 0. */
static inline uint32_t mpq_act_plan_input(const struct mpq_act_plan *plan, mpq_node_id node,
                                          mpq_value_id v)
{
    uint32_t own = plan->own_group ? plan->own_group[node] : MPQ_NO_GROUP;
    return own != MPQ_NO_GROUP ? own : plan->group[v];
}

/* Affine quantization of an activation: q = saturate(rint(x / scale) + zero_point) in
 * [0, 2^bits - 1], rint to even. As ONNX QuantizeLinear to an unsigned type; a signed type with
 * zero point 0 is the same arithmetic as zero point 2^(bits - 1) here. */
struct mpq_act_quant {
    float scale;          /* > 0 */
    int zero_point, bits; /* bits 0, in FakeQuant nodes alone: x stays as it is */
};

/* What a runtime wants of every activation. */
struct mpq_act_form {
    int bits;          /* 2..8, or 16                     */
    bool is_symmetric; /* zero point 2^(bits - 1), always */
    bool is_min_max;   /* all that was seen, not what represents it best */
    double cut_weight; /* what squared errors of values beyond the range count; 0: as any other */
};

/* A layer's weights as they will be stored: w = q * scale of its channel, q one of the levels. */
struct mpq_layer_code {
    int bits;
    uint32_t n_level;    /* <= 2^bits                                              */
    const int8_t *level; /* [n_level] ascending, distinct, -127..127               */
    const int8_t *q;     /* [n_param] each a level, in the weight's element order  */
    const float *scale;  /* [n_channel] > 0, mpq_scale_round()ed: the exporter does it again */
    const float *bias;   /* [n_channel], or NULL where the layer has none          */
};

#endif
