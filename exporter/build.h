/* A GraphProto under construction: nodes, initializers, short names that nothing else has.
 *
 * Every function returns NULL once memory has run out (the error is in ctx) and accepts such a
 * NULL, so a chain of calls needs one check at its end. */
#ifndef MPQ_EXPORTER_BUILD_H
#define MPQ_EXPORTER_BUILD_H

#include <onnx.pb-c.h>

#include "quantcore/ir/graph.h"

struct mpq_build {
    struct mpq_ctx *ctx;
    struct mpq_arena *arena;
    bool measured; /* only the size of the file is asked for: weights may have no data */

    const struct mpq_strmap *taken; /* names that must not be given to something new */
    struct mpq_strmap taken_inside; /* likewise: names that subgraphs of nodes use   */
    uint32_t n_candidate;           /* the next name to try                          */

    struct mpq_build_name {
        char text[12];
        uint32_t n_use, number;
    } * *name; /* all that were made, apart from each other, for they are rewritten */
    size_t n_name, name_capacity;

    Onnx__NodeProto **node;
    Onnx__TensorProto **initializer;
    size_t n_node, node_capacity, n_initializer, initializer_capacity;

    struct mpq_build_shared {
        struct mpq_tensor tensor;
        const char *name;
    } * shared;
    size_t n_shared, shared_capacity;
};

enum mpq_status mpq_build_init(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               const struct mpq_graph *graph, struct mpq_build *out) MPQ_CHECKED;

/* Name i < MPQ_N_LETTER of one letter: a, b, ... */
enum { MPQ_N_LETTER = 52 };
const char *mpq_build_letter(size_t i);

/* A new name: a0, b0, ... Once the graph is complete, _shorten() writes all of them anew, in place,
 * those that are used most in one letter; none is made after that. */
const char *mpq_build_name(struct mpq_build *build);
enum mpq_status mpq_build_shorten(struct mpq_build *build) MPQ_CHECKED;

/* Append a filled message. False: no memory. */
bool mpq_build_append_node(struct mpq_build *build, Onnx__NodeProto *node);
bool mpq_build_append_initializer(struct mpq_build *build, Onnx__TensorProto *tensor);

/* A nameless node of the domain ai.onnx with one output, whose name is returned. */
struct mpq_build_op {
    const char *op_type;
    const char *in[4];       /* up to the first NULL; "" is an absent input   */
    const char *out;         /* NULL: a new name                              */
    const char *attr;        /* the one attribute, or NULL                    */
    int64_t attr_int;        /* its value, unless ...                         */
    const char *attr_string; /* ... this is not NULL                          */
};
const char *mpq_build_op(struct mpq_build *build, const struct mpq_build_op *op);
#define MPQ_BUILD_OP(build, name, ...)                                                             \
    mpq_build_op(build, &(struct mpq_build_op){.op_type = name, .in = __VA_ARGS__})

/* Split into pieces of the given lengths; out_piece [n] gets their names. */
bool mpq_build_split(struct mpq_build *build, const char *in, const int64_t *length, size_t n,
                     int axis, const char **out_piece);
/* The same, under the names piece [n]. */
bool mpq_build_split_as(struct mpq_build *build, const char *in, const int64_t *length, size_t n,
                        int axis, const char *const *piece);

/* An initializer of its own; tensor->data may be NULL where build->measured.
 * `name` NULL: a new one. Returns the name. */
const char *mpq_build_constant(struct mpq_build *build, const struct mpq_tensor *tensor,
                               const char *name);
/* A constant of the graph, as it is. */
const char *mpq_build_keep(struct mpq_build *build, const struct mpq_tensor *tensor,
                           const char *name);
/* One shared by all who ask for the same type, shape and content; for small ones. */
const char *mpq_build_shared(struct mpq_build *build, const struct mpq_tensor *tensor);
const char *mpq_build_shared_ints(struct mpq_build *build, const int64_t *value, size_t n);
const char *mpq_build_shared_int32(struct mpq_build *build, int32_t value); /* scalars */
const char *mpq_build_shared_uint8(struct mpq_build *build, uint8_t value);
const char *mpq_build_shared_float(struct mpq_build *build, float value);

#endif
