/* Graph -> graph, and graph -> tables. Each pass returns a new graph that keeps all value ids (see
 * ir/graph.h) and shares tensors with the old one; nobody edits a graph somebody else holds. */
#ifndef MPQ_PASS_PASS_H
#define MPQ_PASS_PASS_H

#include "quantcore/pass/bind.h"
#include "quantcore/quant/layer.h"

/* Everything exact that makes the graph smaller and its layers plain, in a fixed order until
 * nothing changes: Identity and inference Dropout dropped; nodes whose inputs are all constant
 * folded; BatchNormalization folded into the Conv, ConvTranspose or Gemm before it (weights and
 * bias in double); Add of a per-channel constant after Conv, Gemm or MatMul made their bias (MatMul
 * with a constant 2-D right side and such an Add becomes Gemm where its input has rank 2); zero Pad
 * folded into Conv and into AveragePool/MaxPool where exact; pairs of inverse Transposes removed,
 * also across elementwise operators and at Concat/Add joins; dead nodes removed. Graph input and
 * output names and order stay. */
enum mpq_status mpq_simplify(struct mpq_ctx *ctx, struct mpq_arena *arena,
                             const struct mpq_graph *graph, struct mpq_graph **out) MPQ_CHECKED;

/* Make a graph whose inputs fix the first dimension at 1 run at any batch: inputs and outputs of
 * first dimension 1 get an unknown one, constant Reshape targets that begin with 1 copy the input's
 * first dimension instead. The result is a guess, to be checked by comparing a batch with single
 * samples. *out_changed false: nothing was fixed, *out_graph is `graph`. Only for running, never
 * exported. */
enum mpq_status mpq_rebatch(struct mpq_ctx *ctx, struct mpq_arena *arena,
                            const struct mpq_graph *graph, struct mpq_graph **out_graph,
                            bool *out_changed) MPQ_CHECKED;

/* Layers in execution order. Conv, Gemm, MatMul with a constant FLOAT weight read by that node
 * alone in this role; everything else with parameters of 64 elements or more is listed as rejected
 * with its reason. `binding` is at batch 1 and gives MACs. */
enum mpq_status mpq_layer_table_build(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      const struct mpq_graph *graph,
                                      const struct mpq_binding *binding,
                                      struct mpq_layer_table *out) MPQ_CHECKED;

/* Quantized values: data inputs and (activated) outputs of every layer; then outputs of operators
 * that runtimes run on 8-bit integers (Add, Mul, Concat, AveragePool, GlobalAveragePool, MaxPool,
 * Reshape, Flatten, Transpose, Squeeze, Unsqueeze, Slice, Pad by 0, Resize nearest, Relu, Clip)
 * whose data inputs are all quantized and whose output is read by such an operator or a layer.
 * Operators that only move elements put input and output in one group; so does Concat with its
 * inputs unless one of them is in a group with another consumer's range at stake (a graph input). A
 * graph output is quantized only where a layer (with its fused activation) makes it. */
enum mpq_status mpq_act_plan_build(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_graph *graph, const struct mpq_binding *binding,
                                   const struct mpq_layer_table *layers,
                                   struct mpq_act_plan *out) MPQ_CHECKED;

/* A copy of the graph in which every reader of a quantized value (and the graph output list) reads
 * FakeQuant(value) instead, an operator of domain "onnx_mpq" whose attrs point at quant[group];
 * where plan->lossless says so no node is put. `quant` [n_group] is read at every forward, so later
 * changes take effect. node_of [n_node of graph] gives each old node's new id. */
enum mpq_status mpq_insert_fake_quant(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      const struct mpq_graph *graph,
                                      const struct mpq_act_plan *plan,
                                      const struct mpq_act_quant *quant, struct mpq_graph **out,
                                      mpq_node_id *out_node_of) MPQ_CHECKED;

#endif
