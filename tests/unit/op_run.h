/* Running one operator row in a test: inputs in, outputs and gradients out. */
#ifndef MPQ_TESTS_OP_RUN_H
#define MPQ_TESTS_OP_RUN_H

#include "quantcore/ops/op.h"

#define OP_RUN_MAX 4

struct op_run {
    struct mpq_ctx ctx;
    struct mpq_arena *arena;
    struct mpq_node node;
    struct mpq_attr attr[8];
    mpq_value_id id[2 * OP_RUN_MAX];
    struct mpq_tensor tensor[OP_RUN_MAX], out;
    const struct mpq_tensor *x[OP_RUN_MAX];
    mpq_real *dx[OP_RUN_MAX];
    const struct mpq_clamp *clamp; /* of the forward pass; NULL: none */
};

void op_run_init(struct op_run *run, const struct mpq_op *op);
void op_run_free(struct op_run *run);
void op_run_ints(struct op_run *run, const char *name, size_t n, const int64_t *value);
void op_run_int(struct op_run *run, const char *name, int64_t value);
void op_run_float(struct op_run *run, const char *name, float value);
void op_run_string(struct op_run *run, const char *name, const char *value);

/* Another input, of normal random values from (seed, its number). */
void op_run_input(struct op_run *run, const struct mpq_shape *shape, uint64_t seed);

/* parse and infer. */
enum mpq_status op_run_infer(struct op_run *run);

/* forward into run->out; then backward from dy, adding to run->dx, each of which starts as `start`.
 * NAN: of an operator that sets_dx, none holds anything yet. The workspace is filled with NaN
 * before either. */
void op_run_forward(struct op_run *run);
void op_run_backward(struct op_run *run, const mpq_real *dy, mpq_real start);

#endif
