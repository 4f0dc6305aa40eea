/* A graph at a fixed batch, ready to run over samples, and how its outputs are compared. */
#ifndef MPQ_SUPERNET_NETWORK_H
#define MPQ_SUPERNET_NETWORK_H

#include "quantcore/engine/expected_kl.h"
#include "quantcore/engine/loss.h"

/* Where samples come from: fills input [n_input of the graph] with samples index[0..n). */
struct mpq_samples {
    enum mpq_status (*read)(struct mpq_ctx *ctx, void *arg, const uint32_t *index, uint32_t n,
                            struct mpq_tensor *const *input);
    void *arg;
};

struct mpq_network {
    const struct mpq_graph *graph;
    struct mpq_binding binding;
    struct mpq_exec *exec;
    struct mpq_loss loss;
    struct mpq_tensor **input; /* [n_input] of exec */
    uint32_t batch;
};

enum mpq_status mpq_network_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_graph *graph, uint32_t batch,
                                   const struct mpq_exec_options *options,
                                   struct mpq_network *out) MPQ_CHECKED;

/* What activations, gradients and workspace of such a network would take, and the share of a
 * forward pass that its backward would run again (engine/exec.h). */
enum mpq_status mpq_network_measure(struct mpq_ctx *ctx, const struct mpq_graph *graph,
                                    uint32_t batch, const struct mpq_exec_options *options,
                                    size_t *out_bytes, double *out_again) MPQ_CHECKED;

/* Read samples index[0..n), n <= batch, into the inputs; the rest of the batch repeats the last
 * one, and whoever reads outputs looks at the first n only. */
enum mpq_status mpq_network_read(struct mpq_ctx *ctx, struct mpq_network *network,
                                 const struct mpq_samples *samples, const uint32_t *index,
                                 uint32_t n) MPQ_CHECKED;

/* The inputs of a network of the same model and batch. */
void mpq_network_copy_inputs(const struct mpq_network *from, struct mpq_network *to);

/* What the float model answers to a list of samples: computed once, used by every path of every
 * step. */
struct mpq_targets {
    uint32_t n_sample;
    const uint32_t *sample;            /* [n_sample] index into the source                       */
    mpq_real **target;                 /* [n_head] [n_sample * head->n_sample]                   */
    double *variance;                  /* [n_head] of the target, > 0                            */
    struct mpq_references *references; /* [n_head] none where squares alone are compared */
};

/* Run the float network over the samples. NUMERIC where an output is not finite. */
enum mpq_status mpq_targets_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   struct mpq_network *network, const struct mpq_samples *samples,
                                   const uint32_t *sample, uint32_t n_sample,
                                   struct mpq_targets *out) MPQ_CHECKED;

/* The same in pieces, for whoever runs a network over the samples anyway, in their order: room;
 * what it has just answered to the first n samples of its batch, samples first .. first + n; and
 * the end. */
enum mpq_status mpq_targets_begin(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_loss *loss, const uint32_t *sample,
                                  uint32_t n_sample, struct mpq_targets *out) MPQ_CHECKED;
enum mpq_status mpq_targets_take(struct mpq_ctx *ctx, const struct mpq_network *network,
                                 uint32_t first, uint32_t n,
                                 struct mpq_targets *targets) MPQ_CHECKED;
void mpq_targets_end(const struct mpq_loss *loss, struct mpq_targets *targets);

/* Losses of samples that the float network and another have run side by side, whose answers need
 * not be kept: begin from all zero, then the batches, the end gives [n_sample] losses. */
struct mpq_pair_loss {
    uint32_t n_sample;
    double *kl, *mse;    /* [n_head * n_sample] as weighted; squared errors not yet over variance */
    double *sum, *power; /* [n_head] of the float answers                                         */
};
enum mpq_status mpq_pair_loss_begin(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_loss *loss, uint32_t n_sample,
                                    struct mpq_pair_loss *out) MPQ_CHECKED;
void mpq_pair_loss_add(const struct mpq_network *in_float, const struct mpq_network *other,
                       uint32_t first, uint32_t n, struct mpq_pair_loss *pair);
void mpq_pair_loss_end(const struct mpq_loss *loss, const struct mpq_pair_loss *pair,
                       double *out_loss);

/* Expected loss, see below, of the batch that `network` has just run: its row i answers for targets
 * row[i], i < n. Its gradient times `gradient_scale` is added to the exec's gradients
 * (mpq_exec_zero_grad first); 0: not wanted. */
double mpq_network_loss(struct mpq_network *network, const struct mpq_targets *targets,
                        const uint32_t *row, uint32_t n, double gradient_scale);

/* What the expected loss of one sample takes, in multiplications of the network: its own are in
 * double, each the time of three. 0 of a loss without heads. */
double mpq_network_loss_macs(const struct mpq_loss *loss, const struct mpq_targets *targets);

/* The loss of each of the n samples by itself: row i answers for targets first + i. */
void mpq_network_sample_loss(const struct mpq_network *network, const struct mpq_targets *targets,
                             uint32_t first, uint32_t n, double *out_loss);

/* The same with what errors would cost on average over the targets (engine/expected_kl.h), in place
 * of KL: what allocations are compared by, a part of whose spread from sample to sample it has. */
void mpq_network_expected_loss(const struct mpq_network *network, const struct mpq_targets *targets,
                               uint32_t first, uint32_t n, double *out_loss);

/* That of one sample by head h: y and target [head->n_sample], its outputs and the float model's,
 * which need not be one of the targets; dy [head->n_sample] += gradient_scale times its gradient,
 * where not NULL. */
double mpq_head_expected_loss(const struct mpq_loss_head *head, const struct mpq_targets *targets,
                              uint32_t h, const mpq_real *y, const mpq_real *target,
                              double gradient_scale, mpq_real *dy);

#endif
