#include "importer/import.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "quantcore/base/fileio.h"
#include "quantcore/base/rng.h"
#include "tests/check.h"
#include "tests/unit/model_builder.h"

static enum mpq_status import(struct builder *b, struct mpq_graph **out)
{
    uint8_t *data;
    size_t bytes;
    builder_pack(b, &data, &bytes);
    return mpq_import_bytes(&b->ctx, b->arena, data, bytes, NULL, out);
}

static const struct mpq_value *value_of(const struct mpq_graph *graph, const char *name)
{
    mpq_value_id id = mpq_graph_find(graph, name);
    assert_true(id != MPQ_NO_VALUE);
    return &graph->value[id];
}

static void test_small_net(void **state)
{
    (void)state;
    struct builder b;
    struct mpq_graph *graph;
    builder_small_net(&b);
    CHECK_OK(&b.ctx, import(&b, &graph));
    assert_int_equal(graph->opset, 13);
    assert_int_equal(graph->n_node, 2);
    assert_int_equal(graph->n_input, 1);
    assert_int_equal(graph->n_output, 1);
    assert_int_equal(graph->n_value, 5);
    assert_non_null(graph->source);
    assert_string_equal(graph->value[graph->input[0]].name, "x");
    assert_string_equal(graph->value[graph->output[0]].name, "y");
    const struct mpq_node *gemm = &graph->node[0];
    assert_string_equal(gemm->op_type, "Gemm");
    assert_string_equal(gemm->name, "Gemm_0");
    assert_int_equal(gemm->source, 0);
    assert_int_equal(gemm->n_in, 3);
    CHECK_NEAR(mpq_attr_float(&gemm->attr_set, "alpha", 0.0f), 1.0, 0, 0);
    const struct mpq_value *w = value_of(graph, "w");
    assert_int_equal(w->dtype, MPQ_FLOAT);
    assert_true(mpq_shape_equal(&w->shape, &MPQ_SHAPE(3, 4)));
    CHECK_NEAR(mpq_tensor_double(w->constant, 6), -7.0, 0, 0);
    const Onnx__ModelProto *model = graph->source;
    assert_ptr_equal(w->constant->data, model->graph->initializer[0]->raw_data.data);
    builder_release(&b);
}

static void test_order(void **state)
{
    (void)state;
    struct builder b;
    struct mpq_graph *graph;
    builder_init(&b, 13);
    builder_input(&b, "x", MPQ_FLOAT, &MPQ_SHAPE(-1, 3));
    builder_output(&b, "y");
    builder_node(&b, "Add", "r s", "y"); /* last in order, first in the file */
    builder_node(&b, "Sigmoid", "r", "s");
    builder_node(&b, "Relu", "x", "r");
    CHECK_OK(&b.ctx, import(&b, &graph));
    static const char *const expected[] = {"Relu", "Sigmoid", "Add"};
    for (uint32_t i = 0; i < 3; i++) {
        assert_string_equal(graph->node[i].op_type, expected[i]);
        assert_int_equal(graph->node[i].source, 2 - i);
    }
    assert_int_equal(value_of(graph, "x")->shape.dim[0], MPQ_DIM_UNKNOWN);
    assert_string_equal(value_of(graph, "x")->dim_param[0], "N");
    assert_null(value_of(graph, "x")->dim_param[1]);
    builder_node(&b, "Relu", "loop", "back");
    builder_node(&b, "Relu", "back", "loop");
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_FORMAT, "depends on its own result");
    builder_release(&b);
}

/* Files before IR 4 list initializers as inputs. */
static void test_initializer_inputs(void **state)
{
    (void)state;
    struct builder b;
    struct mpq_graph *graph;
    builder_small_net(&b);
    builder_input(&b, "w", MPQ_FLOAT, &MPQ_SHAPE(3, 4));
    builder_input(&b, "b", MPQ_FLOAT, &MPQ_SHAPE(4));
    CHECK_OK(&b.ctx, import(&b, &graph));
    assert_int_equal(graph->n_input, 1);
    assert_non_null(value_of(graph, "w")->constant);
    builder_release(&b);
}

