/* Small ONNX models, built from protobuf-c structs. Everything lives in the arena; strings and data
 * given here must live as long. Running out of memory fails the test. */
#ifndef MPQ_TESTS_MODEL_BUILDER_H
#define MPQ_TESTS_MODEL_BUILDER_H

#include "proto/proto_model.h"
#include "quantcore/ir/graph.h"

struct builder {
    struct mpq_ctx ctx;
    struct mpq_arena *arena;
    Onnx__ModelProto *model;
    Onnx__GraphProto *graph; /* additions go here: the model's, or a body's */
};

void builder_init(struct builder *b, int64_t opset);
void builder_release(struct builder *b);
Onnx__GraphProto *builder_graph(struct builder *b); /* an empty one of no model */

void builder_input(struct builder *b, const char *name, enum mpq_dtype dtype,
                   const struct mpq_shape *shape);
void builder_output(struct builder *b, const char *name);

/* An initializer with no data yet, and one with raw data. */
Onnx__TensorProto *builder_initializer(struct builder *b, const char *name, enum mpq_dtype dtype,
                                       const struct mpq_shape *shape);
Onnx__TensorProto *builder_raw(struct builder *b, const char *name, enum mpq_dtype dtype,
                               const struct mpq_shape *shape, const void *data, size_t bytes);

/* `in` and `out` are names with a space between; "-" is an absent one. */
Onnx__NodeProto *builder_node(struct builder *b, const char *op_type, const char *in,
                              const char *out);
Onnx__AttributeProto *builder_attr(struct builder *b, Onnx__NodeProto *node, const char *name,
                                   int type); /* no value yet */
void builder_attr_int(struct builder *b, Onnx__NodeProto *node, const char *name, int64_t value);
void builder_attr_float(struct builder *b, Onnx__NodeProto *node, const char *name, float value);
void builder_attr_string(struct builder *b, Onnx__NodeProto *node, const char *name,
                         const char *value);
void builder_attr_ints(struct builder *b, Onnx__NodeProto *node, const char *name,
                       const int64_t *value, size_t n);

/* Key and value of a tensor's external data. */
void builder_external(struct builder *b, Onnx__TensorProto *tensor, const char *key,
                      const char *value);

/* x [2, 3] -> Gemm with w [3, 4], b [4] -> Relu -> y; opset 13. */
void builder_small_net(struct builder *b);

void builder_pack(struct builder *b, uint8_t **out_data, size_t *out_bytes);

#endif
