/* Who will run the file. What differs between runtimes is data: a row of target_list.inc. */
#ifndef MPQ_EXPORTER_TARGET_H
#define MPQ_EXPORTER_TARGET_H

#include "quantcore/quant/compat.h"
#include "quantcore/quant/layer.h"

struct mpq_target {
    const char *name;
    unsigned readers; /* who reads its files, of enum mpq_reader                           */
    int64_t opset;    /* lowest; element types raise it (mpq_target_opset_of)               */
    bool folds; /* the runtime computes constants when it loads a file, so weights of fewer than
                   8 bits come as a storage program (storage.h), at their true size; else they
                   are initializers of the types below and nothing is computed at load */
    bool has_functions; /* it writes calls of local functions out before it fuses operators       */
    /* Element type of a weight that is an initializer, by width. int8 takes any levels within
     * -127..127; int4 and int2 mean that the levels of the width are the integers of that many bits
     * (mpq_levels_integers). */
    enum mpq_dtype container[MPQ_N_BITS];
    struct mpq_act_form act; /* symmetric: written as a signed type with zero point 0          */
    bool adds_bias;          /* a convolution's bias is an Add behind it                   */
    bool folds_recurrent;    /* weights of LSTM, GRU and RNN are spelled so that they become float
                                constants, where a DequantizeLinear would stay                  */
    bool is_closed;          /* whatever a layer reads or makes is quantized: float operators are
                                slow there, or refused                                           */
    bool has_float_bias;     /* else int32 in units of input scale times weight scale          */
};

/* NULL: no such target. */
const struct mpq_target *mpq_target_find(const char *name);
size_t mpq_target_count(void);
const struct mpq_target *mpq_target_at(size_t i);

/* The names of all, "a|b|c". */
#define MPQ_TARGET_NAMES "ort|int8|onnx|openvino|tensorrt|qnn|qnn16"

/* Widths whose levels are the integers of a signed type, bit b for width b. */
uint16_t mpq_target_integer_widths(const struct mpq_target *target);

/* The type that a layer's weight of that width gets as an initializer. That of the row, unless
 * ONNX Runtime mishandles it there, which is known for int2 (the names are those of README.md):
 *   L1  beside quantized activations it refuses to load the file
 *   L5  its kernel is wrong where the last dimension is no multiple of 4
 * and int4 takes its place. */
enum mpq_dtype mpq_target_container(const struct mpq_target *target, int bits,
                                    bool has_quantized_input, int64_t last_dim);

/* The first opset of ai.onnx whose QuantizeLinear and DequantizeLinear have the type, and the IR
 * version that goes with an opset. */
int64_t mpq_target_opset_of(enum mpq_dtype dtype);
int64_t mpq_target_ir_version_of(int64_t opset);

#endif
