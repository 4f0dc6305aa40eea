#include "quantcore/supernet/sample.h"

#include <math.h>
#include <stdlib.h>

#include "quantcore/base/rng.h"

static int by_price(const void *a, const void *b)
{
    const struct mpq_sampler_move *x = a, *y = b;
    if (x->price != y->price)
        return x->price < y->price ? -1 : 1;
    if (x->layer != y->layer)
        return x->layer < y->layer ? -1 : 1;
    return x->bits > y->bits ? -1 : x->bits < y->bits;
}

/* The layer's way down, along the lower convex hull of (bytes, loss), so that prices rise on the
 * way and sorting keeps a layer's moves in order. */
static uint32_t add_moves(const struct mpq_supernet *net, uint32_t l, const double *loss,
                          struct mpq_sampler_move *move)
{
    mpq_bits_mask candidates = net->layer[l].candidates;
    double n_param = (double)net->layers->layer[l].n_param;
    int at = mpq_bits_highest(candidates), lowest = mpq_bits_lowest(candidates);
    uint32_t n = 0;
    double least_price = 0;
    while (at > lowest) {
        int best = 0;
        double best_price = (double)INFINITY;
        for (int b = at - 1; b >= lowest; b--) {
            if (!(candidates >> b & 1))
                continue;
            double price = (loss[b] - loss[at]) / ((at - b) * n_param / 8);
            if (!best || price < best_price) {
                best = b;
                best_price = price;
            }
        }
        least_price = fmax(least_price, best_price);
        move[n++] = (struct mpq_sampler_move){least_price, l, (uint8_t)best};
        at = best;
    }
    return n;
}

enum mpq_status mpq_sampler_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_supernet *net, const double *sensitivity,
                                   struct mpq_sampler *out)
{
    struct mpq_sampler sampler = {.net = net};
    uint32_t n_layer = net->layers->n_layer;
    sampler.move = mpq_arena_alloc(ctx, arena, (size_t)n_layer * MPQ_N_BITS, sizeof *sampler.move);
    if (!sampler.move)
        return MPQ_E_NOMEM;
    for (uint32_t l = 0; l < n_layer; l++)
        sampler.n_move +=
            add_moves(net, l, sensitivity + (size_t)l * MPQ_N_BITS, sampler.move + sampler.n_move);
    qsort(sampler.move, sampler.n_move, sizeof *sampler.move, by_price);
    *out = sampler;
    return MPQ_OK;
}

void mpq_sampler_walk(const struct mpq_sampler *sampler, uint32_t n_move, uint8_t *bits)
{
    const struct mpq_supernet *net = sampler->net;
    MPQ_ASSERT(n_move <= sampler->n_move);
    for (uint32_t l = 0; l < net->layers->n_layer; l++)
        bits[l] = (uint8_t)mpq_bits_highest(net->layer[l].candidates);
    for (uint32_t i = 0; i < n_move; i++)
        bits[sampler->move[i].layer] = sampler->move[i].bits;
}

/* One width wider or narrower than b among those in the mask, b itself at the end. */
static int beside(mpq_bits_mask mask, int b, bool wider)
{
    unsigned all = mask, below = all & ((1u << b) - 1), above = all >> (b + 1) << (b + 1);
    mpq_bits_mask side = (mpq_bits_mask)(wider ? above : below);
    return !side ? b : wider ? mpq_bits_lowest(side) : mpq_bits_highest(side);
}

void mpq_sampler_draw(const struct mpq_sampler *sampler, uint64_t seed, uint64_t step,
                      uint32_t path, uint8_t *bits)
{
    const struct mpq_supernet *net = sampler->net;
    uint32_t n_layer = net->layers->n_layer, base = path * (n_layer + 1);
    mpq_sampler_walk(sampler, mpq_rng_below(seed, MPQ_STREAM_BITS, step, base, sampler->n_move + 1),
                     bits);
    for (uint32_t l = 0; l < n_layer; l++) {
        mpq_bits_mask active = net->layer[l].active;
        uint32_t die = mpq_rng_below(seed, MPQ_STREAM_BITS, step, base + 1 + l, 8);
        int b = bits[l];
        if (die < 2)
            b = beside(net->layer[l].candidates, b, die == 1);
        bits[l] = (uint8_t)(active >> b & 1 ? b : beside(active, b, true));
    }
}
