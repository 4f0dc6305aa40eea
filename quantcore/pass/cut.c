#include "quantcore/pass/cut.h"

#include <string.h>

/* The constants that carried nodes share with others, as copies of their own. */
struct sharing {
    bool *is_run_read;     /* [n_value] by a node that can be run */
    mpq_value_id *carried; /* [n_value] the copy; 0: none yet     */
};

static enum mpq_status find_sharing(struct mpq_ctx *ctx, const struct mpq_graph *graph,
                                    const bool *runs, struct mpq_arena *arena, struct sharing *out)
{
    out->is_run_read = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *out->is_run_read);
    out->carried = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *out->carried);
    if (!out->is_run_read || !out->carried)
        return MPQ_E_NOMEM;
    for (mpq_node_id n = 0; n < graph->n_node; n++)
        for (uint32_t i = 0; runs[n] && i < graph->node[n].n_in; i++)
            if (graph->node[n].in[i] != MPQ_NO_VALUE)
                out->is_run_read[graph->node[n].in[i]] = true;
    return MPQ_OK;
}

static enum mpq_status add_carried(struct mpq_ctx *ctx, struct mpq_graph *whole,
                                   struct sharing *sharing, const struct mpq_node *from)
{
    struct mpq_node node = *from;
    mpq_value_id *in = mpq_arena_copy(ctx, whole->arena, node.in, node.n_in * sizeof *node.in);
    if (!in)
        return MPQ_E_NOMEM;
    node.in = in;
    for (uint32_t i = 0; i < node.n_in; i++) {
        mpq_value_id v = in[i];
        if (v == MPQ_NO_VALUE || !whole->value[v].constant || !sharing->is_run_read[v])
            continue;
        if (!sharing->carried[v]) {
            const char *stem = whole->value[v].name;
            enum mpq_dtype file_dtype = whole->value[v].file_dtype;
            MPQ_TRY(mpq_graph_add_constant(ctx, whole, stem, whole->value[v].constant,
                                           &sharing->carried[v]));
            whole->value[sharing->carried[v]].file_dtype = file_dtype;
        }
        in[i] = sharing->carried[v];
    }
    return mpq_graph_add_node(ctx, whole, &node, NULL);
}

/* The nodes in a new order, which is one of execution, too: nothing that can be run waits for a
 * carried node. */
static enum mpq_status reorder(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               const struct mpq_graph *graph, const bool *runs,
                               struct mpq_graph **out)
{
    struct sharing sharing;
    struct mpq_graph *whole;
    MPQ_TRY(mpq_graph_clone(ctx, arena, graph, true, &whole));
    MPQ_TRY(find_sharing(ctx, graph, runs, arena, &sharing));
    for (mpq_node_id n = 0; n < graph->n_node; n++)
        if (runs[n])
            MPQ_TRY(mpq_graph_add_node(ctx, whole, &graph->node[n], NULL));
    for (mpq_node_id n = 0; n < graph->n_node; n++)
        if (!runs[n])
            MPQ_TRY(add_carried(ctx, whole, &sharing, &graph->node[n]));
    *out = whole;
    return mpq_graph_check(ctx, whole);
}

/* The first n_run nodes, yet without outputs. */
static enum mpq_status keep_first(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_graph *whole, uint32_t n_run, size_t max_output,
                                  struct mpq_graph **out)
{
    MPQ_TRY(mpq_graph_clone(ctx, arena, whole, true, out));
    for (mpq_node_id n = 0; n < n_run; n++)
        MPQ_TRY(mpq_graph_add_node(ctx, *out, &whole->node[n], NULL));
    (*out)->n_output = 0;
    (*out)->output = mpq_arena_alloc(ctx, arena, max_output, sizeof *(*out)->output);
    return (*out)->output ? MPQ_OK : MPQ_E_NOMEM;
}

static bool is_made(const struct mpq_graph *whole, uint32_t n_run, mpq_value_id v)
{
    return whole->value[v].producer != MPQ_NO_NODE && whole->value[v].producer < n_run;
}

static enum mpq_status choose_outputs(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      const struct mpq_binding *binding, struct mpq_cut *cut)
{
    const struct mpq_graph *whole = cut->whole;
    uint32_t n_run = whole->n_node - cut->n_carried;
    size_t n_max = whole->n_output;
    for (mpq_node_id n = n_run; n < whole->n_node; n++)
        n_max += whole->node[n].n_in;
    MPQ_TRY(keep_first(ctx, arena, whole, n_run, n_max, &cut->run));
    struct mpq_cut_output *output = mpq_arena_alloc(ctx, arena, n_max, sizeof *output);
    bool *is_output = mpq_arena_alloc(ctx, arena, whole->n_value, sizeof *is_output);
    if (!output || !is_output)
        return MPQ_E_NOMEM;
    cut->output = output;
    for (uint32_t i = 0; i < whole->n_output; i++) {
        mpq_value_id v = whole->output[i];
        if (whole->value[v].producer != MPQ_NO_NODE && !is_made(whole, n_run, v))
            continue;
        is_output[v] = true;
        output[cut->run->n_output] = (struct mpq_cut_output){MPQ_NO_NODE, i};
        cut->run->output[cut->run->n_output++] = v;
    }
    for (uint32_t k = 0; k < cut->n_carried; k++) {
        const struct mpq_node *node = &whole->node[n_run + k];
        for (uint32_t i = 0; i < node->n_in; i++) {
            mpq_value_id v = node->in[i];
            if (v == MPQ_NO_VALUE || !is_made(whole, n_run, v) || is_output[v] ||
                binding->tensor[v].data)
                continue;
            is_output[v] = true;
            output[cut->run->n_output] = (struct mpq_cut_output){k, i};
            cut->run->output[cut->run->n_output++] = v;
        }
    }
    return MPQ_OK;
}

