/* LSTM. With the gates i, o, f, c in this order, peepholes p in the order i, o, f, and
 * a = W x + R h + biases:
 *
 *     i = f(a_i + p_i c0)     c1 = fg c0 + i cg
 *     fg = f(a_f + p_f c0)    o = f(a_o + p_o c1)
 *     cg = g(a_c)             h1 = o h(c1)                                                  */
#include <string.h>

#include "quantcore/ops/recurrent.h"

enum { F, G, H };

struct lstm_row {
    mpq_real *i, *o, *f, *c; /* gates, or their gradients */
    mpq_real *c0, *c1, *h1;
    const mpq_real *p_i, *p_o, *p_f; /* NULL: no peepholes */
};

static struct lstm_row locate(const struct mpq_recurrence *run, mpq_real *gate, int64_t s,
                              int64_t row)
{
    int64_t n = run->n_hidden, before = (s * run->n_row + row) * n;
    int64_t after = before + run->n_row * n;
    mpq_real *g = gate + before * 4;
    const mpq_real *p = run->peephole;
    return (struct lstm_row){.i = g,
                             .o = g + n,
                             .f = g + 2 * n,
                             .c = g + 3 * n,
                             .c0 = run->memory + before,
                             .c1 = run->memory + after,
                             .h1 = run->hidden + after,
                             .p_i = p,
                             .p_o = p ? p + n : NULL,
                             .p_f = p ? p + 2 * n : NULL};
}

/* to += p x, where there is a p. */
static void add_product(mpq_real *restrict to, const mpq_real *p, const mpq_real *x, int64_t n)
{
    for (int64_t k = 0; p && k < n; k++)
        to[k] += p[k] * x[k];
}

static void step_row(const struct mpq_recurrence *run, int64_t s, int64_t row)
{
    struct lstm_row at = locate(run, run->gate, s, row);
    int64_t n = run->n_hidden;
    add_product(at.i, at.p_i, at.c0, n);
    add_product(at.f, at.p_f, at.c0, n);
    mpq_gate_apply(&run->function[F], at.i, n);
    mpq_gate_apply(&run->function[F], at.f, n);
    mpq_gate_apply(&run->function[G], at.c, n);
    for (int64_t k = 0; k < n; k++)
        at.h1[k] = at.c1[k] = at.f[k] * at.c0[k] + at.i[k] * at.c[k];
    add_product(at.o, at.p_o, at.c1, n);
    mpq_gate_apply(&run->function[F], at.o, n);
    mpq_gate_apply(&run->function[H], at.h1, n);
    for (int64_t k = 0; k < n; k++)
        at.h1[k] *= at.o[k];
}

static void step(const struct mpq_recurrence *run, int64_t s)
{
    mpq_recurrent_rows(run, s, step_row);
}

static void step_back_row(const struct mpq_recurrence *run, int64_t s, int64_t row)
{
    struct lstm_row at = locate(run, run->gate, s, row), d = locate(run, run->dgate, s, row);
    int64_t n = run->n_hidden;
    mpq_real *dh = run->dhidden + row * n, *dc = run->dmemory + row * n;
    mpq_real *value = run->dextra + row * n; /* h(c1) */
    memcpy(value, at.c1, (size_t)n * sizeof *value);
    mpq_gate_apply(&run->function[H], value, n);
    for (int64_t k = 0; k < n; k++) {
        d.o[k] = dh[k] * value[k];
        dh[k] *= at.o[k];
    }
    mpq_gate_back(&run->function[F], at.o, d.o, n);
    mpq_gate_back(&run->function[H], value, dh, n);
    add_product(dc, at.p_o, d.o, n);
    for (int64_t k = 0; k < n; k++) {
        dc[k] += dh[k];
        d.i[k] = dc[k] * at.c[k];
        d.f[k] = dc[k] * at.c0[k];
        d.c[k] = dc[k] * at.i[k];
        dc[k] *= at.f[k];
        dh[k] = 0;
    }
    mpq_gate_back(&run->function[F], at.i, d.i, n);
    mpq_gate_back(&run->function[F], at.f, d.f, n);
    mpq_gate_back(&run->function[G], at.c, d.c, n);
    add_product(dc, at.p_i, d.i, n);
    add_product(dc, at.p_f, d.f, n);
}

static void step_back(const struct mpq_recurrence *run, int64_t s)
{
    mpq_recurrent_rows(run, s, step_back_row);
}

static void add_peephole_gradient(const struct mpq_recurrence *run)
{
    int64_t n = run->n_hidden;
    mpq_real *dp = run->dpeephole;
    for (int64_t s = 0; dp && s < run->n_step; s++)
        for (int64_t row = 0; row < run->n_row; row++) {
            struct lstm_row d = locate(run, run->dgate, s, row);
            add_product(dp, d.i, d.c0, n);
            add_product(dp + n, d.o, d.c1, n);
            add_product(dp + 2 * n, d.f, d.c0, n);
        }
}

static const struct mpq_recurrent_cell cell = {.n_gate = 4,
                                               .n_plain = 4,
                                               .n_function = 3,
                                               .function = {"Sigmoid", "Tanh", "Tanh"},
                                               .has_memory = true,
                                               .step = step,
                                               .step_back = step_back,
                                               .finish_back = add_peephole_gradient};

static enum mpq_status lstm_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  struct mpq_node *node)
{
    return mpq_recurrent_parse(ctx, arena, node, &cell);
}

const struct mpq_op mpq_op_lstm = {.name = "LSTM",
                                   .domain = "",
                                   .n_in_min = 3,
                                   .n_in_max = 8,
                                   .n_out_min = 0,
                                   .n_out_max = 3,
                                   .parse = lstm_parse,
                                   .infer = mpq_recurrent_infer,
                                   .workspace = mpq_recurrent_workspace,
                                   .forward = mpq_recurrent_forward,
                                   .backward = mpq_recurrent_backward,
                                   .macs = mpq_recurrent_macs};
