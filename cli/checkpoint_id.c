#include "cli/checkpoint_id.h"

#include <inttypes.h>
#include <math.h>
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

void mpq_checkpoint_print(const struct mpq_targets *targets, const struct mpq_loss *loss,
                          double out_print[MPQ_CHECKPOINT_PRINT])
{
    const uint32_t n = targets->n_sample, n_part = MPQ_CHECKPOINT_PRINT - 1;
    out_print[0] = n;
    for (uint32_t part = 0; part < n_part; part++) {
        double *sum = &out_print[1 + part];
        *sum = 0;
        for (uint32_t h = 0; h < loss->n_head; h++) {
            size_t size = (size_t)loss->head[h].n_sample;
            size_t begin = (size_t)n * part / n_part * size;
            size_t end = (size_t)n * (part + 1) / n_part * size;
            for (size_t i = begin; i < end; i++) {
                const mpq_real *y = targets->target[h] + i;
                double step = (double)y[0] - (i ? (double)y[-1] : 0);
                *sum += step * step / ((double)size * targets->variance[h]);
            }
        }
    }
}

bool mpq_checkpoint_same_print(const double a[MPQ_CHECKPOINT_PRINT],
                               const double b[MPQ_CHECKPOINT_PRINT])
{
    const double rounding = 1e-4;
    for (int i = 0; i < MPQ_CHECKPOINT_PRINT; i++)
        if (!(fabs(a[i] - b[i]) <= rounding * fabs(a[i])))
            return false;
    return true;
}

char *mpq_checkpoint_width_name(struct mpq_ctx *ctx, struct mpq_arena *arena, uint32_t layer,
                                int bits, const char *what)
{
    return mpq_arena_printf(ctx, arena, "layer%" PRIu32 ".%d.%s", layer, bits, what);
}
