#include "cli/input_shape.h"

#include <stdlib.h>
#include <string.h>

#include "calibration/dataset.h"

/* The sizes "1x3x224x224" as a shape; what comes after them is in *end. */
static bool parse_sizes(const char *text, const char **end, struct mpq_shape *out)
{
    out->rank = 0;
    for (;; text++) {
        char *stop;
        if (out->rank == MPQ_MAX_RANK || *text < '1' || *text > '9')
            return false;
        long long size = strtoll(text, &stop, 10);
        if (size > INT32_MAX)
            return false;
        out->dim[out->rank++] = size;
        text = *end = stop;
        if (*text != 'x')
            return true;
    }
}

static enum mpq_status set_shape(struct mpq_ctx *ctx, const struct mpq_graph *graph,
                                 const char *name, size_t length, const struct mpq_shape *typed,
                                 struct mpq_shape *shape)
{
    for (uint32_t i = 0; i < graph->n_input; i++) {
        const struct mpq_value *value = &graph->value[graph->input[i]];
        if (strlen(value->name) != length || memcmp(value->name, name, length) != 0)
            continue;
        bool fits = typed->rank == value->shape.rank;
        for (int d = 0; fits && d < typed->rank; d++)
            fits = value->shape.dim[d] < 0 || value->shape.dim[d] == typed->dim[d];
        if (!fits || (value->shape.rank > 0 && value->shape.dim[0] < 0 && typed->dim[0] != 1))
            return mpq_fail(ctx, MPQ_E_USAGE,
                            "--input-shape: %s is no shape of one sample for input '%s', which is "
                            "declared %s",
                            MPQ_SHAPE_TEXT(typed), value->name, MPQ_SHAPE_TEXT(&value->shape));
        shape[i] = *typed;
        return MPQ_OK;
    }
    return mpq_fail(ctx, MPQ_E_USAGE, "--input-shape: the model has no input '%.*s'", (int)length,
                    name);
}

/* NAME=1x3x224x224,NAME=... A name may have both characters in it, so the sizes are looked for at
 * the last '=' before the next comma that follows sizes. */
static enum mpq_status apply_option(struct mpq_ctx *ctx, const struct mpq_graph *graph,
                                    const char *text, struct mpq_shape *shape)
{
    const char *whole = text;
    while (*text) {
        struct mpq_shape typed;
        const char *end, *equals = strchr(text, '=');
        while (equals && !(parse_sizes(equals + 1, &end, &typed) && (!*end || *end == ',')))
            equals = strchr(equals + 1, '=');
        if (!equals)
            return mpq_fail(
                ctx, MPQ_E_USAGE,
                "--input-shape: '%s' is not NAME=SIZExSIZE..., several joined by commas", whole);
        MPQ_TRY(set_shape(ctx, graph, text, (size_t)(equals - text), &typed, shape));
        text = *end ? end + 1 : end;
    }
    return MPQ_OK;
}

enum mpq_status mpq_input_shape_assume(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const struct mpq_options *options, const char *data,
                                       struct mpq_graph *graph)
{
    bool is_open = false;
    struct mpq_shape *shape = mpq_arena_alloc(ctx, arena, graph->n_input, sizeof *shape);
    if (!shape)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < graph->n_input; i++)
        shape[i] = graph->value[graph->input[i]].shape;
    if (options->input_shape)
        MPQ_TRY(apply_option(ctx, graph, options->input_shape, shape));
    for (uint32_t i = 0; i < graph->n_input; i++)
        for (int d = 1; d < shape[i].rank; d++)
            is_open |= shape[i].dim[d] < 0;
    if (is_open && data)
        MPQ_TRY(mpq_dataset_guess(ctx, arena, data, graph, &options->preprocess, shape));
    graph->assumed = shape;
    return MPQ_OK;
}
