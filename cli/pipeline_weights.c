/* convert --weights-only: nothing is run. Each layer's weights are fitted at every width, the
 * search trades their relative errors for bytes, and all that is not a weight goes into the file as
 * it came, but for constants whose last bits the file need not have. */
#include <math.h>
#include <string.h>

#include "cli/input_shape.h"
#include "cli/output.h"
#include "cli/pick.h"
#include "cli/pipeline.h"
#include "cli/unfold.h"
#include "importer/import.h"
#include "quantcore/base/workers.h"
#include "quantcore/pass/pass.h"
#include "quantcore/pass/round_constant.h"
#include "quantcore/quant/scale.h"

/* Those that are safe whatever the samples, of which there are none. */
static enum mpq_status round_constants(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    struct mpq_rounding rounding;
    struct mpq_graph *rounded;
    p->export_graph = p->graph;
    if (!p->options->target->folds)
        return MPQ_OK;
    MPQ_TRY(mpq_rounding_find(ctx, p->arena, p->graph, &p->layers, true, &rounding));
    MPQ_TRY(mpq_rounding_apply(ctx, p->arena, p->graph, &rounding, &rounded));
    p->export_graph = rounded;
    return MPQ_OK;
}

enum mpq_status mpq_pipeline_open_weights(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                          const struct mpq_options *options, struct mpq_pipeline *p)
{
    MPQ_TRY(mpq_pipeline_load(ctx, arena, options, NULL, p));
    p->cut.whole = p->cut.run = p->graph;
    MPQ_TRY(mpq_layer_table_build(ctx, arena, p->graph, NULL, &p->layers));
    MPQ_TRY(mpq_pick_exclude(ctx, arena, options->exclude, p->graph, &p->layers));
    if (!p->layers.n_layer)
        return mpq_fail(ctx, MPQ_E_UNSUPPORTED,
                        "%s: no layer can be quantized (see onnx-mpq inspect)", options->model);
    MPQ_TRY(mpq_scale_choose(ctx, arena, p->graph, p->layers.layer, p->layers.n_layer));
    return round_constants(ctx, p);
}

/* ---- fit ---- */

static const mpq_real *weights_of(const struct mpq_pipeline *p, uint32_t l)
{
    return p->graph->value[p->layers.layer[l].weight].constant->data;
}

static enum mpq_status fit_width(struct mpq_ctx *ctx, struct mpq_arena *scratch, void *arg,
                                 int64_t i)
{
    struct mpq_pipeline *p = arg;
    uint32_t l = (uint32_t)(i / MPQ_N_BITS);
    int bits = (int)(i % MPQ_N_BITS);
    if (!(p->candidates >> bits & 1))
        return MPQ_OK;
    bool is_integer = mpq_target_integer_widths(p->options->target) >> bits & 1;
    MPQ_TRY(mpq_weight_fit(ctx, scratch, &p->layers.layer[l], weights_of(p, l), bits, is_integer,
                           &p->fit[i]));
    p->sensitivity[i] = p->fit[i].error;
    return MPQ_OK;
}

/* What the search minimizes is the sum of the layers' relative errors: as many layers in a row with
 * independent errors have that much noise in their output for each unit of signal. A large layer
 * gets fewer bits by it than a small one, as its bytes cost more. */
enum mpq_status mpq_pipeline_fit_weights(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    size_t n_entry = (size_t)p->layers.n_layer * MPQ_N_BITS;
    p->fit = mpq_arena_alloc(ctx, p->arena, n_entry, sizeof *p->fit);
    p->sensitivity = mpq_arena_alloc(ctx, p->arena, n_entry, sizeof *p->sensitivity);
    if (!p->fit || !p->sensitivity)
        return MPQ_E_NOMEM;
    for (size_t i = 0; i < n_entry; i++) {
        size_t n_channel = (size_t)p->layers.layer[i / MPQ_N_BITS].n_channel;
        p->sensitivity[i] = (double)NAN;
        if (!(p->candidates >> i % MPQ_N_BITS & 1))
            continue;
        p->fit[i].scale = mpq_arena_alloc(ctx, p->arena, n_channel, sizeof *p->fit[i].scale);
        if (!p->fit[i].scale)
            return MPQ_E_NOMEM;
    }
    return mpq_workers_run(ctx, (int64_t)n_entry, fit_width, p);
}

/* ---- export ---- */

enum mpq_status mpq_pipeline_export_weights(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    p->code = mpq_arena_alloc(ctx, p->arena, p->layers.n_layer, sizeof *p->code);
    if (!p->code)
        return MPQ_E_NOMEM;
    for (uint32_t l = 0; l < p->layers.n_layer; l++)
        MPQ_TRY(mpq_weight_fit_code(ctx, p->arena, &p->layers.layer[l], weights_of(p, l),
                                    &p->fit[l * MPQ_N_BITS + p->bits[l]], &p->code[l]));
    return mpq_pipeline_write(ctx, p);
}

/* ---- verify ---- */

/* Values that follow from constants, computed when they are asked for. What several nodes read is
 * kept; the rest goes with the layer that needed it, for a model may be as large as memory. */
struct unpacker {
    struct mpq_ctx *ctx;
    const struct mpq_graph *graph;
    struct mpq_uses uses;
    struct mpq_tensor *tensor; /* [n_value] data NULL: not computed */
    struct mpq_arena *kept, *scratch;
    mpq_value_id *temporary; /* [n_value] those in `scratch` */
    uint32_t n_temporary;
};

static enum mpq_status unpack(struct unpacker *u, mpq_value_id value);

