#include "exporter/qdq.h"

#include <math.h>
#include <string.h>

#define NO_LAYER UINT32_MAX
#define MAX_BIAS 2147483520.0 /* the float next below 2^31 */

static uint32_t group_of(const struct mpq_qdq *qdq, mpq_value_id value)
{
    const struct mpq_act_plan *act = qdq->plan->act;
    return act ? act->group[value] : MPQ_NO_GROUP;
}

/* The scale of the layer's input, or 0 where that stays float. */
static float input_scale(const struct mpq_qdq *qdq, uint32_t layer)
{
    uint32_t group = group_of(qdq, qdq->plan->layers->layer[layer].x);
    return group == MPQ_NO_GROUP ? 0.0f : qdq->plan->act_quant[group].scale;
}

/* Whether input i of the node is a weight or bias that its layer brings in a form of its own. */
static bool is_replaced(const struct mpq_qdq *qdq, mpq_node_id node, uint32_t i)
{
    uint32_t l = qdq->layer_of[node];
    if (l == NO_LAYER)
        return false;
    const struct mpq_layer *layer = &qdq->plan->layers->layer[l];
    mpq_value_id value = qdq->plan->graph->node[node].in[i];
    return i > 0 && value != MPQ_NO_VALUE && (value == layer->weight || value == layer->bias);
}

/* Constants that some node, subgraph or graph output still reads as they are. */
static void find_float_constants(struct mpq_qdq *qdq)
{
    const struct mpq_graph *graph = qdq->plan->graph;
    for (mpq_node_id n = 0; n < graph->n_node; n++)
        for (uint32_t i = 0; i < graph->node[n].n_in; i++)
            if (graph->node[n].in[i] != MPQ_NO_VALUE && !is_replaced(qdq, n, i))
                qdq->is_float[graph->node[n].in[i]] = true;
    for (uint32_t i = 0; i < graph->n_output; i++)
        qdq->is_float[graph->output[i]] = true;
    for (mpq_value_id v = 0; v < graph->n_value; v++) {
        if (qdq->build.taken_inside.n &&
            mpq_strmap_get(&qdq->build.taken_inside, graph->value[v].name) != MPQ_STRMAP_NONE)
            qdq->is_float[v] = true;
        if (!graph->value[v].constant)
            qdq->is_float[v] = false;
    }
}

static int8_t nearest_level(const struct mpq_layer_code *code, double wanted)
{
    int8_t best = code->level[0];
    for (uint32_t i = 1; i < code->n_level; i++)
        if (fabs(code->level[i] - wanted) < fabs(best - wanted))
            best = code->level[i];
    return best;
}

/* A channel whose weights are next to nothing beside its bias (batch norm leaves such channels) has
 * a scale in whose units the bias exceeds an int32. Its scale grows until the bias fits; weights
 * lose precision that is far below that of the bias. Sizes stay what they were. */
static enum mpq_status fit_biases(struct mpq_qdq *qdq, uint32_t l)
{
    const struct mpq_layer *layer = &qdq->plan->layers->layer[l];
    const struct mpq_layer_code *code = &qdq->plan->code[l];
    double x_scale = (double)input_scale(qdq, l);
    float *scale = NULL;
    int8_t *q = NULL;
    for (int64_t c = 0; x_scale > 0.0 && layer->bias != MPQ_NO_VALUE && c < layer->n_channel; c++) {
        double bias = fabs((double)code->bias[c]);
        if (bias <= MAX_BIAS * (double)((float)x_scale * code->scale[c]))
            continue;
        if (!q) {
            struct mpq_ctx *ctx = qdq->build.ctx;
            size_t bytes = (size_t)layer->n_channel * sizeof *scale;
            scale = mpq_arena_copy(ctx, qdq->build.arena, code->scale, bytes);
            q = mpq_arena_copy(ctx, qdq->build.arena, code->q, (size_t)layer->n_param);
            if (!scale || !q)
                return MPQ_E_NOMEM;
            qdq->scale[l] = scale;
            qdq->stored[l].q = q;
        }
        scale[c] = (float)(bias / x_scale / (MAX_BIAS / 2));
        double shrink = (double)code->scale[c] / (double)scale[c];
        for (int64_t o = 0; o < layer->n_outer; o++)
            for (int64_t i = 0; i < layer->n_inner; i++) {
                int64_t at = (o * layer->n_channel + c) * layer->n_inner + i;
                q[at] = nearest_level(code, q[at] * shrink);
            }
    }
    return MPQ_OK;
}

