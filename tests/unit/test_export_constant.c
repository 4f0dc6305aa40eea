/* Constants that no layer replaces: what they take in the file, and that they come back. */
#include <string.h>

#include "tests/unit/export_case.h"

enum { N = 40 };

static mpq_value_id halves(struct net *net, const char *name, struct mpq_shape shape)
{
    mpq_value_id v = net_random(net, name, shape, false);
    struct mpq_tensor tensor = *net->graph->value[v].constant;
    for (int64_t i = 0; i < mpq_shape_count(&tensor.shape); i++) {
        float x = (float)mpq_tensor_double(&tensor, i);
        mpq_tensor_set_double(&tensor, i, (double)mpq_half_to_float(mpq_float_to_half(x)));
    }
    return v;
}

/* x [?, 2, N] times w, then + c0 + c1 + ... */
static void build_sums(struct net *net, const mpq_value_id *constant, size_t n)
{
    static const char *const name[] = {"s0", "s1", "s2", "s3", "s4", "s5"};
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 2, N));
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(N, N), false);
    mpq_value_id at = net_node(net, "MatMul", "m", NET_NO_ATTRS, NET_IN(x, w));
    for (size_t i = 0; i < n; i++)
        at = net_node(net, "Add", name[i], NET_NO_ATTRS, NET_IN(at, constant[i]));
    net_output(net, at);
}

static size_t count_dtype(const struct mpq_graph *graph, enum mpq_dtype file_dtype)
{
    size_t n = 0;
    for (mpq_value_id v = 0; v < graph->n_value; v++)
        n += graph->value[v].constant && graph->value[v].file_dtype == file_dtype;
    return n;
}

static void check_constants(struct export_case *c, const struct mpq_graph *graph,
                            const mpq_value_id *constant, size_t n)
{
    char node[] = "s0";
    for (size_t i = 0; i < n; i++, node[1]++) {
        const struct mpq_tensor *before = c->graph->value[constant[i]].constant;
        const struct mpq_tensor *after = export_constant_input(c, graph, node, 1);
        assert_true(mpq_shape_equal(&before->shape, &after->shape));
        assert_memory_equal(before->data, after->data, mpq_tensor_bytes(before));
    }
}

/* Vectors lie in one tensor and rows in another; what has two long dimensions lies alone, and what
 * is small, or needs its 24 bits, stays as it is. Names stay with what they named. */
static void test_packs(void **state)
{
    struct net *net = *state;
    struct export_case c;
    const mpq_value_id constant[] = {
        halves(net, "a", MPQ_SHAPE(N)),    halves(net, "b", MPQ_SHAPE(2, N)),
        halves(net, "c", MPQ_SHAPE(1, N)), net_random(net, "d", MPQ_SHAPE(N), false),
        halves(net, "e", MPQ_SHAPE(2, 1)), halves(net, "f", MPQ_SHAPE(N)),
    };
    build_sums(net, constant, MPQ_COUNT(constant));
    export_case_init(&c, net);
    export_stay_float(&c);
    export_code_layers(&c, 8);
    struct mpq_graph *graph = export_round_trip(&c);
    check_constants(&c, graph, constant, MPQ_COUNT(constant));
    assert_int_equal(count_dtype(graph, MPQ_FLOAT16), 3); /* a and f, b, c */
    assert_int_equal(net_count(graph, "Split"), 2);       /* and scales of the layer */
    static const char *const is_computed = "abcf";
    for (char name[] = "a"; *name <= 'f'; (*name)++) {
        mpq_value_id v = mpq_graph_find(graph, name);
        assert_true(v != MPQ_NO_VALUE);
        assert_true((graph->value[v].constant == NULL) == (strchr(is_computed, *name) != NULL));
    }
    c.plan.names = MPQ_NAMES_NODES;
    check_constants(&c, export_round_trip(&c), constant, MPQ_COUNT(constant));
    c.plan.target = mpq_target_find("int8"); /* nothing is computed at load */
    c.plan.names = MPQ_NAMES_ALL;
    graph = export_round_trip(&c);
    check_constants(&c, graph, constant, MPQ_COUNT(constant));
    assert_int_equal(net_count(graph, "Split") + net_count(graph, "Cast"), 0);
}

/* Vectors [1, n, 1] are cut along the dimension that differs. */
static void test_pack_along_an_axis(void **state)
{
    struct net *net = *state;
    struct export_case c;
    const mpq_value_id constant[] = {
        halves(net, "a", MPQ_SHAPE(20, 1, 1)), halves(net, "b", MPQ_SHAPE(1, 1, N)),
        halves(net, "c", MPQ_SHAPE(20, 1, 1)), halves(net, "d", MPQ_SHAPE(1, 1, N))};
    build_sums(net, constant, MPQ_COUNT(constant));
    export_case_init(&c, net);
    export_stay_float(&c);
    export_code_layers(&c, 8);
    struct mpq_graph *graph = export_round_trip(&c);
    check_constants(&c, graph, constant, MPQ_COUNT(constant));
    assert_int_equal(count_dtype(graph, MPQ_FLOAT16), 2);
    assert_int_equal(net_count(graph, "Split"), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_packs, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_pack_along_an_axis, net_setup, net_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
