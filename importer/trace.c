#include "importer/trace.h"

#include <string.h>

#define MAX(a, b)           ((a) > (b) ? (a) : (b))
#define CLAMP(x, low, high) ((x) < (low) ? (low) : (x) > (high) ? (high) : (x))

/* What an operator does to the shape of its first input. */
enum effect {
    SAME = 1,  /* keeps it                                        */
    KEEP_RANK, /* changes dimensions                              */
    BROADCAST, /* the highest rank of all inputs                  */
    MATRIX,    /* 2-D                                             */
    POOL,      /* [N, C, 1, ...]                                  */
    MATMUL,
    RESHAPE, /* as many dimensions as input 1 has entries       */
    EXPAND,
    SHAPE,
    SLICE,
    GATHER,
    CONCAT,
    SQUEEZE,
    UNSQUEEZE,
    REDUCE
};

static const struct {
    const char *op_type;
    enum effect effect;
} table[] = {
    {"Abs", SAME},
    {"Add", BROADCAST},
    {"AveragePool", KEEP_RANK},
    {"BatchNormalization", SAME},
    {"Cast", SAME},
    {"Clip", SAME},
    {"Concat", CONCAT},
    {"Conv", KEEP_RANK},
    {"ConvTranspose", KEEP_RANK},
    {"Div", BROADCAST},
    {"Dropout", SAME},
    {"Elu", SAME},
    {"Erf", SAME},
    {"Exp", SAME},
    {"Expand", EXPAND},
    {"Flatten", MATRIX},
    {"Gather", GATHER},
    {"Gemm", MATRIX},
    {"GlobalAveragePool", POOL},
    {"GlobalMaxPool", POOL},
    {"HardSigmoid", SAME},
    {"Hardmax", SAME},
    {"Identity", SAME},
    {"InstanceNormalization", SAME},
    {"LRN", SAME},
    {"LeakyRelu", SAME},
    {"Log", SAME},
    {"LogSoftmax", SAME},
    {"MatMul", MATMUL},
    {"MaxPool", KEEP_RANK},
    {"Mul", BROADCAST},
    {"Neg", SAME},
    {"PRelu", SAME},
    {"Pad", KEEP_RANK},
    {"Pow", BROADCAST},
    {"ReduceMax", REDUCE},
    {"ReduceMean", REDUCE},
    {"ReduceMin", REDUCE},
    {"ReduceSum", REDUCE},
    {"Relu", SAME},
    {"Reshape", RESHAPE},
    {"Resize", KEEP_RANK},
    {"Shape", SHAPE},
    {"Sigmoid", SAME},
    {"Slice", SLICE},
    {"Softmax", SAME},
    {"Split", KEEP_RANK},
    {"Sqrt", SAME},
    {"Squeeze", SQUEEZE},
    {"Sub", BROADCAST},
    {"Sum", BROADCAST},
    {"Tanh", SAME},
    {"Transpose", KEEP_RANK},
    {"Unsqueeze", UNSQUEEZE},
    {"Where", BROADCAST},
};

static struct mpq_shape of_rank(int64_t rank, int64_t dim)
{
    struct mpq_shape shape = {.rank = MPQ_RANK_UNKNOWN};
    if (rank < 0 || rank > MPQ_MAX_RANK)
        return shape;
    shape.rank = (int)rank;
    for (int i = 0; i < shape.rank; i++)
        shape.dim[i] = dim;
    return shape;
}

struct mpq_trace_entry mpq_trace_get(const struct mpq_trace *trace, const struct mpq_graph *graph,
                                     mpq_value_id value)
{
    struct mpq_trace_entry entry = {of_rank(-1, 0), MPQ_UNDEFINED};
    if (value == MPQ_NO_VALUE)
        return entry;
    if (value < trace->n && graph->value[value].producer != MPQ_NO_NODE)
        entry = trace->entry[value];
    if (graph->value[value].shape.rank >= 0)
        entry.shape = graph->value[value].shape;
    if (graph->value[value].dtype != MPQ_UNDEFINED)
        entry.dtype = graph->value[value].dtype;
    return entry;
}

static struct mpq_shape shape_of(const struct mpq_trace *trace, const struct mpq_graph *graph,
                                 const struct mpq_node *node, uint32_t i)
{
    return mpq_trace_get(trace, graph, i < node->n_in ? node->in[i] : MPQ_NO_VALUE).shape;
}

