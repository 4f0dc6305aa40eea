/* GRU. With the gates z, r, n in this order and a = W x + R h0 + biases:
 *
 *     z = f(a_z)   r = f(a_r)   h1 = (1 - z) n + z h0
 *     n = g(W_n x + b_Wn + R_n (r h0) + b_Rn)
 *     n = g(W_n x + b_Wn + r (R_n h0 + b_Rn))     with linear_before_reset
 *
 * `extra` holds what R_n is multiplied with, r h0; with linear_before_reset the product R_n h0 +
 * b_Rn, and in backward the gradient by it. */
#include "quantcore/ops/kernel/gemm.h"
#include "quantcore/ops/recurrent.h"

enum { F, G };

struct gru_row {
    mpq_real *z, *r, *n; /* gates, or their gradients */
    mpq_real *h0, *h1, *extra;
};

static struct gru_row locate(const struct mpq_recurrence *run, mpq_real *gate, int64_t s,
                             int64_t row)
{
    int64_t n = run->n_hidden, before = (s * run->n_row + row) * n;
    mpq_real *g = gate + before * 3;
    return (struct gru_row){.z = g,
                            .r = g + n,
                            .n = g + 2 * n,
                            .h0 = run->hidden + before,
                            .h1 = run->hidden + before + run->n_row * n,
                            .extra = run->extra + before};
}

/* R_n and b_Rn; the latter is NULL where there are no biases. */
static const mpq_real *new_gate_weights(const struct mpq_recurrence *run)
{
    return run->r + 2 * run->n_hidden * run->n_hidden;
}

static const mpq_real *new_gate_bias(const struct mpq_recurrence *run)
{
    return run->bias ? run->bias + 5 * run->n_hidden : NULL;
}

/* ---- forward ---- */

static void open_row(const struct mpq_recurrence *run, int64_t s, int64_t row)
{
    struct gru_row at = locate(run, run->gate, s, row);
    mpq_gate_apply(&run->function[F], at.z, 2 * run->n_hidden);
    for (int64_t k = 0; k < run->n_hidden; k++)
        if (run->linear_before_reset)
            at.n[k] += at.r[k] * at.extra[k];
        else
            at.extra[k] = at.r[k] * at.h0[k];
}

static void close_row(const struct mpq_recurrence *run, int64_t s, int64_t row)
{
    struct gru_row at = locate(run, run->gate, s, row);
    mpq_gate_apply(&run->function[G], at.n, run->n_hidden);
    for (int64_t k = 0; k < run->n_hidden; k++)
        at.h1[k] = (1 - at.z[k]) * at.n[k] + at.z[k] * at.h0[k];
}

static void multiply_before_reset(const struct mpq_recurrence *run, int64_t s)
{
    int64_t n = run->n_hidden, state = run->n_row * n;
    const mpq_real *bias = new_gate_bias(run);
    mpq_real *extra = run->extra + s * state;
    for (int64_t i = 0; bias && i < state; i++)
        extra[i] = bias[i % n];
    mpq_gemm(false, true, run->n_row, n, n, 1, run->hidden + s * state, n, new_gate_weights(run), n,
             bias ? 1 : 0, extra, n);
}

static void step(const struct mpq_recurrence *run, int64_t s)
{
    int64_t n = run->n_hidden, state = run->n_row * n;
    if (run->linear_before_reset)
        multiply_before_reset(run, s);
    mpq_recurrent_rows(run, s, open_row);
    if (!run->linear_before_reset)
        mpq_gemm(false, true, run->n_row, n, n, 1, run->extra + s * state, n, new_gate_weights(run),
                 n, 1, run->gate + s * state * 3 + 2 * n, 3 * n);
    mpq_recurrent_rows(run, s, close_row);
}

/* ---- backward ---- */

