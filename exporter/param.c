#include "exporter/param.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "quantcore/quant/scale.h"

#define MAX_HALF  65504.0f
#define BIAS_UNIT 32768.0f /* of short integer biases: with it float16 reaches as far as int32 */
#define MAX_BIAS  ((double)MAX_HALF * (double)BIAS_UNIT)

enum { LONG_ZERO = 48 }; /* zeros that take as many bytes as making them */

static bool has_bias(const struct mpq_param *param)
{
    return param->layer->bias != MPQ_NO_VALUE;
}

static float as_half(float x)
{
    return mpq_half_to_float(mpq_float_to_half(fmaxf(-MAX_HALF, fminf(MAX_HALF, x))));
}

static int8_t nearest_level(const struct mpq_layer_code *code, double wanted)
{
    int8_t best = code->level[0];
    for (uint32_t i = 1; i < code->n_level; i++)
        if (fabs(code->level[i] - wanted) < fabs(best - wanted))
            best = code->level[i];
    return best;
}

/* Another scale for a channel: its weights become the nearest levels in it. */
static enum mpq_status set_scale(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const struct mpq_layer_code *code, struct mpq_param *param,
                                 int64_t c, float scale)
{
    const struct mpq_layer *layer = param->layer;
    double ratio = (double)param->scale[c] / (double)scale;
    if (!param->own_q)
        param->own_q = mpq_arena_copy(ctx, arena, code->q, (size_t)layer->n_param);
    if (!param->own_q)
        return MPQ_E_NOMEM;
    param->q = param->own_q;
    param->scale[c] = scale;
    for (int64_t o = 0; o < layer->n_outer; o++)
        for (int64_t i = 0; i < layer->n_inner; i++) {
            int64_t at = (o * layer->n_channel + c) * layer->n_inner + i;
            param->own_q[at] = nearest_level(code, param->own_q[at] * ratio);
        }
    return MPQ_OK;
}

static enum mpq_status fit_bias(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                const struct mpq_layer_code *code, struct mpq_param *param)
{
    for (int64_t c = 0; c < param->layer->n_channel; c++) {
        double bias = fabs((double)param->bias[c]);
        float step = param->x_scale * param->scale[c];
        if (step >= FLT_MIN && bias <= MAX_BIAS * (double)step)
            continue;
        double least = fmax(2.0 * (double)FLT_MIN, bias / (MAX_BIAS / 2));
        float scale = mpq_scale_round(param->layer, (float)(least / (double)param->x_scale));
        MPQ_TRY(set_scale(ctx, arena, code, param, c, scale));
    }
    return MPQ_OK;
}

/* The step of byte 0, such that the largest scale is within bytes. */
static int first_step(const struct mpq_param *param, uint32_t n_layer)
{
    float most = 0;
    for (uint32_t l = 0; l < n_layer; l++)
        for (int64_t c = 0; c < param[l].layer->n_channel; c++)
            most = fmaxf(most, param[l].scale[c]);
    int steps = param->layer->scale_steps;
    int first = mpq_scale_step(steps, most) - (MPQ_SCALE_WINDOW - 1), least = FLT_MIN_EXP * steps;
    return first < least ? least : first;
}

enum mpq_status mpq_param_join(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               const struct mpq_layer_code *code, struct mpq_param *param,
                               uint32_t n_layer)
{
    if (!n_layer || !param->layer->scale_steps)
        return MPQ_OK;
    float least = mpq_scale_of_step(param->layer->scale_steps, first_step(param, n_layer));
    for (uint32_t l = 0; l < n_layer; l++)
        for (int64_t c = 0; c < param[l].layer->n_channel; c++)
            if (param[l].scale[c] < least)
                MPQ_TRY(set_scale(ctx, arena, &code[l], &param[l], c, least));
    return MPQ_OK;
}

