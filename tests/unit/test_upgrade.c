#include "importer/upgrade.h"

#include <string.h>

#include "importer/import.h"
#include "tests/check.h"
#include "tests/unit/model_builder.h"

/* One node of an old opset between x [2, 3, 4] and y (and z). */
static Onnx__NodeProto *start(struct builder *b, int64_t opset, const char *op_type, const char *in,
                              const char *out)
{
    builder_init(b, opset);
    builder_input(b, "x", MPQ_FLOAT, &MPQ_SHAPE(2, 3, 4));
    builder_output(b, "y");
    return builder_node(b, op_type, in, out);
}

static enum mpq_status import(struct builder *b, struct mpq_graph **out)
{
    uint8_t *data;
    size_t bytes;
    builder_pack(b, &data, &bytes);
    return mpq_import_bytes(&b->ctx, b->arena, data, bytes, NULL, out);
}

/* The only node, which then has this many inputs and none of these attributes. */
static const struct mpq_node *only(struct builder *b, struct mpq_graph **out_graph, uint32_t n_in,
                                   const char *gone)
{
    CHECK_OK(&b->ctx, import(b, out_graph));
    assert_int_equal((*out_graph)->opset, 13);
    assert_int_equal((*out_graph)->n_node, 1);
    const struct mpq_node *node = &(*out_graph)->node[0];
    assert_int_equal(node->n_in, n_in);
    if (gone)
        assert_null(mpq_attr_find(&node->attr_set, gone));
    return node;
}

static const struct mpq_tensor *input(const struct mpq_graph *graph, const struct mpq_node *node,
                                      uint32_t i)
{
    assert_true(node->in[i] != MPQ_NO_VALUE);
    assert_non_null(graph->value[node->in[i]].constant);
    return graph->value[node->in[i]].constant;
}

static void check_ints(const struct mpq_tensor *tensor, const int64_t *expected, int64_t n)
{
    assert_int_equal(tensor->dtype, MPQ_INT64);
    assert_true(mpq_shape_equal(&tensor->shape, &MPQ_SHAPE(n)));
    for (int64_t i = 0; i < n; i++)
        assert_int_equal(mpq_tensor_int(tensor, i), expected[i]);
}

static void test_clip(void **state)
{
    (void)state;
    struct builder b;
    struct mpq_graph *graph;
    Onnx__NodeProto *proto = start(&b, 10, "Clip", "x", "y");
    builder_attr_float(&b, proto, "max", 6.0f);
    const struct mpq_node *node = only(&b, &graph, 3, "max");
    assert_int_equal(node->in[1], MPQ_NO_VALUE);
    assert_int_equal(input(graph, node, 2)->shape.rank, 0);
    CHECK_NEAR(mpq_tensor_double(input(graph, node, 2), 0), 6.0, 0, 0);
    builder_attr_float(&b, proto, "min", 0.5f);
    b.graph->input[0]->type->tensor_type->elem_type = MPQ_FLOAT16;
    node = only(&b, &graph, 3, "min");
    assert_int_equal(input(graph, node, 1)->dtype, MPQ_FLOAT); /* of the type of x, as computed */
    assert_int_equal(graph->value[node->in[0]].file_dtype, MPQ_FLOAT16);
    CHECK_NEAR(mpq_tensor_double(input(graph, node, 1), 0), 0.5, 0, 0);
    builder_release(&b);
}

static void test_pad(void **state)
{
    (void)state;
    static const int64_t pads[] = {0, 0, 1, 0, 0, 2};
    struct builder b;
    struct mpq_graph *graph;
    Onnx__NodeProto *proto = start(&b, 10, "Pad", "x", "y");
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_FORMAT, "'pads' is missing");
    builder_attr_ints(&b, proto, "pads", pads, 6);
    const struct mpq_node *node = only(&b, &graph, 2, "pads");
    check_ints(input(graph, node, 1), pads, 6);
    builder_attr_float(&b, proto, "value", -1.0f);
    node = only(&b, &graph, 3, "value");
    CHECK_NEAR(mpq_tensor_double(input(graph, node, 2), 0), -1.0, 0, 0);
    builder_release(&b);
}

