/* What makes a graph a quantized one. */
#include <string.h>

#include "quantcore/pass/edit.h"
#include "quantcore/pass/pass.h"

static bool is_of_either_domain(const struct mpq_node *node, const char *op_type)
{
    return strcmp(node->op_type, op_type) == 0 &&
           (!*node->domain || strcmp(node->domain, "com.microsoft") == 0);
}

bool mpq_node_quantizes(const struct mpq_node *node)
{
    return is_of_either_domain(node, "QuantizeLinear");
}

bool mpq_node_dequantizes(const struct mpq_node *node)
{
    return is_of_either_domain(node, "DequantizeLinear");
}

enum mpq_status mpq_fold_quantized(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_graph *graph, struct mpq_graph **out)
{
    struct mpq_edit edit;
    MPQ_TRY(mpq_edit_begin(ctx, arena, graph, &edit));
    edit.keeps_dequantize = true;
    do {
        edit.has_changed = false;
        MPQ_TRY(mpq_drop_dead(&edit));
        MPQ_TRY(mpq_drop_idle(&edit));
        MPQ_TRY(mpq_fold_constant(&edit));
    } while (edit.has_changed);
    return mpq_edit_finish(&edit, out);
}
