/* Legal ONNX that ONNX Runtime mishandles: L1 to L11 of lint_rules.inc. */
#include <string.h>

#include "quantcore/pass/lint_check.h"

/* Bits of the integers behind input i of the node, 0 where it is float. */
static int input_bits(const struct mpq_linter *linter, const struct mpq_node *node, uint32_t i)
{
    const struct mpq_node *from = mpq_lint_dequantizer(linter->graph, node, i);
    return from ? mpq_lint_bits(linter->graph, from) : 0;
}

enum mpq_status mpq_lint_l1(struct mpq_linter *linter)
{
    for (mpq_node_id n = 0; n < linter->graph->n_node; n++) {
        const struct mpq_node *node = &linter->graph->node[n];
        if (mpq_lint_is_product(node) && input_bits(linter, node, 0) == 8 &&
            input_bits(linter, node, 1) == 2 && mpq_lint_quantizer(linter, node))
            MPQ_TRY(mpq_lint_add(linter, MPQ_RULE_l1, linter->graph, node, NULL));
    }
    return MPQ_OK;
}

enum mpq_status mpq_lint_l2(struct mpq_linter *linter)
{
    for (mpq_node_id n = 0; n < linter->graph->n_node; n++) {
        const struct mpq_node *node = &linter->graph->node[n];
        if (!mpq_lint_is_product(node))
            continue;
        int x = input_bits(linter, node, 0), w = input_bits(linter, node, 1);
        bool is_narrow = x == 2 || (x == 4 && mpq_node_is(node, "Conv"));
        if (is_narrow && (w == 8 || w == 2))
            MPQ_TRY(mpq_lint_add(linter, MPQ_RULE_l2, linter->graph, node,
                                 "activations of %d bits, weights of %d", x, w));
    }
    return MPQ_OK;
}

enum mpq_status mpq_lint_l3(struct mpq_linter *linter)
{
    static const char *const two_bits[] = {"Add",     "Mul",         "Concat",
                                           "Reshape", "AveragePool", "GlobalAveragePool",
                                           "Sigmoid", "Softmax"};
    for (mpq_node_id n = 0; n < linter->graph->n_node; n++) {
        const struct mpq_node *node = &linter->graph->node[n];
        int bits = input_bits(linter, node, 0);
        bool is_hit = bits == 4 && mpq_node_is(node, "MaxPool");
        for (size_t i = 0; i < MPQ_COUNT(two_bits) && bits == 2; i++)
            is_hit |= mpq_node_is(node, two_bits[i]);
        if (is_hit)
            MPQ_TRY(mpq_lint_add(linter, MPQ_RULE_l3, linter->graph, node, "%d bits", bits));
    }
    return MPQ_OK;
}

enum mpq_status mpq_lint_l4(struct mpq_linter *linter)
{
    for (mpq_node_id n = 0; n < linter->graph->n_node; n++) {
        const struct mpq_node *node = &linter->graph->node[n];
        const struct mpq_node *q =
            mpq_node_is(node, "Relu") ? mpq_lint_quantizer(linter, node) : NULL;
        if (!q || mpq_node_is(mpq_lint_producer(linter->graph, q->in[0]), "Clip"))
            continue;
        enum mpq_dtype dtype = mpq_lint_dtype(linter->graph, q->out[0]);
        const struct mpq_tensor *zero = mpq_lint_constant(linter->graph, q, 2);
        int bits = mpq_dtype_bits(dtype);
        int64_t least = dtype == MPQ_INT4 ? -8 : dtype == MPQ_INT2 ? -2 : 0;
        int64_t value = zero ? mpq_tensor_int(zero, 0) : 0;
        if (bits < 8 && bits > 0 && value != least)
            MPQ_TRY(mpq_lint_add(linter, MPQ_RULE_l4, linter->graph, node, "%s with zero point %d",
                                 mpq_dtype_name(dtype), (int)value));
    }
    return MPQ_OK;
}

/* ---- weights with float activations ---- */

static bool is_power_of_two(int64_t n)
{
    return n > 0 && (n & (n - 1)) == 0;
}

/* The DequantizeLinear of the weight of a MatMul or Gemm that ONNX Runtime makes MatMulNBits of
 * (DQMatMulNodeGroupSelector), or NULL. */
