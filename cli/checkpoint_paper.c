#include "cli/checkpoint_paper.h"

#include <string.h>

#include "calibration/npz.h"
#include "cli/checkpoint.h"
#include "cli/checkpoint_id.h"

enum { ID, WIDTHS, ACTIVE, SIGNED, VALUE, N_ARRAY };
static const char *const names[N_ARRAY] = {"paper_layer_id", "paper_widths", "paper_active",
                                           "paper_signed", "paper_value"};

/* The arrays with room for the net's state, filled with what it is now. */
static enum mpq_status make_arrays(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_paper_net *net, struct mpq_tensor *out)
{
    uint32_t n_layer = net->layers->n_layer;
    out[ID] = (struct mpq_tensor){MPQ_UINT64, MPQ_SHAPE(n_layer), NULL};
    out[WIDTHS] = (struct mpq_tensor){MPQ_UINT16, MPQ_SHAPE(2, n_layer), NULL};
    out[ACTIVE] = (struct mpq_tensor){MPQ_UINT16, MPQ_SHAPE(n_layer), NULL};
    out[SIGNED] = (struct mpq_tensor){MPQ_UINT8, MPQ_SHAPE(n_layer), NULL};
    out[VALUE] = (struct mpq_tensor){MPQ_FLOAT, MPQ_SHAPE((int64_t)net->n_value), net->value};
    for (int i = 0; i < VALUE; i++)
        MPQ_TRY(mpq_tensor_alloc(ctx, arena, out[i].dtype, &out[i].shape, &out[i]));
    for (uint32_t l = 0; l < n_layer; l++) {
        const struct mpq_paper_layer *layer = &net->layer[l];
        ((uint64_t *)out[ID].data)[l] = mpq_checkpoint_layer_id(net->graph, &net->layers->layer[l]);
        ((uint16_t *)out[WIDTHS].data)[l] = layer->weights;
        ((uint16_t *)out[WIDTHS].data)[n_layer + l] = layer->inputs;
        ((uint16_t *)out[ACTIVE].data)[l] = layer->active;
        ((uint8_t *)out[SIGNED].data)[l] = layer->is_signed;
    }
    return MPQ_OK;
}

enum mpq_status mpq_checkpoint_paper_save(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                          const struct mpq_paper_net *net, const char *path,
                                          bool overwrite)
{
    struct mpq_tensor tensor[N_ARRAY];
    MPQ_TRY(make_arrays(ctx, arena, net, tensor));
    return mpq_npz_write(ctx, arena, path, overwrite, names, tensor, N_ARRAY);
}

/* Steps and gammas divide and scale: none may be 0. */
static enum mpq_status check_values(struct mpq_ctx *ctx, const struct mpq_paper_net *net,
                                    const struct mpq_tensor *value, const char *path)
{
    bool is_positive = mpq_tensor_find_nonfinite(value) < 0;
    const mpq_real *data = value->data;
    for (uint32_t b = 0; b < net->n_block && is_positive; b++)
        for (size_t i = 0; net->block[b].kind == MPQ_PAPER_STEP && i < net->block[b].n; i++)
            is_positive = is_positive && data[net->block[b].begin + i] > 0;
    return is_positive ? MPQ_OK
                       : mpq_fail(ctx, MPQ_E_NUMERIC,
                                  "%s: a parameter is not finite or a step not positive", path);
}

enum mpq_status mpq_checkpoint_paper_load(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                          struct mpq_paper_net *net, const char *path)
{
    struct mpq_npz *npz;
    struct mpq_tensor want[N_ARRAY], got[N_ARRAY];
    MPQ_TRY(make_arrays(ctx, arena, net, want));
    MPQ_TRY(mpq_npz_open(ctx, arena, path, &npz));
    for (int i = 0; i < N_ARRAY; i++) {
        if (!mpq_npz_has(npz, names[i]))
            return mpq_fail(ctx, MPQ_E_FORMAT,
                            "%s: is no checkpoint of --recipe paper (--overwrite replaces it)",
                            path);
        MPQ_TRY(mpq_npz_read(ctx, arena, npz, names[i], &got[i]));
        bool is_same = got[i].dtype == want[i].dtype &&
                       mpq_shape_equal(&got[i].shape, &want[i].shape) &&
                       ((i != ID && i != WIDTHS) ||
                        memcmp(got[i].data, want[i].data, mpq_tensor_bytes(&want[i])) == 0);
        if (!is_same)
            return mpq_fail(ctx, MPQ_E_FORMAT,
                            "%s: is a checkpoint of another model, or with other widths "
                            "(--overwrite replaces it)",
                            path);
    }
    MPQ_TRY(check_values(ctx, net, &got[VALUE], path));
    memcpy(net->value, got[VALUE].data, net->n_value * sizeof *net->value);
    mpq_paper_keep_gamma(net);
    for (uint32_t l = 0; l < net->layers->n_layer; l++) {
        struct mpq_paper_layer *layer = &net->layer[l];
        mpq_bits_mask active = ((uint16_t *)got[ACTIVE].data)[l];
        if (!active || active & ~layer->weights)
            return mpq_fail(ctx, MPQ_E_FORMAT, "%s: layer %u has widths that there are not", path,
                            l);
        layer->active = active;
        layer->is_signed = ((uint8_t *)got[SIGNED].data)[l] != 0;
    }
    return MPQ_OK;
}