static enum mpq_status describe_layers(struct mpq_qdq *qdq, const uint8_t *bits)
{
    const struct mpq_export_plan *plan = qdq->plan;
    for (uint32_t l = 0; l < plan->layers->n_layer; l++) {
        const struct mpq_layer *layer = &plan->layers->layer[l];
        struct mpq_storage_layer *stored = &qdq->stored[l];
        stored->shape = plan->graph->value[layer->weight].constant->shape;
        stored->bits = bits ? bits[l] : plan->code[l].bits;
        if (plan->storage == MPQ_STORAGE_INT8)
            stored->bits = 8;
        qdq->layer_of[layer->node] = l;
        if (bits)
            continue;
        stored->level = plan->code[l].level;
        stored->n_level = plan->code[l].n_level;
        stored->q = plan->code[l].q;
        qdq->scale[l] = plan->code[l].scale;
        MPQ_ASSERT((plan->code[l].bias != NULL) == (layer->bias != MPQ_NO_VALUE));
        MPQ_TRY(fit_biases(qdq, l));
    }
    return MPQ_OK;
}

enum mpq_status mpq_qdq_init(struct mpq_ctx *ctx, struct mpq_arena *arena,
                             const struct mpq_export_plan *plan, const uint8_t *bits,
                             struct mpq_qdq *out)
{
    const struct mpq_graph *graph = plan->graph;
    uint32_t n_layer = plan->layers->n_layer;
    *out = (struct mpq_qdq){.plan = plan};
    MPQ_TRY(mpq_build_init(ctx, arena, graph, &out->build));
    out->build.measured = bits != NULL;
    out->stored = mpq_arena_alloc(ctx, arena, n_layer, sizeof *out->stored);
    out->layer_of = mpq_arena_alloc(ctx, arena, graph->n_node, sizeof *out->layer_of);
    out->made_as = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *out->made_as);
    out->read_as = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *out->read_as);
    out->is_float = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *out->is_float);
    out->weight = mpq_arena_alloc(ctx, arena, n_layer, sizeof *out->weight);
    out->bias = mpq_arena_alloc(ctx, arena, n_layer, sizeof *out->bias);
    out->scale = mpq_arena_alloc(ctx, arena, n_layer, sizeof *out->scale);
    if (!out->stored || !out->layer_of || !out->made_as || !out->read_as || !out->is_float ||
        !out->weight || !out->bias || !out->scale)
        return MPQ_E_NOMEM;
    for (mpq_node_id n = 0; n < graph->n_node; n++)
        out->layer_of[n] = NO_LAYER;
    for (mpq_value_id v = 0; v < graph->n_value; v++)
        out->made_as[v] = out->read_as[v] = graph->value[v].name;
    MPQ_TRY(describe_layers(out, bits));
    find_float_constants(out);
    return MPQ_OK;
}

/* ---- activations ---- */

/* value -> QuantizeLinear -> DequantizeLinear, which all its readers read. Between the two a Clip
 * of the uint8 holds back what a narrower activation cannot express: put there, and not on the
 * float, it leaves the layer's output next to QuantizeLinear, as integer kernels want it. The zero
 * point is written even if it is 0: older runtimes absorb a Relu only into one they can see. */
static enum mpq_status quantize_value(struct mpq_qdq *qdq, mpq_value_id v,
                                      const struct mpq_act_quant *quant)
{
    struct mpq_build *build = &qdq->build;
    const char *scale = mpq_build_shared_float(build, quant->scale);
    const char *zero = mpq_build_shared_uint8(build, (uint8_t)quant->zero_point);
    const char *q = MPQ_BUILD_OP(build, "QuantizeLinear", {qdq->made_as[v], scale, zero});
    if (quant->bits < 8) {
        const char *highest = mpq_build_shared_uint8(build, (uint8_t)((1 << quant->bits) - 1));
        q = MPQ_BUILD_OP(build, "Clip", {q, "", highest});
    }
    return MPQ_BUILD_OP(build, "DequantizeLinear", {q, scale, zero}, .out = qdq->read_as[v])
               ? MPQ_OK
               : build->ctx->status;
}

enum mpq_status mpq_qdq_after_value(struct mpq_qdq *qdq, mpq_value_id value)
{
    uint32_t group = group_of(qdq, value);
    return group == MPQ_NO_GROUP ? MPQ_OK
                                 : quantize_value(qdq, value, &qdq->plan->act_quant[group]);
}