enum mpq_status mpq_param_init(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               const struct mpq_layer *layer, const struct mpq_layer_code *code,
                               float x_scale, bool is_short, struct mpq_param *out)
{
    size_t n = (size_t)layer->n_channel;
    MPQ_ASSERT((code->bias != NULL) == (layer->bias != MPQ_NO_VALUE));
    *out =
        (struct mpq_param){.layer = layer, .x_scale = x_scale, .is_short = is_short, .q = code->q};
    out->scale = mpq_arena_alloc(ctx, arena, n, sizeof *out->scale);
    out->bias = mpq_arena_alloc(ctx, arena, n, sizeof *out->bias);
    if (!out->scale || !out->bias)
        return MPQ_E_NOMEM;
    for (size_t c = 0; c < n; c++)
        out->scale[c] = mpq_scale_round(layer, code->scale[c]);
    if (!code->bias)
        return MPQ_OK;
    memcpy(out->bias, code->bias, n * sizeof *out->bias);
    if (x_scale > 0.0f)
        return fit_bias(ctx, arena, code, out);
    for (size_t c = 0; is_short && c < n; c++)
        out->bias[c] = as_half(code->bias[c]);
    return MPQ_OK;
}

/* In units of input scale times weight scale; of 11 bits where the file keeps it in float16. */
static float bias_integer(const struct mpq_param *param, int64_t c)
{
    float q = rintf(param->bias[c] / (param->x_scale * param->scale[c]));
    return param->is_short ? as_half(q / BIAS_UNIT) * BIAS_UNIT : q;
}

void mpq_param_settle(struct mpq_param *param)
{
    for (int64_t c = 0; param->x_scale > 0.0f && c < param->layer->n_channel; c++)
        param->bias[c] = bias_integer(param, c) * (param->x_scale * param->scale[c]);
}

/* ---- one initializer a layer ---- */

static const char *write_floats(struct mpq_build *build, int64_t n, float *data)
{
    return mpq_build_constant(build, &(struct mpq_tensor){MPQ_FLOAT, MPQ_SHAPE(n), data}, NULL);
}

static const char *write_product(struct mpq_build *build, const struct mpq_param *param)
{
    int64_t n = param->layer->n_channel;
    float *product = mpq_arena_alloc(build->ctx, build->arena, (size_t)n, sizeof *product);
    if (!product)
        return NULL;
    for (int64_t c = 0; c < n && !build->measured; c++)
        product[c] = param->x_scale * param->scale[c];
    return write_floats(build, n, product);
}

static const char *write_integers(struct mpq_build *build, const struct mpq_param *param)
{
    int64_t n = param->layer->n_channel;
    int32_t *bias = mpq_arena_alloc(build->ctx, build->arena, (size_t)n, sizeof *bias);
    if (!bias)
        return NULL;
    for (int64_t c = 0; c < n && !build->measured; c++)
        bias[c] = (int32_t)bias_integer(param, c);
    return mpq_build_constant(build, &(struct mpq_tensor){MPQ_INT32, MPQ_SHAPE(n), bias}, NULL);
}

/* ---- one initializer for all ---- */

/* Rows and names of the layers that take part in one tensor. */
struct rows {
    size_t n;
    uint32_t *layer;
    int64_t *length;
    float **data;
    const char **name;
};

static enum mpq_status rows_init(struct mpq_build *build, uint32_t n_layer, struct rows *out)
{
    *out = (struct rows){
        .layer = mpq_arena_alloc(build->ctx, build->arena, n_layer, sizeof *out->layer),
        .length = mpq_arena_alloc(build->ctx, build->arena, n_layer, sizeof *out->length),
        .data = mpq_arena_alloc(build->ctx, build->arena, n_layer, sizeof *out->data),
        .name = mpq_arena_alloc(build->ctx, build->arena, n_layer, sizeof *out->name)};
    return out->layer && out->length && out->data && out->name ? MPQ_OK : MPQ_E_NOMEM;
}

