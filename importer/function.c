#include "importer/function.h"

#include <inttypes.h>
#include <string.h>

#include "importer/rewrite.h"
#include "quantcore/base/limits.h"

/* What a list of nodes becomes, calls written out. */
struct extent {
    uint64_t n_node, bytes;
};

struct inlining {
    struct mpq_ctx *ctx;
    struct mpq_arena *arena;
    Onnx__ModelProto *model;
    struct mpq_strmap first; /* name of a function -> the first that has it */
    uint32_t *next;          /* [n_functions] and the next one, or MPQ_STRMAP_NONE */
    struct extent *extent;   /* [n_functions] n_node 0: not measured */
    uint32_t n_node;         /* made so far, in all scopes, and calls written out */
};

static bool same_text(const char *a, const char *b)
{
    return strcmp(a ? a : "", b ? b : "") == 0;
}

static bool same_domain(const char *a, const char *b)
{
    const char *name[2] = {a ? a : "", b ? b : ""};
    for (int i = 0; i < 2; i++)
        if (strcmp(name[i], "ai.onnx") == 0)
            name[i] = "";
    return strcmp(name[0], name[1]) == 0;
}

/* Index of the function that the node calls, or MPQ_STRMAP_NONE. */
static uint32_t find_function(const struct inlining *in, const Onnx__NodeProto *node)
{
    uint32_t i = node->op_type ? mpq_strmap_get(&in->first, node->op_type) : MPQ_STRMAP_NONE;
    for (; i != MPQ_STRMAP_NONE; i = in->next[i]) {
        const Onnx__FunctionProto *function = in->model->functions[i];
        if (same_domain(function->domain, node->domain) &&
            same_text(function->overload, node->overload))
            break;
    }
    return i;
}

static enum mpq_status list_functions(struct inlining *in)
{
    size_t n = in->model->n_functions;
    in->next = mpq_arena_alloc(in->ctx, in->arena, n, sizeof *in->next);
    in->extent = mpq_arena_alloc(in->ctx, in->arena, n, sizeof *in->extent);
    if (!in->next || !in->extent)
        return MPQ_E_NOMEM;
    for (size_t i = n; i-- > 0;) { /* of two that are alike the first counts */
        const char *name = in->model->functions[i]->name;
        uint32_t known = MPQ_STRMAP_NONE;
        in->next[i] = MPQ_STRMAP_NONE;
        if (!name)
            continue;
        MPQ_TRY(mpq_strmap_add(in->ctx, in->arena, &in->first, name, (uint32_t)i, &known));
        if (known == i)
            continue;
        in->next[i] = known;
        mpq_strmap_set(&in->first, name, (uint32_t)i);
    }
    return MPQ_OK;
}

static bool uses_domain(Onnx__NodeProto **node, size_t n_node, const char *domain)
{
    for (size_t n = 0; n < n_node; n++) {
        if (same_domain(node[n]->domain, domain))
            return true;
        for (size_t i = 0; i < node[n]->n_attribute; i++) {
            const Onnx__AttributeProto *attr = node[n]->attribute[i];
            if (attr->g && uses_domain(attr->g->node, attr->g->n_node, domain))
                return true;
            for (size_t j = 0; j < attr->n_graphs; j++)
                if (uses_domain(attr->graphs[j]->node, attr->graphs[j]->n_node, domain))
                    return true;
        }
    }
    return false;
}

static enum mpq_status add_opset(const struct inlining *in, Onnx__OperatorSetIdProto *set)
{
    Onnx__ModelProto *model = in->model;
    size_t n = model->n_opset_import;
    Onnx__OperatorSetIdProto **list =
        mpq_arena_grow(in->ctx, in->arena, model->opset_import, n, n + 1, sizeof *list);
    if (!list)
        return MPQ_E_NOMEM;
    list[n] = set;
    model->opset_import = list;
    model->n_opset_import++;
    return MPQ_OK;
}

/* Operators mean what their opset says, and a model has one opset a domain. It need not name those
 * that its functions alone use. */
