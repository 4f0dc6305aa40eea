/* Graph -> graph, and graph -> tables. Each pass returns a new graph that keeps all value ids (see
 * ir/graph.h) and shares tensors with the old one; nobody edits a graph somebody else holds. */
#ifndef MPQ_PASS_PASS_H
#define MPQ_PASS_PASS_H

#include "quantcore/pass/bind.h"
#include "quantcore/quant/layer.h"
#include "quantcore/quant/lsq.h"

/* Everything exact that makes the graph smaller and its layers plain, in a fixed order until
 * nothing changes: Identity and inference Dropout dropped; nodes whose inputs are all constant
 * folded, unless that would swell the file; BatchNormalization, and Add, Sub, Mul, Div by a
 * constant of one value a channel, folded into the Conv, ConvTranspose, Gemm or MatMul before them
 * (in double; MatMul with a constant 2-D right side and a bias becomes Gemm where its input has
 * rank 2); zero Pad folded into Conv and into AveragePool/MaxPool where exact; pairs of inverse
 * Transposes removed, also across elementwise operators and at Concat/Add joins; dead nodes
 * removed. Names and order of graph inputs and outputs stay, weights keep their names, and a layer
 * takes the output name of what was folded into it. Works on graphs that cannot be bound, too. */
enum mpq_status mpq_simplify(struct mpq_ctx *ctx, struct mpq_arena *arena,
                             const struct mpq_graph *graph, struct mpq_graph **out) MPQ_CHECKED;

/* The same, except that BatchNormalization stays behind the layers: what such a net is trained on.
 * Simplifying the result once more folds them. */
enum mpq_status mpq_simplify_keep_norms(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                        const struct mpq_graph *graph,
                                        struct mpq_graph **out) MPQ_CHECKED;

/* Whether the node is QuantizeLinear (DequantizeLinear), of ai.onnx or com.microsoft. */
bool mpq_node_quantizes(const struct mpq_node *node);
bool mpq_node_dequantizes(const struct mpq_node *node);

/* Constants folded whatever their size, unread nodes gone, but DequantizeLinear kept: packed
 * weights are integers afterwards. */
enum mpq_status mpq_fold_quantized(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_graph *graph,
                                   struct mpq_graph **out) MPQ_CHECKED;

/* For running a quantized graph as ONNX Runtime's CPU kernels do: DequantizeLinear -> operator ->
 * QuantizeLinear becomes QLinearConv, QLinearMatMul, QGemm, QLinearAdd and so on where its
 * optimizer makes them, whose integer arithmetic rounds otherwise than float arithmetic does.
 * Constants are folded on the way, unpacked weights too. A graph without DequantizeLinear stays as
 * it is. Call it before mpq_simplify(), which would fold the weights to float. */
enum mpq_status mpq_fuse_integer(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const struct mpq_graph *graph, struct mpq_graph **out) MPQ_CHECKED;

/* Make a graph whose inputs fix the first dimension at 1 run at any batch: inputs and computed
 * values of first dimension 1 get an unknown one, constant Reshape targets that begin with 1 copy
 * the input's first dimension instead, constant Resize sizes that begin with 1 leave it alone. The
 * result is a guess, to be checked by comparing a batch with single samples. *out_changed false:
 * nothing was fixed, *out_graph is `graph`. Only for running, never exported. */
enum mpq_status mpq_rebatch(struct mpq_ctx *ctx, struct mpq_arena *arena,
                            const struct mpq_graph *graph, struct mpq_graph **out_graph,
                            bool *out_changed) MPQ_CHECKED;

/* Layers in execution order, one for each constant FLOAT weight of Conv, ConvTranspose, Gemm,
 * MatMul (either side), Einsum, LSTM, GRU and RNN (W and R), and for each table of Gather. A weight
 * that several nodes read is one layer where all read it as their weight. Everything else with
 * parameters of 64 elements or more is listed as rejected with its reason.
 *
 * Conv, Gemm and MatMul with a plain weight and, if any, a constant bias of one value a channel,
 * both read by that node alone, have integer kernels; all other layers are weight-only. `binding`
 * is at batch 1 and gives MACs; NULL, where the graph cannot be run: all layers are weight-only. */