static const struct mpq_node *nbits_weight(const struct mpq_linter *linter,
                                           const struct mpq_node *node)
{
    const struct mpq_graph *graph = linter->graph;
    bool is_gemm = mpq_node_is(node, "Gemm");
    if ((!is_gemm && !mpq_node_is(node, "MatMul")) || mpq_lint_dequantizer(graph, node, 0))
        return NULL;
    const struct mpq_node *dq = mpq_lint_dequantizer(graph, node, 1);
    if (!dq || mpq_uses_single(&linter->uses, dq->out[0]) == MPQ_NO_NODE)
        return NULL;
    if (is_gemm && (mpq_attr_int(&node->attr_set, "transA", 0) != 0 ||
                    mpq_attr_int(&node->attr_set, "transB", 0) != 0 ||
                    mpq_attr_float(&node->attr_set, "alpha", 1) != 1 ||
                    (node->n_in > 2 && mpq_attr_float(&node->attr_set, "beta", 1) != 1)))
        return NULL;
    const struct mpq_tensor *w = mpq_lint_constant(graph, dq, 0);
    const struct mpq_tensor *scale = mpq_lint_constant(graph, dq, 1);
    int64_t block = mpq_attr_int(&dq->attr_set, "block_size", 0);
    int64_t axis = mpq_attr_int(&dq->attr_set, "axis", 1);
    if (!w || !scale || w->shape.rank != 2 || mpq_dtype_bits(w->dtype) > 8)
        return NULL;
    if (block)
        return axis == 0 && block >= 16 && is_power_of_two(block) ? dq : NULL;
    return scale->shape.rank == 0 || axis == 1 ? dq : NULL;
}

enum mpq_status mpq_lint_matmul_nbits(struct mpq_linter *linter)
{
    for (mpq_node_id n = 0; n < linter->graph->n_node; n++) {
        const struct mpq_node *node = &linter->graph->node[n];
        const struct mpq_node *dq = nbits_weight(linter, node);
        if (dq)
            MPQ_TRY(mpq_lint_add(linter, MPQ_RULE_matmul_nbits, linter->graph, node, "%d bits",
                                 mpq_lint_bits(linter->graph, dq)));
    }
    return MPQ_OK;
}

enum mpq_status mpq_lint_l5(struct mpq_linter *linter)
{
    for (mpq_node_id n = 0; n < linter->graph->n_node; n++) {
        const struct mpq_node *node = &linter->graph->node[n];
        const struct mpq_node *dq = nbits_weight(linter, node);
        if (!dq || mpq_lint_bits(linter->graph, dq) != 2)
            continue;
        int64_t columns = mpq_lint_constant(linter->graph, dq, 0)->shape.dim[1];
        if (columns % 4)
            MPQ_TRY(mpq_lint_add(linter, MPQ_RULE_l5, linter->graph, node, "%lld columns",
                                 (long long)columns));
    }
    return MPQ_OK;
}

/* DequantizeLinear nodes of that block and at most so many bits. */
static enum mpq_status find_blocks(struct mpq_linter *linter, enum mpq_lint_rule_id rule,
                                   int64_t block, int most_bits)
{
    for (mpq_node_id n = 0; n < linter->graph->n_node; n++) {
        const struct mpq_node *node = &linter->graph->node[n];
        if (mpq_node_dequantizes(node) && mpq_attr_int(&node->attr_set, "block_size", 0) == block &&
            mpq_lint_bits(linter->graph, node) <= most_bits)
            MPQ_TRY(mpq_lint_add(linter, rule, linter->graph, node, NULL));
    }
    return MPQ_OK;
}

enum mpq_status mpq_lint_l6(struct mpq_linter *linter)
{
    return find_blocks(linter, MPQ_RULE_l6, 16, 2);
}

enum mpq_status mpq_lint_l9(struct mpq_linter *linter)
{
    for (mpq_node_id n = 0; n < linter->graph->n_node; n++) {
        const struct mpq_node *node = &linter->graph->node[n];
        if (strcmp(node->op_type, "MatMulNBits") == 0 &&
            mpq_attr_int(&node->attr_set, "block_size", 0) == 512)
            MPQ_TRY(mpq_lint_add(linter, MPQ_RULE_l9, linter->graph, node, NULL));
    }
    return find_blocks(linter, MPQ_RULE_l9, 512, 4);
}

/* ---- versions and types ---- */