static enum mpq_status unpack_inputs(struct unpacker *u, const struct mpq_node *node,
                                     const struct mpq_tensor **x)
{
    for (uint32_t i = 0; i < node->n_in; i++) {
        if (node->in[i] == MPQ_NO_VALUE)
            continue;
        MPQ_TRY(unpack(u, node->in[i]));
        x[i] = &u->tensor[node->in[i]];
    }
    return MPQ_OK;
}

/* The depth of the recursion is the length of the chains that the exporter writes. */
static enum mpq_status unpack(struct unpacker *u, mpq_value_id value)
{
    mpq_node_id producer = u->graph->value[value].producer;
    if (u->tensor[value].data)
        return MPQ_OK;
    if (producer == MPQ_NO_NODE || !u->graph->node[producer].op)
        return mpq_fail(u->ctx, MPQ_E_NUMERIC, "value '%s' is not computed from constants",
                        u->graph->value[value].name);
    const struct mpq_node *node = &u->graph->node[producer];
    bool is_kept = node->n_out > 1 || u->uses.first[value + 1] - u->uses.first[value] > 1;
    struct mpq_arena *arena = is_kept ? u->kept : u->scratch;
    const struct mpq_tensor **x = mpq_arena_alloc(u->ctx, arena, node->n_in, sizeof *x);
    struct mpq_tensor **y = mpq_arena_alloc(u->ctx, arena, node->n_out, sizeof *y);
    if (!x || !y)
        return MPQ_E_NOMEM;
    MPQ_TRY(unpack_inputs(u, node, x));
    for (uint32_t i = 0; i < node->n_out; i++) {
        if (node->out[i] == MPQ_NO_VALUE)
            continue;
        y[i] = &u->tensor[node->out[i]];
        if (!is_kept)
            u->temporary[u->n_temporary++] = node->out[i];
    }
    return mpq_op_evaluate(u->ctx, arena, node, x, y);
}

static void forget_temporaries(struct unpacker *u)
{
    for (; u->n_temporary > 0; u->n_temporary--)
        u->tensor[u->temporary[u->n_temporary - 1]].data = NULL;
    mpq_arena_reset(u->scratch);
}

static bool is_decoded(const struct mpq_layer *layer, const struct mpq_layer_code *code,
                       const struct mpq_tensor *w)
{
    const mpq_real *data = w->data;
    if (w->dtype != MPQ_FLOAT || mpq_shape_count(&w->shape) != layer->n_param)
        return false;
    int64_t at = 0;
    for (int64_t row = 0; row < layer->n_outer * layer->n_channel; row++)
        for (int64_t i = 0; i < layer->n_inner; i++, at++)
            if (data[at] != (mpq_real)code->q[at] * (mpq_real)code->scale[row % layer->n_channel])
                return false;
    return true;
}

/* Against the codes as they are stored. */
static enum mpq_status check_layers(struct mpq_pipeline *p, struct unpacker *u, const char *path)
{
    struct mpq_export_plan plan = mpq_pipeline_export_plan(p);
    struct mpq_layer_code *stored =
        mpq_arena_alloc(u->ctx, u->kept, p->layers.n_layer, sizeof *stored);
    if (!stored)
        return MPQ_E_NOMEM;
    plan.code = p->code;
    MPQ_TRY(mpq_export_codes(u->ctx, u->kept, &plan, stored));
    for (uint32_t l = 0; l < p->layers.n_layer; l++) {
        const struct mpq_layer *layer = &p->layers.layer[l];
        MPQ_TRY(mpq_step(u->ctx, "verify", l, p->layers.n_layer, (double)NAN));
        mpq_value_id weight = mpq_graph_find(u->graph, p->file.weight_name[l]);
        if (weight != MPQ_NO_VALUE)
            MPQ_TRY(unpack(u, weight));
        if (weight == MPQ_NO_VALUE || !is_decoded(layer, &stored[l], &u->tensor[weight]))
            return mpq_fail(u->ctx, MPQ_E_NUMERIC,
                            "%s: the written weight of '%s' is not what was chosen, so the file is "
                            "not kept",
                            path, layer->name);
        forget_temporaries(u);
    }
    return MPQ_OK;
}

enum mpq_status mpq_pipeline_verify_weights(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                            const char *path, struct mpq_report *report)
{
    (void)report; /* nothing was run, so there is nothing to report */
    struct mpq_graph *graph;
    size_t file_bytes;
    struct unpacker u = {
        .ctx = ctx, .kept = mpq_arena_create(ctx), .scratch = mpq_arena_create(ctx)};
    enum mpq_status status = u.kept && u.scratch ? MPQ_OK : MPQ_E_NOMEM;
    if (status == MPQ_OK)
        status = mpq_import_file(ctx, u.kept, path, &graph, &file_bytes);
    if (status == MPQ_OK) {
        u.graph = graph;
        u.tensor = mpq_arena_alloc(ctx, u.kept, graph->n_value, sizeof *u.tensor);
        u.temporary = mpq_arena_alloc(ctx, u.kept, graph->n_value, sizeof *u.temporary);
        status =
            u.tensor && u.temporary ? mpq_graph_uses(ctx, u.kept, graph, &u.uses) : MPQ_E_NOMEM;
    }
    for (mpq_value_id v = 0; status == MPQ_OK && v < graph->n_value; v++)
        if (graph->value[v].constant)
            u.tensor[v] = *graph->value[v].constant;
    if (status == MPQ_OK)
        status = check_layers(p, &u, path);
    mpq_arena_free(u.scratch);
    mpq_arena_free(u.kept);
    return status;
}
