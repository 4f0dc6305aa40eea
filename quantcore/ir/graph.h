/* The graph: values named once, nodes in topological order.
 *
 * Value ids are stable: a pass makes a new graph that keeps the ids of all values and appends new
 * ones, so tables indexed by value id outlive it. Node ids are positions in execution order and
 * change from graph to graph. Marks, ranges, gradients and bit widths live in side tables indexed
 * by id that their user owns, never in fields here. */
#ifndef MPQ_IR_GRAPH_H
#define MPQ_IR_GRAPH_H

#include "quantcore/base/strmap.h"
#include "quantcore/ir/attr.h"

typedef uint32_t mpq_value_id;  /* index into graph->value */
typedef uint32_t mpq_node_id;   /* index into graph->node  */
#define MPQ_NO_VALUE UINT32_MAX /* absent optional input or output */
#define MPQ_NO_NODE  UINT32_MAX

struct mpq_op; /* quantcore/ops/op.h: a row of the operator registry */

struct mpq_value {
    const char *name;
    enum mpq_dtype dtype;         /* as declared; UNDEFINED where the file does not say      */
    struct mpq_shape shape;       /* as declared, unknown dimensions -1; rank -1: not said   */
    enum mpq_dtype file_dtype;    /* of an input, output or constant that the file has in FLOAT16,
                                     BFLOAT16 or DOUBLE and we in FLOAT; else UNDEFINED      */
    const char *const *dim_param; /* names of symbolic dimensions, rank entries (NULL where
                                     none), or NULL                                          */
    mpq_node_id producer;         /* MPQ_NO_NODE for inputs, constants and unused values     */
    const struct mpq_tensor *constant; /* initializer or folded result; else NULL                 */
};

struct mpq_node {
    const char *name;             /* may be ""                                                    */
    const char *op_type, *domain; /* ONNX spelling; domain "" is ai.onnx                          */
    const struct mpq_op *op;      /* its row; NULL where no operator of ours matches              */
    const char *refusal;          /* op NULL: why its row refuses it, or NULL where it has none   */
    bool is_stale; /* has a body spelled in an opset older than the graph's: cannot be written    */
    struct mpq_attr_set attr_set; /* as the output opset spells them: what the exporter writes    */
    const void *attrs;            /* the op's own struct, made by op->parse; NULL before          */
    uint32_t n_in, n_out;
    const mpq_value_id *in, *out; /* MPQ_NO_VALUE: absent                                         */
    uint32_t source;              /* position in the imported file's node list, or MPQ_NO_NODE    */
};

struct mpq_graph {
    struct mpq_arena *arena;
    const char *name;
    int64_t opset; /* of ai.onnx, in which all attributes and inputs are spelled; >= 13 */
    struct mpq_value *value;
    struct mpq_node *node;
    mpq_value_id *input, *output;    /* graph inputs that are fed (initializers are not), outputs */
    const struct mpq_shape *assumed; /* [n_input] sizes at which dimensions that are declared
                                        unknown are bound, -1 where there is none; or NULL */
    const struct mpq_opset {
        const char *domain;
        int64_t version;
    } * import; /* [n_import] of other domains, as the file says */
    uint32_t n_import;
    uint32_t n_value, n_node, n_input, n_output;
    uint32_t value_capacity, node_capacity;
    struct mpq_strmap by_name; /* value name -> id */
    const void *source;        /* the ModelProto it came from, alive as long as the arena the
                                  importer was given; only importer and exporter look inside */
};

enum mpq_status mpq_graph_create(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *name,
                                 int64_t opset, struct mpq_graph **out) MPQ_CHECKED;

/* A copy of values, inputs and outputs, and of the nodes unless `without_nodes`; tensors, names,
 * attributes and id lists are shared. A pass clones without nodes and appends what it keeps. */
enum mpq_status mpq_graph_clone(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                const struct mpq_graph *graph, bool without_nodes,
                                struct mpq_graph **out) MPQ_CHECKED;

/* A new value; FORMAT if the name is taken. The name is copied. */
enum mpq_status mpq_graph_add_value(struct mpq_ctx *ctx, struct mpq_graph *graph, const char *name,
                                    mpq_value_id *out) MPQ_CHECKED;
/* A new value whose name starts with `stem`; a number is appended until it is unique. */
enum mpq_status mpq_graph_add_unique(struct mpq_ctx *ctx, struct mpq_graph *graph, const char *stem,
                                     mpq_value_id *out) MPQ_CHECKED;
/* A new constant of a unique name; the tensor's data stay shared. */
enum mpq_status mpq_graph_add_constant(struct mpq_ctx *ctx, struct mpq_graph *graph,
                                       const char *stem, const struct mpq_tensor *tensor,
                                       mpq_value_id *out) MPQ_CHECKED;
mpq_value_id mpq_graph_find(const struct mpq_graph *graph, const char *name); /* or NO_VALUE */

/* Append a node (struct and id lists are copied) and make it the producer of its outputs. FORMAT
 * where an output has a producer already. */
enum mpq_status mpq_graph_add_node(struct mpq_ctx *ctx, struct mpq_graph *graph,
                                   const struct mpq_node *node, mpq_node_id *out) MPQ_CHECKED;

/* Invariants: ids in range; each value produced at most once and not both produced and constant or
 * input; every input of a node produced before it, a constant or a graph input; outputs known. */
enum mpq_status mpq_graph_check(struct mpq_ctx *ctx, const struct mpq_graph *graph) MPQ_CHECKED;

/* Who reads each value: for value v, readers node[first[v]] .. node[first[v+1]-1], in order, a node
 * once for each of its inputs that is v. Graph outputs do not count; is_output says so. */
struct mpq_uses {
    uint32_t *first; /* [n_value + 1] */
    mpq_node_id *node;
    bool *is_output; /* [n_value]     */
};
enum mpq_status mpq_graph_uses(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               const struct mpq_graph *graph, struct mpq_uses *out) MPQ_CHECKED;
/* The only reader of v if exactly one node input reads it and it is no graph output; else NO_NODE.
 */
mpq_node_id mpq_uses_single(const struct mpq_uses *uses, mpq_value_id v);

/* What the node is called for people: its name, or that of the first output it has. */
const char *mpq_node_label(const struct mpq_graph *graph, const struct mpq_node *node);

/* Whether the node is that operator of ai.onnx. */
bool mpq_node_is(const struct mpq_node *node, const char *op_type);

/* The opset that the node's domain has in this graph; 0: the file does not say. */
int64_t mpq_node_opset(const struct mpq_graph *graph, const struct mpq_node *node);

/* Store "node 'name' (Op): sentence", see mpq_fail(). A nameless node is called by its place in the
 * file, from 0: "node 17 (Op): sentence". */
enum mpq_status mpq_fail_node(struct mpq_ctx *ctx, const struct mpq_node *node,
                              enum mpq_status status, const char *format, ...) MPQ_PRINTF(4, 5);

#endif
