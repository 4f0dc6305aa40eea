/* A graph at concrete input shapes: the type and shape of every value, and the data of those that
 * are constant at these shapes (initializers, Shape of something, arithmetic on either). */
#ifndef MPQ_PASS_BIND_H
#define MPQ_PASS_BIND_H

#include "quantcore/ops/op.h"

struct mpq_binding {
    struct mpq_tensor *tensor; /* [n_value]; data non-NULL where constant. Unused values: rank -1 */
    bool *is_folded;           /* [n_node]: all its outputs are constant, it need not run         */
};

/* `input` gives the concrete shape of each graph input, [n_input]. Reports every node without a row
 * in one UNSUPPORTED message, unless nothing depends on it being run (its outputs folded). */
enum mpq_status mpq_bind(struct mpq_ctx *ctx, struct mpq_arena *arena,
                         const struct mpq_graph *graph, const struct mpq_shape *input,
                         struct mpq_binding *out) MPQ_CHECKED;

/* Whether the node transposes a large FLOAT constant that a node before it reads, too, as the
 * output layer of a language model reads the table of its embedding. It is not folded: the two must
 * stay one weight. */
bool mpq_bind_shares_weight(const struct mpq_graph *graph, mpq_node_id node);

/* As far as possible: nodes that cannot be run, or read a value of which nothing is known, leave
 * their outputs unknown (rank -1). `value` [n_input] gives data of inputs, NULL where they are not
 * known. */
enum mpq_status mpq_bind_partly(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                const struct mpq_graph *graph, const struct mpq_shape *input,
                                void *const *value, struct mpq_binding *out) MPQ_CHECKED;

/* Declared input shapes with every unknown first dimension replaced by `batch`; an unknown
 * dimension elsewhere that shares its symbolic name with a first dimension gets it too, others get
 * the size in graph->assumed. SHAPE, naming the input, where there is none. out_shape [n_input]. */
enum mpq_status mpq_bind_shapes(struct mpq_ctx *ctx, const struct mpq_graph *graph, int64_t batch,
                                struct mpq_shape *out_shape) MPQ_CHECKED;

/* The two together. */
enum mpq_status mpq_bind_batch(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               const struct mpq_graph *graph, int64_t batch,
                               struct mpq_binding *out) MPQ_CHECKED;

/* At batch 1, all but the nodes that cannot be run (no row, or UNSUPPORTED at these shapes) and
 * what depends on them: their outputs stay unknown (rank -1), out_runs [n_node] is false. Shapes
 * that do not fit are an error as ever. */
enum mpq_status mpq_bind_runnable(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_graph *graph, bool *out_runs,
                                  struct mpq_binding *out) MPQ_CHECKED;

/* Multiply-accumulates of a node at these shapes; 0 where folded or not counted. */
uint64_t mpq_bind_macs(const struct mpq_graph *graph, const struct mpq_binding *binding,
                       mpq_node_id node);

#endif