static enum mpq_status merge_opsets(const struct inlining *in, const Onnx__FunctionProto *function)
{
    for (size_t i = 0; i < function->n_opset_import; i++) {
        Onnx__OperatorSetIdProto *theirs = function->opset_import[i];
        bool is_named = false;
        if (!uses_domain(function->node, function->n_node, theirs->domain))
            continue;
        for (size_t j = 0; j < in->model->n_opset_import; j++) {
            const Onnx__OperatorSetIdProto *ours = in->model->opset_import[j];
            if (!same_domain(ours->domain, theirs->domain))
                continue;
            is_named = true;
            if (ours->version != theirs->version)
                return mpq_fail(in->ctx, MPQ_E_UNSUPPORTED,
                                "function '%s' is written in opset %" PRId64 " of domain '%s', the "
                                "model in %" PRId64,
                                function->name, theirs->version,
                                theirs->domain ? theirs->domain : "", ours->version);
        }
        if (!is_named)
            MPQ_TRY(add_opset(in, theirs));
    }
    return MPQ_OK;
}

/* ---- attributes ---- */

/* What a reference to `name` stands for in this call, or NULL. */
static const Onnx__AttributeProto *referred(const Onnx__NodeProto *call,
                                            const Onnx__FunctionProto *function, const char *name)
{
    const Onnx__AttributeProto *attr = mpq_rewrite_attr(call, name);
    for (size_t i = 0; i < function->n_attribute_proto && !attr; i++)
        if (same_text(function->attribute_proto[i]->name, name))
            attr = function->attribute_proto[i];
    return attr;
}

static enum mpq_status bind_nodes(struct inlining *in, const Onnx__NodeProto *call,
                                  const Onnx__FunctionProto *function, Onnx__NodeProto **node,
                                  size_t n);

/* References in a copied node, and in its bodies, get the values of this call. */
static enum mpq_status bind_attrs(struct inlining *in, const Onnx__NodeProto *call,
                                  const Onnx__FunctionProto *function, Onnx__NodeProto *node)
{
    size_t n_left = 0;
    for (size_t i = 0; i < node->n_attribute; i++) {
        Onnx__AttributeProto *attr = node->attribute[i];
        if (attr->ref_attr_name && *attr->ref_attr_name) {
            const Onnx__AttributeProto *value = referred(call, function, attr->ref_attr_name);
            if (!value)
                continue;
            char *name = attr->name;
            memcpy(attr, value, sizeof *attr);
            attr->name = name;
        }
        if (attr->g)
            MPQ_TRY(bind_nodes(in, call, function, attr->g->node, attr->g->n_node));
        for (size_t j = 0; j < attr->n_graphs; j++)
            MPQ_TRY(bind_nodes(in, call, function, attr->graphs[j]->node, attr->graphs[j]->n_node));
        node->attribute[n_left++] = attr;
    }
    node->n_attribute = n_left;
    return MPQ_OK;
}

static enum mpq_status bind_nodes(struct inlining *in, const Onnx__NodeProto *call,
                                  const Onnx__FunctionProto *function, Onnx__NodeProto **node,
                                  size_t n)
{
    for (size_t i = 0; i < n; i++)
        MPQ_TRY(bind_attrs(in, call, function, node[i]));
    return MPQ_OK;
}

static enum mpq_status fail_call(const struct inlining *in, const Onnx__NodeProto *call,
                                 const char *sentence)
{
    return mpq_fail(in->ctx, MPQ_E_FORMAT, "node '%s' (%s): %s", mpq_rewrite_label(call),
                    call->op_type, sentence);
}

/* ---- how much it becomes ---- */

static enum mpq_status measure_nodes(struct inlining *in, Onnx__NodeProto **node, size_t n,
                                     int depth, struct extent *sum);

static enum mpq_status measure_call(struct inlining *in, const Onnx__NodeProto *call, uint32_t i,
                                    int depth, struct extent *sum)
{
    const Onnx__FunctionProto *function = in->model->functions[i];
    struct extent *extent = &in->extent[i];
    if (depth > MPQ_LIMIT_DEPTH)
        return fail_call(in, call, "its function calls itself");
    if (!extent->n_node) {
        struct extent whole = {.n_node = 1};
        MPQ_TRY(measure_nodes(in, function->node, function->n_node, depth, &whole));
        *extent = whole;
    }
    sum->n_node += extent->n_node;
    sum->bytes += extent->bytes;
    if (call->name) /* it goes before the names of all of them */
        sum->bytes += extent->n_node * strlen(call->name);
    return MPQ_OK;
}

