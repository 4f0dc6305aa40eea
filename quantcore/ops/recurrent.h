/* What LSTM, GRU and RNN share: attributes, shapes, the walk over directions and steps, and most
 * matrix products. The three differ in the cell, which makes a state out of gates.
 *
 * Everything is done in step order: step s of row b is time s, or length[b] - 1 - s where the
 * direction is reversed, so that a cell sees neither layouts nor directions. Rows whose sequence is
 * over keep their state, have no gradient in their gates, and cells do not see them.
 *
 * Backward runs forward again: it keeps nothing between the two but the operator's outputs, which
 * do not hold the gates. */
#ifndef MPQ_OPS_RECURRENT_H
#define MPQ_OPS_RECURRENT_H

#include "quantcore/ops/kernel/gate.h"
#include "quantcore/ops/op_util.h"

/* Sizes: S steps, B rows (the batch), I inputs, H hidden, G gates. */
struct mpq_recurrence {
    const struct mpq_recurrent_cell *cell;
    const struct mpq_gate_function *function; /* [cell->n_function] f, g, h              */
    bool linear_before_reset, is_reversed;
    int64_t n_step, n_row, n_input, n_hidden;
    const struct mpq_tensor *length; /* [B], or NULL: all have n_step            */

    /* One direction's share of the inputs and their gradients; NULL: absent, not wanted. */
    const mpq_real *w, *r, *bias, *peephole; /* [G H, I], [G H, H], [2 G H], [3 H]       */
    mpq_real *dw, *dr, *dbias, *dpeephole;

    mpq_real *x;      /* [S, B, I], then its gradient                                     */
    mpq_real *gate;   /* [S, B, G H] what goes into the gates, then what comes out        */
    mpq_real *hidden; /* [S + 1, B, H] states, the initial one first                      */
    mpq_real *memory; /* [S + 1, B, H] the same of the cell, where it has one             */
    mpq_real *extra;  /* [S, B, H] where the cell wants it                                */

    mpq_real *dgate;   /* [S, B, G H] by what goes into the gates                         */
    mpq_real *dhidden; /* [B, H] by the state after the step; step_back: before it        */
    mpq_real *dmemory; /* [B, H] */
    mpq_real *dextra;  /* [B, H] */
};

struct mpq_recurrent_cell {
    int n_gate;
    int n_plain; /* the first gates, into which W x + R h + both biases goes; the cell itself adds
                    the part with R to the others, and with linear_before_reset the second bias  */
    int n_function;
    const char *function[3]; /* defaults */
    bool has_memory, has_extra;

    /* hidden[s + 1], memory[s + 1] and extra[s] from gate[s] and the states before. */
    void (*step)(const struct mpq_recurrence *run, int64_t s);
    /* dgate[s] from dhidden and dmemory, which become those by the state before the step, but for
     * the way through R and the plain gates. */
    void (*step_back)(const struct mpq_recurrence *run, int64_t s);
    /* Gradients that are not those of the plain gates, all steps done. NULL: there are none. */
    void (*finish_back)(const struct mpq_recurrence *run);
};

/* fn(run, s, row) for every row that is not over, in parallel. */
void mpq_recurrent_rows(const struct mpq_recurrence *run, int64_t s,
                        void (*fn)(const struct mpq_recurrence *run, int64_t s, int64_t row));

enum mpq_status mpq_recurrent_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_node *node,
                                    const struct mpq_recurrent_cell *cell) MPQ_CHECKED;
enum mpq_status mpq_recurrent_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *const *x, struct mpq_tensor *const *y);
size_t mpq_recurrent_workspace(const struct mpq_node *node, const struct mpq_tensor *const *x,
                               struct mpq_tensor *const *y, bool training);
void mpq_recurrent_forward(const struct mpq_kernel_args *args);
void mpq_recurrent_backward(const struct mpq_kernel_args *args);
uint64_t mpq_recurrent_macs(const struct mpq_node *node, const struct mpq_tensor *const *x,
                            struct mpq_tensor *const *y);

#endif
