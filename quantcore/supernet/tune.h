/* Tuning the supernet, once, for every width. */
#ifndef MPQ_SUPERNET_TUNE_H
#define MPQ_SUPERNET_TUNE_H

#include "quantcore/supernet/network.h"
#include "quantcore/supernet/sample.h"

/* A path's gradient is divided by its loss plus this: what is minimized is the mean logarithm of
 * the losses. Otherwise the paths with the narrowest widths, whose losses are a thousand times
 * those of the widest, would decide alone where the shared weights go. The floor, about where top-1
 * stops to notice, keeps paths that are good enough from chasing noise. */
#define MPQ_TUNE_LOSS_FLOOR 0.01

/* Looks at the net between two steps, `step` of them made; *out_stop comes as false. */
typedef enum mpq_status (*mpq_tune_watch)(struct mpq_ctx *ctx, void *arg, uint32_t step,
                                          bool *out_stop);

struct mpq_tune_options {
    uint32_t n_step;
    uint32_t n_random;         /* random paths a step, besides the widest                         */
    bool freeze;               /* the width scheduler, supernet/freeze.h                          */
    bool align;                /* the distortion mitigation, below                                */
    double weight_rate;        /* a step of the latent weights, over the layer's root mean square */
    double scale_rate;         /* of the channel scales, relative                                 */
    double bias_rate;          /* of the biases, over the layer output's root mean square         */
    double align_weight;       /* of the mitigation against the distillation loss                 */
    size_t max_bytes;          /* of activations and gradients, see engine/exec.h; 0: no limit    */
    const double *sensitivity; /* guides the random paths, see sample.h */
    const struct mpq_layer_stats *stats; /* [n_layer] of the float model          */
    mpq_tune_watch watch; /* called after every watch_every steps but the last; NULL: nobody */
    uint32_t watch_every; /* > 0 */
    void *watch_arg;
};

struct mpq_tune_result {
    uint32_t n_step;              /* fewer than asked for where the watch has stopped it        */
    double first_loss, last_loss; /* of the random paths; of the widest where there are none: mean
                                     of the first tenth, and as it was in the end               */
};

/* What mpq_tune() would take at that batch with these options, of which align and max_bytes count.
 */
struct mpq_tune_memory {
    size_t network_bytes; /* activations, gradients and workspace      */
    size_t other_bytes;   /* moments, gradients of weights, alignment  */
    double again;         /* share of a forward pass that is run again */
};

enum mpq_status mpq_tune_measure(struct mpq_ctx *ctx, const struct mpq_layer_table *layers,
                                 const struct mpq_graph *graph, uint32_t batch,
                                 const struct mpq_tune_options *options,
                                 struct mpq_tune_memory *out) MPQ_CHECKED;

/* Each step draws a batch from the targets' samples and runs the widest path and n_random random
 * ones over it, each distilled from the float model (targets); their gradients add up, then Adam
 * moves latent weights, scales and biases (the paper's SGD needs its 600 epochs; its rates need its
 * labels).
 *
 * Mitigation (section 4 of the method): on a random path, layers at the lowest of their active
 * widths are pulled to the widest path's output of the same batch, weight * |y - y_widest|^2 / mean
 * square.
 *
 * `graph` is the fake-quantized graph. On CANCELLED or any error the net is left
 * between two steps. Random choices come from ctx->seed and the step alone. */
enum mpq_status mpq_tune(struct mpq_ctx *ctx, struct mpq_supernet *net,
                         const struct mpq_graph *graph, uint32_t batch,
                         const struct mpq_samples *samples, const struct mpq_targets *targets,
                         const struct mpq_tune_options *options,
                         struct mpq_tune_result *out) MPQ_CHECKED;

#endif
