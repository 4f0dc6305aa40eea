#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "calibration/npz.h"
#include "cli/checkpoint.h"
#include "cli/checkpoint_id.h"

struct reader {
    struct mpq_ctx *ctx;
    struct mpq_arena *arena;
    const char *path;
    struct mpq_npz *npz;
};

/* The array `name`, of that type; `count` elements, or any number up to -count where negative. */
static enum mpq_status read_array(const struct reader *r, const char *name, enum mpq_dtype dtype,
                                  int64_t count, struct mpq_tensor *out)
{
    if (!name)
        return MPQ_E_NOMEM;
    if (!mpq_npz_has(r->npz, name))
        return mpq_fail(r->ctx, MPQ_E_FORMAT,
                        "%s: is no checkpoint for these options: no array '%s'", r->path, name);
    MPQ_TRY(mpq_npz_read(r->ctx, r->arena, r->npz, name, out));
    int64_t n = mpq_shape_count(&out->shape);
    bool fits = count >= 0 ? n == count : n <= -count;
    if (out->dtype != dtype || !fits)
        return mpq_fail(r->ctx, MPQ_E_FORMAT, "%s: array '%s' is %s %s, not of this model", r->path,
                        name, mpq_dtype_name(out->dtype), MPQ_SHAPE_TEXT(&out->shape));
    int64_t bad = dtype == MPQ_FLOAT ? mpq_tensor_find_nonfinite(out) : -1;
    if (bad >= 0)
        return mpq_fail(r->ctx, MPQ_E_NUMERIC, "%s: array '%s' is %g at element %" PRId64, r->path,
                        name, mpq_tensor_double(out, bad), bad);
    return MPQ_OK;
}

/* The array `name` where there is one of that type and size. */
static enum mpq_status read_if_fits(const struct reader *r, const char *name, enum mpq_dtype dtype,
                                    size_t count, struct mpq_tensor *out, bool *out_fits)
{
    *out_fits = false;
    if (!name)
        return MPQ_E_NOMEM;
    if (!mpq_npz_has(r->npz, name))
        return MPQ_OK;
    MPQ_TRY(mpq_npz_read(r->ctx, r->arena, r->npz, name, out));
    *out_fits = out->dtype == dtype && (size_t)mpq_shape_count(&out->shape) == count;
    return MPQ_OK;
}

static enum mpq_status read_offset(const struct reader *r, const struct mpq_layer *shape,
                                   uint32_t l, int b, struct mpq_supernet_width *width)
{
    struct mpq_tensor offset;
    const char *name = mpq_checkpoint_width_name(r->ctx, r->arena, l, b, "offset");
    if (!name)
        return MPQ_E_NOMEM;
    if (!mpq_npz_has(r->npz, name))
        return MPQ_OK;
    MPQ_TRY(read_array(r, name, MPQ_FLOAT, shape->n_param, &offset));
    width->offset = offset.data;
    return MPQ_OK;
}

static enum mpq_status read_width(const struct reader *r, const struct mpq_layer *shape, uint32_t l,
                                  int b, struct mpq_supernet_width *width)
{
    struct mpq_tensor scale, level, bias;
    size_t bytes = (size_t)shape->n_channel * sizeof(mpq_real);
    MPQ_TRY(read_array(r, mpq_checkpoint_width_name(r->ctx, r->arena, l, b, "scale"), MPQ_FLOAT,
                       shape->n_channel, &scale));
    MPQ_TRY(read_array(r, mpq_checkpoint_width_name(r->ctx, r->arena, l, b, "level"), MPQ_INT8,
                       -(1 << b), &level));
    for (int64_t c = 0; c < shape->n_channel; c++)
        if (!(mpq_tensor_double(&scale, c) > 0))
            return mpq_fail(r->ctx, MPQ_E_NUMERIC,
                            "%s: a scale of layer %" PRIu32 " is not positive", r->path, l);
    uint32_t n_level = (uint32_t)mpq_shape_count(&level.shape);
    if (!n_level)
        return mpq_fail(r->ctx, MPQ_E_FORMAT, "%s: layer %" PRIu32 " has no levels", r->path, l);
    for (uint32_t k = 1; k < n_level; k++)
        if (mpq_tensor_int(&level, k) <= mpq_tensor_int(&level, k - 1))
            return mpq_fail(r->ctx, MPQ_E_FORMAT, "%s: levels of layer %" PRIu32 " do not ascend",
                            r->path, l);
    memcpy(width->scale, scale.data, bytes);
    mpq_levels_set(b, level.data, n_level, &width->levels);
    if (width->bias) {
        MPQ_TRY(read_array(r, mpq_checkpoint_width_name(r->ctx, r->arena, l, b, "bias"), MPQ_FLOAT,
                           shape->n_channel, &bias));
        memcpy(width->bias, bias.data, bytes);
    }
    return read_offset(r, shape, l, b, width);
}