enum mpq_status mpq_lint_l7(struct mpq_linter *linter)
{
    int64_t opset = linter->file->opset;
    uint32_t n_quantize = 0;
    for (mpq_node_id n = 0; n < linter->graph->n_node; n++)
        n_quantize += mpq_node_quantizes(&linter->graph->node[n]);
    if (!n_quantize || (opset != 23 && opset != 24))
        return MPQ_OK;
    return mpq_lint_add(linter, MPQ_RULE_l7, linter->graph, NULL, "opset %lld, %u nodes",
                        (long long)opset, n_quantize);
}

/* The type of a float value in the file, where that says so: of inputs, outputs and constants. */
static enum mpq_dtype file_type(const struct mpq_linter *linter, mpq_value_id v)
{
    const struct mpq_graph *graph = linter->graph;
    const struct mpq_value *value = &graph->value[v];
    if (!value->constant && value->producer != MPQ_NO_NODE && !linter->uses.is_output[v])
        return MPQ_UNDEFINED;
    return value->file_dtype ? value->file_dtype : mpq_lint_dtype(graph, v);
}

enum mpq_status mpq_lint_l8(struct mpq_linter *linter)
{
    const struct mpq_graph *graph = linter->graph;
    for (mpq_node_id n = 0; n < graph->n_node && linter->file->opset >= 23; n++) {
        const struct mpq_node *node = &graph->node[n];
        bool quantizes = mpq_node_quantizes(node);
        if ((!quantizes && !mpq_node_dequantizes(node)) || node->n_in < 2)
            continue;
        enum mpq_dtype scale = file_type(linter, node->in[1]);
        enum mpq_dtype real = file_type(linter, quantizes ? node->in[0] : node->out[0]);
        if (real && scale && real != scale)
            MPQ_TRY(mpq_lint_add(linter, MPQ_RULE_l8, graph, node, "%s and %s",
                                 mpq_dtype_name(scale), mpq_dtype_name(real)));
    }
    return MPQ_OK;
}

enum mpq_status mpq_lint_l10(struct mpq_linter *linter)
{
    const struct mpq_graph *graph = linter->graph;
    for (mpq_node_id n = 0; n < graph->n_node; n++) {
        const struct mpq_node *node = &graph->node[n];
        const struct mpq_node *x = mpq_lint_dequantizer(graph, node, 0);
        const struct mpq_node *w = mpq_lint_dequantizer(graph, node, 1);
        if (mpq_lint_is_product(node) && x && w && mpq_lint_dtype(graph, x->in[0]) == MPQ_INT8 &&
            mpq_lint_dtype(graph, w->in[0]) == MPQ_UINT8)
            MPQ_TRY(mpq_lint_add(linter, MPQ_RULE_l10, graph, node, NULL));
    }
    return MPQ_OK;
}

/* The axis of the outputs in a weight of Conv or Gemm. */
static int64_t output_axis(const struct mpq_node *node)
{
    bool is_first = mpq_node_is(node, "Conv") || mpq_attr_int(&node->attr_set, "transB", 0) != 0;
    return is_first ? 0 : 1;
}

enum mpq_status mpq_lint_l11(struct mpq_linter *linter)
{
    const struct mpq_graph *graph = linter->graph;
    for (mpq_node_id n = 0; n < graph->n_node; n++) {
        const struct mpq_node *node = &graph->node[n];
        const struct mpq_node *w = mpq_lint_dequantizer(graph, node, 1);
        if ((!mpq_node_is(node, "Conv") && !mpq_node_is(node, "Gemm")) || !w ||
            !mpq_lint_dequantizer(graph, node, 0))
            continue;
        const struct mpq_tensor *q = mpq_lint_constant(graph, w, 0);
        const struct mpq_tensor *scale = mpq_lint_constant(graph, w, 1);
        int64_t axis = mpq_attr_int(&w->attr_set, "axis", 1);
        if (!q || !scale || mpq_shape_count(&scale->shape) == 1 || scale->shape.rank != 1)
            continue;
        axis += axis < 0 ? q->shape.rank : 0;
        if (axis != output_axis(node) && mpq_dtype_bits(q->dtype) == 8)
            MPQ_TRY(mpq_lint_add(linter, MPQ_RULE_l11, graph, node, "axis %lld", (long long)axis));
    }
    return MPQ_OK;
}
