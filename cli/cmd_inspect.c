/* onnx-mpq inspect: what a model is made of, and which of it can be quantized. */
#include <inttypes.h>
#include <string.h>

#include "cli/command.h"
#include "cli/input_shape.h"
#include "cli/unfold.h"
#include "importer/import.h"
#include "quantcore/pass/cut.h"
#include "quantcore/pass/pass.h"

/* What could be found out; the tables are empty where the graph cannot be bound. */
struct model_facts {
    const char *path;
    size_t file_bytes;
    const struct mpq_graph *read, *graph; /* as imported, and simplified                   */
    bool is_bound;
    const char *why_not; /* the sentence, where not bound                                  */
    struct mpq_cut cut;  /* of the simplified graph; `graph` is its whole                   */
    struct mpq_binding binding; /* of cut.run                                              */
    struct mpq_layer_table layers;
};

/* Layers and MACs need concrete shapes and known operators; without them inspect still shows the
 * rest. Memory and interruption are failures all the same. */
static enum mpq_status bind_or_explain(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       struct model_facts *facts)
{
    struct mpq_graph *simple;
    enum mpq_status status = mpq_simplify(ctx, arena, facts->read, &simple);
    if (status == MPQ_OK) {
        facts->graph = simple;
        status = mpq_cut_bind(ctx, arena, simple, &facts->cut, &facts->binding);
    }
    if (status == MPQ_OK) {
        facts->graph = facts->cut.whole;
        status = mpq_layer_table_build(ctx, arena, facts->cut.run, &facts->binding, &facts->layers);
    }
    if (status == MPQ_OK && facts->cut.why && !facts->layers.n_layer)
        status = mpq_fail(ctx, MPQ_E_UNSUPPORTED, "%s", facts->cut.why);
    facts->is_bound = status == MPQ_OK;
    if (facts->is_bound || status == MPQ_E_NOMEM || status == MPQ_E_CANCELLED)
        return status;
    char sentence[sizeof ctx->message];
    memcpy(sentence, ctx->message, sizeof sentence);
    mpq_ctx_clear(ctx);
    facts->why_not = mpq_arena_strdup(ctx, arena, sentence);
    return facts->why_not ? MPQ_OK : MPQ_E_NOMEM;
}

static void print_shape(const struct mpq_value *value)
{
    if (value->shape.rank < 0) {
        fputs("[...]", stdout);
        return;
    }
    putchar('[');
    for (int i = 0; i < value->shape.rank; i++) {
        const char *name = value->dim_param ? value->dim_param[i] : NULL;
        if (i)
            putchar(',');
        if (value->shape.dim[i] >= 0)
            printf("%" PRId64, value->shape.dim[i]);
        else
            fputs(name && *name ? name : "?", stdout);
    }
    putchar(']');
}

static void print_values(const char *title, const struct mpq_graph *graph, const mpq_value_id *id,
                         uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        const struct mpq_value *value = &graph->value[id[i]];
        enum mpq_dtype dtype = value->file_dtype ? value->file_dtype : value->dtype;
        printf("%-12s%s %s ", i ? "" : title, value->name, dtype ? mpq_dtype_name(dtype) : "?");
        print_shape(value);
        putchar('\n');
    }
}

/* Elements of all constants that nodes read, each counted once. */
static enum mpq_status count_parameters(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                        const struct mpq_graph *graph, uint64_t *out)
{
    struct mpq_uses uses;
    MPQ_TRY(mpq_graph_uses(ctx, arena, graph, &uses));
    *out = 0;
    for (mpq_value_id v = 0; v < graph->n_value; v++) {
        const struct mpq_tensor *constant = graph->value[v].constant;
        bool is_read = uses.first[v] < uses.first[v + 1];
        if (constant && is_read && !mpq_dtype_is_integer(constant->dtype))
            *out += (uint64_t)mpq_shape_count(&constant->shape);
    }
    return MPQ_OK;
}

static bool same_operator(const struct mpq_node *a, const struct mpq_node *b)
{
    return strcmp(a->op_type, b->op_type) == 0 && strcmp(a->domain, b->domain) == 0;
}