static enum mpq_status read_layer(const struct reader *r, const struct mpq_layer *shape, uint32_t l,
                                  struct mpq_supernet_layer *layer)
{
    struct mpq_tensor weight;
    MPQ_TRY(read_array(r, mpq_arena_printf(r->ctx, r->arena, "layer%" PRIu32 ".weight", l),
                       MPQ_FLOAT, shape->n_param, &weight));
    memcpy(layer->w, weight.data, (size_t)shape->n_param * sizeof *layer->w);
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++)
        if (layer->candidates >> b & 1)
            MPQ_TRY(read_width(r, shape, l, b, &layer->width[b]));
    return MPQ_OK;
}

enum { MANY = 1 << 30 };

/* Where the layers of the table are in the file, out_at [n_layer]. */
static enum mpq_status find_layers(const struct reader *r, const struct mpq_checkpoint *c,
                                   uint32_t *out_at, uint32_t *out_count)
{
    struct mpq_tensor id;
    uint32_t n_found = 0;
    const char *missing = NULL;
    MPQ_TRY(read_array(r, "layer_id", MPQ_UINT64, -MANY, &id));
    uint32_t n = (uint32_t)mpq_shape_count(&id.shape);
    for (uint32_t l = 0; l < c->layers->n_layer; l++) {
        uint64_t want = mpq_checkpoint_layer_id(c->graph, &c->layers->layer[l]);
        out_at[l] = 0;
        while (out_at[l] < n && ((uint64_t *)id.data)[out_at[l]] != want)
            out_at[l]++;
        n_found += out_at[l] < n;
        if (out_at[l] == n)
            missing = c->layers->layer[l].name;
    }
    *out_count = n;
    if (!n_found)
        return mpq_fail(r->ctx, MPQ_E_FORMAT, "%s: is a checkpoint of another model", r->path);
    if (missing)
        return mpq_fail(r->ctx, MPQ_E_FORMAT,
                        "%s: does not have the layer '%s': it was excluded, or the model has "
                        "changed",
                        r->path, missing);
    return MPQ_OK;
}

/* Where the groups of the plan are in the file, out_at [n_group]: where one of their values is. */
static enum mpq_status find_groups(const struct reader *r, const struct mpq_checkpoint *c,
                                   uint32_t *out_at)
{
    struct mpq_tensor id, group;
    MPQ_TRY(read_array(r, "value_id", MPQ_UINT64, -MANY, &id));
    int64_t n = mpq_shape_count(&id.shape);
    MPQ_TRY(read_array(r, "value_group", MPQ_INT32, n, &group));
    for (uint32_t g = 0; g < c->act->n_group; g++)
        out_at[g] = UINT32_MAX;
    for (mpq_value_id v = 0; v < c->graph->n_value; v++) {
        uint32_t g = c->act->group[v];
        uint64_t want = mpq_checkpoint_value_id(c->graph, v);
        for (int64_t i = 0; g != MPQ_NO_GROUP && out_at[g] == UINT32_MAX && i < n; i++)
            if (((uint64_t *)id.data)[i] == want)
                out_at[g] = (uint32_t)mpq_tensor_int(&group, i);
    }
    for (uint32_t g = 0; g < c->act->n_group; g++)
        if (out_at[g] == UINT32_MAX)
            return mpq_fail(r->ctx, MPQ_E_FORMAT,
                            "%s: lacks a range of activations: it is of an earlier version of the "
                            "model or of the program, or was made for another --target",
                            r->path);
    return MPQ_OK;
}

