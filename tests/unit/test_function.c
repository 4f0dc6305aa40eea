#include "exporter/function.h"

#include <string.h>

#include "importer/import.h"
#include "proto/proto_model.h"
#include "tests/unit/export_case.h"

enum { N_BLOCK = 5 };

/* Blocks of Conv -> Relu, each of which the sum behind the next one reads as well. The last Conv
 * has another form. */
static void build(struct export_case *c, struct net *net)
{
    const struct mpq_attr pads = NET_INTS("pads", 1, 1, 1, 1);
    mpq_value_id at = net_input(net, "x", MPQ_SHAPE(-1, 4, 6, 6)), before = MPQ_NO_VALUE;
    for (int i = 0; i < N_BLOCK; i++) {
        const char *name[5];
        for (int k = 0; k < 5; k++)
            name[k] = mpq_arena_printf(&net->ctx, net->arena, "%c%d", "wbcrs"[k], i);
        mpq_value_id w = net_random(net, name[0], MPQ_SHAPE(4, 4, 3, 3), false);
        mpq_value_id b = net_random(net, name[1], MPQ_SHAPE(4), false);
        mpq_value_id y = net_node(net, "Conv", name[2], 1, &pads, NET_IN(at, w, b));
        mpq_value_id r = net_node(net, "Relu", name[3], NET_NO_ATTRS, NET_IN(y));
        at = i ? net_node(net, "Add", name[4], NET_NO_ATTRS, NET_IN(r, before)) : r;
        before = r;
    }
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(3, 4, 1, 1), false);
    net_output(net, net_node(net, "Conv", "y", NET_NO_ATTRS, NET_IN(at, w)));
    export_case_init(c, net);
    for (uint32_t l = 0; l < c->layers.n_layer; l++)
        export_code_layer(c, l, 4);
    struct mpq_act_quant *quant =
        mpq_arena_copy(&net->ctx, net->arena, c->plan.act_quant, c->act.n_group * sizeof *quant);
    for (uint32_t g = 0; g < c->act.n_group; g++)
        quant[g].zero_point = 0;
    c->plan.act_quant = quant;
}

static Onnx__ModelProto *unpacked(struct export_case *c)
{
    struct mpq_ctx *ctx = &c->net->ctx;
    struct mpq_export_file file;
    Onnx__ModelProto *model;
    CHECK_OK(ctx, mpq_export(ctx, c->net->arena, &c->plan, &file));
    CHECK_OK(ctx, mpq_proto_unpack(ctx, c->net->arena, file.data, file.bytes, &model));
    return model;
}

static size_t n_call(const Onnx__ModelProto *model, const Onnx__FunctionProto *function)
{
    size_t n = 0;
    for (size_t i = 0; i < model->graph->n_node; i++)
        n += model->graph->node[i]->domain &&
             strcmp(model->graph->node[i]->domain, function->domain) == 0 &&
             strcmp(model->graph->node[i]->op_type, function->name) == 0;
    return n;
}

/* What is read back is the graph that is written out in full, with the names of its nodes. */
static void check_same_graph(struct net *net, const struct mpq_graph *want,
                             const struct mpq_graph *got)
{
    assert_int_equal(got->n_node, want->n_node);
    for (mpq_node_id n = 0; n < want->n_node; n++) {
        const struct mpq_node *a = &want->node[n], *b = &got->node[n];
        assert_string_equal(b->op_type, a->op_type);
        assert_string_equal(b->name, a->name);
        assert_int_equal(b->n_in, a->n_in);
        assert_int_equal(b->attr_set.n, a->attr_set.n);
    }
    net_check_same(net, want, got, 0);
}

static void test_repeats_are_calls(void **state)
{
    struct export_case c;
    build(&c, *state);
    struct mpq_graph *full = export_round_trip(&c);
    Onnx__ModelProto *model = unpacked(&c);
    assert_int_equal(model->n_functions, 0);
    assert_int_equal(model->ir_version, 7);
    c.plan.names = MPQ_NAMES_NODES;
    struct mpq_graph *called = export_round_trip(&c);
    export_check_layers(&c, called);
    check_same_graph(c.net, full, called);
    model = unpacked(&c);
    assert_int_equal(model->ir_version, MPQ_FUNCTION_IR_VERSION);
    assert_int_equal(model->n_functions, 2);
    assert_int_equal(model->n_opset_import, 2);
    assert_string_equal(model->opset_import[1]->domain, model->functions[0]->domain);
    assert_string_equal(model->functions[0]->name, "C"); /* Conv, and what is before and behind */
    assert_int_equal(model->functions[0]->n_node, 6);
    assert_int_equal(model->functions[0]->n_output, 1);
    assert_int_equal(n_call(model, model->functions[0]), N_BLOCK);
    assert_string_equal(model->functions[1]->name, "A"); /* Add, and what is behind */
    assert_int_equal(n_call(model, model->functions[1]), N_BLOCK - 1);
}

