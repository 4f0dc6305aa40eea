/* Attributes of a node, free of protobuf: what the importer read and what the exporter writes. */
#ifndef MPQ_IR_ATTR_H
#define MPQ_IR_ATTR_H

#include "quantcore/ir/tensor.h"

enum mpq_attr_kind {
    MPQ_ATTR_INT,
    MPQ_ATTR_FLOAT,
    MPQ_ATTR_STRING,
    MPQ_ATTR_TENSOR,
    MPQ_ATTR_INTS,
    MPQ_ATTR_FLOATS,
    MPQ_ATTR_STRINGS,
    MPQ_ATTR_OPAQUE /* graphs, sparse tensors, types: carried, not understood here */
};

struct mpq_attr {
    const char *name;
    enum mpq_attr_kind kind;
    size_t n; /* entries of ints, floats, strings; bytes of a string */
    union {
        int64_t i;
        float f;
        const char *s; /* n bytes, and a zero byte after them */
        const struct mpq_tensor *tensor;
        const int64_t *ints;
        const float *floats;
        const char *const *strings; /* zero-terminated each */
        const void *opaque;         /* the importer's AttributeProto; only the exporter looks in */
    };
};

struct mpq_attr_set {
    size_t n;
    const struct mpq_attr *attr;
};

/* The attribute of that name, or NULL. */
const struct mpq_attr *mpq_attr_find(const struct mpq_attr_set *set, const char *name);

/* Typed readers with a default for an absent attribute; one of another kind counts as absent. */
int64_t mpq_attr_int(const struct mpq_attr_set *set, const char *name, int64_t absent);
float mpq_attr_float(const struct mpq_attr_set *set, const char *name, float absent);
const char *mpq_attr_string(const struct mpq_attr_set *set, const char *name, const char *absent);
/* The integers and their count, NULL and 0 where absent. */
const int64_t *mpq_attr_ints(const struct mpq_attr_set *set, const char *name, size_t *out_n);

/* A copy of `set` (arena) in which attr->name is this attribute, replaced or appended. */
enum mpq_status mpq_attr_set_with(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_attr_set *set, const struct mpq_attr *attr,
                                  struct mpq_attr_set *out) MPQ_CHECKED;
/* A copy without that name. */
enum mpq_status mpq_attr_set_without(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                     const struct mpq_attr_set *set, const char *name,
                                     struct mpq_attr_set *out) MPQ_CHECKED;

#endif
