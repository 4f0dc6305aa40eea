/* IR + decisions -> the bytes of a QDQ ONNX file. */
#ifndef MPQ_EXPORTER_EXPORT_H
#define MPQ_EXPORTER_EXPORT_H

#include "exporter/target.h"

/* Which names the file keeps. Inputs, outputs and what others go by are called as before in any
 * case. */
enum mpq_names {
    MPQ_NAMES_ALL,
    MPQ_NAMES_NODES,  /* inner values and constants get a letter or two             */
    MPQ_NAMES_LAYERS, /* and nodes that are no layers none, but those we do not know */
    MPQ_NAMES_NONE    /* and those neither                                          */
};

struct mpq_export_plan {
    const struct mpq_graph *graph; /* simplified: what mpq_simplify() returned        */
    const struct mpq_layer_table *layers;
    const struct mpq_layer_code *code;     /* [n_layer]                               */
    const struct mpq_act_plan *act;        /* values to quantize; NULL: none          */
    const struct mpq_act_quant *act_quant; /* [n_group]                               */
    const struct mpq_target *target;
    const char *external_name; /* of the file beside the model that takes large initializers where
                                  the model would reach message_limit; NULL: LIMIT instead    */
    size_t message_limit;      /* 0: what protobuf allows                                     */
    enum mpq_names names;
};

struct mpq_export_file {
    uint8_t *data; /* the model */
    size_t bytes;
    struct mpq_export_piece {
        uint64_t offset;     /* a multiple of 4096, ascending          */
        const uint8_t *data; /* NULL where only the size was asked for */
        size_t bytes;
    } * piece;
    size_t n_piece;
    uint64_t external_bytes;  /* size of the file beside it; 0: there is none     */
    const char **weight_name; /* [n_layer] the value that nodes read as the weight */
};

/* The complete model. Names, inputs, outputs, metadata, doc strings and unknown fields of the
 * source survive; the producer is us. Same plan, same bytes. Channel scales are rounded as their
 * layers say, and raised where a byte cannot have them beside the largest; biases are rounded to
 * float16. The opset is the graph's unless the target's types need a later one. LIMIT above 2 GiB;
 * UNSUPPORTED where levels or activations are not of the target's form, or a node cannot be said in
 * the opset. */
enum mpq_status mpq_export(struct mpq_ctx *ctx, struct mpq_arena *arena,
                           const struct mpq_export_plan *plan,
                           struct mpq_export_file *out) MPQ_CHECKED;

/* What the file computes with, out_code [n_layer]: the codes of the plan with scales, weights and
 * biases as mpq_export() stores them, those biases that become integers in whole units of input
 * scale times weight scale. */
enum mpq_status mpq_export_codes(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const struct mpq_export_plan *plan,
                                 struct mpq_layer_code *out_code) MPQ_CHECKED;

/* Exactly the size of what mpq_export() would give, both files together, with layer l stored at
 * bits[l] and a full set of levels (2^bits; for 8 bits none): content does not matter. plan->code
 * is not read. */
enum mpq_status mpq_export_size(struct mpq_ctx *ctx, const struct mpq_export_plan *plan,
                                const uint8_t *bits, size_t *out_bytes) MPQ_CHECKED;

#endif
