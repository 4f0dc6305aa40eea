#include "quantcore/pass/lint.h"

#include <stdarg.h>
#include <stdio.h>

#include "quantcore/pass/lint_check.h"

/* ---- looking ---- */

const struct mpq_node *mpq_lint_producer(const struct mpq_graph *graph, mpq_value_id v)
{
    if (v == MPQ_NO_VALUE || graph->value[v].producer == MPQ_NO_NODE)
        return NULL;
    return &graph->node[graph->value[v].producer];
}

const struct mpq_node *mpq_lint_dequantizer(const struct mpq_graph *graph,
                                            const struct mpq_node *node, uint32_t i)
{
    const struct mpq_node *from = i < node->n_in ? mpq_lint_producer(graph, node->in[i]) : NULL;
    return from && mpq_node_dequantizes(from) ? from : NULL;
}

const struct mpq_tensor *mpq_lint_constant(const struct mpq_graph *graph,
                                           const struct mpq_node *node, uint32_t i)
{
    if (i >= node->n_in || node->in[i] == MPQ_NO_VALUE)
        return NULL;
    return graph->value[node->in[i]].constant;
}

/* Upwards through operators that keep the type. */
enum mpq_dtype mpq_lint_dtype(const struct mpq_graph *graph, mpq_value_id v)
{
    for (;;) {
        const struct mpq_value *value = &graph->value[v];
        const struct mpq_node *node = mpq_lint_producer(graph, v);
        if (value->constant)
            return value->constant->dtype;
        if (node && mpq_node_quantizes(node)) {
            const struct mpq_tensor *zero = mpq_lint_constant(graph, node, 2);
            int64_t named = mpq_attr_int(&node->attr_set, "output_dtype", MPQ_UNDEFINED);
            return zero ? zero->dtype : named ? (enum mpq_dtype)named : MPQ_UINT8;
        }
        if (value->dtype || !node || node->n_in == 0 || node->in[0] == MPQ_NO_VALUE)
            return value->dtype;
        v = node->in[0];
    }
}

int mpq_lint_bits(const struct mpq_graph *graph, const struct mpq_node *node)
{
    bool makes = mpq_node_quantizes(node);
    return mpq_dtype_bits(mpq_lint_dtype(graph, makes ? node->out[0] : node->in[0]));
}

const struct mpq_node *mpq_lint_quantizer(const struct mpq_linter *linter,
                                          const struct mpq_node *node)
{
    const struct mpq_graph *graph = linter->graph;
    for (int step = 0; step < 2; step++) {
        mpq_node_id next = mpq_uses_single(&linter->uses, node->out[0]);
        if (next == MPQ_NO_NODE)
            return NULL;
        node = &graph->node[next];
        if (mpq_node_quantizes(node))
            return node;
        if (!mpq_node_is(node, "Relu") && !mpq_node_is(node, "Clip"))
            return NULL;
    }
    return NULL;
}

bool mpq_lint_is_product(const struct mpq_node *node)
{
    return mpq_node_is(node, "Conv") || mpq_node_is(node, "MatMul") || mpq_node_is(node, "Gemm");
}

/* ---- reporting ---- */

static enum mpq_status grow(struct mpq_linter *linter)
{
    struct mpq_findings *out = linter->out;
    if (out->n < out->capacity)
        return MPQ_OK;
    uint32_t capacity = out->capacity * 2 + 64;
    struct mpq_finding *at =
        mpq_arena_grow(linter->ctx, linter->arena, out->at, out->n, capacity, sizeof *at);
    if (!at)
        return MPQ_E_NOMEM;
    out->at = at;
    out->capacity = capacity;
    return MPQ_OK;
}

enum mpq_status mpq_lint_add(struct mpq_linter *linter, enum mpq_lint_rule_id rule,
                             const struct mpq_graph *graph, const struct mpq_node *node,
                             const char *format, ...)
{
    struct mpq_finding finding = {.rule = mpq_lint_rule_at(rule)};
    MPQ_TRY(grow(linter));
    if (node) {
        finding.node = mpq_arena_printf(linter->ctx, linter->arena, "node '%s' (%s)",
                                        mpq_node_label(graph, node), node->op_type);
        if (!finding.node)
            return MPQ_E_NOMEM;
    }
    if (format) {
        char text[1024];
        va_list args;
        va_start(args, format);
        (void)vsnprintf(text, sizeof text, format, args);
        va_end(args);
        finding.detail = mpq_arena_strdup(linter->ctx, linter->arena, text);
        if (!finding.detail)
            return MPQ_E_NOMEM;
    }
    linter->out->at[linter->out->n++] = finding;
    linter->out->count[finding.rule->severity]++;
    return MPQ_OK;
}

/* ---- all rules ---- */

static enum mpq_status mark_live(struct mpq_linter *linter)
{
    const struct mpq_graph *graph = linter->fused;
    bool *is_wanted =
        mpq_arena_alloc(linter->ctx, linter->arena, graph->n_value, sizeof *is_wanted);
    linter->is_live =
        mpq_arena_alloc(linter->ctx, linter->arena, graph->n_node, sizeof *linter->is_live);
    if (!is_wanted || !linter->is_live)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < graph->n_output; i++)
        is_wanted[graph->output[i]] = true;
    for (mpq_node_id n = graph->n_node; n-- > 0;) {
        const struct mpq_node *node = &graph->node[n];
        for (uint32_t i = 0; i < node->n_out; i++)
            linter->is_live[n] |= node->out[i] != MPQ_NO_VALUE && is_wanted[node->out[i]];
        for (uint32_t i = 0; i < node->n_in && linter->is_live[n]; i++)
            if (node->in[i] != MPQ_NO_VALUE)
                is_wanted[node->in[i]] = true;
    }
    return MPQ_OK;
}

enum mpq_status mpq_lint(struct mpq_ctx *ctx, struct mpq_arena *arena,
                         const struct mpq_lint_file *file, struct mpq_findings *out)
{
    static enum mpq_status (*const check[])(struct mpq_linter *) = {
#define MPQ_RULE(symbol, ...) mpq_lint_##symbol,
#include "quantcore/quant/lint_rules.inc"
#undef MPQ_RULE
    };
    struct mpq_graph *folded, *fused;
    *out = (struct mpq_findings){.n = 0};
    struct mpq_linter linter = {.ctx = ctx, .arena = arena, .file = file, .out = out};
    MPQ_TRY(mpq_fold_quantized(ctx, arena, file->graph, &folded));
    MPQ_TRY(mpq_fuse_integer(ctx, arena, folded, &fused));
    linter.graph = folded;
    linter.fused = fused;
    MPQ_TRY(mpq_graph_uses(ctx, arena, folded, &linter.uses));
    MPQ_TRY(mpq_graph_uses(ctx, arena, fused, &linter.fused_uses));
    MPQ_TRY(mark_live(&linter));
    for (size_t i = 0; i < MPQ_COUNT(check); i++)
        if (mpq_lint_rule_at(i)->readers & file->readers)
            MPQ_TRY(check[i](&linter));
    return MPQ_OK;
}