/* Row `width` of the file's activations, out_quant [n_group]. */
static enum mpq_status read_row(const struct reader *r, const struct mpq_checkpoint *c,
                                uint32_t width, const uint32_t *at, struct mpq_act_quant *out_quant)
{
    struct mpq_tensor bits, scale, zero_point;
    MPQ_TRY(read_array(r, "act_bits", MPQ_INT32, -MPQ_N_BITS, &bits));
    MPQ_TRY(read_array(r, "act_scale", MPQ_FLOAT, -MANY, &scale));
    int64_t n = mpq_shape_count(&scale.shape), n_group = n / mpq_shape_count(&bits.shape);
    MPQ_TRY(read_array(r, "act_zero_point", MPQ_INT32, n, &zero_point));
    for (uint32_t g = 0; g < c->act->n_group; g++) {
        int64_t i = width * n_group + at[g];
        if (at[g] >= n_group)
            return mpq_fail(r->ctx, MPQ_E_FORMAT, "%s: the group of a value is not there", r->path);
        struct mpq_act_quant quant = {(float)mpq_tensor_double(&scale, i),
                                      (int)mpq_tensor_int(&zero_point, i),
                                      (int)mpq_tensor_int(&bits, width)};
        if (!(quant.scale > 0) || quant.bits < MPQ_MIN_BITS ||
            (quant.bits > MPQ_MAX_BITS && quant.bits != 16) || quant.zero_point < 0 ||
            quant.zero_point >= 1 << quant.bits)
            return mpq_fail(r->ctx, MPQ_E_FORMAT,
                            "%s: the range of value group %" PRIu32 " is invalid", r->path, g);
        out_quant[g] = quant;
    }
    return MPQ_OK;
}

static enum mpq_status read_activations(const struct reader *r, const struct mpq_checkpoint *c)
{
    struct mpq_tensor bits;
    uint32_t *at = mpq_arena_alloc(r->ctx, r->arena, c->act->n_group, sizeof *at);
    if (!at)
        return MPQ_E_NOMEM;
    if (!c->act->n_group)
        return MPQ_OK;
    MPQ_TRY(find_groups(r, c, at));
    MPQ_TRY(read_array(r, "act_bits", MPQ_INT32, -MPQ_N_BITS, &bits));
    uint32_t n_width = (uint32_t)mpq_shape_count(&bits.shape);
    if (!n_width)
        return mpq_fail(r->ctx, MPQ_E_FORMAT, "%s: has no ranges of activations", r->path);
    MPQ_TRY(read_row(r, c, n_width - 1, at, c->act_quant));
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
        uint32_t i = 0;
        if (!c->act_by_width[b])
            continue;
        while (i < n_width && mpq_tensor_int(&bits, i) != b)
            i++;
        if (i == n_width)
            return mpq_fail(r->ctx, MPQ_E_FORMAT, "%s: has no activations of %d bits (--act-bits)",
                            r->path, b);
        MPQ_TRY(read_row(r, c, i, at, c->act_by_width[b]));
        memcpy(c->act_quant, c->act_by_width[b], c->act->n_group * sizeof *c->act_quant);
    }
    return MPQ_OK;
}

/* The gains of the layers, at[l] in the file. What was equalized must still be so: the weights on
 * both sides have the gains in them. */
static enum mpq_status read_gains(const struct reader *r, const struct mpq_checkpoint *c,
                                  const uint32_t *at, uint32_t n_stored)
{
    uint32_t n_gain = 0, n_found = 0;
    for (uint32_t i = 0; i < n_stored; i++) {
        const char *name = mpq_arena_printf(r->ctx, r->arena, "layer%" PRIu32 ".gain", i);
        if (!name)
            return MPQ_E_NOMEM;
        n_gain += mpq_npz_has(r->npz, name);
    }
    for (uint32_t e = 0; n_gain && e < c->equalize->n_edge; e++) {
        struct mpq_equal_edge *edge = &c->equalize->edge[e];
        int64_t n = c->layers->layer[edge->from].n_channel;
        const char *name =
            mpq_arena_printf(r->ctx, r->arena, "layer%" PRIu32 ".gain", at[edge->from]);
        struct mpq_tensor gain;
        if (!name || !mpq_npz_has(r->npz, name))
            continue;
        MPQ_TRY(read_array(r, name, MPQ_FLOAT, n, &gain));
        memcpy(edge->gain, gain.data, (size_t)n * sizeof *edge->gain);
        for (int64_t i = 0; i < n; i++)
            if (!(edge->gain[i] > 0))
                return mpq_fail(r->ctx, MPQ_E_NUMERIC, "%s: a gain of '%s' is not positive",
                                r->path, c->layers->layer[edge->from].name);
        n_found++;
    }
    if (n_found < n_gain)
        return mpq_fail(r->ctx, MPQ_E_FORMAT,
                        "%s: channels of %" PRIu32 " layers were equalized together with layers "
                        "that are excluded now",
                        r->path, n_gain - n_found);
    if (!n_gain)
        c->equalize->n_edge = 0;
    return MPQ_OK;
}

