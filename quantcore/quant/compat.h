/* What runtimes make of quantized ONNX files, as data: which release reads which opset and element
 * type, what a runtime other than ONNX Runtime demands, and the rules of `onnx-mpq lint`. Whoever
 * writes files for a runtime reads the same tables. */
#ifndef MPQ_QUANT_COMPAT_H
#define MPQ_QUANT_COMPAT_H

#include "quantcore/ir/dtype.h"

#include <stdint.h>

/* ---- versions ---- */

/* The IR version that goes with an opset of ai.onnx (onnx/docs/Versioning.md). */
int64_t mpq_compat_ir_version_of(int64_t opset);

/* The first opset of ai.onnx, 13 at least, whose QuantizeLinear and DequantizeLinear have the type,
 * and whose scales may run along an axis. */
int64_t mpq_compat_opset_of(enum mpq_dtype dtype);

/* Releases of ONNX Runtime that read more than the one before, oldest first. */
struct mpq_ort_release {
    const char *version;
    int64_t opset, ir_version; /* the highest it reads */
    int narrowest;             /* bits of its narrowest integers: 8, 4 or 2                  */
    enum mpq_functions_read {
        MPQ_NO_FUNCTIONS,
        MPQ_FUNCTIONS_LATE, /* written out when operators around them have been fused already */
        MPQ_FUNCTIONS_FIRST
    } functions; /* local ones */
};
const struct mpq_ort_release *mpq_ort_release_at(size_t i); /* NULL past the last */

/* ---- runtimes ---- */

/* A bit a runtime: whom a rule concerns, who is to read a file. */
enum mpq_reader {
    MPQ_FOR_ONNXRUNTIME = 1, /* its CPU build */
    MPQ_FOR_OPENVINO = 2,
    MPQ_FOR_TENSORRT = 4,
    MPQ_FOR_QNN = 8,
    MPQ_FOR_TVM = 16,
    MPQ_FOR_ALL = 31
};

/* Demands of a runtime other than ONNX Runtime, besides that it knows the operators. */
struct mpq_runtime {
    const char *name;
    enum mpq_reader reader;
    bool zero_point_is_zero;     /* all of them                                       */
    bool activations_are_signed; /* no uint8                                          */
    bool weights_are_symmetric;  /* zero point 0 where a scale runs along an axis     */
    bool has_native_only;        /* weights are initializers, not computed at load    */
    int narrowest_weight;        /* bits                                              */
    bool narrow_is_matmul_only;  /* weights below 8 bits in MatMul and Gemm only      */
    bool has_blocks, has_int16;  /* scales by block; 16-bit activations               */
    bool has_functions;          /* local ones                                        */
};
const struct mpq_runtime *mpq_runtime_at(size_t i); /* NULL past the last */

/* ---- rules ---- */

enum mpq_severity { MPQ_NOTE, MPQ_WARNING, MPQ_ERROR };

/* One rule of lint_rules.inc. */
struct mpq_lint_rule {
    const char *id;
    enum mpq_severity severity;
    unsigned readers;     /* those whom it concerns, of enum mpq_reader   */
    const char *pattern;  /* what is in the file                          */
    const char *effect;   /* what that does                               */
    const char *versions; /* where it has been seen; NULL: everywhere     */
    const char *remedy;   /* NULL: none needed                            */
};

enum mpq_lint_rule_id {
#define MPQ_RULE(symbol, ...) MPQ_RULE_##symbol,
#include "quantcore/quant/lint_rules.inc"
#undef MPQ_RULE
    MPQ_N_RULE
};

const struct mpq_lint_rule *mpq_lint_rule_at(enum mpq_lint_rule_id id);
const char *mpq_severity_name(enum mpq_severity severity); /* "note", "warning", "error" */

#endif
