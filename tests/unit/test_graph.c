/* Graphs and the attributes of their nodes. */
#include <stdlib.h>
#include <string.h>

#include "quantcore/ir/graph.h"
#include "tests/unit/fixture.h"

static mpq_value_id add_value(struct mpq_graph *graph, const char *name)
{
    mpq_value_id id;
    CHECK_OK(&ctx, mpq_graph_add_value(&ctx, graph, name, &id));
    return id;
}

static struct mpq_node node_of(const char *name, const char *op_type, uint32_t n_in,
                               const mpq_value_id *in, const mpq_value_id *out)
{
    return (struct mpq_node){.name = name,
                             .op_type = op_type,
                             .domain = "",
                             .n_in = n_in,
                             .n_out = 1,
                             .in = in,
                             .out = out,
                             .source = MPQ_NO_NODE};
}

/* x -> Conv(w) -> c -> Relu -> r -> Add(c) -> y, with an absent third input at the Conv. */
struct net {
    struct mpq_graph *graph;
    mpq_value_id x, w, c, r, y;
};

static struct net make_net(void)
{
    struct net net;
    CHECK_OK(&ctx, mpq_graph_create(&ctx, arena, "net", 17, &net.graph));
    net.x = add_value(net.graph, "x");
    struct mpq_tensor w;
    CHECK_OK(&ctx, mpq_tensor_alloc(&ctx, arena, MPQ_FLOAT, &MPQ_SHAPE(4, 3), &w));
    CHECK_OK(&ctx, mpq_graph_add_constant(&ctx, net.graph, "w", &w, &net.w));
    net.c = add_value(net.graph, "c");
    net.r = add_value(net.graph, "r");
    net.y = add_value(net.graph, "y");
    const struct mpq_node node[] = {
        node_of("conv", "Conv", 3, (mpq_value_id[]){net.x, net.w, MPQ_NO_VALUE}, &net.c),
        node_of("relu", "Relu", 1, &net.c, &net.r),
        node_of("add", "Add", 2, (mpq_value_id[]){net.r, net.c}, &net.y),
    };
    for (mpq_node_id n = 0; n < MPQ_COUNT(node); n++) {
        mpq_node_id id;
        CHECK_OK(&ctx, mpq_graph_add_node(&ctx, net.graph, &node[n], &id));
        assert_int_equal(id, n);
    }
    net.graph->input = mpq_arena_copy(&ctx, arena, &net.x, sizeof net.x);
    net.graph->output = mpq_arena_copy(&ctx, arena, &net.y, sizeof net.y);
    net.graph->n_input = net.graph->n_output = 1;
    return net;
}

static void a_sound_graph_passes(void **state)
{
    (void)state;
    struct net net = make_net();
    CHECK_OK(&ctx, mpq_graph_check(&ctx, net.graph));
    assert_string_equal(net.graph->name, "net");
    assert_int_equal(net.graph->opset, 17);
    assert_int_equal(mpq_graph_find(net.graph, "r"), net.r);
    assert_int_equal(mpq_graph_find(net.graph, "conv"), MPQ_NO_VALUE); /* a node's name */
    assert_int_equal(net.graph->value[net.r].producer, 1);
    assert_int_equal(net.graph->value[net.x].producer, MPQ_NO_NODE);
    assert_int_equal(net.graph->value[net.w].dtype, MPQ_FLOAT);
    assert_int_equal(net.graph->value[net.x].shape.rank, MPQ_RANK_UNKNOWN);
}

static void names_are_given_once(void **state)
{
    (void)state;
    struct net net = make_net();
    mpq_value_id id = 77;
    CHECK_FAILS(&ctx, mpq_graph_add_value(&ctx, net.graph, "r", &id), MPQ_E_FORMAT, "'r'");
    assert_int_equal(id, 77);
    CHECK_OK(&ctx, mpq_graph_add_unique(&ctx, net.graph, "r", &id));
    assert_string_equal(net.graph->value[id].name, "r_1");
    CHECK_OK(&ctx, mpq_graph_add_unique(&ctx, net.graph, "r", &id));
    assert_string_equal(net.graph->value[id].name, "r_2");
    CHECK_OK(&ctx, mpq_graph_add_unique(&ctx, net.graph, "fresh", &id));
    assert_string_equal(net.graph->value[id].name, "fresh");
}

