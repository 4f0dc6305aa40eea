#include "importer/trace.h"

#include <string.h>

/* Operators whose output has the rank of input 0. */
static const char *const keeps_rank[] = {
    "AveragePool", "BatchNormalization",
    "Cast",        "Clip",
    "Conv",        "ConvTranspose",
    "Dropout",     "Elu",
    "Exp",         "HardSigmoid",
    "Identity",    "InstanceNormalization",
    "LRN",         "LeakyRelu",
    "Log",         "LogSoftmax",
    "MaxPool",     "Neg",
    "PRelu",       "Pad",
    "Relu",        "Resize",
    "Sigmoid",     "Slice",
    "Softmax",     "Tanh",
    "Transpose",
};

static bool is_one_of(const char *op_type, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i], op_type) == 0)
            return true;
    return false;
}

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

/* Pooling over everything leaves [N, C, 1, ...]. */
static struct mpq_shape pooled(struct mpq_shape x)
{
    struct mpq_shape y = of_rank(x.rank, 1);
    for (int i = 0; i < 2 && i < y.rank; i++)
        y.dim[i] = x.dim[i];
    return y;
}

/* Each step goes one producer back, so it ends. */
struct mpq_shape mpq_trace_shape(const struct mpq_graph *graph, mpq_value_id value)
{
    bool is_pooled = false, is_changed = false;
    struct mpq_shape shape = of_rank(-1, 0);
    while (value != MPQ_NO_VALUE) {
        const struct mpq_value *v = &graph->value[value];
        shape = v->shape;
        if (shape.rank >= 0 || v->producer == MPQ_NO_NODE)
            break;
        const struct mpq_node *node = &graph->node[v->producer];
        if (strcmp(node->op_type, "Gemm") == 0 || strcmp(node->op_type, "Flatten") == 0) {
            shape = of_rank(2, MPQ_DIM_UNKNOWN);
            break;
        }
        if (strcmp(node->op_type, "Reshape") == 0 && node->n_in > 1 &&
            node->in[1] != MPQ_NO_VALUE && graph->value[node->in[1]].constant) {
            shape = of_rank(graph->value[node->in[1]].constant->shape.dim[0], MPQ_DIM_UNKNOWN);
            break;
        }
        if (strcmp(node->op_type, "GlobalAveragePool") == 0)
            is_pooled = true;
        else if (is_one_of(node->op_type, keeps_rank, MPQ_COUNT(keeps_rank)))
            is_changed = true;
        else
            break;
        value = node->n_in ? node->in[0] : MPQ_NO_VALUE;
    }
    if (is_changed)
        shape = of_rank(shape.rank, MPQ_DIM_UNKNOWN);
    return is_pooled && !is_changed ? pooled(shape) : shape;
}

/* Most operators give the element type of their first input; those that do not stop the walk. */
enum mpq_dtype mpq_trace_dtype(const struct mpq_graph *graph, mpq_value_id value)
{
    static const char *const own_type[] = {"Cast",    "Shape",          "Size",
                                           "Equal",   "Less",           "Greater",
                                           "ArgMax",  "ArgMin",         "ConstantOfShape",
                                           "NonZero", "QuantizeLinear", "DequantizeLinear",
                                           "Not",     "Where",          "DynamicQuantizeLinear",
                                           "IsNaN",   "OneHot"};
    while (value != MPQ_NO_VALUE) {
        const struct mpq_value *v = &graph->value[value];
        if (v->dtype != MPQ_UNDEFINED || v->producer == MPQ_NO_NODE)
            return v->dtype;
        const struct mpq_node *node = &graph->node[v->producer];
        if (strcmp(node->op_type, "Cast") == 0)
            return (enum mpq_dtype)mpq_attr_int(&node->attr_set, "to", MPQ_UNDEFINED);
        if (is_one_of(node->op_type, own_type, MPQ_COUNT(own_type)))
            return MPQ_UNDEFINED;
        value = node->n_in ? node->in[0] : MPQ_NO_VALUE;
    }
    return MPQ_UNDEFINED;
}
