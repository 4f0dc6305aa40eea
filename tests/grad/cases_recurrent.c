#include "tests/grad/grad.h"

/* Steps 3, rows 2, inputs 3, hidden 2; gates are 4, 3, 1. */
#define X REALS(-1, 1, 3, 2, 3)
#define LENGTHS INT_LIST(2, 3)

static const struct grad_case cases[] = {
    {"LSTM", .attr = {INT("hidden_size", 2)},
     .in = {X, REALS(-1, 1, 1, 8, 3), REALS(-1, 1, 1, 8, 2)}},
    {"LSTM", .attr = {STRING("direction", "bidirectional")}, .n_out = 3,
     .in = {X, REALS(-1, 1, 2, 8, 3), REALS(-1, 1, 2, 8, 2), REALS(-1, 1, 2, 16), LENGTHS,
            REALS(-1, 1, 2, 2, 2), REALS(-1, 1, 2, 2, 2), REALS(-1, 1, 2, 6)}},
    {"LSTM", .attr = {INT("layout", 1), STRING("direction", "reverse"),
                      STRINGS("activations", "HardSigmoid", "Softsign", "Affine"),
                      FLOATS("activation_alpha", 0.1f, 0.7f), FLOATS("activation_beta", 0.4f, 0.2f)},
     .n_out = 3,
     .in = {REALS(-1, 1, 2, 3, 3), REALS(-1, 1, 1, 8, 3), REALS(-1, 1, 1, 8, 2), ABSENT, LENGTHS,
            REALS(-1, 1, 2, 1, 2)}},
    {"LSTM", .attr = {FLOAT("clip", 0.3f)}, .n_out = 3,
     .in = {X, REALS(-1, 1, 1, 8, 3), REALS(-1, 1, 1, 8, 2), REALS(-0.2, 0.2, 1, 16)}},
    {"GRU", .n_out = 2,
     .in = {X, REALS(-1, 1, 1, 6, 3), REALS(-1, 1, 1, 6, 2), REALS(-1, 1, 1, 12)}},
    {"GRU", .attr = {INT("linear_before_reset", 1)}, .n_out = 2,
     .in = {X, REALS(-1, 1, 1, 6, 3), REALS(-1, 1, 1, 6, 2), REALS(-1, 1, 1, 12), ABSENT,
            REALS(-1, 1, 1, 2, 2)}},
    {"GRU", .attr = {INT("linear_before_reset", 1), STRING("direction", "reverse")}, .n_out = 2,
     .in = {X, REALS(-1, 1, 1, 6, 3), REALS(-1, 1, 1, 6, 2), ABSENT, LENGTHS}},
    {"GRU", .attr = {STRING("direction", "bidirectional"), INT("layout", 1),
                     STRINGS("activations", "Sigmoid", "Softplus", "Sigmoid", "ScaledTanh"),
                     FLOATS("activation_alpha", 1.5f), FLOATS("activation_beta", 0.5f)},
     .n_out = 2,
     .in = {REALS(-1, 1, 2, 3, 3), REALS(-1, 1, 2, 6, 3), REALS(-1, 1, 2, 6, 2),
            REALS(-1, 1, 2, 12), LENGTHS, REALS(-1, 1, 2, 2, 2)}},
    {"RNN", .n_out = 2,
     .in = {X, REALS(-1, 1, 1, 2, 3), REALS(-1, 1, 1, 2, 2), REALS(-1, 1, 1, 4), ABSENT,
            REALS(-1, 1, 1, 2, 2)}},
    {"RNN", .attr = {STRING("direction", "bidirectional"),
                     STRINGS("activations", "LeakyRelu", "Elu")},
     .in = {X, REALS(-1, 1, 2, 2, 3), REALS(-1, 1, 2, 2, 2), REALS(-1, 1, 2, 4), LENGTHS}},
};

const struct grad_table grad_cases_recurrent = GRAD_TABLE(cases);