/* Entries of a vector that is input i, or -1. */
static int64_t length_of(const struct mpq_trace *trace, const struct mpq_graph *graph,
                         const struct mpq_node *node, uint32_t i)
{
    struct mpq_shape shape = shape_of(trace, graph, node, i);
    return shape.rank == 1 ? shape.dim[0] : -1;
}

static struct mpq_shape broadcast(const struct mpq_trace *trace, const struct mpq_graph *graph,
                                  const struct mpq_node *node)
{
    int rank = 0;
    for (uint32_t i = 0; i < node->n_in; i++) {
        int r = shape_of(trace, graph, node, i).rank;
        if (r < 0)
            return of_rank(-1, 0);
        rank = MAX(rank, r);
    }
    return of_rank(rank, MPQ_DIM_UNKNOWN);
}

/* The rank of the parts; the length where the parts are vectors. */
static struct mpq_shape concat(const struct mpq_trace *trace, const struct mpq_graph *graph,
                               const struct mpq_node *node)
{
    struct mpq_shape y = of_rank(shape_of(trace, graph, node, 0).rank, MPQ_DIM_UNKNOWN);
    int64_t length = 0;
    for (uint32_t i = 0; i < node->n_in && y.rank == 1; i++) {
        int64_t part = length_of(trace, graph, node, i);
        if (part < 0)
            return y;
        length += part;
    }
    if (y.rank == 1)
        y.dim[0] = length;
    return y;
}

/* Input i where it is a constant of one integer, else `absent`. */
static int64_t constant_int(const struct mpq_graph *graph, const struct mpq_node *node, uint32_t i,
                            int64_t absent)
{
    if (i >= node->n_in || node->in[i] == MPQ_NO_VALUE)
        return absent;
    const struct mpq_tensor *value = graph->value[node->in[i]].constant;
    if (!value || !mpq_dtype_is_integer(value->dtype) || mpq_shape_count(&value->shape) != 1)
        return absent;
    return mpq_tensor_int(value, 0);
}

/* The rank stays; the length of a vector of known length is known for constant bounds. */
static struct mpq_shape sliced(const struct mpq_graph *graph, const struct mpq_node *node,
                               struct mpq_shape x)
{
    struct mpq_shape y = of_rank(x.rank, MPQ_DIM_UNKNOWN);
    int64_t start = constant_int(graph, node, 1, INT64_MIN);
    int64_t end = constant_int(graph, node, 2, INT64_MIN);
    if (x.rank != 1 || x.dim[0] < 0 || start == INT64_MIN || end == INT64_MIN ||
        constant_int(graph, node, 4, 1) != 1)
        return y;
    int64_t length = x.dim[0];
    start = CLAMP(start < 0 ? start + length : start, 0, length);
    end = CLAMP(end < 0 ? end + length : end, 0, length);
    y.dim[0] = MAX(end - start, 0);
    return y;
}

static struct mpq_shape pooled(struct mpq_shape x)
{
    struct mpq_shape y = of_rank(x.rank, 1);
    for (int i = 0; i < 2 && i < y.rank; i++)
        y.dim[i] = x.dim[i];
    return y;
}

/* The number of axes, which opset 13 has as an input or as an attribute; -1: not given. */
static int64_t n_axes(const struct mpq_trace *trace, const struct mpq_graph *graph,
                      const struct mpq_node *node)
{
    size_t n;
    if (mpq_attr_ints(&node->attr_set, "axes", &n))
        return (int64_t)n;
    return length_of(trace, graph, node, 1);
}

static struct mpq_shape reduced(const struct mpq_trace *trace, const struct mpq_graph *graph,
                                const struct mpq_node *node, int rank)
{
    int64_t n = n_axes(trace, graph, node);
    if (mpq_attr_int(&node->attr_set, "keepdims", 1))
        return of_rank(rank, MPQ_DIM_UNKNOWN);
    return of_rank(n < 0 ? -1 : rank - n, MPQ_DIM_UNKNOWN);
}

