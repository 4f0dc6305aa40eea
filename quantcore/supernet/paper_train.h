/* Training the published supernet (arXiv 2401.01543 and its reference code): one path with all
 * widths at their widest and three random ones a step. The float model is the external teacher of
 * the widest path that the code has as its option `kd`. */
#ifndef MPQ_SUPERNET_PAPER_TRAIN_H
#define MPQ_SUPERNET_PAPER_TRAIN_H

#include "quantcore/supernet/paper_batch.h"
#include "quantcore/supernet/paper_net.h"

struct mpq_paper_train_options {
    uint32_t n_step;
    double rate;      /* of gradient descent, at its highest                                */
    double step_rate; /* of Adam on the steps, as a share of the step                       */
    const struct mpq_paper_change *change; /* NULL: samples as they are                     */
    bool freeze;                           /* the width scheduler                           */
    bool align;                            /* information distortion mitigation             */
};

struct mpq_paper_train_result {
    double first_loss, last_loss; /* of random paths, over the first and last tenth of the steps */
};

/* Train net on batches of the targets' samples. What is left in it is the exponential moving
 * average of all parameters, and the widths that the last update of the scheduler left active. */
enum mpq_status mpq_paper_train(struct mpq_ctx *ctx, struct mpq_paper_net *net, uint32_t batch,
                                const struct mpq_samples *samples,
                                const struct mpq_paper_truth *truth,
                                const struct mpq_paper_train_options *options,
                                struct mpq_paper_train_result *out) MPQ_CHECKED;

/* Weight of the term that draws latent weights to their levels: 0 in the first 40 of 150 epochs,
 * then along half a cosine to 0.1. */
double mpq_paper_snap_weight(uint32_t step, uint32_t n_step);

/* The two terms on latent weights at `bits`, gradients added to dw [n_param]; return the losses.
 *
 * snap:   mean over the weights of an output channel, summed over channels, of (clamp(w) - Q(w))^2,
 *         for weights on levels that the narrowest active width has, too
 * region: 1/2 |clamp(w)|^2 */
double mpq_paper_snap(const struct mpq_layer *shape, const mpq_real *w, mpq_real step, int bits,
                      int narrowest, double weight, mpq_real *dw);
double mpq_paper_region(const struct mpq_layer *shape, const mpq_real *w, mpq_real step, int bits,
                        double weight, mpq_real *dw);

/* Turbulence of a layer (supernet/freeze.h) on its equally spaced levels. */
double mpq_paper_turbulence(const struct mpq_paper_net *net, uint32_t layer);

#endif
