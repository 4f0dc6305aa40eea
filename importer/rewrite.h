/* A graph of the message whose node list is written anew: what inlining functions, branches and
 * loops share. Names are unique in a graph and all bodies in it, so that what is moved from one
 * scope to another keeps its meaning. */
#ifndef MPQ_IMPORTER_REWRITE_H
#define MPQ_IMPORTER_REWRITE_H

#include <onnx.pb-c.h>

#include "quantcore/base/strmap.h"
#include "quantcore/ir/tensor.h"

struct mpq_rewrite {
    struct mpq_ctx *ctx;
    struct mpq_arena *arena;
    Onnx__GraphProto *graph;
    struct mpq_strmap *taken;  /* names of the graph and of its bodies */
    struct mpq_strmap *number; /* stem -> the number to try next, lest all be tried each time */
    Onnx__NodeProto **node;    /* the new list */
    Onnx__TensorProto **initializer;
    size_t n_node, node_capacity, n_initializer, initializer_capacity;
};

/* Names of a scope and what they become in another. */
struct mpq_renaming {
    struct mpq_strmap from, target; /* target: those that some become, or have become */
    char **to;
    uint32_t n, capacity;
};

/* Takes the names of the graph and its bodies. The initializers stay, the nodes are to be appended.
 * _end puts both into the graph. */
enum mpq_status mpq_rewrite_begin(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  Onnx__GraphProto *graph, struct mpq_rewrite *out) MPQ_CHECKED;
void mpq_rewrite_end(struct mpq_rewrite *rewrite);

/* The same for a body of the graph that `outer` rewrites. */
void mpq_rewrite_begin_body(const struct mpq_rewrite *outer, Onnx__GraphProto *body,
                            struct mpq_rewrite *out);

/* A name that nothing has, now taken: the stem and a number, or the stem itself. */
enum mpq_status mpq_rewrite_name(struct mpq_rewrite *rewrite, const char *stem,
                                 char **out) MPQ_CHECKED;

enum mpq_status mpq_rewrite_append(struct mpq_rewrite *rewrite, Onnx__NodeProto *node) MPQ_CHECKED;
enum mpq_status mpq_rewrite_append_initializer(struct mpq_rewrite *rewrite,
                                               Onnx__TensorProto *tensor) MPQ_CHECKED;

/* A nameless node of ai.onnx with one output and no attribute, or one. */
enum mpq_status mpq_rewrite_op(struct mpq_rewrite *rewrite, const char *op_type, size_t n_in,
                               char *const *in, const char *out) MPQ_CHECKED;
enum mpq_status mpq_rewrite_op_with(struct mpq_rewrite *rewrite, const char *op_type, size_t n_in,
                                    char *const *in, const char *out, const char *attr,
                                    int64_t value) MPQ_CHECKED;
/* An initializer of integers, or a bool; the name is new. rank 0 (n 1) or 1. */
enum mpq_status mpq_rewrite_constant(struct mpq_rewrite *rewrite, enum mpq_dtype dtype, int rank,
                                     int64_t n, const int64_t *value, char **out) MPQ_CHECKED;

/* `from` is called `to` from now on; a later call for the same name wins. */
enum mpq_status mpq_renaming_add(struct mpq_rewrite *rewrite, struct mpq_renaming *renaming,
                                 const char *from, char *to) MPQ_CHECKED;
/* What `name` is called, itself where the renaming does not know it. */
char *mpq_renaming_get(const struct mpq_renaming *renaming, char *name);

/* Names in the graph for what a body of it defines: always new ones, or, where `keeps_names`, only
 * for names that the graph itself has. Initializers are appended under theirs; values are the
 * outputs of the body's nodes. */
enum mpq_status mpq_rewrite_adopt_initializers(struct mpq_rewrite *rewrite,
                                               const Onnx__GraphProto *body, bool keeps_names,
                                               struct mpq_renaming *renaming) MPQ_CHECKED;
enum mpq_status mpq_rewrite_adopt_values(struct mpq_rewrite *rewrite, const Onnx__GraphProto *body,
                                         bool keeps_names,
                                         struct mpq_renaming *renaming) MPQ_CHECKED;

/* A copy of the node with everything renamed, in its bodies too. Tensors are shared. What a body
 * defines itself gets new names where the scopes would mix; the renaming is as before after that.
 */
enum mpq_status mpq_rewrite_copy_node(struct mpq_rewrite *rewrite, struct mpq_renaming *renaming,
                                      const Onnx__NodeProto *node,
                                      Onnx__NodeProto **out) MPQ_CHECKED;

/* Names of their own for what bodies in the new list compute under a name that the graph now has:
 * runtimes refuse the same name in both. */
enum mpq_status mpq_rewrite_part_scopes(struct mpq_rewrite *rewrite) MPQ_CHECKED;

/* Whether a body in the graph, at any depth, reads that name and means a value from outside, and
 * renaming it there. */
bool mpq_rewrite_bodies_read(const Onnx__GraphProto *graph, const char *name);
void mpq_rewrite_rename_in_bodies(Onnx__GraphProto *graph, const char *from, char *to);

/* What messages call the node: its name, or that of its first output. */
const char *mpq_rewrite_label(const Onnx__NodeProto *node);

/* The attribute of that name, or NULL. */
Onnx__AttributeProto *mpq_rewrite_attr(const Onnx__NodeProto *node, const char *name);

#endif