static struct mpq_shape output_shape(const struct mpq_trace *trace, const struct mpq_graph *graph,
                                     const struct mpq_node *node, enum effect effect)
{
    const struct mpq_shape unknown = of_rank(-1, 0);
    struct mpq_shape x = shape_of(trace, graph, node, 0), w = shape_of(trace, graph, node, 1);
    int64_t n;
    switch (effect) {
    case MATRIX:
        return of_rank(2, MPQ_DIM_UNKNOWN);
    case RESHAPE:
        return of_rank(length_of(trace, graph, node, 1), MPQ_DIM_UNKNOWN);
    case BROADCAST:
        return broadcast(trace, graph, node);
    case SHAPE: /* opset 15 can cut it */
        return of_rank(1, node->attr_set.n || x.rank < 0 ? MPQ_DIM_UNKNOWN : x.rank);
    default:
        break;
    }
    if (x.rank < 0) /* the others build on it */
        return unknown;
    switch (effect) {
    case SAME:
        return x;
    case KEEP_RANK:
        return of_rank(x.rank, MPQ_DIM_UNKNOWN);
    case POOL:
        return pooled(x);
    case MATMUL:
        return x.rank >= 2 && w.rank >= 2 ? of_rank(MAX(x.rank, w.rank), MPQ_DIM_UNKNOWN) : unknown;
    case EXPAND:
        n = length_of(trace, graph, node, 1);
        return n < 0 ? unknown : of_rank(MAX(x.rank, n), MPQ_DIM_UNKNOWN);
    case GATHER:
        return w.rank < 0 ? unknown : of_rank(x.rank + w.rank - 1, MPQ_DIM_UNKNOWN);
    case SLICE:
        return sliced(graph, node, x);
    case CONCAT:
        return concat(trace, graph, node);
    case SQUEEZE:
        n = n_axes(trace, graph, node);
        return n < 0 ? unknown : of_rank(x.rank - n, MPQ_DIM_UNKNOWN);
    case UNSQUEEZE:
        n = n_axes(trace, graph, node);
        return n < 0 ? unknown : of_rank(x.rank + n, x.rank == 0 ? 1 : MPQ_DIM_UNKNOWN);
    case REDUCE:
        return reduced(trace, graph, node, x.rank);
    default:
        return unknown;
    }
}

/* Operators in the table keep the element type of their data, with three exceptions. */
static enum mpq_dtype output_dtype(const struct mpq_trace *trace, const struct mpq_graph *graph,
                                   const struct mpq_node *node)
{
    if (strcmp(node->op_type, "Cast") == 0)
        return (enum mpq_dtype)mpq_attr_int(&node->attr_set, "to", MPQ_UNDEFINED);
    if (strcmp(node->op_type, "Shape") == 0)
        return MPQ_INT64;
    uint32_t data = strcmp(node->op_type, "Where") == 0 ? 1 : 0;
    return data < node->n_in ? mpq_trace_get(trace, graph, node->in[data]).dtype : MPQ_UNDEFINED;
}

static enum mpq_status make_room(struct mpq_ctx *ctx, struct mpq_trace *trace,
                                 const struct mpq_graph *graph)
{
    if (graph->n_value > trace->capacity) {
        uint32_t capacity = graph->n_value * 2;
        struct mpq_trace_entry *entry =
            mpq_arena_grow(ctx, graph->arena, trace->entry, trace->n, capacity, sizeof *entry);
        if (!entry)
            return MPQ_E_NOMEM;
        trace->entry = entry;
        trace->capacity = capacity;
    }
    for (; trace->n < graph->n_value; trace->n++)
        trace->entry[trace->n] = (struct mpq_trace_entry){of_rank(-1, 0), MPQ_UNDEFINED};
    return MPQ_OK;
}

enum mpq_status mpq_trace_node(struct mpq_ctx *ctx, struct mpq_trace *trace,
                               const struct mpq_graph *graph, const struct mpq_node *node)
{
    MPQ_TRY(make_room(ctx, trace, graph));
    for (size_t i = 0; i < MPQ_COUNT(table) && !*node->domain; i++) {
        if (strcmp(table[i].op_type, node->op_type) != 0)
            continue;
        const struct mpq_trace_entry entry = {output_shape(trace, graph, node, table[i].effect),
                                              output_dtype(trace, graph, node)};
        uint32_t n_out = table[i].effect == SAME ? 1 : node->n_out; /* masks, statistics */
        for (uint32_t k = 0; k < n_out && k < node->n_out; k++)
            if (node->out[k] != MPQ_NO_VALUE)
                trace->entry[node->out[k]] = entry;
        break;
    }
    return MPQ_OK;
}
