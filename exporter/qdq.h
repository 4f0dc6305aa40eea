/* The quantized form of a graph: what stands between its nodes. Activations get a QuantizeLinear
 * and a DequantizeLinear behind the value; a layer gets its weight from the storage program. */
#ifndef MPQ_EXPORTER_QDQ_H
#define MPQ_EXPORTER_QDQ_H

#include "exporter/export.h"
#include "exporter/function.h"
#include "exporter/param.h"
#include "exporter/storage.h"

struct mpq_qdq {
    const struct mpq_export_plan *plan;
    struct mpq_build build;
    struct mpq_storage_program storage;
    struct mpq_storage_layer *stored; /* [n_layer]                                             */
    enum mpq_param_form form;
    int64_t opset;               /* of the file                                           */
    struct mpq_param *param;     /* [n_layer]                                             */
    uint32_t *layer_of;          /* [n_value] the layer it is weight or bias of, or UINT32_MAX */
    uint32_t n_done;             /* layers written so far                                 */
    const char **made_as;        /* [n_value] name under which its producer writes it     */
    const char **read_as;        /* [n_value] name under which nodes read it              */
    const char *own_input;       /* what the node written next reads as input 0; NULL: the value */
    bool *is_float;              /* [n_value] constants that are written as they are      */
    const char **weight, **bias; /* [n_layer] what nodes read instead; NULL: unchanged */
    struct mpq_functions functions;
};

/* bits NULL: plan->code is exported. Else the file is only measured, layer l at bits[l]. */
enum mpq_status mpq_qdq_init(struct mpq_ctx *ctx, struct mpq_arena *arena,
                             const struct mpq_export_plan *plan, const uint8_t *bits,
                             struct mpq_qdq *out) MPQ_CHECKED;

/* Write what comes before all nodes: constants, shared tables, quantized inputs. */
enum mpq_status mpq_qdq_begin(struct mpq_qdq *qdq) MPQ_CHECKED;

/* Write what a node needs, and what follows a value. */
enum mpq_status mpq_qdq_before_node(struct mpq_qdq *qdq, mpq_node_id node) MPQ_CHECKED;
enum mpq_status mpq_qdq_after_value(struct mpq_qdq *qdq, mpq_value_id value) MPQ_CHECKED;

/* Whether the node is a Relu or Clip that is not written: its readers get its input, quantized as
 * its output would be (saturate.h). One that a body inside some node reads by name stays. */
bool mpq_qdq_leaves_out(const struct mpq_qdq *qdq, mpq_node_id node);

/* Whether a body inside some node may read the value, by its name. */
bool mpq_qdq_is_read_inside(const struct mpq_qdq *qdq, mpq_value_id value);

/* Where the target wants it so, the bias of a convolution in the form in which an Add behind it
 * takes it; NULL: the node reads it itself, or there was no memory. */
const char *mpq_qdq_added_bias(struct mpq_qdq *qdq, mpq_node_id node);

/* Write what comes after all nodes: Casts of outputs to the type that the file gives them. */
enum mpq_status mpq_qdq_end(struct mpq_qdq *qdq) MPQ_CHECKED;

/* The name that input i of a node reads; "" where it is absent. */
const char *mpq_qdq_input(const struct mpq_qdq *qdq, mpq_node_id node, uint32_t i);

#endif