static void constant(struct builder *b, const char *out, const char *attr, int type,
                     Onnx__AttributeProto **out_attr)
{
    *out_attr = builder_attr(b, builder_node(b, "Constant", "", out), attr, type);
}

static void test_constants(void **state)
{
    (void)state;
    static float floats[] = {1.5f, -2.5f};
    static int64_t ints[] = {7, 8, 9};
    static ProtobufCBinaryData strings[] = {{2, (uint8_t *)"ab"}, {0, NULL}};
    struct builder b;
    struct mpq_graph *graph;
    Onnx__AttributeProto *attr;
    builder_small_net(&b);
    constant(&b, "c_float", "value_float", ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT, &attr);
    attr->has_f = 1;
    attr->f = 0.25f;
    constant(&b, "c_floats", "value_floats", ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOATS, &attr);
    attr->n_floats = 2;
    attr->floats = floats;
    constant(&b, "c_int", "value_int", ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT, &attr);
    attr->has_i = 1;
    attr->i = -5;
    constant(&b, "c_ints", "value_ints", ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS, &attr);
    attr->n_ints = 3;
    attr->ints = ints;
    constant(&b, "c_string", "value_string", ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRING, &attr);
    attr->has_s = 1;
    attr->s = strings[0];
    constant(&b, "c_strings", "value_strings", ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRINGS,
             &attr);
    attr->n_strings = 2;
    attr->strings = strings;
    constant(&b, "c_tensor", "value", ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TENSOR, &attr);
    attr->t = b.graph->initializer[0];
    CHECK_OK(&b.ctx, import(&b, &graph));
    assert_int_equal(graph->n_node, 2);
    assert_int_equal(value_of(graph, "c_float")->shape.rank, 0);
    CHECK_NEAR(mpq_tensor_double(value_of(graph, "c_float")->constant, 0), 0.25, 0, 0);
    assert_true(mpq_shape_equal(&value_of(graph, "c_floats")->shape, &MPQ_SHAPE(2)));
    CHECK_NEAR(mpq_tensor_double(value_of(graph, "c_floats")->constant, 1), -2.5, 0, 0);
    assert_int_equal(mpq_tensor_int(value_of(graph, "c_int")->constant, 0), -5);
    assert_int_equal(value_of(graph, "c_int")->dtype, MPQ_INT64);
    assert_int_equal(mpq_tensor_int(value_of(graph, "c_ints")->constant, 2), 9);
    const char **string = value_of(graph, "c_string")->constant->data;
    assert_string_equal(string[0], "ab");
    string = value_of(graph, "c_strings")->constant->data;
    assert_string_equal(string[0], "ab");
    assert_string_equal(string[1], "");
    assert_true(mpq_shape_equal(&value_of(graph, "c_tensor")->shape, &MPQ_SHAPE(3, 4)));
    builder_release(&b);
}

/* An If whose body has an If whose body reads r, computed after it in the file, and `read`. */
static Onnx__GraphProto *add_if(struct builder *b, const char *read)
{
    Onnx__GraphProto *outer = b->graph, *inner = builder_graph(b), *body = builder_graph(b);
    Onnx__NodeProto *node = builder_node(b, "If", "c", "z");
    builder_attr(b, node, "then_branch", ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__GRAPH)->g = body;
    b->graph = body;
    builder_node(b, "Neg", "x", "local");
    node = builder_node(b, "If", "c", "deep");
    builder_output(b, "deep");
    builder_attr(b, node, "then_branch", ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__GRAPH)->g = inner;
    b->graph = inner;
    builder_node(b, "Add", "local r", "sum");
    builder_node(b, "Squeeze", "sum", "low");
    builder_node(b, "Relu", read, "low2");
    builder_output(b, "low");
    b->graph = outer;
    return inner;
}