/* A node as it is copied, with names of its own for what it makes. */
static uint64_t node_bytes(const Onnx__NodeProto *node)
{
    uint64_t bytes = sizeof *node + (node->n_input + node->n_output) * sizeof(char *) +
                     node->n_attribute * (sizeof(char *) + sizeof *node->attribute[0]);
    bytes += node->name ? strlen(node->name) : 0;
    for (size_t i = 0; i < node->n_output; i++)
        bytes += strlen(node->output[i]);
    return bytes;
}

static enum mpq_status measure_nodes(struct inlining *in, Onnx__NodeProto **node, size_t n,
                                     int depth, struct extent *sum)
{
    for (size_t k = 0; k < n; k++) {
        uint32_t i = find_function(in, node[k]);
        sum->n_node++;
        sum->bytes += node_bytes(node[k]);
        if (i != MPQ_STRMAP_NONE)
            MPQ_TRY(measure_call(in, node[k], i, depth + 1, sum));
        for (size_t a = 0; a < node[k]->n_attribute; a++) {
            const Onnx__AttributeProto *attr = node[k]->attribute[a];
            if (attr->g)
                MPQ_TRY(measure_nodes(in, attr->g->node, attr->g->n_node, depth + 1, sum));
            for (size_t j = 0; j < attr->n_graphs; j++)
                MPQ_TRY(measure_nodes(in, attr->graphs[j]->node, attr->graphs[j]->n_node, depth + 1,
                                      sum));
        }
        if (sum->n_node > MPQ_LIMIT_NODES)
            return mpq_fail(in->ctx, MPQ_E_LIMIT,
                            "has more than %u nodes once functions are written out",
                            MPQ_LIMIT_NODES);
        if (sum->bytes > MPQ_LIMIT_CALL_BYTES)
            return mpq_fail(in->ctx, MPQ_E_LIMIT,
                            "takes more than %zu bytes once functions are written out",
                            MPQ_LIMIT_CALL_BYTES);
    }
    return MPQ_OK;
}

/* ---- names ---- */

static bool is_input(const Onnx__FunctionProto *function, const char *name)
{
    for (size_t i = 0; i < function->n_input; i++)
        if (same_text(function->input[i], name))
            return true;
    return false;
}

/* Inputs are the caller's values, outputs that a node of the body makes have the caller's name for
 * them, everything between has a name of its own. */
static enum mpq_status name_values(struct inlining *in, struct mpq_rewrite *rewrite,
                                   const Onnx__NodeProto *call, const Onnx__FunctionProto *function,
                                   struct mpq_renaming *renaming)
{
    static char absent[] = "";
    if (call->n_input > function->n_input || call->n_output > function->n_output)
        return fail_call(in, call, "has more inputs or outputs than its function");
    for (size_t n = 0; n < function->n_node; n++)
        for (size_t i = 0; i < function->node[n]->n_output; i++) {
            char *name = function->node[n]->output[i], *fresh = NULL;
            if (!*name)
                continue;
            MPQ_TRY(mpq_rewrite_name(rewrite, name, &fresh));
            MPQ_TRY(mpq_renaming_add(rewrite, renaming, name, fresh));
        }
    for (size_t i = 0; i < function->n_input; i++)
        MPQ_TRY(mpq_renaming_add(rewrite, renaming, function->input[i],
                                 i < call->n_input ? call->input[i] : absent));
    for (size_t i = 0; i < call->n_output; i++)
        if (*call->output[i] && !is_input(function, function->output[i]))
            MPQ_TRY(mpq_renaming_add(rewrite, renaming, function->output[i], call->output[i]));
    return MPQ_OK;
}

/* An output that is an input, or listed a second time, is a copy. */
static enum mpq_status copy_outputs(struct inlining *in, struct mpq_rewrite *rewrite,
                                    const Onnx__NodeProto *call,
                                    const Onnx__FunctionProto *function,
                                    const struct mpq_renaming *renaming)
{
    for (size_t i = 0; i < call->n_output; i++) {
        char *made = mpq_renaming_get(renaming, function->output[i]);
        if (!*call->output[i] || strcmp(made, call->output[i]) == 0)
            continue;
        if (!*made)
            return fail_call(in, call, "an output is an absent input of its function");
        MPQ_TRY(mpq_rewrite_op(rewrite, "Identity", 1, &made, call->output[i]));
    }
    return MPQ_OK;
}

