#include "quantcore/engine/optim.h"

#include <math.h>

enum mpq_status mpq_adam_create(struct mpq_ctx *ctx, struct mpq_arena *arena, int64_t n,
                                struct mpq_adam *out)
{
    struct mpq_adam adam = {.n = n};
    adam.mean = mpq_arena_alloc(ctx, arena, (size_t)n, sizeof *adam.mean);
    adam.square = mpq_arena_alloc(ctx, arena, (size_t)n, sizeof *adam.square);
    if (!adam.mean || !adam.square)
        return MPQ_E_NOMEM;
    *out = adam;
    return MPQ_OK;
}

void mpq_adam_direction(struct mpq_adam *adam, mpq_real *grad)
{
    const double beta1 = 0.9, beta2 = 0.999;
    adam->t++;
    mpq_real keep1 = (mpq_real)beta1, keep2 = (mpq_real)beta2;
    mpq_real correct1 = (mpq_real)(1 / (1 - pow(beta1, (double)adam->t)));
    mpq_real correct2 = (mpq_real)(1 / (1 - pow(beta2, (double)adam->t)));
    mpq_real *restrict m = adam->mean, *restrict v = adam->square;
    for (int64_t i = 0; i < adam->n; i++) {
        m[i] = keep1 * m[i] + (1 - keep1) * grad[i];
        v[i] = keep2 * v[i] + (1 - keep2) * grad[i] * grad[i];
        mpq_real size = (mpq_real)sqrt((double)(v[i] * correct2));
        grad[i] = size > 0 ? m[i] * correct1 / size : 0;
    }
}

double mpq_cosine_rate(double base, uint64_t step, uint64_t n_step)
{
    double warm_up = fmax(1, 0.05 * (double)n_step), at = (double)step;
    if (at < warm_up)
        return base * (at + 1) / warm_up;
    return base * 0.5 * (1 + cos(3.141592653589793 * at / (double)n_step));
}
