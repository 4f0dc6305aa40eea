/* The supernet as published (Tang et al., "Retraining-free Model Quantization via One-Shot
 * Weight-Coupling Learning", CVPR 2024, arXiv 2401.01543): one latent weight tensor a layer, a
 * learned step a tensor and width for weights and for inputs, and a batch norm for each pair of
 * widths. It is trained on a graph that still has its batch norms; supernet.h is what this program
 * makes of the idea where there are none.
 *
 * Searchable are all convolutions but the first and last layer: weights and inputs of 2 to 6 bits
 * each, depthwise ones 3 to 6. The first layer has weights of 8 bits and a float input, and so have
 * weight-only layers; every other layer, the last included, has 8 bits for both. */
#ifndef MPQ_SUPERNET_PAPER_NET_H
#define MPQ_SUPERNET_PAPER_NET_H

#include "quantcore/pass/pass.h"
#include "quantcore/supernet/network.h"
#include "quantcore/supernet/supernet.h"

/* Width of an input that stays float, in the tables of widths. */
#define MPQ_PAPER_FLOAT 0

/* The batch norm of one pair of widths, each [n_channel]. gamma > 0: where the file has a negative
 * one, the channel's weights carry the sign. */
struct mpq_paper_norm {
    mpq_real *gamma, *beta, *mean, *var;
};

struct mpq_paper_layer {
    bool is_searchable;
    bool is_signed;                     /* inputs may be negative                               */
    mpq_bits_mask weights, inputs;      /* widths there are; inputs: bit FLOAT where it is float */
    mpq_bits_mask active;               /* weight widths not frozen: what random paths draw from */
    mpq_real *w, *bias;                 /* [n_param]; [n_channel], NULL: none that counts        */
    mpq_real *weight_step, *input_step; /* [MPQ_N_BITS]                                          */
    mpq_real *wq;                       /* [n_param] quantized, of the path applied last         */
    struct mpq_paper_norm norm[MPQ_N_BITS][MPQ_N_BITS]; /* by weight and input width; NULLs where
                                                           there is no such pair or no batch norm */
};

enum mpq_paper_kind {
    MPQ_PAPER_WEIGHT,   /* of a convolution: gradient descent with weight decay */
    MPQ_PAPER_PLAIN,    /* gradient descent: other weights, biases, batch norms */
    MPQ_PAPER_STEP,     /* Adam                                                 */
    MPQ_PAPER_STATISTIC /* running means and variances: no gradient             */
};

/* Parameters lie in one array, so that whatever treats them alike is a loop over it. */
struct mpq_paper_block {
    enum mpq_paper_kind kind;
    size_t begin, n;
};

struct mpq_paper_net {
    const struct mpq_layer_table *layers; /* of the graph with batch norms             */
    struct mpq_graph *graph;              /* what is trained: see mpq_insert_learned() */
    struct mpq_learned_layer *learned;    /* [n_layer] */
    struct mpq_paper_layer *layer;        /* [n_layer] */
    mpq_real *value;                      /* [n_value] all parameters */
    size_t n_value;
    struct mpq_paper_block *block; /* [n_block] */
    uint32_t n_block;
};

/* `graph` is what mpq_simplify_keep_norms() returned, at any batch, `layers` its layers. Searchable
 * layers get the widths above that are in `weights` and `inputs`, USAGE where none is. Latent
 * weights and batch norms are those of the graph. Steps of weights have the least squared error,
 * where the published first step (mpq_lsq_weight_step()) is that of 4 bits or more and leaves the
 * rest to training; those of inputs come from mpq_paper_calibrate(). UNSUPPORTED where no layer is
 * searchable. */
enum mpq_status mpq_paper_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const struct mpq_graph *graph,
                                 const struct mpq_layer_table *layers, mpq_bits_mask weights,
                                 mpq_bits_mask inputs, struct mpq_paper_net *out) MPQ_CHECKED;

/* What the float model makes of sample[0..n): signs of inputs, their steps for every width, and
 * batch norms that compute what those of the file do once they normalize by the samples' statistics
 * instead of the file's. `network` runs the graph that the net was created from, with keep_all.
 *
 * The published code takes first steps from the values of the moment when a width is first met, and
 * trains on what the statistics of the file come from; here no step depends on the order of paths,
 * and a few thousand samples have statistics of their own. */
enum mpq_status mpq_paper_calibrate(struct mpq_ctx *ctx, struct mpq_paper_net *net,
                                    struct mpq_network *network, const struct mpq_samples *samples,
                                    const uint32_t *sample, uint32_t n) MPQ_CHECKED;

/* Let `exec` compute layer l with weights of bits and inputs of input_bits, or all layers with
 * weight_bits, input_bits [n_layer], from now on. */
void mpq_paper_apply_layer(const struct mpq_paper_net *net, struct mpq_exec *exec, uint32_t layer,
                           int bits, int input_bits);
void mpq_paper_apply(const struct mpq_paper_net *net, struct mpq_exec *exec,
                     const uint8_t *weight_bits, const uint8_t *input_bits);

/* Bring every gamma back above zero, so that scales made of it are. */
void mpq_paper_keep_gamma(const struct mpq_paper_net *net);

/* The widest widths of all layers. */
void mpq_paper_widest(const struct mpq_paper_net *net, uint8_t *weight_bits, uint8_t *input_bits);

#endif