/* "Conv 19, Relu 18": operators in order of first use; only_unknown: those without a row. Returns
 * how many were printed. */
static uint32_t print_operators(const struct mpq_graph *graph, bool only_unknown)
{
    uint32_t n_printed = 0;
    for (mpq_node_id i = 0; i < graph->n_node; i++) {
        const struct mpq_node *node = &graph->node[i];
        bool seen = only_unknown && node->op;
        for (mpq_node_id j = 0; j < i && !seen; j++)
            seen = same_operator(node, &graph->node[j]);
        if (seen)
            continue;
        uint32_t n = 0;
        for (mpq_node_id j = i; j < graph->n_node; j++)
            n += same_operator(node, &graph->node[j]);
        printf("%s%s%s%s %" PRIu32, n_printed ? ", " : "", node->domain, *node->domain ? "::" : "",
               node->op_type, n);
        if (only_unknown)
            printf(" (opset %" PRId64 "%s%s)", mpq_node_opset(graph, node),
                   node->refusal ? ": " : "", node->refusal ? node->refusal : "");
        n_printed++;
    }
    return n_printed;
}

static bool has_subgraphs(const struct mpq_graph *graph)
{
    for (mpq_node_id i = 0; i < graph->n_node; i++)
        for (size_t a = 0; a < graph->node[i].attr_set.n; a++)
            if (graph->node[i].attr_set.attr[a].kind == MPQ_ATTR_OPAQUE)
                return true;
    return false;
}

static void print_count(const char *title, uint64_t n, const char *note)
{
    printf("%-12s%" PRIu64, title, n);
    if (n >= 1000000)
        printf(" (%.1f M)", (double)n / 1e6);
    printf("%s\n", note);
}

static enum mpq_status print_facts(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct model_facts *facts)
{
    uint64_t n_param, macs = 0;
    MPQ_TRY(count_parameters(ctx, arena, facts->read, &n_param));
    printf("%-12s%s, %zu bytes\n", "file", facts->path, facts->file_bytes);
    /* Operators of an older file have been brought to opset 13. */
    printf("%-12s%" PRId64 " as read\n", "opset", facts->read->opset);
    print_values("inputs", facts->read, facts->read->input, facts->read->n_input);
    print_values("outputs", facts->read, facts->read->output, facts->read->n_output);
    printf("%-12s%" PRIu32, "nodes", facts->read->n_node);
    if (facts->graph != facts->read)
        printf(", %" PRIu32 " after simplification", facts->graph->n_node);
    printf("\n%-12s", "operators");
    print_operators(facts->graph, false);
    putchar('\n');
    print_count("parameters", n_param,
                has_subgraphs(facts->read) ? ", without those of subgraphs" : "");
    if (facts->is_bound) {
        for (mpq_node_id i = 0; i < facts->cut.run->n_node; i++)
            macs += mpq_bind_macs(facts->cut.run, &facts->binding, i);
        print_count("MACs", macs, " a sample");
    }
    return MPQ_OK;
}

static int name_width(const struct mpq_layer_table *layers)
{
    size_t width = 5;
    for (uint32_t l = 0; l < layers->n_layer; l++)
        if (strlen(layers->layer[l].name) > width)
            width = strlen(layers->layer[l].name);
    return width > 48 ? 48 : (int)width;
}

static void print_layers(const struct model_facts *facts)
{
    const struct mpq_layer_table *layers = &facts->layers;
    uint64_t total = 0;
    int width = name_width(layers);
    for (uint32_t l = 0; l < layers->n_layer; l++)
        total += (uint64_t)layers->layer[l].n_param;
    printf("\n%" PRIu32 " layer%s can be quantized, %" PRIu64 " parameters\n", layers->n_layer,
           layers->n_layer == 1 ? "" : "s", total);
    if (!layers->n_layer)
        return;
    printf("%4s  %-*s  %-8s  %-18s  %10s  %6s  %12s\n", "", width, "name", "op", "weight", "params",
           "share", "MACs");
    for (uint32_t l = 0; l < layers->n_layer; l++) {
        const struct mpq_layer *layer = &layers->layer[l];
        printf("%4" PRIu32 "  %-*s  %-8s  %-18s  %10" PRId64 "  %5.1f%%  %12" PRIu64 "%s\n", l,
               width, layer->name, facts->graph->node[layer->node].op_type,
               MPQ_SHAPE_TEXT(&facts->binding.tensor[layer->weight].shape), layer->n_param,
               100.0 * (double)layer->n_param / (double)(total ? total : 1), layer->macs,
               layer->is_depthwise     ? "  depthwise"
               : layer->is_weight_only ? "  weight-only"
                                       : "");
    }
}

