/* Nested loops over an index space with several operands, each a strided array: broadcasting,
 * transposing, slicing and reducing are all such loops. After mpq_loop_merge() the innermost
 * dimension is as long as the layouts allow, so that the loop over it can be plain code:
 *
 *     for (mpq_span_first(&span, &loop, begin, end); span.n; mpq_span_next(&span))
 *         for (j = 0; j < span.n; j++)  y[span.offset[0] + j * stride[0]] = ...
 */
#ifndef MPQ_OPS_KERNEL_LOOP_H
#define MPQ_OPS_KERNEL_LOOP_H

#include "quantcore/ir/tensor.h"

#define MPQ_LOOP_RANK    (2 * MPQ_MAX_RANK)
#define MPQ_LOOP_OPERAND 4

struct mpq_loop {
    int rank, n_operand;
    int64_t dim[MPQ_LOOP_RANK];
    int64_t stride[MPQ_LOOP_OPERAND][MPQ_LOOP_RANK]; /* in elements; 0: broadcast */
};

/* Loops over the elements of `shape` in order, without operands. */
void mpq_loop_init(struct mpq_loop *loop, const struct mpq_shape *shape);

/* A dense array of `shape`, which broadcasts to the loop's. */
void mpq_loop_add(struct mpq_loop *loop, const struct mpq_shape *shape);

/* One more dimension inside of those there are, with a stride for each operand. */
void mpq_loop_push(struct mpq_loop *loop, int64_t dim, const int64_t *stride);

/* Drop dimensions of length 1 and join neighbours that every operand walks as one. The order of
 * points stays; the rank is at least 1 afterwards. */
void mpq_loop_merge(struct mpq_loop *loop);

int64_t mpq_loop_count(const struct mpq_loop *loop);
int64_t mpq_loop_inner_stride(const struct mpq_loop *loop, int operand);

struct mpq_span {
    int64_t n;                        /* consecutive points along the innermost dimension, 0: end */
    int64_t offset[MPQ_LOOP_OPERAND]; /* of each operand at the first of them                     */
    const struct mpq_loop *loop;
    int64_t left, index[MPQ_LOOP_RANK];
};

/* The points [begin, end) of a merged loop, counted in its order. */
void mpq_span_first(struct mpq_span *span, const struct mpq_loop *loop, int64_t begin, int64_t end);
void mpq_span_next(struct mpq_span *span);

#endif
