/* Writes the small models and data files that tests/cli/run.sh feeds the program, good and bad,
 * into the folder argv[1]. The protobuf bytes are put together here, by the wire format's own rules
 * (https://protobuf.dev/programming-guides/encoding/), so that no code under test makes them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calibration/npz.h"
#include "quantcore/base/fileio.h"

struct bytes {
    size_t n;
    uint8_t data[16384];
};

static void put_varint(struct bytes *b, uint64_t value)
{
    for (; value > 127; value >>= 7)
        b->data[b->n++] = (uint8_t)(value | 128);
    b->data[b->n++] = (uint8_t)value;
}

static void put_int(struct bytes *b, unsigned field, uint64_t value)
{
    put_varint(b, field << 3);
    put_varint(b, value);
}

static void put_bytes(struct bytes *b, unsigned field, const void *data, size_t n)
{
    put_varint(b, field << 3 | 2);
    put_varint(b, n);
    MPQ_ASSERT(b->n + n < sizeof b->data);
    memcpy(b->data + b->n, data, n);
    b->n += n;
}

static void put_text(struct bytes *b, unsigned field, const char *text)
{
    put_bytes(b, field, text, strlen(text));
}

static void put_message(struct bytes *b, unsigned field, const struct bytes *message)
{
    put_bytes(b, field, message->data, message->n);
}

/* ---- the parts of an ONNX model, by the field numbers of onnx.proto ---- */

/* GraphProto.input or .output: float [N, dim...]. */
static void put_value(struct bytes *graph, unsigned field, const char *name, const int64_t *dim,
                      int n_dim)
{
    struct bytes shape = {0}, tensor = {0}, type = {0}, info = {0}, batch = {0};
    put_text(&batch, 2, "N");
    put_message(&shape, 1, &batch);
    for (int i = 0; i < n_dim; i++) {
        struct bytes d = {0};
        put_int(&d, 1, (uint64_t)dim[i]);
        put_message(&shape, 1, &d);
    }
    put_int(&tensor, 1, 1);
    put_message(&tensor, 2, &shape);
    put_message(&type, 1, &tensor);
    put_text(&info, 1, name);
    put_message(&info, 2, &type);
    put_message(graph, field, &info);
}

/* GraphProto.initializer: float, small numbers of both signs; the last one is `last`. */
static void put_weight(struct bytes *graph, const char *name, const int64_t *dim, int n_dim,
                       float last)
{
    struct bytes tensor = {0};
    float data[2048];
    size_t n = 1;
    for (int i = 0; i < n_dim; i++) {
        put_int(&tensor, 1, (uint64_t)dim[i]);
        n *= (size_t)dim[i];
    }
    MPQ_ASSERT(n <= MPQ_COUNT(data));
    for (size_t i = 0; i < n; i++)
        data[i] = (float)((i * 37 + 11) % 101) / 101 - 0.5f;
    data[n - 1] = last;
    put_int(&tensor, 2, 1);
    put_text(&tensor, 8, name);
    put_bytes(&tensor, 9, data, n * sizeof *data);
    put_message(graph, 5, &tensor);
}

/* NodeProto; `inputs` are names separated by blanks. */
static struct bytes make_node(const char *op_type, const char *inputs, const char *output)
{
    struct bytes node = {0};
    char copy[128];
    snprintf(copy, sizeof copy, "%s", inputs);
    for (char *name = strtok(copy, " "); name; name = strtok(NULL, " "))
        put_text(&node, 1, name);
    put_text(&node, 2, output);
    put_text(&node, 3, output);
    put_text(&node, 4, op_type);
    return node;
}

static void put_attr_int(struct bytes *node, const char *name, uint64_t value)
{
    struct bytes attr = {0};
    put_text(&attr, 1, name);
    put_int(&attr, 3, value);
    put_int(&attr, 20, 2);
    put_message(node, 5, &attr);
}