static void print_rejected(const struct model_facts *facts)
{
    const struct mpq_layer_table *layers = &facts->layers;
    if (layers->n_rejected)
        printf("\n%" PRIu32 " node%s with parameters stay%s float\n", layers->n_rejected,
               layers->n_rejected == 1 ? "" : "s", layers->n_rejected == 1 ? "s" : "");
    for (uint32_t i = 0; i < layers->n_rejected; i++) {
        const struct mpq_node *node = &facts->graph->node[layers->rejected[i].node];
        printf("  %s (%s): %s\n", mpq_node_label(facts->graph, node), node->op_type,
               layers->rejected[i].reason);
    }
}

static enum mpq_status print_carried(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                     const struct mpq_cut *cut)
{
    const char *list = mpq_cut_list(ctx, arena, cut);
    if (!list)
        return MPQ_E_NOMEM;
    if (cut->why)
        printf("\n%" PRIu32 " node%s not run but carried as they are: %s\n  %s\n", cut->n_carried,
               cut->n_carried == 1 ? "" : "s", list, cut->why);
    return MPQ_OK;
}

/* Where nothing can be bound: the weights there are, quantizable or not. */
static void print_weights(const struct mpq_graph *graph)
{
    enum { MIN_ELEMENTS = 64 }; /* as for the layer table's rejected nodes */
    bool any = false;
    for (mpq_node_id i = 0; i < graph->n_node; i++) {
        const struct mpq_node *node = &graph->node[i];
        for (uint32_t k = 0; k < node->n_in; k++) {
            const struct mpq_tensor *weight =
                node->in[k] == MPQ_NO_VALUE ? NULL : graph->value[node->in[k]].constant;
            if (weight && !mpq_dtype_is_integer(weight->dtype) &&
                mpq_shape_count(&weight->shape) >= MIN_ELEMENTS) {
                printf("%s  %s (%s): %s %s\n", any ? "" : "\nweights\n",
                       mpq_node_label(graph, node), node->op_type, mpq_dtype_name(weight->dtype),
                       MPQ_SHAPE_TEXT(&weight->shape));
                any = true;
            }
        }
    }
}

static bool has_unknown_operator(const struct mpq_graph *graph)
{
    for (mpq_node_id i = 0; i < graph->n_node; i++)
        if (!graph->node[i].op)
            return true;
    return false;
}

enum mpq_status mpq_cmd_inspect(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                const struct mpq_options *options)
{
    struct model_facts facts = {.path = options->model};
    struct mpq_graph *graph;
    MPQ_TRY(mpq_import_file(ctx, arena, options->model, &graph, &facts.file_bytes));
    MPQ_TRY(mpq_input_shape_assume(ctx, arena, options, NULL, graph));
    MPQ_TRY(mpq_unfold(ctx, arena, options, &graph));
    facts.read = facts.graph = graph;
    MPQ_TRY(bind_or_explain(ctx, arena, &facts));
    MPQ_TRY(print_facts(ctx, arena, &facts));
    if (has_unknown_operator(facts.graph)) {
        printf("%-12s", "unknown");
        print_operators(facts.graph, true);
        putchar('\n');
    }
    if (facts.is_bound) {
        print_layers(&facts);
        print_rejected(&facts);
        MPQ_TRY(print_carried(ctx, arena, &facts.cut));
    } else {
        print_weights(facts.graph);
        printf("\nWhat can be quantized is not known: %s.\n", facts.why_not);
    }
    return MPQ_OK;
}