/* Two calls of a function save less than it costs. */
static void test_what_does_not_pay(void **state)
{
    struct export_case c;
    export_build_small(*state);
    export_case_init(&c, *state);
    export_code_layers(&c, 4);
    c.plan.names = MPQ_NAMES_NODES;
    for (size_t f = 0; f < unpacked(&c)->n_functions; f++)
        assert_true(n_call(unpacked(&c), unpacked(&c)->functions[f]) > 2);
}

/* Only for who writes calls out before anything else. */
static void test_targets(void **state)
{
    struct export_case c;
    build(&c, *state);
    c.plan.names = MPQ_NAMES_NODES;
    for (size_t t = 0; t < mpq_target_count(); t++) {
        export_aim(&c, mpq_target_at(t)->name);
        export_code_layers(&c, 8);
        assert_int_equal(unpacked(&c)->n_functions > 0, mpq_target_at(t)->has_functions);
        export_check_layers(&c, export_round_trip(&c));
    }
}

/* A weight beside float inputs is there by its name: others may read it, and who verifies does. */
static void test_float_layers(void **state)
{
    struct export_case c;
    struct mpq_export_file file;
    build(&c, *state);
    struct mpq_ctx *ctx = &c.net->ctx;
    export_stay_float(&c);
    struct mpq_graph *full = export_round_trip(&c);
    c.plan.names = MPQ_NAMES_NODES;
    struct mpq_graph *called = export_round_trip(&c);
    check_same_graph(c.net, full, called);
    CHECK_OK(ctx, mpq_export(ctx, c.net->arena, &c.plan, &file));
    for (uint32_t l = 0; l < c.layers.n_layer; l++)
        assert_int_not_equal(mpq_graph_find(called, file.weight_name[l]), MPQ_NO_VALUE);
    const Onnx__ModelProto *model = unpacked(&c);
    assert_int_equal(model->n_functions, 1);
    assert_int_equal(model->functions[0]->n_output, 2);
}

/* Two halves of the channels. */
static void split(struct net *net, int i, mpq_value_id x, mpq_value_id sizes, mpq_value_id *out)
{
    static struct mpq_attr axis = {.name = "axis", .kind = MPQ_ATTR_INT, .i = 1};
    struct mpq_node node = {.name = mpq_arena_printf(&net->ctx, net->arena, "s%d", i),
                            .op_type = "Split",
                            .domain = "",
                            .attr_set = {1, &axis},
                            .n_in = 2,
                            .n_out = 2,
                            .in = (mpq_value_id[]){x, sizes},
                            .out = out,
                            .source = MPQ_NO_NODE};
    for (int k = 0; k < 2; k++) {
        const char *name = mpq_arena_printf(&net->ctx, net->arena, "s%d.%d", i, k);
        CHECK_OK(&net->ctx, mpq_graph_add_value(&net->ctx, net->graph, name, &out[k]));
        net->graph->value[out[k]].dtype = MPQ_FLOAT;
    }
    CHECK_OK(&net->ctx, mpq_op_resolve(&net->ctx, net->arena, &node));
    CHECK_OK(&net->ctx, mpq_graph_add_node(&net->ctx, net->graph, &node, NULL));
}

/* Of what a node makes, a Relu that is left out reads one output alone, others the other one. */
static void test_one_output_of_several_is_left(void **state)
{
    enum { N_SPLIT = 10 };
    struct net *net = *state;
    struct export_case c;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 4, 6, 6)), half[2];
    mpq_value_id sizes = net_ints(net, "sizes", 2, (int64_t[]){2, 2});
    for (int i = 0; i < N_SPLIT; i++) {
        const char *name[6];
        for (int k = 0; k < 6; k++)
            name[k] = mpq_arena_printf(&net->ctx, net->arena, "%c%d", "vwrpqa"[k], i);
        mpq_value_id v = net_random(net, name[0], MPQ_SHAPE(4, 2, 1, 1), false);
        mpq_value_id w = net_random(net, name[1], MPQ_SHAPE(4, 2, 1, 1), false);
        split(net, i, x, sizes, half);
        mpq_value_id r = net_node(net, "Relu", name[2], NET_NO_ATTRS, NET_IN(half[0]));
        mpq_value_id p = net_node(net, "Conv", name[3], NET_NO_ATTRS, NET_IN(r, v));
        mpq_value_id q = net_node(net, "Conv", name[4], NET_NO_ATTRS, NET_IN(half[1], w));
        x = net_node(net, "Add", name[5], NET_NO_ATTRS, NET_IN(p, q));
    }
    net_output(net, x);
    export_case_init(&c, net);
    struct mpq_act_quant *quant =
        mpq_arena_copy(&net->ctx, net->arena, c.plan.act_quant, c.act.n_group * sizeof *quant);
    for (uint32_t g = 0; g < c.act.n_group; g++)
        quant[g].zero_point = 0;
    c.plan.act_quant = quant;
    export_code_layers(&c, 8);
    struct mpq_graph *full = export_round_trip(&c);
    assert_int_equal(net_count(full, "Relu"), 0);
    c.plan.names = MPQ_NAMES_NODES;
    check_same_graph(net, full, export_round_trip(&c));
    bool has_split = false;
    const Onnx__ModelProto *model = unpacked(&c);
    for (size_t f = 0; f < model->n_functions; f++)
        has_split |= strcmp(model->functions[f]->name, "S") == 0;
    assert_true(has_split);
}