enum mpq_status mpq_layer_table_build(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      const struct mpq_graph *graph,
                                      const struct mpq_binding *binding,
                                      struct mpq_layer_table *out) MPQ_CHECKED;

/* What decides which activations are quantized, besides the graph. */
struct mpq_act_rules {
    bool quantizes_outputs;  /* what Gemm and MatMul make is quantized whoever reads it       */
    const bool *stays_float; /* [n_value] values that are not quantized; NULL: none is barred */
};

/* Make weight-only the layers that lose their integer kernels to rules.stays_float: their input is
 * barred, or what a convolution makes. Their biases are still theirs. */
void mpq_layers_leave_float(const struct mpq_graph *graph, struct mpq_act_rules rules,
                            struct mpq_layer_table *layers);

/* Quantized values: data inputs of layers that are not weight-only, and (activated) outputs of
 * convolutions among them; then outputs of operators that runtimes run on 8-bit integers (Add, Mul,
 * Concat, AveragePool, GlobalAveragePool, MaxPool, Reshape, Flatten, Transpose, Squeeze, Unsqueeze,
 * Slice, Pad by 0, Resize nearest, Relu, Clip) whose data inputs are all quantized, and of Gemm and
 * MatMul, where such an operator or a layer reads them.
 *
 * Add and the like whose only reader is a Relu or Clip are quantized after it. Operators that only
 * move elements put input and output in one group; so does Concat with inputs that nobody else
 * reads. A graph output is quantized only where a layer (with its fused activation) makes it or
 * reads it. */
enum mpq_status mpq_act_plan_build(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_graph *graph, const struct mpq_binding *binding,
                                   const struct mpq_layer_table *layers, struct mpq_act_rules rules,
                                   struct mpq_act_plan *out) MPQ_CHECKED;

/* A copy of the graph in which every reader of a quantized value (and the graph output list) reads
 * FakeQuant(value) instead, an operator of domain "onnx_mpq" whose attrs point at quant[group];
 * where plan->lossless says so no node is put. A node with a quantization of its own (own_group)
 * reads its input 0 through one more. `quant` [n_group] is read at every forward, so later
 * changes take effect. node_of [n_node of graph] gives each old node's new id. */
enum mpq_status mpq_insert_fake_quant(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      const struct mpq_graph *graph,
                                      const struct mpq_act_plan *plan,
                                      const struct mpq_act_quant *quant, struct mpq_graph **out,
                                      mpq_node_id *out_node_of) MPQ_CHECKED;

/* A layer in a graph with learned steps. Values and nodes are those of that graph; what is constant
 * there is meant to be fed. */
struct mpq_learned_layer {
    bool has_input_step; /* given by the caller: the input is quantized                          */
    struct mpq_lsq_range input_range; /* read at every forward; while zero, the input is float    */
    mpq_value_id input_step;          /* [1]; NO_VALUE where has_input_step is false              */
    mpq_node_id first; /* the first node whose result depends on the layer's widths */
    mpq_value_id y;    /* the output, after the batch norm where one follows       */
    /* The batch norm behind the layer, which normalizes by the batch: fed gamma and beta, computed
     * mean and variance [n_channel], and what the file holds: gamma, beta, mean, variance. NO_VALUE
     * and NULL where none follows. */
    mpq_value_id gamma, beta, batch_mean, batch_var;
    const struct mpq_tensor *norm[4];
    double epsilon;
};

/* A copy of the graph (mpq_simplify_keep_norms) in which the inputs of layers go through
 * LearnedFakeQuant with a step of each layer's own, and batch norms behind layers use the
 * statistics of the batch. Weights are left to be fed quantized. `layer` [n_layer] must stay where
 * it is: the graph reads the ranges in it. */
enum mpq_status mpq_insert_learned(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_graph *graph,
                                   const struct mpq_layer_table *layers,
                                   struct mpq_learned_layer *layer,
                                   struct mpq_graph **out) MPQ_CHECKED;

#endif
