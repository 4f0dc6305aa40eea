/* RNN: h1 = f(W x + R h0 + biases). */
#include <string.h>

#include "quantcore/ops/recurrent.h"

static void step_row(const struct mpq_recurrence *run, int64_t s, int64_t row)
{
    int64_t n = run->n_hidden, before = (s * run->n_row + row) * n;
    mpq_real *gate = run->gate + before;
    mpq_gate_apply(&run->function[0], gate, n);
    memcpy(run->hidden + before + run->n_row * n, gate, (size_t)n * sizeof *gate);
}

static void step(const struct mpq_recurrence *run, int64_t s)
{
    mpq_recurrent_rows(run, s, step_row);
}

static void step_back_row(const struct mpq_recurrence *run, int64_t s, int64_t row)
{
    int64_t n = run->n_hidden, before = (s * run->n_row + row) * n;
    mpq_real *dh = run->dhidden + row * n, *d = run->dgate + before;
    memcpy(d, dh, (size_t)n * sizeof *d);
    memset(dh, 0, (size_t)n * sizeof *dh);
    mpq_gate_back(&run->function[0], run->gate + before, d, n);
}

static void step_back(const struct mpq_recurrence *run, int64_t s)
{
    mpq_recurrent_rows(run, s, step_back_row);
}

static const struct mpq_recurrent_cell cell = {.n_gate = 1,
                                               .n_plain = 1,
                                               .n_function = 1,
                                               .function = {"Tanh"},
                                               .step = step,
                                               .step_back = step_back};

static enum mpq_status rnn_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 struct mpq_node *node)
{
    return mpq_recurrent_parse(ctx, arena, node, &cell);
}

const struct mpq_op mpq_op_rnn = {.name = "RNN",
                                  .domain = "",
                                  .n_in_min = 3,
                                  .n_in_max = 6,
                                  .n_out_min = 0,
                                  .n_out_max = 2,
                                  .parse = rnn_parse,
                                  .infer = mpq_recurrent_infer,
                                  .workspace = mpq_recurrent_workspace,
                                  .forward = mpq_recurrent_forward,
                                  .backward = mpq_recurrent_backward,
                                  .macs = mpq_recurrent_macs};
