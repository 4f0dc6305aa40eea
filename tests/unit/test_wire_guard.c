#include "proto/wire_guard.h"

#include <stdlib.h>
#include <string.h>

#include "quantcore/base/limits.h"
#include "tests/check.h"

/* Bytes built from the inside out: wrap() puts a tag and a length before what is there. */
struct wire {
    uint8_t *data;
    size_t bytes;
};

static void put_front(struct wire *wire, const void *data, size_t bytes)
{
    uint8_t *grown = malloc(wire->bytes + bytes);
    assert_non_null(grown);
    memcpy(grown, data, bytes);
    if (wire->bytes)
        memcpy(grown + bytes, wire->data, wire->bytes);
    free(wire->data);
    wire->data = grown;
    wire->bytes += bytes;
}

static size_t varint(uint64_t value, uint8_t out[10])
{
    size_t n = 0;
    for (; value >= 0x80; value >>= 7)
        out[n++] = (uint8_t)(value | 0x80);
    out[n++] = (uint8_t)value;
    return n;
}

static void wrap(struct wire *wire, unsigned field)
{
    uint8_t head[20];
    size_t n = varint((uint64_t)field << 3 | 2, head);
    n += varint(wire->bytes, head + n);
    put_front(wire, head, n);
}

static void fill(struct wire *wire, size_t bytes, uint8_t byte)
{
    uint8_t *data = malloc(bytes + 1);
    assert_non_null(data);
    memset(data, byte, bytes);
    free(wire->data);
    *wire = (struct wire){data, bytes};
}

/* The guard on an exact copy, so that AddressSanitizer sees a read past the end. */
static enum mpq_status guard(struct mpq_ctx *ctx, const struct wire *wire)
{
    uint8_t *copy = malloc(wire->bytes);
    memcpy(copy, wire->data, wire->bytes);
    enum mpq_status status = mpq_wire_guard(ctx, copy, wire->bytes);
    free(copy);
    return status;
}

enum { MODEL_GRAPH = 7, GRAPH_NODE = 1, NODE_INPUT = 1, NODE_ATTRIBUTE = 5, ATTRIBUTE_G = 6 };

static void test_not_a_model(void **state)
{
    (void)state;
    static const char *const text[] = {
        "hello, this is text",
        "{\"json\": true}",
        "ir_version: 8\ngraph {\n}\n",
        "\x89PNG\r\n\x1a\n....",
        "PK\x03\x04zip",
        "\n\n\n",
        "<html>",
    };
    struct mpq_ctx ctx;
    mpq_ctx_init(&ctx);
    CHECK_FAILS(&ctx, mpq_wire_guard(&ctx, (const uint8_t *)"", 0), MPQ_E_FORMAT, "is empty");
    for (size_t i = 0; i < MPQ_COUNT(text); i++)
        CHECK_FAILS(&ctx, mpq_wire_guard(&ctx, (const uint8_t *)text[i], strlen(text[i])),
                    MPQ_E_FORMAT, "is not an ONNX model");
    /* ir_version = 7, and nothing else */
    CHECK_FAILS(&ctx, mpq_wire_guard(&ctx, (const uint8_t *)"\x08\x07", 2), MPQ_E_FORMAT,
                "no graph");
}

/* model > graph > node > attribute > graph > ... with `levels` messages in all. */
static void nest(struct wire *wire, int levels)
{
    static const unsigned inner[] = {GRAPH_NODE, NODE_ATTRIBUTE, ATTRIBUTE_G};
    *wire = (struct wire){0};
    for (int level = levels - 1; level >= 2; level--)
        wrap(wire, inner[(level - 2) % 3]);
    wrap(wire, MODEL_GRAPH);
}

static void test_depth(void **state)
{
    (void)state;
    struct mpq_ctx ctx;
    mpq_ctx_init(&ctx);
    struct wire wire;
    nest(&wire, MPQ_LIMIT_DEPTH);
    CHECK_OK(&ctx, guard(&ctx, &wire));
    free(wire.data);
    nest(&wire, MPQ_LIMIT_DEPTH + 1);
    CHECK_FAILS(&ctx, guard(&ctx, &wire), MPQ_E_LIMIT, "nested more than 64");
    free(wire.data);
    nest(&wire, 20000);
    CHECK_FAILS(&ctx, guard(&ctx, &wire), MPQ_E_LIMIT, "nested more than 64");
    free(wire.data);
}

static void attributes(struct wire *wire, size_t n)
{
    *wire = (struct wire){0};
    for (size_t i = 0; i < n; i++)
        put_front(wire, "\x2a\x00", 2); /* NodeProto.attribute, empty */
    wrap(wire, GRAPH_NODE);
    wrap(wire, MODEL_GRAPH);
}

