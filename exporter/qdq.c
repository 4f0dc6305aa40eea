#include "exporter/qdq.h"

#include <math.h>
#include <string.h>

#include "exporter/constant.h"
#include "exporter/saturate.h"

#define NO_LAYER UINT32_MAX

static uint32_t group_of(const struct mpq_qdq *qdq, mpq_value_id value)
{
    const struct mpq_act_plan *act = qdq->plan->act;
    return act ? act->group[value] : MPQ_NO_GROUP;
}

/* Whether all biases can be float16. This follows from the graph alone, so that a file has one size
 * however its layers are coded; half of the range is left to the corrections a bias may get. */
static bool biases_are_short(const struct mpq_export_plan *plan)
{
    for (uint32_t l = 0; l < plan->layers->n_layer; l++) {
        const struct mpq_layer *layer = &plan->layers->layer[l];
        if (layer->bias == MPQ_NO_VALUE)
            continue;
        const struct mpq_tensor *bias = plan->graph->value[layer->bias].constant;
        for (int64_t i = 0; i < mpq_shape_count(&bias->shape); i++)
            if (!(fabs(mpq_tensor_double(bias, i)) < 32768.0))
                return false;
    }
    return true;
}

/* The scale of the layer's input, or 0 where that stays float. */
static float input_scale(const struct mpq_qdq *qdq, uint32_t l)
{
    const struct mpq_layer *layer = &qdq->plan->layers->layer[l];
    const struct mpq_act_plan *act = qdq->plan->act;
    uint32_t group = layer->is_weight_only || !act ? MPQ_NO_GROUP
                                                   : mpq_act_plan_input(act, layer->node, layer->x);
    return group == MPQ_NO_GROUP ? 0.0f : qdq->plan->act_quant[group].scale;
}

/* Whether input i of the node is a weight or bias that its layer brings in a form of its own. */
static bool is_replaced(const struct mpq_qdq *qdq, mpq_node_id node, uint32_t i)
{
    mpq_value_id value = qdq->plan->graph->node[node].in[i];
    uint32_t l = value == MPQ_NO_VALUE ? NO_LAYER : qdq->layer_of[value];
    return l != NO_LAYER &&
           (qdq->plan->layers->layer[l].is_weight_only || qdq->plan->layers->layer[l].node == node);
}

bool mpq_qdq_is_read_inside(const struct mpq_qdq *qdq, mpq_value_id v)
{
    return qdq->build.taken_inside.n &&
           mpq_strmap_get(&qdq->build.taken_inside, qdq->plan->graph->value[v].name) !=
               MPQ_STRMAP_NONE;
}

bool mpq_qdq_leaves_out(const struct mpq_qdq *qdq, mpq_node_id n)
{
    return mpq_is_saturation(qdq->plan, n) &&
           !mpq_qdq_is_read_inside(qdq, qdq->plan->graph->node[n].out[0]);
}

/* Constants that some node, subgraph or graph output still reads as they are. */
static void find_float_constants(struct mpq_qdq *qdq)
{
    const struct mpq_graph *graph = qdq->plan->graph;
    for (mpq_node_id n = 0; n < graph->n_node; n++)
        for (uint32_t i = 0; i < (mpq_qdq_leaves_out(qdq, n) ? 1 : graph->node[n].n_in); i++)
            if (graph->node[n].in[i] != MPQ_NO_VALUE && !is_replaced(qdq, n, i))
                qdq->is_float[graph->node[n].in[i]] = true;
    for (uint32_t i = 0; i < graph->n_output; i++)
        qdq->is_float[graph->output[i]] = true;
    for (mpq_value_id v = 0; v < graph->n_value; v++) {
        if (mpq_qdq_is_read_inside(qdq, v))
            qdq->is_float[v] = true;
        if (!graph->value[v].constant)
            qdq->is_float[v] = false;
    }
}

