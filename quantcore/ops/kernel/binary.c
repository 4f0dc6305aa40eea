#include "quantcore/ops/kernel/binary.h"

#include <string.h>

#include "quantcore/base/simd.h"
#include "quantcore/base/thread.h"

#define BLOCK       512  /* slopes held on the stack at a time */
#define CLAMP_BLOCK 2048 /* elements that are still in cache when they are clamped */

struct binary {
    struct mpq_loop loop; /* operand 0: a, 1: b; y and dy are walked in order */
    const mpq_real *a, *b, *dy;
    uint8_t *y;
    size_t y_bytes; /* of one element */
    mpq_real *dx;
    int operand; /* whose gradient dx is */
    bool fresh;  /* dx is written, and may be dy */
    const struct mpq_clamp *clamp;
    mpq_binary_span *span;
    mpq_binary_slope *slope;
};

static void init(struct binary *binary, const struct mpq_kernel_args *args)
{
    *binary = (struct binary){.a = args->x[0]->data, .b = args->x[1]->data};
    mpq_loop_init(&binary->loop, &args->y[0]->shape);
    mpq_loop_add(&binary->loop, &args->x[0]->shape);
    mpq_loop_add(&binary->loop, &args->x[1]->shape);
    mpq_loop_merge(&binary->loop);
}

MPQ_MULTIVERSION
static void clamp(mpq_real *y, int64_t n, struct mpq_clamp bounds)
{
    mpq_clamp_row(y, n, bounds);
}

static void forward_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct binary *binary = arg;
    int64_t step_a = mpq_loop_inner_stride(&binary->loop, 0);
    int64_t step_b = mpq_loop_inner_stride(&binary->loop, 1);
    uint8_t *y = binary->y + (size_t)begin * binary->y_bytes;
    struct mpq_span span;
    (void)thread;
    for (mpq_span_first(&span, &binary->loop, begin, end); span.n; mpq_span_next(&span)) {
        int64_t block = binary->clamp ? CLAMP_BLOCK : span.n;
        for (int64_t i = 0; i < span.n; i += block) {
            int64_t n = span.n - i < block ? span.n - i : block;
            binary->span(n, binary->a + span.offset[0] + i * step_a, step_a,
                         binary->b + span.offset[1] + i * step_b, step_b, y);
            if (binary->clamp)
                clamp((mpq_real *)(void *)y, n, *binary->clamp);
            y += (size_t)n * binary->y_bytes;
        }
    }
}

void mpq_binary_forward(const struct mpq_kernel_args *args, mpq_binary_span *span)
{
    struct binary binary;
    init(&binary, args);
    binary.span = span;
    binary.clamp = args->clamp;
    binary.y = args->y[0]->data;
    binary.y_bytes = mpq_dtype_bytes(args->y[0]->dtype);
    mpq_parallel_for(mpq_loop_count(&binary.loop), MPQ_GRAIN, forward_piece, &binary);
}

MPQ_MULTIVERSION
static void add(mpq_real *restrict dx, int64_t step, const mpq_real *restrict g, int64_t n)
{
    if (step == 0)
        dx[0] += (mpq_real)mpq_sum(g, n);
    else
        for (int64_t i = 0; i < n; i++)
            dx[i] += g[i];
}

static void backward_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct binary *binary = arg;
    int64_t step_a = mpq_loop_inner_stride(&binary->loop, 0);
    int64_t step_b = mpq_loop_inner_stride(&binary->loop, 1);
    int64_t step = binary->operand ? step_b : step_a;
    const mpq_real *dy = binary->dy + begin;
    mpq_real g[BLOCK];
    struct mpq_span span;
    (void)thread;
    for (mpq_span_first(&span, &binary->loop, begin, end); span.n; mpq_span_next(&span)) {
        const mpq_real *a = binary->a + span.offset[0], *b = binary->b + span.offset[1];
        mpq_real *dx = binary->dx + span.offset[binary->operand];
        for (int64_t i = 0; i < span.n; i += BLOCK) {
            int64_t n = span.n - i < BLOCK ? span.n - i : BLOCK;
            binary->slope(n, a + i * step_a, step_a, b + i * step_b, step_b, dy + i, g);
            if (binary->fresh)
                memcpy(dx + i, g, (size_t)n * sizeof *g);
            else
                add(dx + i * step, step, g, n);
        }
        dy += span.n;
    }
}

void mpq_binary_backward(const struct mpq_kernel_args *args, mpq_binary_slope *slope_a,
                         mpq_binary_slope *slope_b)
{
    struct binary binary;
    if (!args->dy[0])
        return;
    init(&binary, args);
    binary.dy = args->dy[0];
    for (int k = 1; k >= 0; k--) { /* that of operand 0 may take the memory of dy */
        binary.operand = k;
        binary.dx = args->dx[k];
        binary.slope = k ? slope_b : slope_a;
        if (!binary.dx)
            continue;
        int64_t n = mpq_loop_count(&binary.loop);
        /* Where the operand is broadcast several points add to one gradient: one worker only. */
        bool is_dense = mpq_shape_count(&args->x[k]->shape) == n;
        binary.fresh = is_dense && mpq_is_fresh(args, (uint32_t)k);
        if (!is_dense)
            mpq_clear_fresh(args, (uint32_t)k);
        mpq_parallel_for(n, is_dense ? MPQ_GRAIN : n, backward_piece, &binary);
    }
}
