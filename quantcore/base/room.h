/* One block that large passing data take turns in: memory that is fresh from the kernel has to be
 * cleared first, which takes longer than to fill it. */
#ifndef MPQ_BASE_ROOM_H
#define MPQ_BASE_ROOM_H

#include "quantcore/base/arena.h"

struct mpq_room;

/* Empty; it goes with the arena. */
enum mpq_status mpq_room_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                struct mpq_room **out) MPQ_CHECKED;

/* All of it, now so many bytes, whatever they hold; what was taken before is gone. Aligned to 16
 * bytes. NULL and a stored NOMEM where there is no memory. */
void *mpq_room_take(struct mpq_ctx *ctx, struct mpq_room *room, size_t bytes);

/* Give the memory back; more may be taken. NULL is fine. */
void mpq_room_clear(struct mpq_room *room);

#endif
