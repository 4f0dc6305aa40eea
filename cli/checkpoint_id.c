#include "cli/checkpoint_id.h"

#include <inttypes.h>
#include <string.h>

static uint64_t mix(uint64_t hash, const void *data, size_t bytes)
{
    const unsigned char *p = data; /* FNV-1a */
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash;
}

#define HASH_START 0xcbf29ce484222325u

uint64_t mpq_checkpoint_layer_id(const struct mpq_graph *graph, const struct mpq_layer *layer)
{
    const struct mpq_tensor *weight = graph->value[layer->weight].constant;
    uint64_t hash = mix(HASH_START, layer->name, strlen(layer->name) + 1);
    return mix(hash, weight->data, mpq_tensor_bytes(weight));
}

uint64_t mpq_checkpoint_value_id(const struct mpq_graph *graph, mpq_value_id v)
{
    return mix(HASH_START, graph->value[v].name, strlen(graph->value[v].name));
}

uint64_t mpq_checkpoint_targets_id(const struct mpq_targets *targets, const struct mpq_loss *loss)
{
    /* 2: losses are expected ones (supernet/network.h); earlier versions' were KL. */
    const uint32_t kind = 2;
    uint64_t hash = mix(HASH_START, &kind, sizeof kind);
    hash = mix(hash, &targets->n_sample, sizeof targets->n_sample);
    for (uint32_t h = 0; h < loss->n_head; h++)
        hash = mix(hash, targets->target[h],
                   targets->n_sample * (size_t)loss->head[h].n_sample * sizeof(mpq_real));
    return hash;
}

char *mpq_checkpoint_width_name(struct mpq_ctx *ctx, struct mpq_arena *arena, uint32_t layer,
                                int bits, const char *what)
{
    return mpq_arena_printf(ctx, arena, "layer%" PRIu32 ".%d.%s", layer, bits, what);
}