static void test_bodies(void **state)
{
    (void)state;
    struct builder b;
    struct mpq_graph *graph;
    builder_init(&b, 13);
    builder_input(&b, "x", MPQ_FLOAT, &MPQ_SHAPE(2, 3));
    builder_input(&b, "c", MPQ_BOOL, &MPQ_SHAPE(1));
    builder_output(&b, "z");
    Onnx__GraphProto *inner = add_if(&b, "low");
    builder_node(&b, "Relu", "x", "r");
    CHECK_OK(&b.ctx, import(&b, &graph));
    assert_string_equal(graph->node[0].op_type, "Relu"); /* read in the body, so it comes first */
    assert_string_equal(graph->node[1].op_type, "If");
    assert_int_equal(graph->node[1].n_in, 1);
    assert_int_equal(graph->node[1].attr_set.attr[0].kind, MPQ_ATTR_OPAQUE);
    inner->node[2]->input[0] = (char *)"nowhere";
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_FORMAT, "its body reads 'nowhere'");
    inner->node[2]->input[0] = (char *)"z"; /* its own result */
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_FORMAT, "depends on its own result 'z'");
    inner->node[2]->input[0] = (char *)"x";
    b.model->opset_import[0]->version = 12;
    CHECK_OK(&b.ctx, import(&b, &graph));
    assert_true(graph->node[1].is_stale); /* a Squeeze of opset 12 */
    b.model->opset_import[0]->version = 13;
    CHECK_OK(&b.ctx, import(&b, &graph));
    assert_false(graph->node[1].is_stale);
    builder_node(&b, "BatchNormalization", "x s s s s", "n mean");
    builder_initializer(&b, "s", MPQ_FLOAT, &MPQ_SHAPE(0));
    CHECK_OK(&b.ctx, import(&b, &graph));
    inner->node[2]->input[0] = (char *)"mean"; /* read in the body alone, and that counts */
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_UNSUPPORTED, "training form");
    builder_release(&b);
}

/* y = c ? op(x) : nothing, or the other way round; the body calls its value t. */
static void add_branch(struct builder *b, const char *which, const char *op_type, const char *out)
{
    Onnx__GraphProto *outer = b->graph, *body = builder_graph(b);
    Onnx__NodeProto *node = builder_node(b, "If", "c", out);
    builder_attr(b, node, which, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__GRAPH)->g = body;
    b->graph = body;
    builder_node(b, op_type, "x", "t");
    builder_output(b, "t");
    b->graph = outer;
}

static void test_branches(void **state)
{
    (void)state;
    struct builder b;
    struct mpq_graph *graph, *inlined;
    builder_init(&b, 13);
    builder_input(&b, "x", MPQ_FLOAT, &MPQ_SHAPE(2));
    builder_input(&b, "c", MPQ_BOOL, &MPQ_SHAPE(1));
    add_branch(&b, "then_branch", "Neg", "y");
    add_branch(&b, "else_branch", "Abs", "z");
    builder_output(&b, "y");
    builder_output(&b, "z");
    CHECK_OK(&b.ctx, import(&b, &graph));
    assert_int_equal(graph->n_node, 2);
    CHECK_FAILS(&b.ctx,
                mpq_import_unfolded(&b.ctx, b.arena, graph,
                                    (struct mpq_unfolding[]){{.how = MPQ_UNFOLD_ELSE}, {0}},
                                    &inlined),
                MPQ_E_FORMAT, "has no else_branch with 1 outputs");
    CHECK_OK(&b.ctx, import(&b, &graph));
    CHECK_OK(&b.ctx, mpq_import_unfolded(&b.ctx, b.arena, graph,
                                         (struct mpq_unfolding[]){{.how = MPQ_UNFOLD_THEN},
                                                                  {.how = MPQ_UNFOLD_ELSE}},
                                         &inlined));
    static const char *const expected[] = {"Neg", "Identity", "Abs", "Identity"};
    assert_int_equal(inlined->n_node, MPQ_COUNT(expected));
    for (uint32_t n = 0; n < MPQ_COUNT(expected); n++)
        assert_string_equal(inlined->node[n].op_type, expected[n]);
    assert_string_equal(inlined->value[inlined->node[2].out[0]].name, "t_1");
    assert_int_equal(inlined->node[3].in[0], inlined->node[2].out[0]);
    assert_int_equal(inlined->output[1], inlined->node[3].out[0]);
    builder_release(&b);
}

