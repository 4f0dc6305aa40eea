/* How far a quantized model is from the float one, from outputs alone: no labels.
 *
 * Every float output of the graph is a head. An output made by Softmax, which may be written out as
 * exponentials over their sum, is compared before it, where gradients are well behaved. Heads of
 * rank 2 or 3 with more than one column are compared as distributions, KL(softmax(float) ||
 * softmax(quantized)) (Hinton et al., 2015, temperature 1), since nearly all of them are logits;
 * all heads, those included with a small weight, by squared error over the variance of the float
 * output, which also serves regression and multi-label outputs. */
#ifndef MPQ_ENGINE_LOSS_H
#define MPQ_ENGINE_LOSS_H

#include "quantcore/engine/exec.h"

struct mpq_loss_head {
    mpq_value_id value; /* in the graph the heads were found in                                   */
    int64_t n_column;   /* length of a row: the last dimension                                    */
    int64_t n_sample;   /* elements that one sample contributes                                   */
    double kl_weight, mse_weight;
};

struct mpq_loss {
    uint32_t n_head;
    struct mpq_loss_head *head;
};

/* The heads of a graph bound at `batch` samples. A graph and its fake-quantized copy have the same
 * heads in the same order. UNSUPPORTED where no output is float. */
enum mpq_status mpq_loss_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                const struct mpq_graph *graph, const struct mpq_binding *binding,
                                int64_t batch, struct mpq_loss *out) MPQ_CHECKED;

/* Mean loss of a batch of n samples, heads added.
 *
 *   y, target  [n * head->n_sample] outputs of the quantized and the float model
 *   variance   of the float output, > 0
 *   dy         the gradient is added to it; NULL: not wanted */
double mpq_loss_head_value(const struct mpq_loss_head *head, const mpq_real *y,
                           const mpq_real *target, int64_t n, double variance, mpq_real *dy);

#endif
