/* Small graphs by hand, and their values without the engine. */
#ifndef MPQ_TESTS_UNIT_NET_H
#define MPQ_TESTS_UNIT_NET_H

#include "quantcore/pass/pass.h"
#include "tests/check.h"

struct net {
    struct mpq_ctx ctx;
    struct mpq_arena *arena;
    struct mpq_graph *graph;
};

#define NET_INT(key, value) ((struct mpq_attr){.name = (key), .kind = MPQ_ATTR_INT, .i = (value)})
#define NET_FLOAT(key, value)                                                                      \
    ((struct mpq_attr){.name = (key), .kind = MPQ_ATTR_FLOAT, .f = (value)})
#define NET_STRING(key, value)                                                                     \
    ((struct mpq_attr){                                                                            \
        .name = (key), .kind = MPQ_ATTR_STRING, .n = sizeof(value) - 1, .s = (value)})
#define NET_INTS(key, ...)                                                                         \
    ((struct mpq_attr){.name = (key),                                                              \
                       .kind = MPQ_ATTR_INTS,                                                      \
                       .n = sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t),                    \
                       .ints = (int64_t[]){__VA_ARGS__}})
#define NET_ATTRS(...)                                                                             \
    sizeof((struct mpq_attr[]){__VA_ARGS__}) / sizeof(struct mpq_attr), (struct mpq_attr[])        \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }
#define NET_NO_ATTRS 0, NULL
#define NET_IN(...)                                                                                \
    sizeof((mpq_value_id[]){__VA_ARGS__}) / sizeof(mpq_value_id), (mpq_value_id[])                 \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

int net_setup(void **state); /* *state: a struct net with an empty graph */
int net_teardown(void **state);

mpq_value_id net_input(struct net *net, const char *name, struct mpq_shape shape);
/* Normal numbers, a function of the name; as |x| + 0.5 where `positive`. */
mpq_value_id net_random(struct net *net, const char *name, struct mpq_shape shape, bool positive);
mpq_value_id net_scalar(struct net *net, const char *name, double value);
mpq_value_id net_ints(struct net *net, const char *name, int64_t n, const int64_t *values);
/* A node of that operator, named after its output; attributes need live to the end of the test. */
mpq_value_id net_node(struct net *net, const char *op_type, const char *out, size_t n_attr,
                      const struct mpq_attr *attrs, size_t n_in, const mpq_value_id *in);
void net_output(struct net *net, mpq_value_id v);

struct mpq_graph *net_simplify(struct net *net);
size_t net_count(const struct mpq_graph *graph, const char *op_type); /* nodes of that operator */

/* Both graphs give the same outputs for random inputs at batch 2. */
void net_check_same(struct net *net, const struct mpq_graph *a, const struct mpq_graph *b,
                    double tolerance);

#endif
