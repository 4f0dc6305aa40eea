/* The tuned state as a file, so that another budget costs a search and no tuning: an .npz of plain
 * arrays, for numpy to look at.
 *
 *   model            uint64 [1]   fingerprint of the layers' names and float weights
 *   candidates       uint16 [L]   bit b: width b was tuned
 *   active           uint16 [L]   bit b: width b is not frozen
 *   act_scale        float  [G]
 *   act_zero_point   int32  [G]
 *   act_bits         int32  [G]
 *   layerI.weight    float        latent weight of layer I
 *   layerI.B.scale, .bias, .level, .offset of its width B; no bias where the layer has none, no
 * offset where weights are rounded as they are */
#ifndef MPQ_CLI_CHECKPOINT_H
#define MPQ_CLI_CHECKPOINT_H

#include "quantcore/supernet/supernet.h"

struct mpq_checkpoint {
    const struct mpq_graph *graph; /* the simplified float graph     */
    struct mpq_supernet *net;
    struct mpq_act_quant *act_quant; /* [n_group]                    */
    uint32_t n_group;
};

enum mpq_status mpq_checkpoint_save(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_checkpoint *checkpoint, const char *path,
                                    bool overwrite) MPQ_CHECKED;

/* Fill act_quant, and the net's weights and those of its widths that are candidates; the net's
 * candidates stay. FORMAT where the file belongs to another model or lacks one of these widths.
 * `net` may be NULL to read act_quant alone. */
enum mpq_status mpq_checkpoint_load(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_checkpoint *checkpoint,
                                    const struct mpq_layer_table *layers,
                                    const char *path) MPQ_CHECKED;

#endif
