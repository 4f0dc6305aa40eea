#include "quantcore/engine/plan.h"

/* The live buffers, ordered by offset; the gaps between them are what is free. */
struct live {
    uint32_t *index;
    uint32_t n;
};

static void drop_ended(struct live *live, const struct mpq_plan_buffer *buffer, uint32_t step)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < live->n; i++)
        if (buffer[live->index[i]].last >= step)
            live->index[n++] = live->index[i];
    live->n = n;
}

static void place(struct live *live, struct mpq_plan_buffer *buffer, uint32_t b, size_t bytes)
{
    size_t gap_start = 0, best_gap = SIZE_MAX, best_offset = 0;
    uint32_t best_at = live->n;
    for (uint32_t i = 0; i < live->n; i++) {
        const struct mpq_plan_buffer *next = &buffer[live->index[i]];
        size_t gap = next->offset - gap_start;
        if (gap >= bytes && gap < best_gap) {
            best_gap = gap;
            best_offset = gap_start;
            best_at = i;
        }
        gap_start = next->offset + (next->bytes + 63) / 64 * 64;
    }
    if (best_gap == SIZE_MAX)
        best_offset = gap_start;
    buffer[b].offset = best_offset;
    for (uint32_t i = live->n++; i > best_at; i--)
        live->index[i] = live->index[i - 1];
    live->index[best_at] = b;
}

enum mpq_status mpq_plan_place(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               struct mpq_plan_buffer *buffer, uint32_t n_buffer, size_t *out_total)
{
    struct live live = {.index = mpq_arena_alloc(ctx, arena, n_buffer, sizeof *live.index)};
    if (!live.index)
        return MPQ_E_NOMEM;
    size_t total = 0;
    for (uint32_t b = 0; b < n_buffer; b++) {
        MPQ_ASSERT(buffer[b].first <= buffer[b].last);
        MPQ_ASSERT(b == 0 || buffer[b - 1].first <= buffer[b].first);
        drop_ended(&live, buffer, buffer[b].first);
        size_t bytes = (buffer[b].bytes + 63) / 64 * 64;
        place(&live, buffer, b, bytes);
        if (buffer[b].offset + bytes > total)
            total = buffer[b].offset + bytes;
    }
    *out_total = total;
    return MPQ_OK;
}
