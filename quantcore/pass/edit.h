/* A graph under the knife: what the rewriting passes of mpq_simplify() share. Private to this
 * folder.
 *
 * The working graph is a clone that nobody else holds, so its nodes and constants are changed in
 * place. Node slots stay where they are: a removed node leaves a hole, a new node takes the place
 * of an old one, and mpq_edit_finish() closes the holes. Passes look upwards only (from a node to
 * the producers of its inputs), so the number of readers of a value is all they need to know of
 * them. */
#ifndef MPQ_PASS_EDIT_H
#define MPQ_PASS_EDIT_H

#include "quantcore/pass/bind.h"

struct mpq_edit_value {
    uint32_t n_read;        /* inputs of living nodes that are this value             */
    bool is_output;         /* of the graph                                           */
    bool is_pinned;         /* is_output, or a graph inside an attribute may name it  */
    mpq_value_id alias;     /* readers read that value instead; itself: no alias      */
    struct mpq_shape shape; /* at batch 1 where the graph can be bound, else declared */
};

struct mpq_edit {
    struct mpq_ctx *ctx;
    struct mpq_arena *arena; /* of the result; everything made on the way lives there */
    struct mpq_graph *graph;
    struct mpq_edit_value *value; /* [capacity], n_value of them in use               */
    uint32_t capacity;
    bool *is_removed; /* [n_node] */
    bool keep_norms;  /* BatchNormalization is not folded into the layer before it */
    /* Values that no input can change: those the binding found constant, where every dimension of
     * every graph input is fixed; else NULL. [n_static] */
    const struct mpq_tensor *static_value;
    uint32_t n_static;
    bool keeps_dequantize; /* constants are folded for a run, not for a file: whatever their size,
                              but no DequantizeLinear, which says what an integer weight means */
    bool has_changed;
};

/* Whether a node has a graph inside an attribute, which may read values by name. */
bool mpq_has_inner_graph(const struct mpq_graph *graph);

enum mpq_status mpq_edit_begin(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               const struct mpq_graph *graph, struct mpq_edit *out) MPQ_CHECKED;
enum mpq_status mpq_edit_finish(struct mpq_edit *edit, struct mpq_graph **out) MPQ_CHECKED;

/* rewrite(edit, node id) for every living node in order, its inputs free of aliases. */
enum mpq_status mpq_edit_sweep(struct mpq_edit *edit,
                               enum mpq_status (*rewrite)(struct mpq_edit *,
                                                          mpq_node_id)) MPQ_CHECKED;

/* What v is after aliases. */
mpq_value_id mpq_edit_resolve(const struct mpq_edit *edit, mpq_value_id v);
/* Input i of the node, or NO_VALUE where it has none. */
mpq_value_id mpq_edit_input(const struct mpq_edit *edit, const struct mpq_node *node, uint32_t i);
/* The constant behind v, or NULL; v may be NO_VALUE. */
const struct mpq_tensor *mpq_edit_constant(const struct mpq_edit *edit, mpq_value_id v);
/* The same where it is a list of integers or bools, else NULL. */
const struct mpq_tensor *mpq_edit_integers(const struct mpq_edit *edit, mpq_value_id v);
/* Whether v is one constant number. */
bool mpq_edit_number(const struct mpq_edit *edit, mpq_value_id v, double *out);
/* The node that computes v, or NULL. */
struct mpq_node *mpq_edit_producer(const struct mpq_edit *edit, mpq_value_id v);
/* Whether exactly one input reads v and nothing else can see it. */
bool mpq_edit_is_private(const struct mpq_edit *edit, mpq_value_id v);

void mpq_edit_remove(struct mpq_edit *edit, struct mpq_node *node);
enum mpq_status mpq_edit_set_inputs(struct mpq_edit *edit, struct mpq_node *node, uint32_t n,
                                    const mpq_value_id *in) MPQ_CHECKED;
enum mpq_status mpq_edit_set_input(struct mpq_edit *edit, struct mpq_node *node, uint32_t i,
                                   mpq_value_id v) MPQ_CHECKED;
/* The node's only output becomes v, whose former producer must have been removed. */
enum mpq_status mpq_edit_set_output(struct mpq_edit *edit, struct mpq_node *node,
                                    mpq_value_id v) MPQ_CHECKED;
/* Put a node into the slot of a removed one; `node` and its lists are copied. */
enum mpq_status mpq_edit_place(struct mpq_edit *edit, struct mpq_node *slot,
                               const struct mpq_node *node) MPQ_CHECKED;
/* Replace or append an attribute. mpq_op_resolve() once all are set. */
enum mpq_status mpq_edit_set_attr(struct mpq_edit *edit, struct mpq_node *node,
                                  const struct mpq_attr *attr) MPQ_CHECKED;

/* Everyone who read `from` reads `to`, which has the same content, and the node that computes
 * `from` goes. Names of graph outputs stay; false where that makes it impossible. */
enum mpq_status mpq_edit_bypass(struct mpq_edit *edit, mpq_value_id from, mpq_value_id to,
                                bool *out_done) MPQ_CHECKED;

/* A constant that takes the place of constant `old`: the same value where only one input reads it,
 * else a new one named after it. */
enum mpq_status mpq_edit_new_constant(struct mpq_edit *edit, mpq_value_id old,
                                      const struct mpq_tensor *tensor,
                                      mpq_value_id *out) MPQ_CHECKED;
/* A new computed value. */
enum mpq_status mpq_edit_new_value(struct mpq_edit *edit, const char *stem, enum mpq_dtype dtype,
                                   const struct mpq_shape *shape, mpq_value_id *out) MPQ_CHECKED;

/* The passes. Each does what it can in one go and sets has_changed where it did something. */
enum mpq_status mpq_fold_constant(struct mpq_edit *edit) MPQ_CHECKED;
enum mpq_status mpq_fold_affine(struct mpq_edit *edit) MPQ_CHECKED;
enum mpq_status mpq_fold_pad(struct mpq_edit *edit) MPQ_CHECKED;
enum mpq_status mpq_fold_transpose(struct mpq_edit *edit) MPQ_CHECKED;
enum mpq_status mpq_drop_idle(struct mpq_edit *edit) MPQ_CHECKED; /* Identity, Dropout */
enum mpq_status mpq_drop_dead(struct mpq_edit *edit) MPQ_CHECKED;

#endif