/* A graph output keeps its name for the quantized form, and its producer writes another. A graph
 * output that is also an input or a constant has no producer and stays float for its reader. */
static enum mpq_status name_values(struct mpq_qdq *qdq)
{
    const struct mpq_graph *graph = qdq->plan->graph;
    bool *is_output =
        mpq_arena_alloc(qdq->build.ctx, qdq->build.arena, graph->n_value, sizeof *is_output);
    if (!is_output)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < graph->n_output; i++)
        is_output[graph->output[i]] = true;
    for (mpq_value_id v = 0; v < graph->n_value; v++) {
        if (group_of(qdq, v) == MPQ_NO_GROUP)
            continue;
        const char *name = mpq_build_name(&qdq->build);
        if (!name)
            return MPQ_E_NOMEM;
        if (is_output[v] && graph->value[v].producer != MPQ_NO_NODE)
            qdq->made_as[v] = name;
        else
            qdq->read_as[v] = name;
    }
    return MPQ_OK;
}

enum mpq_status mpq_qdq_begin(struct mpq_qdq *qdq)
{
    const struct mpq_graph *graph = qdq->plan->graph;
    MPQ_TRY(name_values(qdq));
    MPQ_TRY(mpq_storage_begin(&qdq->build, qdq->stored, qdq->plan->layers->n_layer, &qdq->storage));
    for (uint32_t i = 0; i < graph->n_input; i++)
        MPQ_TRY(mpq_qdq_after_value(qdq, graph->input[i]));
    for (mpq_value_id v = 0; v < graph->n_value; v++) {
        if (!qdq->is_float[v])
            continue;
        if (!mpq_build_keep(&qdq->build, graph->value[v].constant, graph->value[v].name))
            return qdq->build.ctx->status;
        MPQ_TRY(mpq_qdq_after_value(qdq, v));
    }
    return MPQ_OK;
}

/* ---- layers ---- */

static int channel_axis(const struct mpq_layer *layer, const struct mpq_shape *shape)
{
    for (int d = 0; d < shape->rank; d++)
        if (mpq_shape_count_range(shape, 0, d) == layer->n_outer &&
            shape->dim[d] == layer->n_channel)
            return d;
    MPQ_ASSERT(!"the weight has a channel dimension");
    return 0;
}

/* The name of a constant that its layer replaces, if nobody else needs it; else NULL, a new one. */
static const char *name_of(struct mpq_qdq *qdq, mpq_value_id value)
{
    if (qdq->is_float[value])
        return NULL;
    qdq->is_float[value] = true; /* the next layer that has it gives it another name */
    return qdq->plan->graph->value[value].name;
}

/* b / (scale of x * scale of w) as int32, the product rounded to float as the file's Mul does. */
static const char *write_integer_bias(struct mpq_qdq *qdq, uint32_t l, float x_scale)
{
    const struct mpq_layer *layer = &qdq->plan->layers->layer[l];
    struct mpq_build *build = &qdq->build;
    struct mpq_tensor tensor = {MPQ_INT32, MPQ_SHAPE(layer->n_channel), NULL};
    if (!build->measured) {
        int32_t *bias =
            mpq_arena_alloc(build->ctx, build->arena, (size_t)layer->n_channel, sizeof *bias);
        if (!bias)
            return NULL;
        tensor.data = bias;
        for (int64_t c = 0; c < layer->n_channel; c++) {
            double step = (double)(x_scale * qdq->scale[l][c]);
            double q = nearbyint((double)qdq->plan->code[l].bias[c] / step);
            MPQ_ASSERT(fabs(q) <= MAX_BIAS);
            bias[c] = (int32_t)q;
        }
    }
    return mpq_build_constant(build, &tensor, NULL);
}

static const char *write_floats(struct mpq_build *build, const struct mpq_shape *shape,
                                const float *data, const char *name)
{
    struct mpq_tensor tensor = {MPQ_FLOAT, *shape, NULL};
    if (!build->measured) {
        size_t bytes = (size_t)mpq_shape_count(shape) * sizeof *data;
        tensor.data = mpq_arena_copy(build->ctx, build->arena, data, bytes);
        if (!tensor.data)
            return NULL;
    }
    return mpq_build_constant(build, &tensor, name);
}

