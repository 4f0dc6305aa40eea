#include "quantcore/ops/kernel/move.h"

#include <string.h>

#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/tile.h"
#include "quantcore/ops/op_util.h"

void mpq_move_init(struct mpq_move *move, const struct mpq_shape *shape)
{
    move->y_offset = move->x_offset = 0;
    mpq_loop_init(&move->loop, shape);
    move->loop.n_operand = 2;
    mpq_dense_strides(shape, move->loop.stride[0]);
}

void mpq_dense_strides(const struct mpq_shape *shape, int64_t *out_stride)
{
    int64_t step = 1;
    for (int i = shape->rank - 1; i >= 0; i--) {
        out_stride[i] = step;
        step *= shape->dim[i];
    }
}

struct copy {
    const struct mpq_loop *loop;
    size_t bytes;
    uint8_t *y;
    const uint8_t *x;
};

#define COPY_SPAN(type)                                                                            \
    do {                                                                                           \
        type *restrict to = (type *)(void *)y;                                                     \
        const type *restrict from = (const type *)(const void *)x;                                 \
        for (int64_t i = 0; i < n; i++)                                                            \
            to[i * y_step] = from[i * x_step];                                                     \
    } while (0)

static void copy_span(int64_t n, size_t bytes, uint8_t *y, int64_t y_step, const uint8_t *x,
                      int64_t x_step)
{
    if (y_step == 1 && x_step == 1)
        memcpy(y, x, (size_t)n * bytes);
    else if (bytes == 1)
        COPY_SPAN(uint8_t);
    else if (bytes == 2)
        COPY_SPAN(uint16_t);
    else if (bytes == 4)
        COPY_SPAN(uint32_t);
    else if (bytes == 8)
        COPY_SPAN(uint64_t);
    else
        for (int64_t i = 0; i < n; i++)
            memcpy(y + (ptrdiff_t)bytes * i * y_step, x + (ptrdiff_t)bytes * i * x_step, bytes);
}

static void copy_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct copy *copy = arg;
    ptrdiff_t bytes = (ptrdiff_t)copy->bytes;
    int64_t y_step = mpq_loop_inner_stride(copy->loop, 0);
    int64_t x_step = mpq_loop_inner_stride(copy->loop, 1);
    struct mpq_span span;
    (void)thread;
    for (mpq_span_first(&span, copy->loop, begin, end); span.n; mpq_span_next(&span))
        copy_span(span.n, copy->bytes, copy->y + bytes * span.offset[0], y_step,
                  copy->x + bytes * span.offset[1], x_step);
}

/* Matrices [columns, rows] of y that lie transposed in x, in blocks of columns. */
struct transposition {
    struct mpq_loop outer; /* over the matrices */
    int64_t rows, columns, ldx;
    int64_t n_block; /* of BLOCK_COLUMNS or more, of each matrix */
    mpq_real *y;
    const mpq_real *x;
};

#define BLOCK_COLUMNS 64

static bool find_transposition(const struct mpq_loop *loop, struct transposition *out)
{
    int last = loop->rank - 1;
    if (last < 1 || loop->stride[0][last] != 1 || loop->stride[1][last - 1] != 1 ||
        loop->dim[last] < mpq_tile_best()->lanes)
        return false;
    out->outer = *loop;
    out->outer.rank = last - 1;
    mpq_loop_merge(&out->outer);
    out->rows = loop->dim[last];
    out->columns = loop->dim[last - 1];
    out->ldx = loop->stride[1][last];
    out->n_block = out->columns < BLOCK_COLUMNS ? 1 : out->columns / BLOCK_COLUMNS;
    return true;
}

static void transpose_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct transposition *t = arg;
    struct mpq_span matrix;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        int64_t block = i % t->n_block, first = block * BLOCK_COLUMNS;
        int64_t last = block == t->n_block - 1 ? t->columns : first + BLOCK_COLUMNS;
        mpq_span_first(&matrix, &t->outer, i / t->n_block, i / t->n_block + 1);
        mpq_tile_best()->transpose(t->rows, last - first, t->x + matrix.offset[1] + first, t->ldx,
                                   t->y + matrix.offset[0] + first * t->rows, t->rows);
    }
}

void mpq_move_forward(struct mpq_move *move, const struct mpq_tensor *x, struct mpq_tensor *y)
{
    size_t bytes = mpq_dtype_bytes(y->dtype);
    mpq_loop_merge(&move->loop);
    struct copy copy = {.loop = &move->loop,
                        .bytes = bytes,
                        .y = (uint8_t *)y->data + (ptrdiff_t)bytes * move->y_offset,
                        .x = (const uint8_t *)x->data + (ptrdiff_t)bytes * move->x_offset};
    struct transposition t = {.y = (mpq_real *)(void *)copy.y,
                              .x = (const mpq_real *)(const void *)copy.x};
    if (y->dtype == MPQ_FLOAT && find_transposition(&move->loop, &t)) {
        mpq_parallel_for(mpq_loop_count(&t.outer) * t.n_block, 1, transpose_piece, &t);
        return;
    }
    mpq_parallel_for(mpq_loop_count(&move->loop), MPQ_GRAIN, copy_piece, &copy);
}

struct add {
    const struct mpq_loop *loop;
    const mpq_real *dy;
    mpq_real *dx;
};

static void add_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct add *add = arg;
    int64_t y_step = mpq_loop_inner_stride(add->loop, 0);
    int64_t x_step = mpq_loop_inner_stride(add->loop, 1);
    struct mpq_span span;
    (void)thread;
    for (mpq_span_first(&span, add->loop, begin, end); span.n; mpq_span_next(&span)) {
        const mpq_real *restrict dy = add->dy + span.offset[0];
        mpq_real *restrict dx = add->dx + span.offset[1];
        if (y_step == 1 && x_step == 1)
            for (int64_t i = 0; i < span.n; i++)
                dx[i] += dy[i];
        else
            for (int64_t i = 0; i < span.n; i++)
                dx[i * x_step] += dy[i * y_step];
    }
}

static bool repeats_x(const struct mpq_loop *loop)
{
    for (int i = 0; i < loop->rank; i++)
        if (loop->stride[1][i] == 0 && loop->dim[i] > 1)
            return true;
    return false;
}

void mpq_move_backward(struct mpq_move *move, const mpq_real *dy, mpq_real *dx)
{
    if (!dy || !dx)
        return;
    mpq_loop_merge(&move->loop);
    int64_t n = mpq_loop_count(&move->loop);
    struct add add = {&move->loop, dy + move->y_offset, dx + move->x_offset};
    mpq_parallel_for(n, repeats_x(&move->loop) ? n : MPQ_GRAIN, add_piece, &add);
}
