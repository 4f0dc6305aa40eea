/* What --recipe paper does with its codes once batch norms are folded. */
#ifndef MPQ_CLI_PAPER_REFINE_H
#define MPQ_CLI_PAPER_REFINE_H

#include "cli/pipeline.h"
#include "quantcore/supernet/paper_batch.h"

/* Let p->evaluator and p->decide_targets be of p->net, which holds the widths found, and fill
 * p->found.loss and sample_loss. */
enum mpq_status mpq_paper_measure(struct mpq_ctx *ctx, struct mpq_pipeline *p) MPQ_CHECKED;

/* Round p->net for its widths (mpq_pipeline_round()). That is kept where the loss on the decide
 * part gets less by more than the standard error. The few samples there are changed in several
 * ways, as those of training are: of a net of 3 bits on 256 pictures, the loss of unchanged ones
 * differs by a third from one rounding of the biases to the next. change NULL: there is none. */
enum mpq_status mpq_paper_refine(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                 const struct mpq_paper_change *change) MPQ_CHECKED;

#endif
