/* Batches that the published supernet is trained and searched on: samples in random order,
 * augmented, and what the outputs should be for them. */
#ifndef MPQ_SUPERNET_PAPER_BATCH_H
#define MPQ_SUPERNET_PAPER_BATCH_H

#include "quantcore/base/rng.h"
#include "quantcore/supernet/augment.h"
#include "quantcore/supernet/network.h"

/* What outputs should be. */
struct mpq_paper_truth {
    const struct mpq_targets *targets; /* the float model's answers, and which samples there are */
    const int32_t *label; /* [targets->n_sample] classes of the head `scored`, or NULL */
    uint32_t scored;      /* a head of the network; read where there are labels       */
};

/* How samples are changed. Labels stay; the float model answers anew. */
struct mpq_paper_change {
    struct mpq_augment augment;
    const struct mpq_graph *float_graph; /* whose heads are those of the trained graph */
};

struct mpq_paper_batch {
    const struct mpq_paper_truth *truth;
    const struct mpq_paper_change *change; /* NULL: samples as they are       */
    struct mpq_network teacher;            /* of change->float_graph          */
    mpq_real **hard, **soft; /* [n_head][n * n_sample] by the labels; by the float model. The same
                                where a head has no labels */
    mpq_real *picture;       /* scratch of mpq_augment() */
    uint32_t *order, *row, *sample;
};

/* For batches that `network` reads. Its heads are compared by distribution alone, where they are
 * distributions: labels are nothing else. */
enum mpq_status mpq_paper_batch_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       struct mpq_network *network,
                                       const struct mpq_paper_truth *truth,
                                       const struct mpq_paper_change *change,
                                       struct mpq_paper_batch *out) MPQ_CHECKED;

/* Batch number `step` into the inputs of network, and the answers: a function of seed, stream and
 * step. */
enum mpq_status mpq_paper_batch_read(struct mpq_ctx *ctx, struct mpq_paper_batch *batch,
                                     struct mpq_network *network, const struct mpq_samples *samples,
                                     enum mpq_rng_stream stream, uint64_t step) MPQ_CHECKED;

/* Expected loss (supernet/network.h) of each sample of the batch against the float model, by what
 * `network` made of it: added to loss[row], the sample's place in truth->targets. */
void mpq_paper_batch_add_losses(const struct mpq_paper_batch *batch,
                                const struct mpq_network *network, double *loss);

#endif