static void test_slice(void **state)
{
    (void)state;
    struct builder b;
    struct mpq_graph *graph;
    Onnx__NodeProto *proto = start(&b, 9, "Slice", "x", "y");
    builder_attr_ints(&b, proto, "starts", (int64_t[]){1, 0}, 2);
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_FORMAT, "'starts' or 'ends' is missing");
    builder_attr_ints(&b, proto, "ends", (int64_t[]){2, -1}, 2);
    const struct mpq_node *node = only(&b, &graph, 3, "starts");
    check_ints(input(graph, node, 2), (int64_t[]){2, -1}, 2);
    builder_attr_ints(&b, proto, "axes", (int64_t[]){0, 2}, 2);
    node = only(&b, &graph, 4, "axes");
    check_ints(input(graph, node, 1), (int64_t[]){1, 0}, 2);
    check_ints(input(graph, node, 3), (int64_t[]){0, 2}, 2);
    builder_release(&b);
}

/* Attribute `attr` of these operators is an input from opset 13, and stays absent if it was. */
static void test_axes(void **state)
{
    (void)state;
    static const char *const op_type[] = {"Squeeze", "Unsqueeze", "ReduceSum", "Split"};
    static const char *const attr[] = {"axes", "axes", "axes", "split"};
    for (size_t i = 0; i < MPQ_COUNT(op_type); i++) {
        struct builder b;
        struct mpq_graph *graph;
        Onnx__NodeProto *proto = start(&b, 11, op_type[i], "x", "y");
        if (strcmp(op_type[i], "Unsqueeze") != 0) /* which must have them */
            only(&b, &graph, 1, attr[i]);
        builder_attr_ints(&b, proto, attr[i], (int64_t[]){2}, 1);
        const struct mpq_node *node = only(&b, &graph, 2, attr[i]);
        check_ints(input(graph, node, 1), (int64_t[]){2}, 1);
        assert_int_equal(node->source, 0);
        builder_release(&b);
        builder_attr_int(&b, start(&b, 11, op_type[i], "x", "y"), attr[i], 2);
        CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_FORMAT, "is no list of integers");
        builder_release(&b);
    }
}

static void test_top_k(void **state)
{
    (void)state;
    struct builder b;
    struct mpq_graph *graph;
    Onnx__NodeProto *proto = start(&b, 9, "TopK", "x", "y z");
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_FORMAT, "'k' is missing");
    builder_attr_int(&b, proto, "k", 2);
    const struct mpq_node *node = only(&b, &graph, 2, "k");
    check_ints(input(graph, node, 1), (int64_t[]){2}, 1);
    assert_int_equal(node->n_out, 2);
    builder_release(&b);
}

static void test_training_outputs(void **state)
{
    (void)state;
    struct builder b;
    struct mpq_graph *graph;
    Onnx__NodeProto *proto = start(&b, 8, "BatchNormalization", "x s s s s", "y m v sm sv");
    builder_initializer(&b, "s", MPQ_FLOAT, &MPQ_SHAPE(0));
    const struct mpq_node *node = only(&b, &graph, 5, "spatial");
    assert_int_equal(node->n_out, 1);
    builder_attr_int(&b, proto, "spatial", 0);
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_UNSUPPORTED, "spatial");
    proto->n_attribute = 0;
    builder_output(&b, "v");
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_UNSUPPORTED, "training form");
    builder_release(&b);

    proto = start(&b, 11, "Dropout", "x", "y mask");
    builder_attr_float(&b, proto, "ratio", 0.3f);
    node = only(&b, &graph, 1, "ratio");
    assert_int_equal(node->n_out, 1);
    builder_release(&b);
}

static void check_resize(struct builder *b, const char *nearest_mode)
{
    struct mpq_graph *graph;
    const struct mpq_node *node = only(b, &graph, 3, "scales");
    assert_string_equal(node->op_type, "Resize");
    assert_int_equal(node->in[1], MPQ_NO_VALUE);
    assert_int_equal(input(graph, node, 2)->dtype, MPQ_FLOAT);
    assert_string_equal(mpq_attr_string(&node->attr_set, "coordinate_transformation_mode", ""),
                        "asymmetric");
    assert_string_equal(mpq_attr_string(&node->attr_set, "nearest_mode", ""), nearest_mode);
}