enum mpq_status mpq_checkpoint_load(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_checkpoint *c, const char *path)
{
    struct reader r = {ctx, arena, path, NULL};
    struct mpq_tensor active;
    uint32_t n_stored, *at = mpq_arena_alloc(ctx, arena, c->layers->n_layer, sizeof *at);
    if (!at)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_npz_open(ctx, arena, path, &r.npz));
    MPQ_TRY(find_layers(&r, c, at, &n_stored));
    MPQ_TRY(read_gains(&r, c, at, n_stored));
    MPQ_TRY(read_activations(&r, c));
    MPQ_TRY(read_array(&r, "active", MPQ_UINT16, n_stored, &active));
    for (uint32_t l = 0; c->net && l < c->layers->n_layer; l++) {
        struct mpq_supernet_layer *layer = &c->net->layer[l];
        MPQ_TRY(read_layer(&r, &c->layers->layer[l], at[l], layer));
        int64_t drawn = mpq_tensor_int(&active, at[l]);
        if (drawn == 0 || drawn >> (MPQ_MAX_BITS + 1) || drawn & ((1 << MPQ_MIN_BITS) - 1))
            return mpq_fail(ctx, MPQ_E_FORMAT, "%s: layer '%s' has widths that there are not", path,
                            c->layers->layer[l].name);
        mpq_bits_mask still = layer->candidates & (mpq_bits_mask)drawn; /* of fewer, perhaps none */
        layer->active = still ? still : layer->candidates;
    }
    return MPQ_OK;
}

/* One row, NaN where the width is no candidate; false where a candidate was not measured. */
static bool copy_row(const double *from, mpq_bits_mask candidates, double *to)
{
    bool is_complete = true;
    for (int b = 0; b < MPQ_N_BITS; b++) {
        bool is_candidate = candidates >> b & 1;
        to[b] = is_candidate ? from[b] : (double)NAN;
        is_complete &= !is_candidate || !isnan(from[b]);
    }
    return is_complete;
}

/* at [n_layer]: the rows of the file's n_stored. */
static enum mpq_status read_share(const struct reader *r, const struct mpq_checkpoint *c,
                                  const uint32_t *at, uint32_t n_stored)
{
    struct mpq_tensor share;
    bool fits;
    MPQ_TRY(read_if_fits(r, "refined_share", MPQ_DOUBLE, n_stored, &share, &fits));
    for (uint32_t l = 0; fits && l < c->layers->n_layer; l++) {
        double x = ((const double *)share.data)[at[l]];
        if (x <= 0 || x > 1)
            return mpq_fail(r->ctx, MPQ_E_NUMERIC, "%s: a refined share is not within 0 and 1",
                            r->path);
        c->refined_share[l] = x;
    }
    return MPQ_OK;
}

static enum mpq_status read_sensitivity(const struct reader *r, const struct mpq_checkpoint *c,
                                        bool *out_found)
{
    struct mpq_tensor table, bits;
    uint32_t n_layer = c->layers->n_layer, n_stored, n = n_layer + c->n_act;
    uint32_t *at = mpq_arena_alloc(r->ctx, r->arena, n_layer + c->act->n_group, sizeof *at);
    if (!at)
        return MPQ_E_NOMEM;
    MPQ_TRY(find_layers(r, c, at, &n_stored));
    MPQ_TRY(find_groups(r, c, at + n_layer));
    MPQ_TRY(read_array(r, "sensitivity", MPQ_DOUBLE, -MANY, &table));
    MPQ_TRY(read_array(r, "act_bits", MPQ_INT32, -MPQ_N_BITS, &bits));
    int64_t n_row = mpq_shape_count(&table.shape) / MPQ_N_BITS,
            n_width = mpq_shape_count(&bits.shape);
    mpq_bits_mask act = 0;
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++)
        act |= (mpq_bits_mask)((c->act_by_width[b] != NULL) << b);
    if (act && n_width && mpq_bits_highest(act) != mpq_tensor_int(&bits, n_width - 1))
        return MPQ_OK; /* measured beside other activations */
    bool is_complete = true;
    for (uint32_t i = 0; i < n && is_complete; i++) {
        int64_t row = i < n_layer ? at[i] : (int64_t)n_stored + at[i];
        is_complete = row < n_row && copy_row((const double *)table.data + row * MPQ_N_BITS,
                                              i < n_layer ? c->net->layer[i].candidates : act,
                                              c->sensitivity + (size_t)i * MPQ_N_BITS);
    }
    *out_found = is_complete;
    size_t n_uniform = (size_t)c->n_decide * MPQ_N_BITS;
    bool fits;
    if (is_complete)
        MPQ_TRY(read_share(r, c, at, n_stored));
    if (!is_complete || n_stored != n_layer)
        return MPQ_OK;
    MPQ_TRY(read_if_fits(r, "uniform_loss", MPQ_DOUBLE, n_uniform, &table, &fits));
    if (fits)
        memcpy(c->uniform_loss, table.data, n_uniform * sizeof *c->uniform_loss);
    return MPQ_OK;
}

