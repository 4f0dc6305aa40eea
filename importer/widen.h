/* float16, bfloat16 and double become float: what files have and what we compute in. */
#ifndef MPQ_IMPORTER_WIDEN_H
#define MPQ_IMPORTER_WIDEN_H

#include <onnx.pb-c.h>

#include "quantcore/base/arena.h"

/* Edit the message so that all that its nodes compute, in bodies too, is FLOAT instead of these
 * three types: attributes that hold tensors or name types, declarations of values, everything of
 * bodies. What the main graph shows of itself stays as declared: its inputs, outputs and
 * initializers (import.c reads them as FLOAT, the exporter puts Casts at the border). BitCast is
 * about the bits: what it makes keeps its type. */
enum mpq_status mpq_widen(struct mpq_ctx *ctx, struct mpq_arena *arena,
                          Onnx__ModelProto *model) MPQ_CHECKED;

/* Whether an input or output of the main graph keeps its type, as BitCast reads or makes it. */
bool mpq_widen_keeps(const Onnx__GraphProto *graph, const char *name);

#endif
