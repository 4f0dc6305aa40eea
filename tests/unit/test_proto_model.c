#include "proto/proto_model.h"

#include <string.h>

#include "tests/check.h"
#include "tests/unit/model_builder.h"

static void test_round_trip(void **state)
{
    (void)state;
    struct builder b;
    builder_small_net(&b);
    uint8_t *data, *again;
    size_t bytes, again_bytes;
    builder_pack(&b, &data, &bytes);
    assert_int_equal(bytes, mpq_proto_bytes(b.model));
    Onnx__ModelProto *model;
    CHECK_OK(&b.ctx, mpq_proto_unpack(&b.ctx, b.arena, data, bytes, &model));
    assert_int_equal(model->graph->n_node, 2);
    assert_string_equal(model->graph->node[1]->op_type, "Relu");
    CHECK_OK(&b.ctx, mpq_proto_pack(&b.ctx, b.arena, model, &again, &again_bytes));
    assert_int_equal(bytes, again_bytes);
    assert_memory_equal(data, again, bytes);
    builder_release(&b);
}

/* Fields of a later schema, of every wire type, at the end of the model and inside the graph. */
static void test_unknown_fields(void **state)
{
    (void)state;
    static const uint8_t unknown[] = "\xd8\x06\x96\x01" /* field 107: 150     */
                                     "\xda\x06\x03"     /* field 107: 3 bytes */
                                     "abc"
                                     "\xdd\x06\x01\x02\x03\x04" /* 32 bits            */
                                     "\xd9\x06\x01\x02\x03\x04\x05\x06\x07\x08";
    struct builder b;
    builder_small_net(&b);
    size_t n_unknown = sizeof unknown - 1;
    uint8_t *graph = mpq_arena_alloc(&b.ctx, b.arena, 4096, 1);
    size_t graph_bytes = onnx__graph_proto__pack(b.graph, graph);
    assert_true(graph_bytes + n_unknown < 16000 && graph_bytes + n_unknown >= 128);
    memcpy(graph + graph_bytes, unknown, n_unknown);
    graph_bytes += n_unknown;
    uint8_t *data = mpq_arena_alloc(&b.ctx, b.arena, 8192, 1);
    size_t n = 0;
    data[n++] = 7 << 3 | 2;
    data[n++] = (uint8_t)(graph_bytes | 0x80);
    data[n++] = (uint8_t)(graph_bytes >> 7);
    memcpy(data + n, graph, graph_bytes);
    n += graph_bytes;
    memcpy(data + n, unknown, n_unknown);
    n += n_unknown;
    Onnx__ModelProto *model;
    uint8_t *again;
    size_t again_bytes;
    CHECK_OK(&b.ctx, mpq_proto_unpack(&b.ctx, b.arena, data, n, &model));
    CHECK_OK(&b.ctx, mpq_proto_pack(&b.ctx, b.arena, model, &again, &again_bytes));
    assert_int_equal(n, again_bytes);
    assert_memory_equal(data, again, n);
    builder_release(&b);
}

static void test_wrong_wire_type(void **state)
{
    (void)state;
    struct mpq_ctx ctx;
    mpq_ctx_init(&ctx);
    struct mpq_arena *arena = mpq_arena_create(&ctx);
    Onnx__ModelProto *model;
    /* graph with GraphProto.name (a string) given as a number */
    CHECK_FAILS(&ctx, mpq_proto_unpack(&ctx, arena, (const uint8_t *)"\x3a\x02\x10\x05", 4, &model),
                MPQ_E_FORMAT, "not of the kind");
    mpq_arena_free(arena);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    struct builder b;
    builder_small_net(&b);
    uint8_t *data;
    size_t bytes;
    builder_pack(&b, &data, &bytes);
    enum mpq_status status = MPQ_E_NOMEM;
    int n_failed = 0;
    for (long left = 0; status != MPQ_OK; left++) {
        struct mpq_ctx ctx;
        mpq_ctx_init(&ctx);
        struct mpq_arena *arena = mpq_arena_create(&ctx);
        ctx.allocations_left = left;
        Onnx__ModelProto *model;
        status = mpq_proto_unpack(&ctx, arena, data, bytes, &model);
        assert_true(status == MPQ_OK || status == MPQ_E_NOMEM);
        n_failed += status != MPQ_OK;
        mpq_arena_free(arena);
    }
    assert_true(n_failed > 30);
    builder_release(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_unknown_fields),
        cmocka_unit_test(test_wrong_wire_type),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
