/* By what the arrays of a checkpoint are found: fingerprints of what they belong to, and names. */
#ifndef MPQ_CLI_CHECKPOINT_ID_H
#define MPQ_CLI_CHECKPOINT_ID_H

#include "quantcore/pass/pass.h"
#include "quantcore/supernet/network.h"

/* Of name and float weight: a node may have several layers. */
uint64_t mpq_checkpoint_layer_id(const struct mpq_graph *graph, const struct mpq_layer *layer);

/* Of the name of a value. */
uint64_t mpq_checkpoint_value_id(const struct mpq_graph *graph, mpq_value_id v);

/* What tells the float model's answers to some samples from others: how many they are, and of
 * each eighth of them the squared steps from one element to the next in units of their variance. */
enum { MPQ_CHECKPOINT_PRINT = 9 };
void mpq_checkpoint_print(const struct mpq_targets *targets, const struct mpq_loss *loss,
                          double out_print[MPQ_CHECKPOINT_PRINT]);

/* Whether both are of the same answers, but for rounding: sums of another number of threads, or of
 * another processor, differ in their last digits. */
bool mpq_checkpoint_same_print(const double a[MPQ_CHECKPOINT_PRINT],
                               const double b[MPQ_CHECKPOINT_PRINT]);

/* What a width of a layer has in the array "layerI.B.what"; in `arena`, NULL: no memory. */
char *mpq_checkpoint_width_name(struct mpq_ctx *ctx, struct mpq_arena *arena, uint32_t layer,
                                int bits, const char *what);

#endif
