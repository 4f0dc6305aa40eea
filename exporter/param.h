/* What a layer has one of per channel: weight scales at a byte or two (quantcore/quant/scale.h) and
 * biases at two. Those of all layers lie in one tensor of a kind, which is cast and split when the
 * file is loaded:
 *
 *   scales  uint8    -> Cast -> Mul -> Add -> Pow(2, .) -> Split
 *           bfloat16 -> Cast -> Split
 *   biases  float16  -> Cast -> Split                          where the layer's input is float
 *           float16  -> Cast -> Mul 2^15 -> Cast int32 -> Split        where it is quantized
 *   zeros   int8, a scalar -> Expand                           where the weight's kernel wants them
 */
#ifndef MPQ_EXPORTER_PARAM_H
#define MPQ_EXPORTER_PARAM_H

#include "exporter/build.h"
#include "quantcore/quant/layer.h"

enum mpq_param_form {
    MPQ_PARAM_SHORT,     /* as above                                           */
    MPQ_PARAM_LONG_BIAS, /* biases beyond float16: initializers of 32 bits     */
    MPQ_PARAM_PLAIN      /* nothing is computed at load: initializers only     */
};

struct mpq_param {
    const struct mpq_layer *layer;
    float x_scale;       /* of the quantized data input; 0: that is float                      */
    float *scale, *bias; /* [n_channel] as the file has them; NULL where only measured         */
    const int8_t *q;     /* the weights in these scales                                        */
    int8_t *own_q;       /* that, where it is not the layer code's; else NULL                  */
    bool is_short;       /* biases are kept in float16                                         */
    bool has_zero;       /* there is a zero point a channel, which is 0                        */
    const char *scale_name, *bias_name, *bias_scale_name; /* NULL: see mpq_param_write()       */
    const char *zero_name;                                /* NULL: there is none               */
};

/* Round scales and bias to what the file holds. A channel whose weights are next to nothing beside
 * its bias (batch norm leaves such channels) has a scale in whose units the bias exceeds an int32,
 * or that is no normal number once multiplied. Its scale grows until both are right; the weights
 * lose precision that is far below the bias's. */
enum mpq_status mpq_param_init(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               const struct mpq_layer *layer, const struct mpq_layer_code *code,
                               float x_scale, bool is_short, struct mpq_param *out) MPQ_CHECKED;

/* Raise scales that a byte cannot have beside the largest of all layers; code, param [n_layer]. */
enum mpq_status mpq_param_join(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               const struct mpq_layer_code *code, struct mpq_param *param,
                               uint32_t n_layer) MPQ_CHECKED;

/* Biases that become integers: what they are once dequantized. */
void mpq_param_settle(struct mpq_param *param);

/* Write the tensors of all layers and store their names. Biases are integers where x_scale is
 * positive; the scale of these, x_scale times scales, is left to who reads them (bias_scale_name
 * NULL) but where nothing may be computed at load. */
enum mpq_status mpq_param_write(struct mpq_build *build, enum mpq_param_form form,
                                struct mpq_param *param, uint32_t n_layer) MPQ_CHECKED;

#endif
