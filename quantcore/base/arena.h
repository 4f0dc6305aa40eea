/* Memory by lifetime: objects are taken one by one and given back all at once.
 *
 * A function that allocates takes the arena; a function without one does not allocate. A returned
 * pointer dies with the arena that was passed. Memory comes zeroed and aligned to 64 bytes when it
 * is 64 bytes or larger, else to 16. */
#ifndef MPQ_BASE_ARENA_H
#define MPQ_BASE_ARENA_H

#include "quantcore/base/ctx.h"

struct mpq_arena;

/* NULL and a stored NOMEM where there is no memory. */
struct mpq_arena *mpq_arena_create(struct mpq_ctx *ctx);
void mpq_arena_free(struct mpq_arena *arena); /* NULL is fine */

/* n objects of the given size; NULL and a stored NOMEM on overflow or exhaustion. n or size 0 gives
 * a valid pointer to nothing. */
void *mpq_arena_alloc(struct mpq_ctx *ctx, struct mpq_arena *arena, size_t n, size_t size);
void *mpq_arena_copy(struct mpq_ctx *ctx, struct mpq_arena *arena, const void *data, size_t bytes);
char *mpq_arena_strdup(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *string);
char *mpq_arena_printf(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *format, ...)
    MPQ_PRINTF(3, 4);

/* The array `old` of n_old objects grown to n_new >= n_old, the new ones zero. The old array stays
 * until the arena goes, so grow geometrically. */
void *mpq_arena_grow(struct mpq_ctx *ctx, struct mpq_arena *arena, const void *old, size_t n_old,
                     size_t n_new, size_t size);

/* Call fn(object) when the arena is freed or reset, newest first. For files and foreign objects. */
enum mpq_status mpq_arena_defer(struct mpq_ctx *ctx, struct mpq_arena *arena, void (*fn)(void *),
                                void *object) MPQ_CHECKED;

/* Give back everything; the arena itself stays usable and keeps its small chunks. */
void mpq_arena_reset(struct mpq_arena *arena);

size_t mpq_arena_bytes(const struct mpq_arena *arena); /* handed out since create or reset */

#endif
