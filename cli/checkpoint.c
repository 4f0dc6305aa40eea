#include "cli/checkpoint.h"

#include <inttypes.h>
#include <string.h>

#include "calibration/npz.h"
#include "cli/checkpoint_id.h"

struct list {
    struct mpq_ctx *ctx;
    struct mpq_arena *arena;
    const char **name;
    struct mpq_tensor *tensor;
    uint32_t n;
};

static void add(struct list *list, enum mpq_dtype dtype, int64_t count, const void *data,
                const char *name)
{
    list->name[list->n] = name;
    list->tensor[list->n++] = (struct mpq_tensor){dtype, MPQ_SHAPE(count), (void *)(uintptr_t)data};
}

static void add_layer(struct list *list, const struct mpq_supernet *net, uint32_t l)
{
    const struct mpq_layer *shape = &net->layers->layer[l];
    const struct mpq_supernet_layer *layer = &net->layer[l];
    add(list, MPQ_FLOAT, shape->n_param, layer->w,
        mpq_arena_printf(list->ctx, list->arena, "layer%" PRIu32 ".weight", l));
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
        const struct mpq_supernet_width *width = &layer->width[b];
        if (!(layer->candidates >> b & 1))
            continue;
        add(list, MPQ_FLOAT, shape->n_channel, width->scale,
            mpq_checkpoint_width_name(list->ctx, list->arena, l, b, "scale"));
        if (width->bias)
            add(list, MPQ_FLOAT, shape->n_channel, width->bias,
                mpq_checkpoint_width_name(list->ctx, list->arena, l, b, "bias"));
        add(list, MPQ_INT8, width->levels.n, width->levels.level,
            mpq_checkpoint_width_name(list->ctx, list->arena, l, b, "level"));
        if (width->offset)
            add(list, MPQ_FLOAT, shape->n_param, width->offset,
                mpq_checkpoint_width_name(list->ctx, list->arena, l, b, "offset"));
    }
}

static enum mpq_status add_layers(struct list *list, const struct mpq_checkpoint *c)
{
    const struct mpq_supernet *net = c->net;
    uint32_t n_layer = c->layers->n_layer;
    uint64_t *id = mpq_arena_alloc(list->ctx, list->arena, n_layer, sizeof *id);
    uint16_t *candidates = mpq_arena_alloc(list->ctx, list->arena, n_layer, sizeof *candidates);
    uint16_t *active = mpq_arena_alloc(list->ctx, list->arena, n_layer, sizeof *active);
    if (!id || !candidates || !active)
        return MPQ_E_NOMEM;
    add(list, MPQ_UINT64, n_layer, id, "layer_id");
    add(list, MPQ_UINT16, n_layer, candidates, "candidates");
    add(list, MPQ_UINT16, n_layer, active, "active");
    for (uint32_t l = 0; l < n_layer; l++) {
        id[l] = mpq_checkpoint_layer_id(c->graph, &c->layers->layer[l]);
        candidates[l] = net->layer[l].candidates;
        active[l] = net->layer[l].active;
        add_layer(list, net, l);
        const struct mpq_equal_edge *edge = mpq_equalize_edge(c->equalize, l);
        if (edge)
            add(list, MPQ_FLOAT, c->layers->layer[l].n_channel, edge->gain,
                mpq_arena_printf(list->ctx, list->arena, "layer%" PRIu32 ".gain", l));
    }
    return MPQ_OK;
}

static enum mpq_status add_values(struct list *list, const struct mpq_checkpoint *c)
{
    uint32_t n_value = 0;
    uint64_t *id = mpq_arena_alloc(list->ctx, list->arena, c->graph->n_value, sizeof *id);
    int32_t *group = mpq_arena_alloc(list->ctx, list->arena, c->graph->n_value, sizeof *group);
    if (!id || !group)
        return MPQ_E_NOMEM;
    for (mpq_value_id v = 0; v < c->graph->n_value; v++) {
        if (c->act->group[v] == MPQ_NO_GROUP)
            continue;
        id[n_value] = mpq_checkpoint_value_id(c->graph, v);
        group[n_value++] = (int32_t)c->act->group[v];
    }
    add(list, MPQ_UINT64, n_value, id, "value_id");
    add(list, MPQ_INT32, n_value, group, "value_group");
    return MPQ_OK;
}

