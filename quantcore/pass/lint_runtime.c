/* What runs on integers, what runs slowly, what may be clipped, and who reads the file. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "quantcore/ops/conv_attrs.h"
#include "quantcore/pass/lint_check.h"
#include "quantcore/quant/saturation.h"

#define LEAST_ELEMENTS 64 /* of a weight worth mentioning */

/* ---- integers ---- */

static bool is_integer_operator(const struct mpq_node *node)
{
    return strncmp(node->op_type, "QLinear", 7) == 0 || strcmp(node->op_type, "QGemm") == 0 ||
           strcmp(node->op_type, "MatMulIntegerToFloat") == 0;
}

/* "QLinearConv 19, QLinearAdd 9", in order of first use. */
enum mpq_status mpq_lint_fused(struct mpq_linter *linter)
{
    const struct mpq_graph *graph = linter->fused;
    char text[512] = "";
    size_t used = 0;
    for (mpq_node_id n = 0; n < graph->n_node; n++) {
        const char *op = graph->node[n].op_type;
        bool is_seen = !linter->is_live[n] || !is_integer_operator(&graph->node[n]);
        for (mpq_node_id k = 0; k < n && !is_seen; k++)
            is_seen = linter->is_live[k] && strcmp(graph->node[k].op_type, op) == 0;
        unsigned count = 0;
        for (mpq_node_id k = n; k < graph->n_node && !is_seen; k++)
            count += linter->is_live[k] && strcmp(graph->node[k].op_type, op) == 0;
        if (count && used < sizeof text)
            used += (size_t)snprintf(text + used, sizeof text - used, "%s%s %u", used ? ", " : "",
                                     op, count);
    }
    return used ? mpq_lint_add(linter, MPQ_RULE_fused, graph, NULL, "%s", text) : MPQ_OK;
}

static bool convolves(const struct mpq_node *node)
{
    return mpq_node_is(node, "Conv") || strcmp(node->op_type, "QLinearConv") == 0;
}

/* The weight of a product as a layer, and where it stands among the inputs. */
static bool weight_layer(const struct mpq_node *node, const struct mpq_tensor *w,
                         struct mpq_layer *layer, int64_t *out_positions)
{
    const struct mpq_shape *shape = &w->shape;
    bool by_row = convolves(node) || mpq_attr_int(&node->attr_set, "transB", 0) != 0;
    if (shape->rank < 2)
        return false;
    int64_t last = shape->dim[shape->rank - 1], count = mpq_shape_count(shape);
    *layer =
        (struct mpq_layer){.n_outer = count / (last ? last : 1), .n_channel = last, .n_inner = 1};
    *out_positions = 1;
    if (by_row)
        *layer = (struct mpq_layer){.n_outer = 1,
                                    .n_channel = shape->dim[0],
                                    .n_inner = mpq_shape_count_range(shape, 1, shape->rank)};
    if (convolves(node)) {
        const struct mpq_conv_attrs *attrs = node->attrs;
        *out_positions = mpq_shape_count_range(shape, 2, shape->rank);
        return shape->dim[1] != 1 || attrs->group != shape->dim[0]; /* depthwise sums in 32 bits */
    }
    return count > 0;
}

/* The constant weight of a product of integers, or NULL. What ONNX Runtime leaves float another
 * runtime may well run on integers. */
static const struct mpq_tensor *integer_weight(const struct mpq_linter *linter,
                                               const struct mpq_node *node)
{
    const struct mpq_graph *graph = linter->fused;
    if (strcmp(node->op_type, "MatMulIntegerToFloat") == 0)
        return mpq_lint_constant(graph, node, 1);
    if (strcmp(node->op_type, "QGemm") == 0 || strcmp(node->op_type, "QLinearConv") == 0 ||
        strcmp(node->op_type, "QLinearMatMul") == 0)
        return mpq_lint_constant(graph, node, 3);
    if ((linter->file->readers & MPQ_FOR_ONNXRUNTIME) || !mpq_lint_is_product(node))
        return NULL;
    const struct mpq_node *x = mpq_lint_dequantizer(graph, node, 0);
    const struct mpq_node *w = mpq_lint_dequantizer(graph, node, 1);
    return x && w && mpq_lint_dtype(graph, x->in[0]) == MPQ_UINT8 ? mpq_lint_constant(graph, w, 0)
                                                                  : NULL;
}

