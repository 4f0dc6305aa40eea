#include "quantcore/base/strmap.h"

#include <string.h>

struct mpq_strmap_slot {
    const char *key; /* NULL: empty */
    uint32_t index;
};

static uint64_t hash(const char *key)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (; *key; key++)
        h = (h ^ (unsigned char)*key) * 0x100000001b3u;
    return h ^ h >> 32;
}

/* The slot that holds key, or the empty one where it belongs. */
static struct mpq_strmap_slot *find(const struct mpq_strmap *map, const char *key)
{
    size_t i = (size_t)hash(key) & (map->capacity - 1);
    while (map->slot[i].key && strcmp(map->slot[i].key, key) != 0)
        i = (i + 1) & (map->capacity - 1);
    return &map->slot[i];
}

static enum mpq_status grow(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_strmap *map)
{
    struct mpq_strmap larger = {.n = map->n, .capacity = map->capacity ? map->capacity * 2 : 64};
    larger.slot = mpq_arena_alloc(ctx, arena, larger.capacity, sizeof *larger.slot);
    if (!larger.slot)
        return MPQ_E_NOMEM;
    for (size_t i = 0; i < map->capacity; i++)
        if (map->slot[i].key)
            *find(&larger, map->slot[i].key) = map->slot[i];
    *map = larger;
    return MPQ_OK;
}

enum mpq_status mpq_strmap_add(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_strmap *map,
                               const char *key, uint32_t index, uint32_t *out_index)
{
    if (map->n * 2 >= map->capacity)
        MPQ_TRY(grow(ctx, arena, map));
    struct mpq_strmap_slot *slot = find(map, key);
    if (!slot->key) {
        *slot = (struct mpq_strmap_slot){key, index};
        map->n++;
    }
    if (out_index)
        *out_index = slot->index;
    return MPQ_OK;
}

void mpq_strmap_set(struct mpq_strmap *map, const char *key, uint32_t index)
{
    struct mpq_strmap_slot *slot = find(map, key);
    MPQ_ASSERT(slot->key);
    slot->index = index;
}

uint32_t mpq_strmap_get(const struct mpq_strmap *map, const char *key)
{
    if (!map->capacity)
        return MPQ_STRMAP_NONE;
    const struct mpq_strmap_slot *slot = find(map, key);
    return slot->key ? slot->index : MPQ_STRMAP_NONE;
}