/* x [N,1,8,8] -> Conv 3x3 -> Relu -> `middle` -> Flatten -> Gemm -> y [N,3]. */
static struct bytes make_model(const char *middle, float last_weight)
{
    struct bytes graph = {0}, model = {0}, opset = {0};
    struct bytes conv = make_node("Conv", "x w1 b1", "conv"), relu = make_node("Relu", "conv", "r");
    struct bytes pool = make_node(middle, "r", "pool"), flat = make_node("Flatten", "pool", "flat");
    struct bytes gemm = make_node("Gemm", "flat w2 b2", "y");
    put_attr_int(&gemm, "transB", 1);
    put_message(&graph, 1, &conv);
    put_message(&graph, 1, &relu);
    put_message(&graph, 1, &pool);
    put_message(&graph, 1, &flat);
    put_message(&graph, 1, &gemm);
    put_text(&graph, 2, "tiny");
    put_weight(&graph, "w1", (int64_t[]){64, 1, 3, 3}, 4, last_weight);
    put_weight(&graph, "b1", (int64_t[]){64}, 1, 0.25f);
    put_weight(&graph, "w2", (int64_t[]){3, 64}, 2, 0.5f);
    put_weight(&graph, "b2", (int64_t[]){3}, 1, 0);
    put_value(&graph, 11, "x", (int64_t[]){1, 8, 8}, 3);
    put_value(&graph, 12, "y", (int64_t[]){3}, 1);
    put_int(&opset, 2, 13);
    put_int(&model, 1, 8);
    put_message(&model, 7, &graph);
    put_message(&model, 8, &opset);
    return model;
}

/* ---- files ---- */

struct writer {
    struct mpq_ctx *ctx;
    struct mpq_arena *arena;
    const char *folder;
};

static const char *in_folder(const struct writer *w, const char *name)
{
    return mpq_arena_printf(w->ctx, w->arena, "%s/%s", w->folder, name);
}

static enum mpq_status write_bytes(const struct writer *w, const char *name, const void *data,
                                   size_t n)
{
    return mpq_file_write(w->ctx, w->arena, in_folder(w, name), true, data, n);
}

/* An array of 40 samples, and labels 0..2 but for the last one. */
static enum mpq_status write_data(const struct writer *w, const char *file, const char *array,
                                  int64_t width, float last, int64_t last_label)
{
    enum { N = 40 };
    struct mpq_tensor tensor[2];
    struct mpq_shape shape[2] = {MPQ_SHAPE(N, 1, 8, width), MPQ_SHAPE(N)};
    const char *const name[2] = {array, "labels"};
    MPQ_TRY(mpq_tensor_alloc(w->ctx, w->arena, MPQ_FLOAT, &shape[0], &tensor[0]));
    MPQ_TRY(mpq_tensor_alloc(w->ctx, w->arena, MPQ_INT64, &shape[1], &tensor[1]));
    int64_t n = mpq_shape_count(&shape[0]);
    for (int64_t i = 0; i < n; i++)
        mpq_tensor_set_double(&tensor[0], i, sin((double)(i * i % 1009)));
    mpq_tensor_set_double(&tensor[0], n - 1, (double)last);
    for (int64_t i = 0; i < N; i++)
        mpq_tensor_set_double(&tensor[1], i, (double)(i == N - 1 ? last_label : i % 3));
    return mpq_npz_write(w->ctx, w->arena, in_folder(w, file), true, name, tensor, 2);
}

static enum mpq_status write_all(const struct writer *w)
{
    static struct bytes good, unknown, not_a_number;
    good = make_model("GlobalAveragePool", 0.5f);
    unknown = make_model("Blur", 0.5f);
    not_a_number = make_model("GlobalAveragePool", NAN);
    MPQ_TRY(write_bytes(w, "good.onnx", good.data, good.n));
    MPQ_TRY(write_bytes(w, "truncated.onnx", good.data, good.n / 2));
    MPQ_TRY(write_bytes(w, "unknown.onnx", unknown.data, unknown.n));
    MPQ_TRY(write_bytes(w, "nan.onnx", not_a_number.data, not_a_number.n));
    MPQ_TRY(write_bytes(w, "text.onnx", "this is not a model\n", 20));
    MPQ_TRY(write_bytes(w, "empty.onnx", "", 0));
    MPQ_TRY(write_data(w, "good.npz", "x", 8, 0.5f, 2));
    MPQ_TRY(write_data(w, "wide.npz", "x", 9, 0.5f, 2));
    MPQ_TRY(write_data(w, "named.npz", "z", 8, 0.5f, 2));
    MPQ_TRY(write_data(w, "nan.npz", "x", 8, NAN, 2));
    return write_data(w, "label.npz", "x", 8, 0.5f, 3);
}

int main(int argc, char **argv)
{
    struct mpq_ctx ctx;
    mpq_ctx_init(&ctx);
    struct writer w = {&ctx, mpq_arena_create(&ctx), argc > 1 ? argv[1] : "."};
    enum mpq_status status = w.arena ? write_all(&w) : MPQ_E_NOMEM;
    mpq_arena_free(w.arena);
    if (status != MPQ_OK)
        fprintf(stderr, "make_inputs: %s\n", ctx.message);
    return status != MPQ_OK;
}