static void many_values_and_nodes_fit(void **state)
{
    (void)state;
    struct mpq_graph *graph;
    CHECK_OK(&ctx, mpq_graph_create(&ctx, arena, "chain", 13, &graph));
    mpq_value_id last = add_value(graph, "in");
    graph->input = mpq_arena_copy(&ctx, arena, &last, sizeof last);
    graph->n_input = 1;
    for (unsigned i = 0; i < 1000; i++) {
        mpq_value_id next = add_value(graph, mpq_arena_printf(&ctx, arena, "v%u", i));
        struct mpq_node node = node_of("", "Relu", 1, &last, &next);
        CHECK_OK(&ctx, mpq_graph_add_node(&ctx, graph, &node, NULL));
        last = next;
    }
    CHECK_OK(&ctx, mpq_graph_check(&ctx, graph));
    assert_int_equal(mpq_graph_find(graph, "v500"), 501);
    assert_int_equal(graph->node[500].in[0], 500);
}

static void a_value_has_one_producer(void **state)
{
    (void)state;
    struct net net = make_net();
    struct mpq_node again = node_of("again", "Relu", 1, &net.x, &net.r);
    CHECK_FAILS(&ctx, mpq_graph_add_node(&ctx, net.graph, &again, NULL), MPQ_E_FORMAT,
                "node 'again' (Relu): computes 'r'");
    assert_int_equal(net.graph->n_node, 3);

    struct mpq_node over_constant = node_of("over", "Relu", 1, &net.x, &net.w);
    CHECK_OK(&ctx, mpq_graph_add_node(&ctx, net.graph, &over_constant, NULL));
    CHECK_FAILS(&ctx, mpq_graph_check(&ctx, net.graph), MPQ_E_FORMAT, "'w', which exists");
}

static void values_come_before_their_readers(void **state)
{
    (void)state;
    struct net net = make_net();
    mpq_value_id a = add_value(net.graph, "a"), b = add_value(net.graph, "b");
    struct mpq_node early = node_of("early", "Relu", 1, &b, &a);
    struct mpq_node late = node_of("late", "Relu", 1, &net.x, &b);
    CHECK_OK(&ctx, mpq_graph_add_node(&ctx, net.graph, &early, NULL));
    CHECK_OK(&ctx, mpq_graph_add_node(&ctx, net.graph, &late, NULL));
    CHECK_FAILS(&ctx, mpq_graph_check(&ctx, net.graph), MPQ_E_FORMAT,
                "node 'early' (Relu): reads 'b'");
}

static void a_nameless_node_is_called_by_its_place(void **state)
{
    (void)state;
    struct net net = make_net();
    struct mpq_node again = node_of("", "Relu", 1, &net.x, &net.r);
    again.source = 17;
    CHECK_FAILS(&ctx, mpq_graph_add_node(&ctx, net.graph, &again, NULL), MPQ_E_FORMAT,
                "node 17 (Relu): computes 'r'");
    again.source = MPQ_NO_NODE;
    CHECK_FAILS(&ctx, mpq_graph_add_node(&ctx, net.graph, &again, NULL), MPQ_E_FORMAT,
                "node '' (Relu): computes 'r'");
}

static void a_label_is_a_name_or_the_first_output(void **state)
{
    (void)state;
    struct net net = make_net();
    const mpq_value_id out[] = {MPQ_NO_VALUE, net.r};
    struct mpq_node node = {.name = "n", .n_out = 2, .out = out};
    assert_string_equal(mpq_node_label(net.graph, &node), "n");
    node.name = "";
    assert_string_equal(mpq_node_label(net.graph, &node), "r");
    node.n_out = 1;
    assert_string_equal(mpq_node_label(net.graph, &node), "");
}

static void outputs_are_computed(void **state)
{
    (void)state;
    struct net net = make_net();
    net.graph->output[0] = add_value(net.graph, "nowhere");
    CHECK_FAILS(&ctx, mpq_graph_check(&ctx, net.graph), MPQ_E_FORMAT, "'nowhere'");
    net.graph->output[0] = net.w; /* a constant will do */
    CHECK_OK(&ctx, mpq_graph_check(&ctx, net.graph));
}

static void a_clone_is_its_own(void **state)
{
    (void)state;
    struct net net = make_net();
    struct mpq_graph *copy;
    CHECK_OK(&ctx, mpq_graph_clone(&ctx, arena, net.graph, false, &copy));
    CHECK_OK(&ctx, mpq_graph_check(&ctx, copy));
    mpq_value_id z = add_value(copy, "z");
    struct mpq_node node = node_of("more", "Relu", 1, &net.y, &z);
    CHECK_OK(&ctx, mpq_graph_add_node(&ctx, copy, &node, NULL));
    copy->output[0] = z;
    CHECK_OK(&ctx, mpq_graph_check(&ctx, copy));

    assert_int_equal(net.graph->n_value, 5);
    assert_int_equal(net.graph->n_node, 3);
    assert_int_equal(net.graph->output[0], net.y);
    assert_int_equal(mpq_graph_find(net.graph, "z"), MPQ_NO_VALUE);
    assert_ptr_equal(copy->value[net.w].constant, net.graph->value[net.w].constant);
}