/* UNDEFINED: it comes as a program. */
static enum mpq_dtype weight_type(const struct mpq_qdq *qdq, uint32_t l, int bits)
{
    const struct mpq_target *target = qdq->plan->target;
    const struct mpq_layer *layer = &qdq->plan->layers->layer[l];
    if (target->folds && bits < 8)
        return MPQ_UNDEFINED;
    int64_t n_column = layer->n_inner == 1 ? layer->n_channel : 0;
    return mpq_target_container(target, bits, input_scale(qdq, l) > 0.0f, n_column);
}

static enum mpq_status check_levels(struct mpq_ctx *ctx, const struct mpq_target *target,
                                    const struct mpq_layer *layer,
                                    const struct mpq_layer_code *code)
{
    int half = 1 << (code->bits - 1);
    if (!(mpq_target_integer_widths(target) >> code->bits & 1) ||
        (code->level[0] >= -half && code->level[code->n_level - 1] < half))
        return MPQ_OK;
    return mpq_fail(
        ctx, MPQ_E_UNSUPPORTED,
        "layer '%s': its %d-bit levels reach from %d to %d, and %s has only integers of "
        "%d bits; they were made for another --target",
        layer->name, code->bits, code->level[0], code->level[code->n_level - 1], target->name,
        code->bits);
}

static enum mpq_status check_activations(struct mpq_ctx *ctx, const struct mpq_export_plan *plan)
{
    struct mpq_act_form form = plan->target->act;
    for (uint32_t g = 0; plan->act && g < plan->act->n_group; g++) {
        const struct mpq_act_quant *quant = &plan->act_quant[g];
        if (quant->bits > form.bits || (quant->bits > 8 && form.bits != quant->bits) ||
            (form.is_symmetric && quant->zero_point != 1 << (quant->bits - 1)))
            return mpq_fail(ctx, MPQ_E_UNSUPPORTED,
                            "activations of %d bits with zero point %d were not made for --target "
                            "%s",
                            quant->bits, quant->zero_point, plan->target->name);
    }
    return MPQ_OK;
}

static enum mpq_status describe_layers(struct mpq_qdq *qdq, const uint8_t *bits)
{
    const struct mpq_export_plan *plan = qdq->plan;
    struct mpq_build *build = &qdq->build;
    bool is_short = biases_are_short(plan);
    const struct mpq_target *target = plan->target;
    qdq->form = !target->folds ? MPQ_PARAM_PLAIN : is_short ? MPQ_PARAM_SHORT : MPQ_PARAM_LONG_BIAS;
    qdq->opset = plan->graph->opset > target->opset ? plan->graph->opset : target->opset;
    for (uint32_t l = 0; l < plan->layers->n_layer; l++) {
        const struct mpq_layer *layer = &plan->layers->layer[l];
        struct mpq_storage_layer *stored = &qdq->stored[l];
        stored->shape = plan->graph->value[layer->weight].constant->shape;
        stored->bits = bits ? bits[l] : plan->code[l].bits;
        stored->dtype = weight_type(qdq, l, stored->bits);
        if (qdq->opset < mpq_target_opset_of(stored->dtype))
            qdq->opset = mpq_target_opset_of(stored->dtype);
        qdq->layer_of[layer->weight] = l;
        if (layer->bias != MPQ_NO_VALUE)
            qdq->layer_of[layer->bias] = l;
        float bias_unit = target->has_float_bias ? 0.0f : input_scale(qdq, l);
        qdq->param[l] = (struct mpq_param){.layer = layer, .x_scale = bias_unit};
        if (bits)
            continue;
        MPQ_TRY(check_levels(build->ctx, target, layer, &plan->code[l]));
        MPQ_TRY(mpq_param_init(build->ctx, build->arena, layer, &plan->code[l], bias_unit, is_short,
                               &qdq->param[l]));
        stored->level = plan->code[l].level;
        stored->n_level = plan->code[l].n_level;
    }
    if (bits)
        return MPQ_OK;
    if (qdq->form != MPQ_PARAM_PLAIN)
        MPQ_TRY(mpq_param_join(build->ctx, build->arena, plan->code, qdq->param,
                               plan->layers->n_layer));
    for (uint32_t l = 0; l < plan->layers->n_layer; l++)
        qdq->stored[l].q = qdq->param[l].q;
    return MPQ_OK;
}