/* Open it, and say whether what it holds was measured against the same float outputs; by
 * earlier versions, nothing was. */
static enum mpq_status open_measured(struct reader *r, const double *print, bool *out_is_same)
{
    struct mpq_tensor stored;
    bool fits;
    MPQ_TRY(mpq_npz_open(r->ctx, r->arena, r->path, &r->npz));
    MPQ_TRY(read_if_fits(r, "answers_print", MPQ_DOUBLE, MPQ_CHECKPOINT_PRINT, &stored, &fits));
    *out_is_same = fits && mpq_checkpoint_same_print(stored.data, print);
    return MPQ_OK;
}

enum mpq_status mpq_checkpoint_load_sensitivity(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                                const struct mpq_checkpoint *c, const char *path,
                                                bool *out_found)
{
    struct reader r = {ctx, arena, path, NULL};
    bool is_same;
    *out_found = false;
    MPQ_TRY(open_measured(&r, c->answers_print, &is_same));
    return is_same ? read_sensitivity(&r, c, out_found) : MPQ_OK;
}

enum mpq_status mpq_checkpoint_floats(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      const struct mpq_graph *graph, const char *path,
                                      bool *out_is_float)
{
    struct reader r = {ctx, arena, path, NULL};
    struct mpq_tensor id;
    MPQ_TRY(mpq_npz_open(ctx, arena, path, &r.npz));
    MPQ_TRY(read_array(&r, "value_id", MPQ_UINT64, -MANY, &id));
    int64_t n = mpq_shape_count(&id.shape);
    for (mpq_value_id v = 0; v < graph->n_value; v++) {
        uint64_t want = mpq_checkpoint_value_id(graph, v);
        out_is_float[v] = true;
        for (int64_t i = 0; i < n && out_is_float[v]; i++)
            out_is_float[v] = ((uint64_t *)id.data)[i] != want;
    }
    return MPQ_OK;
}

enum mpq_status mpq_checkpoint_load_answers(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                            const char *path, const double *answers_print,
                                            struct mpq_answers *answers)
{
    struct reader r = {ctx, arena, path, NULL};
    struct mpq_tensor id, array;
    bool fits, is_same;
    MPQ_TRY(open_measured(&r, answers_print, &is_same));
    if (!is_same)
        return MPQ_OK;
    MPQ_TRY(read_if_fits(&r, "answer_id", MPQ_UINT64, answers->n_room, &id, &fits));
    for (uint32_t i = 0; i < answers->n_output && fits; i++) {
        size_t count = answers->n_room * answers->n_element[i];
        MPQ_TRY(read_if_fits(&r, mpq_arena_printf(ctx, arena, "answer%" PRIu32, i), MPQ_FLOAT,
                             count, &array, &fits));
        if (fits)
            memcpy(answers->output[i], array.data, count * sizeof(mpq_real));
    }
    if (!fits)
        return MPQ_OK;
    memcpy(answers->input_id, id.data, answers->n_room * sizeof *answers->input_id);
    answers->n_sample = answers->n_room;
    return MPQ_OK;
}

enum mpq_status mpq_checkpoint_options(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const char *path, char **out_text)
{
    struct reader r = {ctx, arena, path, NULL};
    struct mpq_tensor text;
    MPQ_TRY(mpq_npz_open(ctx, arena, path, &r.npz));
    if (!mpq_npz_has(r.npz, "options"))
        return mpq_fail(ctx, MPQ_E_FORMAT,
                        "%s: is no checkpoint, or one of --recipe paper, which convert resumes",
                        path);
    MPQ_TRY(read_array(&r, "options", MPQ_UINT8, -MANY, &text));
    *out_text = mpq_arena_printf(ctx, arena, "%.*s", (int)mpq_shape_count(&text.shape),
                                 (const char *)text.data);
    return *out_text ? MPQ_OK : MPQ_E_NOMEM;
}
