/* Which scale and zero point an element of a quantized tensor has: one for all, one for each index
 * of an axis, or one for each block of `block_size` along it. */
#ifndef MPQ_OPS_KERNEL_GRANULARITY_H
#define MPQ_OPS_KERNEL_GRANULARITY_H

#include "quantcore/ops/op.h"

struct mpq_granularity_attrs {
    int64_t axis, block_size; /* block_size 0: not blocked */
    enum mpq_dtype dtype;     /* output_dtype, or UNDEFINED */
};

/* x [outer][n][inner]. Element (o, k, i) has scale o * outer_step + k / block * block_step + i *
 * inner_step. */
struct mpq_granularity {
    int64_t outer, n, inner;
    int64_t block, outer_step, block_step, inner_step;
};

enum mpq_status mpq_granularity_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      struct mpq_node *node);

/* Check inputs 1 (scale, FLOAT) and 2 (zero point: the scale's shape, may be absent) for input 0.
 */
enum mpq_status mpq_granularity_check(struct mpq_ctx *ctx, const struct mpq_node *node,
                                      const struct mpq_tensor *const *x) MPQ_CHECKED;

void mpq_granularity_make(const struct mpq_node *node, const struct mpq_tensor *const *x,
                          struct mpq_granularity *out);

/* Calls fn(job, begin, n, at) for all elements [begin, begin + n) of x that share scale `at`, in
 * runs as long as there are, by the worker threads. */
typedef void (*mpq_granularity_fn)(const void *job, int64_t begin, int64_t n, int64_t at);
void mpq_granularity_run(const struct mpq_granularity *g, mpq_granularity_fn fn, const void *job);

#endif