/* Whether someone outside the graph's own nodes goes by the name: its users, a body inside a node,
 * or the declaration that says what an unknown operator makes. */
static bool is_known_by_name(const struct mpq_qdq *qdq, mpq_value_id v)
{
    const struct mpq_value *value = &qdq->plan->graph->value[v];
    if (value->producer == MPQ_NO_NODE && !value->constant)
        return true; /* an input, or not there at all */
    if (value->producer != MPQ_NO_NODE && !qdq->plan->graph->node[value->producer].op)
        return true;
    return mpq_qdq_is_read_inside(qdq, v);
}

static enum mpq_status shorten_names(struct mpq_qdq *qdq)
{
    const struct mpq_graph *graph = qdq->plan->graph;
    for (mpq_value_id v = 0; v < graph->n_value; v++) {
        if (is_known_by_name(qdq, v))
            continue;
        qdq->made_as[v] = qdq->read_as[v] = mpq_build_name(&qdq->build);
        if (!qdq->made_as[v])
            return MPQ_E_NOMEM;
    }
    for (uint32_t i = 0; i < graph->n_output; i++)
        qdq->made_as[graph->output[i]] = qdq->read_as[graph->output[i]] =
            graph->value[graph->output[i]].name;
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
    out->layer_of = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *out->layer_of);
    out->made_as = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *out->made_as);
    out->read_as = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *out->read_as);
    out->is_float = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *out->is_float);
    out->weight = mpq_arena_alloc(ctx, arena, n_layer, sizeof *out->weight);
    out->bias = mpq_arena_alloc(ctx, arena, n_layer, sizeof *out->bias);
    out->param = mpq_arena_alloc(ctx, arena, n_layer, sizeof *out->param);
    if (!out->stored || !out->param || !out->layer_of || !out->made_as || !out->read_as ||
        !out->is_float || !out->weight || !out->bias)
        return MPQ_E_NOMEM;
    for (mpq_value_id v = 0; v < graph->n_value; v++) {
        out->layer_of[v] = NO_LAYER;
        out->made_as[v] = out->read_as[v] = graph->value[v].name;
    }
    MPQ_TRY(check_activations(ctx, plan));
    MPQ_TRY(describe_layers(out, bits));
    find_float_constants(out);
    return plan->names == MPQ_NAMES_ALL ? MPQ_OK : shorten_names(out);
}

/* ---- activations ---- */

/* An integer of the activations' type, counted from that of the smallest integer, 0. */
static const char *activation_integer(struct mpq_qdq *qdq, int value, int bits)
{
    bool is_signed = qdq->plan->target->act.is_symmetric;
    if (is_signed)
        value -= 1 << (bits - 1);
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
    } data;
    enum mpq_dtype dtype = bits > 8 ? MPQ_UINT16 : is_signed ? MPQ_INT8 : MPQ_UINT8;
    struct mpq_tensor tensor = {.dtype = dtype, .data = &data};
    mpq_tensor_set_int(&tensor, 0, value);
    return mpq_build_shared(&qdq->build, &tensor);
}

/* x -> QuantizeLinear -> DequantizeLinear -> out (NULL: a new name). Between the two a Clip of the
 * integers holds back what a narrower activation cannot express: put there, and not on the float,
 * it leaves the layer's output next to QuantizeLinear, as integer kernels want it. The zero point
 * is written even if it is 0: ONNX Runtime 1.32 makes no integer kernel of a Gemm without. */
