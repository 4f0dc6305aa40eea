/* Elementwise operators of two broadcast inputs: y = f(a, b), for FLOAT. */
#ifndef MPQ_OPS_KERNEL_BINARY_H
#define MPQ_OPS_KERNEL_BINARY_H

#include "quantcore/ops/kernel/loop.h"
#include "quantcore/ops/kernel/real_math.h"
#include "quantcore/ops/op_util.h"

/* n consecutive points: y[j] = f(a[j * step_a], b[j * step_b]), steps 0 or 1. y is mpq_real, or
 * uint8_t for comparisons. */
typedef void mpq_binary_span(int64_t n, const mpq_real *a, int64_t step_a, const mpq_real *b,
                             int64_t step_b, void *y);

/* g[j] = dy[j] * df/da (or df/db). */
typedef void mpq_binary_slope(int64_t n, const mpq_real *a, int64_t step_a, const mpq_real *b,
                              int64_t step_b, const mpq_real *dy, mpq_real *g);

void mpq_binary_forward(const struct mpq_kernel_args *args, mpq_binary_span *span);
void mpq_binary_backward(const struct mpq_kernel_args *args, mpq_binary_slope *slope_a,
                         mpq_binary_slope *slope_b);

/* The three loops that occur, each plain enough to vectorise. */
#define MPQ_BINARY_LOOPS(statement)                                                                \
    do {                                                                                           \
        if (step_a && step_b) {                                                                    \
            for (int64_t i = 0; i < n; i++) {                                                      \
                const mpq_real a = as[i], b = bs[i];                                               \
                statement;                                                                         \
            }                                                                                      \
        } else if (step_a) {                                                                       \
            const mpq_real b = bs[0];                                                              \
            for (int64_t i = 0; i < n; i++) {                                                      \
                const mpq_real a = as[i];                                                          \
                statement;                                                                         \
            }                                                                                      \
        } else {                                                                                   \
            const mpq_real a = as[0];                                                              \
            for (int64_t i = 0; i < n; i++) {                                                      \
                const mpq_real b = bs[i * step_b];                                                 \
                statement;                                                                         \
            }                                                                                      \
        }                                                                                          \
    } while (0)

/* symbol_span() from an expression in a and b of type `result`. */
#define MPQ_BINARY_SPAN(symbol, result, value)                                                     \
    MPQ_MULTIVERSION                                                                               \
    static void symbol##_span(int64_t n, const mpq_real *restrict as, int64_t step_a,              \
                              const mpq_real *restrict bs, int64_t step_b, void *out)              \
    {                                                                                              \
        result *restrict y = out;                                                                  \
        MPQ_BINARY_LOOPS(y[i] = (result)(value));                                                  \
    }

/* symbol_slope() from the derivative, an expression in a and b. */
#define MPQ_BINARY_SLOPE(symbol, slope)                                                            \
    MPQ_MULTIVERSION                                                                               \
    static void symbol##_slope(int64_t n, const mpq_real *restrict as, int64_t step_a,             \
                               const mpq_real *restrict bs, int64_t step_b,                        \
                               const mpq_real *restrict dy, mpq_real *restrict g)                  \
    {                                                                                              \
        MPQ_BINARY_LOOPS((void)a; (void)b; g[i] = dy[i] * (slope));                                \
    }

#endif