enum mpq_status mpq_lint_saturation(struct mpq_linter *linter)
{
    const struct mpq_graph *graph = linter->fused;
    for (mpq_node_id n = 0; n < graph->n_node; n++) {
        const struct mpq_node *node = &graph->node[n];
        const struct mpq_tensor *w = integer_weight(linter, node);
        struct mpq_layer layer;
        struct mpq_saturation s = {.layer = &layer, .act_max = 255};
        if (!w || w->dtype != MPQ_INT8 || !weight_layer(node, w, &layer, &s.n_position))
            continue;
        int64_t n_channel = mpq_saturation_count(&s, w->data);
        if (n_channel)
            MPQ_TRY(mpq_lint_add(linter, MPQ_RULE_saturation, graph, node,
                                 "%lld of %lld output channels", (long long)n_channel,
                                 (long long)layer.n_channel));
    }
    return MPQ_OK;
}

enum mpq_status mpq_lint_precision_mode(struct mpq_linter *linter)
{
    const struct mpq_graph *graph = linter->graph;
    for (mpq_node_id n = 0; n < graph->n_node; n++) {
        const struct mpq_node *node = &graph->node[n];
        const struct mpq_node *w = mpq_lint_dequantizer(graph, node, 1);
        if (!mpq_node_is(node, "MatMul") || !w || !mpq_lint_dequantizer(graph, node, 0) ||
            mpq_lint_dtype(graph, w->in[0]) != MPQ_INT8)
            continue;
        const struct mpq_tensor *scale = mpq_lint_constant(graph, w, 1);
        bool has_zero = w->n_in > 2 && w->in[2] != MPQ_NO_VALUE;
        if (scale && mpq_shape_count(&scale->shape) > 1 && !has_zero)
            MPQ_TRY(mpq_lint_add(linter, MPQ_RULE_precision_mode, graph, node, NULL));
    }
    return MPQ_OK;
}

/* The largest |bias scale / (x scale * w scale) - 1|, or -1 where it cannot be told. */
static double bias_error(const struct mpq_graph *graph, const struct mpq_node *node)
{
    const struct mpq_tensor *scale[3];
    for (uint32_t i = 0; i < 3; i++) {
        const struct mpq_node *dq = mpq_lint_dequantizer(graph, node, i);
        scale[i] = dq ? mpq_lint_constant(graph, dq, 1) : NULL;
        if (!scale[i])
            return -1;
    }
    int64_t n_w = mpq_shape_count(&scale[1]->shape), n = mpq_shape_count(&scale[2]->shape);
    double worst = 0, x = mpq_tensor_double(scale[0], 0);
    if (n != n_w && n != 1 && n_w != 1)
        return INFINITY;
    for (int64_t i = 0; i < n || i < n_w; i++) {
        double unit = x * mpq_tensor_double(scale[1], n_w == 1 ? 0 : i);
        double error = fabs(mpq_tensor_double(scale[2], n == 1 ? 0 : i) / unit - 1);
        worst = error > worst ? error : worst;
    }
    return worst;
}

enum mpq_status mpq_lint_bias_scale(struct mpq_linter *linter)
{
    for (mpq_node_id n = 0; n < linter->graph->n_node; n++) {
        const struct mpq_node *node = &linter->graph->node[n];
        bool has_bias = mpq_node_is(node, "Conv") || mpq_node_is(node, "Gemm");
        double error = has_bias ? bias_error(linter->graph, node) : 0;
        if (error > 1e-4)
            MPQ_TRY(mpq_lint_add(linter, MPQ_RULE_bias_scale, linter->graph, node,
                                 "off by a factor of up to %.6g", 1 + error));
    }
    return MPQ_OK;
}

/* ---- float ---- */

/* The constant weight behind a live DequantizeLinear that input 1 reads, or NULL. */
static const struct mpq_node *slow_weight(const struct mpq_linter *linter,
                                          const struct mpq_node *node, uint32_t i)
{
    const struct mpq_node *dq = mpq_lint_dequantizer(linter->fused, node, i);
    const struct mpq_tensor *w = dq ? mpq_lint_constant(linter->fused, dq, 0) : NULL;
    return w && w->dtype != MPQ_INT32 && mpq_shape_count(&w->shape) >= LEAST_ELEMENTS ? dq : NULL;
}