static void rows_add(struct rows *rows, uint32_t layer, int64_t length, float *data)
{
    rows->layer[rows->n] = layer;
    rows->length[rows->n] = length;
    rows->data[rows->n++] = data;
}

static int64_t rows_length(const struct rows *rows)
{
    int64_t n = 0;
    for (size_t r = 0; r < rows->n; r++)
        n += rows->length[r];
    return n;
}

/* All rows as one tensor of 16 bits an element, cast to float. */
static const char *write_halves(struct mpq_build *build, enum mpq_dtype dtype,
                                const struct rows *rows)
{
    int64_t n = rows_length(rows), at = 0;
    uint16_t *half = mpq_arena_alloc(build->ctx, build->arena, (size_t)n, sizeof *half);
    if (!half)
        return NULL;
    struct mpq_tensor tensor = {dtype, MPQ_SHAPE(n), half};
    for (size_t r = 0; r < rows->n && !build->measured; r++)
        for (int64_t c = 0; c < rows->length[r]; c++)
            mpq_tensor_set_double(&tensor, at++, (double)rows->data[r][c]);
    const char *packed = mpq_build_constant(build, &tensor, NULL);
    return MPQ_BUILD_OP(build, "Cast", {packed}, .attr = "to", .attr_int = MPQ_FLOAT);
}

/* Scales as bytes, steps from `first` on. */
static const char *write_steps(struct mpq_build *build, int steps, int first,
                               const struct rows *rows)
{
    int64_t n = rows_length(rows), at = 0;
    uint8_t *step = mpq_arena_alloc(build->ctx, build->arena, (size_t)n, 1);
    float *start = mpq_arena_alloc(build->ctx, build->arena, 1, sizeof *start);
    if (!step || !start)
        return NULL;
    *start = (float)((double)first / steps + MPQ_SCALE_OFFSET);
    for (size_t r = 0; r < rows->n && !build->measured; r++)
        for (int64_t c = 0; c < rows->length[r]; c++)
            step[at++] = (uint8_t)(mpq_scale_step(steps, rows->data[r][c]) - first);
    const struct mpq_tensor bytes = {MPQ_UINT8, MPQ_SHAPE(n), step};
    const struct mpq_tensor offset = {.dtype = MPQ_FLOAT, .data = start};
    const char *x = mpq_build_constant(build, &bytes, NULL);
    x = MPQ_BUILD_OP(build, "Cast", {x}, .attr = "to", .attr_int = MPQ_FLOAT);
    x = MPQ_BUILD_OP(build, "Mul", {x, mpq_build_shared_float(build, 1.0f / (float)steps)});
    x = MPQ_BUILD_OP(build, "Add", {x, mpq_build_constant(build, &offset, NULL)});
    return MPQ_BUILD_OP(build, "Pow", {mpq_build_shared_float(build, 2), x});
}

static enum mpq_status write_scales(struct mpq_build *build, struct mpq_param *param,
                                    uint32_t n_layer)
{
    struct rows rows;
    MPQ_TRY(rows_init(build, n_layer, &rows));
    for (uint32_t l = 0; l < n_layer; l++)
        rows_add(&rows, l, param[l].layer->n_channel, param[l].scale);
    int steps = n_layer ? param->layer->scale_steps : 0;
    int first = steps && !build->measured ? first_step(param, n_layer) : 0;
    const char *all =
        steps ? write_steps(build, steps, first, &rows) : write_halves(build, MPQ_BFLOAT16, &rows);
    if (!mpq_build_split(build, all, rows.length, rows.n, 0, rows.name))
        return build->ctx->status;
    for (uint32_t l = 0; l < n_layer; l++)
        param[l].scale_name = rows.name[l];
    return MPQ_OK;
}

static float *shrunk_integers(struct mpq_build *build, const struct mpq_param *param)
{
    int64_t n = param->layer->n_channel;
    float *q = mpq_arena_alloc(build->ctx, build->arena, (size_t)n, sizeof *q);
    for (int64_t c = 0; c < n && q && !build->measured; c++)
        q[c] = bias_integer(param, c) / BIAS_UNIT;
    return q;
}