static void test_resize(void **state)
{
    (void)state;
    static float up[] = {1, 1, 2}, down[] = {1, 1, 0.6f}, both[] = {1, 2, 0.75f};
    struct builder b;
    struct mpq_graph *graph;
    Onnx__NodeProto *proto = start(&b, 8, "Upsample", "x", "y");
    Onnx__AttributeProto *scales =
        builder_attr(&b, proto, "scales", ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOATS);
    scales->n_floats = 3;
    scales->floats = up;
    check_resize(&b, "floor");
    builder_attr_string(&b, proto, "mode", "linear");
    check_resize(&b, "");
    builder_release(&b);

    start(&b, 10, "Resize", "x s", "y");
    builder_raw(&b, "s", MPQ_FLOAT, &MPQ_SHAPE(3), up, sizeof up);
    check_resize(&b, "floor");
    b.graph->n_initializer = 0;
    builder_raw(&b, "s", MPQ_FLOAT, &MPQ_SHAPE(3), down, sizeof down);
    check_resize(&b, "ceil");

    /* Axes that shrink and axes that grow are rounded otherwise, in two nodes. */
    b.graph->n_initializer = 0;
    builder_raw(&b, "s", MPQ_FLOAT, &MPQ_SHAPE(3), both, sizeof both);
    CHECK_OK(&b.ctx, import(&b, &graph));
    assert_int_equal(graph->n_node, 2);
    for (uint32_t n = 0; n < 2; n++) {
        const struct mpq_node *part = &graph->node[n];
        assert_string_equal(mpq_attr_string(&part->attr_set, "nearest_mode", ""),
                            n ? "floor" : "ceil");
        for (int i = 0; i < 3; i++)
            CHECK_NEAR(mpq_tensor_double(input(graph, part, 2), i),
                       i == (n ? 1 : 2) ? (double)both[i] : 1.0, 0, 0);
    }
    assert_int_equal(graph->node[1].in[0], graph->node[0].out[0]);
    builder_release(&b);

    /* Empty roi and scales of opset 11 are absent. */
    proto = start(&b, 11, "Resize", "x e e n", "y");
    builder_initializer(&b, "e", MPQ_FLOAT, &MPQ_SHAPE(0));
    builder_raw(&b, "n", MPQ_INT64, &MPQ_SHAPE(3), (int64_t[]){2, 3, 8}, 24);
    builder_attr_string(&b, proto, "coordinate_transformation_mode", "tf_half_pixel_for_nn");
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_UNSUPPORTED, "nearest_mode 'floor' only");
    builder_attr_string(&b, proto, "nearest_mode", "floor");
    const struct mpq_node *node = only(&b, &graph, 4, NULL);
    assert_int_equal(node->in[1], MPQ_NO_VALUE);
    assert_int_equal(node->in[2], MPQ_NO_VALUE);
    check_ints(input(graph, node, 3), (int64_t[]){2, 3, 8}, 3);
    assert_string_equal(mpq_attr_string(&node->attr_set, "nearest_mode", ""), "round_prefer_ceil");
    builder_release(&b);
}

/* The axis that remains, or -100 where the node became Shape, Flatten, Softmax, Reshape. */
static int64_t softmax_axis(int64_t axis, const struct mpq_shape *shape, const char *before)
{
    struct builder b;
    struct mpq_graph *graph;
    builder_init(&b, 11);
    builder_input(&b, "x", MPQ_FLOAT, shape);
    builder_output(&b, "y");
    if (before)
        builder_node(&b, before, "x", "h");
    builder_attr_int(&b, builder_node(&b, "Softmax", before ? "h" : "x", "y"), "axis", axis);
    CHECK_OK(&b.ctx, import(&b, &graph));
    const struct mpq_node *last = &graph->node[graph->n_node - 1];
    int64_t result = -100;
    if (strcmp(last->op_type, "Softmax") == 0) {
        result = mpq_attr_int(&last->attr_set, "axis", -99);
    } else {
        assert_string_equal(last->op_type, "Reshape");
        assert_int_equal(graph->n_node, before ? 5 : 4);
        assert_int_equal(last->source, MPQ_NO_NODE);
        assert_string_equal(last[-1].op_type, "Softmax");
        assert_int_equal(mpq_attr_int(&last[-1].attr_set, "axis", 0), -1);
        assert_int_equal(last[-1].source, before ? 1 : 0);
        assert_string_equal(last[-2].op_type, "Flatten");
        assert_int_equal(mpq_attr_int(&last[-2].attr_set, "axis", 0), axis);
    }
    builder_release(&b);
    return result;
}

