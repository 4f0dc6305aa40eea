#include "tests/grad/grad.h"

static const struct grad_case cases[] = {
    {"Relu", .in = {REALS(1, 2, 3)}},
};

const struct grad_table grad_cases_reduce = GRAD_TABLE(cases);