static void close_row_back(const struct mpq_recurrence *run, int64_t s, int64_t row)
{
    struct gru_row at = locate(run, run->gate, s, row), d = locate(run, run->dgate, s, row);
    int64_t n = run->n_hidden;
    mpq_real *dh = run->dhidden + row * n;
    for (int64_t k = 0; k < n; k++) {
        d.z[k] = dh[k] * (at.h0[k] - at.n[k]);
        d.n[k] = dh[k] * (1 - at.z[k]);
        dh[k] *= at.z[k];
    }
    mpq_gate_back(&run->function[F], at.z, d.z, n);
    mpq_gate_back(&run->function[G], at.n, d.n, n);
    for (int64_t k = 0; run->linear_before_reset && k < n; k++) {
        d.r[k] = d.n[k] * at.extra[k];
        at.extra[k] = d.n[k] * at.r[k];
    }
}

/* dextra holds the gradient by r h0, unless linear_before_reset. */
static void open_row_back(const struct mpq_recurrence *run, int64_t s, int64_t row)
{
    struct gru_row at = locate(run, run->gate, s, row), d = locate(run, run->dgate, s, row);
    int64_t n = run->n_hidden;
    mpq_real *dh = run->dhidden + row * n;
    const mpq_real *product = run->dextra + row * n;
    for (int64_t k = 0; !run->linear_before_reset && k < n; k++) {
        d.r[k] = product[k] * at.h0[k];
        dh[k] += product[k] * at.r[k];
    }
    mpq_gate_back(&run->function[F], at.r, d.r, n);
}

static void step_back(const struct mpq_recurrence *run, int64_t s)
{
    int64_t n = run->n_hidden, state = run->n_row * n;
    mpq_recurrent_rows(run, s, close_row_back);
    if (run->linear_before_reset)
        mpq_gemm(false, false, run->n_row, n, n, 1, run->extra + s * state, n,
                 new_gate_weights(run), n, 1, run->dhidden, n);
    else
        mpq_gemm(false, false, run->n_row, n, n, 1, run->dgate + s * state * 3 + 2 * n, 3 * n,
                 new_gate_weights(run), n, 0, run->dextra, n);
    mpq_recurrent_rows(run, s, open_row_back);
}

/* Of R_n, and with linear_before_reset of b_Rn. */
static void finish_back(const struct mpq_recurrence *run)
{
    int64_t n = run->n_hidden, rows = run->n_step * run->n_row;
    mpq_real *dr = run->dr ? run->dr + 2 * n * n : NULL;
    if (dr && run->linear_before_reset)
        mpq_gemm(true, false, n, n, rows, 1, run->extra, n, run->hidden, n, 1, dr, n);
    else if (dr)
        mpq_gemm(true, false, n, n, rows, 1, run->dgate + 2 * n, 3 * n, run->extra, n, 1, dr, n);
    for (int64_t k = 0; run->dbias && run->linear_before_reset && k < n; k++) {
        double sum = 0;
        for (int64_t row = 0; row < rows; row++)
            sum += (double)run->extra[row * n + k];
        run->dbias[5 * n + k] += (mpq_real)sum;
    }
}

static const struct mpq_recurrent_cell cell = {.n_gate = 3,
                                               .n_plain = 2,
                                               .n_function = 2,
                                               .function = {"Sigmoid", "Tanh"},
                                               .has_extra = true,
                                               .step = step,
                                               .step_back = step_back,
                                               .finish_back = finish_back};

static enum mpq_status gru_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 struct mpq_node *node)
{
    return mpq_recurrent_parse(ctx, arena, node, &cell);
}

const struct mpq_op mpq_op_gru = {.name = "GRU",
                                  .domain = "",
                                  .n_in_min = 3,
                                  .n_in_max = 6,
                                  .n_out_min = 0,
                                  .n_out_max = 2,
                                  .parse = gru_parse,
                                  .infer = mpq_recurrent_infer,
                                  .workspace = mpq_recurrent_workspace,
                                  .forward = mpq_recurrent_forward,
                                  .backward = mpq_recurrent_backward,
                                  .macs = mpq_recurrent_macs};