static void test_softmax(void **state)
{
    (void)state;
    assert_int_equal(softmax_axis(1, &MPQ_SHAPE(2, 3), NULL), -1);
    assert_int_equal(softmax_axis(2, &MPQ_SHAPE(2, 3, 4), NULL), -1);
    assert_int_equal(softmax_axis(-1, &MPQ_SHAPE(2, 3, 4), NULL), -1);
    assert_int_equal(softmax_axis(1, &MPQ_SHAPE(2, 3, 4), NULL), -100);
    assert_int_equal(softmax_axis(0, &MPQ_SHAPE(2, 3), NULL), -100);
    assert_int_equal(softmax_axis(1, &MPQ_SHAPE(2, 3, 1, 1), NULL), 1); /* nothing follows */
    assert_int_equal(softmax_axis(1, &MPQ_SHAPE(2, 3, -1, 1), NULL), -100);
    assert_int_equal(softmax_axis(1, &MPQ_SHAPE(2, 3, 4, 5), "Flatten"), -1);
    assert_int_equal(softmax_axis(3, &MPQ_SHAPE(2, 3, 4, 5), "Relu"), -1);
    assert_int_equal(softmax_axis(1, &MPQ_SHAPE(2, 3, 4, 5), "GlobalAveragePool"), 1);
    assert_int_equal(softmax_axis(0, &MPQ_SHAPE(2, 3, 4, 5), "GlobalAveragePool"), -100);
    assert_int_equal(softmax_axis(1, &MPQ_SHAPE(2, 3), "Mystery"), -100); /* rank not known */
    assert_int_equal(softmax_axis(-1, &MPQ_SHAPE(2, 3), "Mystery"), -1);

    struct builder b;
    struct mpq_graph *graph;
    builder_attr_int(&b, start(&b, 11, "Softmax", "x", "y"), "axis", -9);
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_SHAPE, "axis -9 with an input of [2,3,4]");
    builder_release(&b);
}

static void test_removed(void **state)
{
    (void)state;
    struct builder b;
    struct mpq_graph *graph;
    start(&b, 9, "Scatter", "x i x", "y");
    builder_initializer(&b, "i", MPQ_INT64, &MPQ_SHAPE(0));
    assert_string_equal(only(&b, &graph, 3, NULL)->op_type, "ScatterElements");
    builder_release(&b);
    start(&b, 8, "Scan", "x", "y");
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_UNSUPPORTED, "Scan of opset 8");
    builder_release(&b);
}

/* An operator of another domain is not ours to respell. */
static void test_other_domain(void **state)
{
    (void)state;
    struct builder b;
    struct mpq_graph *graph;
    Onnx__NodeProto *proto = start(&b, 9, "Clip", "x", "y");
    builder_attr_float(&b, proto, "max", 6.0f);
    proto->domain = (char *)"com.example";
    const struct mpq_node *node = only(&b, &graph, 1, "min");
    assert_non_null(mpq_attr_find(&node->attr_set, "max"));
    assert_null(node->op);
    builder_release(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clip),    cmocka_unit_test(test_pad),
        cmocka_unit_test(test_slice),   cmocka_unit_test(test_axes),
        cmocka_unit_test(test_top_k),   cmocka_unit_test(test_training_outputs),
        cmocka_unit_test(test_resize),  cmocka_unit_test(test_softmax),
        cmocka_unit_test(test_removed), cmocka_unit_test(test_other_domain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
