/* Which patterns of DequantizeLinear, operator and QuantizeLinear ONNX Runtime runs on integers:
 * the conditions of its passes. fuse_integer.c acts on them. */
#ifndef MPQ_PASS_FUSE_MATCH_H
#define MPQ_PASS_FUSE_MATCH_H

#include "quantcore/pass/pass.h"

/* value = DequantizeLinear(q, scale, zero) */
struct mpq_origin {
    mpq_value_id q, scale, zero; /* q NO_VALUE: it is not; zero may be NO_VALUE, which is 0 */
    enum mpq_dtype dtype;        /* of q                                                    */
    int64_t axis;                /* of the scale, where it has more than one element        */
};

enum mpq_fuse_form {
    MPQ_FUSE_UNARY,
    MPQ_FUSE_BINARY,
    MPQ_FUSE_VARIADIC,
    MPQ_FUSE_CONV,
    MPQ_FUSE_GEMM,
    MPQ_FUSE_MATMUL
};

struct mpq_fuse_rule {
    const char *op_type;
    enum mpq_fuse_form form;
    const char *fused, *domain;
};

struct mpq_fuser {
    struct mpq_ctx *ctx;
    const struct mpq_graph *from;
    struct mpq_uses uses; /* of from */
    struct mpq_graph *to;
    struct mpq_origin *origin; /* [n_value of from] */
    mpq_value_id *stand_in;    /* [n_value of from]: what readers of a value read now */
    enum mpq_dtype *dtype;     /* [n_value of from]: element type where known         */
    mpq_value_id zero[2];      /* constants 0 of uint8 and int8, made when needed     */
    mpq_value_id *shifted;     /* [n_value of from]: see mpq_fuse_is_shiftable(), else NO_VALUE */
    bool *is_done;             /* [n_node of from]: it went into a fused node         */
};

/* What comes behind an operator. */
struct mpq_tail {
    mpq_node_id clip, q; /* NO_NODE where there is none */
    mpq_value_id last;   /* what the QuantizeLinear, or the first mover before it, reads */
};

/* The constant that v is in the new graph, or NULL. */
const struct mpq_tensor *mpq_fuse_constant_of(const struct mpq_fuser *f, mpq_value_id v);

/* Whether QuantizeLinear moves up and DequantizeLinear down through the node. */
bool mpq_fuse_is_mover(const struct mpq_node *node);

bool mpq_fuse_is_eight_bits(enum mpq_dtype dtype);

/* Whether a Q or DQ node has a constant scale and zero point of one element, or of one an index of
 * an axis where `may_have_axis`; whether the scale has one. */
bool mpq_fuse_is_plain(const struct mpq_fuser *f, const struct mpq_node *node, bool may_have_axis);
bool mpq_fuse_is_scalar(const struct mpq_fuser *f, const struct mpq_origin *o);

/* ONNX Runtime on x86 runs int8 activations as uint8, zero point and all 128 higher, where one
 * DequantizeLinear alone reads the integers and one node alone reads that (QDQS8ToU8Transformer).
 * The others stay int8, which its Conv and MatMul do not take there. */
bool mpq_fuse_is_shiftable(const struct mpq_fuser *f, const struct mpq_node *q);

/* Type and zero point of what a QuantizeLinear makes, and zero point of what a DequantizeLinear
 * reads, as it will run. */
enum mpq_dtype mpq_fuse_made_type(const struct mpq_fuser *f, const struct mpq_node *q);
mpq_value_id mpq_fuse_made_zero(const struct mpq_fuser *f, const struct mpq_node *q);
mpq_value_id mpq_fuse_read_zero(const struct mpq_fuser *f, const struct mpq_node *dq);

/* Whether the QuantizeLinear gives the integers of `o` back. */
bool mpq_fuse_is_inverse(const struct mpq_fuser *f, const struct mpq_node *q,
                         const struct mpq_origin *o);

/* False where the node must stay as it is. With tail->q NO_NODE its output stays float. */
bool mpq_fuse_find_tail(const struct mpq_fuser *f, const struct mpq_node *node,
                        struct mpq_tail *out);

/* Whether the rule holds for inputs of that origin and an output of that type. */
bool mpq_fuse_is_fusible(const struct mpq_fuser *f, const struct mpq_node *node,
                         const struct mpq_fuse_rule *rule, const struct mpq_origin *in, uint32_t n,
                         enum mpq_dtype y);

#endif