static void a_clone_without_nodes_keeps_value_ids(void **state)
{
    (void)state;
    struct net net = make_net();
    struct mpq_graph *copy;
    CHECK_OK(&ctx, mpq_graph_clone(&ctx, arena, net.graph, true, &copy));
    assert_int_equal(copy->n_node, 0);
    assert_int_equal(copy->n_value, 5);
    assert_int_equal(mpq_graph_find(copy, "r"), net.r);
    CHECK_FAILS(&ctx, mpq_graph_check(&ctx, copy), MPQ_E_FORMAT, "'y'");
    for (uint32_t n = 0; n < 3; n++)
        CHECK_OK(&ctx, mpq_graph_add_node(&ctx, copy, &net.graph->node[n], NULL));
    CHECK_OK(&ctx, mpq_graph_check(&ctx, copy));
}

static void readers_are_listed_in_order(void **state)
{
    (void)state;
    struct net net = make_net();
    mpq_value_id s = add_value(net.graph, "s");
    struct mpq_node square = node_of("square", "Mul", 2, (mpq_value_id[]){net.r, net.r}, &s);
    CHECK_OK(&ctx, mpq_graph_add_node(&ctx, net.graph, &square, NULL));
    struct mpq_uses uses;
    CHECK_OK(&ctx, mpq_graph_uses(&ctx, arena, net.graph, &uses));

    const struct {
        mpq_value_id value;
        uint32_t n;
        mpq_node_id node[3], single;
    } row[] = {
        {net.x, 1, {0}, 0},
        {net.w, 1, {0}, 0},
        {net.c, 2, {1, 2}, MPQ_NO_NODE},
        {net.r, 3, {2, 3, 3}, MPQ_NO_NODE}, /* once for each input */
        {net.y, 0, {0}, MPQ_NO_NODE},
        {s, 0, {0}, MPQ_NO_NODE},
    };
    for (size_t i = 0; i < MPQ_COUNT(row); i++) {
        uint32_t first = uses.first[row[i].value];
        assert_int_equal(uses.first[row[i].value + 1] - first, row[i].n);
        for (uint32_t k = 0; k < row[i].n; k++)
            assert_int_equal(uses.node[first + k], row[i].node[k]);
        assert_int_equal(mpq_uses_single(&uses, row[i].value), row[i].single);
        assert_int_equal(uses.is_output[row[i].value], row[i].value == net.y);
    }
}

static void an_output_has_no_single_reader(void **state)
{
    (void)state;
    struct net net = make_net();
    net.graph->output[0] = net.x; /* read by the Conv alone, but seen from outside too */
    struct mpq_uses uses;
    CHECK_OK(&ctx, mpq_graph_uses(&ctx, arena, net.graph, &uses));
    assert_int_equal(mpq_uses_single(&uses, net.x), MPQ_NO_NODE);
    assert_int_equal(mpq_uses_single(&uses, net.w), 0);
}

/* Whatever allocation fails, the status says so and nothing leaks or breaks. */
static void memory_may_run_out_anywhere(void **state)
{
    (void)state;
    struct net net = make_net();
    bool done = false;
    for (long n = 0; !done; n++) {
        struct mpq_arena *scratch = mpq_arena_create(&ctx);
        struct mpq_graph *copy;
        struct mpq_uses uses;
        mpq_value_id id;
        ctx.allocations_left = n;
        enum mpq_status status = mpq_graph_clone(&ctx, scratch, net.graph, false, &copy);
        if (status == MPQ_OK)
            status = mpq_graph_add_unique(&ctx, copy, "r", &id);
        if (status == MPQ_OK)
            status = mpq_graph_add_constant(&ctx, copy, "k", copy->value[net.w].constant, &id);
        if (status == MPQ_OK)
            status = mpq_graph_check(&ctx, copy);
        if (status == MPQ_OK)
            status = mpq_graph_uses(&ctx, scratch, copy, &uses);
        ctx.allocations_left = -1;
        done = status == MPQ_OK;
        assert_true(done ? n > 5 : status == MPQ_E_NOMEM);
        assert_true(n < 1000);
        mpq_ctx_clear(&ctx);
        mpq_arena_free(scratch);
    }
}