/* ---- calls ---- */

static enum mpq_status put_nodes(struct inlining *in, struct mpq_rewrite *rewrite, int depth);

static enum mpq_status put_node(struct inlining *in, struct mpq_rewrite *rewrite,
                                Onnx__NodeProto *node, int depth);

static enum mpq_status put_call(struct inlining *in, struct mpq_rewrite *rewrite,
                                const Onnx__NodeProto *call, const Onnx__FunctionProto *function,
                                int depth)
{
    struct mpq_renaming renaming = {0};
    if (depth > MPQ_LIMIT_DEPTH)
        return fail_call(in, call, "its function calls itself");
    MPQ_TRY(merge_opsets(in, function));
    MPQ_TRY(name_values(in, rewrite, call, function, &renaming));
    for (size_t n = 0; n < function->n_node; n++) {
        Onnx__NodeProto *node = NULL;
        MPQ_TRY(mpq_rewrite_copy_node(rewrite, &renaming, function->node[n], &node));
        MPQ_TRY(bind_attrs(in, call, function, node));
        if (call->name && *call->name && node->name && *node->name) {
            node->name =
                same_text(node->name, function->name)
                    ? call->name
                    : mpq_arena_printf(in->ctx, in->arena, "%s/%s", call->name, node->name);
            if (!node->name)
                return MPQ_E_NOMEM;
        }
        MPQ_TRY(put_node(in, rewrite, node, depth + 1));
    }
    return copy_outputs(in, rewrite, call, function, &renaming);
}

static enum mpq_status put_body(struct inlining *in, const struct mpq_rewrite *outer,
                                Onnx__GraphProto *body, int depth)
{
    struct mpq_rewrite rewrite;
    mpq_rewrite_begin_body(outer, body, &rewrite);
    return put_nodes(in, &rewrite, depth);
}

/* Bodies that are arguments of calls have not been measured: they count once more. */
static enum mpq_status put_node(struct inlining *in, struct mpq_rewrite *rewrite,
                                Onnx__NodeProto *node, int depth)
{
    uint32_t callee = find_function(in, node);
    if (++in->n_node > MPQ_LIMIT_NODES)
        return mpq_fail(in->ctx, MPQ_E_LIMIT,
                        "has more than %u nodes once functions are written out", MPQ_LIMIT_NODES);
    if (callee != MPQ_STRMAP_NONE)
        return put_call(in, rewrite, node, in->model->functions[callee], depth);
    for (size_t i = 0; i < node->n_attribute; i++) {
        if (node->attribute[i]->g)
            MPQ_TRY(put_body(in, rewrite, node->attribute[i]->g, depth + 1));
        for (size_t j = 0; j < node->attribute[i]->n_graphs; j++)
            MPQ_TRY(put_body(in, rewrite, node->attribute[i]->graphs[j], depth + 1));
    }
    return mpq_rewrite_append(rewrite, node);
}

static enum mpq_status put_nodes(struct inlining *in, struct mpq_rewrite *rewrite, int depth)
{
    for (size_t n = 0; n < rewrite->graph->n_node; n++)
        MPQ_TRY(put_node(in, rewrite, rewrite->graph->node[n], depth));
    mpq_rewrite_end(rewrite);
    return MPQ_OK;
}

enum mpq_status mpq_inline_functions(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                     Onnx__ModelProto *model)
{
    struct inlining in = {.ctx = ctx, .arena = arena, .model = model};
    struct mpq_rewrite rewrite;
    size_t n_left = 0;
    if (!model->n_functions)
        return MPQ_OK;
    struct extent whole = {0};
    MPQ_TRY(list_functions(&in));
    MPQ_TRY(measure_nodes(&in, model->graph->node, model->graph->n_node, 0, &whole));
    MPQ_TRY(mpq_rewrite_begin(ctx, arena, model->graph, &rewrite));
    MPQ_TRY(put_nodes(&in, &rewrite, 0));
    model->n_functions = 0;
    for (size_t i = 0; i < model->n_opset_import; i++)
        if (same_domain(model->opset_import[i]->domain, "") ||
            uses_domain(model->graph->node, model->graph->n_node, model->opset_import[i]->domain))
            model->opset_import[n_left++] = model->opset_import[i];
    model->n_opset_import = n_left;
    return MPQ_OK;
}