static const char *write_quantized(struct mpq_qdq *qdq, const char *x,
                                   const struct mpq_act_quant *quant, const char *out)
{
    struct mpq_build *build = &qdq->build;
    const char *scale = mpq_build_shared_float(build, quant->scale);
    const char *zero = activation_integer(qdq, quant->zero_point, quant->bits);
    const char *q = MPQ_BUILD_OP(build, "QuantizeLinear", {x, scale, zero});
    if (quant->bits < 8) {
        bool is_signed = qdq->plan->target->act.is_symmetric;
        const char *lowest = is_signed ? activation_integer(qdq, 0, quant->bits) : "";
        const char *highest = activation_integer(qdq, (1 << quant->bits) - 1, quant->bits);
        q = MPQ_BUILD_OP(build, "Clip", {q, lowest, highest});
    }
    return MPQ_BUILD_OP(build, "DequantizeLinear", {q, scale, zero}, .out = out);
}

enum mpq_status mpq_qdq_after_value(struct mpq_qdq *qdq, mpq_value_id value)
{
    uint32_t group = group_of(qdq, value);
    if (group == MPQ_NO_GROUP)
        return MPQ_OK;
    const struct mpq_act_quant *quant = &qdq->plan->act_quant[group];
    return write_quantized(qdq, qdq->made_as[value], quant, qdq->read_as[value])
               ? MPQ_OK
               : qdq->build.ctx->status;
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

/* Inputs and outputs keep the type that the file gives them; Casts make them what is computed. */
static bool has_border(const struct mpq_value *value)
{
    return value->file_dtype != MPQ_UNDEFINED && !value->constant;
}

static enum mpq_status begin_input(struct mpq_qdq *qdq, mpq_value_id v)
{
    const struct mpq_value *value = &qdq->plan->graph->value[v];
    if (has_border(value)) {
        bool is_quantized = strcmp(qdq->read_as[v], value->name) != 0;
        qdq->made_as[v] =
            MPQ_BUILD_OP(&qdq->build, "Cast", {value->name}, .attr = "to", .attr_int = MPQ_FLOAT);
        if (!qdq->made_as[v])
            return qdq->build.ctx->status;
        if (!is_quantized)
            qdq->read_as[v] = qdq->made_as[v];
    }
    return mpq_qdq_after_value(qdq, v);
}

/* The name of such an output is for the Cast at the end. */
static enum mpq_status rename_output(struct mpq_qdq *qdq, mpq_value_id v)
{
    const struct mpq_value *value = &qdq->plan->graph->value[v];
    if (!has_border(value) || value->producer == MPQ_NO_NODE)
        return MPQ_OK;
    const char *name = mpq_build_name(&qdq->build);
    if (!name)
        return MPQ_E_NOMEM;
    if (strcmp(qdq->made_as[v], value->name) == 0)
        qdq->made_as[v] = name;
    if (strcmp(qdq->read_as[v], value->name) == 0)
        qdq->read_as[v] = name;
    return MPQ_OK;
}

enum mpq_status mpq_qdq_end(struct mpq_qdq *qdq)
{
    const struct mpq_graph *graph = qdq->plan->graph;
    for (uint32_t i = 0; i < graph->n_output; i++) {
        const struct mpq_value *value = &graph->value[graph->output[i]];
        if (has_border(value) && value->producer != MPQ_NO_NODE &&
            !MPQ_BUILD_OP(&qdq->build, "Cast", {qdq->read_as[graph->output[i]]}, .out = value->name,
                          .attr = "to", .attr_int = value->file_dtype))
            return qdq->build.ctx->status;
    }
    return MPQ_OK;
}

/* All that some node still reads as it is. */
static enum mpq_status write_constants(struct mpq_qdq *qdq)
{
    const struct mpq_graph *graph = qdq->plan->graph;
    struct mpq_build *build = &qdq->build;
    size_t n = 0;
    struct mpq_constant *list =
        mpq_arena_alloc(build->ctx, build->arena, graph->n_value, sizeof *list);
    if (!list)
        return MPQ_E_NOMEM;
    for (mpq_value_id v = 0; v < graph->n_value; v++)
        if (qdq->is_float[v])
            list[n++] = (struct mpq_constant){.tensor = graph->value[v].constant,
                                              .file_dtype = graph->value[v].file_dtype,
                                              .name = qdq->made_as[v],
                                              .is_known = qdq->made_as[v] == graph->value[v].name};
    MPQ_TRY(mpq_constants_write(build, qdq->plan->target->folds ? &qdq->storage : NULL, list, n));
    n = 0;
    for (mpq_value_id v = 0; v < graph->n_value; v++) {
        if (!qdq->is_float[v])
            continue;
        const char *name = list[n++].name;
        if (qdq->read_as[v] == qdq->made_as[v])
            qdq->read_as[v] = name;
        qdq->made_as[v] = name;
        MPQ_TRY(mpq_qdq_after_value(qdq, v));
    }
    return MPQ_OK;
}

/* Gemm's integer kernel wants a zero point a channel, and so does that of MatMul where ONNX Runtime
 * is told to avoid saturation (session.x64quantprecision); nobody else needs one. */
static bool has_zero(const struct mpq_qdq *qdq, uint32_t l)
{
    const struct mpq_node *node = &qdq->plan->graph->node[qdq->plan->layers->layer[l].node];
    enum mpq_dtype dtype = qdq->stored[l].dtype;
    return input_scale(qdq, l) > 0.0f &&
           (mpq_node_is(node, "Gemm") || mpq_node_is(node, "MatMul")) &&
           (dtype == MPQ_UNDEFINED || dtype == MPQ_INT8);
}

enum mpq_status mpq_qdq_begin(struct mpq_qdq *qdq)
{
    const struct mpq_graph *graph = qdq->plan->graph;
    MPQ_TRY(name_values(qdq));
    MPQ_TRY(mpq_storage_begin(&qdq->build, qdq->stored, qdq->plan->layers->n_layer, &qdq->storage));
    for (uint32_t l = 0; l < qdq->plan->layers->n_layer; l++)
        qdq->param[l].has_zero = has_zero(qdq, l);
    if (qdq->plan->layers->n_layer)
        MPQ_TRY(mpq_param_write(&qdq->build, qdq->form, qdq->param, qdq->plan->layers->n_layer));
    for (uint32_t i = 0; i < graph->n_output; i++)
        MPQ_TRY(rename_output(qdq, graph->output[i]));
    for (uint32_t i = 0; i < graph->n_input; i++)
        MPQ_TRY(begin_input(qdq, graph->input[i]));
    return write_constants(qdq);
}

/* ---- layers ---- */

/* The dimensions [first, *out_end) of the weight that together count its channels, as few as can
 * be: one, except for a recurrent layer's two directions and gates. */
static int channel_axes(const struct mpq_layer *layer, const struct mpq_shape *shape, int *out_end)
{
    for (int first = shape->rank; first-- > 0;)
        for (int end = first + 1; end <= shape->rank; end++)
            if (mpq_shape_count_range(shape, 0, first) == layer->n_outer &&
                mpq_shape_count_range(shape, first, end) == layer->n_channel) {
                *out_end = end;
                return first;
            }
    MPQ_ASSERT(!"the weight has channel dimensions");
    return 0;
}

/* The name of a constant that its layer replaces, if nobody else needs it; else NULL, a new one. */
static const char *name_of(struct mpq_qdq *qdq, mpq_value_id value)
{
    if (qdq->is_float[value])
        return NULL;
    qdq->is_float[value] = true; /* the next layer that has it gives it another name */
    return qdq->made_as[value];
}

static bool is_recurrent(const struct mpq_node *node)
{
    return mpq_node_is(node, "LSTM") || mpq_node_is(node, "GRU") || mpq_node_is(node, "RNN");
}

/* A weight whose data input is quantized becomes int8 behind a DequantizeLinear, the form that
 * integer kernels are made from. One whose input stays float is spelled in plain arithmetic
 * instead: runtimes fold that into a float initializer, while a DequantizeLinear of a constant runs
 * at every inference. */
static const char *write_weight(struct mpq_qdq *qdq, uint32_t l)
{
    const struct mpq_layer *layer = &qdq->plan->layers->layer[l];
    struct mpq_build *build = &qdq->build;
    const struct mpq_shape *shape = &qdq->stored[l].shape;
    const char *name = name_of(qdq, layer->weight);
    const char *q = mpq_storage_weight(&qdq->storage, l);
    const char *scale = qdq->param[l].scale_name;
    int end, axis = channel_axes(layer, shape, &end);
    bool is_integer = input_scale(qdq, l) > 0.0f;
    bool is_folded =
        qdq->plan->target->folds_recurrent && is_recurrent(&qdq->plan->graph->node[layer->node]);
    if (is_integer || (qdq->form == MPQ_PARAM_PLAIN && end == axis + 1 && !is_folded)) {
        return MPQ_BUILD_OP(build, "DequantizeLinear", {q, scale, qdq->param[l].zero_name},
                            .out = name, .attr = axis == 1 ? NULL : "axis", .attr_int = axis);
    }
    if (end < shape->rank || end > axis + 1) {
        int64_t dim[MPQ_MAX_RANK];
        for (int d = axis; d < shape->rank; d++)
            dim[d - axis] = d < end ? shape->dim[d] : 1;
        const char *column = mpq_build_shared_ints(build, dim, (size_t)(shape->rank - axis));
        scale = MPQ_BUILD_OP(build, "Reshape", {scale, column});
    }
    if (is_folded) /* OpenVINO takes one Cast and a Mul for a DequantizeLinear, but not two */
        q = MPQ_BUILD_OP(build, "Cast", {q}, .attr = "to", .attr_int = MPQ_INT32);
    const char *level = MPQ_BUILD_OP(build, "Cast", {q}, .attr = "to", .attr_int = MPQ_FLOAT);
    return MPQ_BUILD_OP(build, "Mul", {level, scale}, .out = name);
}

static const char *write_bias(struct mpq_qdq *qdq, uint32_t l)
{
    const struct mpq_param *param = &qdq->param[l];
    const char *scale = param->bias_scale_name;
    if (param->x_scale == 0.0f)
        return param->bias_name;
    if (!scale)
        scale =
            MPQ_BUILD_OP(&qdq->build, "Mul",
                         {mpq_build_shared_float(&qdq->build, param->x_scale), param->scale_name});
    return MPQ_BUILD_OP(&qdq->build, "DequantizeLinear", {param->bias_name, scale},
                        .out = name_of(qdq, param->layer->bias), .attr = "axis");
}

/* The quantization that input 0 of the node has for itself. */
static void write_own_input(struct mpq_qdq *qdq, mpq_node_id node)
{
    const struct mpq_act_plan *act = qdq->plan->act;
    qdq->own_input = NULL;
    if (act && act->own_group && act->own_group[node] != MPQ_NO_GROUP)
        qdq->own_input = write_quantized(qdq, qdq->read_as[qdq->plan->graph->node[node].in[0]],
                                         &qdq->plan->act_quant[act->own_group[node]], NULL);
}

/* Whether what the node makes is quantized, by itself or behind a Relu or Clip. */
static bool makes_quantized(const struct mpq_qdq *qdq, const struct mpq_node *node)
{
    const struct mpq_graph *graph = qdq->plan->graph;
    bool is_quantized = group_of(qdq, node->out[0]) != MPQ_NO_GROUP;
    for (mpq_node_id n = 0; n < graph->n_node && !is_quantized; n++) {
        const struct mpq_node *next = &graph->node[n];
        is_quantized = (mpq_node_is(next, "Relu") || mpq_node_is(next, "Clip")) &&
                       next->in[0] == node->out[0] && group_of(qdq, next->out[0]) != MPQ_NO_GROUP;
    }
    return is_quantized;
}

/* L12 of README.md: whether ONNX Runtime would quantize a weight that is to be float, because a
 * DequantizeLinear makes what the node reads beside it. */
static bool has_weight_at_risk(const struct mpq_qdq *qdq, mpq_node_id n)
{
    const struct mpq_node *node = &qdq->plan->graph->node[n];
    bool is_product = mpq_node_is(node, "Conv") || mpq_node_is(node, "ConvTranspose") ||
                      mpq_node_is(node, "Gemm");
    if (!is_product || !(qdq->plan->target->readers & MPQ_FOR_ONNXRUNTIME) ||
        node->in[1] == MPQ_NO_VALUE || !qdq->plan->graph->value[node->in[1]].constant ||
        (group_of(qdq, node->in[0]) == MPQ_NO_GROUP && !qdq->own_input))
        return false;
    uint32_t l = qdq->layer_of[node->in[1]];
    bool is_float = l == NO_LAYER || !is_replaced(qdq, n, 1) || !(input_scale(qdq, l) > 0.0f);
    return is_float && makes_quantized(qdq, node);
}

/* A Sum of one is the same value, made by no DequantizeLinear, and a copy at most. */
static void shield_weight(struct mpq_qdq *qdq, mpq_node_id node)
{
    if (has_weight_at_risk(qdq, node))
        qdq->own_input = MPQ_BUILD_OP(&qdq->build, "Sum", {mpq_qdq_input(qdq, node, 0)});
}

const char *mpq_qdq_added_bias(struct mpq_qdq *qdq, mpq_node_id node)
{
    const struct mpq_graph *graph = qdq->plan->graph;
    if (!qdq->plan->target->adds_bias || !mpq_node_is(&graph->node[node], "Conv") ||
        graph->node[node].n_in < 3 || !is_replaced(qdq, node, 2))
        return NULL;
    const struct mpq_layer *layer =
        &qdq->plan->layers->layer[qdq->layer_of[graph->node[node].in[2]]];
    int64_t dim[MPQ_MAX_RANK] = {-1};
    int rank = graph->value[layer->weight].constant->shape.rank - 1;
    for (int d = 1; d < rank; d++)
        dim[d] = 1;
    return MPQ_BUILD_OP(
        &qdq->build, "Reshape",
        {mpq_qdq_input(qdq, node, 2), mpq_build_shared_ints(&qdq->build, dim, (size_t)rank)});
}

/* Layers come in the order of their nodes. */
enum mpq_status mpq_qdq_before_node(struct mpq_qdq *qdq, mpq_node_id node)
{
    const struct mpq_layer_table *layers = qdq->plan->layers;
    write_own_input(qdq, node);
    shield_weight(qdq, node);
    for (; qdq->n_done < layers->n_layer && layers->layer[qdq->n_done].node == node;
         qdq->n_done++) {
        uint32_t l = qdq->n_done;
        qdq->weight[l] = write_weight(qdq, l);
        if (layers->layer[l].bias != MPQ_NO_VALUE)
            qdq->bias[l] = write_bias(qdq, l);
    }
    return qdq->build.ctx->status;
}

const char *mpq_qdq_input(const struct mpq_qdq *qdq, mpq_node_id node, uint32_t i)
{
    mpq_value_id value = qdq->plan->graph->node[node].in[i];
    if (value == MPQ_NO_VALUE)
        return "";
    if (i == 0 && qdq->own_input)
        return qdq->own_input;
    if (!is_replaced(qdq, node, i))
        return qdq->read_as[value];
    uint32_t l = qdq->layer_of[value];
    return value == qdq->plan->layers->layer[l].weight ? qdq->weight[l] : qdq->bias[l];
}
