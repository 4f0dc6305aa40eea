#include "importer/contrib.h"

#include <string.h>

#include "importer/contrib_rules.h"

/* Operators that ONNX took over as they were: from the opset that has them, to the last that spells
 * them like this. */
static bool became_onnx(struct mpq_job *job)
{
    static const struct {
        const char *op_type;
        int64_t first, last;
        size_t n_in;
    } same[] = {{"GatherND", 12, INT64_MAX, 2},
                {"GridSample", 16, 19, 2},
                {"Range", 11, INT64_MAX, 3},
                {"Trilu", 14, INT64_MAX, 2}};
    static const char *const keeps[] = {"align_corners", "mode", "padding_mode", "upper", NULL};
    for (size_t i = 0; i < MPQ_COUNT(same); i++)
        if (strcmp(same[i].op_type, job->node->op_type) == 0 && job->opset >= same[i].first &&
            job->opset <= same[i].last) {
            mpq_make_like(job, same[i].op_type, mpq_job_out(job, 0), same[i].n_in, keeps);
            return true;
        }
    return false;
}

static const struct {
    const char *op_type;
    size_t n_in; /* that must be present */
    bool (*apply)(struct mpq_job *);
} rule[] = {
    {"Attention", 2, mpq_contrib_attention},
    {"BiasGelu", 2, mpq_contrib_bias_gelu},
    {"DynamicQuantizeLSTM", 3, mpq_contrib_dynamic_quantize_lstm},
    {"DynamicQuantizeMatMul", 3, mpq_contrib_dynamic_quantize_matmul},
    {"EmbedLayerNormalization", 1, mpq_contrib_embed_layer_normalization},
    {"FastGelu", 1, mpq_contrib_fast_gelu},
    {"FusedConv", 2, mpq_contrib_fused_conv},
    {"FusedGemm", 2, mpq_contrib_fused_gemm},
    {"FusedMatMul", 2, mpq_contrib_fused_matmul},
    {"GatherBlockQuantized", 3, mpq_contrib_gather_block_quantized},
    {"GatherND", 2, became_onnx},
    {"Gelu", 1, mpq_contrib_gelu},
    {"GridSample", 2, became_onnx},
    {"GroupQueryAttention", 1, mpq_contrib_group_query_attention},
    {"MatMulIntegerToFloat", 4, mpq_contrib_matmul_integer_to_float},
    {"MatMulNBits", 3, mpq_contrib_matmul_nbits},
    {"MultiHeadAttention", 1, mpq_contrib_multi_head_attention},
    {"QAttention", 5, mpq_contrib_qattention},
    {"QLinearWhere", 3, mpq_contrib_qlinear_where},
    {"QuickGelu", 1, mpq_contrib_quick_gelu},
    {"Range", 2, became_onnx},
    {"RotaryEmbedding", 4, mpq_contrib_rotary_embedding},
    {"SimplifiedLayerNormalization", 2, mpq_contrib_simplified},
    {"SkipLayerNormalization", 3, mpq_contrib_skip_layer_normalization},
    {"SkipSimplifiedLayerNormalization", 3, mpq_contrib_skip_simplified},
    {"TransposeMatMul", 2, mpq_contrib_fused_matmul},
    {"Trilu", 1, became_onnx},
};

/* ONNX Runtime has SimplifiedLayerNormalization in the domain of ONNX, which does not. */
static bool is_contrib(const Onnx__NodeProto *node)
{
    if (!node->op_type)
        return false;
    return (node->domain && strcmp(node->domain, "com.microsoft") == 0) ||
           strcmp(node->op_type, "SimplifiedLayerNormalization") == 0;
}

static bool has_output(const struct mpq_job *job)
{
    for (size_t i = 0; i < job->node->n_output; i++)
        if (mpq_job_out(job, i))
            return true;
    return false;
}

static enum mpq_status translate(struct mpq_job *job, bool *out_done)
{
    *out_done = false;
    for (size_t i = 0; i < MPQ_COUNT(rule); i++) {
        bool fits = strcmp(rule[i].op_type, job->node->op_type) == 0 && has_output(job);
        for (size_t k = 0; k < rule[i].n_in && fits; k++)
            fits = mpq_job_in(job, k) != NULL;
        if (fits)
            *out_done = rule[i].apply(job);
    }
    return job->failed ? job->rewrite->ctx->status : MPQ_OK;
}

static int64_t default_opset(const Onnx__ModelProto *model)
{
    for (size_t i = 0; i < model->n_opset_import; i++) {
        const char *domain = model->opset_import[i]->domain;
        if (!domain || !*domain || strcmp(domain, "ai.onnx") == 0)
            return model->opset_import[i]->version;
    }
    return 0;
}

/* The first of the nodes that were made has the name of the one they replace. */
enum mpq_status mpq_translate_contrib(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      Onnx__ModelProto *model)
{
    Onnx__GraphProto *graph = model->graph;
    struct mpq_rewrite rewrite;
    struct mpq_job_names names;
    bool any = false;
    for (size_t n = 0; n < graph->n_node; n++)
        any |= is_contrib(graph->node[n]);
    if (!any)
        return MPQ_OK;
    MPQ_TRY(mpq_rewrite_begin(ctx, arena, graph, &rewrite));
    MPQ_TRY(mpq_job_names_build(&rewrite, &names));
    for (size_t n = 0; n < graph->n_node; n++) {
        struct mpq_job job = {&rewrite, &names, graph->node[n], default_opset(model), false};
        bool is_done = false;
        size_t first = rewrite.n_node;
        if (is_contrib(graph->node[n]))
            MPQ_TRY(translate(&job, &is_done));
        if (!is_done)
            MPQ_TRY(mpq_rewrite_append(&rewrite, graph->node[n]));
        else if (!rewrite.node[first]->name)
            rewrite.node[first]->name = graph->node[n]->name;
    }
    mpq_rewrite_end(&rewrite);
    return MPQ_OK;
}
