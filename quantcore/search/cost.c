#include "quantcore/search/cost.h"

#define MPQ_COST(name) extern const struct mpq_cost_model mpq_cost_##name;
#include "quantcore/search/cost_list.inc"
#undef MPQ_COST

static const struct mpq_cost_model *const models[] = {
#define MPQ_COST(name) &mpq_cost_##name,
#include "quantcore/search/cost_list.inc"
#undef MPQ_COST
};

enum mpq_status mpq_cost_make(struct mpq_ctx *ctx, struct mpq_arena *arena, enum mpq_cost_kind kind,
                              const struct mpq_cost_inputs *in, struct mpq_cost *out)
{
    const struct mpq_cost_model *model = models[kind];
    struct mpq_cost cost = {
        .name = model->name, .unit = model->unit, .shown = model->shown, .budget = MPQ_NO_LIMIT};
    cost.layer = mpq_arena_alloc(ctx, arena, MPQ_COST_AT(in->n_layer, 0, 0), sizeof *cost.layer);
    cost.group = mpq_arena_alloc(ctx, arena, (size_t)in->n_group * MPQ_N_BITS, sizeof *cost.group);
    if (!cost.layer || !cost.group)
        return MPQ_E_NOMEM;
    model->fill(in, &cost);
    *out = cost;
    return MPQ_OK;
}

uint64_t mpq_cost_sum(const struct mpq_cost *cost, uint32_t n_layer, uint32_t n_group,
                      const uint32_t *input_group, const uint8_t *bits)
{
    uint64_t sum = cost->other;
    for (uint32_t l = 0; l < n_layer; l++)
        sum += cost->layer[MPQ_COST_AT(l, bits[l], mpq_cost_input(n_layer, input_group, bits, l))];
    for (uint32_t g = 0; g < n_group; g++)
        sum += cost->group[g * MPQ_N_BITS + bits[n_layer + g]];
    return sum;
}
