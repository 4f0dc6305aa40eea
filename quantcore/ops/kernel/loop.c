#include "quantcore/ops/kernel/loop.h"

#include <string.h>

#include "quantcore/base/integer.h"

void mpq_loop_init(struct mpq_loop *loop, const struct mpq_shape *shape)
{
    memset(loop, 0, sizeof *loop);
    loop->rank = shape->rank;
    for (int i = 0; i < shape->rank; i++)
        loop->dim[i] = shape->dim[i];
}

void mpq_loop_add(struct mpq_loop *loop, const struct mpq_shape *shape)
{
    MPQ_ASSERT(loop->n_operand < MPQ_LOOP_OPERAND && shape->rank <= loop->rank);
    int64_t *stride = loop->stride[loop->n_operand++];
    int64_t step = 1;
    for (int i = shape->rank - 1, k = loop->rank - 1; i >= 0; i--, k--) {
        stride[k] = shape->dim[i] == 1 ? 0 : step;
        step *= shape->dim[i];
    }
}

void mpq_loop_push(struct mpq_loop *loop, int64_t dim, const int64_t *stride)
{
    MPQ_ASSERT(loop->rank < MPQ_LOOP_RANK);
    for (int k = 0; k < loop->n_operand; k++)
        loop->stride[k][loop->rank] = stride[k];
    loop->dim[loop->rank++] = dim;
}

/* Whether every operand steps over dimension `outer` as if it were a continuation of `inner`. */
static bool can_join(const struct mpq_loop *loop, int outer, int inner)
{
    for (int k = 0; k < loop->n_operand; k++)
        if (loop->stride[k][outer] != loop->stride[k][inner] * loop->dim[inner])
            return false;
    return true;
}

void mpq_loop_merge(struct mpq_loop *loop)
{
    int n = 0; /* dimensions [0, n) are done */
    for (int i = 0; i < loop->rank; i++) {
        if (loop->dim[i] == 1)
            continue;
        bool join = n > 0 && can_join(loop, n - 1, i);
        int to = join ? n - 1 : n++;
        loop->dim[to] = join ? loop->dim[to] * loop->dim[i] : loop->dim[i];
        for (int k = 0; k < loop->n_operand; k++)
            loop->stride[k][to] = loop->stride[k][i];
    }
    if (n == 0) {
        loop->dim[n++] = 1;
        for (int k = 0; k < loop->n_operand; k++)
            loop->stride[k][0] = 0;
    }
    loop->rank = n;
}

int64_t mpq_loop_count(const struct mpq_loop *loop)
{
    int64_t count = 1;
    for (int i = 0; i < loop->rank; i++)
        count *= loop->dim[i];
    return count;
}

int64_t mpq_loop_inner_stride(const struct mpq_loop *loop, int operand)
{
    return loop->stride[operand][loop->rank - 1];
}

void mpq_span_first(struct mpq_span *span, const struct mpq_loop *loop, int64_t begin, int64_t end)
{
    memset(span, 0, sizeof *span);
    if (begin >= end)
        return;
    span->loop = loop;
    span->left = end - begin;
    for (int i = loop->rank - 1; i >= 0; i--) {
        span->index[i] = begin % loop->dim[i];
        begin /= loop->dim[i];
        for (int k = 0; k < loop->n_operand; k++)
            span->offset[k] += span->index[i] * loop->stride[k][i];
    }
    int last = loop->rank - 1;
    span->n = mpq_min(loop->dim[last] - span->index[last], span->left);
}

void mpq_span_next(struct mpq_span *span)
{
    const struct mpq_loop *loop = span->loop;
    int last = loop->rank - 1;
    span->left -= span->n;
    for (int k = 0; k < loop->n_operand; k++)
        span->offset[k] -= span->index[last] * loop->stride[k][last];
    span->index[last] = 0;
    for (int i = last - 1; i >= 0; i--) {
        bool carry = ++span->index[i] == loop->dim[i];
        int64_t steps = carry ? 1 - loop->dim[i] : 1;
        for (int k = 0; k < loop->n_operand; k++)
            span->offset[k] += steps * loop->stride[k][i];
        if (!carry)
            break;
        span->index[i] = 0;
    }
    span->n = mpq_min(loop->dim[last], span->left);
}
