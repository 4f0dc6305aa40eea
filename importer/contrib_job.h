/* An operator of com.microsoft on its way to ai.onnx: what a rule of contrib.c reads of the node
 * and makes instead. A rule that cannot translate its node makes nothing. */
#ifndef MPQ_IMPORTER_CONTRIB_JOB_H
#define MPQ_IMPORTER_CONTRIB_JOB_H

#include "importer/rewrite.h"

/* Names of the graph as it was, by what they lead to. */
struct mpq_job_names {
    struct mpq_strmap constant;              /* position among the initializers                 */
    struct mpq_strmap producer;              /* position of the node that computes it           */
    struct mpq_strmap shape;                 /* position among the declared                     */
    struct mpq_strmap read;                  /* by a node, a body, or as an output of the graph */
    uint64_t room;                           /* bytes that floats made of codes may still take  */
    const Onnx__TensorShapeProto **declared; /* shapes that the file gives values */
    size_t n_declared;
};

struct mpq_job {
    struct mpq_rewrite *rewrite;
    struct mpq_job_names *names;
    const Onnx__NodeProto *node;
    int64_t opset; /* the file's */
    bool failed;   /* out of memory, or a constant is broken: the error is in the ctx */
};

enum mpq_status mpq_job_names_build(struct mpq_rewrite *rewrite,
                                    struct mpq_job_names *out) MPQ_CHECKED;

/* ---- the node; absent inputs, outputs and constants are NULL ---- */

char *mpq_job_in(const struct mpq_job *job, size_t i);
char *mpq_job_out(const struct mpq_job *job, size_t i);
float mpq_job_float(const struct mpq_job *job, const char *name, float absent);
int64_t mpq_job_int(const struct mpq_job *job, const char *name, int64_t absent);
bool mpq_job_attr_is(const struct mpq_job *job, const char *name, const char *value);
const Onnx__TensorProto *mpq_job_constant(const struct mpq_job *job, const char *name);

/* Input i, where it is constant; other floats as FLOAT. */
bool mpq_job_read_constant(struct mpq_job *job, size_t i, struct mpq_tensor *out);

/* A FLOAT tensor for what codes stand for; false where there is no room. Many nodes may name the
 * same codes: all they make is at most 64 times the initializers, four times what codes of 2 bits
 * need. */
bool mpq_job_alloc(struct mpq_job *job, const struct mpq_shape *shape, struct mpq_tensor *out);

/* Whether something in the graph, or in a body, reads output i. */
bool mpq_job_is_read(const struct mpq_job *job, size_t i);

/* The node that computes a value, behind Casts; NULL: it is an input or constant. */
const Onnx__NodeProto *mpq_job_maker(const struct mpq_job *job, const char *name);

/* Dimensions of a value, where the file says; else -1. */
int mpq_job_rank(const struct mpq_job *job, const char *name);

/* The last dimension that the file declares, or -1. */
int64_t mpq_job_last_dim(const struct mpq_job *job, const char *name);

/* ---- what is made; NULL from any of these means that memory has run out, and is passed on ---- */

char *mpq_make_name(struct mpq_job *job, const char *stem);

/* op_type(a, b, c) under that name, or a new one where `to` is NULL; b and c may be NULL, and any
 * of a list, which are absent then. */
char *mpq_make(struct mpq_job *job, const char *op_type, char *to, char *a, char *b, char *c);
char *mpq_make_list(struct mpq_job *job, const char *op_type, char *to, size_t n, char *const *in);
char *mpq_make_with(struct mpq_job *job, const char *op_type, char *to, char *a, const char *attr,
                    int64_t value);

/* The node as another operator with its first n inputs and the attributes that `keeps` lists, up to
 * a NULL. */
char *mpq_make_like(struct mpq_job *job, const char *op_type, char *to, size_t n,
                    const char *const *keeps);

/* Initializers: the tensor, whose data are not copied; a float; an int64, and
 * a list of them. */
char *mpq_make_constant(struct mpq_job *job, const struct mpq_tensor *tensor);
char *mpq_make_number(struct mpq_job *job, float value);
char *mpq_make_int(struct mpq_job *job, int64_t value);
char *mpq_make_ints(struct mpq_job *job, int64_t n, const int64_t *value);

/* An attribute more for the node made last. */
void mpq_set_float(struct mpq_job *job, const char *name, float value);
void mpq_set_int(struct mpq_job *job, const char *name, int64_t value);
void mpq_set_ints(struct mpq_job *job, const char *name, size_t n, const int64_t *value);
void mpq_set_string(struct mpq_job *job, const char *name, const char *text);

#endif