static enum mpq_status split(struct mpq_ctx *ctx, struct mpq_arena *arena,
                             const struct mpq_graph *graph, struct mpq_binding *binding,
                             struct mpq_cut *out)
{
    bool *runs = mpq_arena_alloc(ctx, arena, graph->n_node, sizeof *runs);
    if (!runs)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_bind_runnable(ctx, arena, graph, runs, binding));
    for (mpq_node_id n = 0; n < graph->n_node; n++)
        out->n_carried += !runs[n];
    return reorder(ctx, arena, graph, runs, &out->whole);
}

/* The stored sentence, no longer an error. NULL: no memory. */
static const char *take_message(struct mpq_ctx *ctx, struct mpq_arena *arena)
{
    char sentence[sizeof ctx->message];
    memcpy(sentence, ctx->message, sizeof sentence);
    mpq_ctx_clear(ctx);
    return mpq_arena_strdup(ctx, arena, sentence);
}

enum mpq_status mpq_cut_bind(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_graph *graph,
                             struct mpq_cut *out, struct mpq_binding *out_binding)
{
    struct mpq_cut cut = {.whole = graph, .run = graph};
    struct mpq_binding binding;
    enum mpq_status status = mpq_bind_batch(ctx, arena, graph, 1, out_binding);
    if (status != MPQ_E_UNSUPPORTED) {
        *out = cut;
        return status;
    }
    cut.why = take_message(ctx, arena);
    if (!cut.why)
        return MPQ_E_NOMEM;
    status = split(ctx, arena, graph, &binding, &cut);
    if (status == MPQ_E_SHAPE) {
        const char *shape = take_message(ctx, arena);
        return !shape
                   ? MPQ_E_NOMEM
                   : mpq_fail(ctx, MPQ_E_UNSUPPORTED, "%s; nor can the others: %s", cut.why, shape);
    }
    MPQ_TRY(status);
    MPQ_TRY(choose_outputs(ctx, arena, &binding, &cut));
    if (!cut.run->n_output)
        return mpq_fail(ctx, MPQ_E_UNSUPPORTED, "%s", cut.why);
    *out = cut;
    return mpq_bind_batch(ctx, arena, cut.run, 1, out_binding);
}

enum mpq_status mpq_cut_like(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_graph *graph,
                             const struct mpq_cut *like, struct mpq_graph **out)
{
    struct mpq_cut cut = {0};
    struct mpq_binding binding;
    MPQ_TRY(split(ctx, arena, graph, &binding, &cut));
    uint32_t n_output = like->run->n_output, n_run = cut.whole->n_node - cut.n_carried;
    bool is_same = cut.n_carried >= like->n_carried; /* Casts of outputs may follow */
    for (uint32_t k = 0; k < like->n_carried && is_same; k++) {
        const struct mpq_node *want = &like->whole->node[like->run->n_node + k];
        const struct mpq_node *node = &cut.whole->node[n_run + k];
        is_same = strcmp(node->op_type, want->op_type) == 0 && node->n_in == want->n_in;
    }
    MPQ_TRY(keep_first(ctx, arena, cut.whole, n_run, n_output, out));
    for (uint32_t i = 0; i < n_output && is_same; i++) {
        struct mpq_cut_output o = like->output[i];
        mpq_value_id v = o.carried == MPQ_NO_NODE ? cut.whole->output[o.input]
                                                  : cut.whole->node[n_run + o.carried].in[o.input];
        is_same = v != MPQ_NO_VALUE &&
                  (cut.whole->value[v].producer == MPQ_NO_NODE || is_made(cut.whole, n_run, v));
        (*out)->output[(*out)->n_output++] = v;
    }
    if (!is_same)
        return mpq_fail(ctx, MPQ_E_NUMERIC,
                        "the nodes that cannot be run are not those of the model");
    return MPQ_OK;
}

char *mpq_cut_list(struct mpq_ctx *ctx, struct mpq_arena *arena, const struct mpq_cut *cut)
{
    enum { MAX_NAMED = 20 };
    const struct mpq_graph *whole = cut->whole;
    uint32_t n_named = cut->n_carried < MAX_NAMED ? cut->n_carried : MAX_NAMED;
    char *list = mpq_arena_strdup(ctx, arena, "");
    for (uint32_t k = 0; k < n_named && list; k++) {
        const struct mpq_node *node = &whole->node[cut->run->n_node + k];
        list = mpq_arena_printf(ctx, arena, "%s%s'%s' (%s)", list, k ? ", " : "",
                                mpq_node_label(whole, node), node->op_type);
    }
    if (list && n_named < cut->n_carried)
        list = mpq_arena_printf(ctx, arena, "%s and %u more", list, cut->n_carried - n_named);
    return list;
}
