/* What is quantized, as plain records that the stages hand to each other: the layer table (weights)
 * and the activation plan (values), and their results. Built by quantcore/pass, filled by
 * calibration and the supernet, read by search and exporter. */
#ifndef MPQ_QUANT_LAYER_H
#define MPQ_QUANT_LAYER_H

#include "quantcore/ir/graph.h"

#define MPQ_MIN_BITS 2
#define MPQ_MAX_BITS 8
#define MPQ_N_BITS   (MPQ_MAX_BITS + 1) /* length of tables indexed by width */

/* A layer: a node with a constant weight that can be stored with few bits. A view, not IR. The
 * weight, in its own element order, is w[n_outer][n_channel][n_inner], with one scale a channel:
 * Conv [M,C/G,kH,kW] is 1 x M x C/G*kH*kW; MatMul [K,N] is K x N x 1; Gemm transB 1 x N x K. */
struct mpq_layer {
    const char *name;          /* of the node, or of its output where it has none           */
    mpq_node_id node;          /* in the graph the table was built for                      */
    mpq_value_id weight, bias; /* bias NO_VALUE: none                                       */
    mpq_value_id x, y;         /* data input; output after the activation fused into the
                                  layer (Relu, Clip), else the node's own output            */
    int64_t n_outer, n_channel, n_inner;
    int64_t n_group;   /* channels c of one n_channel / n_group read the same inputs; 1 unless the
                          layer is a grouped convolution */
    int64_t n_param;   /* elements of the weight: the product of the three          */
    uint64_t macs;     /* of one sample                                             */
    bool is_depthwise; /* Conv with one input channel a group and more than 1 group */
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

/* What calibration saw at a layer of the float model. */
struct mpq_layer_stats {
    /* Mean and mean square of the input that each weight of an output channel multiplies, [n_group,
     * n_outer * n_inner]: the mean square is the diagonal of the layer's Hessian up to a factor.
     * Zero padding is not counted. */
    mpq_real *input_mean, *input_power;
    double output_power; /* mean square of the layer's output, > 0 */
};

/* Which float values are quantized. Values of one group share scale and zero point, because an
 * operator between them only moves or selects elements (MaxPool, Reshape, Concat, ...). */
#define MPQ_NO_GROUP UINT32_MAX
struct mpq_act_plan {
    uint32_t *group; /* [n_value], NO_GROUP: stays float                        */
    bool *lossless;  /* [n_value] its producer only moved elements already quantized in its
                        group, so quantizing it again changes nothing           */
    uint32_t n_group;
};

/* Affine quantization of an activation: q = saturate(rint(x / scale) + zero_point) in
 * [0, 2^bits - 1], rint to even. As ONNX QuantizeLinear to an unsigned type; a signed type with
 * zero point 0 is the same arithmetic as zero point 2^(bits - 1) here. */
struct mpq_act_quant {
    float scale; /* > 0 */
    int zero_point, bits;
};

/* What a runtime wants of every activation. */
struct mpq_act_form {
    int bits;          /* 2..8, or 16                     */
    bool is_symmetric; /* zero point 2^(bits - 1), always */
};

/* Channel scales are stored with 16 bits, as bfloat16: the nearest such number, to be taken before
 * weights are rounded to levels. Idempotent. */
static inline float mpq_scale_round(float scale)
{
    union {
        float f;
        uint32_t u;
    } bits = {scale};
    uint32_t odd = bits.u >> 16 & 1;
    bits.u = (bits.u + 0x7fff + odd) & 0xffff0000;
    return bits.f;
}

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