/* The widths there are, narrowest first; act_quant is the last, or the only one. */
static enum mpq_status add_activations(struct list *list, const struct mpq_checkpoint *c)
{
    uint32_t n_group = c->act->n_group, n_width = 0;
    const struct mpq_act_quant *width[MPQ_N_BITS];
    for (int b = 0; b < MPQ_N_BITS; b++)
        if (c->act_by_width[b])
            width[n_width++] = c->act_by_width[b];
    if (!n_width)
        width[n_width++] = c->act_quant;
    size_t n = (size_t)n_width * n_group;
    int32_t *bits = mpq_arena_alloc(list->ctx, list->arena, n_width, sizeof *bits);
    float *scale = mpq_arena_alloc(list->ctx, list->arena, n, sizeof *scale);
    int32_t *zero_point = mpq_arena_alloc(list->ctx, list->arena, n, sizeof *zero_point);
    if (!bits || !scale || !zero_point)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < n; i++) {
        const struct mpq_act_quant *quant = &width[i / n_group][i % n_group];
        bits[i / n_group] = quant->bits;
        scale[i] = quant->scale;
        zero_point[i] = quant->zero_point;
    }
    add(list, MPQ_INT32, n_group ? n_width : 0, bits, "act_bits");
    add(list, MPQ_FLOAT, (int64_t)n, scale, "act_scale");
    add(list, MPQ_INT32, (int64_t)n, zero_point, "act_zero_point");
    return MPQ_OK;
}

static void add_answers(struct list *list, const struct mpq_answers *a)
{
    if (!a || !a->n_sample)
        return;
    add(list, MPQ_UINT64, a->n_sample, a->input_id, "answer_id");
    for (uint32_t i = 0; i < a->n_output; i++)
        add(list, MPQ_FLOAT, (int64_t)(a->n_sample * a->n_element[i]), a->output[i],
            mpq_arena_printf(list->ctx, list->arena, "answer%" PRIu32, i));
}

enum mpq_status mpq_checkpoint_save(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_checkpoint *c, const char *path,
                                    bool overwrite)
{
    uint32_t n_layer = c->layers->n_layer;
    size_t most = 13 + (size_t)n_layer * (2 + 4 * MPQ_N_BITS);
    most += c->answers ? c->answers->n_output : 0;
    struct list list = {ctx, arena, mpq_arena_alloc(ctx, arena, most, sizeof(char *)),
                        mpq_arena_alloc(ctx, arena, most, sizeof(struct mpq_tensor)), 0};
    if (!list.name || !list.tensor)
        return MPQ_E_NOMEM;
    add(&list, MPQ_UINT8, (int64_t)strlen(c->options), c->options, "options");
    MPQ_TRY(add_layers(&list, c));
    MPQ_TRY(add_values(&list, c));
    MPQ_TRY(add_activations(&list, c));
    add(&list, MPQ_DOUBLE, ((int64_t)n_layer + c->n_act) * MPQ_N_BITS, c->sensitivity,
        "sensitivity");
    add(&list, MPQ_DOUBLE, (int64_t)c->n_decide * MPQ_N_BITS, c->uniform_loss, "uniform_loss");
    add(&list, MPQ_DOUBLE, n_layer, c->refined_share, "refined_share");
    add(&list, MPQ_DOUBLE, MPQ_CHECKPOINT_PRINT, c->answers_print, "answers_print");
    add_answers(&list, c->answers);
    for (uint32_t i = 0; i < list.n; i++)
        if (!list.name[i])
            return MPQ_E_NOMEM;
    return mpq_npz_write(ctx, arena, path, overwrite, list.name, list.tensor, list.n);
}
