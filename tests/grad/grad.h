/* Gradient checks: every row that has a backward is compared with central differences of its
 * forward, in double. A case is an operator, its attributes and its inputs; to add some, append to
 * a table in cases_*.c. A row with a backward and without a case fails the test. */
#ifndef MPQ_TESTS_GRAD_H
#define MPQ_TESTS_GRAD_H

#include "quantcore/ops/op.h"

#define GRAD_MAX_ATTR  8
#define GRAD_MAX_INPUT 8

/* A FLOAT input with values in (low, high), all different and not within 1e-2 of a kink; or, where
 * `ints` is set, a constant INT64 or BOOL input. */
struct grad_input {
    bool present, absent; /* neither: no more inputs. absent: an optional one that is left out */
    bool fixed;           /* no gradient is asked for, kinks do not matter                     */
    bool is_bool;
    double low, high;
    struct mpq_shape shape;
    const int64_t *ints;
};

struct grad_case {
    const char *op, *domain; /* domain NULL: "" */
    struct mpq_attr attr[GRAD_MAX_ATTR];
    struct grad_input in[GRAD_MAX_INPUT];
    double kink[4]; /* points that inputs stay away from; n_kink of them */
    int n_kink;
    int n_out;         /* 0: one  */
    const void *attrs; /* node->attrs of operators without parse */
};

struct grad_table {
    size_t n;
    const struct grad_case *cases;
};

#define GRAD_TABLE(array)                                                                          \
    {                                                                                              \
        MPQ_COUNT(array), array                                                                    \
    }

/* Inputs; the dots are the shape, or the integers of a list. */
/* clang-format off */
#define GRAD_SHAPE(...) {(int)MPQ_COUNT(((int64_t[]){__VA_ARGS__})), {__VA_ARGS__}}
#define REALS(low_, high_, ...) \
    {.present = true, .low = low_, .high = high_, .shape = GRAD_SHAPE(__VA_ARGS__)}
#define FIXED(low_, high_, ...) \
    {.present = true, .fixed = true, .low = low_, .high = high_, .shape = GRAD_SHAPE(__VA_ARGS__)}
#define SCALAR(low_, high_) {.present = true, .low = low_, .high = high_}
#define ABSENT {.present = true, .absent = true}
#define LIST(is_bool_, ...) \
    {.present = true, .fixed = true, .is_bool = is_bool_, \
     .shape = GRAD_SHAPE(MPQ_COUNT(((int64_t[]){__VA_ARGS__}))), .ints = (int64_t[]){__VA_ARGS__}}
#define INT_LIST(...) LIST(false, __VA_ARGS__)
#define BOOLS(...) LIST(true, __VA_ARGS__)
#define INT_MATRIX(m, n, ...) \
    {.present = true, .fixed = true, .shape = GRAD_SHAPE(m, n), .ints = (int64_t[]){__VA_ARGS__}}
#define INT_TENSOR(n, shape_, ...) \
    {.present = true, .fixed = true, .shape = shape_, .ints = (int64_t[n]){__VA_ARGS__}}
#define INT_SCALAR(value) {.present = true, .fixed = true, .ints = (int64_t[]){value}}

/* Attributes. */
#define INT(key, value) {.name = key, .kind = MPQ_ATTR_INT, .i = value}
#define FLOAT(key, value) {.name = key, .kind = MPQ_ATTR_FLOAT, .f = value}
#define STRING(key, value) \
    {.name = key, .kind = MPQ_ATTR_STRING, .n = sizeof(value) - 1, .s = value}
#define FLOATS(key, ...) \
    {.name = key, .kind = MPQ_ATTR_FLOATS, .n = MPQ_COUNT(((float[]){__VA_ARGS__})), \
     .floats = (float[]){__VA_ARGS__}}
#define STRINGS(key, ...) \
    {.name = key, .kind = MPQ_ATTR_STRINGS, .n = MPQ_COUNT(((const char *[]){__VA_ARGS__})), \
     .strings = (const char *[]){__VA_ARGS__}}
#define INTS(key, ...) \
    {.name = key, .kind = MPQ_ATTR_INTS, .n = MPQ_COUNT(((int64_t[]){__VA_ARGS__})), \
     .ints = (int64_t[]){__VA_ARGS__}}
/* clang-format on */

extern const struct grad_table grad_cases_conv, grad_cases_elementwise, grad_cases_shape,
    grad_cases_reduce, grad_cases_recurrent;

/* "" where the gradients of all inputs agree, else a sentence. `row` is the operator's row, or a
 * broken copy of it. `worst` gets the largest error found, relative to its bound. */
const char *grad_check(const struct grad_case *grad_case, const struct mpq_op *row, double *worst);

#endif
