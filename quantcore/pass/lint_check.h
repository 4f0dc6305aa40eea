/* What the checks of lint share. Private to this folder.
 *
 * A check is `enum mpq_status mpq_lint_<symbol>(struct mpq_linter *)` for a row of lint_rules.inc;
 * it adds findings and fails only for want of memory. */
#ifndef MPQ_PASS_LINT_CHECK_H
#define MPQ_PASS_LINT_CHECK_H

#include "quantcore/pass/lint.h"
#include "quantcore/pass/pass.h"

struct mpq_linter {
    struct mpq_ctx *ctx;
    struct mpq_arena *arena;
    const struct mpq_lint_file *file;
    const struct mpq_graph *graph; /* the file's, constants folded, DequantizeLinear kept */
    const struct mpq_graph *fused; /* as it runs on integers                              */
    struct mpq_uses uses, fused_uses;
    bool *is_live; /* [n_node of fused]: an output depends on it */
    struct mpq_findings *out;
};

#define MPQ_RULE(symbol, ...) enum mpq_status mpq_lint_##symbol(struct mpq_linter *linter);
#include "quantcore/quant/lint_rules.inc"
#undef MPQ_RULE

/* node NULL: the file. format NULL: no detail. */
enum mpq_status mpq_lint_add(struct mpq_linter *linter, enum mpq_lint_rule_id rule,
                             const struct mpq_graph *graph, const struct mpq_node *node,
                             const char *format, ...) MPQ_PRINTF(5, 6) MPQ_CHECKED;

/* All of these take either graph. */
const struct mpq_node *mpq_lint_producer(const struct mpq_graph *graph, mpq_value_id v);
/* The DequantizeLinear that makes input i, or NULL. */
const struct mpq_node *mpq_lint_dequantizer(const struct mpq_graph *graph,
                                            const struct mpq_node *node, uint32_t i);
/* Element type, UNDEFINED where the graph does not say. */
enum mpq_dtype mpq_lint_dtype(const struct mpq_graph *graph, mpq_value_id v);
/* Bits of the integers that a DequantizeLinear reads or a QuantizeLinear makes; 0: not known. */
int mpq_lint_bits(const struct mpq_graph *graph, const struct mpq_node *node);
const struct mpq_tensor *mpq_lint_constant(const struct mpq_graph *graph,
                                           const struct mpq_node *node, uint32_t i);
/* The QuantizeLinear that alone reads the node's output, a Relu or Clip between them; or NULL. */
const struct mpq_node *mpq_lint_quantizer(const struct mpq_linter *linter,
                                          const struct mpq_node *node);
/* Conv, MatMul or Gemm. */
bool mpq_lint_is_product(const struct mpq_node *node);

#endif
