/* Between exec.c and what it is made of: flow.c, schedule.c, recompute.c, layout.c. Nobody else
 * includes it. */
#ifndef MPQ_ENGINE_EXEC_STATE_H
#define MPQ_ENGINE_EXEC_STATE_H

#include "quantcore/engine/exec.h"

/* A node with everything its kernels need, tied up once. x, y, dy, dx point into the tables of the
 * exec, so that feeding a value changes what every reader sees. */
struct step {
    const struct mpq_tensor **x;
    struct mpq_tensor **y;
    const mpq_real **dy;
    mpq_real **dx;
    bool *fresh;          /* [n_in] whose gradient this node's backward is the first to touch */
    bool is_fused;        /* its forward is left to the node that makes its input, */
    bool clamps;          /* which clamps, */
    mpq_value_id clamped; /* and writes this */
    struct mpq_clamp clamp;
    bool runs_backward;
    bool calls_hook;  /* of backward, for output 0 */
    bool hooks_alone; /* nothing but the hook touches the gradient of output 0 */
    bool runs_again;  /* backward computes its outputs anew: they are not kept */
};

/* One turn of backward: a node's backward, or its forward once more. */
struct turn {
    mpq_node_id node;
    bool is_forward;
};

/* A value with memory of the exec's is alive before node n for n in [first, end). */
struct life {
    mpq_node_id first, end;
};

struct mpq_exec {
    const struct mpq_graph *graph;
    struct mpq_binding binding; /* its arrays stay the caller's */
    struct mpq_tensor *tensor;  /* [n_value] */
    void **own;                 /* [n_value] memory of computed values and inputs */
    void **anew;                /* [n_value] of values that backward computes again, else NULL */
    mpq_real **grad;            /* [n_value] */
    bool *is_anchored;          /* [n_value] gradient seeded or wanted: cleared by zero_grad */
    bool sums_plainly;          /* see mpq_exec_sum_plainly() */
    mpq_exec_hook *hook;
    void *hook_arg;
    struct step *step; /* [n_node]  */
    struct turn *turn; /* [n_turn] of backward */
    uint32_t n_turn;
    mpq_node_id *resume; /* [n_node] see mpq_exec_resume() */
    struct life *life;   /* [n_value] */
    void *workspace;
    size_t bytes;
    double again; /* see mpq_exec_again() */
};

static inline bool mpq_exec_runs(const struct mpq_exec *exec, mpq_node_id n)
{
    return !exec->binding.is_folded[n];
}

/* The value whose memory v has: the output of the clamp that was left to v's maker, or its own. */
static inline mpq_value_id mpq_exec_home(const struct mpq_exec *exec, mpq_value_id v)
{
    mpq_node_id maker = exec->graph->value[v].producer;
    return maker != MPQ_NO_NODE && exec->step[maker].clamps ? exec->step[maker].clamped : v;
}

/* ---- flow.c ---- */

/* Leave clamps to the nodes that make their inputs; then, where gradients are wanted, find those
 * that flow. reached [n_value]: gradients there are. */
enum mpq_status mpq_flow_find(struct mpq_ctx *ctx, struct mpq_arena *arena,
                              struct mpq_arena *scratch, struct mpq_exec *exec,
                              const struct mpq_exec_options *options, bool *reached) MPQ_CHECKED;

/* ---- schedule.c ---- */

#define MPQ_NEVER UINT32_MAX

/* When values are in memory. Forward of node n is at time n, the turns of backward follow from
 * n_node on, and `end` is after all of them. A value that is computed again has a second life. Of
 * values that share memory only the home counts. */
struct schedule {
    uint32_t *last;                   /* [n_value] use of what forward made                     */
    uint32_t *anew_first, *anew_last; /* [n_value] the second life; MPQ_NEVER: none             */
    uint32_t *back;                   /* [n_node] when its backward runs, where it does         */
    struct turn *turn;                /* [n_turn] */
    uint32_t n_turn, end;
};

/* again [n_node]: nodes whose outputs backward is to compute again; none of them is to be read
 * after the run. */
enum mpq_status mpq_schedule_make(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_exec *exec,
                                  const struct mpq_exec_options *options, const bool *again,
                                  struct schedule *out) MPQ_CHECKED;

/* ---- recompute.c ---- */

/* Ways to need less memory, from the cheapest on: 0 nothing again; 1 nodes that multiply nothing;
 * then all but what crosses the borders of ever more segments. */
#define MPQ_RECOMPUTE_LEVELS 12

enum mpq_status mpq_recompute_choose(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                     const struct mpq_exec *exec,
                                     const struct mpq_exec_options *options, int level,
                                     bool *again) MPQ_CHECKED;

/* The share of a forward pass that the turns run again. */
double mpq_recompute_share(const struct mpq_exec *exec, const struct schedule *schedule);

/* ---- layout.c ---- */

/* Where everything lies. Gradients have a block of their own, so that what forward made is still
 * there after backward; or share that of the values. */
struct layout {
    struct schedule schedule;
    const bool *again;              /* [n_node] */
    struct mpq_plan_buffer *buffer; /* [n_buffer] of values, then of gradients              */
    mpq_value_id *owner;            /* [n_value_buffer] values; twice those that live twice */
    uint32_t n_value_buffer, n_buffer;
    uint32_t *gradient_of; /* [n_value] its gradient's buffer, or MPQ_NEVER                  */
    bool is_joint;         /* one block */
    size_t value_bytes, gradient_bytes;
};

/* Marks, in exec->step, where gradients begin. */
enum mpq_status mpq_layout_make(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                struct mpq_exec *exec, const struct mpq_exec_options *options,
                                const bool *reached, const bool *again, bool is_joint,
                                struct layout *out) MPQ_CHECKED;

/* Take the memory and tie values and gradients to it. */
enum mpq_status mpq_layout_settle(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  struct mpq_arena *scratch, struct mpq_exec *exec,
                                  const struct layout *layout) MPQ_CHECKED;

#endif
