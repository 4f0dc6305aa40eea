#include "cli/branches.h"

#include <stdlib.h>
#include <string.h>

#include "importer/import.h"
#include "quantcore/pass/bind.h"

/* NAME=INTEGER,...: the data of those inputs. value [n_input] */
static enum mpq_status read_values(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_graph *graph, const char *text, void **value)
{
    while (text && *text) {
        const char *equals = strchr(text, '=');
        char *end = NULL;
        long long number = equals ? strtoll(equals + 1, &end, 10) : 0;
        uint32_t i = 0;
        if (!equals || end == equals + 1 || (*end && *end != ','))
            return mpq_fail(ctx, MPQ_E_USAGE, "--input-value: '%s' is not NAME=INTEGER", text);
        for (; i < graph->n_input; i++) {
            const char *name = graph->value[graph->input[i]].name;
            if (strlen(name) == (size_t)(equals - text) && !strncmp(name, text, strlen(name)))
                break;
        }
        const struct mpq_value *input = i < graph->n_input ? &graph->value[graph->input[i]] : NULL;
        bool is_integer = input && (mpq_dtype_is_integer(input->dtype) || input->dtype == MPQ_BOOL);
        if (!is_integer || !mpq_shape_is_known(&input->shape) ||
            mpq_shape_count(&input->shape) != 1)
            return mpq_fail(ctx, MPQ_E_USAGE,
                            "--input-value: '%.*s' is no input of one integer or bool",
                            (int)(equals - text), text);
        struct mpq_tensor tensor;
        MPQ_TRY(mpq_tensor_alloc(ctx, arena, input->dtype, &input->shape, &tensor));
        mpq_tensor_set_int(&tensor, 0, number);
        value[i] = tensor.data;
        text = *end ? end + 1 : end;
    }
    return MPQ_OK;
}

/* Which branch each If takes, where that is known; branch [n_node]. */
static enum mpq_status choose_branches(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const struct mpq_graph *graph, void *const *value,
                                       enum mpq_branch *branch, bool *out_any)
{
    struct mpq_ctx quiet = *ctx;
    struct mpq_binding binding;
    struct mpq_shape *shape = mpq_arena_alloc(ctx, arena, graph->n_input, sizeof *shape);
    if (!shape)
        return MPQ_E_NOMEM;
    if (mpq_bind_shapes(&quiet, graph, 1, shape) != MPQ_OK)
        for (uint32_t i = 0; i < graph->n_input; i++)
            shape[i] = graph->value[graph->input[i]].shape;
    MPQ_TRY(mpq_bind_partly(ctx, arena, graph, shape, value, &binding));
    *out_any = false;
    for (uint32_t n = 0; n < graph->n_node; n++) {
        const struct mpq_node *node = &graph->node[n];
        const struct mpq_tensor *condition =
            mpq_node_is(node, "If") && node->n_in == 1 ? &binding.tensor[node->in[0]] : NULL;
        if (!condition || !condition->data || condition->dtype != MPQ_BOOL ||
            mpq_shape_count(&condition->shape) != 1)
            continue;
        bool is_true = mpq_tensor_int(condition, 0) != 0;
        branch[n] = is_true ? MPQ_BRANCH_THEN : MPQ_BRANCH_ELSE;
        *out_any = true;
        mpq_log(ctx, MPQ_LOG_INFO, "If '%s' takes its %s branch", node->name,
                is_true ? "then" : "else");
    }
    return MPQ_OK;
}

static bool has_if(const struct mpq_graph *graph)
{
    for (uint32_t n = 0; n < graph->n_node; n++)
        if (mpq_node_is(&graph->node[n], "If"))
            return true;
    return false;
}

enum mpq_status mpq_branches_take(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_options *options, struct mpq_graph **graph)
{
    void **value = mpq_arena_alloc(ctx, arena, (*graph)->n_input, sizeof *value);
    if (!value)
        return MPQ_E_NOMEM;
    MPQ_TRY(read_values(ctx, arena, *graph, options->input_value, value));
    for (bool any = true; any && has_if(*graph);) {
        enum mpq_branch *branch = mpq_arena_alloc(ctx, arena, (*graph)->n_node, sizeof *branch);
        if (!branch)
            return MPQ_E_NOMEM;
        MPQ_TRY(choose_branches(ctx, arena, *graph, value, branch, &any));
        if (any)
            MPQ_TRY(mpq_import_branches(ctx, arena, *graph, branch, graph));
    }
    return MPQ_OK;
}