/* Why it stays float, as far as one can say in a few words. */
static const char *why_float(const struct mpq_linter *linter, const struct mpq_node *node)
{
    const struct mpq_graph *graph = linter->fused;
    const struct mpq_node *x = mpq_lint_dequantizer(graph, node, 0);
    const struct mpq_node *w = mpq_lint_dequantizer(graph, node, 1);
    if (mpq_lint_bits(graph, w) != 8)
        return "its weights have not 8 bits";
    if (mpq_lint_bits(graph, x) != 8)
        return "its input has not 8 bits";
    if (mpq_lint_dtype(graph, x->in[0]) == MPQ_INT8)
        return "its input is int8 and read by several, which stays int8 on x86";
    if (node->n_in > 2 && node->in[2] != MPQ_NO_VALUE && !mpq_lint_dequantizer(graph, node, 2) &&
        !mpq_lint_constant(graph, node, 2))
        return "its bias is computed";
    mpq_node_id next = mpq_uses_single(&linter->fused_uses, node->out[0]);
    if (next == MPQ_NO_NODE)
        return "its output is read by several, or leaves the graph";
    const struct mpq_node *reader = &graph->node[next];
    if (mpq_node_is(reader, "Relu") || mpq_node_is(reader, "Clip"))
        return "its output goes through an activation that the rounding behind it does not imply";
    if (mpq_node_quantizes(reader) && mpq_lint_dtype(graph, reader->out[0]) == MPQ_INT8)
        return "its output is int8 and read by several, which stays int8 on x86";
    return mpq_node_quantizes(reader) ? "types or scales do not fit"
                                      : "its output is not quantized";
}

enum mpq_status mpq_lint_unfused(struct mpq_linter *linter)
{
    for (mpq_node_id n = 0; n < linter->fused->n_node; n++) {
        const struct mpq_node *node = &linter->fused->node[n];
        if (linter->is_live[n] && mpq_lint_is_product(node) &&
            mpq_lint_dequantizer(linter->fused, node, 0) && slow_weight(linter, node, 1))
            MPQ_TRY(mpq_lint_add(linter, MPQ_RULE_unfused, linter->fused, node, "%s",
                                 why_float(linter, node)));
    }
    return MPQ_OK;
}

enum mpq_status mpq_lint_weight_only(struct mpq_linter *linter)
{
    const struct mpq_graph *graph = linter->fused;
    for (mpq_node_id n = 0; n < graph->n_node; n++) {
        const struct mpq_node *node = &graph->node[n];
        bool has_integers = false;
        for (uint32_t i = 0; i < node->n_in; i++) {
            const struct mpq_node *dq = mpq_lint_dequantizer(graph, node, i);
            has_integers |= dq && !mpq_lint_constant(graph, dq, 0);
        }
        for (uint32_t i = 0; i < node->n_in && linter->is_live[n] && !has_integers; i++) {
            const struct mpq_node *dq = slow_weight(linter, node, i);
            if (dq)
                MPQ_TRY(mpq_lint_add(
                    linter, MPQ_RULE_weight_only, graph, node, "%d bits, %lld elements",
                    mpq_lint_bits(graph, dq),
                    (long long)mpq_shape_count(&mpq_lint_constant(graph, dq, 0)->shape)));
        }
    }
    return MPQ_OK;
}

/* ---- who reads it ---- */

static bool is_q_or_dq(const struct mpq_node *node)
{
    return mpq_node_quantizes(node) || mpq_node_dequantizes(node);
}

static int narrowest(const struct mpq_graph *graph)
{
    int bits = 8;
    for (mpq_node_id n = 0; n < graph->n_node; n++) {
        int here = is_q_or_dq(&graph->node[n]) ? mpq_lint_bits(graph, &graph->node[n]) : 0;
        bits = here && here < bits ? here : bits;
    }
    return bits;
}

static bool is_quantized(const struct mpq_graph *graph)
{
    for (mpq_node_id n = 0; n < graph->n_node; n++)
        if (is_q_or_dq(&graph->node[n]) || is_integer_operator(&graph->node[n]))
            return true;
    return false;
}

enum mpq_status mpq_lint_versions(struct mpq_linter *linter)
{
    const struct mpq_lint_file *file = linter->file;
    int bits = narrowest(linter->graph);
    const struct mpq_ort_release *release = NULL;
    char integers[32] = "";
    if (!file->ir_version || !file->opset)
        return MPQ_OK;
    for (size_t i = 0; (release = mpq_ort_release_at(i)); i++)
        if (release->opset >= file->opset && release->ir_version >= file->ir_version &&
            release->narrowest <= bits && (!file->has_functions || release->functions))
            break;
    const struct mpq_ort_release *fuses = release;
    for (size_t i = 0; file->has_functions && release && fuses->functions != MPQ_FUNCTIONS_FIRST;
         i++)
        fuses = mpq_ort_release_at(i);
    if (is_quantized(linter->graph))
        (void)snprintf(integers, sizeof integers, ", integers of %d bits", bits);
    return mpq_lint_add(linter, MPQ_RULE_versions, linter->graph, NULL,
                        "%s%s%s%s (opset %lld, IR version %lld%s%s)",
                        release ? release->version : "no release known here",
                        release ? " and later" : "", fuses != release ? ", on integers from " : "",
                        fuses != release ? fuses->version : "", (long long)file->opset,
                        (long long)file->ir_version, integers,
                        file->has_functions ? ", local functions" : "");
}

