/* The tuned state as a file, so that another budget costs a search and no tuning: an .npz of plain
 * arrays, for numpy to look at.
 *
 *   options          uint8        text, a line `name=value` for the model and each option
 *   layer_id         uint64 [L]   fingerprint of each layer's name and float weights
 *   candidates       uint16 [L]   bit b: width b was tuned
 *   active           uint16 [L]   bit b: width b is not frozen
 *   value_id         uint64 [V]   fingerprint of each quantized value's name
 *   value_group      int32  [V]   its group
 *   act_bits         int32  [W]   widths of activations, the widest last
 *   act_scale        float  [W * G]
 *   act_zero_point   int32  [W * G]
 *   layerI.weight    float        latent weight of layer I
 *   layerI.B.scale, .bias, .level, .offset of its width B; no bias where the layer has none, no
 *                                 offset where weights are rounded as they are
 *   layerI.gain      float        what its output channels were multiplied by before all that; not
 *                                 where they were not
 *   sensitivity      double [(L + G) * 9]  loss by width of each layer, and of each group where
 *                                 W > 1
 *   uniform_loss     double [9 * D]  of the D samples that decide, with all layers at one width;
 *                                 NaN: no candidate
 *   refined_share    double [L]   share of what a layer's widths add to the loss that refining
 *                                 leaves; NaN: not measured
 *   answers_print    double [9]   tells the float answers that these were measured against from
 *                                 others (mpq_checkpoint_print)
 *   answer_id        uint64 [N]   fingerprint of each sample that reports; these and
 *   answerI          float        what the float model's output I is for all of them: not where
 *                                 there are no samples, or too many
 *
 * Layers and values are found by their fingerprints, so a run that leaves some layers float can go
 * on from a run that did not. */
#ifndef MPQ_CLI_CHECKPOINT_H
#define MPQ_CLI_CHECKPOINT_H

#include "cli/answers.h"
#include "cli/checkpoint_id.h"
#include "quantcore/pass/equalize.h"
#include "quantcore/supernet/network.h"
#include "quantcore/supernet/supernet.h"

struct mpq_checkpoint {
    const struct mpq_graph *graph; /* the simplified float graph */
    const struct mpq_layer_table *layers;
    const struct mpq_act_plan *act;
    struct mpq_equalize *equalize;                  /* writing: no edges where not equalized  */
    struct mpq_supernet *net;                       /* NULL: reads activations alone         */
    struct mpq_act_quant *act_quant;                /* [n_group] at the widest                */
    struct mpq_act_quant *act_by_width[MPQ_N_BITS]; /* [n_group], NULL: no candidate         */
    uint32_t n_act;                                 /* n_group where there are several widths */
    double *sensitivity;                            /* [(n_layer + n_act) * MPQ_N_BITS] */
    double *uniform_loss;  /* [MPQ_N_BITS * n_decide] each sample's with all layers at a width */
    double *refined_share; /* [n_layer] */
    uint32_t n_decide;
    double answers_print[MPQ_CHECKPOINT_PRINT];
    const struct mpq_answers *answers; /* writing: NULL, there are none */
    const char *options;
};

enum mpq_status mpq_checkpoint_save(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_checkpoint *checkpoint, const char *path,
                                    bool overwrite) MPQ_CHECKED;

/* Fill act_quant and act_by_width, and the gains of equalize, which comes with the edges that the
 * layers have now and is left without where the file has no gains; and the net's weights and those
 * of its widths that are candidates; the net's candidates stay. FORMAT where the file belongs to
 * another model or lacks a layer or one of these widths. `net` may be NULL to read activations
 * alone. */
enum mpq_status mpq_checkpoint_load(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_checkpoint *checkpoint,
                                    const char *path) MPQ_CHECKED;

/* Fill sensitivity where the file has it for these candidates, measured against the same outputs,
 * with refined_share where it has that, and uniform_loss where it was measured with the same
 * layers; *out_found false where it does not. */
enum mpq_status mpq_checkpoint_load_sensitivity(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                                const struct mpq_checkpoint *checkpoint,
                                                const char *path, bool *out_found) MPQ_CHECKED;

/* out_is_float [n_value]: whether the file has no range for the value. */
enum mpq_status mpq_checkpoint_floats(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      const struct mpq_graph *graph, const char *path,
                                      bool *out_is_float) MPQ_CHECKED;

/* Fill `answers` where the file has that many of this size, of a float model that answers as this
 * one does; answers->n_sample stays 0 where it does not. */
enum mpq_status mpq_checkpoint_load_answers(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                            const char *path, const double *answers_print,
                                            struct mpq_answers *answers) MPQ_CHECKED;

/* The text of `options`, which nothing else has to be known for. */
enum mpq_status mpq_checkpoint_options(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const char *path, char **out_text) MPQ_CHECKED;

#endif
