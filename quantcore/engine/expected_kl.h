/* What errors of logits cost on average over distributions that they would disturb.
 *
 * The float model is sure of most samples, which then show next to nothing of an error, and KL
 * against their own targets is the affair of a few; this is an estimate of the same from all of
 * them, as far as errors do not depend on what they disturb. */
#ifndef MPQ_ENGINE_EXPECTED_KL_H
#define MPQ_ENGINE_EXPECTED_KL_H

#include "quantcore/base/arena.h"
#include "quantcore/base/real.h"

/* Most distributions that are asked. */
#define MPQ_MAX_REFERENCES 256

/* Distributions of the float model; made once, read by every loss. */
struct mpq_references {
    int64_t n, n_column;
    mpq_real *p;   /* [n, n_column]              */
    double *total; /* [n_column] the sum over n  */
};

/* Room for n <= MPQ_MAX_REFERENCES of them; their values are to be taken. */
enum mpq_status mpq_references_create(struct mpq_ctx *ctx, struct mpq_arena *arena, int64_t n,
                                      int64_t n_column, struct mpq_references *out) MPQ_CHECKED;

/* The distributions of n of n_row rows of logits [n_row, n_column], evenly spaced. */
void mpq_references_take(struct mpq_references *references, const mpq_real *logits, int64_t n_row);

/* The mean over the references p of KL(p || softmax(log p + y - target)), summed over the rows of
 * y and target [n_row, n_column]; dy += factor times its gradient where not NULL. NaN where y is
 * not finite. */
double mpq_expected_kl(const struct mpq_references *references, const mpq_real *y,
                       const mpq_real *target, int64_t n_row, double factor, mpq_real *dy);

#endif
