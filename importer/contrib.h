/* Operators of ONNX Runtime's own domain, com.microsoft, in operators of ai.onnx. */
#ifndef MPQ_IMPORTER_CONTRIB_H
#define MPQ_IMPORTER_CONTRIB_H

#include <onnx.pb-c.h>

#include "quantcore/base/arena.h"

/* Nodes of the main graph that optimizers and quantizers write (FusedConv, SkipLayerNormalization,
 * MatMulNBits, ...; the table is in contrib.c) give way to what they stand for: so their
 * weights can be quantized, and the file that is written needs no runtime of a special kind, which
 * fuses them again if it is ONNX Runtime. Forms that have no equivalent stay as they are. */
enum mpq_status mpq_translate_contrib(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      Onnx__ModelProto *model) MPQ_CHECKED;

#endif