static void test_counts(void **state)
{
    (void)state;
    struct mpq_ctx ctx;
    mpq_ctx_init(&ctx);
    struct wire wire;
    attributes(&wire, MPQ_LIMIT_ATTRS);
    CHECK_OK(&ctx, guard(&ctx, &wire));
    free(wire.data);
    attributes(&wire, MPQ_LIMIT_ATTRS + 1);
    CHECK_FAILS(&ctx, guard(&ctx, &wire), MPQ_E_LIMIT, "more than 256 attributes");
    free(wire.data);

    wire = (struct wire){0};
    fill(&wire, 2 * ((size_t)MPQ_LIMIT_NODES + 1), 0);
    for (size_t i = 0; i < wire.bytes; i += 2)
        wire.data[i] = GRAPH_NODE << 3 | 2; /* and a length of 0 */
    wire.bytes -= 2;
    wrap(&wire, MODEL_GRAPH);
    CHECK_OK(&ctx, guard(&ctx, &wire));
    put_front(&wire, "\x3a\x02\x0a\x00", 4); /* another graph with one node: given twice */
    CHECK_FAILS(&ctx, guard(&ctx, &wire), MPQ_E_FORMAT, "given twice");
    free(wire.data);
    wire = (struct wire){0};
    fill(&wire, 2 * ((size_t)MPQ_LIMIT_NODES + 1), 0);
    for (size_t i = 0; i < wire.bytes; i += 2)
        wire.data[i] = GRAPH_NODE << 3 | 2;
    wrap(&wire, MODEL_GRAPH);
    CHECK_FAILS(&ctx, guard(&ctx, &wire), MPQ_E_LIMIT, "more than 1000000 nodes");
    free(wire.data);
}

static void named(struct wire *wire, size_t bytes, unsigned field, uint8_t byte)
{
    *wire = (struct wire){0};
    fill(wire, bytes, byte);
    wrap(wire, field);
    wrap(wire, GRAPH_NODE);
    wrap(wire, MODEL_GRAPH);
}

static void test_names(void **state)
{
    (void)state;
    enum { NODE_DOC_STRING = 6 };
    struct mpq_ctx ctx;
    mpq_ctx_init(&ctx);
    struct wire wire;
    named(&wire, MPQ_LIMIT_NAME_BYTES, NODE_INPUT, 'n');
    CHECK_OK(&ctx, guard(&ctx, &wire));
    free(wire.data);
    named(&wire, MPQ_LIMIT_NAME_BYTES + 1, NODE_INPUT, 'n');
    CHECK_FAILS(&ctx, guard(&ctx, &wire), MPQ_E_LIMIT, "'input' has 4097 bytes");
    free(wire.data);
    named(&wire, 100000, NODE_DOC_STRING, 'n');
    CHECK_OK(&ctx, guard(&ctx, &wire));
    free(wire.data);
    named(&wire, 3, NODE_INPUT, 0);
    CHECK_FAILS(&ctx, guard(&ctx, &wire), MPQ_E_FORMAT, "zero byte");
    free(wire.data);
}

/* A graph holding this tag and payload. */
static void check_graph(const char *bytes, size_t n, enum mpq_status expected, const char *part)
{
    struct mpq_ctx ctx;
    mpq_ctx_init(&ctx);
    struct wire wire = {0};
    put_front(&wire, bytes, n);
    wrap(&wire, MODEL_GRAPH);
    if (expected == MPQ_OK)
        CHECK_OK(&ctx, guard(&ctx, &wire));
    else
        CHECK_FAILS(&ctx, guard(&ctx, &wire), expected, part);
    free(wire.data);
}

static void test_wire_types(void **state)
{
    (void)state;
    check_graph("\x99\x06.8bytes.", 10, MPQ_OK, NULL);        /* field 99, 64 bits    */
    check_graph("\x9d\x06.4b.", 6, MPQ_OK, NULL);             /* field 99, 32 bits    */
    check_graph("\x98\x06\xff\xff\x01", 5, MPQ_OK, NULL);     /* field 99, a number   */
    check_graph("\x9a\x06\x03\x0a\x7f\x7f", 6, MPQ_OK, NULL); /* field 99, any bytes */
    check_graph("\x0b\x0c", 2, MPQ_E_FORMAT, "unknown kind"); /* a group             */
    check_graph("\x0f", 1, MPQ_E_FORMAT, "unknown kind");
    check_graph("\x02", 1, MPQ_E_FORMAT, "impossible field number");
    check_graph("\x0a\x05\x00", 3, MPQ_E_FORMAT, "longer than what remains");
    check_graph("\x99\x06.7byte.", 9, MPQ_E_FORMAT, "longer than what remains");
    check_graph("\x98\x06\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 13, MPQ_E_FORMAT,
                "endless number");
    check_graph("\x0a\xff\xff\xff\xff\xff\x01", 7, MPQ_E_FORMAT, "endless number");
    check_graph("\x0a\x80", 2, MPQ_E_FORMAT, "endless number");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_not_a_model), cmocka_unit_test(test_depth),
        cmocka_unit_test(test_counts),      cmocka_unit_test(test_names),
        cmocka_unit_test(test_wire_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
