/* The common part of LayerNormalization, InstanceNormalization, GroupNormalization and
 * RMSNormalization: rows of x are brought to mean 0 (unless RMS) and variance 1, then scaled and
 * shifted element by element. */
#ifndef MPQ_OPS_KERNEL_NORMALIZE_H
#define MPQ_OPS_KERNEL_NORMALIZE_H

#include "quantcore/ops/op.h"

/* x [n_row][length]. Element j of row r has the scale and bias of index r % n_group * (length /
 * run) + j / run. */
struct mpq_normalize {
    int64_t n_row, length, n_group, run;
    double epsilon;
    bool keep_mean; /* RMS */
};

/* Inputs x, scale, bias (absent: 0). mean and inverse_deviation [n_row] may be NULL. */
void mpq_normalize_forward(const struct mpq_normalize *normalize,
                           const struct mpq_kernel_args *args, mpq_real *mean,
                           mpq_real *inverse_deviation);
void mpq_normalize_backward(const struct mpq_normalize *normalize,
                            const struct mpq_kernel_args *args);

#endif
