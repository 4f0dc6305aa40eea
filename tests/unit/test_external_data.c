#include "importer/external_data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "quantcore/base/fileio.h"
#include "tests/check.h"
#include "tests/unit/model_builder.h"

/* A folder with   data.bin ("0123456789")   sub/more.bin   link.bin -> data.bin   link -> sub */
struct folder {
    char root[32], path[64];
};

static const char *in(struct folder *folder, const char *name)
{
    snprintf(folder->path, sizeof folder->path, "%s/%s", folder->root, name);
    return folder->path;
}

static void folder_create(struct folder *folder, struct builder *b)
{
    strcpy(folder->root, "/tmp/mpq_external_XXXXXX");
    assert_non_null(mkdtemp(folder->root));
    assert_int_equal(mkdir(in(folder, "sub"), 0700), 0);
    CHECK_OK(&b->ctx,
             mpq_file_write(&b->ctx, b->arena, in(folder, "data.bin"), true, "0123456789", 10));
    CHECK_OK(&b->ctx,
             mpq_file_write(&b->ctx, b->arena, in(folder, "sub/more.bin"), true, "abcdef", 6));
    assert_int_equal(symlink("data.bin", in(folder, "link.bin")), 0);
    assert_int_equal(symlink("sub", in(folder, "link")), 0);
}

static void folder_remove(struct folder *folder)
{
    static const char *const file[] = {"data.bin", "sub/more.bin", "link.bin", "link"};
    for (size_t i = 0; i < MPQ_COUNT(file); i++)
        unlink(in(folder, file[i]));
    rmdir(in(folder, "sub"));
    rmdir(folder->root);
}

/* A model with one tensor at this place; `offset` and `length` may be NULL. */
static Onnx__TensorProto *place(struct builder *b, const char *location, const char *offset,
                                const char *length)
{
    b->graph->n_initializer = 0;
    Onnx__TensorProto *tensor = builder_initializer(b, "w", MPQ_UINT8, &MPQ_SHAPE(4));
    if (location)
        builder_external(b, tensor, "location", location);
    if (offset)
        builder_external(b, tensor, "offset", offset);
    if (length)
        builder_external(b, tensor, "length", length);
    return tensor;
}

static void test_places(void **state)
{
    (void)state;
    static const struct {
        const char *location, *offset, *length, *expected;
    } good[] = {
        {"data.bin", "2", "4", "2345"},        {"data.bin", NULL, "4", "0123"},
        {"data.bin", "6", NULL, "6789"},       {"sub/more.bin", "0", "4", "abcd"},
        {"./sub//more.bin", "1", "4", "bcde"}, {"data.bin", "10", "0", ""},
    };
    uint64_t bytes;
    struct builder b;
    struct folder folder;
    builder_init(&b, 13);
    folder_create(&folder, &b);
    for (size_t i = 0; i < MPQ_COUNT(good); i++) {
        Onnx__TensorProto *tensor = place(&b, good[i].location, good[i].offset, good[i].length);
        CHECK_OK(&b.ctx, mpq_external_data_load(&b.ctx, b.arena, folder.root, b.model, &bytes));
        assert_int_equal(tensor->raw_data.len, strlen(good[i].expected));
        assert_memory_equal(tensor->raw_data.data, good[i].expected, tensor->raw_data.len);
        assert_int_equal(tensor->n_external_data, 0);
        assert_false(tensor->has_data_location);
    }
    CHECK_FAILS(&b.ctx, mpq_file_write(&b.ctx, b.arena, in(&folder, "data.bin"), true, "x", 1),
                MPQ_E_USAGE, "is read as external data");
    folder_remove(&folder);
    builder_release(&b);
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *location, *offset, *length;
        enum mpq_status status;
        const char *part;
    } bad[] = {
        {"/etc/passwd", NULL, NULL, MPQ_E_FORMAT, "absolute"},
        {"../data.bin", NULL, NULL, MPQ_E_FORMAT, "leaves the folder"},
        {"sub/../data.bin", NULL, NULL, MPQ_E_FORMAT, "leaves the folder"},
        {"sub/..", NULL, NULL, MPQ_E_FORMAT, "leaves the folder"},
        {"link.bin", NULL, NULL, MPQ_E_FORMAT, "symbolic links"},
        {"link/more.bin", NULL, NULL, MPQ_E_FORMAT, "symbolic links"},
        {"absent.bin", NULL, NULL, MPQ_E_IO, "cannot open absent.bin"},
        {"sub", NULL, NULL, MPQ_E_IO, "is not a file"},
        {"", NULL, NULL, MPQ_E_FORMAT, "no location"},
        {NULL, "0", NULL, MPQ_E_FORMAT, "no location"},
        {"data.bin", "11", NULL, MPQ_E_FORMAT, "begin after the end"},
        {"data.bin", "8", "3", MPQ_E_FORMAT, "reach beyond the end"},
        {"data.bin", "8", "18446744073709551615", MPQ_E_FORMAT, "not a number"},
        {"data.bin", "-1", NULL, MPQ_E_FORMAT, "not a number: -1"},
        {"data.bin", "2x", NULL, MPQ_E_FORMAT, "not a number: 2x"},
        {"data.bin", "", NULL, MPQ_E_FORMAT, "not a number"},
    };
    uint64_t bytes;
    struct builder b;
    struct folder folder;
    builder_init(&b, 13);
    folder_create(&folder, &b);
    for (size_t i = 0; i < MPQ_COUNT(bad); i++) {
        place(&b, bad[i].location, bad[i].offset, bad[i].length);
        CHECK_FAILS(&b.ctx, mpq_external_data_load(&b.ctx, b.arena, folder.root, b.model, &bytes),
                    bad[i].status, bad[i].part);
    }
    place(&b, "data.bin", NULL, NULL);
    CHECK_FAILS(&b.ctx, mpq_external_data_load(&b.ctx, b.arena, NULL, b.model, &bytes),
                MPQ_E_UNSUPPORTED, "tensor 'w'");
    folder_remove(&folder);
    builder_release(&b);
}

/* Tensors in attributes and in bodies are found too. */
static void test_everywhere(void **state)
{
    (void)state;
    uint64_t bytes;
    struct builder b;
    struct folder folder;
    builder_init(&b, 13);
    folder_create(&folder, &b);
    Onnx__TensorProto *outer = place(&b, "data.bin", "0", "4");
    Onnx__NodeProto *node = builder_node(&b, "If", "c", "y");
    Onnx__AttributeProto *attr =
        builder_attr(&b, node, "then_branch", ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__GRAPH);
    b.graph = attr->g = builder_graph(&b);
    Onnx__TensorProto *inner = place(&b, "sub/more.bin", "2", "4");
    Onnx__NodeProto *constant = builder_node(&b, "Constant", "", "k");
    Onnx__TensorProto *value = place(&b, "data.bin", "4", "4");
    builder_attr(&b, constant, "value", ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TENSOR)->t = value;
    b.graph->n_initializer = 0;
    b.graph->initializer[b.graph->n_initializer++] = inner;
    CHECK_OK(&b.ctx, mpq_external_data_load(&b.ctx, b.arena, folder.root, b.model, &bytes));
    assert_int_equal(bytes, 12);
    assert_memory_equal(outer->raw_data.data, "0123", 4);
    assert_memory_equal(inner->raw_data.data, "cdef", 4);
    assert_memory_equal(value->raw_data.data, "4567", 4);
    folder_remove(&folder);
    builder_release(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_everywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
