/* Layers picked by the user: by node name, operator type, or a regular expression for either. */
#ifndef MPQ_CLI_PICK_H
#define MPQ_CLI_PICK_H

#include "quantcore/quant/layer.h"

/* Layers that match one of `patterns` (joined by commas; NULL: none) leave the table for its list
 * of rejected nodes. USAGE where a pattern matches none (a name that is no regular expression can),
 * UNSUPPORTED where no layer is left. */
enum mpq_status mpq_pick_exclude(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *patterns,
                                 const struct mpq_graph *graph,
                                 struct mpq_layer_table *layers) MPQ_CHECKED;

/* out_bits [n_layer]: the width `locks`, PATTERN=BITS joined by commas, gives a layer, the last one
 * that matches; 0: none. `allowed` bit b: width b may be asked for. USAGE as above. */
enum mpq_status mpq_pick_lock(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *locks,
                              const struct mpq_graph *graph, const struct mpq_layer_table *layers,
                              uint16_t allowed, uint8_t *out_bits) MPQ_CHECKED;

/* Layers with picked[l] != 0 leave the table; UNSUPPORTED where none is left. */
enum mpq_status mpq_pick_drop(struct mpq_ctx *ctx, struct mpq_arena *arena, const uint8_t *picked,
                              struct mpq_layer_table *layers) MPQ_CHECKED;

#endif
