#include "quantcore/supernet/freeze.h"

#include <math.h>
#include <stdlib.h>

enum { EPOCHS = 150 };

double mpq_freeze_unstable_share(const struct mpq_levels *levels, const struct mpq_layer *shape,
                                 const mpq_real *w, const mpq_real *scale)
{
    uint8_t index_of[256] = {0}; /* of a level, by level + 128 */
    for (uint32_t k = 0; k < levels->n; k++)
        index_of[levels->level[k] + 128] = (uint8_t)k;
    int64_t n_unstable = 0;
    for (int64_t i = 0; i < shape->n_param; i++) {
        mpq_real z = w[i] / scale[i / shape->n_inner % shape->n_channel];
        mpq_real at = z * 2 + 256;
        at = at < 0 ? 0 : at > 511 ? 511 : at;
        int level = levels->nearest[(int)at];
        uint32_t k = index_of[level + 128];
        /* The neighbour on the side of z; the outermost bins have none on their outer side. */
        bool above = z > (mpq_real)level;
        if (above ? k + 1 == levels->n : k == 0)
            continue;
        mpq_real other = levels->level[above ? k + 1 : k - 1];
        mpq_real gap = (mpq_real)fabs((double)other - level);
        mpq_real boundary = (other + (mpq_real)level) / 2;
        n_unstable += fabs((double)(z - boundary)) < 0.125 * (double)gap;
    }
    return (double)n_unstable / (double)shape->n_param;
}

double mpq_freeze_turbulence(const struct mpq_supernet *net, uint32_t l)
{
    const struct mpq_supernet_layer *layer = &net->layer[l];
    double sum = 0;
    int n = 0;
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++)
        if (layer->active >> b & 1) {
            const struct mpq_supernet_width *width = &layer->width[b];
            sum += mpq_freeze_unstable_share(&width->levels, &net->layers->layer[l],
                                             mpq_supernet_weights(net, l, b), width->scale) /
                   b;
            n++;
        }
    return n ? sum / n : 0;
}

double mpq_freeze_ratio(uint32_t epoch)
{
    int t = ((int)epoch - 5) / 2;
    return 0.2 + 0.15 * (1 + cos(3.141592653589793 * t / (EPOCHS / 2)));
}

bool mpq_freeze_is_due(uint32_t epoch)
{
    uint32_t period = epoch <= 108 ? 2 : 15;
    return epoch > 5 && (epoch + 1) % period == 0;
}

bool mpq_freeze_at_step(uint32_t step, uint32_t n_step, double *out_ratio)
{
    uint32_t epoch = (uint32_t)((uint64_t)step * EPOCHS / n_step);
    uint32_t before = step ? (uint32_t)((uint64_t)(step - 1) * EPOCHS / n_step) : 0;
    for (uint32_t e = epoch; e > before; e--)
        if (mpq_freeze_is_due(e)) {
            *out_ratio = mpq_freeze_ratio(e);
            return true;
        }
    return false;
}

struct ranked {
    double turbulence;
    uint32_t layer;
};

static int by_turbulence(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->turbulence != y->turbulence)
        return x->turbulence > y->turbulence ? -1 : 1;
    return x->layer < y->layer ? -1 : 1;
}

enum mpq_status mpq_freeze_select(struct mpq_ctx *ctx, uint32_t n_layer, const double *turbulence,
                                  double ratio, bool *out_selected)
{
    uint32_t n_selected = (uint32_t)(ratio * n_layer);
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    struct ranked *rank = mpq_arena_alloc(ctx, scratch, n_layer, sizeof *rank);
    for (uint32_t l = 0; rank && l < n_layer; l++)
        rank[l] = (struct ranked){turbulence[l], l};
    if (rank)
        qsort(rank, n_layer, sizeof *rank, by_turbulence);
    for (uint32_t i = 0; rank && i < n_layer; i++)
        out_selected[rank[i].layer] = i < n_selected;
    mpq_arena_free(scratch);
    return rank ? MPQ_OK : MPQ_E_NOMEM;
}

mpq_bits_mask mpq_freeze_active(mpq_bits_mask candidates, bool is_selected)
{
    mpq_bits_mask rest = candidates & (mpq_bits_mask)(candidates - 1);
    return is_selected && rest ? rest : candidates;
}

static enum mpq_status update(struct mpq_ctx *ctx, struct mpq_supernet *net, double ratio,
                              double *turbulence, bool *is_selected)
{
    uint32_t n_layer = net->layers->n_layer;
    if (!turbulence || !is_selected)
        return MPQ_E_NOMEM;
    for (uint32_t l = 0; l < n_layer; l++)
        turbulence[l] = mpq_freeze_turbulence(net, l);
    MPQ_TRY(mpq_freeze_select(ctx, n_layer, turbulence, ratio, is_selected));
    for (uint32_t l = 0; l < n_layer; l++)
        net->layer[l].active = mpq_freeze_active(net->layer[l].candidates, is_selected[l]);
    return MPQ_OK;
}

enum mpq_status mpq_freeze_update(struct mpq_ctx *ctx, struct mpq_supernet *net, double ratio)
{
    uint32_t n_layer = net->layers->n_layer;
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    enum mpq_status status =
        update(ctx, net, ratio, mpq_arena_alloc(ctx, scratch, n_layer, sizeof(double)),
               mpq_arena_alloc(ctx, scratch, n_layer, sizeof(bool)));
    mpq_arena_free(scratch);
    return status;
}
