/* What is wrong, slow or noteworthy in a quantized graph: the rules of
 * quantcore/quant/lint_rules.inc looked for in it. */
#ifndef MPQ_PASS_LINT_H
#define MPQ_PASS_LINT_H

#include "quantcore/ir/graph.h"
#include "quantcore/quant/compat.h"

struct mpq_lint_file {
    const struct mpq_graph *graph; /* as imported               */
    int64_t ir_version, opset;     /* of the file, 0: not known */
    unsigned readers;              /* MPQ_FOR_ALL, or the one runtime whose findings are wanted */
    bool has_functions;            /* local ones, written out in the graph                      */
};

struct mpq_finding {
    const struct mpq_lint_rule *rule;
    const char *node;   /* "node 'name' (Op)"; NULL: the file as a whole */
    const char *detail; /* NULL: none                                    */
};

struct mpq_findings {
    struct mpq_finding *at; /* [n] by rule, then in order of nodes */
    uint32_t n, capacity;
    uint32_t count[3]; /* of each severity */
};

/* Works on graphs with unknown operators and shapes, too. A graph without QuantizeLinear and
 * DequantizeLinear has notes only. */
enum mpq_status mpq_lint(struct mpq_ctx *ctx, struct mpq_arena *arena,
                         const struct mpq_lint_file *file, struct mpq_findings *out) MPQ_CHECKED;

#endif