/* What a runtime does not take, about one node; NULL: nothing. */
static const char *objection(const struct mpq_linter *linter, const struct mpq_runtime *r,
                             const struct mpq_node *node)
{
    const struct mpq_graph *graph = linter->graph;
    if (strcmp(node->domain, "com.microsoft") == 0)
        return "is ONNX Runtime's own operator";
    if (!is_q_or_dq(node) || node->n_in < 2)
        return NULL;
    const struct mpq_tensor *q = mpq_lint_constant(graph, node, 0);
    const struct mpq_tensor *zero = mpq_lint_constant(graph, node, 2);
    bool is_weight = mpq_node_dequantizes(node) && q;
    enum mpq_dtype dtype =
        mpq_lint_dtype(graph, mpq_node_quantizes(node) ? node->out[0] : node->in[0]);
    bool has_shift = false;
    for (int64_t i = 0; zero && i < mpq_shape_count(&zero->shape); i++)
        has_shift |= mpq_tensor_int(zero, i) != 0;
    if (mpq_attr_int(&node->attr_set, "block_size", 0) && !r->has_blocks)
        return "has scales by block";
    if (r->zero_point_is_zero && has_shift)
        return "has a zero point other than 0";
    if (r->activations_are_signed && !is_weight && dtype == MPQ_UINT8)
        return "has unsigned activations";
    if (!r->has_int16 && !is_weight && mpq_dtype_bits(dtype) == 16)
        return "has activations of 16 bits";
    if (is_weight && r->weights_are_symmetric && has_shift && mpq_shape_count(&zero->shape) > 1)
        return "has a zero point a channel";
    if (is_weight && r->has_native_only && !linter->file->graph->value[node->in[0]].constant)
        return "has a weight that must be computed when the file is loaded";
    if (!is_weight || mpq_dtype_bits(dtype) >= 8)
        return NULL;
    if (mpq_dtype_bits(dtype) < r->narrowest_weight)
        return "has weights of 2 bits";
    mpq_node_id reader = mpq_uses_single(&linter->uses, node->out[0]);
    bool is_conv = reader != MPQ_NO_NODE && mpq_node_is(&graph->node[reader], "Conv");
    return r->narrow_is_matmul_only && is_conv ? "is a convolution's weight of 4 bits" : NULL;
}

enum mpq_status mpq_lint_runtimes(struct mpq_linter *linter)
{
    const struct mpq_graph *graph = linter->graph;
    const struct mpq_runtime *runtime;
    for (size_t i = 0; is_quantized(graph) && (runtime = mpq_runtime_at(i)); i++) {
        mpq_node_id n = 0;
        const char *why = NULL;
        for (; n < graph->n_node && !why; n++)
            why = objection(linter, runtime, &graph->node[n]);
        if (!(runtime->reader & linter->file->readers))
            continue;
        if (linter->file->has_functions && !runtime->has_functions) {
            MPQ_TRY(mpq_lint_add(linter, MPQ_RULE_runtimes, graph, NULL,
                                 "not %s: it has local functions", runtime->name));
            continue;
        }
        if (!why)
            MPQ_TRY(mpq_lint_add(linter, MPQ_RULE_runtimes, graph, NULL,
                                 "%s takes its quantization", runtime->name));
        else if (linter->file->readers == MPQ_FOR_ALL)
            MPQ_TRY(mpq_lint_add(linter, MPQ_RULE_runtimes, graph, &graph->node[n - 1],
                                 "not %s: it %s", runtime->name, why));
    }
    return MPQ_OK;
}

/* What is a note about one runtime of many is an error about the only one. */
enum mpq_status mpq_lint_refused(struct mpq_linter *linter)
{
    const struct mpq_graph *graph = linter->graph;
    const struct mpq_runtime *runtime;
    for (size_t i = 0; is_quantized(graph) && (runtime = mpq_runtime_at(i)); i++) {
        if (runtime->reader != linter->file->readers)
            continue;
        if (linter->file->has_functions && !runtime->has_functions)
            MPQ_TRY(mpq_lint_add(linter, MPQ_RULE_refused, graph, NULL,
                                 "%s: it has local functions", runtime->name));
        for (mpq_node_id n = 0; n < graph->n_node; n++) {
            const char *why = objection(linter, runtime, &graph->node[n]);
            if (why)
                MPQ_TRY(mpq_lint_add(linter, MPQ_RULE_refused, graph, &graph->node[n], "%s: it %s",
                                     runtime->name, why));
        }
    }
    return MPQ_OK;
}
