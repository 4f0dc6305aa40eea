/* Local functions (ModelProto.functions): every call gives way to the body. */
#ifndef MPQ_IMPORTER_FUNCTION_H
#define MPQ_IMPORTER_FUNCTION_H

#include <onnx.pb-c.h>

#include "quantcore/base/arena.h"

/* In the main graph and in bodies, calls in functions included; attributes that refer to the
 * caller's get their value, or the function's default, or go. The functions themselves (by
 * n_functions; the list stays) and opset imports that nothing needs any more are dropped; imports
 * that functions alone had are added. A node of a body goes by "call/node"; one that has its
 * function's name goes by that of the call alone, which is there for its sake. FORMAT where a
 * function calls itself or its parameters do not fit, UNSUPPORTED where it is written in another
 * opset of a domain than the model, LIMIT where all calls together make too many nodes. */
enum mpq_status mpq_inline_functions(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                     Onnx__ModelProto *model) MPQ_CHECKED;

#endif
