/* A map from strings to indices: names of values, nodes, arrays. Open addressing, never iterated
 * (order would leak the hash); the things named live in an array of their own. */
#ifndef MPQ_BASE_STRMAP_H
#define MPQ_BASE_STRMAP_H

#include "quantcore/base/arena.h"

#define MPQ_STRMAP_NONE UINT32_MAX

struct mpq_strmap {
    struct mpq_strmap_slot *slot;
    size_t n, capacity;
};

/* Insert key -> index, the key's bytes staying the caller's. An existing key keeps its index, which
 * out_index (may be NULL) then gets instead. */
enum mpq_status mpq_strmap_add(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_strmap *map,
                               const char *key, uint32_t index, uint32_t *out_index) MPQ_CHECKED;
void mpq_strmap_set(struct mpq_strmap *map, const char *key, uint32_t index); /* key exists */
uint32_t mpq_strmap_get(const struct mpq_strmap *map, const char *key); /* or MPQ_STRMAP_NONE */

#endif