/* ---- runs by hand ---- */

/* n runs of Neg -> Abs -> Neg; what `out` [n] says may be read, behind the run's last value. */
static struct mpq_functions write_by_hand(struct net *net, struct mpq_build *build, size_t n,
                                          const char *second, const char *domain)
{
    struct mpq_run *run = mpq_arena_alloc(&net->ctx, net->arena, n, sizeof *run);
    Onnx__OperatorSetIdProto taken = ONNX__OPERATOR_SET_ID_PROTO__INIT;
    struct mpq_functions functions;
    taken.domain = mpq_arena_strdup(&net->ctx, net->arena, domain);
    CHECK_OK(&net->ctx, mpq_build_init(&net->ctx, net->arena, net->graph, build));
    for (size_t i = 0; i < n; i++) {
        const char **out = mpq_arena_alloc(&net->ctx, net->arena, 2, sizeof *out);
        run[i] = (struct mpq_run){.first = build->n_node, .own = build->n_node + 1, .out = out};
        const char *neg = MPQ_BUILD_OP(build, "Neg", {"input of all"});
        const char *abs = MPQ_BUILD_OP(build, i % 2 ? second : "Abs", {neg});
        out[run[i].n_out++] = MPQ_BUILD_OP(build, "Neg", {abs});
        out[run[i].n_out++] = abs;
        run[i].end = build->n_node;
    }
    Onnx__OperatorSetIdProto *list[] = {&taken};
    CHECK_OK(&net->ctx, mpq_write_functions(build, 13, list, 1, run, n, &functions));
    return functions;
}

static void test_by_hand(void **state)
{
    struct mpq_build build;
    struct mpq_functions made = write_by_hand(*state, &build, 12, "Abs", "m");
    assert_string_equal(made.domain, "n"); /* the file has another m */
    assert_int_equal(made.n, 1);
    assert_int_equal(build.n_node, 12);
    assert_int_equal(made.function[0]->n_input, 1);
    assert_int_equal(made.function[0]->n_output, 2);
    assert_int_equal(made.function[0]->opset_import[0]->version, 13);
    for (size_t i = 0; i < build.n_node; i++) {
        assert_string_equal(build.node[i]->input[0], "input of all");
        assert_int_equal(build.node[i]->n_output, 2);
    }
    made = write_by_hand(*state, &build, 4, "Abs", "");
    assert_int_equal(made.n, 0);
    assert_int_equal(build.n_node, 12);
}

/* Half of the runs have a body each; the node behind their own is not worth one. */
static void test_different_operators(void **state)
{
    struct mpq_build build;
    struct mpq_functions made = write_by_hand(*state, &build, 24, "Sqrt", "");
    assert_string_equal(made.domain, "m");
    assert_int_equal(made.n, 2);
    assert_string_not_equal(made.function[0]->name, made.function[1]->name);
    assert_int_equal(build.n_node, 24);
    for (size_t i = 0; i < build.n_node; i++)
        assert_string_equal(build.node[i]->op_type, made.function[i % 2]->name);
}

/* Where no node of a run lends the call its name, what is behind that one is the run itself. */
static void test_run_without_own_node(void **state)
{
    enum { N_LONG = 300 };
    struct net *net = *state;
    struct mpq_build build;
    struct mpq_functions functions;
    char name[N_LONG + 1] = {0};
    memset(name, 'x', N_LONG);
    CHECK_OK(&net->ctx, mpq_build_init(&net->ctx, net->arena, net->graph, &build));
    const char *x = MPQ_BUILD_OP(&build, "Add", {name, name});
    const char *y = MPQ_BUILD_OP(&build, "Mul", {x, name});
    const char *z = MPQ_BUILD_OP(&build, "Neg", {y});
    MPQ_BUILD_OP(&build, "Abs", {z});
    struct mpq_run run = {2, 4, MPQ_NO_OWN, &z, 1};
    CHECK_OK(&net->ctx, mpq_write_functions(&build, 13, NULL, 0, &run, 1, &functions));
    assert_int_equal(functions.n, 0);
    assert_int_equal(build.n_node, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_repeats_are_calls, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_what_does_not_pay, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_targets, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_float_layers, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_one_output_of_several_is_left, net_setup,
                                        net_teardown),
        cmocka_unit_test_setup_teardown(test_run_without_own_node, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_by_hand, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_different_operators, net_setup, net_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
