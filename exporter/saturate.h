/* Relu and Clip that the quantization of what they make renders idle. */
#ifndef MPQ_EXPORTER_SATURATE_H
#define MPQ_EXPORTER_SATURATE_H

#include "exporter/export.h"

/* Whether node n is a Relu or Clip with a quantized output whose integers are the same without it:
 * what it cuts off, rounding and saturation bring to the same end of the range. Its input may be
 * quantized in its place; ONNX Runtime (ClipQuantFusion, ReluQuantFusion) and its quantizer do just
 * that. Bounds that are computed, or in the wrong order, are none of these. */
bool mpq_is_saturation(const struct mpq_export_plan *plan, mpq_node_id n);

#endif
