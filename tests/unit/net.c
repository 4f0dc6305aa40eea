#include "tests/unit/net.h"

#include <stdlib.h>
#include <string.h>

#include "quantcore/base/rng.h"

int net_setup(void **state)
{
    struct net *net = calloc(1, sizeof *net);
    assert_non_null(net);
    mpq_ctx_init(&net->ctx);
    net->arena = mpq_arena_create(&net->ctx);
    assert_non_null(net->arena);
    CHECK_OK(&net->ctx, mpq_graph_create(&net->ctx, net->arena, "net", 13, &net->graph));
    *state = net;
    return 0;
}

int net_teardown(void **state)
{
    struct net *net = *state;
    mpq_arena_free(net->arena);
    free(net);
    return 0;
}

static mpq_value_id *append(struct net *net, const mpq_value_id *list, uint32_t n, mpq_value_id v)
{
    mpq_value_id *grown = mpq_arena_grow(&net->ctx, net->arena, list, n, n + 1, sizeof *grown);
    assert_non_null(grown);
    grown[n] = v;
    return grown;
}

mpq_value_id net_input(struct net *net, const char *name, struct mpq_shape shape)
{
    struct mpq_graph *graph = net->graph;
    mpq_value_id v;
    CHECK_OK(&net->ctx, mpq_graph_add_value(&net->ctx, graph, name, &v));
    graph->value[v].dtype = MPQ_FLOAT;
    graph->value[v].shape = shape;
    graph->input = append(net, graph->input, graph->n_input, v);
    graph->n_input++;
    return v;
}

static struct mpq_tensor random_tensor(struct net *net, const char *name, struct mpq_shape shape,
                                       bool positive)
{
    struct mpq_tensor tensor;
    uint64_t step = 0;
    for (const char *c = name; *c; c++)
        step = step * 31 + (unsigned char)*c;
    CHECK_OK(&net->ctx, mpq_tensor_alloc(&net->ctx, net->arena, MPQ_FLOAT, &shape, &tensor));
    for (int64_t i = 0; i < mpq_shape_count(&shape); i++) {
        double x = mpq_rng_normal(1, MPQ_STREAM_TEST, step, (uint32_t)i);
        mpq_tensor_set_double(&tensor, i, positive ? fabs(x) + 0.5 : x);
    }
    return tensor;
}

static mpq_value_id add_constant(struct net *net, const char *name, struct mpq_tensor tensor)
{
    mpq_value_id v;
    CHECK_OK(&net->ctx, mpq_graph_add_constant(&net->ctx, net->graph, name, &tensor, &v));
    return v;
}

mpq_value_id net_random(struct net *net, const char *name, struct mpq_shape shape, bool positive)
{
    return add_constant(net, name, random_tensor(net, name, shape, positive));
}

mpq_value_id net_scalar(struct net *net, const char *name, double value)
{
    struct mpq_tensor tensor = random_tensor(net, name, (struct mpq_shape){.rank = 0}, false);
    mpq_tensor_set_double(&tensor, 0, value);
    return add_constant(net, name, tensor);
}

mpq_value_id net_ints(struct net *net, const char *name, int64_t n, const int64_t *values)
{
    struct mpq_tensor tensor;
    CHECK_OK(&net->ctx, mpq_tensor_alloc(&net->ctx, net->arena, MPQ_INT64, &MPQ_SHAPE(n), &tensor));
    memcpy(tensor.data, values, (size_t)n * sizeof *values);
    return add_constant(net, name, tensor);
}

mpq_value_id net_node(struct net *net, const char *op_type, const char *out, size_t n_attr,
                      const struct mpq_attr *attrs, size_t n_in, const mpq_value_id *in)
{
    mpq_value_id v;
    CHECK_OK(&net->ctx, mpq_graph_add_value(&net->ctx, net->graph, out, &v));
    net->graph->value[v].dtype = MPQ_FLOAT;
    struct mpq_attr *copy = mpq_arena_copy(&net->ctx, net->arena, attrs, n_attr * sizeof *attrs);
    for (size_t i = 0; i < n_attr; i++)
        if (copy[i].kind == MPQ_ATTR_INTS)
            copy[i].ints = mpq_arena_copy(&net->ctx, net->arena, copy[i].ints,
                                          copy[i].n * sizeof *copy[i].ints);
    struct mpq_node node = {.name = net->graph->value[v].name,
                            .op_type = op_type,
                            .domain = "",
                            .attr_set = {n_attr, copy},
                            .n_in = (uint32_t)n_in,
                            .n_out = 1,
                            .in = in,
                            .out = &v,
                            .source = net->graph->n_node};
    CHECK_OK(&net->ctx, mpq_op_resolve(&net->ctx, net->arena, &node));
    CHECK_OK(&net->ctx, mpq_graph_add_node(&net->ctx, net->graph, &node, NULL));
    return v;
}

void net_output(struct net *net, mpq_value_id v)
{
    net->graph->output = append(net, net->graph->output, net->graph->n_output, v);
    net->graph->n_output++;
}

struct mpq_graph *net_simplify(struct net *net)
{
    struct mpq_graph *graph = NULL;
    CHECK_OK(&net->ctx, mpq_graph_check(&net->ctx, net->graph));
    CHECK_OK(&net->ctx, mpq_simplify(&net->ctx, net->arena, net->graph, &graph));
    return graph;
}

size_t net_count(const struct mpq_graph *graph, const char *op_type)
{
    size_t n = 0;
    for (uint32_t i = 0; i < graph->n_node; i++)
        n += strcmp(graph->node[i].op_type, op_type) == 0;
    return n;
}

/* With its inputs made constant, a graph is evaluated by binding it. */
static struct mpq_binding evaluate(struct net *net, const struct mpq_graph *graph)
{
    struct mpq_graph *copy;
    struct mpq_binding binding;
    CHECK_OK(&net->ctx, mpq_graph_clone(&net->ctx, net->arena, graph, false, &copy));
    for (uint32_t i = 0; i < graph->n_input; i++) {
        struct mpq_value *value = &copy->value[graph->input[i]];
        struct mpq_shape shape = value->shape;
        if (shape.dim[0] < 0)
            shape.dim[0] = 2;
        struct mpq_tensor *tensor = mpq_arena_alloc(&net->ctx, net->arena, 1, sizeof *tensor);
        *tensor = random_tensor(net, value->name, shape, false);
        value->constant = tensor;
    }
    copy->n_input = 0;
    CHECK_OK(&net->ctx, mpq_bind(&net->ctx, net->arena, copy, NULL, &binding));
    return binding;
}

void net_check_same(struct net *net, const struct mpq_graph *a, const struct mpq_graph *b,
                    double tolerance)
{
    struct mpq_binding x = evaluate(net, a), y = evaluate(net, b);
    assert_int_equal(a->n_output, b->n_output);
    for (uint32_t o = 0; o < a->n_output; o++) {
        const struct mpq_tensor *want = &x.tensor[a->output[o]], *got = &y.tensor[b->output[o]];
        assert_non_null(want->data);
        assert_non_null(got->data);
        assert_true(mpq_shape_equal(&want->shape, &got->shape));
        for (int64_t i = 0; i < mpq_shape_count(&want->shape); i++)
            CHECK_NEAR(mpq_tensor_double(got, i), mpq_tensor_double(want, i), tolerance, tolerance);
    }
}