/* ---- attributes ---- */

static const int64_t strides[] = {2, 3};
static const struct mpq_attr attrs[] = {
    {.name = "group", .kind = MPQ_ATTR_INT, .n = 1, .i = 4},
    {.name = "alpha", .kind = MPQ_ATTR_FLOAT, .n = 1, .f = 0.5f},
    {.name = "mode", .kind = MPQ_ATTR_STRING, .n = 6, .s = "linear"},
    {.name = "strides", .kind = MPQ_ATTR_INTS, .n = 2, .ints = strides},
};
static const struct mpq_attr_set set = {4, attrs};

static void attributes_are_read_by_name_and_kind(void **state)
{
    (void)state;
    size_t n;
    assert_int_equal(mpq_attr_int(&set, "group", 1), 4);
    assert_int_equal(mpq_attr_int(&set, "absent", 1), 1);
    assert_int_equal(mpq_attr_int(&set, "alpha", 1), 1); /* of another kind: absent */
    CHECK_NEAR(mpq_attr_float(&set, "alpha", 0), 0.5, 0, 0);
    CHECK_NEAR(mpq_attr_float(&set, "group", 9), 9, 0, 0);
    assert_string_equal(mpq_attr_string(&set, "mode", "nearest"), "linear");
    assert_string_equal(mpq_attr_string(&set, "modes", "nearest"), "nearest");
    assert_ptr_equal(mpq_attr_ints(&set, "strides", &n), strides);
    assert_int_equal(n, 2);
    assert_null(mpq_attr_ints(&set, "group", &n));
    assert_int_equal(n, 0);
    assert_ptr_equal(mpq_attr_find(&set, "mode"), &attrs[2]);
    assert_null(mpq_attr_find(&(struct mpq_attr_set){0}, "mode"));
}

static void attributes_are_replaced_appended_removed(void **state)
{
    (void)state;
    struct mpq_attr_set out;
    const struct mpq_attr group = {.name = "group", .kind = MPQ_ATTR_INT, .n = 1, .i = 8};
    CHECK_OK(&ctx, mpq_attr_set_with(&ctx, arena, &set, &group, &out));
    assert_int_equal(out.n, 4);
    assert_int_equal(mpq_attr_int(&out, "group", 1), 8);
    assert_int_equal(mpq_attr_int(&set, "group", 1), 4);
    assert_string_equal(out.attr[3].name, "strides");

    const struct mpq_attr axis = {.name = "axis", .kind = MPQ_ATTR_INT, .n = 1, .i = -1};
    CHECK_OK(&ctx, mpq_attr_set_with(&ctx, arena, &set, &axis, &out));
    assert_int_equal(out.n, 5);
    assert_int_equal(mpq_attr_int(&out, "axis", 0), -1);
    assert_int_equal(mpq_attr_int(&out, "group", 1), 4);

    CHECK_OK(&ctx, mpq_attr_set_without(&ctx, arena, &set, "alpha", &out));
    assert_int_equal(out.n, 3);
    assert_null(mpq_attr_find(&out, "alpha"));
    assert_string_equal(out.attr[1].name, "mode");
    CHECK_OK(&ctx, mpq_attr_set_without(&ctx, arena, &set, "absent", &out));
    assert_int_equal(out.n, 4);

    const struct mpq_attr_set none = {0};
    CHECK_OK(&ctx, mpq_attr_set_without(&ctx, arena, &none, "group", &out));
    assert_int_equal(out.n, 0);
    CHECK_OK(&ctx, mpq_attr_set_with(&ctx, arena, &none, &axis, &out));
    assert_int_equal(out.n, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_sound_graph_passes),
        TEST(names_are_given_once),
        TEST(many_values_and_nodes_fit),
        TEST(a_value_has_one_producer),
        TEST(values_come_before_their_readers),
        TEST(a_nameless_node_is_called_by_its_place),
        TEST(a_label_is_a_name_or_the_first_output),
        TEST(outputs_are_computed),
        TEST(a_clone_is_its_own),
        TEST(a_clone_without_nodes_keeps_value_ids),
        TEST(readers_are_listed_in_order),
        TEST(an_output_has_no_single_reader),
        TEST(memory_may_run_out_anywhere),
        TEST(attributes_are_read_by_name_and_kind),
        TEST(attributes_are_replaced_appended_removed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
