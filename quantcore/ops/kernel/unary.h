/* Elementwise operators of one input: y[i] = f(x[i]), with up to two float attributes a and b. */
#ifndef MPQ_OPS_KERNEL_UNARY_H
#define MPQ_OPS_KERNEL_UNARY_H

#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/real_math.h"
#include "quantcore/ops/op_util.h"

struct mpq_unary_attrs {
    float a, b;
};

struct mpq_unary {
    mpq_real a, b;
    const mpq_real *x, *y, *dy;
    mpq_real *out; /* y, or dx */
    bool fresh;    /* dx is written, and may be dy */
};

typedef void mpq_unary_piece(void *unary, int64_t begin, int64_t end, int thread);

void mpq_unary_forward(const struct mpq_kernel_args *args, mpq_unary_piece *piece);
void mpq_unary_backward(const struct mpq_kernel_args *args, mpq_unary_piece *piece);

/* node->attrs from two attributes of the node; a NULL name leaves the default. */
enum mpq_status mpq_unary_parse(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_node *node,
                                const char *name_a, float default_a, const char *name_b,
                                float default_b);

/* symbol_forward() from an expression in x, a and b; each operator has a loop of its own so that it
 * vectorises. */
#define MPQ_UNARY_FORWARD(symbol, value)                                                           \
    MPQ_MULTIVERSION                                                                               \
    static void symbol##_piece(void *arg, int64_t begin, int64_t end, int thread)                  \
    {                                                                                              \
        const struct mpq_unary *unary = arg;                                                       \
        const mpq_real a = unary->a, b = unary->b, *restrict in = unary->x;                        \
        mpq_real *restrict out = unary->out;                                                       \
        (void)a, (void)b, (void)thread;                                                            \
        for (int64_t i = begin; i < end; i++) {                                                    \
            const mpq_real x = in[i];                                                              \
            out[i] = (value);                                                                      \
        }                                                                                          \
    }                                                                                              \
    static void symbol##_forward(const struct mpq_kernel_args *args)                               \
    {                                                                                              \
        mpq_unary_forward(args, symbol##_piece);                                                   \
    }

/* symbol_backward() from the slope df/dx, an expression in x, y = f(x), a and b. */
#define MPQ_UNARY_BACKWARD(symbol, slope)                                                          \
    MPQ_MULTIVERSION                                                                               \
    static void symbol##_back_piece(void *arg, int64_t begin, int64_t end, int thread)             \
    {                                                                                              \
        const struct mpq_unary *unary = arg;                                                       \
        const mpq_real a = unary->a, b = unary->b;                                                 \
        const mpq_real *restrict in = unary->x, *restrict result = unary->y;                       \
        const mpq_real *dy = unary->dy;                                                            \
        mpq_real *dx = unary->out;                                                                 \
        (void)a, (void)b, (void)thread;                                                            \
        if (unary->fresh) {                                                                        \
            MPQ_IN_PLACE                                                                           \
            for (int64_t i = begin; i < end; i++) {                                                \
                const mpq_real x = in[i], y = result[i];                                           \
                (void)x, (void)y;                                                                  \
                dx[i] = dy[i] * (slope);                                                           \
            }                                                                                      \
        } else {                                                                                   \
            MPQ_IN_PLACE                                                                           \
            for (int64_t i = begin; i < end; i++) {                                                \
                const mpq_real x = in[i], y = result[i];                                           \
                (void)x, (void)y;                                                                  \
                dx[i] += dy[i] * (slope);                                                          \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
    static void symbol##_backward(const struct mpq_kernel_args *args)                              \
    {                                                                                              \
        mpq_unary_backward(args, symbol##_back_piece);                                             \
    }

/* Both, and the row. parse_fn NULL: no attributes. */
#define MPQ_UNARY(onnx_name, symbol, parse_fn, value, slope)                                       \
    MPQ_UNARY_WITH(onnx_name, symbol, parse_fn, value, slope, )

/* With more fields of the row, each followed by a comma. */
#define MPQ_UNARY_WITH(onnx_name, symbol, parse_fn, value, slope, fields)                          \
    MPQ_UNARY_FORWARD(symbol, value)                                                               \
    MPQ_UNARY_BACKWARD(symbol, slope)                                                              \
    const struct mpq_op mpq_op_##symbol = {.name = onnx_name,                                      \
                                           .domain = "",                                           \
                                           .n_in_min = 1,                                          \
                                           .n_in_max = 1,                                          \
                                           .n_out_min = 1,                                         \
                                           .n_out_max = 1,                                         \
                                           .parse = parse_fn,                                      \
                                           .infer = mpq_infer_same_float,                          \
                                           .sets_dx = true,                                        \
                                           .in_place_dx = true,                                    \
                                           .forward = symbol##_forward,                            \
                                           fields.backward = symbol##_backward}

#endif
