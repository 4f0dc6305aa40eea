#include "exporter/unsaid.h"

#include <string.h>

/* Integers, all of which are this where nothing is said: onnx/docs/Operators.md. */
static const struct {
    const char *attr;
    int64_t value;
    const char *op_type[5];
} unsaid[] = {
    {"dilations", 1, {"Conv", "ConvTranspose", "MaxPool", "AveragePool"}},
    {"strides", 1, {"Conv", "ConvTranspose", "MaxPool", "AveragePool"}},
    {"pads", 0, {"Conv", "ConvTranspose", "MaxPool", "AveragePool"}},
    {"output_padding", 0, {"ConvTranspose"}},
    {"group", 1, {"Conv", "ConvTranspose"}},
    {"ceil_mode", 0, {"MaxPool", "AveragePool"}},
    {"count_include_pad", 0, {"AveragePool"}},
    {"storage_order", 0, {"MaxPool"}},
    {"transA", 0, {"Gemm"}},
    {"transB", 0, {"Gemm"}},
    {"axis", 0, {"Gather"}},
    {"axis", 1, {"Flatten"}},
    {"allowzero", 0, {"Reshape"}},
    {"keepdims", 1, {"ReduceMean", "ReduceSum", "ReduceMax"}},
    {"training_mode", 0, {"BatchNormalization"}},
};

static bool is_among(const char *const *op_type, const char *name)
{
    for (size_t i = 0; i < MPQ_COUNT(unsaid->op_type) && op_type[i]; i++)
        if (strcmp(op_type[i], name) == 0)
            return true;
    return false;
}

static bool are_all(const struct mpq_attr *attr, int64_t value)
{
    if (attr->kind == MPQ_ATTR_INT)
        return attr->i == value;
    for (size_t i = 0; attr->kind == MPQ_ATTR_INTS && i < attr->n; i++)
        if (attr->ints[i] != value)
            return false;
    return attr->kind == MPQ_ATTR_INTS;
}

bool mpq_attr_goes_unsaid(const struct mpq_node *node, const struct mpq_attr *attr)
{
    if (*node->domain)
        return false;
    if ((strcmp(attr->name, "alpha") == 0 || strcmp(attr->name, "beta") == 0) &&
        strcmp(node->op_type, "Gemm") == 0)
        return attr->kind == MPQ_ATTR_FLOAT && attr->f == 1.0f;
    for (size_t i = 0; i < MPQ_COUNT(unsaid); i++)
        if (strcmp(unsaid[i].attr, attr->name) == 0 && is_among(unsaid[i].op_type, node->op_type))
            return are_all(attr, unsaid[i].value);
    return false;
}
