/* Activation functions of recurrent gates, by name and with their parameters. All are increasing,
 * so that the slope is a function of the value and the input need not be kept. */
#ifndef MPQ_OPS_KERNEL_GATE_H
#define MPQ_OPS_KERNEL_GATE_H

#include <stdbool.h>
#include <stdint.h>

#include "quantcore/base/real.h"

struct mpq_gate_function {
    int kind;
    bool uses_alpha, uses_beta;
    mpq_real alpha, beta;
    mpq_real clip;      /* inputs are cut to [-clip, clip]; infinite: not    */
    mpq_real low, high; /* values there: the slope is 0 at and beyond them   */
};

/* The function of that name, spelled in any case, with its default parameters and no clip; false
 * where there is none. */
bool mpq_gate_find(const char *name, struct mpq_gate_function *out);

/* Set low and high once alpha, beta and clip are known; false where a parameter that has no default
 * is not given, or the function would not be increasing. */
bool mpq_gate_finish(struct mpq_gate_function *function);

/* x[i] = f(x[i]) */
void mpq_gate_apply(const struct mpq_gate_function *function, mpq_real *x, int64_t n);
/* dx[i] *= f'(x[i]), given y[i] = f(x[i]) */
void mpq_gate_back(const struct mpq_gate_function *function, const mpq_real *restrict y,
                   mpq_real *restrict dx, int64_t n);

#endif
