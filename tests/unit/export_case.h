/* What tests of exporting start from: a graph with codes for its layers and quantized activations,
 * and a way there and back. */
#ifndef MPQ_TESTS_EXPORT_CASE_H
#define MPQ_TESTS_EXPORT_CASE_H

#include "exporter/export.h"
#include "tests/unit/net.h"

/* Everything an export needs, made for the graph of a net. */
struct export_case {
    struct net *net;
    struct mpq_graph *graph;
    struct mpq_layer_table layers;
    struct mpq_act_plan act;
    struct mpq_export_plan plan;
    struct mpq_layer_code *code;
    uint8_t *bits;
};

/* Random levels and codes of that width for layer l, biases as in the graph. */
void export_code_layer(struct export_case *c, uint32_t l, int bits);
void export_code_layers(struct export_case *c, int bits); /* all */

void export_case_init(struct export_case *c, struct net *net);

void export_stay_float(struct export_case *c);

/* Export, compare with the predicted size, read back. */
struct mpq_graph *export_round_trip(struct export_case *c);

/* Another target, with activations in its form. */
void export_aim(struct export_case *c, const char *target);

/* The value of input i of the node that has that name, computed by our own operators. */
const struct mpq_tensor *export_constant_input(struct export_case *c, const struct mpq_graph *graph,
                                               const char *node, uint32_t i);

/* Weights, and biases within float16 and one step, are what the codes say. */
void export_check_layers(struct export_case *c, const struct mpq_graph *graph);

/* MatMuls l0, l1, ... by weights of size[l] x size[l + 1], one after the other. */
void export_build_chain(struct net *net, const int64_t *size, size_t n);

/* conv (135 weights, odd) -> Relu -> conv -> Flatten -> Gemm -> MatMul */
void export_build_small(struct net *net);

/* table (odd count) -> GRU of two directions -> MatMul from the left -> ConvTranspose, with a
 * MatMul that shares the table: all weight-only. */
void export_build_weight_only(struct net *net);

#endif
