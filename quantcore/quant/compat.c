#include "quantcore/quant/compat.h"

#include "quantcore/base/ctx.h"

int64_t mpq_compat_ir_version_of(int64_t opset)
{
    static const struct {
        int64_t opset, ir_version;
    } since[] = {{13, 7}, {15, 8}, {19, 9}, {21, 10}, {23, 11}, {24, 12}, {25, 13}, {28, 14}};
    int64_t version = since[0].ir_version;
    for (size_t i = 0; i < MPQ_COUNT(since); i++)
        if (opset >= since[i].opset)
            version = since[i].ir_version;
    return version;
}

int64_t mpq_compat_opset_of(enum mpq_dtype dtype)
{
    switch (mpq_dtype_bits(dtype)) {
    case 2:
        return 25;
    case 4:
    case 16:
        return 21;
    default:
        return 13;
    }
}

const struct mpq_ort_release *mpq_ort_release_at(size_t i)
{
    static const struct mpq_ort_release release[] = {
        {"1.7", 13, 7, 8, MPQ_NO_FUNCTIONS},      {"1.8", 14, 7, 8, MPQ_NO_FUNCTIONS},
        {"1.9", 15, 8, 8, MPQ_NO_FUNCTIONS},      {"1.11", 16, 8, 8, MPQ_FUNCTIONS_LATE},
        {"1.12", 17, 8, 8, MPQ_FUNCTIONS_LATE},   {"1.14", 18, 8, 8, MPQ_FUNCTIONS_LATE},
        {"1.15", 19, 9, 8, MPQ_FUNCTIONS_LATE},   {"1.17", 20, 9, 8, MPQ_FUNCTIONS_FIRST},
        {"1.18", 21, 10, 8, MPQ_FUNCTIONS_FIRST}, {"1.19", 21, 10, 4, MPQ_FUNCTIONS_FIRST},
        {"1.21", 22, 10, 4, MPQ_FUNCTIONS_FIRST}, {"1.23", 23, 11, 4, MPQ_FUNCTIONS_FIRST},
        {"1.24", 25, 13, 2, MPQ_FUNCTIONS_FIRST}, {"1.27", 26, 13, 2, MPQ_FUNCTIONS_FIRST},
    };
    return i < MPQ_COUNT(release) ? &release[i] : NULL;
}

const struct mpq_runtime *mpq_runtime_at(size_t i)
{
    static const struct mpq_runtime runtime[] = {
        {.name = "OpenVINO",
         .reader = MPQ_FOR_OPENVINO,
         .narrowest_weight = 4,
         .narrow_is_matmul_only = true},
        {.name = "TensorRT",
         .reader = MPQ_FOR_TENSORRT,
         .zero_point_is_zero = true,
         .activations_are_signed = true,
         .weights_are_symmetric = true,
         .has_native_only = true,
         .narrowest_weight = 4,
         .narrow_is_matmul_only = true,
         .has_blocks = true},
        {.name = "QNN",
         .reader = MPQ_FOR_QNN,
         .weights_are_symmetric = true,
         .narrowest_weight = 4,
         .has_int16 = true,
         .has_functions = true},
        {.name = "TVM", .reader = MPQ_FOR_TVM, .narrowest_weight = 4},
    };
    return i < MPQ_COUNT(runtime) ? &runtime[i] : NULL;
}

const struct mpq_lint_rule *mpq_lint_rule_at(enum mpq_lint_rule_id id)
{
    static const struct mpq_lint_rule rule[] = {
#define MPQ_RULE(symbol, ...) {__VA_ARGS__},
#include "quantcore/quant/lint_rules.inc"
#undef MPQ_RULE
    };
    return &rule[id];
}

const char *mpq_severity_name(enum mpq_severity severity)
{
    static const char *const name[] = {"note", "warning", "error"};
    return name[severity];
}
