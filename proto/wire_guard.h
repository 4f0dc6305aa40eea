/* A look at the raw bytes of a model before protobuf-c sees them.
 *
 * protobuf-c unpacks nested messages by recursion without a bound, merges a message that is given
 * twice by copying, and cuts strings at a zero byte. The guard refuses files that would use any of
 * that: whatever passes unpacks in bounded stack, and in memory proportional to its size. */
#ifndef MPQ_PROTO_WIRE_GUARD_H
#define MPQ_PROTO_WIRE_GUARD_H

#include "quantcore/base/ctx.h"

/* FORMAT: no model, cut off, or not protobuf. LIMIT: nested, many or long beyond base/limits.h.
 * Fields that the schema does not know are skipped, whatever they hold. */
enum mpq_status mpq_wire_guard(struct mpq_ctx *ctx, const uint8_t *data, size_t bytes) MPQ_CHECKED;

#endif
