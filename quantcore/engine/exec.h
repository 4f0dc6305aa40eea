/* Running a graph: forward, and backward where asked. One exec is one graph at one set of shapes
 * with all its buffers; it is created once and run many times.
 *
 *     bind -> create -> { fill inputs -> forward -> read outputs } ...
 *     training:         { fill inputs -> forward -> seed gradients -> backward -> read gradients }
 * ...
 */
#ifndef MPQ_ENGINE_EXEC_H
#define MPQ_ENGINE_EXEC_H

#include "quantcore/pass/bind.h"

struct mpq_exec;

/* Adds to the gradient of a value that is complete otherwise: mpq_exec_grad(exec, value). */
typedef void mpq_exec_hook(void *arg, mpq_value_id value);

struct mpq_exec_options {
    const bool *keep; /* [n_value] values whose data must outlive the forward pass besides the
                         outputs; NULL: none. Others share memory.                           */
    const mpq_node_id *until; /* [n_value] values that are still to be there before that node runs,
                                 for whoever looks at a pass in between; 0: this one is not; NULL:
                                 none                                                          */
    bool keep_all;            /* every value has memory of its own, except those that only a Relu or
                                 Clip reads: it is computed where they are                           */
    const bool *want_grad;    /* [n_value] values whose gradient backward must deliver (weights,
                                 biases, inputs); NULL: forward only. What backward needs is kept    */
    const bool *seed;   /* [n_value] values whose gradient the caller seeds besides the outputs;
                           NULL: none                                                          */
    const bool *hooked; /* [n_value] computed values for which backward calls `hook` (each the
                           first output of its node); NULL: none. Takes less memory than seeds */
    mpq_exec_hook *hook;
    void *hook_arg;
    size_t max_bytes; /* as few of values as that takes are computed again by backward instead of
                         being kept, with results the same bit for bit; if all that can be is not
                         enough, the exec takes more. 0: no limit                               */
};

/* graph and the arrays of the binding must outlive the exec, which lives in `arena`. UNSUPPORTED
 * where a wanted gradient would have to pass an operator that has none (it is named). */
enum mpq_status mpq_exec_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                const struct mpq_graph *graph, const struct mpq_binding *binding,
                                const struct mpq_exec_options *options,
                                struct mpq_exec **out) MPQ_CHECKED;

/* The mpq_exec_bytes() and mpq_exec_again() of such an exec, without creating it. */
enum mpq_status mpq_exec_measure(struct mpq_ctx *ctx, const struct mpq_graph *graph,
                                 const struct mpq_binding *binding,
                                 const struct mpq_exec_options *options, size_t *out_bytes,
                                 double *out_again) MPQ_CHECKED;

/* A value's tensor: to fill an input before forward, to read an output or kept value after it. */
struct mpq_tensor *mpq_exec_tensor(struct mpq_exec *exec, mpq_value_id value);
/* Those of n values, *out [n] from `arena`. */
enum mpq_status mpq_exec_tensors(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 struct mpq_exec *exec, const mpq_value_id *value, uint32_t n,
                                 struct mpq_tensor ***out) MPQ_CHECKED;

/* Let the nodes read this value from `data` (of its type and shape) from now on: how quantized
 * weights replace the float ones. NULL: back to its own memory. */
void mpq_exec_feed(struct mpq_exec *exec, mpq_value_id value, void *data);

/* Run nodes [first, last) in order; the whole graph is (0, n_node). Earlier values must still be
 * there: a partial run goes on where the last one ended, or needs keep_all. Cannot fail. */
void mpq_exec_forward(struct mpq_exec *exec, mpq_node_id first, mpq_node_id last);

/* The last node, n or one before it, from which forward can begin after a whole forward pass and
 * any backward: what the nodes from there on read is still there. Once values that nodes before it
 * read have changed, 0 is right. */
mpq_node_id mpq_exec_resume(const struct mpq_exec *exec, mpq_node_id n);

/* The inputs and computed values that nodes from n on read and that are there before node n runs,
 * copied to and from memory of the caller's of mpq_exec_live_bytes(exec, n): once nodes [0, n) have
 * run, save, run other samples, restore, and go on with forward from n. keep_all is not needed. */
size_t mpq_exec_live_bytes(const struct mpq_exec *exec, mpq_node_id n);
void mpq_exec_save(const struct mpq_exec *exec, mpq_node_id n, void *out);
void mpq_exec_restore(struct mpq_exec *exec, mpq_node_id n, const void *saved);

/* Gradients. zero_grad clears those of seeded values (the outputs among them) and of wanted ones;
 * then the caller adds dL/dvalue to the seeded; backward adds into the wanted. mpq_exec_grad is
 * NULL for a value that is neither, or whose gradient reaches nothing wanted. backward uses up the
 * seeds. */
void mpq_exec_zero_grad(struct mpq_exec *exec);
mpq_real *mpq_exec_grad(struct mpq_exec *exec, mpq_value_id value);
void mpq_exec_backward(struct mpq_exec *exec);

/* Whether convolutions multiply and add in the plain way, not by a scheme of fewer products
 * (Winograd) whose rounding puts sums of quantized values, where ties are common, on their other
 * side. An exec begins with yes where its graph has DequantizeLinear nodes, with no elsewhere. */
void mpq_exec_sum_plainly(struct mpq_exec *exec, bool plainly);

size_t mpq_exec_bytes(const struct mpq_exec *exec); /* activations, gradients and workspace */

/* The share of a forward pass that backward runs again, by products and elements written. */
double mpq_exec_again(const struct mpq_exec *exec);

#endif