static void test_refusals(void **state)
{
    (void)state;
    struct builder b;
    struct mpq_graph *graph;

    builder_small_net(&b);
    b.model->opset_import[0]->version = 6;
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_UNSUPPORTED, "opset 6, opsets 7 to 28");
    b.model->opset_import[0]->version = 29;
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_UNSUPPORTED, "opset 29");
    b.model->n_opset_import = 0;
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_FORMAT, "does not say in which opset");
    b.model->n_opset_import = 1;
    b.model->opset_import[0]->version = 13;

    b.graph->n_output = 0;
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_FORMAT, "no output");
    b.graph->n_output = 1;
    b.graph->output[0]->name = (char *)"z";
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_FORMAT, "output 'z' is not computed");
    b.graph->output[0]->name = (char *)"y";
    b.graph->n_node = 0;
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_FORMAT, "has no nodes");
    b.graph->n_node = 2;

    b.graph->initializer[1]->name = (char *)"w";
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_FORMAT, "'w' is given twice");
    b.graph->initializer[1]->name = (char *)"";
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_FORMAT, "initializer 1 has no name");
    b.graph->initializer[1]->name = (char *)"b";
    b.graph->input[0]->name = NULL;
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_FORMAT, "input 0 has no name");
    b.graph->input[0]->name = (char *)"x";
    b.graph->node[0]->input[1] = (char *)"nowhere";
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_FORMAT,
                "node 'Gemm_0' (Gemm): reads 'nowhere', which nothing computes");
    b.graph->node[0]->input[1] = (char *)"w";
    b.graph->node[1]->output[0] = (char *)"w";
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_FORMAT, "a name that is taken already");
    b.graph->node[1]->output[0] = (char *)"y";
    b.graph->node[1]->op_type = NULL;
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_FORMAT, "has no operator");
    b.graph->node[1]->op_type = (char *)"Relu";
    builder_attr_int(&b, b.graph->node[0], "alpha", 1);
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_FORMAT, "'alpha' is given twice");
    b.graph->node[0]->n_attribute = 1;
    CHECK_OK(&b.ctx, import(&b, &graph)); /* all repaired */
    builder_release(&b);
}

static void test_numbers(void **state)
{
    (void)state;
    struct builder b;
    struct mpq_graph *graph;
    builder_small_net(&b);
    float *w = (float *)b.graph->initializer[0]->raw_data.data;
    w[5] = NAN;
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_NUMERIC, "'w' is not a number at index 5");
    w[5] = INFINITY;
    CHECK_FAILS(&b.ctx, import(&b, &graph), MPQ_E_NUMERIC, "'w' is not finite at index 5");
    w[5] = 0;
    builder_raw(&b, "mask", MPQ_FLOAT, &MPQ_SHAPE(1), (float[]){-INFINITY}, sizeof(float));
    builder_node(&b, "Add", "h mask", "masked");
    CHECK_OK(&b.ctx, import(&b, &graph));
    builder_release(&b);
}

/* Whatever the bytes, the importer ends with a status and, unless OK, a sentence. */
static enum mpq_status import_copy(const uint8_t *data, size_t bytes)
{
    struct mpq_ctx ctx;
    struct mpq_graph *graph;
    mpq_ctx_init(&ctx);
    struct mpq_arena *arena = mpq_arena_create(&ctx);
    uint8_t *copy = malloc(bytes ? bytes : 1); /* exact, for AddressSanitizer */
    assert_true(arena && copy);
    if (bytes)
        memcpy(copy, data, bytes);
    enum mpq_status status = mpq_import_bytes(&ctx, arena, copy, bytes, NULL, &graph);
    assert_int_equal(status, ctx.status);
    assert_true(status == MPQ_OK || ctx.message[0]);
    free(copy);
    mpq_arena_free(arena);
    return status;
}

