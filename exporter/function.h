/* Runs of nodes that a file has many times, said once: as local functions (ModelProto.functions),
 * which loading writes out again. A convolution with the DequantizeLinear of its weight and bias
 * and the pair behind it takes 250 bytes, its call 60. */
#ifndef MPQ_EXPORTER_FUNCTION_H
#define MPQ_EXPORTER_FUNCTION_H

#include "exporter/build.h"

/* The IR version that has functions. ONNX Runtime writes calls out before it fuses operators from
 * 1.17 on. */
#define MPQ_FUNCTION_IR_VERSION 8

#define MPQ_NO_OWN SIZE_MAX

/* Nodes that stand next to each other in the graph under construction. */
struct mpq_run {
    size_t first, end; /* in build->node                                                    */
    size_t own;        /* the one whose name a call has; what is before and behind serves it;
                          MPQ_NO_OWN: there is none */
    const char **out;  /* names of what others may read: made in the run, or not             */
    size_t n_out;
};

struct mpq_functions {
    Onnx__FunctionProto **function;
    size_t n;
    const char *domain;
};

/* Replace runs by calls where that pays, whole or from behind `own` on; runs are disjoint and in
 * order, and none has a body inside a node. Functions are written in `opset` of ai.onnx; their
 * domain is none of the n_taken. In the importer's terms (importer/function.h) the node that has
 * its function's name gets that of the call, so nothing is lost but names of inner values. */
enum mpq_status mpq_write_functions(struct mpq_build *build, int64_t opset,
                                    Onnx__OperatorSetIdProto *const *taken, size_t n_taken,
                                    const struct mpq_run *run, size_t n_run,
                                    struct mpq_functions *out) MPQ_CHECKED;

#endif
