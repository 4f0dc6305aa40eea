/* The weight-coupled multi-bit supernet: one latent weight tensor a layer that serves every width,
 * with levels, channel scales and a bias of each width's own (Tang et al., "Retraining-free Model
 * Quantization via One-Shot Weight-Coupling Learning", CVPR 2024, arXiv 2401.01543; per-channel
 * scales and codebook levels instead of one step a tensor, a bias a width instead of one batch norm
 * a width: exported models have their batch norms folded). */
#ifndef MPQ_SUPERNET_SUPERNET_H
#define MPQ_SUPERNET_SUPERNET_H

#include "quantcore/engine/exec.h"
#include "quantcore/quant/levels.h"

typedef uint16_t mpq_bits_mask; /* bit b set: width b is in the set */

struct mpq_supernet_width {
    struct mpq_levels levels;
    mpq_real *scale; /* [n_channel] > 0                     */
    mpq_real *bias;  /* [n_channel]; NULL: the layer has no bias */
    /* [n_param] what second-order rounding (supernet/round.h) adds to the latent weights before
     * they are rounded to the nearest level; NULL: nothing. Fixed once made, so copies share it,
     * while the latent weights go on being tuned. */
    const mpq_real *offset;
};

struct mpq_supernet_layer {
    mpq_bits_mask candidates; /* widths this layer can take                          */
    mpq_bits_mask active;     /* those not frozen: what random paths draw from       */
    mpq_real *w;              /* [n_param] latent weight, shared by all widths       */
    /* What the path applied last computes with: the quantized weight [n_param], and scale and bias
     * [n_channel] as the file stores them, in 16 bits each (quant/layer.h). */
    mpq_real *wq, *scale_used, *bias_used;
    mpq_real *w_used; /* [n_param] see mpq_supernet_weights() */
    struct mpq_supernet_width width[MPQ_N_BITS];
};

struct mpq_supernet {
    const struct mpq_layer_table *layers;
    struct mpq_supernet_layer *layer; /* [n_layer] */
};

/* Latent weights are the float weights (constants of `graph`). The widths in `candidates`, of which
 * there must be one of 2..8, get memory; levels and scales come from fit or from a checkpoint,
 * biases are the float ones until then. */
enum mpq_status mpq_supernet_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_graph *graph,
                                    const struct mpq_layer_table *layers, mpq_bits_mask candidates,
                                    struct mpq_supernet *out) MPQ_CHECKED;

/* Fit each width to the latent weights as they are now: levels and scales with the input power as
 * importance (quant/levels.h), and the float bias less the mean shift that rounding the weights
 * causes, sum_k (wq - w)_k * mean input_k (Nagel et al., "Data-Free Quantization", ICCV 2019,
 * section 4.2). stats [n_layer]. Widths in `integers` get the levels of a signed integer type
 * (mpq_levels_integers), the others whatever levels fit best. */
enum mpq_status mpq_supernet_fit(struct mpq_ctx *ctx, struct mpq_supernet *net,
                                 const struct mpq_graph *graph, const struct mpq_layer_stats *stats,
                                 mpq_bits_mask integers) MPQ_CHECKED;

/* The plainest fit: integers with scales from the largest magnitudes, biases as they are. */
void mpq_supernet_fit_min_max(struct mpq_supernet *net);

/* Let layer l be what the code says, at the code's width, which must be a candidate: its weights
 * are the latent ones from now on, so other widths no longer hold what they did. */
void mpq_supernet_take_code(struct mpq_supernet *net, uint32_t layer,
                            const struct mpq_layer_code *code);

/* What width b of layer l rounds: its latent weights plus the width's offset, [n_param]. Valid
 * until the next call for the layer. */
const mpq_real *mpq_supernet_weights(const struct mpq_supernet *net, uint32_t layer, int bits);

/* A copy in `arena` that shares nothing that tuning changes; and the way back. */
enum mpq_status mpq_supernet_copy(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_supernet *net,
                                  struct mpq_supernet *out) MPQ_CHECKED;
void mpq_supernet_assign(struct mpq_supernet *to, const struct mpq_supernet *from);

/* Let `exec` compute with layer l at bits[l], from now until the next apply: quantizes the latent
 * weights and feeds them and the biases. Any exec of a graph that shares the value ids will do. */
void mpq_supernet_apply(const struct mpq_supernet *net, struct mpq_exec *exec, const uint8_t *bits);
void mpq_supernet_apply_layer(const struct mpq_supernet *net, struct mpq_exec *exec, uint32_t layer,
                              int bits);

/* The same with weights and biases from code [n_layer], as a file would hold them, unpacked into
 * memory from `arena`. */
enum mpq_status mpq_supernet_apply_codes(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                         const struct mpq_layer_table *layers,
                                         struct mpq_exec *exec,
                                         const struct mpq_layer_code *code) MPQ_CHECKED;

/* The layers' codes for an allocation, out_code [n_layer], copied into `arena`. */
enum mpq_status mpq_supernet_codes(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_supernet *net, const uint8_t *bits,
                                   struct mpq_layer_code *out_code) MPQ_CHECKED;

int mpq_bits_lowest(mpq_bits_mask mask); /* of a non-empty mask */
int mpq_bits_highest(mpq_bits_mask mask);

#endif
