#include "quantcore/base/room.h"

#include <stdlib.h>

#include "quantcore/base/pages.h"

struct mpq_room {
    void *block;
    size_t bytes;
};

void mpq_room_clear(struct mpq_room *room)
{
    if (!room)
        return;
    free(room->block);
    *room = (struct mpq_room){0};
}

static void clear(void *room)
{
    mpq_room_clear(room);
}

enum mpq_status mpq_room_create(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_room **out)
{
    struct mpq_room *room = mpq_arena_alloc(ctx, arena, 1, sizeof *room);
    if (!room)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_arena_defer(ctx, arena, clear, room));
    *out = room;
    return MPQ_OK;
}

/* A large block is moved by its page table, so that pages that were there still are. */
void *mpq_room_take(struct mpq_ctx *ctx, struct mpq_room *room, size_t bytes)
{
    bytes += !bytes;
    if (bytes == room->bytes)
        return room->block;
    void *block = ctx->allocations_left ? realloc(room->block, bytes) : NULL;
    if (!block) {
        mpq_fail(ctx, MPQ_E_NOMEM, "out of memory: %zu bytes more are needed", bytes);
        return NULL;
    }
    ctx->allocations_left -= ctx->allocations_left > 0;
    mpq_pages_prefer_huge(block, bytes);
    *room = (struct mpq_room){block, bytes};
    return block;
}