static enum mpq_status write_biases(struct mpq_build *build, struct mpq_param *param,
                                    uint32_t n_layer, bool is_integer)
{
    struct rows rows;
    MPQ_TRY(rows_init(build, n_layer, &rows));
    for (uint32_t l = 0; l < n_layer; l++) {
        if (!has_bias(&param[l]) || (param[l].x_scale > 0.0f) != is_integer)
            continue;
        float *data = is_integer ? shrunk_integers(build, &param[l]) : param[l].bias;
        if (is_integer && !data)
            return MPQ_E_NOMEM;
        rows_add(&rows, l, param[l].layer->n_channel, data);
    }
    if (!rows.n)
        return MPQ_OK;
    const char *all = write_halves(build, MPQ_FLOAT16, &rows);
    if (is_integer) {
        all = MPQ_BUILD_OP(build, "Mul", {all, mpq_build_shared_float(build, BIAS_UNIT)});
        all = MPQ_BUILD_OP(build, "Cast", {all}, .attr = "to", .attr_int = MPQ_INT32);
    }
    if (!mpq_build_split(build, all, rows.length, rows.n, 0, rows.name))
        return build->ctx->status;
    for (size_t r = 0; r < rows.n; r++)
        param[rows.layer[r]].bias_name = rows.name[r];
    return MPQ_OK;
}

/* int8 [n] of zeros; a long one is made at load where that may be. */
static const char *write_zero(struct mpq_build *build, enum mpq_param_form form, int64_t n)
{
    bool is_made = form != MPQ_PARAM_PLAIN && n >= LONG_ZERO;
    struct mpq_tensor zero = {.dtype = MPQ_INT8};
    if (!is_made)
        zero.shape = MPQ_SHAPE(n);
    zero.data = mpq_arena_alloc(build->ctx, build->arena, is_made ? 1 : (size_t)n, 1);
    const char *name = zero.data ? mpq_build_shared(build, &zero) : NULL;
    return is_made ? MPQ_BUILD_OP(build, "Expand", {name, mpq_build_shared_ints(build, &n, 1)})
                   : name;
}

/* One for all layers of as many channels. */
static void write_zeros(struct mpq_build *build, enum mpq_param_form form, struct mpq_param *param,
                        uint32_t n_layer)
{
    for (uint32_t l = 0; l < n_layer; l++) {
        if (!param[l].has_zero)
            continue;
        int64_t n = param[l].layer->n_channel;
        uint32_t first = 0;
        while (!param[first].has_zero || param[first].layer->n_channel != n)
            first++;
        param[l].zero_name = first < l ? param[first].zero_name : write_zero(build, form, n);
    }
}

enum mpq_status mpq_param_write(struct mpq_build *build, enum mpq_param_form form,
                                struct mpq_param *param, uint32_t n_layer)
{
    if (form != MPQ_PARAM_PLAIN)
        MPQ_TRY(write_scales(build, param, n_layer));
    for (uint32_t l = 0; l < n_layer; l++) {
        struct mpq_param *p = &param[l];
        int64_t n = p->layer->n_channel;
        if (form == MPQ_PARAM_PLAIN)
            p->scale_name = write_floats(build, n, p->scale);
        if (!has_bias(p))
            continue;
        if (p->x_scale > 0.0f && form == MPQ_PARAM_PLAIN)
            p->bias_scale_name = write_product(build, p);
        if (form != MPQ_PARAM_SHORT)
            p->bias_name =
                p->x_scale > 0.0f ? write_integers(build, p) : write_floats(build, n, p->bias);
    }
    if (form == MPQ_PARAM_SHORT) {
        MPQ_TRY(write_biases(build, param, n_layer, true));
        MPQ_TRY(write_biases(build, param, n_layer, false));
    }
    write_zeros(build, form, param, n_layer);
    return build->ctx->status;
}
