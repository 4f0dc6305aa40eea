#include "quantcore/base/arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quantcore/base/pages.h"

/* Small objects share chunks of CHUNK_BYTES; a large one gets a chunk of its own, straight from
 * calloc, so that untouched pages of a big buffer cost nothing. Under MPQ_ARENA_DEBUG every object
 * is its own calloc, so that AddressSanitizer sees overruns inside an arena. */
#ifdef MPQ_ARENA_DEBUG
#define LARGE_BYTES 1
#else
#define LARGE_BYTES 4096
#endif
#define CHUNK_BYTES 65536

struct chunk {
    struct chunk *next;
    size_t used, capacity;
    void *block; /* what calloc gave; data starts at `data` */
    unsigned char *data;
};

struct deferred {
    struct deferred *next;
    void (*fn)(void *);
    void *object;
};

struct mpq_arena {
    struct chunk *small, *large;
    struct deferred *deferred;
    size_t bytes;
};

static size_t alignment_of(size_t bytes)
{
    return bytes >= 64 ? 64 : 16;
}

static struct chunk *chunk_create(size_t capacity)
{
    struct chunk *chunk = malloc(sizeof *chunk);
    if (!chunk)
        return NULL;
    /* In the debug build the block ends exactly where the object does. */
    size_t align = alignment_of(capacity);
    size_t slack = align > 16 ? align - 16 : 0;
    chunk->block = calloc(1, capacity + slack);
    if (!chunk->block) {
        free(chunk);
        return NULL;
    }
    mpq_pages_prefer_huge(chunk->block, capacity + slack);
    uintptr_t address = (uintptr_t)chunk->block;
    address = (address + align - 1) / align * align;
    MPQ_ASSERT(address - (uintptr_t)chunk->block <= slack);
    chunk->data = (unsigned char *)address;
    chunk->used = 0;
    chunk->capacity = capacity;
    chunk->next = NULL;
    return chunk;
}

static void chunks_free(struct chunk *chunk)
{
    while (chunk) {
        struct chunk *next = chunk->next;
        free(chunk->block);
        free(chunk);
        chunk = next;
    }
}

static void run_deferred(struct mpq_arena *arena)
{
    struct deferred *item = arena->deferred;
    arena->deferred = NULL;
    for (; item; item = item->next)
        item->fn(item->object);
}

struct mpq_arena *mpq_arena_create(struct mpq_ctx *ctx)
{
    struct mpq_arena *arena = calloc(1, sizeof *arena);
    if (!arena)
        mpq_fail(ctx, MPQ_E_NOMEM, "out of memory");
    return arena;
}

void mpq_arena_free(struct mpq_arena *arena)
{
    if (!arena)
        return;
    run_deferred(arena);
    chunks_free(arena->small);
    chunks_free(arena->large);
    free(arena);
}

void mpq_arena_reset(struct mpq_arena *arena)
{
    run_deferred(arena);
    chunks_free(arena->large);
    arena->large = NULL;
    if (arena->small) {
        chunks_free(arena->small->next);
        arena->small->next = NULL;
        memset(arena->small->data, 0, arena->small->used);
        arena->small->used = 0;
    }
    arena->bytes = 0;
}

size_t mpq_arena_bytes(const struct mpq_arena *arena)
{
    return arena->bytes;
}

static void *alloc_small(struct mpq_arena *arena, size_t bytes)
{
    size_t align = alignment_of(bytes);
    struct chunk *chunk = arena->small;
    size_t start = chunk ? (chunk->used + align - 1) / align * align : 0;
    if (!chunk || start + bytes > chunk->capacity) {
        chunk = chunk_create(CHUNK_BYTES);
        if (!chunk)
            return NULL;
        chunk->next = arena->small;
        arena->small = chunk;
        start = 0;
    }
    chunk->used = start + bytes;
    return chunk->data + start;
}

static void *alloc_large(struct mpq_arena *arena, size_t bytes)
{
    struct chunk *chunk = chunk_create(bytes);
    if (!chunk)
        return NULL;
    chunk->next = arena->large;
    arena->large = chunk;
    return chunk->data;
}

void *mpq_arena_alloc(struct mpq_ctx *ctx, struct mpq_arena *arena, size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX / 4) {
        mpq_fail(ctx, MPQ_E_NOMEM, "out of memory: %zu objects of %zu bytes", n, size);
        return NULL;
    }
    if (bytes == 0)
        bytes = 1;
    void *object = NULL;
    if (ctx->allocations_left != 0)
        object = bytes < LARGE_BYTES ? alloc_small(arena, bytes) : alloc_large(arena, bytes);
    if (!object) {
        mpq_fail(ctx, MPQ_E_NOMEM, "out of memory: %zu bytes more are needed", bytes);
        return NULL;
    }
    if (ctx->allocations_left > 0)
        ctx->allocations_left--;
    arena->bytes += bytes;
    return object;
}

void *mpq_arena_copy(struct mpq_ctx *ctx, struct mpq_arena *arena, const void *data, size_t bytes)
{
    void *copy = mpq_arena_alloc(ctx, arena, bytes, 1);
    if (copy && bytes)
        memcpy(copy, data, bytes);
    return copy;
}

char *mpq_arena_strdup(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *string)
{
    return mpq_arena_copy(ctx, arena, string, strlen(string) + 1);
}

char *mpq_arena_printf(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    MPQ_ASSERT(n >= 0);
    char *string = mpq_arena_alloc(ctx, arena, (size_t)n + 1, 1);
    if (string)
        vsnprintf(string, (size_t)n + 1, format, again);
    va_end(again);
    return string;
}

void *mpq_arena_grow(struct mpq_ctx *ctx, struct mpq_arena *arena, const void *old, size_t n_old,
                     size_t n_new, size_t size)
{
    MPQ_ASSERT(n_new >= n_old);
    void *array = mpq_arena_alloc(ctx, arena, n_new, size);
    if (array && n_old)
        memcpy(array, old, n_old * size);
    return array;
}

enum mpq_status mpq_arena_defer(struct mpq_ctx *ctx, struct mpq_arena *arena, void (*fn)(void *),
                                void *object)
{
    struct deferred *item = mpq_arena_alloc(ctx, arena, 1, sizeof *item);
    if (!item)
        return MPQ_E_NOMEM;
    *item = (struct deferred){arena->deferred, fn, object};
    arena->deferred = item;
    return MPQ_OK;
}