static void test_truncated(void **state)
{
    (void)state;
    struct builder b;
    uint8_t *data;
    size_t bytes;
    builder_small_net(&b);
    builder_pack(&b, &data, &bytes);
    for (size_t n = 0; n < bytes; n++)
        assert_int_equal(import_copy(data, n), MPQ_E_FORMAT);
    assert_int_equal(import_copy(data, bytes), MPQ_OK);
    builder_release(&b);
}

static void test_damaged(void **state)
{
    (void)state;
    enum { SEED = 1, N_ROUND = 20000 };
    struct builder b;
    uint8_t *data;
    size_t bytes;
    builder_small_net(&b);
    builder_node(&b, "Softmax", "h", "s");
    builder_attr_ints(&b, builder_node(&b, "Squeeze", "x", "q"), "axes", (int64_t[]){0}, 1);
    b.model->opset_import[0]->version = 11;
    builder_pack(&b, &data, &bytes);
    for (uint64_t round = 0; round < N_ROUND; round++) {
        uint8_t damaged[1024];
        assert_true(bytes <= sizeof damaged);
        memcpy(damaged, data, bytes);
        uint32_t n_flip = 1 + mpq_rng_below(SEED, MPQ_STREAM_TEST, round, 0, 4);
        for (uint32_t i = 0; i < n_flip; i++) {
            uint32_t at = mpq_rng_below(SEED, MPQ_STREAM_TEST, round, 2 * i + 1, (uint32_t)bytes);
            damaged[at] = (uint8_t)mpq_rng_below(SEED, MPQ_STREAM_TEST, round, 2 * i + 2, 256);
        }
        import_copy(damaged, bytes);
    }
    builder_release(&b);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    struct builder b;
    uint8_t *data;
    size_t bytes;
    builder_small_net(&b);
    builder_attr_ints(&b, builder_node(&b, "Squeeze", "x", "q"), "axes", (int64_t[]){0}, 1);
    b.model->opset_import[0]->version = 11;
    builder_pack(&b, &data, &bytes);
    enum mpq_status status = MPQ_E_NOMEM;
    for (long left = 0; status != MPQ_OK; left++) {
        struct mpq_ctx ctx;
        struct mpq_graph *graph;
        mpq_ctx_init(&ctx);
        struct mpq_arena *arena = mpq_arena_create(&ctx);
        ctx.allocations_left = left;
        status = mpq_import_bytes(&ctx, arena, data, bytes, NULL, &graph);
        assert_true(status == MPQ_OK || status == MPQ_E_NOMEM);
        mpq_arena_free(arena);
    }
    builder_release(&b);
}

static void test_file(void **state)
{
    (void)state;
    struct builder b;
    struct mpq_graph *graph;
    uint8_t *data;
    size_t bytes, file_bytes;
    char folder[] = "/tmp/mpq_import_XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/m.onnx", folder);
    builder_small_net(&b);
    builder_pack(&b, &data, &bytes);
    CHECK_FAILS(&b.ctx, mpq_import_file(&b.ctx, b.arena, path, &graph, &file_bytes), MPQ_E_IO,
                path);
    CHECK_OK(&b.ctx, mpq_file_write(&b.ctx, b.arena, path, true, data, bytes));
    CHECK_OK(&b.ctx, mpq_import_file(&b.ctx, b.arena, path, &graph, &file_bytes));
    assert_int_equal(file_bytes, bytes);
    CHECK_OK(&b.ctx, mpq_file_write(&b.ctx, b.arena, path, true, "some text", 9));
    CHECK_FAILS(&b.ctx, mpq_import_file(&b.ctx, b.arena, path, &graph, &file_bytes), MPQ_E_FORMAT,
                "m.onnx: is not an ONNX model");
    CHECK_OK(&b.ctx, mpq_file_write(&b.ctx, b.arena, path, true, "", 0));
    CHECK_FAILS(&b.ctx, mpq_import_file(&b.ctx, b.arena, path, &graph, &file_bytes), MPQ_E_FORMAT,
                "m.onnx: is empty");
    unlink(path);
    rmdir(folder);
    builder_release(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small_net),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_initializer_inputs),
        cmocka_unit_test(test_constants),
        cmocka_unit_test(test_bodies),
        cmocka_unit_test(test_branches),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
