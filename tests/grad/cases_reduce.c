#include "tests/grad/grad.h"

static const struct grad_case cases[] = {
    {"Softmax", .in = {REALS(-2, 2, 3, 7)}},
    {"Softmax", .attr = {INT("axis", 1)}, .in = {REALS(-2, 2, 2, 5, 3)}},
    {"LogSoftmax", .in = {REALS(-2, 2, 3, 7)}},
    {"LogSoftmax", .attr = {INT("axis", 0)}, .in = {REALS(-2, 2, 4, 3)}},
    {"BatchNormalization", .attr = {FLOAT("epsilon", 1e-3f)},
     .in = {REALS(-2, 2, 2, 3, 4), REALS(0.5, 2, 3), REALS(-1, 1, 3), REALS(-1, 1, 3),
            REALS(0.5, 2, 3)}},
};

const struct grad_table grad_cases_reduce = GRAD_TABLE(cases);