/* Gemm's integer kernel wants a zero point a channel; nobody else needs one. */
static const char *weight_zero(struct mpq_qdq *qdq, const struct mpq_layer *layer)
{
    if (strcmp(qdq->plan->graph->node[layer->node].op_type, "Gemm") != 0)
        return NULL;
    struct mpq_tensor zero = {MPQ_INT8, MPQ_SHAPE(layer->n_channel), NULL};
    zero.data = mpq_arena_alloc(qdq->build.ctx, qdq->build.arena, (size_t)layer->n_channel, 1);
    return zero.data ? mpq_build_shared(&qdq->build, &zero) : NULL;
}

/* A weight whose data input is quantized becomes int8 behind a DequantizeLinear, the form that
 * integer kernels are made from. One whose input stays float is spelled in plain arithmetic
 * instead: runtimes fold that into a float initializer, while a DequantizeLinear of a constant runs
 * at every inference. */
static const char *write_weight(struct mpq_qdq *qdq, uint32_t l, const char **out_scale)
{
    const struct mpq_layer *layer = &qdq->plan->layers->layer[l];
    struct mpq_build *build = &qdq->build;
    const struct mpq_shape *shape = &qdq->stored[l].shape;
    const char *name = name_of(qdq, layer->weight);
    const char *q = mpq_storage_weight(&qdq->storage, l);
    int axis = channel_axis(layer, shape);
    struct mpq_shape scale_shape = MPQ_SHAPE(layer->n_channel);
    bool is_integer = input_scale(qdq, l) > 0.0f;
    if (is_integer || qdq->plan->storage == MPQ_STORAGE_INT8) {
        const char *scale = write_floats(build, &scale_shape, qdq->scale[l], NULL);
        const char *zero = is_integer ? weight_zero(qdq, layer) : NULL;
        *out_scale = scale;
        return MPQ_BUILD_OP(build, "DequantizeLinear", {q, scale, zero}, .out = name,
                            .attr = axis == 1 ? NULL : "axis", .attr_int = axis);
    }
    for (int d = axis + 1; d < shape->rank; d++)
        scale_shape.dim[scale_shape.rank++] = 1;
    const char *scale = write_floats(build, &scale_shape, qdq->scale[l], NULL);
    const char *level = MPQ_BUILD_OP(build, "Cast", {q}, .attr = "to", .attr_int = MPQ_FLOAT);
    return MPQ_BUILD_OP(build, "Mul", {level, scale}, .out = name);
}

/* The bias of an integer layer in units of its accumulator; the scale that says so is computed from
 * the two it is the product of, once, when the file is loaded. */
static const char *write_bias(struct mpq_qdq *qdq, uint32_t l, const char *w_scale)
{
    const struct mpq_layer *layer = &qdq->plan->layers->layer[l];
    struct mpq_build *build = &qdq->build;
    const char *name = name_of(qdq, layer->bias);
    float x_scale = input_scale(qdq, l);
    if (!(x_scale > 0.0f))
        return write_floats(build, &MPQ_SHAPE(layer->n_channel),
                            build->measured ? NULL : qdq->plan->code[l].bias, name);
    const char *bias = write_integer_bias(qdq, l, x_scale);
    const char *scale = mpq_build_shared_float(build, x_scale);
    scale = MPQ_BUILD_OP(build, "Mul", {scale, w_scale});
    return MPQ_BUILD_OP(build, "DequantizeLinear", {bias, scale}, .out = name, .attr = "axis");
}

enum mpq_status mpq_qdq_before_node(struct mpq_qdq *qdq, mpq_node_id node)
{
    uint32_t l = qdq->layer_of[node];
    if (l == NO_LAYER)
        return MPQ_OK;
    const char *scale = NULL;
    qdq->weight[l] = write_weight(qdq, l, &scale);
    if (qdq->plan->layers->layer[l].bias != MPQ_NO_VALUE)
        qdq->bias[l] = write_bias(qdq, l, scale);
    return qdq->build.ctx->status;
}

const char *mpq_qdq_input(const struct mpq_qdq *qdq, mpq_node_id node, uint32_t i)
{
    mpq_value_id value = qdq->plan->graph->node[node].in[i];
    if (value == MPQ_NO_VALUE)
        return "";
    if (!is_replaced(qdq, node, i))
        return qdq->read_as[value];
    uint32_t l = qdq->layer_of[node];
    return value == qdq->plan->layers->layer[l].weight ? qdq->weight[l] : qdq->bias[l];
}
