/* Adam (Kingma and Ba, 2015, algorithm 1) on one array of parameters. */
#ifndef MPQ_ENGINE_OPTIM_H
#define MPQ_ENGINE_OPTIM_H

#include "quantcore/base/arena.h"
#include "quantcore/base/real.h"

struct mpq_adam {
    mpq_real *mean, *square; /* [n] running moments of the gradient */
    int64_t n;
    uint64_t t; /* updates so far: a parameter that is not in every step counts its own */
};

enum mpq_status mpq_adam_create(struct mpq_ctx *ctx, struct mpq_arena *arena, int64_t n,
                                struct mpq_adam *out) MPQ_CHECKED;

/* Take in grad [n] and give the step direction in place: grad[i] becomes m/(sqrt(v)+eps) with the
 * bias corrections, beta 0.9 and 0.999. About 1 in magnitude for a steady gradient, 0 where there
 * never was one. */
void mpq_adam_direction(struct mpq_adam *adam, mpq_real *grad);

/* From base to 0 along half a cosine, after a linear warm-up over the first 5 % of the steps. */
double mpq_cosine_rate(double base, uint64_t step, uint64_t n_step);

#endif
