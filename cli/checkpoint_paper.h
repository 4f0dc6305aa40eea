/* The trained supernet of --recipe paper as a file, so that another budget costs a search and no
 * training: an .npz of plain arrays, for numpy to look at.
 *
 *   paper_layer_id  uint64 [L]     which layer, as in checkpoint.h
 *   paper_widths    uint16 [2, L]  bit b: width b of weights, of inputs, can be had
 *   paper_active    uint16 [L]     bit b: width b of weights is not frozen
 *   paper_signed    uint8  [L]     inputs may be negative
 *   paper_value     float          all parameters, in the order of struct mpq_paper_net */
#ifndef MPQ_CLI_CHECKPOINT_PAPER_H
#define MPQ_CLI_CHECKPOINT_PAPER_H

#include "quantcore/supernet/paper_net.h"

enum mpq_status mpq_checkpoint_paper_save(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                          const struct mpq_paper_net *net, const char *path,
                                          bool overwrite) MPQ_CHECKED;

/* Fill a net that was created from the same model with the same widths; FORMAT where the file is
 * of another. */
enum mpq_status mpq_checkpoint_paper_load(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                          struct mpq_paper_net *net, const char *path) MPQ_CHECKED;

#endif
