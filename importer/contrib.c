#include "importer/contrib.h"

#include <string.h>

#include "importer/contrib_rules.h"

static const struct {
    const char *op_type;
    size_t n_in; /* that must be present */
    bool (*apply)(struct mpq_job *);
} rule[] = {
    {"Attention", 2, mpq_contrib_attention},
    {"BiasGelu", 2, mpq_contrib_bias_gelu},
    {"DynamicQuantizeMatMul", 3, mpq_contrib_dynamic_quantize_matmul},
    {"EmbedLayerNormalization", 1, mpq_contrib_embed_layer_normalization},
    {"FastGelu", 1, mpq_contrib_fast_gelu},
    {"FusedConv", 2, mpq_contrib_fused_conv},
    {"FusedGemm", 2, mpq_contrib_fused_gemm},
    {"FusedMatMul", 2, mpq_contrib_fused_matmul},
    {"GatherBlockQuantized", 3, mpq_contrib_gather_block_quantized},
    {"Gelu", 1, mpq_contrib_gelu},
    {"MatMulIntegerToFloat", 4, mpq_contrib_matmul_integer_to_float},
    {"MatMulNBits", 3, mpq_contrib_matmul_nbits},
    {"MultiHeadAttention", 1, mpq_contrib_multi_head_attention},
    {"QAttention", 5, mpq_contrib_qattention},
    {"QuickGelu", 1, mpq_contrib_quick_gelu},
    {"RotaryEmbedding", 4, mpq_contrib_rotary_embedding},
    {"SimplifiedLayerNormalization", 2, mpq_contrib_simplified},
    {"SkipLayerNormalization", 3, mpq_contrib_skip_layer_normalization},
    {"SkipSimplifiedLayerNormalization", 3, mpq_contrib_skip_simplified},
    {"TransposeMatMul", 2, mpq_contrib_fused_matmul},
};

/* ONNX Runtime has SimplifiedLayerNormalization in the domain of ONNX, which does not. */
static bool is_contrib(const Onnx__NodeProto *node)
{
    if (!node->op_type)
        return false;
    return (node->domain && strcmp(node->domain, "com.microsoft") == 0) ||
           strcmp(node->op_type, "SimplifiedLayerNormalization") == 0;
}

static enum mpq_status translate(struct mpq_job *job, bool *out_done)
{
    *out_done = false;
    for (size_t i = 0; i < MPQ_COUNT(rule); i++) {
        bool fits = strcmp(rule[i].op_type, job->node->op_type) == 0 && mpq_job_out(job, 0);
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
    bool any = false;
    for (size_t n = 0; n < graph->n_node; n++)
        any |= is_contrib(graph->node[n]);
    if (!any)
        return MPQ_OK;
    MPQ_TRY(mpq_rewrite_begin(ctx, arena, graph, &rewrite));
    for (size_t n = 0; n < graph->n_node; n++) {
        struct mpq_job job = {&rewrite, graph->node[n], default_opset(model), false};
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
