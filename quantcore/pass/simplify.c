#include "quantcore/pass/edit.h"
#include "quantcore/pass/pass.h"

/* In this order, again and again: what one pass leaves, another may need. Dead nodes go first and
 * after every pass, so that they do not count as readers. */
static enum mpq_status (*const passes[])(struct mpq_edit *) = {
    mpq_drop_dead,      mpq_drop_idle, mpq_drop_dead,   mpq_fold_constant, mpq_drop_dead,
    mpq_fold_transpose, mpq_drop_dead, mpq_fold_affine, mpq_drop_dead,     mpq_fold_pad,
};

static enum mpq_status simplify(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                const struct mpq_graph *graph, bool keep_norms,
                                struct mpq_graph **out)
{
    struct mpq_edit edit;
    MPQ_TRY(mpq_edit_begin(ctx, arena, graph, &edit));
    edit.keep_norms = keep_norms;
    do {
        edit.has_changed = false;
        for (size_t i = 0; i < MPQ_COUNT(passes); i++)
            MPQ_TRY(passes[i](&edit));
    } while (edit.has_changed);
    return mpq_edit_finish(&edit, out);
}

enum mpq_status mpq_simplify(struct mpq_ctx *ctx, struct mpq_arena *arena,
                             const struct mpq_graph *graph, struct mpq_graph **out)
{
    return simplify(ctx, arena, graph, false, out);
}

enum mpq_status mpq_simplify_keep_norms(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                        const struct mpq_graph *graph, struct mpq_graph **out)
{
    return simplify(ctx, arena, graph, true, out);
}
