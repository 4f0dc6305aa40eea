#include "tests/grad/grad.h"

static const struct grad_case cases[] = {
    {"Softmax", .in = {REALS(-2, 2, 3, 7)}},
    {"Softmax", .attr = {INT("axis", 1)}, .in = {REALS(-2, 2, 2, 5, 3)}},
    {"LogSoftmax", .in = {REALS(-2, 2, 3, 7)}},
    {"LogSoftmax", .attr = {INT("axis", 0)}, .in = {REALS(-2, 2, 4, 3)}},
    {"ReduceSum", .in = {REALS(-1, 1, 2, 3, 4), INT_LIST(1)}},
    {"ReduceMean", .attr = {INTS("axes", 0, -1), INT("keepdims", 0)},
     .in = {REALS(-1, 1, 2, 3, 4)}},
    {"ReduceMean", .in = {REALS(-1, 1, 2, 3, 20), INT_LIST(-1)}},
    {"ReduceMax", .in = {REALS(-1, 1, 2, 3, 4), INT_LIST(0, 1)}},
    {"ReduceMin", .in = {REALS(-1, 1, 2, 3, 4), INT_LIST(-1)}},
    {"ReduceProd", .in = {REALS(0.5, 2, 2, 3, 2)}},
    {"ReduceProd", .in = {REALS(-1.7, 2, 2, 3), INT_LIST(1)}},
    {"ReduceL1", .in = {REALS(-1, 1, 2, 3, 4), INT_LIST(2)}, .kink = {0}, .n_kink = 1},
    {"ReduceL2", .in = {REALS(-1, 1, 2, 3, 4), INT_LIST(1, 2)}},
    {"ReduceSumSquare", .in = {REALS(-1, 1, 2, 3, 4), INT_LIST(0)}},
    {"ReduceLogSum", .in = {REALS(0.5, 2, 2, 3, 4), INT_LIST(1)}},
    {"ReduceLogSumExp", .in = {REALS(-3, 3, 2, 3, 4), INT_LIST(1)}},
    {"BatchNormalization", .attr = {FLOAT("epsilon", 1e-3f)},
     .in = {REALS(-2, 2, 2, 3, 4), REALS(0.5, 2, 3), REALS(-1, 1, 3), REALS(-1, 1, 3),
            REALS(0.5, 2, 3)}},
};

const struct grad_table grad_cases_reduce = GRAD_TABLE(cases);
