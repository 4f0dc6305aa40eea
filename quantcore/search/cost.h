/* What an allocation costs: additive tables, made by the models of cost_list.inc. A cost with a
 * budget is a limit of the search.
 *
 * An allocation is bits[n_layer + n_group]: the width of each layer's weights, then that of each
 * group of activations whose width is searched. What a layer costs may depend on both its own width
 * and that of the group it reads. */
#ifndef MPQ_SEARCH_COST_H
#define MPQ_SEARCH_COST_H

#include "quantcore/quant/layer.h"

#define MPQ_NO_LIMIT UINT64_MAX

/* Place of layer l with weights of b and inputs of a bits in a table [n_layer * MPQ_N_BITS^2]; a is
 * 0 for a layer that reads no searched group. */
#define MPQ_COST_AT(l, b, a) (((size_t)(l)*MPQ_N_BITS + (b)) * MPQ_N_BITS + (a))

struct mpq_cost {
    const char *name, *unit; /* for messages: "file size", "bytes"             */
    double shown;            /* a cost times this is what people read in `unit` */
    uint64_t *layer;         /* [n_layer * MPQ_N_BITS^2] at MPQ_COST_AT(l, b, a) */
    uint64_t *group;         /* [n_group * MPQ_N_BITS]                         */
    uint64_t other;          /* what no width changes                          */
    uint64_t budget;         /* or MPQ_NO_LIMIT                                */
};

/* What the models compute from. */
struct mpq_cost_inputs {
    uint32_t n_layer, n_group;
    const struct mpq_layer *layer;
    const uint32_t *input_group; /* [n_layer] searched group it reads, or MPQ_NO_GROUP        */
    const uint8_t *input_bits;   /* [n_layer] width of what it reads where no group; 32 float */
    const uint64_t *layer_bytes; /* [n_layer * MPQ_N_BITS] what a layer adds to the file      */
    const uint64_t *group_bytes; /* [n_group * MPQ_N_BITS]                                    */
    uint64_t other_bytes;        /* the rest of the file                                      */
    const double *seconds;       /* [n_layer * MPQ_N_BITS^2], or NULL: no latency is known    */
};

struct mpq_cost_model {
    const char *name, *unit;
    double shown;
    /* Fill tables of zeros, `other` and, where it depends on the layers, `shown`. */
    void (*fill)(const struct mpq_cost_inputs *in, struct mpq_cost *out);
};

enum mpq_cost_kind {
#define MPQ_COST(name) MPQ_COST_##name,
#include "quantcore/search/cost_list.inc"
#undef MPQ_COST
    MPQ_N_COST
};

/* The model's tables, without a limit. */
enum mpq_status mpq_cost_make(struct mpq_ctx *ctx, struct mpq_arena *arena, enum mpq_cost_kind kind,
                              const struct mpq_cost_inputs *in, struct mpq_cost *out) MPQ_CHECKED;

/* The width of what layer l reads, as an index of cost tables. */
static inline uint32_t mpq_cost_input(uint32_t n_layer, const uint32_t *input_group,
                                      const uint8_t *bits, uint32_t l)
{
    return input_group[l] == MPQ_NO_GROUP ? 0 : bits[n_layer + input_group[l]];
}

/* Total of an allocation, `other` included. */
uint64_t mpq_cost_sum(const struct mpq_cost *cost, uint32_t n_layer, uint32_t n_group,
                      const uint32_t *input_group, const uint8_t *bits);

#endif
